//! The stream `torch.save` wrote before 1.6 (and writes with `_use_new_zipfile_serialization`
//! off): magic number, protocol 1001, system info, object, storage keys, then the storages.
//!
//! Reference: `torch/serialization.py`, `_legacy_save` and `_legacy_load`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Storage, StorageData, Value, Warning};
use weighbridge_core::pickle::{self, Node, Trace};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::read::{LEGACY_MAGIC, fill, load_pickle, lower};
use super::storages::{self, StorageRequest, Storages};
use crate::OpenOptions;

/// torch's `PROTOCOL_VERSION`.
const PROTOCOL: i64 = 1001;

/// Whether the file begins with a pickle of the magic number, in any protocol.
pub(crate) fn sniff(head: &[u8]) -> bool {
    let near = head.get(..32).unwrap_or(head);
    near.windows(LEGACY_MAGIC.len()).any(|w| w == LEGACY_MAGIC)
        // Protocols 0 and 1 write the number in decimal.
        || near.starts_with(b"L119547037146038801333356")
}

/// Storages that follow the pickles, by key.
struct Stream {
    known: HashMap<String, Arc<Storage>>,
}

impl Storages for Stream {
    fn find(&mut self, request: &StorageRequest) -> Result<Arc<Storage>> {
        self.known.get(&request.key).map(Arc::clone).ok_or_else(|| {
            Error::malformed(
                "pytorch.missing-storage",
                format!(
                    "storage {} is named and does not follow in the stream",
                    request.key
                ),
            )
        })
    }
}

pub(super) fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let limits = &options.limits;
    let src = source.as_ref();
    let mut at = 0u64;
    let mut next = |what: &'static str| -> Result<(Cow<'_, [u8]>, u64)> {
        let begin = at;
        let (data, len) = load_pickle(src, at, limits).map_err(|e| e.within(what))?;
        at += len as u64;
        Ok((data, begin))
    };
    next("magic number")?;
    let (data, begin) = next("protocol version")?;
    let trace = pickle::run(&data, limits);
    let version = trace.root.and_then(|r| trace.int(r));
    if version != Some(PROTOCOL) {
        return Err(Error::unsupported(
            "pytorch.legacy-protocol",
            format!("the stream has protocol {version:?}, torch knows {PROTOCOL}"),
        )
        .at(begin));
    }
    next("system info")?;
    let (object, object_at) = next("object")?;
    let (keys, keys_at) = next("storage keys")?;
    let trace = pickle::run(&object, limits);
    let key_trace = pickle::run(&keys, limits);
    let (mut stream, end) = locate(&source, &trace, &key_trace, keys_at, at)?;
    let low = lower(trace, &mut stream, options, source.len(), 0)
        .map_err(|e| e.shifted(object_at).within("object"))?;
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("legacy");
    model.version = Some(PROTOCOL.to_string());
    fill(&mut model, low);
    if end < source.len() {
        model.warnings.push(Warning {
            rule: "pytorch.trailing-data",
            message: format!(
                "{} bytes follow the last storage: torch reads the first stream only",
                source.len() - end
            ),
            offset: Some(end),
        });
        model.metadata.push((
            "trailing_bytes".into(),
            Value::Int(i64::try_from(source.len() - end).unwrap_or(i64::MAX)),
        ));
    }
    Ok(model)
}

/// Finds where each storage lies: for every key in order, its number of elements (int64), then
/// the bytes. The element width is that of the first persistent id with the key.
fn locate(
    source: &Arc<dyn ByteSource>,
    trace: &Trace<'_>,
    keys: &Trace<'_>,
    keys_at: u64,
    mut at: u64,
) -> Result<(Stream, u64)> {
    let mut widths: HashMap<String, u64> = HashMap::new();
    for node in &trace.nodes {
        trace.check_work()?;
        if let Node::Persistent(id) = node
            && let Ok(r) = storages::request(trace, *id)
        {
            let width = r.dtype.map_or(1, |d| d.bytes().unwrap_or(1));
            widths.entry(r.key).or_insert(width);
        }
    }
    let list = keys.root.and_then(|r| keys.items(r)).ok_or_else(|| {
        Error::malformed(
            "pytorch.storage-keys",
            "the list of storage keys is no list",
        )
        .at(keys_at)
    })?;
    let mut known = HashMap::new();
    for &key in list {
        keys.check_work()?;
        let name = match keys.node(key) {
            Node::Int(i) => i.to_string(),
            _ => keys
                .text(key)
                .ok_or_else(|| {
                    Error::malformed("pytorch.storage-keys", "a storage key is no text").at(keys_at)
                })?
                .into_owned(),
        };
        let width = *widths.get(&name).ok_or_else(|| {
            Error::malformed(
                "pytorch.storage-keys",
                format!("storage {name} follows, and nothing in the object names it"),
            )
            .at(keys_at)
        })?;
        let mut count = [0u8; 8];
        source.read_at(at, &mut count)?;
        let count = i64::from_le_bytes(count);
        let len = u64::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(width))
            .ok_or_else(|| {
                Error::malformed(
                    "pytorch.storage-size",
                    format!("storage {name} has {count} elements"),
                )
                .at(at)
            })?;
        at += 8;
        let data = StorageData::Raw {
            source: Arc::clone(source),
            offset: at,
            checksum: None,
        };
        let storage = Storage::new(format!("storage {name}"), len, false, data)?;
        if known.insert(name.clone(), Arc::new(storage)).is_some() {
            return Err(Error::malformed(
                "pytorch.storage-keys",
                format!("storage {name} follows twice"),
            )
            .at(at));
        }
        at += len;
    }
    Ok((Stream { known }, at))
}
