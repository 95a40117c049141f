//! An ONNX file as its fields stand: what every message says, and where. Names and small numbers
//! are copied out; weights, documentation and everything unknown stay spans of the file.
//!
//! Field numbers: `onnx/onnx.proto3` of ONNX 1.23.

use weighbridge_core::wire::protobuf::{Field, Span};

/// A text and where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The text; what is no UTF-8 is replaced, and said among the model's faults.
    pub text: String,
    /// Its bytes, without tag and length.
    pub span: Span,
}

/// A key and a value, both texts (`StringStringEntryProto`).
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// The whole entry.
    pub span: Span,
    /// The key.
    pub key: Text,
    /// The value.
    pub value: Text,
}

/// An operator set that nodes mean (`OperatorSetIdProto`).
#[derive(Debug, Clone, Default)]
pub struct Opset {
    /// The whole entry.
    pub span: Span,
    /// The domain; empty for the standard one.
    pub domain: String,
    /// The version.
    pub version: i64,
}

/// A model (`ModelProto`).
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The version of the format.
    pub ir_version: Option<i64>,
    /// What wrote the file.
    pub producer_name: Option<Text>,
    /// The version of what wrote the file.
    pub producer_version: Option<Text>,
    /// The model's name space.
    pub domain: Option<Text>,
    /// The model's own version.
    pub model_version: Option<i64>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// The operator sets.
    pub opsets: Vec<Opset>,
    /// Key-values.
    pub metadata: Vec<Entry>,
    /// The graph.
    pub graph: Option<Graph>,
    /// Functions that the model defines.
    pub functions: Vec<Function>,
    /// What training runs.
    pub training: Vec<Training>,
    /// Fields that are none of the specification's.
    pub unknown: Vec<Field>,
}

/// A graph (`GraphProto`).
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The message; several where the field was given several times, which protobuf merges.
    pub spans: Vec<Span>,
    /// The name.
    pub name: Option<Text>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// The operators.
    pub nodes: Vec<Node>,
    /// The weights.
    pub initializers: Vec<Tensor>,
    /// The sparse weights.
    pub sparse_initializers: Vec<Sparse>,
    /// What it takes.
    pub inputs: Vec<ValueInfo>,
    /// What it gives.
    pub outputs: Vec<ValueInfo>,
    /// Types of values between.
    pub values: Vec<ValueInfo>,
    /// Which tensors hold the scales and zero points of others.
    pub quantization: Vec<Annotation>,
    /// Key-values.
    pub metadata: Vec<Entry>,
    /// Fields that are none of the specification's.
    pub unknown: Vec<Field>,
}

/// An operator (`NodeProto`).
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// The message.
    pub span: Span,
    /// Names of values it reads; empty for an optional one that is left out.
    pub inputs: Vec<Text>,
    /// Names of values it makes, likewise.
    pub outputs: Vec<Text>,
    /// Its name.
    pub name: Option<Text>,
    /// The operator.
    pub operator: Text,
    /// The operator's domain; empty for the standard one.
    pub domain: Option<Text>,
    /// Which function of that name.
    pub overload: Option<Text>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// Attributes.
    pub attributes: Vec<Attribute>,
    /// Key-values.
    pub metadata: Vec<Entry>,
    /// How it is spread over devices, unread (`NodeDeviceConfigurationProto`).
    pub devices: Vec<Span>,
    /// Fields that are none of the specification's.
    pub unknown: Vec<Field>,
}

impl Node {
    /// The domain, empty for the standard one.
    pub fn domain(&self) -> &str {
        self.domain.as_ref().map_or("", |d| d.text.as_str())
    }

    /// The name, empty where there is none.
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("", |d| d.text.as_str())
    }

    /// What to call it in a message: its name, else its operator and what it makes.
    pub fn title(&self) -> String {
        let operator = short(&self.operator.text);
        match (self.name(), self.outputs.first()) {
            ("", Some(o)) => format!("{operator} → {}", short(&o.text)),
            ("", None) => operator.to_owned(),
            (name, _) => format!("{operator} {}", short(name)),
        }
    }

    /// The attribute called `name`; the last of several.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().rfind(|a| a.name.text == name)
    }
}

