//! The 7z container (`DOC/7zFormat.txt` and `DOC/Methods.txt` of 7-Zip), read for the scanner.
//!
//! Members lie in *folders*, each of which is unpacked as one stream by a chain of coders: to get
//! at one member everything before it in its folder has to be unpacked, so they are read in order,
//! in one pass. The header is parsed by our own code, which checks every count; decompressors and
//! filters are libraries'.

mod folder;
mod header;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::ByteSource;
use crate::wire::codec::{Caps, Output};
use header::{Folder, Parsed, Streams};

/// What every archive begins with.
pub const SIGNATURE: [u8; 6] = *b"7z\xbc\xaf\x27\x1c";
/// Length of the signature header.
const SIGNATURE_LEN: u64 = 32;
/// Longest header.
const HEADER_MAX: u64 = 64 << 20;
/// What a packed header may become in any case, and for each of its packed bytes.
const HEADER_LEAST: u64 = 2 << 20;
const HEADER_RATIO: u64 = 256;
/// Deepest nesting of packed headers; one is what writers make.
const HEADER_DEPTH: u32 = 4;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link; its content is where it points.
    SymLink,
    /// A device, pipe or socket.
    Device,
    /// "Delete this when you unpack".
    Anti,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name; what is no UTF-16 is replaced.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its length, unpacked.
    pub size: u64,
    /// The CRC-32 of its content, where there is one.
    pub crc32: Option<u32>,
    /// The Windows attributes; with bit 15 the upper half is a Unix mode.
    pub attributes: Option<u32>,
    /// The folder that holds its content.
    pub folder: Option<usize>,
}

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    source: Arc<dyn ByteSource>,
    members: Vec<Member>,
    folders: Vec<Folder>,
    /// Whether the header itself is encrypted: nothing is known about the members.
    header_encrypted: bool,
    gaps: Vec<Range<u64>>,
}

/// What [`Archive::read`] tells its caller, member by member in the order of the archive.
#[derive(Debug)]
pub enum Event<'a> {
    /// The content of this member begins.
    Begin,
    /// A piece of it.
    Bytes(&'a [u8]),
    /// It has ended, or why it has not: `Integrity` with `sevenz.crc-mismatch` after all of its
    /// bytes came, `Unsupported` with `sevenz.encrypted` or `sevenz.method`, `Malformed`,
    /// `Truncated`, `Limit`.
    End(Result<()>),
}

/// Whether `head` begins like an archive.
pub fn is_7z(head: &[u8]) -> bool {
    head.starts_with(&SIGNATURE)
}

impl Archive {
    /// Reads the header of the archive in `source`, unpacking it where it is packed, and verifies
    /// its checksums.
    ///
    /// # Errors
    /// `Malformed` with `sevenz.bad-signature` or `sevenz.bad-header`, `Integrity` with
    /// `sevenz.header-crc`, `Truncated` with `sevenz.truncated`, `Limit` with `sevenz.header-size`
    /// or `sevenz.members`, `Unsupported` with `sevenz.method`. An encrypted header is no error:
    /// see [`Archive::is_header_encrypted`].
    pub fn open(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let name = source.name().to_owned();
        Self::open_inner(source, limits).map_err(|e| e.in_file(name))
    }

    fn open_inner(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let place = start(source.as_ref())?;
        let mut this = Self {
            source,
            members: Vec::new(),
            folders: Vec::new(),
            header_encrypted: false,
            gaps: Vec::new(),
        };
        let mut taken = vec![0..SIGNATURE_LEN, place.header.clone()];
        if place.header.is_empty() {
            // An archive of nothing.
            this.gaps = uncovered(taken, this.source.len());
            return Ok(this);
        }
        let mut raw = this.source.read_vec(place.header.clone())?;
        let computed = crc32fast::hash(&raw);
        if computed != place.crc32 {
            return Err(
                mismatch("sevenz.header-crc", "header's", place.crc32, computed)
                    .span(place.header.start, raw.len() as u64),
            );
        }
        let at = place.header.start;
        for _ in 0..HEADER_DEPTH {
            match header::parse(&raw, this.source.len(), limits).map_err(|e| e.at(at))? {
                Parsed::Plain(members, streams) => {
                    this.members = members;
                    taken.extend(packed(&streams));
                    this.folders = streams.folders;
                    this.gaps = uncovered(taken, this.source.len());
                    return Ok(this);
                }
                Parsed::Encoded(streams) => {
                    taken.extend(packed(&streams));
                    let Some(folder) = streams.folders.first() else {
                        return Err(bad("a packed header without a folder", at));
                    };
                    if folder::is_encrypted(folder) {
                        this.header_encrypted = true;
                        return Ok(this);
                    }
                    raw = this.unpack_header(folder)?;
                }
            }
        }
        Err(bad("a header packed over and over", at))
    }

