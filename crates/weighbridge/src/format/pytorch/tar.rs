//! The tar container of 2016 and 2017: members `storages`, `tensors` and `pickle`.
//!
//! Reference: `torch/serialization.py`, `legacy_load` inside `_legacy_load`.

use std::collections::HashMap;
use std::sync::Arc;

use weighbridge_core::model::{DType, FormatId, Model, Shape, Storage, Tensor};
use weighbridge_core::pickle;
use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::tar::{self, Archive};
use weighbridge_core::{Error, Limits, Result};

use super::dtype;
use super::read::{PickleBytes, fill, load_pickle, lower};
use super::rebuild::strided_view;
use super::storages::{StorageRef, StorageRequest, Storages};
use crate::OpenOptions;

/// Whether the file is a tar archive.
pub(super) fn sniff(head: &[u8]) -> bool {
    tar::is_tar(head)
}

/// A file of pickles and raw records that follow each other.
struct Reader<'a> {
    source: Window,
    at: u64,
    limits: &'a Limits,
}

impl Reader<'_> {
    /// The next pickle.
    fn pickle(&mut self) -> Result<Vec<u8>> {
        let (data, len) = load_pickle(&self.source, self.at, self.limits)?;
        self.at += len as u64;
        Ok(data.into_owned())
    }

    fn int(&mut self, what: &str) -> Result<u64> {
        let data = self.pickle()?;
        let trace = pickle::run(&data, self.limits);
        trace
            .root
            .and_then(|r| trace.int(r))
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| bad(format!("{what} is no count")).at(self.at))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut b = [0u8; N];
        self.source.read_at(self.at, &mut b)?;
        self.at += N as u64;
        Ok(b)
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::malformed("pytorch.tar-record", message)
}

fn member(archive: &Archive, name: &str) -> Result<Window> {
    let m = archive
        .by_name(name)
        .or_else(|| archive.by_name(&format!("./{name}")))
        .ok_or_else(|| {
            Error::unsupported(
                "pytorch.no-pickle",
                format!("the tar archive has no member {name:?}: it is no torch checkpoint"),
            )
        })?;
    archive.window(m)
}

/// Tensors by number; the object pickle names them by persistent id.
struct Tensors {
    known: HashMap<String, Tensor>,
}

impl Storages for Tensors {
    fn find(&mut self, request: &StorageRequest) -> Result<Arc<Storage>> {
        Err(bad(format!(
            "the object names storage {} itself",
            request.key
        )))
    }

    fn tensor(&mut self, id: &str) -> Option<Tensor> {
        self.known.get(id).cloned()
    }
}

pub(super) fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let limits = &options.limits;
    let bytes = source.len();
    let archive = Archive::open(Arc::clone(&source), limits)?;
    let storages =
        storages(member(&archive, "storages")?, limits).map_err(|e| e.within("storages"))?;
    let known = tensors(member(&archive, "tensors")?, &storages, limits)
        .map_err(|e| e.within("tensors"))?;
    let object = member(&archive, "pickle")?;
    let (data, _) = load_pickle(&object, 0, limits).map_err(|e| e.within("pickle"))?;
    let trace = pickle::run(&data, limits);
    let low =
        lower(trace, &mut Tensors { known }, options, bytes, 0).map_err(|e| e.within("pickle"))?;
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("tar");
    fill(&mut model, low);
    Ok(model)
}

