//! What the readers of checkpoint folders share: members opened as themselves, slices of their
//! tensors, casts, and the bounds of the whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{
    Chunks, DType, Dict, Model, Part, Shape, Storage, Strided, Tensor, TensorSource, Value, View,
};
use weighbridge_core::source;
use weighbridge_core::{Error, Result};
use weighbridge_kernels::Kind;

use super::read;
use crate::OpenOptions;
use crate::structure::{self, Form};

/// One file of a folder.
#[derive(Debug)]
pub(super) struct Member {
    pub path: PathBuf,
    pub model: Model,
    by_name: HashMap<String, usize>,
}

impl Member {
    /// Opens `path` as the PyTorch file it is.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let model = read::open(source::open_file(path, options.backend)?, options)?;
        let by_name = model
            .tensors
            .iter()
            .enumerate()
            .map(|(i, t)| (t.name.clone(), i))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            model,
            by_name,
        })
    }

    /// The tensor of that name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.model.tensors.get(*self.by_name.get(name)?)
    }

    /// The tensor that a place of the structure refers to.
    pub(super) fn tensor_at(&self, place: &Value) -> Option<&Tensor> {
        match place {
            Value::Tensor(name) => self.tensor(name),
            _ => None,
        }
    }

    /// The value under `key` of the file's root mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.model.structure.as_ref()?.get(key)
    }

    /// The file's path for messages.
    pub(super) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn part(&self) -> Part {
        Part {
            path: self.path.clone(),
            bytes: self.model.file_bytes(),
        }
    }
}

/// The last step of a path, for messages.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether `name` is a plain file name: nothing that could climb out of its folder.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| matches!(c, '/' | '\\' | ':') || c.is_control())
}

/// The decimal number between `prefix` and `suffix` of `name`.
pub(super) fn number_in(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    number(name.strip_prefix(prefix)?.strip_suffix(suffix)?)
}

/// A number in decimal digits only.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Sizes kept as `torch.Size`, tuple or list.
pub(super) fn sizes(v: &Value) -> Option<Shape> {
    let positive = |i: i64| u64::try_from(i).ok();
    match v {
        Value::Size(s) => s.iter().map(|&i| positive(i)).collect(),
        Value::Tuple(l) | Value::List(l) => l.iter().map(|v| positive(v.as_int()?)).collect(),
        _ => None,
    }
}

/// The items of a list or tuple.
pub(super) fn list(v: &Value) -> Option<&[Value]> {
    match v {
        Value::List(l) | Value::Tuple(l) => Some(l),
        _ => None,
    }
}

/// The string-keyed entries of a mapping.
pub(super) fn entries(v: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all: &[(Value, Value)] = match v {
        Value::Dict(d) => &d.entries,
        _ => &[],
    };
    all.iter().filter_map(|(k, v)| Some((k.as_str()?, v)))
}

/// Whether a tensor lies anywhere inside.
pub(super) fn holds_tensor(v: &Value) -> bool {
    match v {
        Value::Tensor(_) | Value::Moved { .. } => true,
        Value::List(l) | Value::Tuple(l) | Value::Set(l) | Value::FrozenSet(l) => {
            l.iter().any(holds_tensor)
        }
        Value::Dict(d) => {
            d.entries
                .iter()
                .any(|(k, v)| holds_tensor(k) || holds_tensor(v))
                || d.attributes.iter().any(|(_, v)| holds_tensor(v))
        }
        Value::Object(o) => {
            o.args.iter().any(holds_tensor)
                || o.kwargs.iter().any(|(_, v)| holds_tensor(v))
                || [&o.state, &o.items, &o.state_dict]
                    .into_iter()
                    .flatten()
                    .any(holds_tensor)
        }
        _ => false,
    }
}

/// Keeps the non-tensor state of `member` as metadata `<prefix>.<key>` in the stored JSON form;
/// what holds tensors is named as left out, except the keys in `used`.
pub(super) fn keep_state(model: &mut Model, member: &Member, prefix: &str, used: &[&str]) {
    let Some(root) = &member.model.structure else {
        return;
    };
    let file = file_name(&member.path);
    for (key, value) in entries(root) {
        if used.contains(&key) {
            continue;
        }
        if holds_tensor(value) {
            model.omitted.push((
                key.to_owned(),
                format!("training state of {file} beside the weights, one per rank: open the rank files themselves to keep it"),
            ));
            continue;
        }
        let text = match value {
            Value::Str(s) => s.clone(),
            v => structure::to_json(v, Form::Stored).to_string(),
        };
        model
            .metadata
            .push((format!("{prefix}.{key}"), Value::Str(text)));
    }
}

