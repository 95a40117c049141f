//! From MessagePack to tensors and structure.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{
    Assembly, Dict, FormatId, Model, Object, Part, Piece, Shape, Storage, StorageData, Tensor,
    TensorSource, Value, Warning,
};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::msgpack::{Item, Reader};
use weighbridge_core::wire::npy::Dtype;
use weighbridge_core::{Error, Limits, Result};

use crate::OpenOptions;
use crate::format::numpy::array::Array;
use crate::structure::free_name;

/// The types of extensions (`_MsgpackExtType`): an array, a complex number, a NumPy scalar.
const NDARRAY: i8 = 1;
const COMPLEX: i8 = 2;
const SCALAR: i8 = 3;

/// The first key of an array that is too long for one item (`_chunk`).
const CHUNKED: &str = "__msgpack_chunked_array__";

/// Longest key, in bytes, and longest name of a tensor.
const LONGEST_NAME: usize = 64 << 10;

/// Longest name of an element type.
const LONGEST_DTYPE: u64 = 64;

/// Most dimensions of an array.
const MOST_DIMS: u32 = 64;

/// Longest bytes that are kept as a value.
const LONGEST_BYTES: u64 = 16 << 20;

/// Memory that a byte of the file justifies: no value takes more.
const ROOM_PER_BYTE: u64 = 192;

/// What a tensor takes, beside its name.
const TENSOR: usize = 512;

/// Most items that are looked at to tell the format.
const SNIFFED: u64 = 10_000;

/// Whether `source` is a mapping of MessagePack that holds one of Flax's arrays.
///
/// # Errors
/// None: what cannot be read is none.
pub(crate) fn is_flax(head: &[u8], source: &dyn ByteSource) -> bool {
    // A mapping that is not empty, and a text as its first key.
    let rest = match head {
        [0x81..=0x8f, rest @ ..] => rest,
        [0xde, _, _, rest @ ..] | [0xdf, _, _, _, _, rest @ ..] => rest,
        _ => return false,
    };
    if !matches!(rest, [0xa0..=0xbf | 0xd9..=0xdb, ..]) {
        return false;
    }
    let mut reader = Reader::new(source, 0..source.len());
    for _ in 0..SNIFFED {
        match reader.item() {
            Ok(Item::Ext(NDARRAY, range)) => {
                return payload(&Reader::new(source, range.clone()), source, range).is_ok();
            }
            Ok(_) if !reader.is_done() => {}
            _ => return false,
        }
    }
    false
}

/// Opens a file.
///
/// # Errors
/// What is wrong with its items or arrays.
pub(super) fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let name = source.name().to_owned();
    let bytes = source.len();
    let mut model = whole(&source, options).map_err(|e| e.in_file(name.as_str()))?;
    model.parts.push(Part {
        path: name.into(),
        bytes,
    });
    Ok(model)
}

fn whole(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let len = source.len();
    let data = StorageData::Raw {
        source: Arc::clone(source),
        offset: 0,
        checksum: None,
    };
    let mut walk = Walk {
        source: source.as_ref(),
        reader: Reader::new(source.as_ref(), 0..len),
        storage: Arc::new(Storage::new("data", len, false, data)?.into_region()),
        options,
        model: Model::new(FormatId::Flax),
        names: HashSet::new(),
        path: String::new(),
        depth: 0,
        values: 0,
        taken: 0,
        room: len
            .saturating_mul(ROOM_PER_BYTE)
            .saturating_add(options.limits.spare_bytes),
    };
    let value = walk.value()?;
    if !walk.reader.is_done() {
        let at = walk.reader.at();
        let message = format!("{} bytes follow the one item of the file", len - at);
        return Err(Error::malformed("flax.trailing-data", message).span(at, len - at));
    }
    let mut model = walk.model;
    model.container = Some("msgpack");
    model.structure = Some(value);
    Ok(model)
}

/// What an array's extension holds.
struct Payload {
    shape: Vec<u64>,
    dtype: String,
    data: Range<u64>,
}

