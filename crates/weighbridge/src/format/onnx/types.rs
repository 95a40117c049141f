//! ONNX's element types (`TensorProto.DataType`) and the dtypes they are here.

use weighbridge_core::model::DType;

/// Number, the specification's name, dtype.
const ALL: [(i64, &str, DType); 28] = [
    (1, "FLOAT", DType::F32),
    (2, "UINT8", DType::U8),
    (3, "INT8", DType::I8),
    (4, "UINT16", DType::U16),
    (5, "INT16", DType::I16),
    (6, "INT32", DType::I32),
    (7, "INT64", DType::I64),
    (8, "STRING", DType::Str),
    (9, "BOOL", DType::Bool),
    (10, "FLOAT16", DType::F16),
    (11, "DOUBLE", DType::F64),
    (12, "UINT32", DType::U32),
    (13, "UINT64", DType::U64),
    (14, "COMPLEX64", DType::C64),
    (15, "COMPLEX128", DType::C128),
    (16, "BFLOAT16", DType::BF16),
    (17, "FLOAT8E4M3FN", DType::F8_E4M3),
    (18, "FLOAT8E4M3FNUZ", DType::F8_E4M3FNUZ),
    (19, "FLOAT8E5M2", DType::F8_E5M2),
    (20, "FLOAT8E5M2FNUZ", DType::F8_E5M2FNUZ),
    (21, "UINT4", DType::U4),
    (22, "INT4", DType::I4),
    (23, "FLOAT4E2M1", DType::F4),
    (24, "FLOAT8E8M0", DType::F8_E8M0),
    (25, "UINT2", DType::U2),
    (26, "INT2", DType::I2),
    (27, "FLOAT6E2M3", DType::F6_E2M3),
    (28, "FLOAT6E3M2", DType::F6_E3M2),
];

/// The dtype of an element type.
pub fn dtype(data_type: i64) -> Option<DType> {
    ALL.iter().find(|t| t.0 == data_type).map(|t| t.2)
}

/// The element type of a dtype; `None` for those that ONNX does not have.
pub fn data_type(dtype: DType) -> Option<i64> {
    ALL.iter().find(|t| t.2 == dtype).map(|t| t.0)
}

/// The specification's name of an element type.
pub fn name(data_type: i64) -> Option<&'static str> {
    ALL.iter().find(|t| t.0 == data_type).map(|t| t.1)
}

/// The field of `TensorProto` that holds typed values of `dtype`, how many values make an element,
/// and how many elements lie in one value (comments of `TensorProto` in `onnx.proto3`).
pub(crate) fn typed_field(dtype: DType) -> Option<(u32, u64, u64)> {
    Some(match dtype {
        DType::F32 => (4, 1, 1),
        DType::C64 => (4, 2, 1),
        DType::F64 => (10, 1, 1),
        DType::C128 => (10, 2, 1),
        DType::I64 => (7, 1, 1),
        DType::U32 | DType::U64 => (11, 1, 1),
        DType::Str => (6, 1, 1),
        DType::U4 | DType::I4 | DType::F4 => (5, 1, 2),
        DType::U2 | DType::I2 => (5, 1, 4),
        DType::I32
        | DType::I16
        | DType::I8
        | DType::U16
        | DType::U8
        | DType::Bool
        | DType::F16
        | DType::BF16
        | DType::F8_E4M3
        | DType::F8_E4M3FNUZ
        | DType::F8_E5M2
        | DType::F8_E5M2FNUZ
        | DType::F8_E8M0
        | DType::F6_E2M3
        | DType::F6_E3M2 => (5, 1, 1),
        _ => return None,
    })
}
