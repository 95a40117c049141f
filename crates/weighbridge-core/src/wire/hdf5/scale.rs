//! The filter scale-offset: numbers as differences from the smallest, in as few bits as do
//! (`H5Zscaleoffset.c` of the reference library; IV.A.2.l names its values).

use crate::error::{Error, Result};

/// Where the packed bits begin.
const HEAD: usize = 21;

/// What the filter was told.
struct Parameters {
    /// Decimal digits behind the point, for floats.
    digits: Option<i32>,
    elements: usize,
    width: usize,
    signed: bool,
    big_endian: bool,
    fill: Option<u64>,
}

fn parameters(values: &[u32]) -> Option<Parameters> {
    let get = |i: usize| values.get(i).copied();
    let width = get(4)? as usize;
    let float = match (get(0)?, get(3)?) {
        (2, 0) => false,
        // The scaling by an exponent was never written by anybody.
        (0, 1) => true,
        _ => return None,
    };
    let widths: &[usize] = if float { &[4, 8] } else { &[1, 2, 4, 8] };
    if !widths.contains(&width) {
        return None;
    }
    let low = u64::from(get(8).unwrap_or(0));
    let high = if width == 8 { get(9).unwrap_or(0) } else { 0 };
    Some(Parameters {
        digits: float.then_some(get(1)? as i32),
        elements: get(2)? as usize,
        width,
        signed: get(5)? == 1,
        big_endian: get(6)? == 1,
        fill: (get(7)? == 1).then_some(low | u64::from(high) << 32),
    })
}

/// Whether the filter's values are of a kind that [`undo`] knows.
pub(super) fn is_known(values: &[u32]) -> bool {
    parameters(values).is_some()
}

/// Undoes it; at most `cap` bytes come out.
pub(super) fn undo(data: &[u8], values: &[u32], cap: usize) -> Result<Vec<u8>> {
    let bad = |m: &str| Error::malformed("hdf5.scale-offset", m.to_owned());
    let p = parameters(values).ok_or_else(|| {
        let message = "the filter scale-offset was told what this version does not know";
        Error::unsupported("hdf5.filter", message)
    })?;
    let len = p.elements.checked_mul(p.width).filter(|&n| n <= cap);
    let len = len.ok_or_else(|| bad("a chunk expands to more than it can be"))?;
    let early = || bad("a chunk's packed bits end too early");
    let bits = data.first_chunk::<4>().ok_or_else(early)?;
    let bits = u32::from_le_bytes(*bits);
    let least = data.get(5..13).and_then(|b| b.first_chunk::<8>());
    let least = u64::from_le_bytes(*least.ok_or_else(early)?);
    let packed = data.get(HEAD..).ok_or_else(early)?;
    let full = p.width as u32 * 8;
    if bits > full {
        return Err(bad("a chunk's numbers have more bits than their type"));
    }
    if bits == full {
        // Nothing was to be gained: the values are there as they were.
        return packed.get(..len).map(<[u8]>::to_vec).ok_or_else(early);
    }
    let needed = (p.elements as u64).saturating_mul(bits.into()).div_ceil(8);
    if (packed.len() as u64) < needed {
        return Err(early());
    }
    let mut reader = Bits::new(packed);
    let mut out = Vec::with_capacity(len);
    // The largest number of the bits stands for the fill value, if there is one.
    let unset = (bits > 0).then(|| u64::MAX >> (64 - bits));
    for _ in 0..p.elements {
        let n = reader.next(bits);
        let value = match p.fill {
            Some(fill) if unset == Some(n) => fill,
            _ => p.value(n, least),
        };
        let le = value.to_le_bytes();
        let le = le.get(..p.width).unwrap_or_default();
        if p.big_endian {
            out.extend(le.iter().rev());
        } else {
            out.extend_from_slice(le);
        }
    }
    Ok(out)
}

impl Parameters {
    fn value(&self, n: u64, least: u64) -> u64 {
        let Some(digits) = self.digits else {
            // Differences wrap, signed or not.
            let _ = self.signed;
            return n.wrapping_add(least);
        };
        if self.width == 4 {
            let scaled = n as u32 as i32 as f32 / 10f32.powi(digits);
            let value = scaled + f32::from_bits(least as u32);
            value.to_bits().into()
        } else {
            let scaled = n as i64 as f64 / 10f64.powi(digits);
            (scaled + f64::from_bits(least)).to_bits()
        }
    }
}

/// Numbers of some bits each, the highest bit first.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u128,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            at: 0,
            held: 0,
            count: 0,
        }
    }

    fn next(&mut self, bits: u32) -> u64 {
        while self.count < bits {
            let byte = self.data.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            self.held = self.held << 8 | u128::from(byte);
            self.count += 8;
        }
        self.count -= bits;
        let value = (self.held >> self.count) as u64;
        self.held &= (1u128 << self.count) - 1;
        if bits == 0 { 0 } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bits: u32, least: u64, data: &[u8]) -> Vec<u8> {
        let mut out = bits.to_le_bytes().to_vec();
        out.push(8);
        out.extend(least.to_le_bytes());
        out.resize(HEAD, 0);
        out.extend(data);
        out
    }

    #[test]
    fn integers_come_back_with_their_fill_value() {
        // Four numbers of three bits: 0, 1, 6, and the mark of the fill value.
        let data = packed(3, (-2i64) as u64, &[0b0000_0111, 0b0111_0000]);
        let values = [2, 0, 4, 0, 4, 1, 0, 1, 77];
        let numbers = undo(&data, &values, 1000).unwrap();
        let numbers: Vec<i32> = numbers
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(numbers, [-2, -1, 4, 77]);
        // The other byte order.
        let big = undo(&data, &[2, 0, 4, 0, 4, 1, 1, 1, 77], 1000).unwrap();
        assert_eq!(big[..8], [0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn claims_are_checked() {
        let many = [2, 0, u32::MAX, 0, 8, 0, 0, 0];
        let rule = |data: &[u8], values: &[u32]| undo(data, values, 1 << 20).unwrap_err().rule();
        assert_eq!(rule(&packed(0, 0, &[]), &many), "hdf5.scale-offset");
        let four = [2, 0, 4, 0, 4, 0, 0, 0];
        assert_eq!(rule(&packed(9, 0, &[1, 2]), &four), "hdf5.scale-offset");
        assert_eq!(rule(&packed(33, 0, &[0; 64]), &four), "hdf5.scale-offset");
        assert_eq!(rule(&[0; 12], &four), "hdf5.scale-offset");
        assert_eq!(
            rule(&packed(0, 0, &[]), &[1, 0, 4, 1, 4, 0, 0, 0]),
            "hdf5.filter"
        );
    }
}
