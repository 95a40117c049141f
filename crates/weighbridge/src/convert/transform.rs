//! Tensors whose values are computed on the way: casts, dequantization, complex as real.

use std::sync::Arc;

use weighbridge_core::model::{
    Chunks, Compute, DType, FormatId, Layout, Model, Quantization, Tensor, TensorSource,
};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::{Affine, Kind, Quantized, convert, decode_f64, dequantize};

use super::blocks::dequantized;
use super::dense::Dense;
use super::options::ConvertOptions;
use super::widen::widen;
use crate::format::Note;

/// The kernels' name of a dtype that is one real number an element.
pub(crate) fn kind_of(d: DType) -> Option<Kind> {
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
        DType::F6_E2M3 => Kind::F6_E2M3,
        DType::F6_E3M2 => Kind::F6_E3M2,
        DType::F4 => Kind::F4,
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

/// The dtype of a complex number's two parts.
pub(crate) fn part_of(d: DType) -> Option<DType> {
    match d {
        DType::C32 => Some(DType::F16),
        DType::C64 => Some(DType::F32),
        DType::C128 => Some(DType::F64),
        _ => None,
    }
}

/// Replaces the tensors of `model` that `options` want computed and lists them in `changed`.
pub(super) fn apply(
    model: &mut Model,
    options: &ConvertOptions,
    target: FormatId,
    keep: impl Fn(&str) -> bool,
    changed: &mut Vec<Note>,
) -> Result<()> {
    unshare(model, options, changed);
    // ONNX keeps the scales of such integers in tensors of their own.
    let onnx = model.format == FormatId::Onnx;
    for t in &mut model.tensors {
        if keep(&t.name) {
            continue;
        }
        if options.densify && t.sparse().is_some() {
            let why = format!("densified from {}", t.layout.as_str());
            if let Some(dense) = Dense::new(t) {
                compute(t, t.dtype, Arc::new(dense));
                changed.push(Note::new(t.name.as_str(), why));
            }
        }
        if options.dequantize && t.has_data() {
            let from = t.dtype;
            dequantize_blocks(t, options, changed);
            if let Some(d) = Dequantized::new(t) {
                compute(t, DType::F32, Arc::new(d));
                let why = format!("dequantized from {from} to F32");
                changed.push(Note::new(t.name.as_str(), why));
            }
            if onnx {
                widen(t, changed);
            }
        }
        if options.complex_as_real && !has_complex(target, t.dtype) {
            complex_as_real(t, changed);
        }
        if let Some(to) = options.dtype {
            dequantize_blocks(t, options, changed);
            cast(t, to, changed);
        }
    }
    Ok(())
}

/// Gives a tensor of a block dtype its values, as the dtype that is asked for.
fn dequantize_blocks(t: &mut Tensor, options: &ConvertOptions, changed: &mut Vec<Note>) {
    let dtype = options.dtype.unwrap_or(DType::F32);
    if let Some(values) = dequantized(t, dtype, options.threads) {
        let why = format!("dequantized from {} to {dtype}", t.dtype);
        changed.push(Note::new(t.name.as_str(), why));
        *t = values;
    }
}

/// Makes `t` a dense tensor of `dtype` with computed values.
fn compute(t: &mut Tensor, dtype: DType, source: Arc<dyn Compute>) {
    t.dtype = dtype;
    t.layout = Layout::Strided;
    t.source = TensorSource::Computed(source);
    if let Some(e) = &mut t.extra {
        e.quantization = None;
        e.sparse = None;
        e.attributes.retain(|(k, _)| k != "is_coalesced");
    }
}

/// Names the groups of tensors whose shared storage a cast takes apart.
fn unshare(model: &Model, options: &ConvertOptions, changed: &mut Vec<Note>) {
    let Some(to) = options.dtype else { return };
    for group in model.alias_groups() {
        let members: Vec<&Tensor> = group.iter().filter_map(|&i| model.tensors.get(i)).collect();
        if members.iter().any(|t| casts(t, to)) {
            let names: Vec<&str> = members.iter().map(|t| t.name.as_str()).collect();
            let why = "cast tensors share storage no longer: each is written in full";
            changed.push(Note::new(names.join(", "), why));
        }
    }
}

/// Whether `--dtype` applies: floating-point numbers that stand for themselves. The packed kinds
/// and F8_E8M0 only mean something together with scales.
fn casts(t: &Tensor, to: DType) -> bool {
    let scaled = matches!(
        t.dtype,
        DType::F4 | DType::F6_E2M3 | DType::F6_E3M2 | DType::F8_E8M0
    );
    t.has_data() && t.dtype.is_float() && !scaled && t.dtype != to
}

pub(crate) fn cast(t: &mut Tensor, to: DType, changed: &mut Vec<Note>) {
    if !casts(t, to) {
        return;
    }
    let from = t.dtype;
    let (Some(a), Some(b)) = (kind_of(from), kind_of(to)) else {
        return;
    };
    let input = t.clone();
    compute(
        t,
        to,
        Arc::new(Cast {
            input,
            from: a,
            to: b,
        }),
    );
    let kept = if a.fits_in(b) {
        ", every value is kept"
    } else {
        ""
    };
    changed.push(Note::new(
        t.name.as_str(),
        format!("cast from {from} to {to}{kept}"),
    ));
}

/// Whether files of `target` hold complex numbers like these. An ONNX graph says itself what it
/// wants.
fn has_complex(target: FormatId, dtype: DType) -> bool {
    match target {
        FormatId::Safetensors => dtype == DType::C64,
        FormatId::Gguf => false,
        FormatId::TfCheckpoint | FormatId::Numpy | FormatId::Hdf5 => dtype != DType::C32,
        _ => true,
    }
}

fn complex_as_real(t: &mut Tensor, changed: &mut Vec<Note>) {
    let (from, Some(part), true) = (t.dtype, part_of(t.dtype), t.has_data()) else {
        return;
    };
    if !matches!(t.source, TensorSource::View(_)) {
        let input = t.clone();
        t.source = TensorSource::Computed(Arc::new(Same { input }));
    }
    t.dtype = part;
    t.shape.push(2);
    let why =
        format!("{from} written as pairs of {part}, real part first, in a new last dimension");
    changed.push(Note::new(t.name.as_str(), why));
}

/// A tensor's own bytes, under another dtype.
#[derive(Debug)]
struct Same {
    input: Tensor,
}

impl Compute for Same {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.input.stream(&mut Chunks::new(), sink)
    }
}

