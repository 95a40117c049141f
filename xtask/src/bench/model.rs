//! A made-up model to quantize and an importance matrix for it, in GGUF, written by hand.
//!
//! Shapes are those of TinyLlama with fewer layers. Values are random, of a fixed seed: most rows
//! gaussian, the others of Student's t distribution, whose outliers are what the searches for
//! scales struggle with. Nothing but sums and square roots makes them, so they are the same bytes
//! everywhere.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::Result;

/// Types of metadata values.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STR: u32 = 8;
const ARRAY: u32 = 9;

/// Types of tensors.
const TENSOR_F32: u32 = 0;
const TENSOR_F16: u32 = 1;

/// Where tensors begin is a multiple of this.
const ALIGN: usize = 32;

/// Distinct values that a table holds.
const DISTINCT: usize = 1 << 16;

/// How large a model is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    width: usize,
    inner: usize,
    heads: u32,
    key_heads: u32,
    layers: usize,
    tokens: usize,
}

impl Shape {
    /// TinyLlama's, with 9 of its 22 layers: 1.06 GB.
    pub(super) const FULL: Self = Self {
        width: 2048,
        inner: 5632,
        heads: 32,
        key_heads: 4,
        layers: 9,
        tokens: 32_000,
    };

    /// Half as wide and fewer layers: 0.1 GB.
    pub(super) const QUICK: Self = Self {
        width: 1024,
        inner: 2816,
        heads: 16,
        key_heads: 2,
        layers: 3,
        tokens: 8_000,
    };

    /// What it is, in words.
    pub(super) fn words(self) -> String {
        format!(
            "{} layers of width {} and {}, {} heads on {} key heads, {} tokens",
            self.layers, self.width, self.inner, self.heads, self.key_heads, self.tokens
        )
    }

    /// Name and dimensions of each tensor, the fastest first; one dimension for a norm.
    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let (n, inner) = (self.width, self.inner);
        let keys = n / self.heads as usize * self.key_heads as usize;
        let mut out = vec![("token_embd.weight".to_owned(), vec![n, self.tokens])];
        for layer in 0..self.layers {
            let parts: [(&str, &[usize]); 9] = [
                ("attn_norm", &[n]),
                ("ffn_down", &[inner, n]),
                ("ffn_gate", &[n, inner]),
                ("ffn_up", &[n, inner]),
                ("ffn_norm", &[n]),
                ("attn_k", &[n, keys]),
                ("attn_output", &[n, n]),
                ("attn_q", &[n, n]),
                ("attn_v", &[n, keys]),
            ];
            for (part, dims) in parts {
                out.push((format!("blk.{layer}.{part}.weight"), dims.to_vec()));
            }
        }
        out.push(("output_norm.weight".to_owned(), vec![n]));
        out.push(("output.weight".to_owned(), vec![n, self.tokens]));
        out
    }
}

