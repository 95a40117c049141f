//! Stored tensors as the model has them: where their bytes lie, or how they are made.

use std::sync::Arc;

use weighbridge_core::model::{
    DType, Layout, Shape, Sparse, Storage, Tensor, TensorSource, View, Warning,
};
use weighbridge_core::{Error, Result};

use super::data::{Coordinates, TypedData, Unreadable, values_of};
use super::read::Lower;
use super::{external, raw, types};

impl Lower {
    /// A sparse tensor; its parts stay where they are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn sparse(&mut self, s: &raw::Sparse) -> Result<Tensor> {
        let values = self.tensor(&s.values)?;
        let indices = self.tensor(&s.indices)?;
        let title = format!("tensor {}", values.name);
        let bad = |m: &str| {
            Error::malformed("onnx.sparse", m)
                .at(s.span.start)
                .within(title.as_str())
        };
        let dims = shape(&s.dims).map_err(|e| e.at(s.span.start).within(title.as_str()))?;
        elements(&dims).map_err(|e| e.at(s.span.start).within(title.as_str()))?;
        let (rank, count) = (dims.len() as u64, values.numel().unwrap_or(0));
        if values.shape.len() != 1 {
            return Err(bad("the values are not of one dimension"));
        }
        let linear = match indices.shape.as_slice() {
            [n] if *n == count => true,
            [n, r] if *n == count && *r == rank => false,
            _ => {
                return Err(bad(
                    "the indices are not of the shape that the values ask for",
                ));
            }
        };
        if indices.dtype != DType::I64 {
            return Err(bad("the indices are not INT64"));
        }
        let columns = Tensor::new(
            "indices",
            DType::I64,
            &[rank, count],
            TensorSource::Computed(Arc::new(Coordinates {
                indices,
                dims: dims.to_vec(),
                linear,
            })),
        );
        let mut out = Tensor::new(
            values.name.clone(),
            values.dtype,
            &dims,
            TensorSource::Absent,
        );
        out.layout = Layout::SparseCoo;
        out.extra_mut().sparse = Some(Sparse {
            indices: vec![columns],
            values,
        });
        Ok(out)
    }

    /// A tensor; its bytes stay where they are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn tensor(&mut self, t: &raw::Tensor) -> Result<Tensor> {
        let name = t.name().to_owned();
        self.lower(t).map_err(|e| {
            let e = e.at(t.span.start);
            match name.is_empty() {
                true => e,
                false => e.within(format!("tensor {}", raw::short(&name))),
            }
        })
    }

    fn lower(&mut self, t: &raw::Tensor) -> Result<Tensor> {
        let dims = shape(&t.dims)?;
        let n = elements(&dims)?;
        let Some(dtype) = types::dtype(t.data_type) else {
            let message = format!("the element type {} is not known", t.data_type);
            return Err(Error::unsupported("onnx.data-type", message));
        };
        let source = match dtype {
            _ if t.is_external() => self.external(t, dtype, n)?,
            _ if t.raw.is_some() && dtype != DType::Str => self.raw(t, dtype, n)?,
            _ => self.typed(t, dtype, n)?,
        };
        Ok(Tensor::new(t.name(), dtype, &dims, source))
    }

    fn view(&self, storage: &Arc<Storage>, offset: u64) -> TensorSource {
        TensorSource::View(View {
            storage: Arc::clone(storage),
            offset,
        })
    }

    fn raw(&self, t: &raw::Tensor, dtype: DType, n: u64) -> Result<TensorSource> {
        let span = t.raw.unwrap_or_default();
        let needed = dtype.size_of(&[n]);
        if needed != Some(span.len()) {
            return Err(wrong_size(needed, span.len()).at(span.start));
        }
        Ok(self.view(&self.storage, span.start))
    }

    fn typed(&self, t: &raw::Tensor, dtype: DType, n: u64) -> Result<TensorSource> {
        let field = types::typed_field(dtype).map(|f| f.0);
        let values = values_of(dtype, n).unwrap_or(u64::MAX);
        let runs: Vec<raw::Typed> = t
            .typed
            .iter()
            .filter(|r| Some(r.number) == field)
            .copied()
            .collect();
        // Packed integers take one to ten bytes each: reading them tells how many there are.
        let (mut least, mut most) = (0u64, 0u64);
        for r in &runs {
            let (few, many) = match r.count {
                Some(n) => (n, n),
                None => (r.span.len().div_ceil(10), r.span.len()),
            };
            least = least.saturating_add(few);
            most = most.saturating_add(many);
        }
        if values < least || values > most {
            let message = format!(
                "the dimensions need {values} values, the tensor has {}",
                match least == most {
                    true => least.to_string(),
                    false => format!("{least} to {most}"),
                }
            );
            return Err(Error::malformed("onnx.tensor-size", message));
        }
        // Packed floats and doubles lie there as they are.
        if let [run] = runs.as_slice()
            && run.packed
            && matches!(run.number, 4 | 10)
        {
            return Ok(self.view(&self.storage, run.span.start));
        }
        Ok(TensorSource::Computed(Arc::new(TypedData {
            source: Arc::clone(&self.source),
            runs,
            dtype,
            values,
            name: t.name().to_owned(),
            at: t.span.start,
        })))
    }

    fn external(&mut self, t: &raw::Tensor, dtype: DType, n: u64) -> Result<TensorSource> {
        let place = external::place(t)?;
        let Some(needed) = dtype.size_of(&[n]) else {
            let message = "texts cannot lie in another file";
            return Err(Error::malformed("onnx.external-type", message));
        };
        if let Some(said) = place.length
            && said != needed
        {
            let message = format!("the dimensions need {needed} bytes, external data says {said}");
            return Err(Error::malformed("onnx.external-length", message));
        }
        let told = self.files.has_opened(&place.location);
        let storage = match self.files.open(&place.location) {
            Ok(s) => s,
            Err(why) if why.error().rule() == "onnx.external-missing" => {
                if !told {
                    let e = why.error();
                    self.warnings.push(Warning::new(e.rule(), e.message()));
                }
                return Ok(TensorSource::Computed(Arc::new(Unreadable {
                    why,
                    name: t.name().to_owned(),
                    file: self.source.name().to_owned(),
                })));
            }
            Err(why) => return Err(why.error()),
        };
        let end = place.offset.checked_add(needed);
        if end.is_none_or(|e| e > storage.len()) {
            let message = format!(
                "the tensor reaches to byte {} of {}, which has {}",
                place.offset.saturating_add(needed),
                place.location,
                storage.len()
            );
            return Err(Error::truncated("onnx.external-range", message)
                .help("the file was cut short or is another model's; fetch it again"));
        }
        Ok(self.view(&storage, place.offset))
    }
}

fn wrong_size(needed: Option<u64>, there: u64) -> Error {
    let message = match needed {
        Some(n) => format!("the dimensions need {n} bytes, the tensor has {there}"),
        None => format!("the tensor has {there} bytes, its dimensions no size"),
    };
    Error::malformed("onnx.tensor-size", message)
}

/// The dimensions of a stored tensor.
///
/// # Errors
/// `Malformed` when one is negative.
pub(super) fn shape(dims: &[i64]) -> Result<Shape> {
    let one = |&d: &i64| {
        u64::try_from(d).map_err(|_| {
            Error::malformed("onnx.dimensions", format!("a dimension is negative ({d})"))
        })
    };
    dims.iter().map(one).collect()
}

/// The number of elements.
///
/// # Errors
/// `Malformed` when it overflows.
pub(super) fn elements(dims: &[u64]) -> Result<u64> {
    if dims.contains(&0) {
        return Ok(0);
    }
    dims.iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(|| Error::malformed("onnx.dimensions", "the number of elements overflows"))
}
