//! The GGUF form: two F32 tensors an entry, `NAME.in_sum2` and `NAME.counts`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{
    DType, Element, FormatId, Model, Number, Packed, Storage, StorageData, Tensor, TensorSource,
    Value, View,
};
use weighbridge_core::source::{Backend, SliceSource};
use weighbridge_core::{Error, Result};

use super::{Entry, Form, Matrix};
use crate::OpenOptions;
use crate::format::gguf::Gguf;
use crate::format::gguf::split::trimmed;
use crate::format::{FormatWriter, WriteOptions};
use crate::output;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

pub(super) fn read(path: &Path) -> Result<Matrix> {
    let options = OpenOptions {
        backend: Backend::Pread,
        format: Some(FormatId::Gguf),
        ..OpenOptions::default()
    };
    let model = options.open(path)?;
    let key = |name: &str| {
        let found = model.metadata.iter().find(|(k, _)| k == name);
        found.map(|(_, v)| v).ok_or_else(|| {
            let message = format!("the key {name} is missing");
            Error::malformed("imatrix.metadata", message)
                .help("this is no importance matrix, or one without the facts of its making")
        })
    };
    let int = |name: &str| {
        let n = key(name)?.as_int().and_then(|n| u32::try_from(n).ok());
        n.ok_or_else(|| Error::malformed("imatrix.metadata", format!("{name} is no count")))
    };
    let datasets = match key(DATASETS)? {
        Value::Packed(p) if p.element() == Element::Str || p.is_empty() => {
            let mut all = Vec::new();
            p.each_string(&mut |_, text| {
                all.push(text.to_vec());
                true
            })?;
            all
        }
        _ => {
            let message = format!("{DATASETS} is no list of texts");
            return Err(Error::malformed("imatrix.metadata", message));
        }
    };
    Ok(Matrix {
        form: Form::Gguf,
        datasets,
        chunk_count: int(CHUNK_COUNT)? as i32,
        chunk_size: int(CHUNK_SIZE)?,
        entries: entries(&model)?,
    })
}

fn entries(model: &Model) -> Result<BTreeMap<String, Entry>> {
    let (mut sums, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for t in &model.tensors {
        if let Some(name) = t.name.strip_suffix(SUMS) {
            sums.insert(name.to_owned(), floats(t)?);
        } else if let Some(name) = t.name.strip_suffix(COUNTS) {
            counts.insert(name.to_owned(), floats(t)?);
        }
    }
    let names: BTreeSet<String> = sums.keys().chain(counts.keys()).cloned().collect();
    if names.is_empty() {
        return Err(Error::malformed("imatrix.empty", "it has no entries"));
    }
    let mut out = BTreeMap::new();
    for name in names {
        let (Some(sums), Some(counts)) = (sums.remove(&name), counts.remove(&name)) else {
            let message = "sums and counts are not both there";
            return Err(Error::malformed("imatrix.pair", message).within(name));
        };
        if counts.iter().any(|c| !c.is_finite()) {
            let message = "a count is no number";
            return Err(Error::malformed("imatrix.counts", message).within(name));
        }
        // Half away from zero, as `lround`.
        let counts = counts.iter().map(|c| c.round() as i64).collect();
        out.insert(name, Entry { sums, counts });
    }
    Ok(out)
}

fn floats(t: &Tensor) -> Result<Vec<f32>> {
    if t.dtype != DType::F32 {
        let message = format!("the tensor is {}, not F32", t.dtype);
        return Err(Error::malformed("imatrix.dtype", message).within(t.name.as_str()));
    }
    let bytes = t.read_vec()?;
    let parts = bytes.as_chunks::<4>().0;
    Ok(parts.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// The tensor of `values`, rows of `columns`; a single row has one dimension.
fn tensor(name: String, values: impl Iterator<Item = f32>, shape: &[u64]) -> Result<Tensor> {
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let len = bytes.len() as u64;
    let source = Arc::new(SliceSource::new(bytes, name.as_str()));
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new(name.as_str(), len, false, data)?);
    let view = TensorSource::View(View { storage, offset: 0 });
    let shape = trimmed(shape).unwrap_or_else(|| shape.iter().copied().collect());
    Ok(Tensor::new(name, DType::F32, &shape, view))
}

pub(super) fn write(matrix: &Matrix, path: &Path, sync: bool) -> Result<()> {
    let mut model = Model::new(FormatId::Gguf);
    let u32 = |n| Value::Number(Number::U32(n));
    let datasets = Packed::from_strings(&matrix.datasets);
    model.metadata = vec![
        ("general.type".into(), Value::Str("imatrix".into())),
        (DATASETS.into(), Value::Packed(datasets)),
        (CHUNK_COUNT.into(), u32(matrix.chunk_count.max(0) as u32)),
        (CHUNK_SIZE.into(), u32(matrix.chunk_size)),
    ];
    for (name, e) in &matrix.entries {
        let n = e.counts.len().max(1);
        let (rows, columns) = (n as u64, (e.sums.len() / n) as u64);
        let sums = e.sums.iter().copied();
        let counts = e.counts.iter().map(|c| *c as f32);
        let tensors = &mut model.tensors;
        tensors.push(tensor(format!("{name}{SUMS}"), sums, &[rows, columns])?);
        tensors.push(tensor(format!("{name}{COUNTS}"), counts, &[rows, 1])?);
    }
    let plan = Gguf.plan(&model, &WriteOptions::default())?;
    if let Some(n) = plan.lost.first() {
        let message = format!("{}: {}", n.what, n.why);
        return Err(Error::unsupported("imatrix.write", message));
    }
    output::write_plan(&Gguf, &model, &plan, path, sync, &mut |_| {})?;
    Ok(())
}
