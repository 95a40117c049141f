//! Conformance to the ONNX specification: every broken rule, without loading a weight.
//!
//! Rules are from `docs/IR.md`, `docs/ExternalData.md` and the comments of `onnx/onnx.proto3`; the
//! signatures of operators from the schemas that ONNX registers ([`super::operators`]). What the
//! reference checker refuses (`onnx/checker.cc` of ONNX 1.23) is refused here; the specification
//! asks for more: types and shapes are followed from operator to operator, and what contradicts is
//! told (`shapes`). Leniently, only what the reference checker refuses is a violation.

mod attribute;
mod external;
mod function;
mod graph;
mod kinds;
mod node;
mod scope;
mod shapes;
mod tensor;
mod training;
mod values;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, ErrorKind, Result};

use super::external::Files;
use super::operators::{self, Found};
use super::raw::{Entry, Function, Model, Opset, Tensor, short};
use super::{parse, raw};
use crate::OpenOptions;
use crate::check::Violation;
use scope::Scope;

/// How many violations are listed.
const MOST: usize = 1000;

/// Newest version of the format that is known (`Version` of `onnx/onnx.proto`).
const NEWEST_IR: i64 = 14;

/// Steps of a place that are written out at each of its ends.
const STEPS: usize = 8;

/// Every broken rule of the model in `source`.
///
/// # Errors
/// Only `Io`: what is wrong with the file is the answer.
pub fn verify(source: &dyn ByteSource, options: &OpenOptions) -> Result<Vec<Violation>> {
    let shown = |e: Error| Violation::from(&e.in_file(source.name()));
    let parsed = match parse::parse(source, &options.limits) {
        Ok(p) => p,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e.in_file(source.name())),
        Err(e) => return Ok(vec![shown(e)]),
    };
    let mut checker = Checker::new(source, &parsed.model, options);
    for fault in parsed.faults {
        // Protobuf itself refuses half a number and takes the rest for unknown fields.
        if !options.lenient || fault.rule() == "onnx.packed" {
            checker.push(fault);
        }
    }
    checker.model().map_err(|e| e.in_file(source.name()))?;
    let mut errors = checker.errors;
    errors.sort_by_key(|e| e.byte_span().map_or(0, |s| s.offset));
    Ok(errors.into_iter().map(shown).collect())
}

/// One step of the way to what is checked.
#[derive(Debug, Clone, Copy)]
enum Step<'m> {
    Plain(&'m str),
    Node(&'m raw::Node),
    Tensor(&'m Tensor),
    Function(&'m Function),
}

impl Step<'_> {
    fn shown(self) -> String {
        match self {
            Self::Plain(s) => short(s).to_owned(),
            Self::Node(n) => n.title(),
            Self::Tensor(t) => format!("tensor {}", short(t.name())),
            Self::Function(f) => format!("function {}", short(&f.name.text)),
        }
    }
}

/// A function's name: domain, name, overload.
type FunctionId<'m> = (&'m str, &'m str, &'m str);

struct Checker<'m> {
    source: &'m dyn ByteSource,
    model: &'m Model,
    lenient: bool,
    /// The version of the format, as the reference checker compares it.
    ir: i64,
    files: Files,
    /// The way to what is checked, outermost first.
    path: Vec<Step<'m>>,
    errors: Vec<Error>,
    /// The operator sets that nodes mean here.
    opsets: HashMap<&'m str, i64>,
    /// What has been looked up.
    operators: HashMap<(&'m str, &'m str, i64), Rc<Found>>,
    functions: HashMap<FunctionId<'m>, &'m Function>,
    /// The attributes of the function whose body this is.
    attributes: Option<HashSet<&'m str>>,
    /// Whether this is the model's own graph, or the body of a function: no graph in a graph.
    outermost: bool,
    scope: Scope<'m>,
    /// The types of what the last node makes.
    made: Vec<Option<kinds::Kind>>,
    /// The shapes of what the last node makes.
    made_shapes: Vec<Option<shapes::Dims>>,
}

impl<'m> Checker<'m> {
    fn new(source: &'m dyn ByteSource, model: &'m Model, options: &OpenOptions) -> Self {
        Self {
            source,
            model,
            lenient: options.lenient,
            ir: model.ir_version.unwrap_or(0),
            files: Files::beside(source, options.backend, &options.limits),
            path: Vec::new(),
            errors: Vec::new(),
            opsets: HashMap::new(),
            operators: HashMap::new(),
            functions: HashMap::new(),
            attributes: None,
            outermost: true,
            scope: Scope::default(),
            made: Vec::new(),
            made_shapes: Vec::new(),
        }
    }

    /// Whether enough has been found.
    fn full(&self) -> bool {
        self.errors.len() >= MOST
    }

    fn push(&mut self, e: Error) {
        if self.full() {
            return;
        }
        let hidden = self.path.len().saturating_sub(2 * STEPS);
        let steps = self.path.iter().enumerate().rev();
        let e = steps.fold(e, |e, (i, step)| match i {
            _ if hidden == 0 || i < STEPS || i >= STEPS + hidden => e.within(step.shown()),
            STEPS => e.within("…"),
            _ => e,
        });
        self.errors.push(e);
    }

