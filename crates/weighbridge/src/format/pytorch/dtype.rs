//! torch's names for element types (`torch/storage.py`, `_dtype_to_storage_type_map`; dtypes in
//! `torch/__init__.py`).

use weighbridge_core::model::DType;

/// dtype, storage class where one exists, name under `torch.`, other names of the same dtype.
type Row = (
    DType,
    Option<&'static str>,
    &'static str,
    &'static [&'static str],
);

const TABLE: &[Row] = &[
    (DType::F64, Some("DoubleStorage"), "float64", &["double"]),
    (DType::F32, Some("FloatStorage"), "float32", &["float"]),
    (DType::F16, Some("HalfStorage"), "float16", &["half"]),
    (DType::BF16, Some("BFloat16Storage"), "bfloat16", &[]),
    (DType::I64, Some("LongStorage"), "int64", &["long"]),
    (DType::I32, Some("IntStorage"), "int32", &["int"]),
    (DType::I16, Some("ShortStorage"), "int16", &["short"]),
    (DType::I8, Some("CharStorage"), "int8", &[]),
    (DType::U8, Some("ByteStorage"), "uint8", &[]),
    (DType::Bool, Some("BoolStorage"), "bool", &[]),
    (
        DType::C64,
        Some("ComplexFloatStorage"),
        "complex64",
        &["cfloat"],
    ),
    (
        DType::C128,
        Some("ComplexDoubleStorage"),
        "complex128",
        &["cdouble"],
    ),
    (DType::C32, None, "complex32", &["chalf"]),
    (DType::QU8, Some("QUInt8Storage"), "quint8", &[]),
    (DType::QI8, Some("QInt8Storage"), "qint8", &[]),
    (DType::QI32, Some("QInt32Storage"), "qint32", &[]),
    (DType::U4, Some("QUInt4x2Storage"), "quint4x2", &[]),
    (DType::U2, Some("QUInt2x4Storage"), "quint2x4", &[]),
    (DType::U16, None, "uint16", &[]),
    (DType::U32, None, "uint32", &[]),
    (DType::U64, None, "uint64", &[]),
    (DType::F8_E4M3, None, "float8_e4m3fn", &[]),
    (DType::F8_E5M2, None, "float8_e5m2", &[]),
    (DType::F8_E4M3FNUZ, None, "float8_e4m3fnuz", &[]),
    (DType::F8_E5M2FNUZ, None, "float8_e5m2fnuz", &[]),
    (DType::F8_E8M0, None, "float8_e8m0fnu", &[]),
    (DType::F4, None, "float4_e2m1fn_x2", &[]),
];

/// dtypes torch names that Weighbridge has no element type for.
const OTHER: &[&str] = &[
    "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "int1", "int2", "int3", "int4", "int5",
    "int6", "int7", "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7",
];

/// The element type of a storage class such as `FloatStorage` or the tar era's `FloatTensor`.
pub(crate) fn of_storage_class(name: &str) -> Option<DType> {
    let stem = name
        .strip_suffix("Storage")
        .or_else(|| name.strip_suffix("Tensor"))?;
    TABLE
        .iter()
        .find(|r| r.1.and_then(|s| s.strip_suffix("Storage")) == Some(stem))
        .map(|r| r.0)
}

/// The element type of a name under `torch.`, such as `bfloat16`.
pub(super) fn of_name(name: &str) -> Option<DType> {
    TABLE
        .iter()
        .find(|r| r.2 == name || r.3.contains(&name))
        .map(|r| r.0)
}

/// Whether `name` under `torch.` is a dtype at all.
pub(super) fn is_dtype(name: &str) -> bool {
    of_name(name).is_some() || OTHER.contains(&name)
}

/// The name under `torch.` of an element type, where torch has it.
pub(super) fn name_of(dtype: DType) -> Option<&'static str> {
    TABLE.iter().find(|r| r.0 == dtype).map(|r| r.2)
}

/// The storage class of an element type, where torch has one.
pub(super) fn storage_class_of(dtype: DType) -> Option<&'static str> {
    TABLE.iter().find(|r| r.0 == dtype).and_then(|r| r.1)
}

/// The element type of a `c10::ScalarType` number, as `torch.export` archives store it
/// (`torch/_export/serde/schema.py`, `ScalarType`; these numbers are one above c10's).
pub(super) fn of_export_number(n: u64) -> Option<DType> {
    Some(match n {
        1 => DType::U8,
        2 => DType::I8,
        3 => DType::I16,
        4 => DType::I32,
        5 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        9 => DType::C32,
        10 => DType::C64,
        11 => DType::C128,
        12 => DType::Bool,
        13 => DType::BF16,
        28 => DType::U16,
        29 => DType::F8_E4M3,
        30 => DType::F8_E5M2,
        31 => DType::F8_E4M3FNUZ,
        32 => DType::F8_E5M2FNUZ,
        33 => DType::F8_E8M0,
        34 => DType::U32,
        35 => DType::U64,
        _ => return None,
    })
}
