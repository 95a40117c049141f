//! A deterministic mutation engine: the same seed gives the same inputs on every machine, so that
//! a failure in the ordinary tests is repeated by its fixture, seed and number alone.

use std::ops::Range;

/// xorshift64*: small, quick and good enough to choose places.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator; any seed will do.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state it never leaves.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            0
        } else {
            (self.bits() % n as u64) as usize
        }
    }

    /// One of `items`; `None` when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}

/// Numbers that lengths, offsets and counts go wrong at.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 62,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Text that parsers of JSON and of text opcodes go wrong at.
const WORDS: [&str; 22] = [
    "-1",
    "0",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "1e400",
    "1.5",
    "null",
    "true",
    "{}",
    "[]",
    "[[[[[[[[",
    "\"\\ud800\"",
    "\\u0000",
    "\"",
    "{\"$ref\":\"\"}",
    "{\"$tensor\":\"x\"}",
    "__metadata__",
    "\"dtype\":\"F6_E2M3\"",
    ",",
    "\n",
    "\0",
];

/// Changes inputs.
#[derive(Debug, Clone)]
pub struct Mutator {
    rng: Rng,
    /// Where most changes go; anywhere when empty.
    hot: Vec<Range<usize>>,
}

impl Mutator {
    /// An engine whose changes go, mostly, into `hot`: the headers of a file whose payload no
    /// parser looks at.
    pub fn new(seed: u64, hot: Vec<Range<usize>>) -> Self {
        Self {
            rng: Rng::new(seed),
            hot: hot.into_iter().filter(|r| !r.is_empty()).collect(),
        }
    }

    /// `data` after one to five changes; pieces of `other` may be spliced in.
    pub fn mutate(&mut self, data: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = data.to_vec();
        for _ in 0..=self.rng.below(5) {
            self.change(&mut out, other);
        }
        out
    }

    fn change(&mut self, out: &mut Vec<u8>, other: &[u8]) {
        let at = self.place(out.len());
        match self.rng.below(13) {
            0 | 1 => {
                let bit = 1u8 << self.rng.below(8);
                if let Some(b) = out.get_mut(at) {
                    *b ^= bit;
                }
            }
            2 => {
                let byte = self.rng.bits() as u8;
                if let Some(b) = out.get_mut(at) {
                    *b = byte;
                }
            }
            3..=5 => self.number(out, at),
            6 | 7 => self.digits(out, at),
            8 => out.truncate(at),
            9 => {
                let piece = self.piece(out);
                out.splice(at..at, piece);
            }
            10 => {
                let piece = self.piece(other);
                let end = (at + piece.len()).min(out.len());
                out.splice(at..end, piece);
            }
            11 => {
                let end = (at + 1 + self.rng.below(16)).min(out.len());
                out.drain(at..end);
            }
            _ => {
                let word = self.rng.pick(&WORDS).copied().unwrap_or_default();
                let end = (at + self.rng.below(word.len() + 1)).min(out.len());
                out.splice(at..end, word.bytes());
            }
        }
    }

    /// A position in `0..=len`, mostly a hot one.
    fn place(&mut self, len: usize) -> usize {
        if self.rng.below(8) != 0
            && let Some(r) = self.rng.pick(&self.hot).cloned()
        {
            return (r.start + self.rng.below(r.len())).min(len);
        }
        self.rng.below(len + 1)
    }

    /// Overwrites a field of 1, 2, 4 or 8 bytes with a number that breaks things, or with one
    /// near what it holds.
    fn number(&mut self, out: &mut [u8], at: usize) {
        let width = 1usize << self.rng.below(4);
        let Some(field) = out.get_mut(at..at + width) else {
            return;
        };
        let mut wide = [0u8; 8];
        for (w, f) in wide.iter_mut().zip(field.iter()) {
            *w = *f;
        }
        let held = u64::from_le_bytes(wide);
        let n = match self.rng.below(4) {
            0 => held.wrapping_add(1),
            1 => held.wrapping_sub(1),
            _ => self.rng.pick(&NUMBERS).copied().unwrap_or(0),
        };
        let mut bytes = n.to_le_bytes();
        if self.rng.below(5) == 0 {
            // Big-endian: the low bytes come last.
            if let Some(low) = bytes.get_mut(..width) {
                low.reverse();
            }
        }
        for (f, b) in field.iter_mut().zip(bytes) {
            *f = b;
        }
    }

    /// Replaces the next run of decimal digits with a number that breaks things.
    fn digits(&mut self, out: &mut Vec<u8>, at: usize) {
        let Some(start) = out
            .iter()
            .skip(at)
            .position(u8::is_ascii_digit)
            .map(|n| at + n)
        else {
            return;
        };
        let len = out
            .iter()
            .skip(start)
            .take_while(|b| b.is_ascii_digit())
            .count();
        let n = self.rng.pick(&NUMBERS).copied().unwrap_or(0);
        let sign = if self.rng.below(6) == 0 { "-" } else { "" };
        out.splice(start..start + len, format!("{sign}{n}").into_bytes());
    }

    /// A piece of `from`, of up to 64 bytes, or of up to 4,096 now and then.
    fn piece(&mut self, from: &[u8]) -> Vec<u8> {
        let most = if self.rng.below(8) == 0 { 4096 } else { 64 };
        let start = self.rng.below(from.len());
        let len = 1 + self.rng.below(most);
        from.iter().skip(start).take(len).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_inputs_again() {
        let data: Vec<u8> = (0..200).collect();
        let run = |seed| {
            let mut m = Mutator::new(seed, Vec::new());
            (0..50)
                .map(|_| m.mutate(&data, b"other"))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn nearly_every_input_is_changed_and_the_empty_one_is_no_trouble() {
        let data: Vec<u8> = (0..200).collect();
        let mut m = Mutator::new(1, std::iter::once(10..20).collect());
        let changed = (0..500).filter(|_| m.mutate(&data, &data) != data).count();
        assert!(changed > 400, "{changed} of 500 differ");
        let mut m = Mutator::new(1, Vec::new());
        for _ in 0..500 {
            let _ = m.mutate(b"", b"");
        }
    }

    #[test]
    fn changes_go_where_it_is_hot() {
        let data = vec![0u8; 1000];
        let mut m = Mutator::new(3, std::iter::once(0..10).collect());
        let hot = (0..400)
            .filter(|_| m.mutate(&data, &data).iter().take(64).any(|&b| b != 0))
            .count();
        assert!(hot > 150, "{hot} of 400 changed the first bytes");
    }
}
