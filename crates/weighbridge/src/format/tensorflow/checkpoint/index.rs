//! What the index of a checkpoint says: `BundleHeaderProto` and `BundleEntryProto`
//! (`tensorflow/core/protobuf/tensor_bundle.proto`).

use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::wire::protobuf::{Message, Reader, Span, Value};
use weighbridge_core::wire::sstable::Entry as TableEntry;
use weighbridge_core::{Error, Result};

use crate::format::tensorflow::proto;

/// Longest entry that is read: a shape and slices.
const ENTRY: u64 = 16 << 20;

/// Most fields of one.
const FIELDS: u64 = 4 << 20;

/// What a slice has of one dimension: first index and length, or all of it.
pub(super) type Extent = Option<(i64, i64)>;

/// The newest version of the format that is known, as consumers have to be
/// (`kTensorBundleVersion`).
const VERSION: u64 = 1;

/// The first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// How many data files there are.
    pub shards: u64,
    /// Whether numbers have their most significant byte first.
    pub big_endian: bool,
    /// The version of the format that it was written in.
    pub producer: u64,
    /// The oldest version that may read it.
    pub consumer: u64,
}

/// Where a tensor, or a slice of one, lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// The dtype's number.
    pub dtype: u64,
    /// The dimensions; nothing where their number is not known.
    pub dims: Option<Vec<i64>>,
    /// The data file.
    pub shard: u64,
    /// The first byte in it.
    pub offset: u64,
    /// How many bytes.
    pub size: u64,
    /// Their masked CRC-32C.
    pub crc32c: u32,
    /// The slices that hold the values of a partitioned tensor.
    pub slices: Vec<Vec<Extent>>,
}

/// Reads the first entry.
///
/// # Errors
/// `Malformed` when it is none, `Unsupported` for a version that is not known.
pub(super) fn header(e: &TableEntry<'_>) -> Result<Header> {
    let at = e.at();
    let source = value(e)?;
    read_header(&source).map_err(|e| e.shifted(at))
}

fn read_header(source: &SliceSource) -> Result<Header> {
    let mut out = Header::default();
    let mut reader = Reader::new(source, FIELDS);
    let mut message = Message::new(Span::of(source));
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Varint(n)) => out.shards = n,
            (2, Value::Varint(n)) => {
                if n > 1 {
                    let message = format!("{n} is no byte order");
                    return Err(Error::malformed("tensorflow.endianness", message).at(f.at));
                }
                out.big_endian = n == 1;
            }
            (3, Value::Bytes(version)) => {
                let mut inner = Message::new(version);
                while let Some(f) = reader.next(&mut inner)? {
                    match (f.number, f.value) {
                        (1, Value::Varint(n)) => out.producer = n,
                        (2, Value::Varint(n)) => out.consumer = n,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if out.consumer > VERSION {
        let message = format!(
            "the checkpoint asks for readers of version {}, this one knows {VERSION}",
            out.consumer
        );
        return Err(Error::unsupported("tensorflow.version", message).at(0));
    }
    if out.shards == 0 || out.shards > u64::from(u32::MAX >> 1) {
        let message = format!("{} data files cannot be", out.shards);
        return Err(Error::malformed("tensorflow.shards", message).at(0));
    }
    Ok(out)
}

/// Reads any other entry.
///
/// # Errors
/// `Malformed` when it is none.
pub(super) fn entry(e: &TableEntry<'_>) -> Result<Entry> {
    let at = e.at();
    let source = value(e)?;
    read_entry(&source).map_err(|e| e.shifted(at))
}

fn read_entry(source: &SliceSource) -> Result<Entry> {
    let mut out = Entry {
        dims: Some(Vec::new()),
        ..Entry::default()
    };
    let mut reader = Reader::new(source, FIELDS);
    let mut message = Message::new(Span::of(source));
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Varint(n)) => out.dtype = n,
            (2, Value::Bytes(s)) => out.dims = proto::shape(&mut reader, s)?,
            (3, Value::Varint(n)) => out.shard = n,
            (4, Value::Varint(n)) => out.offset = n,
            (5, Value::Varint(n)) => out.size = n,
            (6, Value::Fixed32(n)) => out.crc32c = n,
            (7, Value::Bytes(s)) => out.slices.push(slice(&mut reader, s)?),
            _ => {}
        }
    }
    Ok(out)
}

fn value(e: &TableEntry<'_>) -> Result<SliceSource> {
    Ok(SliceSource::new(e.bytes(ENTRY)?, "entry"))
}

/// A `TensorSliceProto`.
///
/// # Errors
/// What reading gives, `Malformed` for more dimensions than TensorFlow has.
pub(super) fn slice(reader: &mut Reader<'_>, span: Span) -> Result<Vec<Extent>> {
    let mut out = Vec::new();
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        let (1, Value::Bytes(extent)) = (f.number, f.value) else {
            continue;
        };
        let (mut start, mut length) = (0, None);
        let mut inner = Message::new(extent);
        while let Some(f) = reader.next(&mut inner)? {
            match (f.number, f.value) {
                (1, Value::Varint(n)) => start = n as i64,
                (2, Value::Varint(n)) => length = Some(n as i64),
                _ => {}
            }
        }
        out.push(length.map(|n| (start, n)));
        if out.len() > proto::MOST_DIMS {
            let message = "a slice has more dimensions than TensorFlow knows";
            return Err(Error::malformed("tensorflow.shape", message).at(f.at));
        }
    }
    Ok(out)
}

/// Whether the slice is all of the tensor by what it says.
pub(super) fn is_full(extents: &[Extent]) -> bool {
    extents.iter().all(Option::is_none)
}

/// The file of data beside the index `source`.
pub(super) fn data_name(prefix: &str, shard: u64, shards: u64) -> String {
    format!("{prefix}.data-{shard:05}-of-{shards:05}")
}

/// The prefix of a checkpoint by the name of its index.
pub(super) fn prefix(source: &dyn ByteSource) -> &str {
    let name = source.name();
    name.strip_suffix(".index").unwrap_or(name)
}
