//! What only a strict check asks: is every byte of the archive accounted for, once?

use super::{Archive, Member};
use crate::cursor::Cursor;
use crate::error::{Error, Result};

/// At most this many violations are listed: the first ones tell the story.
const MOST: usize = 1000;
const DESCRIPTOR: u32 = 0x0807_4b50;

impl Archive {
    /// Everything that is wrong with the archive's layout, without reading payloads: duplicate
    /// and broken names, overlapping members, local headers that differ from the central
    /// directory, data descriptors that do, bytes that belong to nothing (zeros are taken for
    /// padding), bytes before and after the archive. At most 1000 are listed.
    ///
    /// # Errors
    /// Only what reading the source gives (`Io`, a file that shrinks).
    pub fn check_layout(&self) -> Result<Vec<Error>> {
        let mut out = Vec::new();
        self.check_directory(&mut out, MOST);
        let mut order: Vec<&Member> = self.members.iter().collect();
        order.sort_by_key(|m| m.header_offset);
        let mut at = 0u64;
        for (i, m) in order.iter().enumerate() {
            if out.len() >= MOST {
                return Ok(out);
            }
            if m.header_offset > at {
                self.check_gap(at, m.header_offset, i == 0, &mut out)?;
            }
            let end = match self.data_offset(m) {
                Ok(data) => {
                    let next = order
                        .get(i + 1)
                        .map_or(self.directory.start, |n| n.header_offset);
                    let end = data + m.stored;
                    end + self.descriptor(m, end, next, &mut out)?
                }
                Err(e) if is_device(&e) => return Err(e),
                Err(e) => {
                    out.push(e);
                    m.least_end()
                }
            };
            at = at.max(end);
        }
        if self.directory.start > at {
            self.check_gap(at, self.directory.start, order.is_empty(), &mut out)?;
        }
        if self.end_records > self.directory.end {
            self.check_gap(self.directory.end, self.end_records, false, &mut out)?;
        }
        let trailing = self.trailing_bytes();
        if trailing > 0 {
            out.push(
                Error::malformed(
                    "zip.trailing-data",
                    format!("{trailing} bytes follow the archive"),
                )
                .span(self.comment.end, trailing)
                .in_file(self.source.name()),
            );
        }
        out.truncate(MOST);
        Ok(out)
    }

    /// What the central directory alone shows to be wrong, at most `most` violations.
    pub(super) fn check_directory(&self, out: &mut Vec<Error>, most: usize) {
        let file = self.source.name();
        for m in self.duplicates() {
            if out.len() >= most {
                return;
            }
            out.push(
                Error::malformed(
                    "zip.duplicate-name",
                    format!("{:?} is the name of more than one member", m.name),
                )
                .at(m.central_offset)
                .in_file(file)
                .help("readers differ on which of the two counts; pack the archive again"),
            );
        }
        for m in self.members.iter().filter(|m| m.name.contains('\0')) {
            if out.len() >= most {
                return;
            }
            out.push(
                Error::malformed(
                    "zip.bad-name",
                    format!("the name {:?} holds a NUL byte", m.name),
                )
                .at(m.central_offset)
                .in_file(file),
            );
        }
        let mut order: Vec<&Member> = self.members.iter().collect();
        order.sort_by_key(|m| m.header_offset);
        let mut widest: Option<&Member> = None;
        for m in order {
            if out.len() >= most {
                return;
            }
            if let Some(w) = widest.filter(|w| m.header_offset < w.least_end()) {
                out.push(
                    Error::malformed(
                        "zip.overlap",
                        format!("{:?} lies over the bytes of {:?}", m.name, w.name),
                    )
                    .at(m.header_offset)
                    .in_file(file),
                );
            }
            if widest.is_none_or(|w| m.least_end() > w.least_end()) {
                widest = Some(m);
            }
        }
    }

    /// Length of the data descriptor after the payload that ends at `end` (0 for members without
    /// one); one that contradicts the central directory is listed.
    fn descriptor(&self, m: &Member, end: u64, next: u64, out: &mut Vec<Error>) -> Result<u64> {
        if !m.has_descriptor() {
            return Ok(0);
        }
        // The signature is optional, and sizes are 8 bytes wide in zip64 members (APPNOTE 4.3.9).
        let room = next.saturating_sub(end).min(24);
        let raw = self.source.read_vec(end..end + room)?;
        for (signature, wide) in [(true, false), (true, true), (false, false), (false, true)] {
            if let Some(n) = descriptor_matches(&raw, m, signature, wide) {
                return Ok(n);
            }
        }
        out.push(
            self.named(
                m,
                Error::malformed(
                    "zip.bad-descriptor",
                    "the data descriptor after the payload is missing or differs from the central \
                 directory",
                )
                .span(end, room),
            ),
        );
        Ok(room)
    }

    /// Lists the bytes from `start` to `end` unless all are zero; what lies before the first
    /// member is listed whatever it holds.
    fn check_gap(&self, start: u64, end: u64, prefix: bool, out: &mut Vec<Error>) -> Result<()> {
        let n = end - start;
        if prefix {
            out.push(
                Error::malformed("zip.prefix", format!("{n} bytes lie before the archive"))
                    .span(start, n)
                    .in_file(self.source.name()),
            );
            return Ok(());
        }
        let mut buf = vec![0u8; n.min(64 << 10) as usize];
        let mut at = start;
        while at < end {
            let take = (end - at).min(buf.len() as u64) as usize;
            let part = buf.get_mut(..take).unwrap_or_default();
            self.source.read_at(at, part)?;
            if part.iter().any(|&b| b != 0) {
                out.push(
                    Error::malformed(
                        "zip.hidden-bytes",
                        format!("{n} bytes belong to no member and are no padding"),
                    )
                    .span(start, n)
                    .in_file(self.source.name()),
                );
                return Ok(());
            }
            at += take as u64;
        }
        Ok(())
    }
}

fn descriptor_matches(raw: &[u8], m: &Member, signature: bool, wide: bool) -> Option<u64> {
    let mut c = Cursor::new(raw);
    if signature && c.u32().ok()? != DESCRIPTOR {
        return None;
    }
    if c.u32().ok()? != m.crc32 {
        return None;
    }
    let (stored, size) = if wide {
        (c.u64().ok()?, c.u64().ok()?)
    } else {
        (u64::from(c.u32().ok()?), u64::from(c.u32().ok()?))
    };
    (stored == m.stored && size == m.size).then(|| c.pos() as u64)
}

/// Whether the source failed, rather than the archive.
fn is_device(e: &Error) -> bool {
    e.kind() == crate::ErrorKind::Io || e.rule() == "source.shrunk"
}
