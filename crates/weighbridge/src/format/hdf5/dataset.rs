//! A dataset as a tensor.

use std::sync::Arc;

use weighbridge_core::model::{
    DType, Shape, Storage, StorageData, Tensor, TensorSource, View, Warning,
};
use weighbridge_core::wire::hdf5::{ChunkIndex, Dataset, File, Header, Layout};
use weighbridge_core::{Error, Result};

use super::compute::Stored;
use super::types::{Form, describe, extra, lower_named};

/// Makes tensors of the datasets of one file.
#[derive(Debug)]
pub(super) struct Tensors {
    file: Arc<File>,
    little: Arc<Storage>,
    big: Arc<Storage>,
    /// What all tensors may still expand to.
    left: u64,
    cap: u64,
}

impl Tensors {
    pub(super) fn new(file: &Arc<File>) -> Result<Self> {
        let source = file.source();
        let region = |big_endian| -> Result<Arc<Storage>> {
            let data = StorageData::Raw {
                source: Arc::clone(source),
                offset: 0,
                checksum: None,
            };
            let storage = Storage::new("data", source.len(), big_endian, data)?;
            Ok(Arc::new(storage.into_region()))
        };
        let cap = file.limits().expand_cap(source.len());
        Ok(Self {
            file: Arc::clone(file),
            little: region(false)?,
            big: region(true)?,
            left: cap,
            cap,
        })
    }

    /// The tensor called `name` of the dataset that `header` is of, without its attributes, of
    /// which the one called `dtype` is `named`.
    pub(super) fn of(
        &mut self,
        name: &str,
        header: &Header<'_>,
        named: Option<&str>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Tensor> {
        let at = self.file.place(header.address);
        let dataset = self.file.dataset(header)?;
        let lowered = lower_named(&dataset.datatype, named);
        let mut warn = |rule, message: String| {
            warnings.push(Warning {
                offset: Some(at),
                ..Warning::new(rule, message)
            });
        };
        let read = lowered.form != Form::Other;
        let extras = extra(&dataset.datatype).filter(|(key, _)| key != "type" || !read);
        let mut tensor = match &dataset.space.dims {
            None => {
                let view = self.view(false, 0);
                Tensor::new(name, DType::Null, &[0], view)
            }
            Some(dims) => {
                let mut shape: Shape = dims.clone();
                shape.extend(lowered.dims.iter().copied());
                // A text comes with its length.
                let before = if lowered.dtype.is_text() { 8 } else { 0 };
                let each = u64::from(dataset.datatype.size) + before;
                let bytes = dataset.space.elements().and_then(|n| n.checked_mul(each));
                self.spend(bytes, at)?;
                let source = if let Some(file) = dataset.external.first() {
                    let message = format!("{name} lies in the file {}", file.file);
                    warn("hdf5.external-storage", message);
                    TensorSource::Absent
                } else if let Layout::Virtual { .. } = dataset.layout {
                    let message = format!("{name} is put together from other datasets");
                    warn("hdf5.virtual-dataset", message);
                    TensorSource::Absent
                } else if lowered.form == Form::Other {
                    let kind = describe(&dataset.datatype);
                    warn(
                        "hdf5.datatype",
                        format!("{name} is {kind}: it is listed, not read"),
                    );
                    TensorSource::Absent
                } else {
                    if let Some(filter) = dataset.pipeline.unknown() {
                        let label = filter.label();
                        let message =
                            format!("{name} is behind the filter {label}, not known here");
                        warn("hdf5.filter", message);
                    }
                    self.source(dataset, lowered.form, lowered.dtype, at)?
                };
                Tensor::new(name, lowered.dtype, &shape, source)
            }
        };
        if let Some(extra) = extras {
            tensor.extra_mut().attributes.push(extra);
        }
        Ok(tensor)
    }

    /// Counts a tensor that has another name as well.
    pub(super) fn again(&mut self, t: &Tensor, at: u64) -> Result<()> {
        let each = match t.dtype {
            DType::Str => Some(16),
            DType::Bytes(n) => Some(u64::from(n) + 8),
            other => other.bytes().or(Some(8)),
        };
        let bytes = t.numel().and_then(|n| n.checked_mul(each?));
        self.spend(bytes, at)
    }

    /// Counts what a dataset expands to; `None` for more than can be counted.
    fn spend(&mut self, bytes: Option<u64>, at: u64) -> Result<()> {
        let left = bytes.and_then(|b| self.left.checked_sub(b));
        self.left = left.ok_or_else(|| {
            let message = format!(
                "the datasets come to more than {} bytes, far more than the file",
                self.cap
            );
            Error::limit("hdf5.expand", message)
                .at(at)
                .help("raise the limit if the file is to be trusted")
        })?;
        Ok(())
    }

    fn view(&self, big_endian: bool, offset: u64) -> TensorSource {
        let storage = if big_endian { &self.big } else { &self.little };
        TensorSource::View(View {
            storage: Arc::clone(storage),
            offset,
        })
    }

    /// Where the values are: as they lie in the file where they do so, else decoded.
    fn source(&self, d: Dataset, form: Form, dtype: DType, at: u64) -> Result<TensorSource> {
        let dims = d.space.dims.clone().unwrap_or_default();
        let bytes = d
            .space
            .elements()
            .unwrap_or(0)
            .saturating_mul(d.datatype.size.into());
        if let Form::Numbers { big_endian } = form {
            let plain = match &d.layout {
                _ if bytes == 0 => Some(0),
                Layout::Contiguous {
                    address: Some(address),
                    ..
                } => Some(
                    self.file
                        .range(*address, bytes)
                        .map_err(|e| e.at(at))?
                        .start,
                ),
                Layout::Compact { data, at } if data.len() as u64 >= bytes => Some(*at),
                Layout::Chunked {
                    chunk,
                    index: ChunkIndex::Single(None),
                    address: Some(address),
                    ..
                } if *chunk == dims && d.pipeline.filters.is_empty() => {
                    Some(self.file.range(*address, bytes)?.start)
                }
                _ => None,
            };
            if let Some(offset) = plain {
                return Ok(self.view(big_endian, offset));
            }
        }
        Ok(TensorSource::Computed(Arc::new(Stored {
            file: Arc::clone(&self.file),
            dataset: Arc::new(d),
            at,
            form,
            swap: dtype.swap_width(),
        })))
    }
}
