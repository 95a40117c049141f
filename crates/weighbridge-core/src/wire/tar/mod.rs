//! The tar container: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU headers, read by
//! position so that payloads can be borrowed and copied.
//!
//! Links and names that climb out of a folder are data here: nothing is ever extracted.

mod header;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::{Storage, StorageData};
use crate::source::{ByteSource, Window};
use crate::wire::path::{self, Escape};
use header::{BLOCK, Block, Extended};

/// What a member is (the header's type flag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file (`0`, NUL, or the contiguous `7`).
    File,
    /// A second name of an earlier member.
    HardLink,
    /// A symbolic link.
    SymLink,
    /// A character or block device.
    Device,
    /// A folder.
    Dir,
    /// A named pipe.
    Fifo,
    /// A file with holes, of whose payload only the map and the data are stored.
    Sparse,
    /// Anything else, by its type flag.
    Other(u8),
}

/// One member. Offsets are counted from the start of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name as the archive has it; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// The name's bytes where they are no UTF-8.
    pub raw_name: Option<Box<[u8]>>,
    /// What it is.
    pub kind: Kind,
    /// Where a link points.
    pub link: Option<String>,
    /// Payload bytes in the file; 0 for kinds without payload.
    pub size: u64,
    /// Position of the payload.
    pub offset: u64,
    /// Position of the member's first header block, long names and pax records included.
    pub header_offset: u64,
    /// The name in the header itself, where a long name or a pax record stands for another:
    /// readers that know neither see this one. Mostly the beginning of `name`.
    pub header_name: Option<String>,
}

impl Member {
    /// How the name leads out of the folder that the archive is unpacked into.
    pub fn escape(&self) -> Option<Escape> {
        path::escape(&self.name)
    }

    /// How the target of a link does.
    pub fn link_escape(&self) -> Option<Escape> {
        let target = self.link.as_deref()?;
        path::link_escape(&self.name, target, self.kind == Kind::SymLink)
    }
}

/// An open archive: all its headers, checked, over the source it lies in.
#[derive(Debug, Clone)]
pub struct Archive {
    source: Arc<dyn ByteSource>,
    members: Vec<Member>,
    by_name: HashMap<String, usize, foldhash::fast::RandomState>,
    duplicates: Vec<usize>,
    /// Positions of headers of links, folders and devices that claim a payload.
    sized: Vec<u64>,
    /// Positions of headers whose size a pax record contradicts.
    resized: Vec<u64>,
    /// Position after the last member.
    end: u64,
    /// Whether the two zero blocks of an ended archive follow.
    ended: bool,
}

/// Whether `head`, the first 512 bytes of a file or more, is a tar header: its checksum holds.
pub fn is_tar(head: &[u8]) -> bool {
    head.get(..BLOCK as usize)
        .and_then(|b| Block::parse(b).ok())
        .is_some_and(|b| !b.is_zero())
}

impl Archive {
    /// Reads all headers of the archive in `source`.
    ///
    /// # Errors
    /// `Malformed` with `tar.bad-checksum`, `tar.bad-number` or `tar.bad-pax`, `Truncated` with
    /// `tar.truncated`, `Limit` for too many members or too long names.
    pub fn open(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let name = source.name().to_owned();
        Self::open_inner(source, limits).map_err(|e| e.in_file(name))
    }

    fn open_inner(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let len = source.len();
        let mut this = Self {
            source,
            members: Vec::new(),
            by_name: HashMap::default(),
            duplicates: Vec::new(),
            sized: Vec::new(),
            resized: Vec::new(),
            end: 0,
            ended: false,
        };
        let mut globals = Extended::default();
        let mut headers: u64 = 0;
        // Extended headers that wait for the member they describe, and where they began.
        let mut own = Extended::default();
        let mut first: Option<u64> = None;
        while this.end < len {
            let at = this.end;
            let block = header::read_block(this.source.as_ref(), at)?;
            if block.is_zero() {
                break;
            }
            headers += 1;
            Limits::check(
                headers,
                limits.members,
                "tar.members",
                "headers of the archive",
            )
            .map_err(|e| e.at(at))?;
            let begin = *first.get_or_insert(at);
            let source = this.source.as_ref();
            match block.flag() {
                b'L' => own.path = Some(header::read_long(source, &block, at)?),
                b'K' => own.link = Some(header::read_long(source, &block, at)?),
                b'x' | b'X' => own.read_pax(source, &block, at)?,
                b'g' => globals.read_pax(source, &block, at)?,
                _ => {
                    let extended = std::mem::take(&mut own).or(&globals);
                    this.push(&block, at, begin, extended)?;
                    first = None;
                    continue;
                }
            }
            // A global header describes no member: what follows it begins anew.
            if block.flag() == b'g' && own.is_empty() {
                first = None;
            }
            this.end = payload_end(at + BLOCK, block.size().map_err(|e| e.at(at))?, len)?;
        }
        if first.is_some() {
            return Err(Error::truncated(
                "tar.truncated",
                "the archive ends after a header that describes a following member",
            )
            .at(this.end));
        }
        this.ended = this.has_end_blocks()?;
        Ok(this)
    }