/// A cast between real dtypes of whole bytes.
#[derive(Debug)]
struct Cast {
    input: Tensor,
    from: Kind,
    to: Kind,
}

impl Compute for Cast {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        self.input.stream(&mut Chunks::new(), &mut |part| {
            let n = self.from.elements(part.len()) * self.to.bits() / 8;
            if out.len() < n {
                out.resize(n, 0);
            }
            let out = out.get_mut(..n).unwrap_or_default();
            convert(self.from, self.to, part, out);
            sink(out)
        })
    }
}

/// Elements dequantized at a time.
const STEP: usize = 64 << 10;

/// The values of a quantized tensor.
#[derive(Debug)]
struct Dequantized {
    input: Tensor,
    kind: Quantized,
}

impl Dequantized {
    fn new(t: &Tensor) -> Option<Self> {
        t.quantization()?;
        let kind = match t.dtype {
            DType::QU8 => Quantized::U8,
            DType::QI8 => Quantized::I8,
            DType::QI32 => Quantized::I32,
            DType::U4 => Quantized::U4,
            DType::U2 => Quantized::U2,
            _ => return None,
        };
        Some(Self {
            input: t.clone(),
            kind,
        })
    }

    fn run(&self, affine: &Affine<'_>, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let total = self.input.numel().unwrap_or(0);
        let step = STEP * self.kind.bits() / 8;
        let mut first = 0u64;
        let mut values = vec![0f32; STEP];
        let mut out = Vec::with_capacity(STEP * 4);
        self.input.stream(&mut Chunks::new(), &mut |part| {
            for part in part.chunks(step) {
                let held = (part.len() * 8 / self.kind.bits()) as u64;
                let n = held.min(total - first) as usize;
                let values = values.get_mut(..n).unwrap_or_default();
                if dequantize(self.kind, part, first, affine, values) != n {
                    return Err(Error::malformed(
                        "quantized.parameters",
                        "the scales and zero points do not fit the tensor",
                    ));
                }
                out.clear();
                out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                first += n as u64;
                sink(&out)?;
            }
            Ok(())
        })
    }
}

impl Compute for Dequantized {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.input.quantization() {
            Some(Quantization::PerTensor { scale, zero_point }) => {
                let affine = Affine::PerTensor {
                    scale: *scale,
                    zero_point: *zero_point,
                };
                self.run(&affine, sink)
            }
            Some(Quantization::PerChannel {
                axis,
                scales,
                zero_points,
                float_qparams,
            }) => {
                let after = self.input.shape.iter().skip(axis + 1);
                let inner = after.fold(1u64, |n, &d| n.saturating_mul(d));
                let inner = usize::try_from(inner).unwrap_or(usize::MAX);
                let scales = doubles(scales)?;
                if *float_qparams {
                    let scales: Vec<f32> = scales.iter().map(|&x| x as f32).collect();
                    let zeros: Vec<f32> = doubles(zero_points)?.iter().map(|&x| x as f32).collect();
                    let affine = Affine::PerChannelFloat {
                        scales: &scales,
                        zero_points: &zeros,
                        inner,
                    };
                    return self.run(&affine, sink);
                }
                let zeros = doubles(zero_points)?
                    .iter()
                    .map(|&x| x as i64)
                    .collect::<Vec<_>>();
                let affine = Affine::PerChannel {
                    scales: &scales,
                    zero_points: &zeros,
                    inner,
                };
                self.run(&affine, sink)
            }
            None => Ok(()),
        }
    }
}

/// All values of a small tensor.
fn doubles(t: &Tensor) -> Result<Vec<f64>> {
    let kind = kind_of(t.dtype).ok_or_else(|| {
        Error::unsupported(
            "quantized.parameters",
            format!("scales or zero points of {}", t.dtype),
        )
    })?;
    let bytes = t.read_vec()?;
    let mut out = vec![0f64; kind.elements(bytes.len())];
    decode_f64(kind, &bytes, &mut out);
    Ok(out)
}