/// Makes the F16 model.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_model(shape: Shape, path: &Path) -> Result<()> {
    let mut keys = Keys::default();
    keys.string("general.architecture", "llama");
    keys.string("general.type", "model");
    keys.string("general.name", "Benchmark");
    for (name, value) in [
        ("block_count", shape.layers as u32),
        ("context_length", 2048),
        ("embedding_length", shape.width as u32),
        ("feed_forward_length", shape.inner as u32),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.key_heads),
        ("rope.dimension_count", shape.width as u32 / shape.heads),
        ("vocab_size", shape.tokens as u32),
    ] {
        keys.u32(&format!("llama.{name}"), value);
    }
    keys.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    keys.u32("general.file_type", 1);
    keys.u32("general.quantization_version", 2);
    vocabulary(&mut keys, shape.tokens);

    let tensors = shape.tensors();
    let rows: Vec<Row> = tensors
        .iter()
        .map(|(name, dims)| Row {
            name: name.clone(),
            dims: dims.clone(),
            dtype: if dims.len() == 1 {
                TENSOR_F32
            } else {
                TENSOR_F16
            },
        })
        .collect();
    let mut random = Random(0x5eed);
    let tables = tables(&mut random);
    write(path, &keys, &rows, &mut |row, out| {
        let columns = row.dims.first().copied().unwrap_or(0);
        if row.dtype == TENSOR_F32 {
            return (0..columns).try_for_each(|_| {
                let value = 1.0 + 0.1 * random.gaussian();
                out.write_all(&value.to_le_bytes())
            });
        }
        let mut bytes = vec![0; columns * 2];
        for _ in 0..row.dims.get(1).copied().unwrap_or(0) {
            // Three rows in four are gaussian.
            let drawn = random.next() as usize;
            let kind = &tables[usize::from(drawn.is_multiple_of(4))];
            fill(&mut bytes, &kind[drawn / 4 % kind.len()], &mut random);
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Makes an importance matrix for it: sums of squared activations and counts of tokens for every
/// matrix but the embeddings and the output, as those that are computed have.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_matrix(shape: Shape, path: &Path) -> Result<()> {
    const CHUNKS: u32 = 100;
    const CHUNK: u32 = 512;
    let mut keys = Keys::default();
    keys.string("general.type", "imatrix");
    keys.strings(
        "imatrix.datasets",
        std::iter::once("benchmark.txt".to_owned()),
    );
    keys.u32("imatrix.chunk_count", CHUNKS);
    keys.u32("imatrix.chunk_size", CHUNK);
    let mut rows = Vec::new();
    for (name, dims) in shape.tensors() {
        if dims.len() == 2 && name.starts_with("blk.") {
            for (suffix, columns) in [("in_sum2", dims[0]), ("counts", 1)] {
                rows.push(Row {
                    name: format!("{name}.{suffix}"),
                    dims: vec![columns],
                    dtype: TENSOR_F32,
                });
            }
        }
    }
    let mut random = Random(0x3a7);
    let count = (CHUNKS * CHUNK) as f32;
    write(path, &keys, &rows, &mut |row, out| {
        if row.name.ends_with("counts") {
            return out.write_all(&count.to_le_bytes());
        }
        (0..row.dims[0]).try_for_each(|_| {
            // Squares, a few of them of channels that are always loud.
            let loud = if random.next().is_multiple_of(64) {
                50.0
            } else {
                1.0
            };
            let value = random.student() * loud;
            out.write_all(&((value * value + 1e-3) * count).to_le_bytes())
        })
    })
}

/// A tensor to be written.
struct Row {
    name: String,
    dims: Vec<usize>,
    dtype: u32,
}

impl Row {
    fn bytes(&self) -> usize {
        let one = if self.dtype == TENSOR_F16 { 2 } else { 4 };
        self.dims.iter().product::<usize>() * one
    }
}

/// Key-value pairs as they are stored.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    count: u64,
}

impl Keys {
    fn key(&mut self, name: &str, of: u32) {
        put_string(&mut self.bytes, name);
        self.bytes.extend(of.to_le_bytes());
        self.count += 1;
    }

    fn u32(&mut self, name: &str, value: u32) {
        self.key(name, U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn f32(&mut self, name: &str, value: f32) {
        self.key(name, F32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn bool(&mut self, name: &str, value: bool) {
        self.key(name, BOOL);
        self.bytes.push(value.into());
    }

    fn string(&mut self, name: &str, value: &str) {
        self.key(name, STR);
        put_string(&mut self.bytes, value);
    }

    fn strings(&mut self, name: &str, values: impl ExactSizeIterator<Item = String>) {
        self.array(name, STR, values.len());
        values.for_each(|v| put_string(&mut self.bytes, &v));
    }

    fn array(&mut self, name: &str, of: u32, count: usize) {
        self.key(name, ARRAY);
        self.bytes.extend(of.to_le_bytes());
        self.bytes.extend((count as u64).to_le_bytes());
    }
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A vocabulary of made-up words: its keys are part of what is read and written.
fn vocabulary(keys: &mut Keys, tokens: usize) {
    keys.string("tokenizer.ggml.model", "llama");
    keys.string("tokenizer.ggml.pre", "default");
    let token = |i: usize| match i {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        3..259 => format!("<0x{:02X}>", i - 3),
        _ => format!("\u{2581}w{i}"),
    };
    keys.strings("tokenizer.ggml.tokens", (0..tokens).map(token));
    keys.array("tokenizer.ggml.scores", F32, tokens);
    for i in 0..tokens {
        let score = if i < 259 { 0.0 } else { 259.0 - i as f32 };
        keys.bytes.extend(score.to_le_bytes());
    }
    keys.array("tokenizer.ggml.token_type", I32, tokens);
    for i in 0..tokens {
        let kind: i32 = match i {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        };
        keys.bytes.extend(kind.to_le_bytes());
    }
    keys.u32("tokenizer.ggml.bos_token_id", 1);
    keys.u32("tokenizer.ggml.eos_token_id", 2);
    keys.bool("tokenizer.ggml.add_bos_token", true);
    keys.bool("tokenizer.ggml.add_eos_token", false);
}

/// What writes the values of a tensor.
type Fill<'a> = dyn FnMut(&Row, &mut BufWriter<File>) -> std::io::Result<()> + 'a;

/// Writes a file of version 3; it appears under its name when it is complete.
fn write(path: &Path, keys: &Keys, rows: &[Row], fill: &mut Fill<'_>) -> Result<()> {
    let part = path.with_extension("part");
    let mut all = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
        let head = header(keys, rows);
        out.write_all(&head)?;
        pad(&mut out, head.len())?;
        for row in rows {
            fill(row, &mut out)?;
            pad(&mut out, row.bytes())?;
        }
        out.into_inner()?;
        std::fs::rename(&part, path)
    };
    all().map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn header(keys: &Keys, rows: &[Row]) -> Vec<u8> {
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend((rows.len() as u64).to_le_bytes());
    head.extend(keys.count.to_le_bytes());
    head.extend(&keys.bytes);
    let mut at = 0;
    for row in rows {
        put_string(&mut head, &row.name);
        head.extend((row.dims.len() as u32).to_le_bytes());
        for d in &row.dims {
            head.extend((*d as u64).to_le_bytes());
        }
        head.extend(row.dtype.to_le_bytes());
        head.extend((at as u64).to_le_bytes());
        at += row.bytes().next_multiple_of(ALIGN);
    }
    head
}

fn pad(out: &mut impl Write, len: usize) -> std::io::Result<()> {
    out.write_all(&[0; ALIGN][..len.next_multiple_of(ALIGN) - len])
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Standard normal but for the far tails: the sum of twelve uniform values.
    fn gaussian(&mut self) -> f32 {
        let uniform = |x: u64| (x >> 40) as f32 / (1u32 << 24) as f32;
        (0..12).map(|_| uniform(self.next())).sum::<f32>() - 6.0
    }

    /// Student's t with four degrees of freedom, at most 40 either way.
    fn student(&mut self) -> f32 {
        let squares: f32 = (0..4).map(|_| self.gaussian().powi(2)).sum();
        (self.gaussian() / (squares / 4.0).sqrt().max(1e-3)).clamp(-40.0, 40.0)
    }
}

/// A table of half-precision values.
type Table = Vec<[u8; 2]>;

/// Tables of several scales: gaussian ones and those of Student's t.
fn tables(random: &mut Random) -> [Vec<Table>; 2] {
    [Random::gaussian, Random::student].map(|value| {
        [0.008, 0.015, 0.02, 0.035]
            .iter()
            .map(|scale| {
                let one = |_| half(value(random) * scale).to_le_bytes();
                (0..DISTINCT).map(one).collect()
            })
            .collect()
    })
}

/// Draws a row's values from a table, four for each random number.
fn fill(row: &mut [u8], table: &[[u8; 2]], random: &mut Random) {
    for four in row.chunks_mut(8) {
        let drawn = random.next();
        for (i, value) in four.chunks_mut(2).enumerate() {
            value.copy_from_slice(&table[(drawn >> (16 * i)) as usize % DISTINCT]);
        }
    }
}

/// The half-precision number nearest to `x`, ties to even; `x` must be finite and not overflow.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    let mantissa = bits & 0x7f_ffff | 0x80_0000;
    // How many bits are dropped: 13 of a normal number, more below 2^-14.
    let drop = (13 + (-14 - exponent).max(0)).min(25) as u32;
    let kept = mantissa >> drop;
    let rest = mantissa & ((1 << drop) - 1);
    let middle = 1 << (drop - 1);
    let up = u32::from(rest > middle || (rest == middle && kept & 1 == 1));
    // The leading bit of a normal number adds one to the exponent, and so does a carry.
    let base = ((exponent + 14).max(0) as u32) << 10;
    sign | (base + kept + up) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_to_even() {
        for (x, wanted) in [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (65504.0, 0x7bff),
            (6.103_515_6e-5, 0x0400),
            (5.960_464_5e-8, 0x0001),
            (2.980_232_2e-8, 0x0000),
            (2.980_232_6e-8, 0x0001),
            (2047.999, 0x6800),
        ] {
            assert_eq!(half(x), wanted, "{x}");
        }
    }

    #[test]
    fn the_model_has_the_size_it_says() {
        let dir = std::env::temp_dir().join(format!("xtask-model-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let shape = Shape {
            width: 256,
            inner: 512,
            heads: 4,
            key_heads: 1,
            layers: 1,
            tokens: 300,
        };
        let bytes = |name: &str, make: fn(Shape, &Path) -> Result<()>| {
            let path = dir.join(name);
            make(shape, &path).expect("it is written");
            std::fs::read(path).expect("it is there")
        };
        let model = bytes("a.gguf", write_model);
        assert_eq!(model, bytes("b.gguf", write_model), "the same each time");
        let values: usize = 256 * (300 * 2 + 256 * 2 + 64 * 2 + 512 * 3);
        let norms = 256 * 4 * 3;
        let head = model.len() - values * 2 - norms;
        assert!((7_000..10_000).contains(&head), "{head}");
        assert_eq!(model.len() % ALIGN, 0);
        let matrix = bytes("c.gguf", write_matrix);
        assert!(matrix.len() > 256 * 4 * 6 + 512 * 4, "{}", matrix.len());
        std::fs::remove_dir_all(dir).expect("it is removed");
    }

    #[test]
    fn values_are_spread_as_they_should() {
        let mut random = Random(1);
        let all: Vec<f32> = (0..20_000).map(|_| random.gaussian()).collect();
        let mean = all.iter().sum::<f32>() / all.len() as f32;
        let square = all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32;
        assert!(mean.abs() < 0.05, "{mean}");
        assert!((square - 1.0).abs() < 0.05, "{square}");
        let far = (0..20_000).filter(|_| random.student().abs() > 5.0).count();
        assert!((50..400).contains(&far), "{far}");
    }
}
