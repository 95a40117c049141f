//! Sharing that another format recorded (`weighbridge.aliases`, see
//! [`crate::format::safetensors::aliases`]): ties and views become views of one storage again,
//! after their bytes were compared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{Model, Shape, Strided, Tensor, TensorSource, Value};

use super::dtype;
use super::storage_out::{Layout, Place, Run, refusal, row_major, whole};
use crate::diff;
use crate::format::safetensors::aliases;

/// Storages that no tensor covers are put together and compared in memory up to this size.
const IN_MEMORY: u64 = 64 << 20;

/// A member of a group, with its place in the storage that once was.
struct Member<'a> {
    leaf: usize,
    tensor: &'a Tensor,
    /// First element and end of what it touches, in elements.
    first: u64,
    end: u64,
    strides: Shape,
    row_major: bool,
}

/// Shares the storages of every recorded group whose tensors still agree.
pub(super) fn rebuild(
    all: &mut Layout<'_>,
    model: &Model,
    verdicts: Option<&[bool]>,
) -> Result<()> {
    let recorded = model.metadata.iter().find(|(k, _)| k == aliases::KEY);
    let Some((_, Value::Str(text))) = recorded else {
        return Ok(());
    };
    // A damaged record is no reason to refuse the tensors, which are all there.
    let Ok(groups) = aliases::decode(text) else {
        all.unshared
            .push((aliases::KEY.into(), "the record cannot be read"));
        return Ok(());
    };
    let by_name: HashMap<&str, usize> = model
        .tensors
        .iter()
        .enumerate()
        .map(|(i, t)| (t.name.as_str(), i))
        .collect();
    // A tensor lies in one group, once: a record that names one again and again would have it
    // read and compared each time.
    let mut tried: HashSet<usize> = HashSet::new();
    for (n, group) in groups.iter().enumerate() {
        let known = verdicts.map(|v| v.get(n).copied().unwrap_or(false));
        let mut members = Vec::new();
        let mut names = Vec::new();
        for a in &group.tensors {
            let Some(&leaf) = by_name.get(a.name.as_str()) else {
                continue;
            };
            names.push(a.name.as_str());
            let free = !all.is_placed(leaf) && tried.insert(leaf);
            let tensor = all.tensor(leaf).filter(|_| free);
            let member = tensor.and_then(|t| member(leaf, t, a));
            members.extend(member);
        }
        if names.len() < 2 {
            all.verdicts.push(false);
            continue;
        }
        let done = if members.len() < names.len() {
            Err("a tensor has another shape than recorded")
        } else if known == Some(false) {
            Err("")
        } else {
            join(all, &members, known.is_none())?
        };
        all.verdicts.push(done.is_ok());
        if let Err(why) = done {
            all.unshared.push((names.join(", "), why));
        }
    }
    Ok(())
}

fn member<'a>(leaf: usize, tensor: &'a Tensor, a: &aliases::Alias) -> Option<Member<'a>> {
    let plain = matches!(tensor.source, TensorSource::View(_)) && refusal(tensor).is_none();
    if !plain || tensor.dtype.bytes().is_none() || a.stride.len() != tensor.shape.len() {
        return None;
    }
    if tensor.numel()? == 0 {
        return None;
    }
    let mut last = a.offset;
    let mut is_row_major = true;
    let natural = row_major(&tensor.shape);
    let mut strides: Shape = a.stride.as_slice().into();
    // Steps that are never taken may be any number; torch refuses absurd ones.
    for ((s, &d), &n) in strides.iter_mut().zip(&tensor.shape).zip(&natural) {
        if d == 1 {
            *s = n;
        }
    }
    for ((&d, &s), &want) in tensor.shape.iter().zip(&strides).zip(&natural) {
        last = last.checked_add(d.checked_sub(1)?.checked_mul(s)?)?;
        is_row_major &= d == 1 || s == want;
    }
    Some(Member {
        leaf,
        tensor,
        first: a.offset,
        end: last.checked_add(1)?,
        strides,
        row_major: is_row_major,
    })
}

