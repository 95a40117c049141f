//! A small interpreter of ONNX operators, for the parts of a graph that decide something.
//!
//! It runs on plain vectors, counts every step and every element against a [`Meter`], and knows
//! values of which only the shape is known: with those it computes shapes alone. What an operator
//! means is `docs/Operators.md` and `docs/Changelog.md` of the ONNX repository (ONNX 1.23).

mod elementwise;
mod indexing;
mod linear;
mod make;
mod movement;
mod op;
mod pool;
mod quantize;
mod reduce;
mod resize;
#[cfg(test)]
mod tests;
pub(crate) mod value;

use weighbridge_core::model::AttributeValue;

pub(crate) use elementwise::{broadcast, stretch};
pub(crate) use linear::{Conv as Convolution, Taps};
pub(crate) use op::{Binary, Fold, Move, Op, Reduce, Unary, named};
pub(crate) use pool::plan as pool_plan;
pub(crate) use reduce::plan as reduce_plan;
use value::{MOST_ELEMENTS, Tensor, Value, count};

/// Why something was not computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The steps or the memory that it may take are spent.
    Budget,
    /// An operator that is not run.
    Unsupported,
    /// A value whose elements are not known is needed.
    Unknown,
    /// The operands do not fit the operator.
    Wrong(&'static str),
}

/// The greatest extent, even of a value without elements.
const MOST_EXTENT: usize = 1 << 40;

/// How many elements the values of one run may have together: they are held until it is over.
pub(crate) const ROOM: usize = 1 << 21;

/// What may still be spent, in elements computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    pub(crate) left: u64,
    /// How many more elements may be held.
    pub(crate) room: usize,
    /// Whether values are of any size, because only their shapes are computed.
    pub(crate) shapes: bool,
}

impl Meter {
    pub(crate) fn new(left: u64) -> Self {
        Self {
            left,
            room: ROOM,
            shapes: false,
        }
    }

    /// Spends `steps`.
    pub(crate) fn spend(&mut self, steps: usize) -> Result<(), Halt> {
        let steps = if self.shapes { 0 } else { steps };
        // Calling an operator costs as much as a few elements of it.
        let steps = (steps as u64).saturating_add(8);
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Halt::Budget)
            }
        }
    }

    /// Spends what a value of `dims` takes, and gives the number of its elements.
    pub(crate) fn value(&mut self, dims: &[usize]) -> Result<usize, Halt> {
        let n = count(dims).ok_or(Halt::Budget)?;
        if dims.iter().any(|&d| d > MOST_EXTENT) {
            return Err(Halt::Budget);
        }
        if !self.shapes {
            let room = self.room.checked_sub(n).filter(|_| n <= MOST_ELEMENTS);
            self.room = room.ok_or(Halt::Budget)?;
        }
        self.spend(n)?;
        Ok(n)
    }
}

/// The attributes of a node, with those of a function's caller put in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes<'g>(pub(crate) Vec<(&'g str, &'g AttributeValue)>);

impl<'g> Attributes<'g> {
    pub(crate) fn get(&self, name: &str) -> Option<&'g AttributeValue> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_int()
    }

    pub(crate) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    pub(crate) fn float_or(&self, name: &str, default: f64) -> f64 {
        let found = self.get(name).and_then(AttributeValue::as_float);
        found.map_or(default, f64::from)
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&'g [i64]> {
        self.get(name)?.as_ints()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'g str> {
        self.get(name)?.as_str()
    }
}

/// What an operator is run on.
#[derive(Debug)]
pub(crate) struct Call<'c, 'g> {
    pub(crate) op: Op,
    pub(crate) attributes: &'c Attributes<'g>,
    /// The version of the standard operator set.
    pub(crate) opset: i64,
    pub(crate) inputs: &'c [Option<Value>],
    /// How many results are asked for.
    pub(crate) outputs: usize,
}