/// The view of `t` that takes `len` indices from `start` on along `axis`.
pub(super) fn narrow(t: &Tensor, axis: usize, start: u64, len: u64) -> Result<TensorSource> {
    let fault = || {
        Error::unsupported(
            "shards.no-slice",
            format!("tensor {} cannot be cut along dimension {axis}", t.name),
        )
    };
    let width = t.dtype.bytes().ok_or_else(fault)?;
    let extent = t.shape.get(axis).copied().ok_or_else(fault)?;
    if start.checked_add(len).is_none_or(|end| end > extent) {
        return Err(fault());
    }
    let (storage, first, strides) = match &t.source {
        TensorSource::View(v) if axis == 0 => {
            let row: Option<u64> = t
                .shape
                .iter()
                .skip(1)
                .try_fold(width, |n, &d| n.checked_mul(d));
            let offset = row
                .and_then(|r| r.checked_mul(start))
                .and_then(|o| o.checked_add(v.offset))
                .ok_or_else(fault)?;
            return Ok(TensorSource::View(View {
                storage: Arc::clone(&v.storage),
                offset,
            }));
        }
        TensorSource::View(v) if v.offset.is_multiple_of(width) => {
            (&v.storage, v.offset / width, row_major(&t.shape))
        }
        TensorSource::Strided(s) if !s.conj && !s.neg => (&s.storage, s.offset, s.strides.clone()),
        _ => return Err(fault()),
    };
    let step = strides.get(axis).copied().unwrap_or(0);
    let offset = step
        .checked_mul(start)
        .and_then(|o| o.checked_add(first))
        .ok_or_else(fault)?;
    Ok(TensorSource::Strided(Box::new(Strided {
        storage: Arc::clone(storage),
        offset,
        strides,
        conj: false,
        neg: false,
    })))
}

fn row_major(shape: &[u64]) -> Shape {
    let mut strides = Shape::from_elem(1, shape.len());
    let mut n = 1u64;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = n;
        n = n.saturating_mul(d);
    }
    strides
}

/// The storage again as a region, in which lying together makes no alias.
pub(super) fn as_region(storage: &Storage) -> Result<Arc<Storage>> {
    let again = Storage::new(
        storage.name(),
        storage.len(),
        storage.is_big_endian(),
        storage.data().clone(),
    )?;
    Ok(Arc::new(again.into_region()))
}

/// Values cast to F32 while they are read.
#[derive(Debug)]
struct ToF32 {
    tensor: Tensor,
    kind: Kind,
}

impl weighbridge_core::model::Compute for ToF32 {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        self.tensor.stream(&mut Chunks::new(), &mut |part| {
            let n = self.kind.elements(part.len());
            out.resize(n.saturating_mul(4), 0);
            weighbridge_kernels::convert(self.kind, Kind::F32, part, &mut out);
            sink(&out)
        })
    }
}

/// `t` as F32. Dtypes that are no plain numbers stay as they are.
pub(super) fn to_f32(t: &Tensor) -> Tensor {
    let Some(kind) = kind_of(t.dtype).filter(|_| t.dtype != DType::F32 && t.has_data()) else {
        return t.clone();
    };
    let source = TensorSource::Computed(Arc::new(ToF32 {
        tensor: t.clone(),
        kind,
    }));
    Tensor::new(t.name.clone(), DType::F32, &t.shape, source)
}

fn kind_of(d: DType) -> Option<Kind> {
    Some(match d {
        DType::F64 => Kind::F64,
        DType::F32 => Kind::F32,
        DType::F16 => Kind::F16,
        DType::BF16 => Kind::BF16,
        DType::F8_E4M3 => Kind::F8_E4M3,
        DType::F8_E5M2 => Kind::F8_E5M2,
        DType::F8_E4M3FNUZ => Kind::F8_E4M3FNUZ,
        DType::F8_E5M2FNUZ => Kind::F8_E5M2FNUZ,
        DType::F8_E8M0 => Kind::F8_E8M0,
        DType::Bool => Kind::Bool,
        DType::U8 => Kind::U8,
        DType::I8 => Kind::I8,
        DType::U16 => Kind::U16,
        DType::I16 => Kind::I16,
        DType::U32 => Kind::U32,
        DType::I32 => Kind::I32,
        DType::U64 => Kind::U64,
        DType::I64 => Kind::I64,
        _ => return None,
    })
}

/// The flat mapping of every tensor by its name, which is what a merged folder is.
pub(super) fn flat_structure(model: &Model) -> Value {
    let entry = |t: &Tensor| (Value::Str(t.name.clone()), Value::Tensor(t.name.clone()));
    Value::Dict(Dict {
        entries: model.tensors.iter().map(entry).collect(),
        ..Dict::default()
    })
}

/// Refuses folders whose tensors expand beyond what their files justify.
pub(super) fn check_bounds(model: &Model, options: &OpenOptions) -> Result<()> {
    let n = model.tensors.len() as u64;
    if n > options.limits.tensors {
        return Err(Error::limit("pytorch.too-many-tensors", "too many tensors"));
    }
    let cap = options.limits.expand_cap(model.file_bytes());
    let total = model
        .tensors
        .iter()
        .fold(0u64, |n, t| n.saturating_add(t.byte_len()));
    if total > cap {
        return Err(Error::limit(
            "pytorch.expansion",
            format!("the tensors of this folder expand to {total} bytes, the cap is {cap}"),
        )
        .help("raise the cap with --max-expand SIZE if you trust the checkpoint's origin"));
    }
    Ok(())
}