    fn unpack_header(&self, f: &Folder) -> Result<Vec<u8>> {
        let from: u64 = f.streams.iter().map(|s| s.1).sum();
        let at = f.streams.first().map_or(0, |s| s.0);
        let cap = from
            .saturating_mul(HEADER_RATIO)
            .clamp(HEADER_LEAST, HEADER_MAX);
        Limits::check(f.size(), cap, "sevenz.header-size", "bytes of the header")
            .map_err(|e| e.at(at))?;
        let mut raw = Vec::new();
        let mut sink = |part: &[u8]| {
            raw.extend_from_slice(part);
            Ok(())
        };
        let mut out = Output::new(Caps::new(cap, u64::MAX), &mut sink);
        folder::unpack(self.source.as_ref(), f, &mut out)?;
        let computed = crc32fast::hash(&raw);
        match f.crc {
            Some(stored) if stored != computed => {
                Err(mismatch("sevenz.header-crc", "packed header's", stored, computed).at(at))
            }
            _ => Ok(raw),
        }
    }

    /// The members in the order of the archive; none where the header is encrypted.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether the names themselves are encrypted.
    pub fn is_header_encrypted(&self) -> bool {
        self.header_encrypted
    }

    /// Whether the content of `m` is encrypted.
    pub fn is_encrypted(&self, m: &Member) -> bool {
        let folder = m.folder.and_then(|f| self.folders.get(f));
        folder.is_some_and(folder::is_encrypted)
    }

    /// The bytes of the file that neither headers nor packed streams take, in order. Not known
    /// (and empty) where the header is encrypted.
    pub fn gaps(&self) -> &[Range<u64>] {
        &self.gaps
    }

    /// Unpacks everything in one pass, in the order of the archive; `each` is told the member's
    /// index and what happened. Members without content begin and end. What is broken does not
    /// stop the rest: members of later folders are read all the same. `caps` holds for all of them
    /// together.
    ///
    /// # Errors
    /// What `each` returns, and what reading the source gives (`Io`).
    pub fn read(
        &self,
        caps: &Caps,
        each: &mut dyn FnMut(usize, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut left = caps.max_bytes;

        let mut by_folder: Vec<Vec<usize>> = vec![Vec::new(); self.folders.len()];
        for (i, m) in self.members.iter().enumerate() {
            match m.folder.and_then(|f| by_folder.get_mut(f)) {
                Some(list) => list.push(i),
                None => {
                    each(i, Event::Begin)?;
                    each(i, Event::End(Ok(())))?;
                }
            }
        }
        for (f, list) in self.folders.iter().zip(&by_folder) {
            let mut caps = caps.clone();
            caps.max_bytes = left;
            let produced = self.read_folder(f, list, caps, each)?;
            left = left.saturating_sub(produced);
        }

        Ok(())
    }

    fn read_folder(
        &self,
        f: &Folder,
        list: &[usize],
        caps: Caps,
        each: &mut dyn FnMut(usize, Event<'_>) -> Result<()>,
    ) -> Result<u64> {
        let mut cut = Cut {
            archive: self,
            list: list.iter(),
            current: None,
            each,
            stopped: false,
        };
        let mut sink = |part: &[u8]| cut.bytes(part);
        let mut out = Output::new(caps, &mut sink);
        let done = folder::unpack(self.source.as_ref(), f, &mut out);
        let produced = out.produced();
        match done {
            // The caller wants no more.
            Err(e) if cut.stopped || e.kind() == crate::ErrorKind::Io => Err(e),
            done => {
                cut.finish(done.map_err(|e| e.in_file(self.source.name())))?;
                Ok(produced)
            }
        }
    }
}

/// Cuts what comes out of a folder into its members.
struct Cut<'a, 'b> {
    archive: &'a Archive,
    list: std::slice::Iter<'a, usize>,
    current: Option<Current>,
    each: &'b mut dyn FnMut(usize, Event<'_>) -> Result<()>,
    /// Whether `each` has returned an error.
    stopped: bool,
}

struct Current {
    index: usize,
    left: u64,
    crc: crc32fast::Hasher,
    stored: Option<u32>,
}

impl Cut<'_, '_> {
    fn tell(&mut self, index: usize, event: Event<'_>) -> Result<()> {
        (self.each)(index, event).inspect_err(|_| self.stopped = true)
    }

    /// The member that the next byte belongs to; those without any are ended on the way.
    fn open(&mut self) -> Result<Option<&mut Current>> {
        while self.current.as_ref().is_none_or(|c| c.left == 0) {
            self.close()?;
            let Some(&index) = self.list.next() else {
                return Ok(None);
            };
            let m = self.archive.members.get(index);
            self.current = Some(Current {
                index,
                left: m.map_or(0, |m| m.size),
                crc: crc32fast::Hasher::new(),
                stored: m.and_then(|m| m.crc32),
            });
            self.tell(index, Event::Begin)?;
        }
        Ok(self.current.as_mut())
    }