impl<'c> Call<'c, '_> {
    /// Operand `i`.
    pub(crate) fn input(&self, i: usize) -> Result<&'c Tensor, Halt> {
        self.optional(i).ok_or(Halt::Wrong("an operand is missing"))
    }

    /// Operand `i`, where it is given.
    pub(crate) fn optional(&self, i: usize) -> Option<&'c Tensor> {
        self.inputs.get(i)?.as_deref()
    }

    /// Integers that are an operand from some version on and an attribute before.
    pub(crate) fn ints(&self, i: usize, attribute: &str) -> Result<Option<Vec<i64>>, Halt> {
        if let Some(t) = self.optional(i) {
            return t.to_ints().map(Some);
        }
        Ok(self.attributes.ints(attribute).map(<[i64]>::to_vec))
    }

    /// The attribute `axis`, from the front, of a value of `rank` dimensions.
    pub(crate) fn axis(&self, default: i64, rank: usize) -> Result<usize, Halt> {
        axis(self.attributes.int_or("axis", default), rank)
    }
}

/// An axis counted from the front.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Halt> {
    let from_end = if axis < 0 { rank as i64 } else { 0 };
    let at = usize::try_from(axis.saturating_add(from_end)).ok();
    at.filter(|&a| a < rank.max(1))
        .ok_or(Halt::Wrong("an axis that is not there"))
}

/// Runs one operator.
pub(crate) fn call(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    match c.op {
        Op::Unary(u) => elementwise::unary(c, u, meter),
        Op::Binary(b) => elementwise::binary(c, b, meter),
        Op::Fold(f) => elementwise::fold(c, f, meter),
        Op::Where => elementwise::select(c, meter),
        Op::Clip => elementwise::clip(c, meter),
        Op::Cast => elementwise::cast(c, meter),
        Op::Move(m) => movement::call(c, m, meter),
        Op::Gather => indexing::gather(c, meter),
        Op::GatherElements => indexing::gather_elements(c, meter),
        Op::GatherNd => indexing::gather_nd(c, meter),
        Op::ScatterElements => indexing::scatter_elements(c, meter),
        Op::ScatterNd => indexing::scatter_nd(c, meter),
        Op::Compress => indexing::compress(c, meter),
        Op::OneHot => indexing::one_hot(c, meter),
        Op::NonZero => indexing::non_zero(c, meter),
        Op::TopK => indexing::top_k(c, meter),
        Op::Reduce(r) => reduce::reduce(c, r, meter),
        Op::ArgMax | Op::ArgMin => reduce::arg(c, meter),
        Op::CumSum => reduce::cum_sum(c, meter),
        Op::Softmax | Op::LogSoftmax | Op::Hardmax => reduce::softmax(c, meter),
        Op::LayerNorm => reduce::layer_norm(c, meter),
        Op::BatchNorm => reduce::batch_norm(c, meter),
        Op::InstanceNorm => reduce::instance_norm(c, meter),
        Op::MatMul => linear::mat_mul(c, meter),
        Op::Gemm => linear::gemm(c, meter),
        Op::Conv => linear::conv(c, meter),
        Op::Einsum => linear::einsum(c, meter),
        Op::AveragePool | Op::MaxPool => pool::pool(c, meter),
        Op::GlobalAveragePool | Op::GlobalMaxPool => pool::global(c, meter),
        Op::Shape | Op::Size => make::shape(c, meter),
        Op::ConstantOfShape => make::constant_of_shape(c, meter),
        Op::Range => make::range(c, meter),
        Op::EyeLike => make::eye_like(c, meter),
        Op::Random => make::random(c, meter),
        Op::Quantize => quantize::quantize(c, meter),
        Op::Dequantize => quantize::dequantize(c, meter),
        Op::DynamicQuantize => quantize::dynamic(c, meter),
        Op::IntegerMatMul => quantize::mat_mul(c, meter),
        Op::Resize => resize::resize(c, meter),
        Op::StringNormalizer => make::normalize_text(c, meter),
        Op::StringConcat => make::concat_text(c, meter),
        // What runs other graphs, or chooses between them, is the machine's.
        Op::Select | Op::Loop | Op::Scan | Op::Constant | Op::Other => Err(Halt::Unsupported),
    }
}
