//! The fast path of the header parser: a tensor written the way every common writer writes it,
//! fields in order and no white space. Anything else goes the general way, so all this may do is
//! agree with it or give up.

use weighbridge_core::model::Shape;

use super::entry::{Entry, dtype};

/// Reads `{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}` from the start of `text`, which
/// stands at position `at` of the header, into `entry`. Gives the length, both braces included;
/// on `None`, `entry` may have been filled in part.
#[inline]
pub(super) fn fields(text: &[u8], at: usize, entry: &mut Entry<'_>) -> Option<usize> {
    let end = at + text.len();
    let rest = text.strip_prefix(b"{\"dtype\":\"")?;
    // The longest name, F8_E4M3FNUZ, has eleven characters.
    let quote = rest.iter().take(12).position(|&b| b == b'"')?;
    entry.dtype = dtype(std::str::from_utf8(rest.get(..quote)?).ok()?);
    entry.dtype?;
    let mut rest = rest.get(quote..)?.strip_prefix(b"\",\"shape\":")?;
    let start = end - rest.len();
    rest = rest.strip_prefix(b"[")?;
    let shape = entry.shape.insert(Shape::new());
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
    entry.shape_at = start..end - rest.len();
    rest = rest.strip_prefix(b",\"data_offsets\":")?;
    let start = end - rest.len();
    rest = rest.strip_prefix(b"[")?;
    let first = number(&mut rest)?;
    rest = rest.strip_prefix(b",")?;
    entry.offsets = Some((first, number(&mut rest)?));
    rest = rest.strip_prefix(b"]")?;
    entry.offsets_at = start..end - rest.len();
    rest = rest.strip_prefix(b"}")?;
    Some(text.len() - rest.len())
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
    use weighbridge_core::model::DType;

    use super::*;

    #[test]
    fn takes_the_common_spelling_and_nothing_doubtful() {
        let text = b"{\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[0,12],\"data_offsets\":[7,90]},";
        let mut e = Entry::named("x".into(), 0..0);
        assert_eq!(fields(text, 100, &mut e), Some(text.len() - 1));
        assert_eq!(
            (e.dtype, e.offsets),
            (Some(DType::F8_E4M3FNUZ), Some((7, 90)))
        );
        assert_eq!(e.shape.unwrap().as_slice(), [0, 12]);
        assert_eq!(
            &text[e.shape_at.start - 100..e.shape_at.end - 100],
            b"[0,12]"
        );
        assert_eq!(
            &text[e.offsets_at.start - 100..e.offsets_at.end - 100],
            b"[7,90]"
        );
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
            let mut e = Entry::named("x".into(), 0..0);
            assert!(fields(bad.as_bytes(), 0, &mut e).is_none(), "{bad}");
        }
    }
}