/// As much of a name as a message bears.
pub fn short(name: &str) -> &str {
    const MOST: usize = 200;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => name.get(..end).unwrap_or_default(),
        None => name,
    }
}

/// What an attribute says its kind is (`AttributeProto.AttributeType`).
pub mod kind {
    #![allow(missing_docs)] // the names are the specification's
    pub const UNDEFINED: i64 = 0;
    pub const FLOAT: i64 = 1;
    pub const INT: i64 = 2;
    pub const STRING: i64 = 3;
    pub const TENSOR: i64 = 4;
    pub const GRAPH: i64 = 5;
    pub const FLOATS: i64 = 6;
    pub const INTS: i64 = 7;
    pub const STRINGS: i64 = 8;
    pub const TENSORS: i64 = 9;
    pub const GRAPHS: i64 = 10;
    pub const SPARSE_TENSOR: i64 = 11;
    pub const SPARSE_TENSORS: i64 = 12;
    pub const TYPE_PROTO: i64 = 13;
    pub const TYPE_PROTOS: i64 = 14;
}

/// An attribute (`AttributeProto`). Every field that stands in the file is kept, whatever the
/// kind says.
#[derive(Debug, Clone, Default)]
pub struct Attribute {
    /// The message.
    pub span: Span,
    /// The name.
    pub name: Text,
    /// The kind it says it has; `None` in files of format version 1, which do not say.
    pub kind: Option<i64>,
    /// In a function: the attribute of the caller that is meant.
    pub reference: Option<Text>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// The number.
    pub f: Option<f32>,
    /// The integer.
    pub i: Option<i64>,
    /// The bytes.
    pub s: Option<Span>,
    /// The tensor.
    pub t: Option<Box<Tensor>>,
    /// The graph.
    pub g: Option<Box<Graph>>,
    /// The type.
    pub tp: Option<Box<Type>>,
    /// The sparse tensor.
    pub sparse: Option<Box<Sparse>>,
    /// Numbers.
    pub floats: Vec<f32>,
    /// Integers.
    pub ints: Vec<i64>,
    /// Texts.
    pub strings: Vec<Span>,
    /// Tensors.
    pub tensors: Vec<Tensor>,
    /// Graphs.
    pub graphs: Vec<Graph>,
    /// Types.
    pub types: Vec<Type>,
    /// Sparse tensors.
    pub sparses: Vec<Sparse>,
    /// Fields that are none of the specification's.
    pub unknown: Vec<Field>,
}

/// A tensor (`TensorProto`).
#[derive(Debug, Clone, Default)]
pub struct Tensor {
    /// The message.
    pub span: Span,
    /// The name.
    pub name: Option<Text>,
    /// The dimensions, as the file has them.
    pub dims: Vec<i64>,
    /// The element type (`TensorProto.DataType`), 0 where none is said.
    pub data_type: i64,
    /// Where this is a part of a larger tensor: begin and end.
    pub segment: Option<Span>,
    /// The bytes, little-endian.
    pub raw: Option<Span>,
    /// Typed values in the order of the file.
    pub typed: Vec<Typed>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// Where the bytes lie in another file.
    pub external: Vec<Entry>,
    /// Whether the bytes lie in another file: `data_location` as the file has it.
    pub location: Option<i64>,
    /// Key-values.
    pub metadata: Vec<Entry>,
    /// Fields that are none of the specification's.
    pub unknown: Vec<Field>,
}

impl Tensor {
    /// The name, empty where there is none.
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("", |d| d.text.as_str())
    }

    /// Whether its bytes lie in another file.
    pub fn is_external(&self) -> bool {
        self.location == Some(1)
    }

    /// The value of `key` among those that say where the bytes lie; the last of several.
    pub fn external(&self, key: &str) -> Option<&Text> {
        let mut all = self.external.iter().rev();
        all.find(|e| e.key.text == key).map(|e| &e.value)
    }
}

