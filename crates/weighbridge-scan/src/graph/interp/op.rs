//! The operators that are run, by what is done with them.

/// One value after the other, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Unary {
    Abs,
    Neg,
    Sign,
    Ceil,
    Floor,
    Round,
    Sqrt,
    Exp,
    Log,
    Relu,
    LeakyRelu,
    Elu,
    Selu,
    Celu,
    Sigmoid,
    HardSigmoid,
    HardSwish,
    Tanh,
    Softplus,
    Softsign,
    Erf,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Not,
    IsNan,
    IsInf,
    Reciprocal,
    BitNot,
    Threshold,
    Gelu,
    Mish,
    Shrink,
    Swish,
}

/// Two values at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Mod,
    Equal,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    And,
    Or,
    Xor,
    BitAnd,
    BitOr,
    BitXor,
    BitShift,
    PRelu,
}

/// Any number of values at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Fold {
    Min,
    Max,
    Sum,
    Mean,
}

/// Many values into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// Elements are moved and stay what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Move {
    Identity,
    Reshape,
    Flatten,
    Squeeze,
    Unsqueeze,
    Transpose,
    Slice,
    Concat,
    Split,
    Expand,
    Tile,
    Pad,
    DepthToSpace,
    SpaceToDepth,
    ReverseSequence,
    Trilu,
}

/// An operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Op {
    Unary(Unary),
    Binary(Binary),
    Fold(Fold),
    Reduce(Reduce),
    Move(Move),
    Where,
    Clip,
    Cast,
    Gather,
    GatherElements,
    GatherNd,
    ScatterElements,
    ScatterNd,
    Compress,
    OneHot,
    NonZero,
    TopK,
    ArgMax,
    ArgMin,
    CumSum,
    Softmax,
    LogSoftmax,
    Hardmax,
    LayerNorm,
    BatchNorm,
    InstanceNorm,
    MatMul,
    Gemm,
    Conv,
    Einsum,
    AveragePool,
    MaxPool,
    GlobalAveragePool,
    GlobalMaxPool,
    Shape,
    Size,
    ConstantOfShape,
    Range,
    EyeLike,
    Random,
    Quantize,
    Dequantize,
    DynamicQuantize,
    IntegerMatMul,
    Resize,
    StringNormalizer,
    StringConcat,
    /// A branch of two, both of which are in the graph.
    Select,
    Loop,
    Scan,
    Constant,
    /// One that is not run.
    Other,
}

/// The operator called `name` in the standard domain.
pub(crate) fn named(name: &str) -> Op {
    use Op as O;
    unary(name)
        .map(O::Unary)
        .or(binary(name).map(O::Binary))
        .or(movement(name).map(O::Move))
        .or(reduce(name).map(O::Reduce))
        .unwrap_or(match name {
            "Min" => O::Fold(Fold::Min),
            "Max" => O::Fold(Fold::Max),
            "Sum" => O::Fold(Fold::Sum),
            "Mean" => O::Fold(Fold::Mean),
            "Where" => O::Where,
            "Clip" => O::Clip,
            "Cast" | "CastLike" => O::Cast,
            "Gather" => O::Gather,
            "GatherElements" => O::GatherElements,
            "GatherND" => O::GatherNd,
            "ScatterElements" | "Scatter" => O::ScatterElements,
            "ScatterND" => O::ScatterNd,
            "Compress" => O::Compress,
            "OneHot" => O::OneHot,
            "NonZero" => O::NonZero,
            "TopK" => O::TopK,
            "ArgMax" => O::ArgMax,
            "ArgMin" => O::ArgMin,
            "CumSum" => O::CumSum,
            "Softmax" => O::Softmax,
            "LogSoftmax" => O::LogSoftmax,
            "Hardmax" => O::Hardmax,
            "LayerNormalization" => O::LayerNorm,
            "BatchNormalization" => O::BatchNorm,
            "InstanceNormalization" => O::InstanceNorm,
            "MatMul" => O::MatMul,
            "Gemm" => O::Gemm,
            "Conv" => O::Conv,
            "Einsum" => O::Einsum,
            "AveragePool" => O::AveragePool,
            "MaxPool" => O::MaxPool,
            "GlobalAveragePool" => O::GlobalAveragePool,
            "GlobalMaxPool" => O::GlobalMaxPool,
            "Shape" => O::Shape,
            "Size" => O::Size,
            "ConstantOfShape" => O::ConstantOfShape,
            "Range" => O::Range,
            "EyeLike" => O::EyeLike,
            "RandomNormalLike" | "RandomUniformLike" => O::Random,
            "QuantizeLinear" => O::Quantize,
            "DequantizeLinear" => O::Dequantize,
            "DynamicQuantizeLinear" => O::DynamicQuantize,
            "MatMulInteger" => O::IntegerMatMul,
            "Resize" | "Upsample" => O::Resize,
            "StringNormalizer" => O::StringNormalizer,
            "StringConcat" => O::StringConcat,
            "Loop" => O::Loop,
            "Scan" => O::Scan,
            "Constant" => O::Constant,
            _ => O::Other,
        })
}

