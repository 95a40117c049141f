//! Keys of slices: a tensor's name and a box in it, in a code whose order is theirs.
//!
//! Source: `tensorflow/core/lib/strings/ordered_code.cc` and `EncodeTensorNameSlice` of
//! `tensorflow/core/util/saved_tensor_slice_util.cc`. A number is the count of its bytes and they,
//! most significant first; a text has NUL as 00 FF, FF as FF 00 and 00 01 at its end; a signed
//! number says by its leading bits how many bytes it takes.

use super::index::Extent;

/// The key of the slice `extents` of the tensor called `name`.
pub(super) fn key(name: &[u8], extents: &[Extent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 4 + extents.len() * 4);
    number(&mut out, 0);
    text(&mut out, name);
    number(&mut out, extents.len() as u64);
    for e in extents {
        let (start, length) = match e {
            Some((start, length)) => (*start, *length),
            None => (0, -1),
        };
        signed(&mut out, start);
        signed(&mut out, length);
    }
    out
}

fn number(out: &mut Vec<u8>, n: u64) {
    let bytes = n.to_be_bytes();
    let used = bytes.iter().skip_while(|b| **b == 0);
    out.push(used.clone().count() as u8);
    out.extend(used);
}

fn text(out: &mut Vec<u8>, s: &[u8]) {
    for &b in s {
        match b {
            0 => out.extend([0, 0xff]),
            0xff => out.extend([0xff, 0]),
            b => out.push(b),
        }
    }
    out.extend([0, 1]);
}

fn signed(out: &mut Vec<u8>, n: i64) {
    let magnitude = if n < 0 { !n } else { n } as u64;
    let bits = 64 - magnitude.leading_zeros();
    // Seven bits a byte, one of them for the sign, up to ten bytes.
    let len = (bits as usize / 7 + 1).min(10);
    let sign = if n < 0 { 0xff } else { 0 };
    let mut bytes = [sign; 10];
    if let Some(low) = bytes.last_chunk_mut::<8>() {
        *low = n.to_be_bytes();
    }
    // As many leading bits as bytes are the other of the sign.
    let mut header = [0u8; 2];
    for i in 0..len {
        if let Some(h) = header.get_mut(i / 8) {
            *h |= 0x80 >> (i % 8);
        }
    }
    let used = bytes.iter().skip(10 - len).enumerate();
    out.extend(used.map(|(i, b)| b ^ header.get(i).copied().unwrap_or(0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: i64) -> Vec<u8> {
        let mut out = Vec::new();
        signed(&mut out, n);
        out
    }

    #[test]
    fn signed_numbers_are_as_the_source_says() {
        assert_eq!(of(0), [0x80]);
        assert_eq!(of(-1), [0x7f]);
        assert_eq!(of(63), [0xbf]);
        assert_eq!(of(64), [0xc0, 0x40]);
        assert_eq!(of(-64), [0x40]);
        assert_eq!(of(-65), [0x3f, 0xbf]);
        assert_eq!(of(0x424242), [0xf0, 0x42, 0x42, 0x42]);
        assert_eq!(of(-0x800), [0x38, 0x00]);
        assert_eq!(of(i64::MAX).len(), 10);
        assert_eq!(of(i64::MAX)[..3], [0xff, 0xc0, 0x7f]);
        assert_eq!(of(i64::MIN)[..3], [0x00, 0x3f, 0x80]);
    }

    #[test]
    fn the_order_of_codes_is_that_of_numbers() {
        let mut all: Vec<i64> = vec![i64::MIN, i64::MAX, 0, -1, 1];
        for shift in 1..63 {
            for d in [-1, 0, 1] {
                all.push((1i64 << shift) + d);
                all.push(-(1i64 << shift) + d);
            }
        }
        all.sort_unstable();
        all.dedup();
        let codes: Vec<Vec<u8>> = all.iter().map(|n| of(*n)).collect();
        assert!(codes.is_sorted());
    }

    #[test]
    fn keys_of_slices() {
        // As TensorFlow wrote it for rows 4 to 7 of a matrix.
        let got = key(b"scope/part", &[Some((4, 3)), None]);
        let want = [
            b"\x00scope/part\x00\x01\x01\x02".as_slice(),
            &[0x84, 0x83, 0x80, 0x7f],
        ];
        assert_eq!(got, want.concat());
        assert_eq!(key(b"\0\xff", &[]), [0, 0, 0xff, 0xff, 0, 0, 1, 0]);
    }
}
