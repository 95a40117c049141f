//! The type numbers of GGUF: of metadata values and of tensors.
//!
//! Values: `enum gguf_type` of `ggml/include/gguf.h`. Tensors: `enum ggml_type` of
//! `ggml/include/ggml.h` and the `type_traits` table of `ggml/src/ggml.c` (ggml 0.25.3).

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the format's own names
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// The type numbered `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one value, or `None` for strings and arrays.
    pub fn bytes(self) -> Option<u64> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String | Self::Array => return None,
        })
    }

    /// The name that ggml prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "str",
            Self::Array => "arr",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// How a tensor's elements are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// The name of the type.
    pub name: &'static str,
    /// Elements of one block; a row is a whole number of blocks.
    pub block: u64,
    /// Bytes of one block.
    pub bytes: u64,
}

/// What a tensor's type number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// A type of ggml.
    Known(Packing),
    /// A type that ggml once had in files and has no more.
    Removed(&'static str),
    /// A type of ik_llama.cpp, whose numbers begin at 133; its name where we know it.
    Foreign(&'static str),
    /// No type.
    Unknown,
}

macro_rules! packings {
    ($($id:literal $name:literal $block:literal $bytes:literal),* $(,)?) => {
        const fn packing(id: i32) -> Option<Packing> {
            match id {
                $($id => Some(Packing { name: $name, block: $block, bytes: $bytes }),)*
                _ => None,
            }
        }

        /// Every type of ggml, with its number.
        pub const PACKINGS: &[(i32, Packing)] = &[
            $(($id, Packing { name: $name, block: $block, bytes: $bytes })),*
        ];
    };
}

packings! {
    0 "F32" 1 4,
    1 "F16" 1 2,
    2 "Q4_0" 32 18,
    3 "Q4_1" 32 20,
    6 "Q5_0" 32 22,
    7 "Q5_1" 32 24,
    8 "Q8_0" 32 34,
    9 "Q8_1" 32 36,
    10 "Q2_K" 256 84,
    11 "Q3_K" 256 110,
    12 "Q4_K" 256 144,
    13 "Q5_K" 256 176,
    14 "Q6_K" 256 210,
    15 "Q8_K" 256 292,
    16 "IQ2_XXS" 256 66,
    17 "IQ2_XS" 256 74,
    18 "IQ3_XXS" 256 98,
    19 "IQ1_S" 256 50,
    20 "IQ4_NL" 32 18,
    21 "IQ3_S" 256 110,
    22 "IQ2_S" 256 82,
    23 "IQ4_XS" 256 136,
    24 "I8" 1 1,
    25 "I16" 1 2,
    26 "I32" 1 4,
    27 "I64" 1 8,
    28 "F64" 1 8,
    29 "IQ1_M" 256 56,
    30 "BF16" 1 2,
    34 "TQ1_0" 256 54,
    35 "TQ2_0" 256 66,
    39 "MXFP4" 32 17,
    40 "NVFP4" 64 36,
    41 "Q1_0" 128 18,
    42 "Q2_0" 64 18,
}

impl TensorType {
    /// What `id` means.
    pub fn from_id(id: i32) -> Self {
        if let Some(p) = packing(id) {
            return Self::Known(p);
        }
        match id {
            4 => Self::Removed("Q4_2"),
            5 => Self::Removed("Q4_3"),
            31 => Self::Removed("Q4_0_4_4"),
            32 => Self::Removed("Q4_0_4_8"),
            33 => Self::Removed("Q4_0_8_8"),
            36 => Self::Removed("IQ4_NL_4_4"),
            37 => Self::Removed("IQ4_NL_4_8"),
            38 => Self::Removed("IQ4_NL_8_8"),
            137 => Self::Foreign("IQ2_K"),
            138 => Self::Foreign("IQ3_K"),
            139 => Self::Foreign("IQ4_K"),
            140 => Self::Foreign("IQ5_K"),
            141 => Self::Foreign("IQ6_K"),
            144 => Self::Foreign("IQ4_KS"),
            145 => Self::Foreign("IQ2_KS"),
            152 => Self::Foreign("IQ5_KS"),
            156 => Self::Foreign("IQ3_KS"),
            133..=399 => Self::Foreign("unnamed"),
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_the_reference_quantizer_writes() {
        let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
            println!("skipped: WEIGHBRIDGE_CORPUS is not set");
            return;
        };
        let index = std::path::Path::new(&corpus).join("gguf/qref/index.tsv");
        let mut seen = 0;
        for line in std::fs::read_to_string(index).unwrap().lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            let TensorType::Known(p) = TensorType::from_id(cells[1].parse().unwrap()) else {
                panic!("{} is not known", cells[0]);
            };
            assert_eq!(
                (p.name, p.block.to_string(), p.bytes.to_string()),
                (cells[0], cells[2].to_owned(), cells[3].to_owned())
            );
            seen += 1;
        }
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn numbers_out_of_range_are_no_types() {
        for id in [-1, 43, 100, 400, i32::MIN, i32::MAX] {
            assert_eq!(TensorType::from_id(id), TensorType::Unknown, "{id}");
        }
        assert_eq!(TensorType::from_id(31), TensorType::Removed("Q4_0_4_4"));
        assert_eq!(TensorType::from_id(137), TensorType::Foreign("IQ2_K"));
        assert_eq!(ValueType::from_id(13), None);
        assert_eq!(ValueType::from_id(9), Some(ValueType::Array));
        assert_eq!(PACKINGS.len(), 35);
    }
}
