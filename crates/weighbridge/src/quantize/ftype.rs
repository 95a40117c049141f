//! The named file types: which type most tensors get, and which mix the others.
//!
//! Names and numbers are those of `QUANT_OPTIONS` of `tools/quantize/quantize.cpp` and
//! `enum llama_ftype` of `include/llama.h`; the number is written as `general.file_type`.

use weighbridge_core::model::DType;
use weighbridge_core::{Error, Result};

macro_rules! file_types {
    ($($variant:ident $name:literal $number:literal $base:ident $about:literal),* $(,)?) => {
        /// What a whole file is quantized to.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs)] // the variants are the reference's own names
        pub enum FileType {
            $($variant),*
        }

        impl FileType {
            /// Every file type, in the order of the reference's list.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, as in `Q4_K_M`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }

            /// The number under `general.file_type`.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number),*
                }
            }

            /// The type of the tensors that no rule treats otherwise.
            pub fn base(self) -> DType {
                match self {
                    $(Self::$variant => DType::$base),*
                }
            }

            /// A few words for people.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => $about),*
                }
            }
        }
    };
}

file_types! {
    Q1_0 "Q1_0" 40 Q1_0 "1.125 bits a weight",
    Q2_0 "Q2_0" 41 Q2_0 "2.25 bits a weight",
    Q4_0 "Q4_0" 2 Q4_0 "4.5 bits, one scale for 32",
    Q4_1 "Q4_1" 3 Q4_1 "5 bits, scale and minimum for 32",
    MXFP4_MOE "MXFP4_MOE" 38 MXFP4 "experts MXFP4, the rest Q8_0",
    Q5_0 "Q5_0" 8 Q5_0 "5.5 bits, one scale for 32",
    Q5_1 "Q5_1" 9 Q5_1 "6 bits, scale and minimum for 32",
    IQ2_XXS "IQ2_XXS" 19 IQ2_XXS "2.06 bits, needs a matrix",
    IQ2_XS "IQ2_XS" 20 IQ2_XS "2.31 bits, needs a matrix",
    IQ2_S "IQ2_S" 28 IQ2_XS "2.5 bits, needs a matrix",
    IQ2_M "IQ2_M" 29 IQ2_S "2.7 bits, needs a matrix",
    IQ1_S "IQ1_S" 24 IQ1_S "1.56 bits, needs a matrix",
    IQ1_M "IQ1_M" 31 IQ1_M "1.75 bits, needs a matrix",
    TQ1_0 "TQ1_0" 36 TQ1_0 "ternary, 1.69 bits",
    TQ2_0 "TQ2_0" 37 TQ2_0 "ternary, 2.06 bits",
    Q2_K "Q2_K" 10 Q2_K "2.6 bits and more for the sensitive",
    Q2_K_S "Q2_K_S" 21 Q2_K "the smaller Q2_K, needs a matrix",
    IQ3_XXS "IQ3_XXS" 23 IQ3_XXS "3.06 bits, needs a matrix",
    IQ3_S "IQ3_S" 26 IQ3_S "3.44 bits",
    IQ3_M "IQ3_M" 27 IQ3_S "3.66 bits, a mix",
    IQ3_XS "IQ3_XS" 22 IQ3_S "3.3 bits, a mix that needs a matrix",
    Q3_K_S "Q3_K_S" 11 Q3_K "3.4 bits, small",
    Q3_K_M "Q3_K_M" 12 Q3_K "3.4 bits and more for the sensitive",
    Q3_K_L "Q3_K_L" 13 Q3_K "3.4 bits, large",
    IQ4_NL "IQ4_NL" 25 IQ4_NL "4.5 bits, not linear",
    IQ4_XS "IQ4_XS" 30 IQ4_XS "4.25 bits, not linear",
    Q4_K_S "Q4_K_S" 14 Q4_K "4.5 bits, small",
    Q4_K_M "Q4_K_M" 15 Q4_K "4.5 bits and more for the sensitive",
    Q5_K_S "Q5_K_S" 16 Q5_K "5.5 bits, small",
    Q5_K_M "Q5_K_M" 17 Q5_K "5.5 bits and more for the sensitive",
    Q6_K "Q6_K" 18 Q6_K "6.56 bits",
    Q8_0 "Q8_0" 7 Q8_0 "8.5 bits",
    NVFP4 "NVFP4" 39 NVFP4 "4.5 bits, FP4 with FP8 scales for 16",
    F16 "F16" 1 F16 "half precision",
    BF16 "BF16" 32 BF16 "brain floats",
    F32 "F32" 0 F32 "single precision",
    COPY "COPY" 0 F32 "tensors as they are",
}

