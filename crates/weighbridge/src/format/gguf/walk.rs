//! The walk over a header, from its magic to its last tensor.

use std::ops::Range;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};

use super::kept::Bytes;
use super::raw::{
    Array, DEFAULT_ALIGNMENT, Entry, Header, MOST_ALIGNMENT, TensorInfo, Value, shown,
};
use super::reader::Reader;
use super::types::{TensorType, ValueType};

/// Most key-values: models have some fifty.
const MOST_ENTRIES: u64 = 1 << 20;

/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
const MOST_DIMS: u32 = 4;

/// Longest key, in bytes (`docs/gguf.md`: 2^16 - 1).
const LONGEST_KEY: usize = 65_535;

/// Names from this length on do not fit ggml's field with their end (`GGML_MAX_NAME`), in bytes.
const LONGEST_NAME: usize = 64;

/// The same field in programs that raise it for image models (stable-diffusion.cpp).
const LONGEST_RAISED_NAME: usize = 128;

/// How deep arrays of arrays are followed.
const DEEPEST: u32 = 8;

/// How many violations are told; a hostile header could hold millions.
const MOST_ERRORS: usize = 1000;

struct Walk<'a, 'b> {
    reader: Reader<'a>,
    broken: &'b mut dyn FnMut(Error),
    errors: usize,
    /// Names from this length on are too long, in bytes.
    longest_name: usize,
    header: Header<'a>,
}

/// See [`Header::read`].
pub(super) fn read<'a>(
    source: &'a dyn ByteSource,
    limits: &Limits,
    broken: &mut dyn FnMut(Error),
) -> Result<Header<'a>> {
    let mut walk = Walk {
        reader: Reader::new(source),
        broken,
        errors: 0,
        longest_name: LONGEST_NAME,
        header: Header {
            source,
            bytes: Bytes::Lent(&[]),
            version: 0,
            big_endian: false,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: Some(DEFAULT_ALIGNMENT),
            end: 0,
            complete: false,
        },
    };
    match walk.all(limits) {
        Ok(()) => walk.header.complete = true,
        Err(e) if e.kind() == weighbridge_core::ErrorKind::Io => return Err(e),
        Err(e) => (walk.broken)(e),
    }
    let Walk {
        reader, mut header, ..
    } = walk;
    header.end = reader.at as u64;
    header.bytes = reader.kept;
    Ok(header)
}

impl Walk<'_, '_> {
    /// Tells of a violation behind which the header can still be followed.
    fn tell(&mut self, e: Error) -> Result<()> {
        self.errors += 1;
        if self.errors >= MOST_ERRORS {
            return Err(too_many());
        }
        (self.broken)(e);
        Ok(())
    }

    fn all(&mut self, limits: &Limits) -> Result<()> {
        let (tensors, entries) = self.head(limits)?;
        for i in 0..entries {
            self.entry()
                .map_err(|e| e.within(format!("key-value {i}")))?;
        }
        self.alignment()?;
        if self.raised_names() {
            self.longest_name = LONGEST_RAISED_NAME;
        }
        for i in 0..tensors {
            self.tensor().map_err(|e| e.within(format!("tensor {i}")))?;
        }
        Ok(())
    }

    /// Magic, version and counts; gives the numbers of tensors and key-values.
    fn head(&mut self, limits: &Limits) -> Result<(u64, u64)> {
        let magic = self.reader.peek(4)?;
        if magic != b"GGUF" {
            let message = format!("the file begins with {}, not `GGUF`", shown(magic));
            return Err(Error::malformed("gguf.magic", message).span(0, 4));
        }
        self.reader.skip(4)?;
        let version = self.reader.u32()?;
        // A small number in the other byte order has its low half empty (gguf.cpp).
        self.reader.big_endian = version & 0xffff == 0 && version != 0;
        let version = if self.reader.big_endian {
            version.swap_bytes()
        } else {
            version
        };
        if !(1..=3).contains(&version) {
            let e = Error::malformed("gguf.version", format!("version {version} does not exist"));
            return Err(e.span(4, 4));
        }
        self.header.version = version;
        self.header.big_endian = self.reader.big_endian;
        self.reader.wide = version != 1;
        let tensors = self.reader.count()?;
        let entries = self.reader.count()?;
        let prefix = self.reader.prefix();
        let at = 8 + prefix;
        // A tensor is at least its name's length, its dimension count, type and offset; a
        // key-value its key's length, one byte of key, its type and one byte of value.
        self.fits(tensors, prefix + 16, "tensors", 8)?;
        self.fits(entries, prefix + 6, "key-values", at)?;
        Limits::check(tensors, limits.tensors, "gguf.too-many-tensors", "tensors")
            .map_err(|e| e.at(8))?;
        Limits::check(entries, MOST_ENTRIES, "gguf.too-many-keys", "key-values")
            .map_err(|e| e.at(at))?;
        Ok((tensors, entries))
    }

