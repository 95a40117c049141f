//! Operators: where they come from, and whether they are called as their signature says.

use std::collections::HashSet;
use std::rc::Rc;

use weighbridge_core::Result;

use super::super::operators::{self, Form, Formal, Found, Operator};
use super::super::raw::{Node, Text};
use super::{Checker, Step, quoted, shown};

/// Operators of the first versions that never were part of the standard and that the reference
/// checker lets pass (`check_is_experimental_op` of `onnx/checker.cc`).
const EXPERIMENTAL: [&str; 11] = [
    "ATen",
    "Affine",
    "ConstantFill",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
];

/// Domains of which the reference checker knows every operator.
const CLOSED: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "ai.onnx.training"];

/// Whether `domain` is the standard one, under either of its names.
pub(super) fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl<'m> Checker<'m> {
    pub(super) fn node(&mut self, n: &'m Node) -> Result<()> {
        self.entries(&n.metadata, false);
        let mut seen: HashSet<&str> = HashSet::new();
        for a in &n.attributes {
            if !seen.insert(&a.name.text) {
                let message = format!("the attribute {} stands twice", quoted(&a.name.text));
                self.wrong("onnx.duplicate-attribute", a.span, message);
            }
            self.inside(Step::Plain(&a.name.text), |c| c.attribute(a))?;
        }
        self.made.clear();
        self.made_shapes.clear();
        if n.operator.text.is_empty() {
            self.wrong(
                "onnx.operator",
                n.span,
                "the node does not name its operator",
            );
            return Ok(());
        }
        if n.inputs.is_empty() && n.outputs.is_empty() {
            let message = "the node has neither inputs nor outputs";
            self.wrong("onnx.node-empty", n.span, message);
        }
        let Some(version) = self.version_of(n.domain()) else {
            let message = format!(
                "the operator set {} of the node is not among those that are named",
                shown(n.domain())
            );
            self.wrong("onnx.opset-missing", self.domain_span(n), message);
            return Ok(());
        };
        if is_standard(n.domain()) && EXPERIMENTAL.contains(&n.operator.text.as_str()) {
            return Ok(());
        }
        self.against_function(n);
        let found = self.operator(n, version);
        match found.as_ref() {
            Found::Operator(o) if o.deprecated => {
                let message = format!(
                    "{} may no longer be used since version {} of its operator set",
                    n.operator.text, o.since
                );
                self.wrong("onnx.operator-deprecated", n.operator.span, message);
            }
            Found::Operator(o) => self.against(n, o)?,
            missing => self.no_operator(n, missing, version),
        }
        Ok(())
    }

    fn domain_span(&self, n: &Node) -> weighbridge_core::wire::protobuf::Span {
        n.domain.as_ref().map_or(n.span, |d| d.span)
    }

    /// The version of the operator set `domain` here.
    pub(super) fn version_of(&self, domain: &str) -> Option<i64> {
        let all = &self.opsets;
        let other = || all.get("ai.onnx").filter(|_| domain.is_empty());
        all.get(domain).or_else(other).copied()
    }

    /// What the standard says of a node's operator.
    pub(super) fn operator(&mut self, n: &'m Node, version: i64) -> Rc<Found> {
        let (domain, name) = (n.domain(), n.operator.text.as_str());
        if domain == "ai.onnx" {
            // Imports may spell the standard domain so, nodes of the reference checker may not.
            return Rc::new(Found::Nothing);
        }
        let known = self.operators.entry((domain, name, version));
        Rc::clone(known.or_insert_with(|| Rc::new(operators::find(domain, name, version))))
    }

    fn no_operator(&mut self, n: &'m Node, found: &Found, version: i64) {
        let closed = CLOSED.contains(&n.domain());
        if !closed && (self.lenient || operators::newest(n.domain()).is_none()) {
            return;
        }
        let message = match found {
            Found::Later(since) => format!(
                "{} came with version {since} of the operator set {}, the model asks for {version}",
                n.operator.text,
                shown(n.domain())
            ),
            _ if n.domain() == "ai.onnx" => {
                "nodes name the standard operator set by an empty domain".to_owned()
            }
            _ => format!(
                "the operator set {} has no {}",
                shown(n.domain()),
                quoted(&n.operator.text)
            ),
        };
        self.wrong("onnx.operator", n.operator.span, message);
    }

    /// A call of one of the model's functions: a runtime may leave inputs and outputs at the end
    /// away, and has nothing to do with more.
    fn against_function(&mut self, n: &'m Node) {
        if self.functions.is_empty() {
            return;
        }
        let Some(f) = self.functions.get(&super::function::callee(n)).copied() else {
            return;
        };
        for (rule, what, given, has) in [
            ("onnx.input-count", "inputs", &n.inputs, &f.inputs),
            ("onnx.output-count", "outputs", &n.outputs, &f.outputs),
        ] {
            if given.len() > has.len() {
                let message = format!(
                    "the node has {} {what}, the function {} has {}",
                    given.len(),
                    quoted(&f.name.text),
                    has.len()
                );
                self.strict(rule, n.span, message);
            }
        }
    }

    /// A node against its operator's signature.
    fn against(&mut self, n: &'m Node, o: &Operator) -> Result<()> {
        for (rule, what, given, counts) in [
            ("onnx.input-count", "inputs", &n.inputs, &o.input_counts),
            ("onnx.output-count", "outputs", &n.outputs, &o.output_counts),
        ] {
            if !counts.contains(given.len()) {
                let message = format!(
                    "{} has {counts} {what}, the node has {}",
                    n.operator.text,
                    given.len()
                );
                self.wrong(rule, n.span, message);
            }
        }
        self.left_out(n, &n.inputs, &o.inputs, "input");
        self.left_out(n, &n.outputs, &o.outputs, "output");
        self.attributes_against(n, o);
        self.kinds_against(n, o);
        self.shapes_against(n)
    }

    /// Inputs and outputs without a name that may not be left out.
    fn left_out(&mut self, n: &'m Node, given: &'m [Text], formal: &[Formal], what: &str) {
        for (i, (text, f)) in given.iter().zip(formal).enumerate() {
            if text.text.is_empty() && f.form == Form::Single {
                let message = format!("{} cannot do without its {what} {i}", n.operator.text);
                let rule = match what {
                    "input" => "onnx.input-missing",
                    _ => "onnx.output-missing",
                };
                self.wrong(rule, n.span, message);
            }
        }
    }

    fn attributes_against(&mut self, n: &'m Node, o: &Operator) {
        for a in &n.attributes {
            let name = a.name.text.as_str();
            match o.attribute(name) {
                Some(formed) => self.inside(Step::Plain(name), |c| c.against_kind(a, formed.kind)),
                // What begins with two underscores is an implementation's own business.
                None if o.any_attribute || name.starts_with("__") => {}
                None => {
                    let message = format!("{} has no attribute {}", n.operator.text, quoted(name));
                    self.wrong("onnx.attribute-unknown", a.span, message);
                }
            }
        }
        for formed in o.attributes.iter().filter(|f| f.required) {
            if n.attribute(formed.name).is_none() {
                let message = format!(
                    "{} needs the attribute {}",
                    n.operator.text,
                    quoted(formed.name)
                );
                self.wrong("onnx.attribute-missing", n.span, message);
            }
        }
    }
}