/// Reads `(shape, dtype name, bytes)` (`_ndarray_to_bytes`).
fn payload(reader: &Reader<'_>, source: &dyn ByteSource, range: Range<u64>) -> Result<Payload> {
    let at = range.start;
    let bad = |what: &str| {
        let message = format!("an array is no triple of shape, element type and bytes: {what}");
        Error::malformed("flax.array", message).at(at)
    };
    let mut inner = Reader::new(source, range);
    if inner.item()? != Item::Array(3) {
        return Err(bad("no three items"));
    }
    let Item::Array(dims) = inner.item()? else {
        return Err(bad("the shape is no array"));
    };
    if dims > MOST_DIMS {
        return Err(bad("too many dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let Item::Int(d) = inner.item()? else {
            return Err(bad("a dimension is no integer"));
        };
        shape.push(u64::try_from(d).map_err(|_| bad("a dimension is below 0"))?);
    }
    // Old versions of msgpack write texts as bytes.
    let (Item::Str(name) | Item::Bin(name)) = inner.item()? else {
        return Err(bad("the element type is no text"));
    };
    let dtype = reader.text(&name, LONGEST_DTYPE)?;
    let (Item::Bin(data) | Item::Str(data)) = inner.item()? else {
        return Err(bad("the values are no bytes"));
    };
    if !inner.is_done() {
        return Err(bad("something follows the bytes"));
    }
    Ok(Payload { shape, dtype, data })
}

struct Walk<'a> {
    source: &'a dyn ByteSource,
    reader: Reader<'a>,
    storage: Arc<Storage>,
    options: &'a OpenOptions,
    model: Model,
    names: HashSet<String>,
    path: String,
    depth: u32,
    values: u64,
    /// Memory taken so far, estimated, and how much may be.
    taken: u64,
    room: u64,
}

