//! What a model's inputs are taken to be, and values to try for them.

use std::sync::Arc;

use weighbridge_core::model::{Dim, GraphValue, ValueType};

use super::flat::{Flat, Id, Origin};
use super::interp::value::{Kind, Tensor, Value, count};
use super::interp::{Move, Op};
use super::natural::natural;

/// A generator of numbers (SplitMix64): the same ones on every run.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        match n {
            0 => 0,
            n => (self.next() % n as u64) as usize,
        }
    }

    /// A number from 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of about the normal distribution: a sum of four even ones.
    pub(crate) fn normal(&mut self) -> f64 {
        let n = self.next();
        let four = [n, n >> 16, n >> 32, n >> 48].map(|n| (n & 0xffff) as f64 / 65536.0);
        (four.iter().sum::<f64>() - 2.0) * 3f64.sqrt()
    }
}

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Numbers of things: tokens, bytes, categories, below this many.
    Tokens(i64),
    /// Which of the tokens count.
    Mask,
    /// Where tokens stand.
    Positions,
    /// Zeros, as segment numbers mostly are.
    Zeros,
    /// A switch or a setting, given once for a run or a sample.
    Setting,
    /// How long another input is.
    Length,
    /// Samples, pixels, features.
    Reals,
    /// Texts.
    Texts,
}

/// An input.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Which of the graph's inputs it is.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) id: Id,
    pub(crate) kind: Kind,
    pub(crate) dims: Vec<usize>,
    pub(crate) role: Role,
}

/// Extents for dimensions that the file leaves open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) sequence: usize,
    pub(crate) space: usize,
    pub(crate) samples: usize,
}

/// The sizes that are tried one after the other.
pub(crate) const SIZES: [Sizes; 4] = [
    Sizes {
        sequence: 16,
        space: 32,
        samples: 1024,
    },
    Sizes {
        sequence: 64,
        space: 64,
        samples: 4096,
    },
    Sizes {
        sequence: 8,
        space: 16,
        samples: 512,
    },
    Sizes {
        sequence: 256,
        space: 224,
        samples: 16_000,
    },
];

impl Sizes {
    /// The extent of dimension `at` of `rank`.
    fn extent(&self, symbol: Option<&str>, kind: Kind, at: usize, rank: usize) -> usize {
        let lower = symbol.unwrap_or_default().to_ascii_lowercase();
        let has = |part: &str| lower.contains(part);
        if has("past") {
            return if has("total") || has("+") {
                self.sequence
            } else {
                0
            };
        }
        if has("batch") || lower == "n" || lower == "b" || lower == "bs" {
            return 1;
        }
        if has("seq") || has("token") {
            return self.sequence;
        }
        if at == 0 && rank > 1 && !has("len") && !has("time") {
            return 1;
        }
        if has("channel") {
            return 3;
        }
        match (kind.is_float(), rank) {
            (false, 4) if kind == Kind::U8 && at == 3 => 3,
            (false, 4) => self.space,
            (false, _) => self.sequence,
            (true, 4) if at == 1 => 3,
            (true, 4) => self.space,
            (true, 2 | 1) => self.samples,
            (true, _) => self.sequence,
        }
    }

    /// The extent of a symbol wherever it stands.
    pub(crate) fn symbol(&self, inputs: &[(&GraphValue, Id)], symbol: &str) -> Option<usize> {
        for (v, _) in inputs {
            let ValueType::Tensor {
                dtype: Some(dtype),
                shape: Some(dims),
            } = &v.kind
            else {
                continue;
            };
            let kind = Kind::of(*dtype)?;
            for (at, d) in dims.iter().enumerate() {
                if let Dim::Symbol(s) = d
                    && s == symbol
                {
                    return Some(self.extent(Some(s), kind, at, dims.len()));
                }
            }
        }
        None
    }
}