    fn fits(&self, count: u64, least: u64, what: &str, at: u64) -> Result<()> {
        let left = self.reader.left();
        if count.checked_mul(least).is_none_or(|need| need > left) {
            let message = format!("{count} {what}, the file has {left} more bytes");
            let e = Error::malformed("gguf.count", message);
            return Err(e.span(at, self.reader.prefix()));
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<()> {
        let at = self.reader.at as u64;
        let key = self.reader.string()?;
        self.key(&key, at)?;
        let type_at = self.reader.at as u64;
        let id = self.reader.u32()?;
        let Some(kind) = ValueType::from_id(id) else {
            let shown = shown(self.reader.kept.get(&key));
            let message = format!("the value of {shown} has type {}", id as i32);
            return Err(Error::malformed("gguf.value-type", message).span(type_at, 4));
        };
        let value = self.value(kind, &key)?;
        self.header.entries.push(Entry { key, value });
        Ok(())
    }

    fn key(&mut self, key: &Range<usize>, at: u64) -> Result<()> {
        let bytes = self.reader.kept.get(key);
        let wrong = match bytes.len() {
            0 => Some("a key is empty".to_owned()),
            n if n > LONGEST_KEY => Some(format!("a key of {n} bytes, at most {LONGEST_KEY}")),
            _ if bytes.contains(&0) => Some(format!("the key {} holds a NUL", shown(bytes))),
            _ if std::str::from_utf8(bytes).is_err() => {
                Some(format!("the key {} is no UTF-8", shown(bytes)))
            }
            _ => None,
        };
        match wrong {
            Some(message) => self.tell(Error::malformed("gguf.key", message).at(at)),
            None => Ok(()),
        }
    }

    fn value(&mut self, kind: ValueType, key: &Range<usize>) -> Result<Value> {
        let at = self.reader.at;
        Ok(match kind {
            ValueType::String => {
                let text = self.reader.string()?;
                let bytes = self.reader.kept.get(&text);
                if std::str::from_utf8(bytes).is_err() {
                    let shown = shown(self.reader.kept.get(key));
                    let message = format!("the value of {shown} is no UTF-8");
                    self.tell(Error::malformed("gguf.utf8", message).at(text.start as u64))?;
                }
                Value::String(text)
            }
            ValueType::Array => Value::Array(self.array(key, 0)?),
            scalar => {
                let n = self.reader.number(scalar.bytes().unwrap_or(1))?;
                if scalar == ValueType::Bool && n > 1 {
                    self.tell(no_bool(n, at))?;
                }
                scalar_value(scalar, n)
            }
        })
    }

    fn array(&mut self, key: &Range<usize>, depth: u32) -> Result<Array> {
        let at = self.reader.at as u64;
        let shown = |w: &Self| shown(w.reader.kept.get(key));
        let id = self.reader.u32()?;
        let Some(element) = ValueType::from_id(id) else {
            let message = format!(
                "the array {} has elements of type {}",
                shown(self),
                id as i32
            );
            return Err(Error::malformed("gguf.value-type", message).span(at, 4));
        };
        let len = self.reader.count()?;
        let least = element.bytes().unwrap_or(match element {
            ValueType::Array => 4 + self.reader.prefix(),
            _ => self.reader.prefix(),
        });
        let left = self.reader.left();
        let Some(bytes) = len.checked_mul(least).filter(|&n| n <= left) else {
            let message = format!(
                "the array {} has {len} elements of at least {least} bytes, the file has {left} more bytes",
                shown(self)
            );
            let e = Error::malformed("gguf.array-length", message);
            return Err(e.span(at + 4, self.reader.prefix()));
        };
        let start = self.reader.at;
        match element {
            ValueType::String => self.reader.strings(len)?,
            ValueType::Array => {
                if depth == 0 {
                    let message =
                        format!("{} is an array of arrays, which ggml refuses", shown(self));
                    self.tell(Error::malformed("gguf.nested-array", message).at(at))?;
                }
                if depth >= DEEPEST {
                    let message = format!("{} nests arrays deeper than {DEEPEST}", shown(self));
                    return Err(Error::limit("gguf.nested-array", message).at(at));
                }
                for _ in 0..len {
                    self.array(key, depth + 1)?;
                }
            }
            ValueType::Bool => {
                let mut wrong = None;
                self.reader.pieces(bytes, &mut |at, items| {
                    let found = items.iter().enumerate().find(|(_, b)| **b > 1);
                    wrong = wrong.or(found.map(|(i, b)| (*b, at.saturating_add(i))));
                })?;
                if let Some((b, at)) = wrong {
                    self.tell(no_bool(b.into(), at))?;
                }
            }
            _ => self.reader.skip(bytes)?,
        }
        Ok(Array {
            element,
            len,
            range: start..self.reader.at,
        })
    }

    /// What `general.alignment` says (gguf.cpp: an unsigned 32-bit power of two).
    fn alignment(&mut self) -> Result<()> {
        let key = b"general.alignment";
        let reader = &self.reader;
        let found = self
            .header
            .entries
            .iter()
            .find(|e| reader.kept.get(&e.key) == key.as_slice());
        let Some(entry) = found else { return Ok(()) };
        let at = entry.key.start as u64;
        let wrong = match entry.value {
            Value::U32(n) => {
                let n = u64::from(n);
                if n.is_power_of_two() && n <= MOST_ALIGNMENT {
                    self.header.alignment = Some(n);
                    return Ok(());
                }
                format!("an alignment of {n}, not a power of two up to {MOST_ALIGNMENT}")
            }
            _ => "general.alignment is no 32-bit unsigned number".to_owned(),
        };
        self.header.alignment = None;
        self.tell(Error::malformed("gguf.alignment", wrong).at(at))
    }

    fn tensor(&mut self) -> Result<()> {
        let at = self.reader.at;
        let name = self.reader.string()?;
        self.name(&name, at)?;
        let dims_at = self.reader.at as u64;
        let n_dims = self.reader.u32()?;
        if n_dims > MOST_DIMS {
            let message = format!("{n_dims} dimensions, at most {MOST_DIMS}");
            return Err(Error::malformed("gguf.dimensions", message).span(dims_at, 4));
        }
        let mut dims = [1u64; 4];
        for d in dims.iter_mut().take(n_dims as usize) {
            *d = self.reader.count()?;
        }
        let type_at = self.reader.at as u64;
        let type_id = self.reader.u32()? as i32;
        let offset = self.reader.number(8)?;
        let bytes = match size(&dims, dims_at, type_id, type_at) {
            Ok(bytes) => bytes,
            Err(e) => {
                let shown = shown(self.reader.kept.get(&name));
                self.tell(e.within(format!("tensor {shown}")))?;
                None
            }
        };
        self.header.tensors.push(TensorInfo {
            at,
            name,
            dims,
            n_dims,
            type_id,
            offset,
            bytes,
        });
        Ok(())
    }

    fn name(&mut self, name: &Range<usize>, at: usize) -> Result<()> {
        let bytes = self.reader.kept.get(name);
        let cap = self.longest_name;
        let wrong = match bytes.len() {
            n if n >= cap => Some(format!(
                "a tensor's name has {n} bytes, at most {}",
                cap - 1
            )),
            _ if bytes.contains(&0) => Some(format!("the name {} holds a NUL", shown(bytes))),
            _ if std::str::from_utf8(bytes).is_err() => {
                Some(format!("the name {} is no UTF-8", shown(bytes)))
            }
            _ => None,
        };
        match wrong {
            Some(message) => self.tell(Error::malformed("gguf.name", message).at(at as u64)),
            None => Ok(()),
        }
    }

    /// Whether the file is not one of llama.cpp's models but of a program that allows longer
    /// names: image models say neither how many blocks they have nor have they a vocabulary.
    fn raised_names(&self) -> bool {
        // Every model of llama.cpp has more than a dozen keys, image models a handful.
        !self.header.entries.iter().take(64).any(|e| {
            let key = self.reader.kept.get(&e.key);
            key.ends_with(b".block_count") || key.starts_with(b"tokenizer.")
        })
    }
}

fn no_bool(n: u64, at: usize) -> Error {
    Error::malformed(
        "gguf.bool",
        format!("a truth value of {n}, only 0 and 1 are any"),
    )
    .span(at as u64, 1)
}

fn too_many() -> Error {
    Error::malformed(
        "gguf.more",
        format!("the first {MOST_ERRORS} violations are listed, there may be more"),
    )
}

fn scalar_value(kind: ValueType, n: u64) -> Value {
    // `n` was read from as many bytes as the type has: the casts only say so.
    match kind {
        ValueType::U8 => Value::U8(n as u8),
        ValueType::I8 => Value::I8(n as u8 as i8),
        ValueType::U16 => Value::U16(n as u16),
        ValueType::I16 => Value::I16(n as u16 as i16),
        ValueType::U32 => Value::U32(n as u32),
        ValueType::I32 => Value::I32(n as u32 as i32),
        ValueType::F32 => Value::F32(f32::from_bits(n as u32)),
        ValueType::I64 => Value::I64(n as i64),
        ValueType::F64 => Value::F64(f64::from_bits(n)),
        ValueType::Bool => Value::Bool(n != 0),
        ValueType::U64 | ValueType::String | ValueType::Array => Value::U64(n),
    }
}

/// Bytes of a tensor of `dims`, or `None` for a type that only its name is known of.
fn size(dims: &[u64; 4], dims_at: u64, type_id: i32, type_at: u64) -> Result<Option<u64>> {
    let mut elements: u64 = 1;
    for &d in dims {
        if d == 0 || i64::try_from(d).is_err() {
            let message = format!("a dimension of {}", d as i64);
            return Err(Error::malformed("gguf.dimension", message).at(dims_at));
        }
        let product = elements
            .checked_mul(d)
            .filter(|n| i64::try_from(*n).is_ok());
        elements = product.ok_or_else(|| {
            let message = format!("the product of the dimensions {dims:?} overflows");
            Error::malformed("gguf.element-count", message).at(dims_at)
        })?;
    }
    let packing = match TensorType::from_id(type_id) {
        TensorType::Known(p) => p,
        TensorType::Removed(name) => {
            let message = format!("type {type_id} is {name}, which ggml has removed from files");
            return Err(Error::unsupported("gguf.removed-type", message).span(type_at, 4));
        }
        TensorType::Foreign(name) => {
            let message = format!("type {type_id} ({name}) belongs to ik_llama.cpp, not to ggml");
            return Err(Error::unsupported("gguf.foreign-type", message).span(type_at, 4));
        }
        TensorType::Unknown => {
            let message = format!("type {type_id} does not exist");
            return Err(Error::malformed("gguf.tensor-type", message).span(type_at, 4));
        }
    };
    let row = dims.first().copied().unwrap_or(1);
    if !row.is_multiple_of(packing.block) {
        let message = format!(
            "a row of {row} elements is no multiple of {}'s block of {}",
            packing.name, packing.block
        );
        return Err(Error::malformed("gguf.row-size", message).at(dims_at));
    }
    let bytes = (elements / packing.block).checked_mul(packing.bytes);
    let bytes = bytes.ok_or_else(|| {
        let message = format!(
            "{elements} elements of {} have too many bytes",
            packing.name
        );
        Error::malformed("gguf.element-count", message).at(dims_at)
    })?;
    Ok(Some(bytes))
}
