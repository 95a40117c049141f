//! Shapes of values, as far as the definitions of the operators tell them: the inference of the
//! reference (`onnx/defs/*/defs.cc`, ONNX 1.23) for the operators that most graphs are made of,
//! and the contradictions that it finds.
//!
//! A dimension that is not known contradicts nothing, nor does one of an input that says 0 or less:
//! exporters write those for what they do not know. Operators without a rule make values of no
//! known shape.

mod dims;
mod movement;
mod products;
mod recurrent;
mod reduce;
mod slices;
mod spatial;

use std::rc::Rc;

use weighbridge_core::Result;

use super::super::raw::{Attribute, Dimension, Graph, Node, Tensor, Type, TypeValue, ValueInfo};
use super::node::is_standard;
use super::{Checker, quoted, values};
pub(super) use dims::Dims;
use dims::{Dim, broadcast, shown};

/// Longest list of integers that is read out of a constant: shapes and axes are short.
const MOST_INTS: u64 = 64;

/// Most dimensions that are reckoned with.
const MOST_DIMS: usize = 64;

/// What an inference gives: the shapes of the outputs, or what contradicts.
type Inferred = std::result::Result<Vec<Option<Dims>>, Contradiction>;

/// Two things that cannot both be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contradiction(String);

impl From<String> for Contradiction {
    fn from(s: String) -> Self {
        Self(s)
    }
}

/// A node with what is known of its inputs.
struct Call<'c> {
    node: &'c Node,
    /// The version of its operator set.
    version: i64,
    shapes: Vec<Option<Dims>>,
    ints: Vec<Option<Rc<[i64]>>>,
}

impl Call<'_> {
    fn shape(&self, i: usize) -> Option<&Dims> {
        self.shapes.get(i)?.as_ref()
    }

    fn ints(&self, i: usize) -> Option<&[i64]> {
        self.ints.get(i)?.as_deref()
    }

    /// Whether input `i` is given.
    fn has(&self, i: usize) -> bool {
        self.node.inputs.get(i).is_some_and(|t| !t.text.is_empty())
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.node.attribute(name)
    }

    fn int(&self, name: &str, otherwise: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(otherwise)
    }

    fn list(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    /// The axis `axis` of `rank` dimensions.
    fn axis(&self, axis: i64, rank: usize) -> std::result::Result<usize, Contradiction> {
        dims::axis(axis, rank)
            .ok_or_else(|| format!("axis {axis} is none of a value of {rank} dimensions").into())
    }
}