/// The inputs of `flat`, without those of types that are not run.
pub(crate) fn inputs(flat: &Flat<'_>, sizes: Sizes) -> Vec<Input> {
    let mut out = Vec::new();
    for (index, (v, id)) in flat.inputs.iter().enumerate() {
        let ValueType::Tensor {
            dtype: Some(dtype),
            shape,
        } = &v.kind
        else {
            continue;
        };
        let Some(kind) = Kind::of(*dtype) else {
            continue;
        };
        let shape = shape.as_deref().unwrap_or(&[Dim::Unknown, Dim::Unknown]);
        let mut dims = Vec::new();
        for (at, d) in shape.iter().enumerate() {
            dims.push(match d {
                Dim::Known(n) if *n > 0 => usize::try_from(*n).unwrap_or(usize::MAX),
                Dim::Symbol(s) => sizes
                    .symbol(&flat.inputs, s)
                    .unwrap_or_else(|| sizes.extent(Some(s), kind, at, shape.len())),
                _ => sizes.extent(None, kind, at, shape.len()),
            });
        }
        if count(&dims).is_none_or(|n| n > 1 << 19) {
            continue;
        }
        let role = role(flat, v, *id, kind, shape);
        out.push(Input {
            index,
            name: v.name.clone(),
            id: *id,
            kind,
            dims,
            role,
        });
    }
    out
}

fn role(flat: &Flat<'_>, v: &GraphValue, id: Id, kind: Kind, shape: &[Dim]) -> Role {
    let name = v.name.to_ascii_lowercase();
    // One number for each sample beside inputs of many: a length, a step, a switch.
    let single = |shape: &[Dim]| shape.iter().skip(1).all(|d| *d == Dim::Known(1));
    let of = |v: &GraphValue| match &v.kind {
        ValueType::Tensor {
            shape: Some(dims), ..
        } => single(dims),
        _ => false,
    };
    if single(shape) && flat.inputs.iter().any(|(other, _)| !of(other)) {
        return match name.contains("len") && !kind.is_float() {
            true => Role::Length,
            false => Role::Setting,
        };
    }
    if name.contains("mask") {
        return Role::Mask;
    }
    match kind {
        Kind::Text => Role::Texts,
        Kind::Bool => Role::Mask,
        k if k.is_float() => Role::Reals,
        Kind::U8 => Role::Tokens(256),
        _ if name.contains("position") => Role::Positions,
        _ if name.contains("token_type") || name.contains("segment") => Role::Zeros,
        _ => Role::Tokens(vocabulary(flat, id).unwrap_or(1000)),
    }
}

/// How many rows the table has that `id` is looked up in, or how wide its one-hot form is.
fn vocabulary(flat: &Flat<'_>, id: Id) -> Option<i64> {
    let mut same = vec![id];
    let mut most: Option<i64> = None;
    for node in &flat.nodes {
        let reads = |k: usize| node.inputs.get(k).copied().flatten();
        match node.op {
            Op::Cast
            | Op::Move(Move::Identity | Move::Reshape | Move::Squeeze | Move::Unsqueeze)
                if reads(0).is_some_and(|i| same.contains(&i)) && same.len() < 64 =>
            {
                same.extend(node.makes());
            }
            Op::Gather if reads(1).is_some_and(|i| same.contains(&i)) => {
                let table = reads(0).and_then(|t| flat.values.get(t));
                if let Some(Origin::Stored(t)) = table.map(|t| &t.origin) {
                    let rows = t.shape.first().and_then(|&n| i64::try_from(n).ok());
                    most = most.max(rows);
                }
            }
            Op::OneHot if reads(0).is_some_and(|i| same.contains(&i)) => {
                let depth = reads(1).and_then(|t| flat.values.get(t));
                if let Some(Origin::Stored(t)) = depth.map(|t| &t.origin)
                    && let Ok(t) = super::interp::value::load(t, 1)
                {
                    most = most.max(t.at(0).map(|n| n as i64));
                }
            }
            _ => {}
        }
    }
    most.filter(|&n| n > 1)
}

/// What lengths are taken to be: as long as all that is there, whatever its extent.
const LENGTH: i64 = 1 << 20;

/// Kinds of values to try.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Family {
    /// Evenly between these.
    Even(f64, f64),
    /// Normally distributed.
    Normal,
    /// One value everywhere.
    Same(f64),
    /// A brightness and a contrast of its own for each, within 0 and 1.
    Bright,
    /// From one side to the other.
    Ramp,
    /// Between these as pictures and recordings are.
    Natural(f64, f64),
}

/// Ordinary inputs: a gate that acts on these is no hidden one.
pub(crate) const ORDINARY: [Family; 3] = [
    Family::Even(0.0, 1.0),
    Family::Normal,
    Family::Even(-1.0, 1.0),
];

