//! Datatypes (IV.A.2.d).

use super::fields::{Fields, text_of};
use super::message::MOST_DIMS;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.datatype";

/// Deepest nesting of datatypes.
const DEEPEST: u32 = 16;

/// A datatype: its class and how many bytes an element takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datatype {
    /// What it is.
    pub class: Class,
    /// Bytes of one element.
    pub size: u32,
}

/// The parts of a floating-point number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Float {
    /// Whether its most significant byte comes first; `None` for the VAX' order.
    pub big_endian: Option<bool>,
    /// First bit and number of bits that count.
    pub bits: (u16, u16),
    /// The bit of the sign.
    pub sign: u8,
    /// First bit and number of bits of the exponent.
    pub exponent: (u8, u8),
    /// First bit and number of bits of the fraction.
    pub mantissa: (u8, u8),
    /// What is taken off the exponent.
    pub bias: u32,
}

/// How texts of fixed width end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// At the first NUL.
    NulTerminated,
    /// NULs fill the rest.
    NulPadded,
    /// Blanks fill the rest.
    Blanks,
}

/// One member of a compound type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its first byte within the element.
    pub offset: u32,
    /// Its type.
    pub datatype: Datatype,
}

/// What a datatype is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// An integer.
    Fixed {
        /// Whether its most significant byte comes first.
        big_endian: bool,
        /// Whether it is in two's complement.
        signed: bool,
        /// First bit and number of bits that count.
        bits: (u16, u16),
    },
    /// A floating-point number.
    Float(Float),
    /// A time, as nobody writes them.
    Time,
    /// A text of fixed width.
    Text(Padding),
    /// Bits.
    Bits {
        /// Whether its most significant byte comes first.
        big_endian: bool,
    },
    /// Bytes of no type.
    Opaque {
        /// What they are, in its writer's words.
        tag: String,
    },
    /// Several members.
    Compound(Vec<Member>),
    /// A reference to an object or a part of one.
    Reference,
    /// Names for integers.
    Enumeration {
        /// The integer.
        base: Box<Datatype>,
        /// Each name with the bytes of its value.
        names: Vec<(String, Vec<u8>)>,
    },
    /// A sequence of any length.
    Sequence(Box<Datatype>),
    /// A text of any length.
    String,
    /// An array of fixed extents.
    Array {
        /// The extents.
        dims: Vec<u32>,
        /// The element.
        base: Box<Datatype>,
    },
    /// A complex number (version 5 of the message, HDF5 2.0).
    Complex(Box<Datatype>),
}

impl Datatype {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        read(f, 0)
    }
}

fn read(f: &mut Fields<'_>, depth: u32) -> Result<Datatype> {
    let place = f.place();
    if depth > DEEPEST {
        return Err(Error::limit(RULE, "a datatype is nested too deeply").at(place));
    }
    let head = f.u8()?;
    let (class, version) = (head & 15, head >> 4);
    if !(1..=5).contains(&version) {
        let message = format!("version {version} of datatypes is not known");
        return Err(Error::unsupported(RULE, message).at(place));
    }
    let bits = f.uint(3)? as u32;
    let size = f.u32()?;
    if size == 0 {
        return Err(Error::malformed(RULE, "an element takes no byte").at(place));
    }
    let class = match class {
        0 => fixed(f, bits)?,
        1 => float(f, bits)?,
        2 => {
            f.skip(2)?;
            Class::Time
        }
        3 => Class::Text(padding(bits)),
        4 => {
            f.skip(4)?;
            Class::Bits {
                big_endian: bits & 1 != 0,
            }
        }
        5 => opaque(f, bits)?,
        6 => compound(f, version, bits, size, depth)?,
        7 => Class::Reference,
        8 => enumeration(f, version, bits, depth)?,
        9 => {
            let base = read(f, depth + 1)?;
            match bits & 15 {
                1 => Class::String,
                _ => Class::Sequence(Box::new(base)),
            }
        }
        10 => array(f, version, depth)?,
        11 => Class::Complex(Box::new(read(f, depth + 1)?)),
        _ => {
            let message = format!("class {class} of datatypes is not known");
            return Err(Error::unsupported(RULE, message).at(place));
        }
    };
    Ok(Datatype { class, size })
}

