//! Blocks of GGUF as blocks of `MatMulNBits` and back, without a change to any value: `Q4_0` is 4
//! bits in blocks of 32 with zero point 8, `Q8_0` is 8 bits in blocks of 32 with zero point 128
//! (`ggml-common.h` of llama.cpp; `docs/ContribOperators.md` of ONNX Runtime). Only the order of
//! nibbles differs: `Q4_0` has value `i` beside value `i + 16`, `MatMulNBits` beside its neighbour.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weighbridge_core::model::{
    AttributeValue, Compute, DType, GraphNode, Model, Tensor, TensorSource,
};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::scalar;

use super::weight::size;

/// Values of a block.
pub(super) const BLOCK: usize = 32;

/// Tensors of a GGUF file that take the place of constants of a graph.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    tensors: HashMap<String, Tensor>,
    /// Names of the graph's constants and of the tensors for them, where they differ.
    map: HashMap<String, String>,
}

impl Blocks {
    /// The `Q4_0` and `Q8_0` tensors of `model`; `map` has pairs of a constant's name and a
    /// tensor's.
    ///
    /// # Errors
    /// `Parameter` when a name of `map` is no such tensor.
    pub fn new(model: &Model, map: &[(String, String)]) -> Result<Self> {
        let fits = |t: &&Tensor| bits(t.dtype).is_some() && t.shape.len() == 2;
        let tensors = model.tensors.iter().filter(fits);
        let tensors: HashMap<String, Tensor> =
            tensors.map(|t| (t.name.clone(), t.clone())).collect();
        for (_, name) in map {
            if !tensors.contains_key(name) {
                let message = format!("{name} is no matrix of Q4_0 or Q8_0 in the GGUF file");
                return Err(Error::parameter("quantize.map", message));
            }
        }
        Ok(Self {
            tensors,
            map: map.iter().cloned().collect(),
        })
    }

    /// The tensor in the place of the constant `name` of `k` rows and `n` columns.
    pub(super) fn get(&self, name: &str, k: u64, n: u64) -> Result<Option<&Tensor>> {
        let mapped = self.map.get(name);
        let found = self.tensors.get(mapped.map_or(name, String::as_str));
        let Some(t) = found else { return Ok(None) };
        if t.shape.as_slice() == [n, k] {
            return Ok(Some(t));
        }
        if mapped.is_none() {
            return Ok(None);
        }
        let message = format!(
            "{} has the shape {:?}, {name} asks for {n} rows of {k}",
            t.name,
            t.shape.as_slice()
        );
        Err(Error::parameter("quantize.map", message))
    }
}

/// Bits of an integer of a dtype that can be taken over.
pub(super) fn bits(dtype: DType) -> Option<u32> {
    match dtype {
        DType::Q4_0 => Some(4),
        DType::Q8_0 => Some(8),
        _ => None,
    }
}

/// Bytes of a block.
pub(super) fn stored(bits: u32) -> usize {
    2 + BLOCK * bits as usize / 8
}

/// Blocks of GGUF as integers and scales of `MatMulNBits`.
pub(super) fn unpack(bits: u32, blocks: &[u8], integers: &mut Vec<u8>, scales: &mut Vec<f32>) {
    for block in blocks.chunks_exact(stored(bits)) {
        let (scale, values) = block.split_at(2);
        let scale = u16::from_le_bytes(
            [scale.first().copied(), scale.get(1).copied()].map(Option::unwrap_or_default),
        );
        scales.push(scalar::f16_to_f32(scale));
        if bits == 8 {
            integers.extend(values.iter().map(|v| v ^ 0x80));
            continue;
        }
        let at = |i: usize| {
            let byte = values.get(i % 16).copied().unwrap_or(0);
            byte >> (i / 16 * 4) & 0xf
        };
        integers.extend((0..16).map(|i| at(2 * i) | at(2 * i + 1) << 4));
    }
}

/// The other way. `None` where a scale is no binary16 number.
fn pack(bits: u32, integers: &[u8], scales: &[f32], out: &mut Vec<u8>) -> Option<()> {
    let blob = BLOCK * bits as usize / 8;
    for (values, &scale) in integers.chunks_exact(blob).zip(scales) {
        let half = scalar::f32_to_f16(scale);
        if scalar::f16_to_f32(half).to_bits() != scale.to_bits() {
            return None;
        }
        out.extend_from_slice(&half.to_le_bytes());
        if bits == 8 {
            out.extend(values.iter().map(|v| v ^ 0x80));
            continue;
        }
        let at = |i: usize| values.get(i / 2).copied().unwrap_or(0) >> (i % 2 * 4) & 0xf;
        out.extend((0..16).map(|i| at(i) | at(i + 16) << 4));
    }
    Some(())
}