    /// A broken rule that the reference checker refuses too.
    fn wrong(&mut self, rule: &'static str, span: Span, message: impl Into<String>) {
        if !self.full() {
            let e = Error::malformed(rule, message);
            self.push(e.span(span.start, span.len()));
        }
    }

    /// A broken rule of the specification that the reference checker does not look at.
    fn strict(&mut self, rule: &'static str, span: Span, message: impl Into<String>) {
        if !self.lenient {
            self.wrong(rule, span, message);
        }
    }

    /// Runs `f` a step further in.
    fn inside<T>(&mut self, step: Step<'m>, f: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let out = f(self);
        self.path.pop();
        out
    }

    fn model(&mut self) -> Result<()> {
        let model = self.model;
        let whole = Span::of(self.source);
        let start = Span {
            start: 0,
            end: whole.end.min(1),
        };
        match model.ir_version {
            None | Some(0) => {
                let message = "the model does not say which version of the format it has";
                self.wrong("onnx.ir-version", start, message);
            }
            Some(n) if n > NEWEST_IR => {
                let message =
                    format!("version {n} of the format is not known, {NEWEST_IR} is the newest");
                self.wrong("onnx.ir-version", start, message);
            }
            Some(n) if n < 0 => {
                let message = format!("{n} is no version of the format");
                self.strict("onnx.ir-version", start, message);
            }
            _ => {}
        }
        self.entries(&model.metadata, true);
        self.imports(start);
        for f in &model.functions {
            let id = function::id_of(f);
            self.functions.entry(id).or_insert(f);
        }
        match &model.graph {
            Some(g) => self.inside(Step::Plain("graph"), |c| c.graph(g))?,
            None => self.wrong("onnx.no-graph", start, "the model has no graph"),
        }
        // Functions came with version 8; the reference checker does not look at them before.
        if self.ir >= 8 || !self.lenient {
            self.all_functions()?;
        }
        if !self.lenient {
            self.training()?;
        }
        Ok(())
    }

    /// The operator sets of the model.
    fn imports(&mut self, start: Span) {
        let all = &self.model.opsets;
        if self.ir >= 3 && all.is_empty() {
            let message =
                "from version 3 of the format on, a model names the operator sets it uses";
            self.wrong("onnx.opset-import", start, message);
        }
        if self.ir < 3 && !all.is_empty() {
            let message = "before version 3 of the format, no operator sets are named";
            let span = all.first().map_or(start, |o| o.span);
            self.wrong("onnx.opset-import", span, message);
        }
        self.opsets = self.opsets_of(all);
        if self.ir < 3 && all.is_empty() {
            self.opsets.insert("", 1);
        }
    }

    /// The versions by domain; the last of several counts, as the reference checker has it.
    fn opsets_of(&mut self, all: &'m [Opset]) -> HashMap<&'m str, i64> {
        let mut out: HashMap<&str, i64> = HashMap::new();
        for o in all {
            if i32::try_from(o.version).is_err() {
                let message = format!("{} is no version of an operator set", o.version);
                self.wrong("onnx.opset-version", o.span, message);
            } else if o.version < 1 {
                let message = format!("{} is no version of an operator set", o.version);
                self.strict("onnx.opset-version", o.span, message);
            } else if let Some(n) = operators::newest(&o.domain).filter(|&n| o.version > n) {
                let message = format!(
                    "version {} of the operator set {} is not known, {n} is the newest",
                    o.version,
                    shown(&o.domain)
                );
                self.strict("onnx.opset-version", o.span, message);
            }
            if let Some(before) = out.insert(&o.domain, o.version)
                && before != o.version
            {
                let message = format!(
                    "the operator set {} is named twice, as version {before} and {}: which of them counts depends on the reader",
                    shown(&o.domain),
                    o.version
                );
                self.strict("onnx.opset-duplicate", o.span, message);
            }
        }
        out
    }

    /// Keys that stand twice. The reference checker looks at those of the model.
    fn entries(&mut self, all: &'m [Entry], of_model: bool) {
        if all.len() < 2 || (self.lenient && !of_model) {
            return;
        }
        let mut seen = HashSet::new();
        for e in all {
            if !seen.insert(e.key.text.as_str()) {
                let message = format!("the metadata key {} stands twice", quoted(&e.key.text));
                self.wrong("onnx.metadata-duplicate", e.span, message);
            }
        }
    }
}

/// A domain as people know it.
fn shown(domain: &str) -> String {
    match domain {
        "" => "ai.onnx".to_owned(),
        d => quoted(d),
    }
}

/// A name in a message.
pub(super) fn quoted(name: &str) -> String {
    format!("{:?}", short(name))
}

/// Where a graph lies.
fn span_of(g: &raw::Graph) -> Span {
    g.spans.first().copied().unwrap_or_default()
}
