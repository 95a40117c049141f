//! One array: an element type, a shape, an order, and bytes; from `.npy`, from pickles, from
//! joblib's streams.

use std::sync::Arc;

use weighbridge_core::model::{
    Chunks, Compute, DType, Shape, Storage, StorageData, Strided, Tensor, TensorSource, Value,
    View, Warning,
};
use weighbridge_core::wire::npy::Dtype;
use weighbridge_core::{Error, Result};

use super::element::{self, Element};
use super::texts::Texts;

/// What a file says of an array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Array<'a> {
    /// The name of the tensor.
    pub(crate) name: &'a str,
    /// The element type.
    pub(crate) dtype: &'a Dtype,
    /// The type as the file spells it, where it says more than `dtype` does (units of dates).
    pub(crate) descr: Option<&'a str>,
    /// The shape.
    pub(crate) shape: &'a [u64],
    /// Whether the first index runs fastest.
    pub(crate) fortran: bool,
}

impl Array<'_> {
    /// The tensor whose bytes begin at `offset` of the storage that `storage` makes, of the given
    /// byte order. What had to be decided is in `warnings`.
    ///
    /// # Errors
    /// What `storage` gives, and `Truncated` with `numpy.short-data` when it ends before the array.
    pub(crate) fn tensor(
        &self,
        storage: &dyn Fn(bool) -> Result<Arc<Storage>>,
        offset: u64,
        warnings: &mut Vec<Warning>,
    ) -> Result<Tensor> {
        let element = Element::new(self.dtype).ok_or_else(|| {
            Error::unsupported(
                "numpy.objects",
                "an array of objects has no bytes of its own",
            )
        })?;
        if let Some((rule, message)) = element.warning {
            warnings.push(Warning::new(rule, format!("{:?}: {message}", self.name)));
        }
        let shape: Shape = self.shape.iter().chain(&element.inner).copied().collect();
        let source = if element.readable {
            let storage = storage(element.big_endian)?;
            self.fits(&element, &shape, &storage, offset)?;
            self.source(&element, &shape, storage, offset)?
        } else {
            TensorSource::Absent
        };
        let mut tensor = Tensor::new(self.name, element.dtype, &shape, source);
        self.describe(&element, &mut tensor);
        Ok(tensor)
    }

    /// What the dtype alone does not say goes to the attributes.
    fn describe(&self, element: &Element, tensor: &mut Tensor) {
        let told = element.warning.is_some() || element.unicode;
        let fields = element::fields(self.dtype);
        if !told && fields.is_none() {
            return;
        }
        let attributes = &mut tensor.extra_mut().attributes;
        match fields {
            Some(fields) => attributes.push(("fields".into(), fields)),
            None => {
                let spelled = match self.descr {
                    Some(descr) => descr.to_owned(),
                    None => element::spelled(self.dtype),
                };
                attributes.push(("numpy_dtype".into(), Value::Str(spelled)));
            }
        }
    }

    fn fits(&self, element: &Element, shape: &[u64], storage: &Storage, offset: u64) -> Result<()> {
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = count.and_then(|n| n.checked_mul(element.width));
        let end = bytes.and_then(|n| n.checked_add(offset));
        if end.is_some_and(|end| end <= storage.len()) {
            return Ok(());
        }
        let here = storage.len().saturating_sub(offset);
        let message = match bytes {
            Some(bytes) => format!("the array takes {bytes} bytes, {here} are there"),
            None => "the size of the array overflows".to_owned(),
        };
        Err(Error::truncated("numpy.short-data", message)
            .at(offset)
            .help("the file was cut short; fetch it again"))
    }

    fn source(
        &self,
        element: &Element,
        shape: &[u64],
        storage: Arc<Storage>,
        offset: u64,
    ) -> Result<TensorSource> {
        let strides = self.strides(element);
        if element.dtype.is_text() {
            let texts = Texts::new(element, shape, strides.as_deref(), storage, offset)?;
            return Ok(TensorSource::Computed(Arc::new(texts)));
        }
        let Some(strides) = strides else {
            return Ok(TensorSource::View(View { storage, offset }));
        };
        Ok(strided(
            storage,
            offset,
            &strides,
            element.width,
            shape,
            element.dtype,
        ))
    }

    /// The steps of an array whose first index runs fastest, in elements of the tensor; `None`
    /// where the order is the usual one.
    fn strides(&self, element: &Element) -> Option<Vec<u64>> {
        let long = self.shape.iter().filter(|&&d| d != 1).count() > 1;
        if !self.fortran || !long {
            return None;
        }
        let mut step = element.inner.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        let mut out = Vec::with_capacity(self.shape.len());
        for &d in self.shape {
            out.push(step);
            step = step.saturating_mul(d);
        }
        let mut inner = vec![1u64; element.inner.len()];
        let mut step = 1u64;
        for (s, &d) in inner.iter_mut().zip(&element.inner).rev() {
            *s = step;
            step = step.saturating_mul(d);
        }
        out.extend(inner);
        Some(out)
    }
}

/// A strided view whose first element lies at byte `offset`. Strides count elements from the
/// storage's first byte: where the offset is no multiple of their width, the bytes are looked at
/// through a storage of their own when they are read.
pub(super) fn strided(
    storage: Arc<Storage>,
    offset: u64,
    strides: &[u64],
    width: u64,
    shape: &[u64],
    dtype: DType,
) -> TensorSource {
    let view = |storage, offset| {
        TensorSource::Strided(Box::new(Strided {
            storage,
            offset,
            strides: strides.into(),
            conj: false,
            neg: false,
        }))
    };
    if width > 0 && offset.is_multiple_of(width) {
        return view(storage, offset / width);
    }
    let shifted = Shifted {
        storage,
        offset,
        strides: strides.into(),
        shape: shape.into(),
        dtype,
    };
    TensorSource::Computed(Arc::new(shifted))
}

/// A strided view that begins between two elements of its storage.
#[derive(Debug)]
struct Shifted {
    storage: Arc<Storage>,
    offset: u64,
    strides: Shape,
    shape: Shape,
    dtype: DType,
}

impl Compute for Shifted {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.storage.verify()?;
        let (source, base) = self.storage.random()?;
        let data = StorageData::Raw {
            source,
            offset: base.saturating_add(self.offset),
            checksum: None,
        };
        let len = self.storage.len().saturating_sub(self.offset);
        let big = self.storage.is_big_endian();
        let own = Storage::new(self.storage.name(), len, big, data)?;
        let source = TensorSource::Strided(Box::new(Strided {
            storage: Arc::new(own),
            offset: 0,
            strides: self.strides.clone(),
            conj: false,
            neg: false,
        }));
        Tensor::new("", self.dtype, &self.shape, source).stream(&mut Chunks::new(), sink)
    }
}
