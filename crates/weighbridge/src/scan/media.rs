//! Pictures and sound beside models: walked chunk by chunk, so that what hides behind them shows.

use weighbridge_core::{Error, Limits, Result};

use super::examine::{Examiner, Item};

/// Takes a PNG, a JPEG or a RIFF file (WAV, WebP); says whether it is one.
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    let head = item.head.as_slice();
    let (name, end) = if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        ("png", png(item, cx.limits)?)
    } else if head.starts_with(&[0xff, 0xd8, 0xff]) {
        ("jpeg", jpeg(item)?)
    } else if head.starts_with(b"RIFF") && matches!(head.get(8..12), Some(b"WAVE" | b"WEBP")) {
        ("riff", riff(item))
    } else {
        return Ok(false);
    };
    cx.named(item, name);
    match end {
        None => {
            let e = Error::malformed("media.truncated", format!("the {name} file has no end"));
            cx.failed(&item.place, e);
        }
        Some(end) if end < item.source.len() => {
            let reason = format!(
                "{} bytes after the end of the {name} file",
                item.source.len() - end
            );
            cx.gap(&item.place, Some(end), reason);
        }
        Some(_) => {}
    }
    Ok(true)
}

/// Length, type, data, CRC, until `IEND` (PNG specification, 5.3).
fn png(item: &Item, limits: &Limits) -> Result<Option<u64>> {
    let mut at = 8u64;
    for _ in 0..limits.members {
        let mut chunk = [0u8; 8];
        if at.saturating_add(12) > item.source.len() {
            return Ok(None);
        }
        item.source.read_at(at, &mut chunk)?;
        let [a, b, c, d, kind @ ..] = chunk;
        let len = u64::from(u32::from_be_bytes([a, b, c, d]));
        at = at.saturating_add(12).saturating_add(len);
        if &kind == b"IEND" {
            return Ok((at <= item.source.len()).then_some(at));
        }
    }
    Ok(None)
}

/// Segments with lengths, then coded data in which 0xff stands for itself only before 0x00 or a
/// restart marker (ITU-T T.81, B.1).
fn jpeg(item: &Item) -> Result<Option<u64>> {
    let len = item.source.len();
    let mut at = 2u64;
    loop {
        let mut two = [0u8; 2];
        if at.saturating_add(2) > len {
            return Ok(None);
        }
        item.source.read_at(at, &mut two)?;
        match two {
            [0xff, 0xd9] => return Ok(Some(at + 2)),
            [0xff, 0xff] => at += 1,
            [0xff, 0x01 | 0xd0..=0xd8] => at += 2,
            [0xff, marker] => {
                let mut size = [0u8; 2];
                if at.saturating_add(4) > len {
                    return Ok(None);
                }
                item.source.read_at(at + 2, &mut size)?;
                at += 2 + u64::from(u16::from_be_bytes(size)).max(2);
                if marker == 0xda {
                    match coded(item, at)? {
                        Some(next) => at = next,
                        None => return Ok(None),
                    }
                }
            }
            _ => return Ok(None),
        }
    }
}

/// Where the next marker after coded data lies.
fn coded(item: &Item, from: u64) -> Result<Option<u64>> {
    const STEP: u64 = 64 << 10;
    let len = item.source.len();
    let mut at = from;
    while at < len {
        let part = item.source.read_vec(at..len.min(at + STEP + 1))?;
        let found = part
            .windows(2)
            .position(|w| w[0] == 0xff && !matches!(w[1], 0x00 | 0xd0..=0xd7 | 0xff));
        if let Some(n) = found {
            return Ok(Some(at + n as u64));
        }
        at += STEP;
    }
    Ok(None)
}

/// A size after the tag, padded to an even number.
fn riff(item: &Item) -> Option<u64> {
    let size = item
        .head
        .get(4..8)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)?;
    let end = u64::from(size).saturating_add(8);
    let end = end + end % 2;
    (end <= item.source.len().saturating_add(1)).then_some(end)
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    fn taken(bytes: &[u8]) -> Option<(usize, usize)> {
        let source = std::sync::Arc::new(SliceSource::new(bytes, "x"));
        let item = Item::new(source.clone(), Place::default(), "x").unwrap();
        let mut s = Subject::new("x", source.as_ref());
        let limits = Limits::default();
        let is = take(&mut Examiner::new(&mut s, &limits), &item).unwrap();
        is.then_some((s.gaps.len(), s.faults.len()))
    }

    #[test]
    fn the_end_is_found_and_what_follows_is_said() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x02tEXtab0000\0\0\0\0IEND0000".to_vec();
        assert_eq!(taken(&png), Some((0, 0)));
        assert_eq!(taken(&png[..20]), Some((0, 1)));
        png.extend_from_slice(b"more");
        assert_eq!(taken(&png), Some((1, 0)));

        let mut jpeg =
            b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x02x\xff\x00\xff\xd1y\xff\xd9".to_vec();
        assert_eq!(taken(&jpeg), Some((0, 0)));
        assert_eq!(taken(&jpeg[..jpeg.len() - 2]), Some((0, 1)));
        jpeg.push(0);
        assert_eq!(taken(&jpeg), Some((1, 0)));

        assert_eq!(taken(b"RIFF\x04\0\0\0WAVE"), Some((0, 0)));
        assert_eq!(taken(b"RIFF\x04\0\0\0WAVEx"), Some((1, 0)));
        assert_eq!(taken(b"RIFF\xff\xff\xff\xffWAVE"), Some((0, 1)));
        assert_eq!(taken(b"GIF"), None);
    }
}
