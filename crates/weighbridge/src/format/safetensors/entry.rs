//! One tensor of a header, by itself: its dtype's name, and whether its sizes agree.

use std::borrow::Cow;
use std::ops::Range;

use weighbridge_core::model::{DType, Shape};
use weighbridge_core::{Error, Result};

/// A range of bytes in the header.
pub(super) type HeaderSpan = Range<usize>;

/// One tensor as the parser met it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: Cow<'a, str>,
    /// Where the name stands, quotes included.
    pub(super) name_at: HeaderSpan,
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Shape>,
    pub(super) shape_at: HeaderSpan,
    pub(super) offsets: Option<(u64, u64)>,
    pub(super) offsets_at: HeaderSpan,
}

impl<'a> Entry<'a> {
    /// A tensor of which only the name has been read.
    #[inline]
    pub(super) fn named(name: Cow<'a, str>, name_at: HeaderSpan) -> Self {
        Self {
            name,
            name_at,
            dtype: None,
            shape: None,
            shape_at: 0..0,
            offsets: None,
            offsets_at: 0..0,
        }
    }

    /// Takes the name.
    #[inline]
    pub(super) fn take_name(&mut self) -> String {
        std::mem::take(&mut self.name).into_owned()
    }

    /// Whether the range is in order and as long as dtype and shape ask, as far as these are
    /// known. The product runs in the order of the dimensions, as the reference reader's does:
    /// `[0, 2^62, 2^62]` is 0, `[2^62, 2^62, 0]` overflows.
    #[inline]
    pub(super) fn check(&self) -> Result<()> {
        let (Some(dtype), Some(shape)) = (self.dtype, &self.shape) else {
            return Ok(());
        };
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bits()?));
        let (Some(bits), Some((begin, end))) = (bits, self.offsets) else {
            return if bits.is_some() {
                Ok(())
            } else {
                Err(self.overflow())
            };
        };
        if bits.is_multiple_of(8) && begin.checked_add(bits / 8) == Some(end) {
            return Ok(());
        }
        Err(self.wrong_size(dtype, bits, begin, end))
    }

    #[cold]
    fn overflow(&self) -> Error {
        Error::malformed(
            "safetensors.shape-overflow",
            format!(
                "the size of tensor {} does not fit 64 bits",
                Shown(&self.name)
            ),
        )
        .span(self.shape_at.start as u64, self.shape_at.len() as u64)
    }

    #[cold]
    fn wrong_size(&self, dtype: DType, bits: u64, begin: u64, end: u64) -> Error {
        let name = Shown(&self.name);
        let at = &self.offsets_at;
        let Some(len) = end.checked_sub(begin) else {
            let message = format!("tensor {name} begins at {begin}, after its end at {end}");
            return Error::malformed("safetensors.begin-after-end", message)
                .span(at.start as u64, at.len() as u64);
        };
        if !bits.is_multiple_of(8) {
            return Error::malformed(
                "safetensors.part-of-a-byte",
                format!("tensor {name} of {dtype} has {bits} bits, which are no whole bytes"),
            )
            .span(self.shape_at.start as u64, self.shape_at.len() as u64);
        }
        Error::malformed(
            "safetensors.size-mismatch",
            format!(
                "tensor {name} needs {} bytes by its dtype and shape, its data_offsets span {len}",
                bits / 8
            ),
        )
        .span(at.start as u64, at.len() as u64)
    }
}

/// A name in a message: quoted, and clipped, since a file may hold one of many megabytes.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", clip(self.0))
    }
}

/// At most 200 characters of `text`.
pub(super) fn clip(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(200) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

/// The 22 dtypes of the format, by their names there.
#[inline]
pub(super) fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "BF16" => DType::BF16,
        "F16" => DType::F16,
        "BOOL" => DType::Bool,
        "F4" => DType::F4,
        "F6_E2M3" => DType::F6_E2M3,
        "F6_E3M2" => DType::F6_E3M2,
        "U8" => DType::U8,
        "I8" => DType::I8,
        "F8_E5M2" => DType::F8_E5M2,
        "F8_E4M3" => DType::F8_E4M3,
        "F8_E8M0" => DType::F8_E8M0,
        "F8_E4M3FNUZ" => DType::F8_E4M3FNUZ,
        "F8_E5M2FNUZ" => DType::F8_E5M2FNUZ,
        "I16" => DType::I16,
        "U16" => DType::U16,
        "I32" => DType::I32,
        "U32" => DType::U32,
        "C64" => DType::C64,
        "F64" => DType::F64,
        "I64" => DType::I64,
        "U64" => DType::U64,
        _ => return None,
    })
}

/// Whether the format has `d`.
pub(super) fn has_dtype(d: DType) -> bool {
    dtype(d.as_str()) == Some(d)
}
