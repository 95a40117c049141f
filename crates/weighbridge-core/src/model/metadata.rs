//! The typed metadata tree. It holds GGUF key-values, safetensors strings and a whole PyTorch
//! training state alike, and `docs/structure.md` describes its JSON form.

use super::typed::{Number, Packed};

/// One value of the tree.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`, JSON's null.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// A larger integer, in decimal.
    BigInt(String),
    /// A double.
    Float(f64),
    /// A number of a fixed type, where the format has several.
    Number(Number),
    /// Text.
    Str(String),
    /// Immutable bytes.
    Bytes(Vec<u8>),
    /// Python's mutable `bytearray`.
    ByteArray(Vec<u8>),
    /// An array of one type that stays in the file until it is asked for.
    Packed(Packed),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set, in stored order.
    Set(Vec<Value>),
    /// A frozen set, in stored order.
    FrozenSet(Vec<Value>),
    /// A mapping, in stored order.
    Dict(Dict),
    /// A complex number: real and imaginary part.
    Complex(f64, f64),
    /// A NumPy array.
    NdArray(NdArray),
    /// A NumPy scalar: dtype name and the value as `str()` prints it, with its raw
    /// little-endian bytes.
    NpScalar {
        /// NumPy's name of the dtype, such as `float64`.
        dtype: String,
        /// The value as Python prints it.
        text: String,
        /// The element's bytes, little-endian.
        raw: Vec<u8>,
    },
    /// A dtype object, such as `torch.bfloat16`.
    DType(String),
    /// A device, such as `cuda:0`.
    Device(String),
    /// A `torch.Size`.
    Size(Vec<i64>),
    /// A tensor of the model, by name.
    Tensor(String),
    /// A value met before: the path of its first place, `$` being the root.
    Ref(String),
    /// A class or function, by dotted name; never looked up.
    Global(String),
    /// An instance of a class that Weighbridge keeps as data.
    Object(Box<Object>),
    /// Bytes or an array too long for the tree: `value` is the empty `Bytes`, the empty
    /// `ByteArray` or the `NdArray` without data, and the tensor called `tensor` holds the bytes.
    Moved {
        /// What it is, without its bytes.
        value: Box<Value>,
        /// The name of the tensor.
        tensor: String,
    },
}

/// A mapping with its concrete class and attributes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dict {
    /// The class, when it is no plain `dict`: `collections.OrderedDict`, `collections.Counter`…
    pub class: Option<String>,
    /// The entries in stored order.
    pub entries: Vec<(Value, Value)>,
    /// Attributes set on the mapping itself, such as a state dict's `_metadata`.
    pub attributes: Vec<(String, Value)>,
}

/// A NumPy array kept as data.
#[derive(Debug, Clone, PartialEq)]
pub struct NdArray {
    /// NumPy's name of the dtype, such as `float32`.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<u64>,
    /// Row-major little-endian bytes; empty when `tensor` names where they went.
    pub data: Vec<u8>,
    /// The lowercase hexadecimal SHA-256 of the row-major little-endian bytes.
    pub sha256: String,
}

/// An instance of a class, with everything the file says of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object {
    /// The class or factory, by dotted name.
    pub class: String,
    /// The positional arguments it was built from.
    pub args: Vec<Value>,
    /// The keyword arguments it was built from.
    pub kwargs: Vec<(String, Value)>,
    /// The state set on it afterwards (`__setstate__` or `__dict__`).
    pub state: Option<Value>,
    /// Items appended or set on it afterwards.
    pub items: Option<Value>,
    /// For modules: what `state_dict()` would give.
    pub state_dict: Option<Value>,
    /// What `str()` would print, for the few value classes where that is known.
    pub text: Option<String>,
}

impl Value {
    /// The text of a string value.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The value of a small integer.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Number(n) => i64::try_from(n.as_int()?).ok(),
            _ => None,
        }
    }

    /// The value under `key` of a mapping with string keys.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Dict(d) => d
                .entries
                .iter()
                .find(|(k, _)| k.as_str() == Some(key))
                .map(|(_, v)| v),
            _ => None,
        }
    }
}