fn unary(name: &str) -> Option<Unary> {
    use Unary as U;
    Some(match name {
        "Abs" => U::Abs,
        "Neg" => U::Neg,
        "Sign" => U::Sign,
        "Ceil" => U::Ceil,
        "Floor" => U::Floor,
        "Round" => U::Round,
        "Sqrt" => U::Sqrt,
        "Exp" => U::Exp,
        "Log" => U::Log,
        "Relu" => U::Relu,
        "LeakyRelu" => U::LeakyRelu,
        "Elu" => U::Elu,
        "Selu" => U::Selu,
        "Celu" => U::Celu,
        "Sigmoid" => U::Sigmoid,
        "HardSigmoid" => U::HardSigmoid,
        "HardSwish" => U::HardSwish,
        "Tanh" => U::Tanh,
        "Softplus" => U::Softplus,
        "Softsign" => U::Softsign,
        "Erf" => U::Erf,
        "Sin" => U::Sin,
        "Cos" => U::Cos,
        "Tan" => U::Tan,
        "Asin" => U::Asin,
        "Acos" => U::Acos,
        "Atan" => U::Atan,
        "Sinh" => U::Sinh,
        "Cosh" => U::Cosh,
        "Asinh" => U::Asinh,
        "Acosh" => U::Acosh,
        "Atanh" => U::Atanh,
        "Not" => U::Not,
        "IsNaN" => U::IsNan,
        "IsInf" => U::IsInf,
        "Reciprocal" => U::Reciprocal,
        "BitwiseNot" => U::BitNot,
        "ThresholdedRelu" => U::Threshold,
        "Gelu" => U::Gelu,
        "Mish" => U::Mish,
        "Shrink" => U::Shrink,
        "Swish" => U::Swish,
        _ => return None,
    })
}

fn binary(name: &str) -> Option<Binary> {
    use Binary as B;
    Some(match name {
        "Add" => B::Add,
        "Sub" => B::Sub,
        "Mul" => B::Mul,
        "Div" => B::Div,
        "Pow" => B::Pow,
        "Mod" => B::Mod,
        "Equal" => B::Equal,
        "Greater" => B::Greater,
        "Less" => B::Less,
        "GreaterOrEqual" => B::GreaterOrEqual,
        "LessOrEqual" => B::LessOrEqual,
        "And" => B::And,
        "Or" => B::Or,
        "Xor" => B::Xor,
        "BitwiseAnd" => B::BitAnd,
        "BitwiseOr" => B::BitOr,
        "BitwiseXor" => B::BitXor,
        "BitShift" => B::BitShift,
        "PRelu" => B::PRelu,
        _ => return None,
    })
}

fn movement(name: &str) -> Option<Move> {
    use Move as M;
    Some(match name {
        "Identity" | "Dropout" => M::Identity,
        "Reshape" => M::Reshape,
        "Flatten" => M::Flatten,
        "Squeeze" => M::Squeeze,
        "Unsqueeze" => M::Unsqueeze,
        "Transpose" => M::Transpose,
        "Slice" => M::Slice,
        "Concat" => M::Concat,
        "Split" => M::Split,
        "Expand" => M::Expand,
        "Tile" => M::Tile,
        "Pad" => M::Pad,
        "DepthToSpace" => M::DepthToSpace,
        "SpaceToDepth" => M::SpaceToDepth,
        "ReverseSequence" => M::ReverseSequence,
        "Trilu" => M::Trilu,
        _ => return None,
    })
}

fn reduce(name: &str) -> Option<Reduce> {
    use Reduce as R;
    Some(match name {
        "ReduceSum" => R::Sum,
        "ReduceMean" => R::Mean,
        "ReduceMax" => R::Max,
        "ReduceMin" => R::Min,
        "ReduceProd" => R::Prod,
        "ReduceL1" => R::L1,
        "ReduceL2" => R::L2,
        "ReduceSumSquare" => R::SumSquare,
        "ReduceLogSum" => R::LogSum,
        "ReduceLogSumExp" => R::LogSumExp,
        _ => return None,
    })
}
