//! Datatypes and dataspaces as the header messages have them (HDF5 File Format Specification 3.0,
//! IV.A.2.b and IV.A.2.d), in the versions that every library reads: 1, and 2 for the null
//! dataspace.

use weighbridge_core::model::{DType, Element};

/// The most dimensions that a dataspace has (`H5S_MAX_RANK`).
pub(super) const MOST_RANK: usize = 32;

/// What an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// An integer of so many bytes.
    Int { bytes: u8, signed: bool },
    /// An IEEE number of 2, 4 or 8 bytes.
    Float(u8),
    /// Two of those, called `r` and `i` as h5py does.
    Complex(u8),
    /// One byte with the names `FALSE` and `TRUE`, as h5py keeps truth values.
    Bool,
    /// So many bytes without a meaning.
    Opaque(u32),
    /// A text of so many bytes, padded with NULs.
    Fixed { bytes: u32, utf8: bool },
    /// A text of any length in the global heap.
    Text,
}

impl Type {
    /// The type that holds `dtype`, where there is one.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        let int = |bytes, signed| Some(Self::Int { bytes, signed });
        match dtype {
            DType::Bool => Some(Self::Bool),
            DType::U8 => int(1, false),
            DType::U16 => int(2, false),
            DType::U32 => int(4, false),
            DType::U64 => int(8, false),
            DType::I8 => int(1, true),
            DType::I16 => int(2, true),
            DType::I32 => int(4, true),
            DType::I64 => int(8, true),
            DType::F16 => Some(Self::Float(2)),
            DType::F32 | DType::Null => Some(Self::Float(4)),
            DType::F64 => Some(Self::Float(8)),
            DType::C64 => Some(Self::Complex(4)),
            DType::C128 => Some(Self::Complex(8)),
            DType::Str => Some(Self::Text),
            DType::Bytes(n) => Some(Self::Fixed {
                bytes: n.max(1),
                utf8: false,
            }),
            _ => None,
        }
    }

    /// The type of an element of an array of metadata that is a number.
    pub(super) fn of_element(element: Element) -> Option<Self> {
        Self::of(match element {
            Element::U8 => DType::U8,
            Element::I8 => DType::I8,
            Element::U16 => DType::U16,
            Element::I16 => DType::I16,
            Element::U32 => DType::U32,
            Element::I32 => DType::I32,
            Element::U64 => DType::U64,
            Element::I64 => DType::I64,
            Element::F32 => DType::F32,
            Element::F64 => DType::F64,
            Element::Bool => DType::Bool,
            Element::Str | Element::Array => return None,
        })
    }

    /// The datatype message.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Int { bytes, signed } => {
                head(out, 0x10, u32::from(signed) << 3, u32::from(bytes));
                out.extend(0u16.to_le_bytes());
                out.extend((u16::from(bytes) * 8).to_le_bytes());
            }
            Self::Float(bytes) => {
                let (exponent, mantissa, bias): (u8, u8, u32) = match bytes {
                    2 => (5, 10, 15),
                    4 => (8, 23, 127),
                    _ => (11, 52, 1023),
                };
                // The first bit of the mantissa is implied; the sign is the last bit.
                let sign = u32::from(bytes) * 8 - 1;
                head(out, 0x11, 0x20 | sign << 8, u32::from(bytes));
                out.extend(0u16.to_le_bytes());
                out.extend((u16::from(bytes) * 8).to_le_bytes());
                out.extend([mantissa, exponent, 0, mantissa]);
                out.extend(bias.to_le_bytes());
            }
            Self::Complex(bytes) => {
                head(out, 0x16, 2, u32::from(bytes) * 2);
                for (name, offset) in [(b'r', 0u32), (b'i', u32::from(bytes))] {
                    out.extend([name, 0, 0, 0, 0, 0, 0, 0]);
                    out.extend(offset.to_le_bytes());
                    // No dimensions, no permutation.
                    out.extend([0; 28]);
                    Self::Float(bytes).put(out);
                }
            }
            Self::Bool => {
                head(out, 0x18, 2, 1);
                let base = Self::Int {
                    bytes: 1,
                    signed: true,
                };
                base.put(out);
                out.extend(b"FALSE\0\0\0TRUE\0\0\0\0\x00\x01");
            }
            Self::Opaque(bytes) => head(out, 0x15, 0, bytes),
            Self::Fixed { bytes, utf8 } => head(out, 0x13, 1 | u32::from(utf8) << 4, bytes),
            Self::Text => {
                head(out, 0x19, 1 | 1 << 8, 16);
                let base = Self::Int {
                    bytes: 1,
                    signed: false,
                };
                base.put(out);
            }
        }
    }
}

/// Class and version, 24 bits of the class, the size.
fn head(out: &mut Vec<u8>, class: u8, bits: u32, size: u32) {
    out.extend((u32::from(class) | bits << 8).to_le_bytes());
    out.extend(size.to_le_bytes());
}

/// What the elements are arranged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space<'a> {
    /// No element, not even of a shape.
    Null,
    /// One, or one for each index of a shape.
    Shape(&'a [u64]),
}

impl Space<'_> {
    /// The dataspace message.
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Null => vec![2, 0, 0, 2],
            Self::Shape(shape) => {
                // At most MOST_RANK.
                let mut out = vec![1, shape.len() as u8, 0, 0, 0, 0, 0, 0];
                out.extend(shape.iter().flat_map(|d| d.to_le_bytes()));
                out
            }
        }
    }
}