    fn push(&mut self, block: &Block, at: u64, begin: u64, extended: Extended) -> Result<()> {
        let len = self.source.len();
        let claimed = match extended.size {
            Some(n) => n,
            None => block.size().map_err(|e| e.at(at))?,
        };
        // Sizes that do not fit the field are zero there, or cut off.
        if extended.size.is_some() && block.size().is_ok_and(|n| n != 0 && n != claimed) {
            self.resized.push(at);
        }
        let own = block.name();
        let renamed = extended.path.as_ref().is_some_and(|p| *p != own);
        let header_name = renamed.then(|| text(own.clone()).0);
        let raw = extended.path.unwrap_or(own);
        let mut kind = block.kind();
        if extended.sparse {
            kind = Kind::Sparse;
        }
        // Version 7 had no flag for folders.
        if block.flag() == 0 && raw.last() == Some(&b'/') {
            kind = Kind::Dir;
        }
        let bare = matches!(
            kind,
            Kind::HardLink | Kind::SymLink | Kind::Device | Kind::Dir | Kind::Fifo
        );
        // As Python's tarfile: these kinds have no payload, whatever their size field says.
        let size = if bare { 0 } else { claimed };
        if bare && claimed != 0 {
            self.sized.push(at);
        }
        let mut offset = at + BLOCK;
        if block.flag() == b'S' {
            offset = header::skip_sparse_maps(self.source.as_ref(), block, offset)?;
        }
        self.end = payload_end(offset, size, len)?;
        let link = extended.link.or_else(|| block.link());
        let (name, raw_name) = text(raw);
        if self
            .by_name
            .insert(name.clone(), self.members.len())
            .is_some()
        {
            self.duplicates.push(self.members.len());
        }
        self.members.push(Member {
            name,
            raw_name,
            kind,
            link: link.map(|l| text(l).0),
            size,
            offset,
            header_offset: begin,
            header_name,
        });
        Ok(())
    }

    fn has_end_blocks(&self) -> Result<bool> {
        let end = self.end.saturating_add(2 * BLOCK);
        if end > self.source.len() {
            return Ok(false);
        }
        Ok(self.source.read_vec(self.end..end)?.iter().all(|&b| b == 0))
    }

    /// The source the archive lies in.
    pub fn source(&self) -> &Arc<dyn ByteSource> {
        &self.source
    }

