//! The fast path of the header parser: a tensor written the way every common writer writes it,
//! fields in order and no white space. Anything else goes the general way, so all this may do is
//! agree with it or give up.

use std::ops::Range;

use weighbridge_core::model::{DType, Shape};

use super::entry::dtype;

/// A tensor's fields and where they stand, counted from its opening brace.
pub(super) struct Fields {
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    pub(super) shape_at: Range<usize>,
    pub(super) offsets: (u64, u64),
    pub(super) offsets_at: Range<usize>,
    /// Length in bytes, both braces included.
    pub(super) len: usize,
}

/// Reads `{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}` from the start of `text`.
#[inline]
pub(super) fn fields(text: &[u8]) -> Option<Fields> {
    let whole = text.len();
    let rest = text.strip_prefix(b"{\"dtype\":\"")?;
    // The longest name, F8_E4M3FNUZ, has eleven characters.
    let quote = rest.iter().take(12).position(|&b| b == b'"')?;
    let dtype = dtype(std::str::from_utf8(rest.get(..quote)?).ok()?)?;
    let mut rest = rest.get(quote..)?.strip_prefix(b"\",\"shape\":")?;
    let shape_start = whole - rest.len();
    rest = rest.strip_prefix(b"[")?;
    let mut shape = Shape::new();
    if let Some(empty) = rest.strip_prefix(b"]") {
        rest = empty;
    } else {
        loop {
            shape.push(number(&mut rest)?);
            let (&byte, after) = rest.split_first()?;
            rest = after;
            match byte {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
    }
    let shape_at = shape_start..whole - rest.len();
    rest = rest.strip_prefix(b",\"data_offsets\":")?;
    let offsets_start = whole - rest.len();
    rest = rest.strip_prefix(b"[")?;
    let begin = number(&mut rest)?;
    rest = rest.strip_prefix(b",")?;
    let end = number(&mut rest)?;
    rest = rest.strip_prefix(b"]")?;
    let offsets_at = offsets_start..whole - rest.len();
    rest = rest.strip_prefix(b"}")?;
    Some(Fields {
        dtype,
        shape,
        shape_at,
        offsets: (begin, end),
        offsets_at,
        len: whole - rest.len(),
    })
}

/// An integer of at most 18 digits, which cannot overflow.
#[inline]
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    let mut digits = 0;
    for &b in rest.iter().take(19) {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            break;
        }
        n = n * 10 + u64::from(d);
        digits += 1;
    }
    if digits == 0 || digits > 18 || (digits > 1 && rest.first() == Some(&b'0')) {
        return None;
    }
    *rest = rest.get(digits..)?;
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_common_spelling_and_nothing_doubtful() {
        let text = b"{\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[0,12],\"data_offsets\":[7,90]},";
        let f = fields(text).unwrap();
        assert_eq!((f.dtype, f.offsets), (DType::F8_E4M3FNUZ, (7, 90)));
        assert_eq!(f.shape.as_slice(), [0, 12]);
        assert_eq!(&text[f.shape_at], b"[0,12]");
        assert_eq!(&text[f.offsets_at], b"[7,90]");
        assert_eq!(f.len, text.len() - 1);
        for bad in [
            "{\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]}",
            "{\"dtype\":\"F32\",\"shape\":[1,],\"data_offsets\":[0,4]}",
            "{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}",
            "{\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]}",
            "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9999999999999999999]}",
            "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,5]}",
            "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}",
            "{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}",
            "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]",
        ] {
            assert!(fields(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
