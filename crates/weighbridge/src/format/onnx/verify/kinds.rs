//! Types of values, as far as the signatures of operators tell them: element types and what they
//! are put together to, without shapes.

use std::borrow::Cow;

use super::super::operators::{Form, Operator};
use super::super::raw::{Node, Tensor, Type, TypeValue, kind};
use super::super::types;
use super::node::is_standard;
use super::{Checker, quoted};

/// A type as signatures spell it, without the word for tensors: `float`, `seq(int64)`.
pub(super) type Kind = Cow<'static, str>;

/// The element types in signatures, by their numbers.
const ELEMENTS: [&str; 28] = [
    "float",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "double",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
    "float8e4m3fn",
    "float8e4m3fnuz",
    "float8e5m2",
    "float8e5m2fnuz",
    "uint4",
    "int4",
    "float4e2m1",
    "float8e8m0",
    "uint2",
    "int2",
    "float6e2m3",
    "float6e3m2",
];

/// The name of an element type.
fn element(data_type: i64) -> Option<&'static str> {
    let i = usize::try_from(data_type.checked_sub(1)?).ok()?;
    ELEMENTS.get(i).copied()
}

/// A type, where it is known.
pub(super) fn of(t: &Type) -> Option<Kind> {
    let inner = |t: &Option<Box<Type>>| t.as_ref().and_then(|t| of(t));
    Some(match &t.value {
        TypeValue::Tensor(e, _) => element(*e)?.into(),
        TypeValue::SparseTensor(e, _) => format!("sparse_tensor({})", element(*e)?).into(),
        TypeValue::Sequence(t) => format!("seq({})", inner(t)?).into(),
        TypeValue::Optional(t) => format!("optional({})", inner(t)?).into(),
        TypeValue::Map(k, v) => format!("map({},{})", element(*k)?, inner(v)?).into(),
        TypeValue::Nothing | TypeValue::Opaque(..) => return None,
    })
}

/// The type of a tensor.
pub(super) fn of_tensor(t: &Tensor) -> Option<Kind> {
    element(t.data_type).map(Cow::Borrowed)
}

/// What is not known of a type that says what it is.
pub(super) fn unknown(t: &Type) -> Option<&'static str> {
    let inner = |t: &Option<Box<Type>>| t.as_ref().and_then(|t| unknown(t));
    let no_type = |e: i64| types::name(e).is_none();
    match &t.value {
        TypeValue::Tensor(e, _) | TypeValue::SparseTensor(e, _) if no_type(*e) => {
            Some("has an element type that is not known")
        }
        TypeValue::Sequence(t) | TypeValue::Optional(t) => inner(t),
        // Keys are integers or texts (`TypeProto.Map`).
        TypeValue::Map(k, _) if !matches!(k, 2..=8 | 12 | 13) => {
            Some("has keys that are neither integers nor texts")
        }
        TypeValue::Map(_, v) => inner(v),
        _ => None,
    }
}

impl<'m> Checker<'m> {
    /// The inputs against the types of the signature; what the outputs are follows.
    pub(super) fn kinds_against(&mut self, n: &'m Node, o: &Operator) {
        if self.lenient {
            return;
        }
        let mut bound: Vec<(&'static str, Kind)> = Vec::new();
        for (i, input) in n.inputs.iter().enumerate() {
            let Some(formal) = Operator::formal(&o.inputs, i) else {
                break;
            };
            let Some(kind) = self.scope.kind(&input.text).cloned() else {
                continue;
            };
            if !o.allows(formal.kind, &kind) {
                let message = format!(
                    "input {i} of {}, {}, is {kind}, which version {} of the operator does not take",
                    n.operator.text,
                    quoted(&input.text),
                    o.since
                );
                self.strict("onnx.type", input.span, message);
                continue;
            }
            if formal.form == Form::Mixed || !o.is_letter(formal.kind) {
                continue;
            }
            match bound.iter().find(|(k, _)| *k == formal.kind) {
                Some((_, other)) if *other != kind => {
                    let message = format!(
                        "input {i} of {}, {}, is {kind}, another input of the same type is {other}",
                        n.operator.text,
                        quoted(&input.text)
                    );
                    self.strict("onnx.type", input.span, message);
                }
                Some(_) => {}
                None => bound.push((formal.kind, kind)),
            }
        }
        self.made = (0..n.outputs.len())
            .map(|i| {
                let formal = Operator::formal(&o.outputs, i)?;
                if formal.form == Form::Mixed {
                    return None;
                }
                if !o.is_letter(formal.kind) {
                    return Some(Cow::Borrowed(formal.kind));
                }
                let known = bound.iter().find(|(k, _)| *k == formal.kind);
                known.map(|(_, k)| k.clone()).or_else(|| special(n))
            })
            .collect();
    }
}

/// What operators make whose attributes say it.
fn special(n: &Node) -> Option<Kind> {
    if !is_standard(n.domain()) {
        return None;
    }
    let attribute = |name| n.attribute(name).filter(|a| a.reference.is_none());
    match n.operator.text.as_str() {
        "Cast" => element(attribute("to")?.i?).map(Cow::Borrowed),
        "ConstantOfShape" => match n.attribute("value") {
            None => Some("float".into()),
            Some(_) => of_tensor(attribute("value")?.t.as_ref()?),
        },
        "Constant" => {
            let [a] = n.attributes.as_slice() else {
                return None;
            };
            let a = Some(a).filter(|a| a.reference.is_none())?;
            match a.kind? {
                kind::TENSOR => of_tensor(a.t.as_ref()?),
                kind::FLOAT | kind::FLOATS => Some("float".into()),
                kind::INT | kind::INTS => Some("int64".into()),
                kind::STRING | kind::STRINGS => Some("string".into()),
                _ => None,
            }
        }
        _ => None,
    }
}
