//! Statistics of tensors: extremes, mean, deviation, and how many values are zero or no number.

use weighbridge_core::Result;
use weighbridge_core::model::{Chunks, DType, Model, Tensor};
use weighbridge_kernels::{Kind, decode_f64};

/// Values summed at a time. Blocks are counted from the first value, so that the result does not
/// depend on the pieces in which a format happens to give them.
const BLOCK: usize = 4096;

/// A number as exact as its dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Of an integer or truth value.
    Int(i128),
    /// Of a float.
    Float(f64),
}

impl Number {
    /// The number as a double, rounded where it does not fit.
    pub fn to_f64(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(x) => x,
        }
    }
}

/// What the values of a tensor look like.
///
/// Complex numbers count as their two components. Quantized tensors are described by their stored
/// integers; truth values are 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// How many values there are.
    pub count: u64,
    /// The least finite value; `None` when there is none.
    pub min: Option<Number>,
    /// The greatest finite value.
    pub max: Option<Number>,
    /// The mean of the finite values. For integers from their exact sum.
    pub mean: Option<f64>,
    /// The population standard deviation of the finite values (infinite where squares of values
    /// pass 1.8e308).
    pub std: Option<f64>,
    /// How many are zero, of either sign.
    pub zeros: u64,
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub inf: u64,
}

/// The statistics of a tensor's values, streamed through `chunks`; `None` for tensors without
/// dense data.
///
/// # Errors
/// Whatever reading gives.
pub fn stats(tensor: &Tensor, chunks: &mut Chunks) -> Result<Option<Stats>> {
    if !tensor.has_data() {
        return Ok(None);
    }
    // Of a block type, the values that it stands for.
    let plain = crate::convert::blocks::dequantized(tensor, DType::F32, 1);
    let tensor = plain.as_ref().unwrap_or(tensor);
    let Some(elements) = Elements::of(tensor.dtype) else {
        return Ok(None);
    };
    let numel = tensor.numel().unwrap_or(u64::MAX);
    let mut sum = Summary::new(elements, numel.saturating_mul(elements.parts));
    tensor.stream(chunks, &mut |part| {
        sum.take(part);
        Ok(())
    })?;
    Ok(Some(sum.finish()))
}

