//! From persistent ids to storages.

use std::sync::Arc;

use weighbridge_core::model::{DType, Storage};
use weighbridge_core::pickle::{Node, NodeId, Trace};
use weighbridge_core::{Error, Result};

use super::dtype;

/// What a persistent id `("storage", class, key, location, numel[, view])` asks for
/// (`torch/serialization.py`, `persistent_id`).
#[derive(Debug, Clone)]
pub(super) struct StorageRequest {
    /// The storage's key: a number in decimal in every file torch writes.
    pub key: String,
    /// The element type of the storage class; `None` for untyped storages, which count bytes.
    pub dtype: Option<DType>,
    /// Number of elements.
    pub numel: u64,
    /// The legacy stream's view: its own offset and length, in elements.
    pub view: Option<(u64, u64)>,
}

/// A storage as one tensor sees it.
#[derive(Debug, Clone)]
pub(super) struct StorageRef {
    pub storage: Arc<Storage>,
    /// First byte of the part that is visible.
    pub base: u64,
    /// Bytes of it.
    pub len: u64,
    /// Its element type; `None` when untyped.
    pub dtype: Option<DType>,
}

/// Finds the storages of one container.
pub(super) trait Storages {
    /// The storage of `request`.
    fn find(&mut self, request: &StorageRequest) -> Result<Arc<Storage>>;

    /// A tensor by the tar era's persistent id, which is the tensor's number.
    fn tensor(&mut self, _id: &str) -> Option<weighbridge_core::model::Tensor> {
        None
    }
}

/// Longest key of a storage, in bytes.
const LONGEST_KEY: usize = 256;

/// Reads a persistent id node.
pub(super) fn request(trace: &Trace<'_>, id: NodeId) -> Result<StorageRequest> {
    let bad = |m: &str| Error::malformed("pytorch.persistent-id", m);
    let items = trace
        .items(id)
        .ok_or_else(|| bad("a persistent id is no tuple"))?;
    let [kind, class, key, _location, numel, rest @ ..] = items else {
        return Err(bad("a persistent id has fewer than 5 fields"));
    };
    if !trace.is_text(*kind, "storage") {
        return Err(bad("a persistent id names no storage"));
    }
    let class = trace
        .global(*class)
        .ok_or_else(|| bad("the storage class of a persistent id is no global"))?;
    let dtype = match class.name.as_str() {
        "UntypedStorage" | "_UntypedStorage" => None,
        name => Some(dtype::of_storage_class(name).ok_or_else(|| {
            let shown: String = format!("{}.{name}", class.module)
                .chars()
                .take(120)
                .collect();
            Error::unsupported(
                "pytorch.storage-class",
                format!("{shown} is no storage class that is known"),
            )
        })?),
    };
    let key = match trace.node(*key) {
        Node::Int(i) => i.to_string(),
        _ => trace
            .text(*key)
            .filter(|t| t.len() <= LONGEST_KEY)
            .ok_or_else(|| bad("a storage key is neither a short text nor a number"))?
            .into_owned(),
    };
    let count = |id: NodeId, what: &str| {
        trace
            .int(id)
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| bad(&format!("{what} is no count")))
    };
    let view = match rest.first() {
        None => None,
        Some(&v) => match trace.items(v) {
            Some([_key, offset, size]) => Some((
                count(*offset, "a view's offset")?,
                count(*size, "a view's size")?,
            )),
            _ if matches!(trace.node(v), Node::None) => None,
            _ => return Err(bad("the view of a persistent id is no triple")),
        },
    };
    Ok(StorageRequest {
        key,
        dtype,
        numel: count(*numel, "a storage's size")?,
        view,
    })
}

/// The storage that `request` asks for, as the tensors over it see it.
pub(super) fn resolve(storages: &mut dyn Storages, request: &StorageRequest) -> Result<StorageRef> {
    let storage = storages.find(request)?;
    let width = request.dtype.map_or(1, |d| d.bytes().unwrap_or(1));
    let need = request.numel.checked_mul(width).ok_or_else(|| {
        Error::malformed(
            "pytorch.storage-overflow",
            format!("a storage of {} elements", request.numel),
        )
    })?;
    if need > storage.len() {
        return Err(Error::malformed(
            "pytorch.storage-size",
            format!(
                "storage {} should have {} elements of {width} bytes, its record has {} bytes",
                request.key,
                request.numel,
                storage.len()
            ),
        ));
    }
    let (base, len) = match request.view {
        None => (0, need),
        Some((offset, size)) => {
            let base = offset.checked_mul(width);
            let len = size.checked_mul(width);
            match (base, len) {
                (Some(b), Some(l)) if b.checked_add(l).is_some_and(|e| e <= need) => (b, l),
                _ => {
                    return Err(Error::malformed(
                        "pytorch.storage-view",
                        format!("a view of storage {} reaches past its end", request.key),
                    ));
                }
            }
        }
    };
    Ok(StorageRef {
        storage,
        base,
        len,
        dtype: request.dtype,
    })
}

/// Refuses keys that are no plain record name: they are joined to the archive's folder.
pub(super) fn check_key(key: &str) -> Result<()> {
    let plain = !key.is_empty()
        && key.len() <= LONGEST_KEY
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if plain {
        return Ok(());
    }
    Err(Error::malformed(
        "pytorch.storage-key",
        format!(
            "the storage key {key:?} is no plain name: it could climb out of the archive's folder"
        ),
    )
    .help("no version of torch writes such keys; do not load this file with other tools"))
}