/// Gives the members one storage. With `compare`, only after their bytes were found to agree.
fn join(
    all: &mut Layout<'_>,
    members: &[Member<'_>],
    compare: bool,
) -> Result<Result<(), &'static str>> {
    let Some(head) = members.first() else {
        return Ok(Ok(()));
    };
    if members.iter().any(|m| m.tensor.dtype != head.tensor.dtype) {
        return Ok(Err("its tensors have several dtypes"));
    }
    let start = members.iter().map(|m| m.first).min().unwrap_or(0);
    let end = members.iter().map(|m| m.end).max().unwrap_or(0);
    let covers = |m: &&Member<'_>| m.row_major && m.first == start && m.end == end;
    let tied = |m: &Member<'_>| {
        m.first == head.first && m.strides == head.strides && m.tensor.shape == head.tensor.shape
    };
    if members.iter().all(tied) {
        // Whatever the layout was: equal tensors over one row-major storage.
        for m in members.iter().skip(1) {
            if compare && !diff::same_bytes(head.tensor, m.tensor)? {
                return Ok(Err("its tensors differ now"));
            }
        }
        place(all, members, vec![whole(head.tensor.clone())], None);
        return Ok(Ok(()));
    }
    if let Some(cover) = members.iter().find(covers) {
        for m in members.iter().filter(|m| m.leaf != cover.leaf) {
            let Some(seen) = view_of(cover, m) else {
                return Ok(Err("its covering tensor is misaligned"));
            };
            if compare && !diff::same_bytes(&seen, m.tensor)? {
                return Ok(Err("its tensors differ now"));
            }
        }
        place(all, members, vec![whole(cover.tensor.clone())], Some(start));
        return Ok(Ok(()));
    }
    let width = head.tensor.dtype.bytes().unwrap_or(1);
    let Some(runs) = runs(members, start, end, width) else {
        return Ok(Err("no tensors that lie row-major cover it"));
    };
    if compare {
        if (end - start).saturating_mul(width) > IN_MEMORY {
            return Ok(Err("it is too large to be put together from parts"));
        }
        if !agree(members, &runs, start, width)? {
            return Ok(Err("its tensors differ now"));
        }
    }
    place(all, members, runs, Some(start));
    Ok(Ok(()))
}

/// `m` as a view of the bytes of `cover`.
fn view_of(cover: &Member<'_>, m: &Member<'_>) -> Option<Tensor> {
    let TensorSource::View(v) = &cover.tensor.source else {
        return None;
    };
    let width = cover.tensor.dtype.bytes()?;
    if !v.offset.is_multiple_of(width) {
        return None;
    }
    let strided = Strided {
        storage: Arc::clone(&v.storage),
        offset: (v.offset / width).checked_add(m.first.checked_sub(cover.first)?)?,
        strides: m.strides.clone(),
        conj: false,
        neg: false,
    };
    let source = TensorSource::Strided(Box::new(strided));
    Some(Tensor::new(
        m.tensor.name.as_str(),
        m.tensor.dtype,
        &m.tensor.shape,
        source,
    ))
}

/// The storage from `start` to `end` as runs of the members that lie row-major in it.
fn runs(members: &[Member<'_>], start: u64, end: u64, width: u64) -> Option<Vec<Run>> {
    let mut order: Vec<&Member<'_>> = members.iter().filter(|m| m.row_major).collect();
    order.sort_by_key(|m| (m.first, std::cmp::Reverse(m.end)));
    let mut at = start;
    let mut out = Vec::new();
    for m in order {
        if m.end <= at {
            continue;
        }
        if m.first > at {
            return None;
        }
        out.push(Run {
            tensor: m.tensor.clone(),
            skip: (at - m.first).checked_mul(width)?,
            take: (m.end - at).checked_mul(width)?,
        });
        at = m.end;
    }
    (at == end).then_some(out)
}

/// Whether every member reads the same from the joined storage as by itself.
fn agree(members: &[Member<'_>], runs: &[Run], start: u64, width: u64) -> Result<bool> {
    use weighbridge_core::model::{Chunks, Storage, StorageData};
    use weighbridge_core::source::SliceSource;

    let mut bytes = Vec::new();
    let mut chunks = Chunks::new();
    for r in runs {
        r.stream(&mut chunks, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
    }
    let len = bytes.len() as u64;
    let source = Arc::new(SliceSource::new(bytes, "joined"));
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new("joined", len, false, data)?);
    for m in members {
        if m.end.saturating_sub(start).saturating_mul(width) > len {
            return Ok(false);
        }
        let strided = Strided {
            storage: Arc::clone(&storage),
            offset: m.first - start,
            strides: m.strides.clone(),
            conj: false,
            neg: false,
        };
        let source = TensorSource::Strided(Box::new(strided));
        let seen = Tensor::new("joined", m.tensor.dtype, &m.tensor.shape, source);
        if !diff::same_bytes(&seen, m.tensor)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds the storage and places the members: at their recorded strides counted from `start`, or
/// row-major at the front.
fn place(all: &mut Layout<'_>, members: &[Member<'_>], runs: Vec<Run>, start: Option<u64>) {
    let Some(head) = members.first() else { return };
    let class = dtype::storage_class_of(head.tensor.dtype);
    let bytes = runs.iter().map(|r| r.take).sum();
    let store = all.add_store(class, bytes, runs);
    for m in members {
        let (offset, strides) = match start {
            Some(start) => (m.first - start, m.strides.clone()),
            None => (0, row_major(&m.tensor.shape)),
        };
        all.set_place(
            m.leaf,
            Place {
                store,
                offset,
                shape: m.tensor.shape.clone(),
                strides,
                conj: false,
                neg: false,
            },
        );
    }
}