/// The statistics of every tensor, in the order of the model's tensors, on all processors.
/// `progress` is told the bytes done since its last call, from any thread.
///
/// # Errors
/// As [`stats`].
pub fn stats_all(model: &Model, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Option<Stats>>> {
    crate::hash::for_each_parallel(&model.tensors, |t, chunks| {
        let answer = stats(t, chunks)?;
        progress(t.byte_len());
        Ok(answer)
    })
}

/// How the bytes of a dtype are read as numbers.
#[derive(Debug, Clone, Copy)]
struct Elements {
    encoding: Encoding,
    /// Numbers an element: 2 for complex ones.
    parts: u64,
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Plain(Kind),
    /// Integers of fewer than 8 bits, the lowest bits first.
    Packed {
        bits: u32,
        signed: bool,
    },
}

/// The kernels' name of a dtype that is one plain number an element; `None` for complex and packed
/// integer dtypes. Quantized dtypes are their stored integers.
pub fn kind_of(dtype: DType) -> Option<Kind> {
    Some(match dtype {
        DType::Bool => Kind::Bool,
        DType::F4 => Kind::F4,
        DType::F6_E2M3 => Kind::F6_E2M3,
        DType::F6_E3M2 => Kind::F6_E3M2,
        DType::U8 | DType::QU8 => Kind::U8,
        DType::I8 | DType::QI8 => Kind::I8,
        DType::F8_E5M2 => Kind::F8_E5M2,
        DType::F8_E4M3 => Kind::F8_E4M3,
        DType::F8_E8M0 => Kind::F8_E8M0,
        DType::F8_E4M3FNUZ => Kind::F8_E4M3FNUZ,
        DType::F8_E5M2FNUZ => Kind::F8_E5M2FNUZ,
        DType::I16 => Kind::I16,
        DType::U16 => Kind::U16,
        DType::F16 => Kind::F16,
        DType::BF16 => Kind::BF16,
        DType::I32 | DType::QI32 => Kind::I32,
        DType::U32 => Kind::U32,
        DType::F32 => Kind::F32,
        DType::F64 => Kind::F64,
        DType::I64 => Kind::I64,
        DType::U64 => Kind::U64,
        _ => return None,
    })
}

impl Elements {
    fn of(dtype: DType) -> Option<Self> {
        let packed = |bits, signed| Encoding::Packed { bits, signed };
        let (encoding, parts) = match dtype {
            DType::C32 => (Encoding::Plain(Kind::F16), 2),
            DType::C64 => (Encoding::Plain(Kind::F32), 2),
            DType::C128 => (Encoding::Plain(Kind::F64), 2),
            DType::U4 => (packed(4, false), 1),
            DType::I4 => (packed(4, true), 1),
            DType::U2 => (packed(2, false), 1),
            DType::I2 => (packed(2, true), 1),
            d => (Encoding::Plain(kind_of(d)?), 1),
        };
        Some(Self { encoding, parts })
    }
}

impl Encoding {
    /// The least number of bytes that holds whole values, and how many it holds.
    fn unit(self) -> (usize, usize) {
        let bits = match self {
            Self::Plain(kind) => kind.bits(),
            Self::Packed { bits, .. } => bits as usize,
        };
        match bits {
            6 => (3, 4),
            bits if bits < 8 => (1, 8 / bits),
            bits => (bits / 8, 1),
        }
    }

    fn decode(self, src: &[u8], dst: &mut [f64]) -> usize {
        match self {
            Self::Plain(kind) => decode_f64(kind, src, dst),
            Self::Packed { bits, signed } => {
                let per = (8 / bits) as usize;
                let n = dst.len().min(src.len() * per);
                for (i, d) in dst.iter_mut().take(n).enumerate() {
                    let byte = src.get(i / per).copied().unwrap_or_default();
                    // Shifted to the top and back, so that a sign bit fills from the left.
                    let top = byte >> (i % per * bits as usize) << (8 - bits);
                    *d = if signed {
                        f64::from((top as i8) >> (8 - bits))
                    } else {
                        f64::from(top >> (8 - bits))
                    };
                }
                n
            }
        }
    }

    fn is_int(self) -> bool {
        match self {
            Self::Plain(kind) => kind.is_int(),
            Self::Packed { .. } => true,
        }
    }
}

/// The sums while values arrive.
struct Summary {
    encoding: Encoding,
    /// Values still to come: packed dtypes pad their last byte.
    left: u64,
    /// Bytes of a block that is not full yet.
    bytes: Vec<u8>,
    block_bytes: usize,
    values: Vec<f64>,
    count: u64,
    finite: u64,
    zeros: u64,
    nan: u64,
    inf: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
    ints: Option<Ints>,
}

/// Exact sums of integers.
struct Ints {
    min: i128,
    max: i128,
    sum: i128,
}

impl Summary {
    fn new(elements: Elements, values: u64) -> Self {
        let (bytes, per) = elements.encoding.unit();
        Self {
            encoding: elements.encoding,
            left: values,
            bytes: Vec::new(),
            block_bytes: BLOCK / per * bytes,
            values: vec![0.0; BLOCK],
            count: 0,
            finite: 0,
            zeros: 0,
            nan: 0,
            inf: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            mean: 0.0,
            squares: 0.0,
            ints: elements.encoding.is_int().then_some(Ints {
                min: i128::MAX,
                max: i128::MIN,
                sum: 0,
            }),
        }
    }

    fn take(&mut self, mut part: &[u8]) {
        if !self.bytes.is_empty() {
            let need = self.block_bytes - self.bytes.len();
            let (head, rest) = part.split_at(need.min(part.len()));
            self.bytes.extend_from_slice(head);
            part = rest;
            if self.bytes.len() < self.block_bytes {
                return;
            }
            let full = std::mem::take(&mut self.bytes);
            self.block(&full);
            self.bytes = full;
            self.bytes.clear();
        }
        let blocks = part.chunks_exact(self.block_bytes);
        self.bytes.extend_from_slice(blocks.remainder());
        for block in blocks {
            self.block(block);
        }
    }

    fn block(&mut self, raw: &[u8]) {
        let room = self.left.min(BLOCK as u64) as usize;
        let mut values = std::mem::take(&mut self.values);
        let n = self
            .encoding
            .decode(raw, values.get_mut(..room).unwrap_or_default());
        self.left -= n as u64;
        self.count += n as u64;
        self.add(values.get_mut(..n).unwrap_or_default());
        if let Some(ints) = &mut self.ints {
            match self.encoding {
                Encoding::Plain(Kind::I64) => {
                    ints.add(
                        raw.as_chunks()
                            .0
                            .iter()
                            .map(|b| i64::from_le_bytes(*b).into()),
                    );
                }
                Encoding::Plain(Kind::U64) => {
                    ints.add(
                        raw.as_chunks()
                            .0
                            .iter()
                            .map(|b| u64::from_le_bytes(*b).into()),
                    );
                }
                // Narrower integers are exact in a double, and so is each value.
                _ => ints.add(values.iter().take(n).map(|x| *x as i128)),
            }
        }
        self.values = values;
    }

    /// Adds a block of values; those that are not finite are moved out of the way.
    fn add(&mut self, values: &mut [f64]) {
        self.zeros += values.iter().filter(|x| **x == 0.0).count() as u64;
        let mut n = values.len();
        if !values.iter().all(|x| x.is_finite()) {
            n = 0;
            for i in 0..values.len() {
                let Some(&x) = values.get(i) else { break };
                if x.is_nan() {
                    self.nan += 1;
                } else if x.is_infinite() {
                    self.inf += 1;
                } else {
                    values.swap(i, n);
                    n += 1;
                }
            }
        }
        let values = values.get(..n).unwrap_or_default();
        if values.is_empty() {
            return;
        }
        let count = n as f64;
        let (mut min, mut max, mut sum) = (self.min, self.max, 0.0);
        for &x in values {
            min = min.min(x);
            max = max.max(x);
            sum += x;
        }
        let mut mean: f64 = sum / count;
        if !mean.is_finite() {
            mean = values.iter().map(|x| x / count).sum();
        }
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        (self.min, self.max) = (min, max);
        // Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
        // sample variances" (1979), for a block beside what came before.
        let before = self.finite as f64;
        let all = before + count;
        if self.finite == 0 {
            (self.mean, self.squares) = (mean, squares);
        } else {
            let step = mean - self.mean;
            // The second form loses a bit, but does not overflow where the step does.
            self.mean = if step.is_finite() {
                self.mean + step * (count / all)
            } else {
                self.mean * (before / all) + mean * (count / all)
            };
            self.squares += squares + step * step * (before * count / all);
        }
        self.finite += n as u64;
    }

    fn finish(mut self) -> Stats {
        let rest = std::mem::take(&mut self.bytes);
        if !rest.is_empty() {
            self.block(&rest);
        }
        let some = self.finite > 0;
        let (min, max, mean) = match &self.ints {
            Some(i) => (
                Number::Int(i.min),
                Number::Int(i.max),
                i.sum as f64 / self.finite as f64,
            ),
            None => (Number::Float(self.min), Number::Float(self.max), self.mean),
        };
        Stats {
            count: self.count,
            min: some.then_some(min),
            max: some.then_some(max),
            mean: some.then_some(mean),
            std: some.then(|| (self.squares / self.finite as f64).sqrt()),
            zeros: self.zeros,
            nan: self.nan,
            inf: self.inf,
        }
    }
}

impl Ints {
    fn add(&mut self, values: impl Iterator<Item = i128>) {
        for x in values {
            self.min = self.min.min(x);
            self.max = self.max.max(x);
            self.sum += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::model::{Compute, FormatId, Storage, StorageData, TensorSource, View};
    use weighbridge_core::source::SliceSource;
    use weighbridge_kernels::encode_f32;

    use super::*;

    fn tensor(dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Tensor {
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, "s")),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("s", len, false, data).unwrap());
        Tensor::new(
            "t",
            dtype,
            shape,
            TensorSource::View(View { storage, offset: 0 }),
        )
    }

    fn of(dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Stats {
        stats(&tensor(dtype, shape, bytes), &mut Chunks::new())
            .unwrap()
            .unwrap()
    }

    fn f32s(x: &[f32]) -> Vec<u8> {
        x.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn close(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() <= 1e-12 * b.abs())
    }

    #[test]
    fn what_is_no_number_is_counted_apart() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let s = of(
            DType::F32,
            &[8],
            f32s(&[1.0, nan, -3.0, inf, 0.0, -0.0, -inf, nan]),
        );
        assert_eq!((s.count, s.zeros, s.nan, s.inf), (8, 2, 2, 2));
        assert_eq!(
            (s.min, s.max),
            (Some(Number::Float(-3.0)), Some(Number::Float(1.0)))
        );
        // Finite: 1, -3, 0, 0.
        assert_eq!(s.mean, Some(-0.5));
        assert_eq!(s.std, Some((2.25f64).sqrt()));
        let s = of(DType::F32, &[2], f32s(&[nan, inf]));
        assert_eq!((s.min, s.max, s.mean, s.std), (None, None, None, None));
        let s = of(DType::F32, &[0], Vec::new());
        assert_eq!((s.count, s.min, s.mean), (0, None, None));
    }

    #[test]
    fn sums_are_stable_far_from_zero_and_over_blocks() {
        // A naive sum of squares would lose the deviation entirely.
        let n = 300_000u64;
        let x: Vec<f64> = (0..n).map(|i| 1e9 + (i % 7) as f64).collect();
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let s = of(DType::F64, &[n], bytes);
        let mean = x.iter().map(|x| x - 1e9).sum::<f64>() / n as f64;
        let squares: f64 = x.iter().map(|x| (x - 1e9 - mean).powi(2)).sum();
        assert!(close(s.mean, 1e9 + mean));
        assert!(
            (s.std.unwrap() - (squares / n as f64).sqrt()).abs() < 1e-6,
            "{s:?}"
        );
        let s = of(
            DType::F64,
            &[2],
            [f64::MAX; 2].iter().flat_map(|x| x.to_le_bytes()).collect(),
        );
        assert_eq!((s.mean, s.std), (Some(f64::MAX), Some(0.0)));
        // A block of the least and a block of the greatest doubles, twice.
        let x: Vec<f64> = (0..4 * BLOCK)
            .map(|i| {
                if (i / BLOCK).is_multiple_of(2) {
                    f64::MIN
                } else {
                    f64::MAX
                }
            })
            .collect();
        let bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let s = of(DType::F64, &[x.len() as u64], bytes);
        assert!(s.mean.is_some_and(f64::is_finite), "{s:?}");
        assert_eq!(s.std, Some(f64::INFINITY));
    }

    #[test]
    fn integers_are_exact() {
        let x = [i64::MAX, i64::MAX - 1, i64::MIN, 0, 5];
        let s = of(
            DType::I64,
            &[5],
            x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        );
        let int = |n: i64| Some(Number::Int(n.into()));
        assert_eq!((s.min, s.max, s.zeros), (int(i64::MIN), int(i64::MAX), 1));
        let sum: i128 = x.iter().map(|&x| i128::from(x)).sum();
        assert_eq!(s.mean, Some(sum as f64 / 5.0));
        let s = of(
            DType::U64,
            &[2],
            [u64::MAX, 1].iter().flat_map(|x| x.to_le_bytes()).collect(),
        );
        assert_eq!(s.max, Some(Number::Int(u64::MAX.into())));
        let s = of(DType::I8, &[3], vec![0x80, 0x7f, 0]);
        assert_eq!((s.min, s.max, s.zeros), (int(-128), int(127), 1));
        let s = of(DType::Bool, &[4], vec![1, 0, 1, 1]);
        assert_eq!(
            (s.min, s.max, s.mean, s.zeros),
            (int(0), int(1), Some(0.75), 1)
        );
        assert_eq!(of(DType::QI8, &[1], vec![0xff]).min, int(-1));
    }

    #[test]
    fn packed_and_complex_values_are_taken_apart() {
        let int = |n: i64| Some(Number::Int(n.into()));
        // Three values in two bytes: the padding is no value.
        let s = of(DType::I4, &[3], vec![0x7f, 0xf8]);
        assert_eq!((s.count, s.min, s.max), (3, int(-8), int(7)));
        assert_eq!(s.mean, Some(-2.0 / 3.0));
        let s = of(DType::U2, &[4], vec![0b11_10_01_00]);
        assert_eq!((s.count, s.max, s.mean, s.zeros), (4, int(3), Some(1.5), 1));
        let s = of(DType::I2, &[4], vec![0b11_10_01_00]);
        assert_eq!((s.min, s.max), (int(-2), int(1)));
        let s = of(DType::F4, &[3], vec![0x72, 0x0f]);
        assert_eq!(
            (s.count, s.max, s.min),
            (3, Some(Number::Float(6.0)), Some(Number::Float(-6.0)))
        );
        let s = of(DType::C64, &[2], f32s(&[1.0, -2.0, 3.0, 0.0]));
        assert_eq!((s.count, s.mean, s.zeros), (4, Some(0.5), 1));
        let s = of(DType::F6_E2M3, &[4], vec![0x41, 0x30, 0x84]);
        assert_eq!((s.count, s.max), (4, Some(Number::Float(0.375))));
    }

    /// Gives the same bytes in pieces of a given length.
    #[derive(Debug)]
    struct Pieces(Vec<u8>, usize);

    impl Compute for Pieces {
        fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
            self.0.chunks(self.1).try_for_each(sink)
        }
    }

    #[test]
    fn pieces_do_not_change_the_answer() {
        let n = 20_000u64;
        let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        for (dtype, kind) in [
            (DType::F32, Kind::F32),
            (DType::BF16, Kind::BF16),
            (DType::F8_E4M3, Kind::F8_E4M3),
        ] {
            let mut bytes = vec![0u8; n as usize * kind.bits() / 8];
            encode_f32(kind, &x, &mut bytes);
            let whole = of(dtype, &[n], bytes.clone());
            assert_eq!(whole.count, n);
            for piece in [4, 12, 4096, 16_388, 50_000] {
                let source = TensorSource::Computed(Arc::new(Pieces(bytes.clone(), piece)));
                let t = Tensor::new("t", dtype, &[n], source);
                let s = stats(&t, &mut Chunks::new()).unwrap().unwrap();
                assert_eq!(s, whole, "{dtype} {piece}");
            }
        }
    }

    #[test]
    fn every_dtype_has_statistics_and_absent_data_none() {
        let mut model = Model::new(FormatId::PyTorch);
        // A block type has whole blocks.
        let values = |d: DType| d.block().map_or(4, |b| b.elements);
        for dtype in DType::ALL {
            let shape = [values(dtype)];
            let bytes = dtype.size_of(&shape).unwrap() as usize;
            model.tensors.push(tensor(dtype, &shape, vec![0; bytes]));
        }
        let mut absent = tensor(DType::F32, &[1], vec![0; 4]);
        absent.source = TensorSource::Absent;
        model.tensors.push(absent);
        let all = stats_all(&model, &|_| ()).unwrap();
        assert_eq!(all.len(), DType::ALL.len() + 1);
        assert_eq!(all.last(), Some(&None));
        for (dtype, s) in DType::ALL.into_iter().zip(all) {
            let s = s.unwrap();
            let parts = if dtype.is_complex() { 2 } else { 1 };
            assert_eq!(s.count, parts * values(dtype), "{dtype}");
            // An MX scale has no zero: code 0 is 2^-127.
            assert_eq!(
                s.zeros,
                if dtype == DType::F8_E8M0 { 0 } else { s.count },
                "{dtype}"
            );
        }
    }
}