fn fixed(f: &mut Fields<'_>, bits: u32) -> Result<Class> {
    Ok(Class::Fixed {
        big_endian: bits & 1 != 0,
        signed: bits & 8 != 0,
        bits: (f.u16()?, f.u16()?),
    })
}

fn float(f: &mut Fields<'_>, bits: u32) -> Result<Class> {
    Ok(Class::Float(Float {
        big_endian: match bits & 0x41 {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        bits: (f.u16()?, f.u16()?),
        sign: (bits >> 8) as u8,
        exponent: (f.u8()?, f.u8()?),
        mantissa: (f.u8()?, f.u8()?),
        bias: f.u32()?,
    }))
}

fn padding(bits: u32) -> Padding {
    match bits & 15 {
        0 => Padding::NulTerminated,
        1 => Padding::NulPadded,
        _ => Padding::Blanks,
    }
}

fn opaque(f: &mut Fields<'_>, bits: u32) -> Result<Class> {
    let tag = f.take((bits & 0xff) as usize)?;
    let tag = tag.split(|&b| b == 0).next().unwrap_or_default();
    Ok(Class::Opaque { tag: text_of(tag) })
}

/// A name, padded to a multiple of eight bytes before version 3.
fn name(f: &mut Fields<'_>, version: u8) -> Result<String> {
    let start = f.pos();
    let name = text_of(f.text()?);
    if version < 3 {
        let used = f.pos() - start;
        f.skip(used.next_multiple_of(8) - used)?;
    }
    Ok(name)
}

fn compound(f: &mut Fields<'_>, version: u8, bits: u32, size: u32, depth: u32) -> Result<Class> {
    let mut members = Vec::new();
    for _ in 0..bits & 0xffff {
        let name = name(f, version)?;
        let place = f.place();
        let offset = match version {
            1 | 2 => f.u32()?,
            _ => f.uint(super::fields::enough_for(size.into()))? as u32,
        };
        let mut dims = Vec::new();
        if version == 1 {
            // Arrays were a matter of members then.
            let n = f.u8()?;
            f.skip(11)?;
            for i in 0..4 {
                let d = f.u32()?;
                if i < n {
                    dims.push(d);
                }
            }
        }
        let mut datatype = read(f, depth + 1)?;
        if !dims.is_empty() {
            datatype = array_of(dims, datatype, f.place())?;
        }
        let end = offset.checked_add(datatype.size);
        if end.is_none_or(|e| e > size) {
            let message = format!("the member {name} reaches out of its element");
            return Err(Error::malformed(RULE, message).at(place));
        }
        members.push(Member {
            name,
            offset,
            datatype,
        });
    }
    Ok(Class::Compound(members))
}

fn enumeration(f: &mut Fields<'_>, version: u8, bits: u32, depth: u32) -> Result<Class> {
    let base = read(f, depth + 1)?;
    let names = (0..bits & 0xffff)
        .map(|_| name(f, version))
        .collect::<Result<Vec<_>>>()?;
    let names = names
        .into_iter()
        .map(|n| Ok((n, f.take(base.size as usize)?.to_vec())))
        .collect::<Result<Vec<_>>>()?;
    Ok(Class::Enumeration {
        base: Box::new(base),
        names,
    })
}

fn array(f: &mut Fields<'_>, version: u8, depth: u32) -> Result<Class> {
    let place = f.place();
    let n = f.u8()?;
    if n > MOST_DIMS {
        return Err(Error::malformed(RULE, format!("{n} dimensions are too many")).at(place));
    }
    f.skip(if version < 3 { 3 } else { 0 })?;
    let dims = (0..n).map(|_| f.u32()).collect::<Result<Vec<_>>>()?;
    f.skip(if version < 3 { 4 * usize::from(n) } else { 0 })?;
    let base = read(f, depth + 1)?;
    Ok(array_of(dims, base, place)?.class)
}

fn array_of(dims: Vec<u32>, base: Datatype, place: u64) -> Result<Datatype> {
    let size = dims.iter().try_fold(base.size, |n, &d| n.checked_mul(d));
    match size {
        Some(size) if size > 0 => Ok(Datatype {
            size,
            class: Class::Array {
                dims,
                base: Box::new(base),
            },
        }),
        _ => Err(Error::malformed(RULE, "an array of an impossible size").at(place)),
    }
}
