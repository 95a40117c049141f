//! A computation graph, for formats that carry one. The terms are ONNX's (`docs/IR.md` of the ONNX
//! repository); other formats fill in what they have.

use super::{DType, Shape, Tensor};

/// A graph: the whole of a model, or a body that an operator runs (a branch, a loop).
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The graph's own name, where it has one.
    pub name: String,
    /// The operators, in file order.
    pub nodes: Vec<GraphNode>,
    /// What the graph takes.
    pub inputs: Vec<GraphValue>,
    /// What the graph gives.
    pub outputs: Vec<GraphValue>,
    /// What the file says of the types of values between them.
    pub values: Vec<GraphValue>,
    /// Constant values of this graph by name (those of bodies are in the bodies). One that is an
    /// input too is that input's default.
    pub initializers: Vec<Tensor>,
    /// The operator sets that nodes mean, as domain and version. Only the outermost graph and
    /// functions name them; the standard domain is the empty string.
    pub opsets: Vec<(String, i64)>,
    /// Functions that the model defines for itself; only the outermost graph has them.
    pub functions: Vec<GraphFunction>,
    /// Graphs that only training runs, each with its role; only the outermost graph has them.
    pub training: Vec<(String, Graph)>,
}

/// One operator of a graph.
#[derive(Debug, Clone, Default)]
pub struct GraphNode {
    /// The operator's type, as the format spells it.
    pub operator: String,
    /// The operator set it is from; empty for the standard one.
    pub domain: String,
    /// Which of several functions of that name is meant; empty where there is one.
    pub overload: String,
    /// Its name, where it has one.
    pub name: String,
    /// Names of the values it reads. An optional input that is left out has an empty name.
    pub inputs: Vec<String>,
    /// Names of the values it makes, likewise.
    pub outputs: Vec<String>,
    /// What else it is told.
    pub attributes: Vec<GraphAttribute>,
    /// Where it lies in the file.
    pub offset: Option<u64>,
}

/// A named constant of a node.
#[derive(Debug, Clone)]
pub struct GraphAttribute {
    /// The name.
    pub name: String,
    /// The value.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Debug, Clone)]
pub enum AttributeValue {
    /// A number.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Bytes, mostly text.
    Str(Vec<u8>),
    /// A tensor.
    Tensor(Box<Tensor>),
    /// A graph that the operator runs.
    Graph(Box<Graph>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Texts.
    Strs(Vec<Vec<u8>>),
    /// Tensors.
    Tensors(Vec<Tensor>),
    /// Graphs.
    Graphs(Vec<Graph>),
    /// A type.
    Type(Box<ValueType>),
    /// Types.
    Types(Vec<ValueType>),
    /// In a function: the attribute of that name which the calling node has.
    Reference(String),
    /// A kind that is not known, by its number.
    Other(i64),
}

/// A named value with its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphValue {
    /// The name.
    pub name: String,
    /// The type.
    pub kind: ValueType,
}

impl GraphValue {
    /// A value of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ValueType::Unknown,
        }
    }
}

/// The type of a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ValueType {
    /// Nothing is said.
    #[default]
    Unknown,
    /// A tensor.
    Tensor {
        /// The element type, where one is said that is known.
        dtype: Option<DType>,
        /// The dimensions; `None` where not even their number is known.
        shape: Option<Vec<Dim>>,
    },
    /// A sparse tensor, likewise.
    SparseTensor {
        /// The element type.
        dtype: Option<DType>,
        /// The dimensions.
        shape: Option<Vec<Dim>>,
    },
    /// A list of values of one type.
    Sequence(Box<ValueType>),
    /// A value that may be missing.
    Optional(Box<ValueType>),
    /// A mapping.
    Map {
        /// The type of its keys.
        key: Option<DType>,
        /// The type of its values.
        value: Box<ValueType>,
    },
    /// A type of a runtime's own.
    Opaque {
        /// Its domain.
        domain: String,
        /// Its name.
        name: String,
    },
}

/// One dimension of a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dim {
    /// Any extent.
    #[default]
    Unknown,
    /// This extent.
    Known(i64),
    /// The same extent wherever this name stands.
    Symbol(String),
}

/// A function that a model defines for itself.
#[derive(Debug, Clone, Default)]
pub struct GraphFunction {
    /// Its domain.
    pub domain: String,
    /// Its name.
    pub name: String,
    /// Which of several of that name.
    pub overload: String,
    /// Names of its parameters that are values.
    pub inputs: Vec<String>,
    /// Names of what it gives.
    pub outputs: Vec<String>,
    /// Names of attributes that a caller has to set.
    pub attributes: Vec<String>,
    /// Attributes with their defaults.
    pub defaults: Vec<GraphAttribute>,
    /// The operators.
    pub nodes: Vec<GraphNode>,
    /// The operator sets that its nodes mean.
    pub opsets: Vec<(String, i64)>,
    /// Where it lies in the file.
    pub offset: Option<u64>,
}

impl Graph {
    /// The version of the operator set of `domain`, in which `ai.onnx` is the standard one.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        opset(&self.opsets, domain)
    }
}

impl GraphFunction {
    /// As [`Graph::opset`].
    pub fn opset(&self, domain: &str) -> Option<i64> {
        opset(&self.opsets, domain)
    }
}

fn opset(all: &[(String, i64)], domain: &str) -> Option<i64> {
    let plain = |d: &str| d.is_empty() || d == "ai.onnx";
    let same = |d: &str| d == domain || (plain(d) && plain(domain));
    all.iter().find(|(d, _)| same(d)).map(|(_, v)| *v)
}

impl GraphNode {
    /// The attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        let mut all = self.attributes.iter();
        all.find(|a| a.name == name).map(|a| &a.value)
    }

    /// The graphs it runs, with the names of the attributes they stand in.
    pub fn bodies(&self) -> impl Iterator<Item = (&str, &Graph)> {
        self.attributes.iter().flat_map(|a| {
            let several: &[Graph] = match &a.value {
                AttributeValue::Graph(g) => std::slice::from_ref(g),
                AttributeValue::Graphs(all) => all,
                _ => &[],
            };
            several.iter().map(|g| (a.name.as_str(), g))
        })
    }

    /// Whether it is `operator` of the standard domain.
    pub fn is(&self, operator: &str) -> bool {
        self.operator == operator && (self.domain.is_empty() || self.domain == "ai.onnx")
    }
}

impl AttributeValue {
    /// The integer.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// The number.
    pub fn as_float(&self) -> Option<f32> {
        match self {
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The integers.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match self {
            Self::Ints(all) => Some(all),
            _ => None,
        }
    }

    /// The text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => std::str::from_utf8(s).ok(),
            _ => None,
        }
    }
}

impl ValueType {
    /// A tensor type with these extents.
    pub fn tensor(dtype: DType, shape: &Shape) -> Self {
        let dim = |&d: &u64| i64::try_from(d).map_or(Dim::Unknown, Dim::Known);
        Self::Tensor {
            dtype: Some(dtype),
            shape: Some(shape.iter().map(dim).collect()),
        }
    }
}
