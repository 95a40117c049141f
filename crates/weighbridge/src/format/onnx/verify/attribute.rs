//! Attributes: a name, a kind, and one value of that kind.

use weighbridge_core::Result;

use super::super::raw::{Attribute, kind};
use super::super::read::kind_of;
use super::{Checker, quoted};

/// The specification's names of the kinds, by their numbers.
const KINDS: [&str; 15] = [
    "UNDEFINED",
    "FLOAT",
    "INT",
    "STRING",
    "TENSOR",
    "GRAPH",
    "FLOATS",
    "INTS",
    "STRINGS",
    "TENSORS",
    "GRAPHS",
    "SPARSE_TENSOR",
    "SPARSE_TENSORS",
    "TYPE_PROTO",
    "TYPE_PROTOS",
];

fn name_of(kind: i64) -> &'static str {
    let known = usize::try_from(kind).ok().and_then(|i| KINDS.get(i));
    known.copied().unwrap_or("no known kind")
}

/// The kind as protobuf gives it: a number that stands for none is as if it were not there.
fn said(a: &Attribute) -> Option<i64> {
    a.kind
        .filter(|&k| usize::try_from(k).is_ok_and(|i| i < KINDS.len()))
}

/// The kinds of all values that stand in the attribute.
fn values(a: &Attribute) -> impl Iterator<Item = i64> {
    [
        (a.f.is_some(), kind::FLOAT),
        (a.i.is_some(), kind::INT),
        (a.s.is_some(), kind::STRING),
        (a.t.is_some(), kind::TENSOR),
        (a.g.is_some(), kind::GRAPH),
        (a.tp.is_some(), kind::TYPE_PROTO),
        (a.sparse.is_some(), kind::SPARSE_TENSOR),
        (!a.floats.is_empty(), kind::FLOATS),
        (!a.ints.is_empty(), kind::INTS),
        (!a.strings.is_empty(), kind::STRINGS),
        (!a.tensors.is_empty(), kind::TENSORS),
        (!a.graphs.is_empty(), kind::GRAPHS),
        (!a.sparses.is_empty(), kind::SPARSE_TENSORS),
        (!a.types.is_empty(), kind::TYPE_PROTOS),
    ]
    .into_iter()
    .filter(|(there, _)| *there)
    .map(|(_, kind)| kind)
}

impl<'m> Checker<'m> {
    /// An attribute by itself.
    pub(super) fn attribute(&mut self, a: &'m Attribute) -> Result<()> {
        if a.name.text.is_empty() {
            self.wrong("onnx.attribute-name", a.span, "an attribute has no name");
        }
        let said = said(a);
        if said.is_none() && self.ir >= 2 {
            let message = format!(
                "the attribute {} does not say of which kind it is",
                quoted(&a.name.text)
            );
            self.wrong("onnx.attribute-kind", a.span, message);
        } else if said == Some(kind::UNDEFINED) {
            let message = format!("the attribute {} is of no kind", quoted(&a.name.text));
            self.strict("onnx.attribute-kind", a.span, message);
        }
        let (mut count, mut other) = (0usize, None);
        for k in values(a) {
            count = count.saturating_add(1);
            other = other.or_else(|| said.is_some_and(|s| s != k).then_some(k));
        }
        if count > 1 {
            let message = format!(
                "the attribute {} has {count} values of several kinds",
                quoted(&a.name.text)
            );
            self.wrong("onnx.attribute-value", a.span, message);
        } else if let (Some(k), Some(said)) = (other, said) {
            let message = format!(
                "the attribute {} is said to be {} and has a value of {}",
                quoted(&a.name.text),
                name_of(said),
                name_of(k)
            );
            self.wrong("onnx.attribute-value", a.span, message);
        }
        self.reference(a, count);
        self.parts(a)
    }

    /// An attribute that stands for one of the function's caller.
    fn reference(&mut self, a: &'m Attribute, values: usize) {
        let Some(r) = &a.reference else {
            return;
        };
        if values > 0 {
            let message = format!(
                "the attribute {} stands for one of the caller and has a value",
                quoted(&a.name.text)
            );
            // The reference checker looks at it only in graphs in a graph.
            match self.outermost {
                true if r.text.is_empty() => {}
                true => self.strict("onnx.attribute-reference", a.span, message),
                false => self.wrong("onnx.attribute-reference", a.span, message),
            }
        }
        if r.text.is_empty() {
            return;
        }
        let known = self
            .attributes
            .as_ref()
            .map(|a| a.contains(r.text.as_str()));
        let why = match known {
            Some(true) => return,
            Some(false) => "which the function does not have",
            None => "outside of a function",
        };
        let message = format!(
            "the attribute {} stands for the caller's {}, {why}",
            quoted(&a.name.text),
            quoted(&r.text)
        );
        self.strict("onnx.attribute-reference", r.span, message);
    }

    /// Tensors and graphs in an attribute.
    fn parts(&mut self, a: &'m Attribute) -> Result<()> {
        for t in a.t.iter().map(AsRef::as_ref).chain(&a.tensors) {
            self.tensor(t)?;
        }
        for s in a.sparse.iter().map(AsRef::as_ref).chain(&a.sparses) {
            self.sparse(s)?;
        }
        for g in a.g.iter().map(AsRef::as_ref).chain(&a.graphs) {
            let outermost = std::mem::replace(&mut self.outermost, false);
            let done = self.graph(g);
            self.outermost = outermost;
            done?;
        }
        for t in a.tp.iter().map(AsRef::as_ref).chain(&a.types) {
            if let Some(why) = super::kinds::unknown(t) {
                let message = format!("the type {why}");
                self.strict("onnx.value-type", t.span, message);
            }
        }
        Ok(())
    }

    /// An attribute against the kind that its operator gives it.
    pub(super) fn against_kind(&mut self, a: &'m Attribute, kind: i64) {
        // Files of version 1 of the format need not say the kind.
        let is = match said(a) {
            None if self.ir < 2 && !self.lenient => kind_of(a),
            said => said.unwrap_or(kind::UNDEFINED),
        };
        if is != kind {
            let message = format!("the attribute is {}, not {}", name_of(kind), name_of(is));
            self.wrong("onnx.attribute-kind", a.span, message);
            return;
        }
        if a.reference.as_ref().is_some_and(|r| !r.text.is_empty()) {
            return;
        }
        let there = match kind {
            kind::TENSOR => a.t.is_some(),
            kind::SPARSE_TENSOR => a.sparse.is_some(),
            kind::GRAPH => a.g.is_some(),
            kind::TYPE_PROTO => a.tp.is_some(),
            // Numbers and texts that are zero or empty are not written, nor are empty lists.
            _ => true,
        };
        if !there {
            let message = format!("the attribute has no value of {}", name_of(kind));
            self.wrong("onnx.attribute-value", a.span, message);
        }
    }
}