/// Inputs as sensors give them, and noise, the last beyond their ranges.
pub(crate) const NATURAL: [Family; 2] = [Family::Natural(0.0, 1.0), Family::Natural(-1.0, 1.0)];
pub(crate) const NOISE: [Family; 3] = [
    Family::Even(0.0, 1.0),
    Family::Even(-1.0, 1.0),
    Family::Normal,
];

/// Least extent along which neighbours can be alike.
const LEAST_NATURAL: usize = 8;

/// Whether `input` may hold what a sensor gives.
pub(crate) fn is_sensed(input: &Input) -> bool {
    input.role == Role::Reals && input.dims.last().is_some_and(|&d| d >= LEAST_NATURAL)
}

/// Inputs that are seldom met, tried as triggers.
pub(crate) const ODD: [Family; 12] = [
    Family::Same(0.0),
    Family::Same(1.0),
    Family::Same(0.5),
    Family::Same(-1.0),
    Family::Same(255.0),
    Family::Same(2.0),
    Family::Even(0.0, 255.0),
    Family::Even(0.0, 0.05),
    Family::Even(0.9, 1.0),
    Family::Bright,
    Family::Ramp,
    Family::Even(-100.0, 100.0),
];

/// A value for `input`.
pub(crate) fn sample(input: &Input, family: Family, dice: &mut Dice) -> Value {
    let n = count(&input.dims).unwrap_or(0);
    let dims = input.dims.clone();
    let whole = |f: &mut dyn FnMut(usize) -> i64| {
        let all: Vec<i64> = (0..n).map(f).collect();
        match input.kind.is_float() {
            true => {
                let all = all.into_iter().map(|n| n as f64).collect();
                Tensor::float(input.kind, dims.clone(), all)
            }
            false => Tensor::int(input.kind, dims.clone(), all),
        }
    };
    Arc::new(match input.role {
        Role::Mask => whole(&mut |_| 1),
        Role::Zeros => whole(&mut |_| 0),
        Role::Setting if input.kind.is_float() => Tensor::float(input.kind, dims, vec![1.0; n]),
        Role::Setting => whole(&mut |_| 1),
        Role::Length => whole(&mut |_| LENGTH),
        Role::Positions => {
            let row = input.dims.last().copied().unwrap_or(1).max(1);
            whole(&mut |i| (i % row) as i64)
        }
        Role::Tokens(vocabulary) => match family {
            Family::Same(x) => whole(&mut |_| (x as i64).clamp(0, vocabulary - 1)),
            Family::Ramp => whole(&mut |i| i as i64 % vocabulary.max(1)),
            _ => whole(&mut |_| dice.below(vocabulary.max(1) as usize) as i64),
        },
        Role::Reals => {
            if let Family::Natural(low, high) = family {
                let all = natural(&dims, (low, high), dice);
                return Arc::new(Tensor::float(input.kind, dims, all));
            }
            let (base, spread) = (dice.unit(), dice.unit());
            let one = |i: usize| match family {
                Family::Even(a, b) => a + (b - a) * dice.unit(),
                Family::Normal => dice.normal(),
                Family::Same(x) => x,
                Family::Ramp => i as f64 / n.max(1) as f64,
                Family::Natural(low, _) => low,
                Family::Bright => {
                    let spread = spread * 0.5 * base.min(1.0 - base);
                    base + spread * (2.0 * dice.unit() - 1.0)
                }
            };
            let all = (0..n).map(one).collect();
            Tensor::float(input.kind, dims, all)
        }
        Role::Texts => {
            let mut word = |_| -> Arc<[u8]> {
                let len = 3 + dice.below(6);
                let letters = (0..len).map(|_| b'a' + dice.below(26) as u8);
                match family {
                    Family::Same(0.0) => Arc::from(&b""[..]),
                    _ => letters.collect(),
                }
            };
            Tensor::texts(dims, (0..n).map(&mut word).collect())
        }
    })
}

/// Whether what `input` holds is the sample itself, and no setting or mask beside it.
pub(crate) fn carries_sample(input: &Input) -> bool {
    matches!(input.role, Role::Tokens(_) | Role::Reals | Role::Texts)
}