/// What the node makes.
fn infer(call: &Call<'_>) -> Inferred {
    match call.node.operator.text.as_str() {
        "Relu"
        | "Sigmoid"
        | "Tanh"
        | "Identity"
        | "Cast"
        | "Abs"
        | "Neg"
        | "Exp"
        | "Log"
        | "Sqrt"
        | "Erf"
        | "Clip"
        | "LeakyRelu"
        | "Elu"
        | "Selu"
        | "Celu"
        | "Softplus"
        | "Softsign"
        | "Floor"
        | "Ceil"
        | "Round"
        | "Not"
        | "Reciprocal"
        | "HardSigmoid"
        | "HardSwish"
        | "Gelu"
        | "Mish"
        | "Sign"
        | "Sin"
        | "Cos"
        | "Tan"
        | "Sinh"
        | "Cosh"
        | "Asin"
        | "Acos"
        | "Atan"
        | "Asinh"
        | "Acosh"
        | "Atanh"
        | "ThresholdedRelu"
        | "IsNaN"
        | "IsInf"
        | "BitwiseNot"
        | "InstanceNormalization"
        | "LRN"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "CumSum"
        | "Dropout"
        | "LpNormalization"
        | "Shrink"
        | "MeanVarianceNormalization"
        | "ReverseSequence"
        | "EyeLike"
        | "Bernoulli"
        | "RandomNormalLike"
        | "RandomUniformLike"
        | "GroupNormalization" => same(call),
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax(call),
        "LayerNormalization" => layer_normalization(call),
        "BatchNormalization" => spatial::batch_normalization(call),
        "Add" | "Sub" | "Mul" | "Div" | "And" | "Or" | "Xor" | "Equal" | "Greater" | "Less"
        | "Pow"
            if call.version >= 7 =>
        {
            broadcast_all(call)
        }
        "Mod" | "GreaterOrEqual" | "LessOrEqual" | "BitShift" | "BitwiseAnd" | "BitwiseOr"
        | "BitwiseXor" | "Where" | "StringConcat" => broadcast_all(call),
        "Max" | "Min" | "Sum" | "Mean" if call.version >= 8 => broadcast_all(call),
        "MatMul" | "MatMulInteger" => products::matmul(call, 1),
        "QLinearMatMul" => products::matmul(call, 3),
        "Gemm" if call.version >= 7 => products::gemm(call),
        "Conv" => spatial::conv(call, 1, Some(2)),
        "ConvInteger" => spatial::conv(call, 1, None),
        "QLinearConv" => spatial::conv(call, 3, Some(8)),
        "ConvTranspose" => spatial::conv_transpose(call),
        "MaxPool" | "AveragePool" | "LpPool" => spatial::pool(call),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => spatial::global_pool(call),
        "Transpose" => movement::transpose(call),
        "Concat" => movement::concat(call),
        "Flatten" => movement::flatten(call),
        "Reshape" if call.version >= 5 => movement::reshape(call),
        "Expand" => movement::expand(call),
        "Squeeze" => movement::squeeze(call),
        "Unsqueeze" => movement::unsqueeze(call),
        "Gather" => movement::gather(call),
        "GatherElements" => movement::gather_elements(call),
        "Split" => movement::split(call),
        "Slice" => slices::slice(call),
        "Pad" => slices::pad(call),
        "Tile" if call.version >= 6 => slices::tile(call),
        "Resize" | "Upsample" => Ok(vec![movement::same_rank(call)]),
        "NonZero" => Ok(vec![slices::non_zero(call)]),
        "TopK" => slices::top_k(call),
        "GatherND" => slices::gather_nd(call),
        "OneHot" => Ok(vec![slices::one_hot(call)]),
        "DepthToSpace" => spatial::depth_to_space(call),
        "SpaceToDepth" => spatial::space_to_depth(call),
        "GridSample" => spatial::grid_sample(call),
        "RNN" | "GRU" | "LSTM" => recurrent::recurrent(call),
        "Shape" => Ok(vec![movement::shape_of(call)]),
        "Size" => Ok(vec![Some(Rc::from([]))]),
        "ConstantOfShape" => movement::constant_of_shape(call),
        "Constant" => Ok(vec![constant(call.node)]),
        "ArgMax" | "ArgMin" => reduce::arg(call),
        name if name.starts_with("Reduce") => reduce::reduce(call),
        _ => Ok(Vec::new()),
    }
}

fn same(call: &Call<'_>) -> Inferred {
    Ok(vec![call.shape(0).cloned()])
}

fn softmax(call: &Call<'_>) -> Inferred {
    if let Some(x) = call.shape(0) {
        let otherwise = if call.version >= 13 { -1 } else { 1 };
        let axis = call.int("axis", otherwise);
        // Before version 13 the default stands for a value of one dimension too: it is flattened.
        if call.version >= 13 || call.attribute("axis").is_some() && axis != x.len() as i64 {
            call.axis(axis, x.len())?;
        }
    }
    same(call)
}

fn layer_normalization(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    call.axis(call.int("axis", -1), x.len())?;
    same(call)
}

fn broadcast_all(call: &Call<'_>) -> Inferred {
    let mut out: Option<Dims> = None;
    for i in 0..call.shapes.len() {
        let Some(next) = call.shape(i) else {
            return Ok(Vec::new());
        };
        out = Some(match out {
            None => Rc::clone(next),
            Some(before) => broadcast(&before, next).ok_or_else(|| {
                format!("{} and {} do not broadcast", shown(&before), shown(next))
            })?,
        });
    }
    Ok(vec![out])
}

/// The shape of what a `Constant` makes.
fn constant(n: &Node) -> Option<Dims> {
    let [a] = n.attributes.as_slice() else {
        return None;
    };
    let list = |n: usize| -> Option<Dims> { Some(Rc::from([Some(n as u64)])) };
    match a.name.text.as_str() {
        "value" => of_tensor(a.t.as_ref()?),
        "value_float" | "value_int" | "value_string" => Some(Rc::from([])),
        "value_floats" => list(a.floats.len()),
        "value_ints" => list(a.ints.len()),
        "value_strings" => list(a.strings.len()),
        _ => None,
    }
}

