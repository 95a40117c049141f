//! Digests of tensors: SHA-256 of the contiguous row-major little-endian bytes, whatever the file
//! stores them as. Equal tensors have equal digests in every format.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use weighbridge_core::model::{Chunks, Model, Tensor, TensorSource};
use weighbridge_core::{Error, Result};

/// The SHA-256 of the tensor's values, streamed through `chunks`.
///
/// # Errors
/// Whatever reading gives, wrong checksums of the container included; `Unsupported` for tensors
/// without dense data.
pub fn sha256(tensor: &Tensor, chunks: &mut Chunks) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    tensor.stream(chunks, &mut |part| {
        hash.update(part);
        Ok(())
    })?;
    Ok(hash.finalize().into())
}

/// The SHA-256 of every tensor, in the order of the model's tensors; `None` for those without
/// dense data. Works on all processors with a few MiB each; tensors that are the same view of the
/// same storage are read once. `progress` is told the bytes done since its last call, from any
/// thread.
///
/// # Errors
/// As [`sha256`]; of several errors the one of the earliest tensor that was reached.
pub fn sha256_all(model: &Model, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Option<[u8; 32]>>> {
    let tensors = &model.tensors;
    let (leaders, of) = leaders(tensors);
    let digests = for_each_parallel(&leaders, |&i, chunks| {
        let Some(t) = tensors.get(i).filter(|t| t.has_data()) else {
            return Ok(None);
        };
        let digest = sha256(t, chunks)?;
        progress(t.byte_len());
        Ok(Some(digest))
    })?;
    Ok(of
        .into_iter()
        .map(|leader| digests.get(leader).copied().flatten())
        .collect())
}

/// One tensor for each distinct view, and for every tensor the position of its view's one.
fn leaders(tensors: &[Tensor]) -> (Vec<usize>, Vec<usize>) {
    let mut seen = HashMap::new();
    let mut leaders = Vec::new();
    let mut of = Vec::with_capacity(tensors.len());
    for (i, t) in tensors.iter().enumerate() {
        let fresh = leaders.len();
        let at = match &t.source {
            TensorSource::View(v) => {
                let width = t.dtype.swap_width();
                let key = (Arc::as_ptr(&v.storage), v.offset, t.byte_len(), width);
                *seen.entry(key).or_insert(fresh)
            }
            _ => fresh,
        };
        if at == fresh {
            leaders.push(i);
        }
        of.push(at);
    }
    (leaders, of)
}

/// Runs `work` over `items` on all threads of the pool, each with its own buffers, taking items in
/// order. The results are in the order of the items.
pub(crate) fn for_each_parallel<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I, &mut Chunks) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let parts = rayon::broadcast(|_| {
        let mut chunks = Chunks::new();
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { break };
            match work(item, &mut chunks) {
                Ok(value) => done.push((i, value)),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                        *failed = Some((i, e));
                    }
                }
            }
        }
        done
    });
    if let Some((_, e)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(e);
    }
    let mut all: Vec<(usize, T)> = parts.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, value)| value).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::AtomicU64;

    use weighbridge_core::model::{Checksum, DType, FormatId, Layout, Storage, StorageData, View};
    use weighbridge_core::source::{Backend, SliceSource, open_file};
    use weighbridge_core::wire::zip::Archive;
    use weighbridge_core::{ErrorKind, Limits};

    use super::*;

    fn storage(bytes: Vec<u8>, crc32: Option<u32>) -> Arc<Storage> {
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, "s")),
            offset: 0,
            checksum: crc32.map(Checksum::Crc32),
        };
        Arc::new(Storage::new("s", len, false, data).unwrap())
    }

    fn view(name: &str, storage: &Arc<Storage>, offset: u64, n: u64) -> Tensor {
        let source = TensorSource::View(View {
            storage: Arc::clone(storage),
            offset,
        });
        Tensor::new(name, DType::U8, &[n], source)
    }

    #[test]
    fn all_digests_are_in_tensor_order_and_ties_are_read_once() {
        let s = storage((0..=255).collect(), None);
        let mut model = Model::new(FormatId::PyTorch);
        for i in 0..60 {
            model.tensors.push(view(&format!("t{i}"), &s, i % 20, 100));
        }
        let mut absent = view("meta", &s, 0, 100);
        (absent.source, absent.layout) = (TensorSource::Absent, Layout::Meta);
        model.tensors.insert(7, absent);
        let done = AtomicU64::new(0);
        let count = |n| {
            done.fetch_add(n, Ordering::Relaxed);
        };
        let all = sha256_all(&model, &count).unwrap();
        assert_eq!(done.into_inner(), 20 * 100);
        assert_eq!(all.len(), 61);
        for (t, digest) in model.tensors.iter().zip(all) {
            let want = t
                .has_data()
                .then(|| <[u8; 32]>::from(Sha256::digest(t.bytes().unwrap())));
            assert_eq!(digest, want, "{}", t.name);
        }
    }

    #[test]
    fn a_wrong_checksum_is_the_answer() {
        let mut model = Model::new(FormatId::PyTorch);
        let good = storage(vec![1; 10], Some(crc32fast::hash(&[1; 10])));
        let bad = storage(vec![2; 10], Some(5));
        model.tensors.push(view("good", &good, 0, 10));
        assert!(sha256_all(&model, &|_| ()).unwrap()[0].is_some());
        model.tensors.push(view("bad", &bad, 2, 3));
        let e = sha256_all(&model, &|_| ()).unwrap_err();
        assert_eq!(
            (e.kind(), e.path()),
            (ErrorKind::Integrity, &["bad".to_owned()][..])
        );
    }

    /// The digests recorded for storages of corpus archives that one tensor fills.
    #[test]
    fn corpus_storages_have_the_recorded_digests() {
        let Some(root) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
            println!("skipped: WEIGHBRIDGE_CORPUS is not set");
            return;
        };
        let dir = PathBuf::from(root).join("torch");
        for name in ["deflated", "zip64", "renamed_root", "reordered"] {
            let source = open_file(&dir.join(format!("{name}.pt")), Backend::Mmap).unwrap();
            let archive = Archive::open(source, &Limits::default()).unwrap();
            let text = std::fs::read(dir.join(format!("{name}.json"))).unwrap();
            let want: serde_json::Value = serde_json::from_slice(&text).unwrap();
            for (key, tensor) in [("/data/0", "w"), ("/data/1", "b")] {
                let m = archive
                    .members()
                    .iter()
                    .find(|m| m.name.ends_with(key))
                    .unwrap();
                let s = Arc::new(archive.storage(m, false).unwrap());
                let digest = sha256(&view(tensor, &s, 0, s.len()), &mut Chunks::new()).unwrap();
                assert_eq!(
                    hex::encode(digest),
                    want["tensors"][tensor]["sha256"],
                    "{name}"
                );
            }
        }
    }

    /// PyTorch's own dequantization of the corpus file, bit for bit.
    #[test]
    fn corpus_quantized_tensors_dequantize_to_the_recorded_digests() {
        use weighbridge_kernels::{Affine, Quantized, dequantize};
        let Some(root) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
            println!("skipped: WEIGHBRIDGE_CORPUS is not set");
            return;
        };
        let dir = PathBuf::from(root).join("torch");
        let source = open_file(&dir.join("quantized.pt"), Backend::Pread).unwrap();
        let archive = Archive::open(source, &Limits::default()).unwrap();
        let text = std::fs::read(dir.join("quantized.json")).unwrap();
        let want: serde_json::Value = serde_json::from_slice(&text).unwrap();
        // The two storages of 24 bytes, found by the digest of their integers.
        let ints = |tensor: &str| {
            let digest = &want["tensors"][tensor]["quantized"]["int_repr_sha256"];
            let small = archive.members().iter().filter(|m| m.size == 24);
            let mut all = small.map(|m| archive.read(m, 24).unwrap());
            all.find(|b| hex::encode(Sha256::digest(b)) == *digest)
                .unwrap()
        };
        let check = |tensor: &str, kind, affine: &Affine<'_>| {
            let mut out = [0f32; 24];
            assert_eq!(dequantize(kind, &ints(tensor), 0, affine, &mut out), 24);
            let bytes: Vec<u8> = out.iter().flat_map(|x| x.to_le_bytes()).collect();
            let digest = &want["tensors"][tensor]["quantized"]["dequant_f32_sha256"];
            assert_eq!(hex::encode(Sha256::digest(bytes)), *digest, "{tensor}");
        };
        let per_tensor = Affine::PerTensor {
            scale: 0.05,
            zero_point: 10,
        };
        check("pt", Quantized::U8, &per_tensor);
        let per_channel = Affine::PerChannel {
            scales: &[0.1f32, 0.2, 0.3].map(f64::from),
            zero_points: &[0; 3],
            inner: 8,
        };
        check("pc", Quantized::I8, &per_channel);
    }
}