/// Puts the blocks of `MatMulNBits` operators among the model's tensors as what GGUF calls them,
/// where they can be: 4 or 8 bits, blocks of 32, no zero points, scales that are binary16 numbers.
/// Gives the names of those that became blocks.
///
/// # Errors
/// What reading scales gives.
pub fn with_gguf_blocks(model: &mut Model) -> Result<Vec<String>> {
    let Some(graph) = model.graph.clone() else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (i, t) in model.tensors.iter().enumerate() {
        known.entry(t.name.clone()).or_insert(i);
    }
    let mut gone = HashSet::new();
    for node in graph.nodes.iter().filter(|n| n.operator == "MatMulNBits") {
        let Some((dtype, n, k)) = shape(node) else {
            continue;
        };
        let tensor = |i: usize| known.get(node.inputs.get(i)?).copied();
        let (Some(q), Some(s)) = (tensor(1), tensor(2)) else {
            continue;
        };
        let (Some(integers), Some(scales)) = (model.tensors.get(q), model.tensors.get(s)) else {
            continue;
        };
        let blocks = Packed {
            integers: integers.clone(),
            scales: scales.clone(),
            bits: bits(dtype).unwrap_or(4),
        };
        if !blocks.fits(n, k)? {
            continue;
        }
        let end = format!("_Q{}", blocks.bits);
        known.remove(&integers.name);
        known.remove(&scales.name);
        let name = integers
            .name
            .strip_suffix(&end)
            .unwrap_or(&integers.name)
            .to_owned();
        let source = TensorSource::Computed(Arc::new(blocks));
        let made = Tensor::new(name.clone(), dtype, &[n, k], source);
        if let Some(place) = model.tensors.get_mut(q) {
            *place = made;
        }
        known.entry(name.clone()).or_insert(q);
        gone.insert(s);
        names.push(name);
    }
    let mut at = 0..;
    model
        .tensors
        .retain(|_| !at.next().is_some_and(|i| gone.contains(&i)));
    Ok(names)
}

/// The dtype and dimensions of an operator's blocks.
fn shape(node: &GraphNode) -> Option<(DType, u64, u64)> {
    let int = |name: &str| {
        let found = node.attributes.iter().find(|a| a.name == name)?;
        match found.value {
            AttributeValue::Int(n) => u64::try_from(n).ok(),
            _ => None,
        }
    };
    let more = node.inputs.iter().skip(3).any(|n| !n.is_empty());
    let dtype = match int("bits").unwrap_or(4) {
        4 => DType::Q4_0,
        8 => DType::Q8_0,
        _ => return None,
    };
    let (n, k) = (int("N")?, int("K")?);
    let fits = !more && int("block_size") == Some(BLOCK as u64) && k % BLOCK as u64 == 0;
    fits.then_some((dtype, n, k))
}

/// The blocks of an operator, put together while they are read.
#[derive(Debug)]
struct Packed {
    integers: Tensor,
    scales: Tensor,
    bits: u32,
}

impl Packed {
    fn scales(&self) -> Result<Vec<f32>> {
        let bytes = self.scales.bytes()?;
        let width = self.scales.dtype.bytes().unwrap_or(4) as usize;
        let mut out = vec![0f32; bytes.len() / width.max(1)];
        let kind = crate::convert::kind_of(self.scales.dtype);
        kind.map(|k| weighbridge_kernels::decode_f32(k, &bytes, &mut out));
        Ok(out)
    }

    /// Whether sizes agree and scales are binary16 numbers.
    fn fits(&self, n: u64, k: u64) -> Result<bool> {
        let blocks = n.saturating_mul(k / BLOCK as u64);
        let blob = BLOCK as u64 * u64::from(self.bits) / 8;
        if self.integers.dtype != DType::U8
            || self.integers.byte_len() != blocks.saturating_mul(blob)
            || self.scales.numel() != Some(blocks)
            || !matches!(self.scales.dtype, DType::F32 | DType::F16)
        {
            return Ok(false);
        }
        let exact = |s: &f32| {
            let back = scalar::f16_to_f32(scalar::f32_to_f16(*s));
            back.to_bits() == s.to_bits()
        };
        Ok(self.scales()?.iter().all(exact))
    }
}

impl Compute for Packed {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let scales = self.scales()?;
        let blob = BLOCK * self.bits as usize / 8;
        let (mut held, mut done, mut out) = (Vec::new(), 0usize, Vec::new());
        self.integers
            .stream(&mut weighbridge_core::model::Chunks::new(), &mut |part| {
                held.extend_from_slice(part);
                let whole = held.len() / blob;
                let scales = scales.get(done..).unwrap_or_default();
                out.clear();
                let values = held.get(..whole * blob).unwrap_or_default();
                if pack(self.bits, values, scales, &mut out).is_none() {
                    let message = "a scale is no binary16 number";
                    return Err(Error::lossy("quantize.range", message));
                }
                done += whole;
                held.drain(..size((whole * blob) as u64)?);
                sink(&out)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_kernels::block::{BlockType, dequantize_row, quantize_row};

    /// The values that integers and scales of `MatMulNBits` stand for.
    fn values(bits: u32, integers: &[u8], scales: &[f32]) -> Vec<f32> {
        let per = 8 / bits as usize;
        let mask = if bits == 4 { 0xf } else { 0xff };
        let zero = 1i32 << (bits - 1);
        (0..scales.len() * BLOCK)
            .map(|i| {
                let q = integers[i / per] >> (i % per * bits as usize) & mask;
                (i32::from(q) - zero) as f32 * scales[i / BLOCK]
            })
            .collect()
    }

    #[test]
    fn values_are_the_same_and_come_back() {
        let x: Vec<f32> = (0..32 * 9)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013)
            .collect();
        for (bits, kind) in [(4, BlockType::Q4_0), (8, BlockType::Q8_0)] {
            let mut blocks = vec![0; 9 * stored(bits)];
            quantize_row(kind, &x, None, &mut blocks);
            let mut want = vec![0f32; x.len()];
            dequantize_row(kind, &blocks, &mut want);
            let (mut integers, mut scales) = (Vec::new(), Vec::new());
            unpack(bits, &blocks, &mut integers, &mut scales);
            let got = values(bits, &integers, &scales);
            let same = got
                .iter()
                .zip(&want)
                .all(|(a, b)| a.to_bits() == b.to_bits() || a == b);
            assert!(same, "{bits}");
            let mut back = Vec::new();
            pack(bits, &integers, &scales, &mut back).unwrap();
            assert_eq!(back, blocks);
            scales[3] = 0.1;
            assert!(pack(bits, &integers, &scales, &mut Vec::new()).is_none());
        }
    }
}