    /// The members in file order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member called `name`; of several the last, which is the one an extraction leaves.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.get(*self.by_name.get(name)?)
    }

    /// Whether the archive ends with its two zero blocks.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The bytes after the end of the archive, from the first that is not zero: readers that do
    /// not stop at the end (GNU tar with `--ignore-zeros`, or at a lone block of zeros) find more
    /// there where a header follows, which [`is_tar`] tells. `None` where only zeros follow.
    ///
    /// # Errors
    /// What reading the source gives.
    pub fn trailing(&self) -> Result<Option<Range<u64>>> {
        let len = self.source.len();
        let mut at = self.end;
        let mut buf = vec![0u8; 64 << 10];
        while at < len {
            let n = (len - at).min(buf.len() as u64) as usize;
            let part = buf.get_mut(..n).unwrap_or_default();
            self.source.read_at(at, part)?;
            if let Some(i) = part.iter().position(|&b| b != 0) {
                let found = at + i as u64;
                // What follows in blocks begins with one.
                let block = self.end + (found - self.end) / BLOCK * BLOCK;
                return Ok(Some(block..len));
            }
            at += n as u64;
        }
        Ok(None)
    }

    /// The stored bytes of `m` whatever its kind: Python unpacks members of unknown kinds as
    /// files, and of a file with holes these are the map and the data. Empty for links, folders,
    /// devices and pipes.
    pub fn stored(&self, m: &Member) -> Range<u64> {
        m.offset..m.offset.saturating_add(m.size)
    }

    /// The bytes of the payload of `m` in the source.
    ///
    /// # Errors
    /// `Unsupported` with `tar.no-payload` for links, devices and files with holes.
    pub fn payload(&self, m: &Member) -> Result<Range<u64>> {
        if m.kind != Kind::File {
            return Err(self.named(
                m,
                Error::unsupported(
                    "tar.no-payload",
                    format!("a member of kind {:?} has no plain payload", m.kind),
                )
                .at(m.header_offset),
            ));
        }
        Ok(m.offset..m.offset.saturating_add(m.size))
    }

    /// The payload of `m` as a source of its own.
    ///
    /// # Errors
    /// As [`Archive::payload`].
    pub fn window(&self, m: &Member) -> Result<Window> {
        let name = format!("{} → {}", self.source.name(), m.name);
        Window::new(Arc::clone(&self.source), self.payload(m)?, name)
    }

    /// The payload of `m` as a storage; tar keeps no checksum of it.
    ///
    /// # Errors
    /// As [`Archive::payload`].
    pub fn storage(&self, m: &Member, big_endian: bool) -> Result<Storage> {
        let data = StorageData::Raw {
            source: Arc::clone(&self.source),
            offset: self.payload(m)?.start,
            checksum: None,
        };
        Storage::new(m.name.as_str(), m.size, big_endian, data)
    }

    /// Reads the payload of `m` into memory, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Archive::payload`]; `Limit` with `tar.member-size`.
    pub fn read(&self, m: &Member, limit: u64) -> Result<Vec<u8>> {
        let range = self.payload(m)?;
        Limits::check(m.size, limit, "tar.member-size", "bytes of the member")
            .map_err(|e| self.named(m, e.at(m.header_offset)))?;
        self.source.read_vec(range).map_err(|e| self.named(m, e))
    }

    /// What a careful reader refuses before it reads any member: two members of one name, names
    /// with NUL bytes, links that claim a payload, an archive without its end.
    ///
    /// # Errors
    /// `Malformed` or `Truncated` with the rules of [`Archive::check_layout`].
    pub fn strict(&self) -> Result<()> {
        match self.violations().next() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Everything that is wrong with the archive's layout: `tar.duplicate-name`, `tar.bad-name`,
    /// `tar.sized-link`, `tar.size-mismatch`, `tar.no-end`, `tar.hidden-bytes` (padding that is not zero) and
    /// `tar.trailing-data`. At most 1000 are listed.
    ///
    /// # Errors
    /// Only what reading the source gives.
    pub fn check_layout(&self) -> Result<Vec<Error>> {
        let mut out: Vec<Error> = self.violations().take(1000).collect();
        for m in &self.members {
            let end = m.offset.saturating_add(m.size);
            let padded = end.next_multiple_of(BLOCK).min(self.source.len());
            self.check_zeros(end..padded, "tar.hidden-bytes", &mut out)?;
        }
        let tail = if self.ended {
            self.end + 2 * BLOCK
        } else {
            self.end
        };
        self.check_zeros(tail..self.source.len(), "tar.trailing-data", &mut out)?;
        out.truncate(1000);
        Ok(out)
    }

    fn violations(&self) -> impl Iterator<Item = Error> {
        let file = self.source.name();
        let duplicates = self.duplicates.iter().filter_map(|&i| self.members.get(i));
        let duplicates = duplicates.map(|m| {
            Error::malformed(
                "tar.duplicate-name",
                format!("{:?} is the name of more than one member", m.name),
            )
            .at(m.header_offset)
        });
        let nul = self
            .members
            .iter()
            .filter(|m| m.name.contains('\0'))
            .map(|m| {
                Error::malformed(
                    "tar.bad-name",
                    format!("the name {:?} holds a NUL byte", m.name),
                )
                .at(m.header_offset)
            });
        let sized = self.sized.iter().map(|&at| {
            Error::malformed(
                "tar.sized-link",
                "a link, folder or device claims a payload; readers differ on whether to skip it",
            )
            .at(at)
        });
        let resized = self.resized.iter().map(|&at| {
            Error::malformed(
                "tar.size-mismatch",
                "a pax record gives another size than the header; readers differ on where the \
                 next member is",
            )
            .at(at)
        });
        let end = (!self.ended).then(|| {
            Error::truncated(
                "tar.no-end",
                "the two zero blocks that end an archive are missing",
            )
            .at(self.end)
            .help("the file may be cut off; fetch it again")
        });
        duplicates
            .chain(nul)
            .chain(sized)
            .chain(resized)
            .chain(end)
            .map(move |e| e.in_file(file))
    }

    fn check_zeros(
        &self,
        range: Range<u64>,
        rule: &'static str,
        out: &mut Vec<Error>,
    ) -> Result<()> {
        let mut buf = [0u8; 4096];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(buf.len() as u64) as usize;
            let part = buf.get_mut(..n).unwrap_or_default();
            self.source.read_at(at, part)?;
            if part.iter().any(|&b| b != 0) {
                let n = range.end - range.start;
                out.push(
                    Error::malformed(rule, format!("{n} bytes of padding are not zero"))
                        .span(range.start, n)
                        .in_file(self.source.name()),
                );
                return Ok(());
            }
            at += n as u64;
        }
        Ok(())
    }

    fn named(&self, m: &Member, e: Error) -> Error {
        e.within(m.name.as_str()).in_file(self.source.name())
    }
}

/// Where the blocks of a payload end; the payload itself must lie in the file, its padding may be
/// cut.
fn payload_end(offset: u64, size: u64, len: u64) -> Result<u64> {
    let end = offset.checked_add(size).filter(|&e| e <= len);
    let Some(end) = end else {
        return Err(Error::truncated(
            "tar.truncated",
            format!("a payload of {size} bytes from {offset} reaches past the end at {len}"),
        )
        .at(offset));
    };
    Ok(end.checked_next_multiple_of(BLOCK).unwrap_or(end).min(len))
}

fn text(raw: Vec<u8>) -> (String, Option<Box<[u8]>>) {
    match String::from_utf8(raw) {
        Ok(s) => (s, None),
        Err(e) => {
            let raw = e.into_bytes();
            (String::from_utf8_lossy(&raw).into_owned(), Some(raw.into()))
        }
    }
}