/// Other names of file types.
const ALIASES: [(&str, FileType); 4] = [
    ("Q3_K", FileType::Q3_K_M),
    ("Q4_K", FileType::Q4_K_M),
    ("Q5_K", FileType::Q5_K_M),
    ("MXFP4", FileType::MXFP4_MOE),
];

impl FileType {
    /// The file type that `text` names or numbers.
    ///
    /// # Errors
    /// `Parameter` with the list of names.
    pub fn parse(text: &str) -> Result<Self> {
        let named = Self::ALL
            .iter()
            .find(|t| t.name().eq_ignore_ascii_case(text));
        let alias = || ALIASES.iter().find(|(n, _)| n.eq_ignore_ascii_case(text));
        // The first of a number counts: 0 is F32, not COPY.
        let number = || {
            let n: u32 = text.parse().ok()?;
            Self::ALL.iter().find(|t| t.number() == n)
        };
        let found = named.copied().or_else(|| alias().map(|(_, t)| *t));
        found.or_else(|| number().copied()).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|t| t.name()).collect();
            Error::parameter("quantize.type", format!("{text:?} is no file type"))
                .help(format!("use one of {}", names.join(" ")))
        })
    }

    /// Whether it is a mix of block types and not one type of numbers.
    pub fn is_blocks(self) -> bool {
        self.base().block().is_some()
    }
}

/// The type of a single tensor that `text` names.
///
/// # Errors
/// `Parameter` when there is none of this name that values can be written in.
pub fn tensor_type(text: &str) -> Result<DType> {
    let upper = text.to_ascii_uppercase();
    let found = DType::parse(&upper).filter(|d| writable(*d));
    found.ok_or_else(|| {
        let names: Vec<&str> = DType::ALL
            .iter()
            .filter(|d| writable(**d))
            .map(|d| d.as_str())
            .collect();
        Error::parameter(
            "quantize.tensor-type",
            format!("{text:?} is no tensor type"),
        )
        .help(format!("use one of {}", names.join(" ")))
    })
}

/// Whether tensors can be quantized to it.
pub(super) fn writable(d: DType) -> bool {
    let block = crate::convert::blocks::block_of(d);
    block.is_some_and(|b| b.can_quantize()) || matches!(d, DType::F32 | DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_and_numbers() {
        for t in FileType::ALL {
            assert_eq!(FileType::parse(t.name()).unwrap(), *t);
            assert_eq!(FileType::parse(&t.name().to_lowercase()).unwrap(), *t);
            let by_number = FileType::parse(&t.number().to_string()).unwrap();
            assert_eq!(by_number.number(), t.number());
        }
        assert_eq!(FileType::parse("q4_k").unwrap(), FileType::Q4_K_M);
        assert_eq!(FileType::parse("Q3_K").unwrap(), FileType::Q3_K_M);
        assert_eq!(FileType::parse("0").unwrap(), FileType::F32);
        assert_eq!(FileType::parse("15").unwrap(), FileType::Q4_K_M);
        for bad in ["", "Q4", "33", "99", "-1", "Q8_K"] {
            let e = FileType::parse(bad).unwrap_err();
            assert_eq!(e.rule(), "quantize.type", "{bad}");
        }
    }

    #[test]
    fn tensor_types_are_those_that_can_be_written() {
        assert_eq!(tensor_type("q8_0").unwrap(), DType::Q8_0);
        assert_eq!(tensor_type("bf16").unwrap(), DType::BF16);
        for bad in ["Q8_1", "Q8_K", "I32", "F64", "q9"] {
            assert_eq!(tensor_type(bad).unwrap_err().rule(), "quantize.tensor-type");
        }
    }
}
