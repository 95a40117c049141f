//! How the numbers of a tensor are stored: sparse, quantized.

use std::sync::Arc;

use weighbridge_core::Limits;
use weighbridge_core::Result;
use weighbridge_core::model::{
    DType, Dict, Quantization, Storage, StorageData, Tensor, TensorSource, Value as Meta, View,
    Warning,
};
use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::flatbuffer::{Table, Vector};

use super::{MOST_DIMS, Reading, field};

impl Reading<'_> {
    /// Notes how a sparse tensor is stored; says whether it is one.
    pub(super) fn sparsity(&mut self, table: Table, t: &mut Tensor) -> Result<bool> {
        let Some(s) = self.buffer.child(table, field::tensor::SPARSITY)? else {
            return Ok(false);
        };
        let list = |all: Vec<u32>| {
            let one = |n: u32| Meta::Int(i64::from(n as i32));
            Meta::List(all.into_iter().map(one).collect())
        };
        let mut said = vec![
            ("traversal_order", list(self.indices(s, 0)?)),
            ("block_map", list(self.indices(s, 1)?)),
        ];
        if let Some(dims) = self.buffer.vector(s, 2, 4)? {
            Limits::check(dims.len, 2 * MOST_DIMS, "tflite.dimensions", "dimensions")?;
            let mut formats = Vec::new();
            for i in 0..dims.len {
                let dim = self.buffer.table_in(dims, i)?;
                let csr = self.buffer.u8(dim, 0)?.unwrap_or(0) == 1;
                formats.push(Meta::Str(if csr { "sparse" } else { "dense" }.into()));
            }
            said.push(("dimensions", Meta::List(formats)));
        }
        let entries = said.into_iter().map(|(k, v)| (Meta::Str(k.into()), v));
        let said = Meta::Dict(Dict {
            entries: entries.collect(),
            ..Dict::default()
        });
        t.extra_mut().attributes.push(("sparsity".into(), said));
        let message = format!("tensor {:?} is sparse: its values are not read", t.name);
        let warning = Warning::new("tflite.sparse", message);
        self.out.model.warnings.push(warning);
        Ok(true)
    }

    /// Affine quantization: scales and zero points for the tensor or along a dimension.
    pub(super) fn quantization(&mut self, table: Table, t: &mut Tensor) -> Result<()> {
        let Some(q) = self.buffer.child(table, field::tensor::QUANTIZATION)? else {
            return Ok(());
        };
        let scales = self.buffer.vector(q, 2, 4)?.filter(|v| v.len > 0);
        let zeros = self.buffer.vector(q, 3, 8)?.filter(|v| v.len > 0);
        let Some(scales) = scales else {
            return Ok(());
        };
        let zero = |i| match zeros {
            Some(v) if i < v.len => Ok(self.buffer.u64_in(v, i)? as i64),
            _ => Ok(0),
        };
        let quantized = match t.dtype {
            DType::I8 => Some(DType::QI8),
            DType::U8 => Some(DType::QU8),
            DType::I32 => Some(DType::QI32),
            _ => None,
        };
        if scales.len == 1 {
            let scale = f64::from(f32::from_bits(self.buffer.u32_in(scales, 0)?));
            let zero_point = zero(0)?;
            match quantized {
                Some(d) => {
                    t.dtype = d;
                    t.extra_mut().quantization =
                        Some(Quantization::PerTensor { scale, zero_point });
                }
                None => {
                    let said = &mut t.extra_mut().attributes;
                    said.push(("scale".into(), Meta::Float(scale)));
                    said.push(("zero_point".into(), Meta::Int(zero_point)));
                }
            }
            return Ok(());
        }
        let axis = self.buffer.u32(q, 6)?.unwrap_or(0);
        // Converters of TensorFlow 1 give a bias the dimension of its weights, and the kernels do not
        // look at it: a row of numbers has but one.
        let axis = match t.shape.len() {
            1 => 0,
            _ => usize::try_from(axis).unwrap_or(usize::MAX),
        };
        let fits = t.shape.get(axis) == Some(&scales.len);
        let zeros_fit = zeros.is_none_or(|z| z.len == scales.len || z.len == 1);
        let Some(quantized) = quantized.filter(|_| fits && zeros_fit) else {
            if !fits || !zeros_fit {
                self.fault(&t.name, q.at, "its scales do not fit its shape");
            }
            let said = &mut t.extra_mut().attributes;
            said.push(("scales".into(), Meta::Int(scales.len as i64)));
            said.push(("quantized_dimension".into(), Meta::Int(axis as i64)));
            return Ok(());
        };
        let zero_points = match zeros {
            Some(z) if z.len == scales.len => self.view("zero_points", DType::I64, z),
            _ => self.repeated(zero(0)?, scales.len)?,
        };
        let scales = self.view("scales", DType::F32, scales);
        t.dtype = quantized;
        t.extra_mut().quantization = Some(Quantization::PerChannel {
            axis,
            scales,
            zero_points,
            float_qparams: false,
        });
        Ok(())
    }

    fn view(&self, name: &str, dtype: DType, v: Vector) -> Tensor {
        let view = View {
            storage: Arc::clone(&self.storage),
            offset: v.start,
        };
        Tensor::new(name, dtype, &[v.len], TensorSource::View(view))
    }

    /// One zero point for every scale.
    fn repeated(&self, zero: i64, n: u64) -> Result<Tensor> {
        let bytes = zero.to_le_bytes().repeat(usize::try_from(n).unwrap_or(0));
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, "zero_points")),
            offset: 0,
            checksum: None,
        };
        let view = View {
            storage: Arc::new(Storage::new("zero_points", len, false, data)?),
            offset: 0,
        };
        Ok(Tensor::new(
            "zero_points",
            DType::I64,
            &[n],
            TensorSource::View(view),
        ))
    }
}