/// A run of typed values of one tensor: a packed field, or unpacked ones behind each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typed {
    /// The field: 4 floats, 5 and 7 integers, 6 texts, 10 doubles, 11 unsigned integers.
    pub number: u32,
    /// Packed: the values. Else the whole fields, tags and all.
    pub span: Span,
    /// Whether it is packed.
    pub packed: bool,
    /// How many values there are; of packed integers only reading them tells.
    pub count: Option<u64>,
}

/// A sparse tensor (`SparseTensorProto`).
#[derive(Debug, Clone, Default)]
pub struct Sparse {
    /// The message.
    pub span: Span,
    /// The values that are not zero; its name is the tensor's.
    pub values: Tensor,
    /// Where they stand.
    pub indices: Tensor,
    /// The dimensions of the whole.
    pub dims: Vec<i64>,
}

/// A named value with its type (`ValueInfoProto`).
#[derive(Debug, Clone, Default)]
pub struct ValueInfo {
    /// The message.
    pub span: Span,
    /// The name.
    pub name: Text,
    /// The type.
    pub kind: Option<Type>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// Key-values.
    pub metadata: Vec<Entry>,
}

/// A type (`TypeProto`).
#[derive(Debug, Clone, Default)]
pub struct Type {
    /// The message.
    pub span: Span,
    /// Which of the kinds.
    pub value: TypeValue,
    /// What the value stands for (an image, a text).
    pub denotation: Option<Text>,
}

/// Which kind of type.
#[derive(Debug, Clone, Default)]
pub enum TypeValue {
    /// None is said.
    #[default]
    Nothing,
    /// A tensor: element type, and dimensions where there are any.
    Tensor(i64, Option<Vec<Dimension>>),
    /// A sparse tensor.
    SparseTensor(i64, Option<Vec<Dimension>>),
    /// A sequence.
    Sequence(Option<Box<Type>>),
    /// An optional value.
    Optional(Option<Box<Type>>),
    /// A map: the element type of its keys, and the type of its values.
    Map(i64, Option<Box<Type>>),
    /// Domain and name.
    Opaque(String, String),
}

/// One dimension (`TensorShapeProto.Dimension`).
#[derive(Debug, Clone, Default)]
pub struct Dimension {
    /// The message.
    pub span: Span,
    /// The extent.
    pub value: Option<i64>,
    /// The name that stands for an extent.
    pub symbol: Option<Text>,
}

/// Which tensors hold the scale and zero point of a tensor (`TensorAnnotation`).
#[derive(Debug, Clone, Default)]
pub struct Annotation {
    /// The message.
    pub span: Span,
    /// The tensor.
    pub tensor: Text,
    /// Role and name of the other tensors.
    pub parameters: Vec<Entry>,
}

/// A function (`FunctionProto`).
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// The message.
    pub span: Span,
    /// The name.
    pub name: Text,
    /// The domain.
    pub domain: Option<Text>,
    /// Which of several of that name.
    pub overload: Option<Text>,
    /// Parameters.
    pub inputs: Vec<Text>,
    /// Results.
    pub outputs: Vec<Text>,
    /// Attributes that a caller has to set.
    pub attributes: Vec<Text>,
    /// Attributes with defaults.
    pub defaults: Vec<Attribute>,
    /// The operators.
    pub nodes: Vec<Node>,
    /// The operator sets that its nodes mean.
    pub opsets: Vec<Opset>,
    /// Types of values between.
    pub values: Vec<ValueInfo>,
    /// Documentation.
    pub doc_string: Option<Span>,
    /// Key-values.
    pub metadata: Vec<Entry>,
    /// Fields that are none of the specification's.
    pub unknown: Vec<Field>,
}

/// What training runs (`TrainingInfoProto`).
#[derive(Debug, Clone, Default)]
pub struct Training {
    /// The message.
    pub span: Span,
    /// Sets the values that training starts from.
    pub initialization: Option<Graph>,
    /// One step.
    pub algorithm: Option<Graph>,
    /// Initializers and what the initialization sets them to.
    pub initialization_binding: Vec<Entry>,
    /// Initializers and what a step sets them to.
    pub update_binding: Vec<Entry>,
}