impl Walk<'_> {
    fn charge(&mut self, bytes: usize) -> Result<()> {
        self.taken = self.taken.saturating_add(bytes as u64);
        if self.taken > self.room {
            let message = "the mappings take far more memory than the file's size justifies";
            return Err(Error::limit("flax.too-many-values", message).at(self.reader.at()));
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value> {
        self.values += 1;
        let limits = &self.options.limits;
        Limits::check(self.values, limits.values, "flax.too-many-values", "values")?;
        self.charge(2 * size_of::<Value>())?;
        let at = self.reader.at();
        Ok(match self.reader.item()? {
            Item::Nil => Value::Null,
            Item::Bool(b) => Value::Bool(b),
            Item::Int(n) => match i64::try_from(n) {
                Ok(n) => Value::Int(n),
                Err(_) => Value::BigInt(n.to_string()),
            },
            Item::Float(f) => Value::Float(f),
            Item::Str(range) => {
                self.charge(length(&range))?;
                Value::Str(self.reader.text(&range, self.options.limits.text_bytes)?)
            }
            Item::Bin(range) => {
                self.charge(length(&range))?;
                Value::Bytes(self.reader.bytes(&range, LONGEST_BYTES)?)
            }
            Item::Ext(kind, range) => self.extension(kind, range, at)?,
            Item::Array(n) => self.deeper(|w| w.list(n))?,
            Item::Map(n) => self.deeper(|w| w.map(n))?,
        })
    }

    fn deeper(&mut self, f: impl FnOnce(&mut Self) -> Result<Value>) -> Result<Value> {
        if self.depth >= self.options.limits.depth {
            let message = format!("the mappings nest deeper than {} levels", self.depth);
            return Err(Error::limit("flax.too-deep", message).at(self.reader.at()));
        }
        self.depth += 1;
        let value = f(self);
        self.depth -= 1;
        value
    }

    /// The value of the next item, one step further down.
    fn at(&mut self, step: &str) -> Result<Value> {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(step);
        let value = match self.path.len() > LONGEST_NAME {
            true => {
                Err(Error::limit("flax.long-name", "a name passes 64 KiB").at(self.reader.at()))
            }
            false => self.value(),
        };
        self.path.truncate(before);
        value
    }

    fn list(&mut self, n: u32) -> Result<Value> {
        let mut out = Vec::new();
        for i in 0..n {
            out.push(self.at(&i.to_string())?);
        }
        Ok(Value::List(out))
    }

    /// A key: text, or what other writers make of numbers.
    fn key(&mut self) -> Result<(Value, String)> {
        let at = self.reader.at();
        let item = self.reader.item()?;
        match item {
            Item::Str(range) | Item::Bin(range) => {
                self.charge(length(&range).saturating_mul(2))?;
                let text = self.reader.text(&range, LONGEST_NAME as u64)?;
                Ok((Value::Str(text.clone()), text))
            }
            Item::Int(n) => {
                let value = i64::try_from(n).map_or(Value::BigInt(n.to_string()), Value::Int);
                Ok((value, n.to_string()))
            }
            other => {
                let message = format!("a key of a mapping is {}", other.kind());
                Err(Error::malformed("flax.key", message).at(at))
            }
        }
    }

    fn map(&mut self, n: u32) -> Result<Value> {
        let mut entries = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        for i in 0..n {
            let at = self.reader.at();
            let (key, step) = self.key()?;
            if i == 0 && step == CHUNKED {
                return self.chunked(n, at);
            }
            self.charge(2 * size_of::<Value>() + step.len())?;
            if !seen.insert(step.clone()) {
                let message = format!("the key {step:?} is there twice in {:?}", self.path);
                if !self.options.lenient {
                    return Err(Error::malformed("flax.duplicate-key", message).at(at));
                }
                let w = Warning::new("flax.duplicate-key", message);
                self.model.warnings.push(w);
            }
            let value = self.at(&step)?;
            entries.push((key, value));
        }
        Ok(Value::Dict(Dict {
            entries,
            ..Dict::default()
        }))
    }

    fn extension(&mut self, kind: i8, range: Range<u64>, at: u64) -> Result<Value> {
        match kind {
            NDARRAY | SCALAR => {
                let tensor = self.array(range)?;
                self.emit(tensor, kind == SCALAR)
            }
            COMPLEX => {
                let mut inner = Reader::new(self.source, range);
                let parts = (inner.item()?, inner.item()?, inner.item()?, inner.is_done());
                match parts {
                    (Item::Array(2), Item::Float(re), Item::Float(im), true) => {
                        Ok(Value::Complex(re, im))
                    }
                    _ => {
                        let message = "a complex number is no pair of floats";
                        Err(Error::malformed("flax.complex", message).at(at))
                    }
                }
            }
            other => {
                self.charge(length(&range))?;
                let bytes = self.reader.bytes(&range, LONGEST_BYTES)?;
                let message = format!("{:?}: Flax has no extension of type {other}", self.path);
                let w = Warning::new("flax.unknown-extension", message);
                self.model.warnings.push(w);
                Ok(Value::Object(Box::new(Object {
                    class: "msgpack.ExtType".into(),
                    args: vec![Value::Int(other.into()), Value::Bytes(bytes)],
                    ..Object::default()
                })))
            }
        }
    }

    /// The array in an extension, without a name yet.
    fn array(&mut self, range: Range<u64>) -> Result<Tensor> {
        let at = range.start;
        let p = payload(&self.reader, self.source, range)?;
        let dtype = Dtype::of_name(&p.dtype).ok_or_else(|| {
            let message = format!(
                "{:?}: the element type {:?} is not known",
                self.path, p.dtype
            );
            Error::unsupported("flax.dtype", message).at(at)
        })?;
        let count = p.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let want = count.and_then(|n| n.checked_mul(dtype.bytes()?));
        let have = p.data.end.saturating_sub(p.data.start);
        if want != Some(have) {
            let message = format!(
                "{:?}: an array of shape {:?} and type {} has {have} bytes",
                self.path, p.shape, p.dtype
            );
            return Err(Error::malformed("flax.array-size", message).span(p.data.start, have));
        }
        let array = Array {
            name: &self.path,
            dtype: &dtype,
            descr: Some(&p.dtype),
            shape: &p.shape,
            fortran: false,
        };
        let storage = |_| Ok(Arc::clone(&self.storage));
        array.tensor(&storage, p.data.start, &mut self.model.warnings)
    }

    /// Adds a tensor under the present path and gives the reference to it.
    fn emit(&mut self, mut tensor: Tensor, scalar: bool) -> Result<Value> {
        let base = match self.path.as_str() {
            "" => "tensor",
            path => path,
        };
        let name = free_name(base, &mut self.names);
        if name != base {
            let message =
                format!("two tensors flatten to one name; the later one is called {name}");
            let w = Warning::new("names.collision", message);
            self.model.warnings.push(w);
        }
        self.charge(TENSOR.saturating_add(name.len().saturating_mul(4)))?;
        let count = self.model.tensors.len() as u64;
        Limits::check(
            count,
            self.options.limits.tensors,
            "flax.too-many-tensors",
            "tensors",
        )?;
        if scalar {
            let attribute = ("class".to_owned(), Value::Str("numpy.generic".into()));
            tensor.extra_mut().attributes.push(attribute);
        }
        tensor.name.clone_from(&name);
        self.model.tensors.push(tensor);
        Ok(Value::Tensor(name))
    }

    /// An array in parts: the mapping of `n` pairs whose first key has just been read.
    fn chunked(&mut self, n: u32, at: u64) -> Result<Value> {
        let bad = |what: &str| {
            let message = format!("an array in parts {what}");
            Error::malformed("flax.chunks", message).at(at)
        };
        let _ = self.reader.item()?;
        let (mut shape, mut chunks) = (None, None);
        for _ in 1..n {
            let (_, key) = self.key()?;
            match key.as_str() {
                "shape" if shape.is_none() => shape = Some(self.shape(&bad)?),
                "chunks" if chunks.is_none() => chunks = Some(self.chunks(&bad)?),
                _ => return Err(bad("has a key that is none of its own")),
            }
        }
        let shape = shape.ok_or_else(|| bad("has no shape"))?;
        let chunks = chunks.ok_or_else(|| bad("has no parts"))?;
        let dtype = chunks.first().map(|t| t.dtype);
        let dtype = dtype.ok_or_else(|| bad("has no parts"))?;
        let (mut pieces, mut start) = (Vec::new(), 0u64);
        for t in chunks {
            let plain = matches!(t.source, TensorSource::View(_));
            if t.dtype != dtype || t.shape.len() != 1 || !plain {
                return Err(bad("has parts of several kinds"));
            }
            let len = t.shape.first().copied().unwrap_or(0);
            pieces.push(Piece {
                start: Shape::from_slice(&[start]),
                shape: t.shape,
                source: t.source,
            });
            start = start.checked_add(len).ok_or_else(|| bad("is too long"))?;
        }
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if count != Some(start) {
            return Err(bad("has a shape of another number of values"));
        }
        let assembly = Assembly {
            shape: Shape::from_slice(&[start]),
            pieces,
        };
        assembly.check()?;
        let source = TensorSource::Assembled(Arc::new(assembly));
        self.emit(Tensor::new("", dtype, &shape, source), false)
    }

    /// The next item, a mapping from `"0"`, `"1"`, … (`_tuple_to_dict`): how many pairs.
    fn numbered(&mut self, bad: &dyn Fn(&str) -> Error) -> Result<u32> {
        match self.reader.item()? {
            Item::Map(n) => Ok(n),
            _ => Err(bad("has a shape or parts that are no mapping")),
        }
    }

    fn number(&mut self, i: u32, bad: &dyn Fn(&str) -> Error) -> Result<()> {
        let (_, key) = self.key()?;
        match key == i.to_string() {
            true => Ok(()),
            false => Err(bad("does not number its parts from 0")),
        }
    }

    fn shape(&mut self, bad: &dyn Fn(&str) -> Error) -> Result<Vec<u64>> {
        let n = self.numbered(bad)?;
        if n > MOST_DIMS {
            return Err(bad("has too many dimensions"));
        }
        let mut out = Vec::new();
        for i in 0..n {
            self.number(i, bad)?;
            match self.reader.item()? {
                Item::Int(d) => out.push(u64::try_from(d).map_err(|_| bad("has a bad shape"))?),
                _ => return Err(bad("has a bad shape")),
            }
        }
        Ok(out)
    }

    fn chunks(&mut self, bad: &dyn Fn(&str) -> Error) -> Result<Vec<Tensor>> {
        let n = self.numbered(bad)?;
        let mut out = Vec::new();
        for i in 0..n {
            self.number(i, bad)?;
            self.charge(TENSOR)?;
            match self.reader.item()? {
                Item::Ext(NDARRAY, range) => out.push(self.array(range)?),
                _ => return Err(bad("has a part that is no array")),
            }
        }
        Ok(out)
    }
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}