/// The tensor that a node always makes.
pub(super) fn tensor_of(n: &Node) -> Option<&Tensor> {
    if n.operator.text != "Constant" || !is_standard(n.domain()) {
        return None;
    }
    n.attribute("value")?.t.as_deref()
}

/// The dimensions of a tensor in the file.
pub(super) fn of_tensor(t: &Tensor) -> Option<Dims> {
    if t.dims.len() > MOST_DIMS {
        return None;
    }
    let all = t.dims.iter().map(|&d| u64::try_from(d).ok().map(Some));
    all.collect::<Option<Vec<Dim>>>().map(Rc::from)
}

/// The dimensions that a type says.
pub(super) fn of_type(t: &Type) -> Option<Dims> {
    let TypeValue::Tensor(_, Some(said)) = &t.value else {
        return None;
    };
    let known = |d: &Dimension| {
        d.value
            .and_then(|v| u64::try_from(v).ok())
            .filter(|&v| v > 0)
    };
    (said.len() <= MOST_DIMS).then(|| said.iter().map(known).collect())
}

impl<'m> Checker<'m> {
    /// What the node makes of its inputs' shapes, held against what its operator allows.
    pub(super) fn shapes_against(&mut self, n: &'m Node) -> Result<()> {
        self.made_shapes.clear();
        let referring = |a: &Attribute| a.reference.as_ref().is_some_and(|r| !r.text.is_empty());
        let shadowed = self.functions.contains_key(&super::function::callee(n));
        if self.lenient
            || shadowed
            || !is_standard(n.domain())
            || n.attributes.iter().any(referring)
        {
            return Ok(());
        }
        let Some(version) = self.version_of(n.domain()) else {
            return Ok(());
        };
        let shape = |t: &super::raw::Text| self.scope.shape(&t.text).cloned();
        let shapes = n.inputs.iter().map(shape).collect();
        let mut ints = Vec::with_capacity(n.inputs.len());
        for t in &n.inputs {
            ints.push(match self.scope.constant(&t.text) {
                Some(t) => self.ints(t)?,
                None => None,
            });
        }
        let call = Call {
            node: n,
            version,
            shapes,
            ints,
        };
        match infer(&call) {
            Ok(made) => self.made_shapes = made,
            Err(Contradiction(why)) => {
                let message = format!("{}: {why}", n.operator.text);
                self.strict("onnx.shape", n.span, message);
            }
        }
        Ok(())
    }

    /// The integers of a short list or a single one.
    fn ints(&self, t: &Tensor) -> Result<Option<Rc<[i64]>>> {
        const INT32: i64 = 6;
        const INT64: i64 = 7;
        let wanted = match t.dims.as_slice() {
            [] => 1,
            [n] => u64::try_from(*n).unwrap_or(u64::MAX),
            _ => return Ok(None),
        };
        if wanted > MOST_INTS || t.is_external() || !matches!(t.data_type, INT32 | INT64) {
            return Ok(None);
        }
        let mut out = Vec::new();
        match (t.raw, t.data_type) {
            (Some(span), INT64) if span.len() == wanted.saturating_mul(8) => {
                values::words(self.source, span, &mut |v, _| {
                    out.push(v as i64);
                    Ok(())
                })?;
            }
            (None, _) if values::count(self.source, &t.typed)? == wanted => {
                values::integers(self.source, &t.typed, &mut |v, _| {
                    out.push(v as i64);
                    Ok(())
                })?;
            }
            _ => return Ok(None),
        }
        Ok(Some(out.into()))
    }

    /// What the graph says of the shapes of its outputs and of values between, against what they
    /// are.
    pub(super) fn said_shapes(&mut self, g: &'m Graph) {
        if self.lenient {
            return;
        }
        let outputs = g.outputs.iter().map(|v| (v, "output"));
        for (v, what) in outputs.chain(g.values.iter().map(|v| (v, "value"))) {
            self.said_shape(v, what);
        }
    }

    fn said_shape(&mut self, v: &'m ValueInfo, what: &str) {
        let name = v.name.text.as_str();
        let said = v.kind.as_ref().and_then(of_type);
        // A value of an inner graph may bear the name too: what is said is of this graph's.
        let (Some(said), Some(there)) = (said, self.scope.own_shape(name)) else {
            return;
        };
        if !dims::agree(&said, there) {
            let message = format!(
                "the {what} {} is said to be {} and is {}",
                quoted(name),
                shown(&said),
                shown(there)
            );
            self.strict("onnx.shape", v.span, message);
        }
    }
}
