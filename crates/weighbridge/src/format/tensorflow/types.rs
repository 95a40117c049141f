//! TensorFlow's dtypes (`tensorflow/core/framework/types.proto`), by number.

use weighbridge_core::model::{DType, Tensor, Value};

/// One of TensorFlow's dtypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its number, `DT_…`.
    pub id: u64,
    /// Its name in Python.
    pub name: &'static str,
    /// How its elements lie: TensorFlow stores one value a byte at least.
    pub dtype: DType,
    /// Whether `dtype` says all of it.
    pub exact: bool,
    /// The field of a `TensorProto` that holds values of it (`tensor.proto`).
    pub field: u32,
}

const fn exact(id: u64, name: &'static str, dtype: DType, field: u32) -> Kind {
    Kind {
        id,
        name,
        dtype,
        exact: true,
        field,
    }
}

/// A dtype that we have no name for: its values lie as those of another.
const fn like(id: u64, name: &'static str, dtype: DType, field: u32) -> Kind {
    Kind {
        id,
        name,
        dtype,
        exact: false,
        field,
    }
}

const KINDS: [Kind; 33] = [
    exact(1, "float32", DType::F32, 5),
    exact(2, "float64", DType::F64, 6),
    exact(3, "int32", DType::I32, 7),
    exact(4, "uint8", DType::U8, 7),
    exact(5, "int16", DType::I16, 7),
    exact(6, "int8", DType::I8, 7),
    exact(7, "string", DType::Str, 8),
    exact(8, "complex64", DType::C64, 9),
    exact(9, "int64", DType::I64, 10),
    exact(10, "bool", DType::Bool, 11),
    exact(11, "qint8", DType::QI8, 7),
    exact(12, "quint8", DType::QU8, 7),
    exact(13, "qint32", DType::QI32, 7),
    exact(14, "bfloat16", DType::BF16, 13),
    like(15, "qint16", DType::I16, 7),
    like(16, "quint16", DType::U16, 7),
    exact(17, "uint16", DType::U16, 7),
    exact(18, "complex128", DType::C128, 12),
    exact(19, "float16", DType::F16, 13),
    // A handle of a variable, a value of a C++ class: nothing that lies in a file as numbers.
    like(20, "resource", DType::Compound, 14),
    like(21, "variant", DType::Compound, 15),
    exact(22, "uint32", DType::U32, 16),
    exact(23, "uint64", DType::U64, 17),
    exact(24, "float8_e5m2", DType::F8_E5M2, 18),
    exact(25, "float8_e4m3fn", DType::F8_E4M3, 18),
    exact(26, "float8_e4m3fnuz", DType::F8_E4M3FNUZ, 18),
    like(27, "float8_e4m3b11fnuz", DType::U8, 18),
    exact(28, "float8_e5m2fnuz", DType::F8_E5M2FNUZ, 18),
    // Two's complement in the low bits of a byte of their own.
    like(29, "int4", DType::U8, 7),
    like(30, "uint4", DType::U8, 7),
    like(31, "int2", DType::U8, 7),
    like(32, "uint2", DType::U8, 7),
    like(33, "float4_e2m1fn", DType::U8, 18),
];

/// The bits of a byte that a value of this dtype takes.
pub(super) fn mask(kind: &Kind) -> u8 {
    match kind.id {
        29 | 30 => 0x0f,
        31 | 32 => 0x03,
        _ => 0xff,
    }
}

/// The attribute of a tensor that names TensorFlow's dtype where ours says less.
pub const ATTRIBUTE: &str = "tf_dtype";

/// The dtype of number `id`; references (numbers above 100) are to the same.
pub fn kind(id: u64) -> Option<&'static Kind> {
    let id = if id > 100 { id - 100 } else { id };
    KINDS.iter().find(|k| k.id == id)
}

/// TensorFlow's dtype for the values of `t`: what the file that it is from called it, or the one
/// of that name.
pub fn kind_of(t: &Tensor) -> Option<&'static Kind> {
    let all = t.extra.iter().flat_map(|e| &e.attributes);
    let named = all.filter(|(k, _)| k == ATTRIBUTE).find_map(|(_, v)| {
        let name = v.as_str()?;
        KINDS.iter().find(|k| k.name == name && k.dtype == t.dtype)
    });
    let text = |d: DType| if d.is_text() { DType::Str } else { d };
    named.or_else(|| KINDS.iter().find(|k| k.exact && k.dtype == text(t.dtype)))
}

/// Notes what TensorFlow calls the dtype of `t`, where that says more than ours.
pub(super) fn mark(t: &mut Tensor, kind: &Kind) {
    if !kind.exact {
        let name = Value::Str(kind.name.into());
        t.extra_mut().attributes.push((ATTRIBUTE.into(), name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_core::model::TensorSource;

    #[test]
    fn numbers_and_names_find_each_other() {
        for k in &KINDS {
            assert_eq!(kind(k.id), Some(k));
            assert_eq!(kind(k.id + 100), Some(k));
            let mut t = Tensor::new("t", k.dtype, &[2], TensorSource::Absent);
            mark(&mut t, k);
            assert_eq!(kind_of(&t), Some(k), "{}", k.name);
        }
        assert_eq!(kind(0), None);
        assert_eq!(kind(34), None);
        let t = Tensor::new("t", DType::Bytes(4), &[2], TensorSource::Absent);
        assert_eq!(kind_of(&t).map(|k| k.id), Some(7));
        let t = Tensor::new("t", DType::I4, &[2], TensorSource::Absent);
        assert_eq!(kind_of(&t), None);
    }
}