/// `count`, then for each `(key, location, class)`, its number of elements and its bytes; then
/// the list of views `(key, root key, offset, elements)`.
fn storages(source: Window, limits: &Limits) -> Result<HashMap<String, StorageRef>> {
    let file = source.clone();
    let mut r = Reader {
        source,
        at: 0,
        limits,
    };
    let count = r.int("the number of storages")?;
    Limits::check(
        count,
        limits.tensors,
        "pytorch.too-many-storages",
        "storages",
    )?;
    let mut known: HashMap<String, StorageRef> = HashMap::new();
    for _ in 0..count {
        let data = r.pickle()?;
        let trace = pickle::run(&data, limits);
        let items = trace.root.and_then(|t| trace.items(t)).unwrap_or_default();
        let [key, _location, class] = *items else {
            return Err(bad("a storage is described by no triple").at(r.at));
        };
        let name = trace
            .global(class)
            .map(|g| g.name.clone())
            .unwrap_or_default();
        let dtype = dtype::of_storage_class(&name)
            .ok_or_else(|| bad(format!("{name:?} is no storage class")).at(r.at))?;
        let count = i64::from_le_bytes(r.bytes()?);
        let len = u64::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(dtype.bytes().unwrap_or(1)))
            .ok_or_else(|| bad(format!("a storage of {count} elements")).at(r.at))?;
        let key = trace.render(key, 64);
        let data = weighbridge_core::model::StorageData::Raw {
            source: Arc::new(file.clone()),
            offset: r.at,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(format!("storage {key}"), len, false, data)?);
        r.at += len;
        known.insert(
            key,
            StorageRef {
                storage,
                base: 0,
                len,
                dtype: Some(dtype),
            },
        );
    }
    let data = r.pickle()?;
    let trace = pickle::run(&data, limits);
    for &view in trace.root.and_then(|t| trace.items(t)).unwrap_or_default() {
        let [key, root, offset, numel] = *trace.items(view).unwrap_or_default() else {
            return Err(bad("a storage view is no tuple of four"));
        };
        let root = known
            .get(&trace.render(root, 64))
            .cloned()
            .ok_or_else(|| bad("a storage view names a storage that is not there"))?;
        let width = root.dtype.and_then(DType::bytes).unwrap_or(1);
        let count = |id| {
            trace
                .int(id)
                .and_then(|n| u64::try_from(n).ok())
                .and_then(|n| n.checked_mul(width))
        };
        match (count(offset), count(numel)) {
            (Some(base), Some(len)) if base.checked_add(len).is_some_and(|e| e <= root.len) => {
                known.insert(trace.render(key, 64), StorageRef { base, len, ..root });
            }
            _ => return Err(bad("a storage view reaches past its storage")),
        }
    }
    Ok(known)
}

/// `count`, then for each `(key, storage key, class)`, dimensions, sizes, strides, offset.
fn tensors(
    source: Window,
    storages: &HashMap<String, StorageRef>,
    limits: &Limits,
) -> Result<HashMap<String, Tensor>> {
    let mut r = Reader {
        source,
        at: 0,
        limits,
    };
    let count = r.int("the number of tensors")?;
    Limits::check(count, limits.tensors, "pytorch.too-many-tensors", "tensors")?;
    let mut known = HashMap::new();
    for _ in 0..count {
        let data = r.pickle()?;
        let trace = pickle::run(&data, limits);
        let items = trace.root.and_then(|t| trace.items(t)).unwrap_or_default();
        let [key, storage, _class] = *items else {
            return Err(bad("a tensor is described by no triple").at(r.at));
        };
        let storage = storages
            .get(&trace.render(storage, 64))
            .ok_or_else(|| bad("a tensor names a storage that is not there").at(r.at))?;
        // The count was once written as 8 bytes; torch reads 4 and skips 4.
        let dims = i32::from_le_bytes(r.bytes()?);
        r.at += 4;
        if !(0..=64).contains(&dims) {
            return Err(bad(format!("a tensor of {dims} dimensions")).at(r.at));
        }
        let mut read = |n: i32| -> Result<Shape> {
            (0..n)
                .map(|_| {
                    let v = i64::from_le_bytes(r.bytes()?);
                    u64::try_from(v).map_err(|_| bad(format!("a size or stride of {v}")).at(r.at))
                })
                .collect()
        };
        let shape = read(dims)?;
        let strides = read(dims)?;
        let offset = read(1)?.first().copied().unwrap_or(0);
        let dtype = storage.dtype.unwrap_or(DType::U8);
        known.insert(
            trace.render(key, 64),
            strided_view(storage, dtype, offset, shape, strides)?,
        );
    }
    Ok(known)
}

/// The pickles of the archive: the object, and those the records are described by.
pub(super) fn pickles(source: &Arc<dyn ByteSource>, limits: &Limits) -> Result<Vec<PickleBytes>> {
    let archive = Archive::open(Arc::clone(source), limits)?;
    let mut out = Vec::new();
    for m in archive.members() {
        let window = archive.window(m)?;
        let n = window.len().min(limits.pickle_bytes);
        let data = match load_pickle(&window, 0, limits) {
            Ok((data, _)) => data.into_owned(),
            Err(_) => window.read_vec(0..n)?,
        };
        out.push(PickleBytes {
            place: m.name.clone(),
            offset: m.offset,
            data,
            torchscript: false,
        });
    }
    Ok(out)
}