    /// Ends the current member, all of whose bytes have come.
    fn close(&mut self) -> Result<()> {
        let Some(c) = self.current.take() else {
            return Ok(());
        };
        let computed = c.crc.finalize();
        let done = match c.stored {
            Some(stored) if stored != computed => Err(mismatch(
                "sevenz.crc-mismatch",
                "member's",
                stored,
                computed,
            )),
            _ => Ok(()),
        };
        let done = done.map_err(|e| self.named(c.index, e));
        self.tell(c.index, Event::End(done))
    }

    fn named(&self, index: usize, e: Error) -> Error {
        let name = self.archive.members.get(index).map_or("", |m| &m.name);
        e.within(name).in_file(self.archive.source.name())
    }

    fn bytes(&mut self, part: &[u8]) -> Result<()> {
        let mut rest = part;
        while !rest.is_empty() {
            let Some(c) = self.open()? else {
                // Longer than its members: the header's sums make this impossible.
                return Ok(());
            };
            let n = usize::try_from(c.left)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (now, later) = rest.split_at(n);
            c.left -= n as u64;
            c.crc.update(now);
            let index = c.index;
            self.tell(index, Event::Bytes(now))?;
            rest = later;
        }
        Ok(())
    }

    /// Ends what is open, and what has not begun, by the outcome of the folder.
    fn finish(&mut self, done: Result<()>) -> Result<()> {
        let Err(e) = done else {
            // The last one is whole; others may follow that have no bytes.
            self.open()?;
            return self.close();
        };
        let kind = e.kind();
        let rule = e.rule();
        let at = e.byte_span().map_or(0, |s| s.offset);
        let message = e.message().to_owned();
        let mut first = Some(e);
        let mut fail = |cut: &mut Self, index: usize| {
            // The same error for everyone: it is not one member's.
            let e = first
                .take()
                .unwrap_or_else(|| Error::new(kind, rule, message.clone()).at(at));
            let e = cut.named(index, e);
            cut.tell(index, Event::End(Err(e)))
        };
        match self.current.take() {
            Some(c) if c.left == 0 => {
                self.current = Some(c);
                self.close()?;
            }
            Some(c) => fail(self, c.index)?,
            None => {}
        }
        while let Some(&index) = self.list.next() {
            self.tell(index, Event::Begin)?;
            fail(self, index)?;
        }
        Ok(())
    }
}

/// Where the header lies.
struct Start {
    header: Range<u64>,
    crc32: u32,
}

/// The signature header: signature, version, a checksum, and where the header is.
fn start(source: &dyn ByteSource) -> Result<Start> {
    let len = source.len();
    if len < SIGNATURE_LEN {
        return Err(
            Error::truncated("sevenz.truncated", "the signature header is cut off").at(len),
        );
    }
    let raw = source.read_vec(0..SIGNATURE_LEN)?;
    if !is_7z(&raw) {
        let message = "a 7z archive begins with 37 7a bc af 27 1c";
        return Err(Error::malformed("sevenz.bad-signature", message).at(0));
    }
    let mut c = Cursor::new(raw.get(6..).unwrap_or_default());
    let _version = c.u16()?;
    let stored = c.u32()?;
    let computed = crc32fast::hash(raw.get(12..).unwrap_or_default());
    if stored != computed {
        return Err(mismatch("sevenz.header-crc", "signature header's", stored, computed).at(8));
    }
    let (offset, size) = (c.u64()?, c.u64()?);
    let crc32 = c.u32()?;
    Limits::check(
        size,
        HEADER_MAX,
        "sevenz.header-size",
        "bytes of the header",
    )
    .map_err(|e| e.at(20))?;
    let begin = SIGNATURE_LEN.checked_add(offset);
    let end = begin
        .and_then(|b| b.checked_add(size))
        .filter(|&e| e <= len);
    match (begin, end) {
        (Some(begin), Some(end)) => Ok(Start {
            header: begin..end,
            crc32,
        }),
        _ => Err(Error::truncated(
            "sevenz.truncated",
            format!("the header of {size} bytes behind {offset} lies past the end of the file"),
        )
        .at(12)),
    }
}

fn bad(message: &str, at: u64) -> Error {
    Error::malformed("sevenz.bad-header", message).at(at)
}

fn mismatch(rule: &'static str, whose: &str, stored: u32, computed: u32) -> Error {
    Error::integrity(
        rule,
        format!("the {whose} stored CRC-32 is {stored:08x}, the bytes give {computed:08x}"),
    )
}

/// The bytes that packed streams take.
fn packed(streams: &Streams) -> Vec<Range<u64>> {
    let all = streams.folders.iter().flat_map(|f| &f.streams);
    all.map(|&(at, n)| at..at.saturating_add(n)).collect()
}

fn uncovered(mut taken: Vec<Range<u64>>, len: u64) -> Vec<Range<u64>> {
    taken.sort_unstable_by_key(|r| r.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for r in taken.into_iter().chain(std::iter::once(len..len)) {
        if r.start > at {
            gaps.push(at..r.start);
        }
        at = at.max(r.end);
    }
    gaps
}
