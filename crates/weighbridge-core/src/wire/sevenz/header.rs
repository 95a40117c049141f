//! The header database (`DOC/7zFormat.txt` of 7-Zip). Every count is checked against the bytes
//! that are left for what it counts: nothing is allocated on its word.

use std::collections::HashSet;

use super::{Kind, Member};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Property ids.
mod id {
    pub(super) const END: u64 = 0x00;
    pub(super) const HEADER: u64 = 0x01;
    pub(super) const ARCHIVE_PROPERTIES: u64 = 0x02;
    pub(super) const ADDITIONAL_STREAMS: u64 = 0x03;
    pub(super) const MAIN_STREAMS: u64 = 0x04;
    pub(super) const FILES: u64 = 0x05;
    pub(super) const PACK_INFO: u64 = 0x06;
    pub(super) const UNPACK_INFO: u64 = 0x07;
    pub(super) const SUBSTREAMS: u64 = 0x08;
    pub(super) const SIZE: u64 = 0x09;
    pub(super) const CRC: u64 = 0x0a;
    pub(super) const FOLDER: u64 = 0x0b;
    pub(super) const UNPACK_SIZE: u64 = 0x0c;
    pub(super) const NUM_STREAMS: u64 = 0x0d;
    pub(super) const EMPTY_STREAM: u64 = 0x0e;
    pub(super) const EMPTY_FILE: u64 = 0x0f;
    pub(super) const ANTI: u64 = 0x10;
    pub(super) const NAMES: u64 = 0x11;
    pub(super) const ATTRIBUTES: u64 = 0x15;
    pub(super) const ENCODED_HEADER: u64 = 0x17;
}

/// Most coders of a folder (7-Zip's own limit is 32).
const CODERS: u64 = 32;
/// Most streams into or out of a coder.
const STREAMS: u64 = 32;
/// `UNIX_EXTENSION`: the upper half of the attributes is a Unix mode.
const UNIX: u32 = 0x8000;
/// Windows: a folder, and a reparse point.
const DIRECTORY: u32 = 0x10;
const REPARSE: u32 = 0x400;

/// A step of decoding: its method, its properties, its streams.
#[derive(Debug, Clone)]
pub(super) struct Coder {
    pub id: u64,
    pub props: Vec<u8>,
    pub inputs: u64,
    pub outputs: u64,
}

/// Coders, and how their streams hang together.
#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    pub coders: Vec<Coder>,
    /// Pairs of an input and the output that feeds it.
    pub binds: Vec<(u64, u64)>,
    /// The inputs that packed streams feed, in their order.
    pub packed: Vec<u64>,
    /// What each output gives.
    pub sizes: Vec<u64>,
    pub crc: Option<u32>,
    /// The packed streams, as positions and lengths in the file.
    pub streams: Vec<(u64, u64)>,
}

impl Folder {
    /// The output that no coder takes: what comes out of the folder.
    pub(super) fn main_output(&self) -> Option<u64> {
        let total: u64 = self.coders.iter().map(|c| c.outputs).sum();
        let taken: HashSet<u64> = self.binds.iter().map(|b| b.1).collect();
        (0..total).rev().find(|o| !taken.contains(o))
    }

    /// How many bytes come out.
    pub(super) fn size(&self) -> u64 {
        let main = self.main_output().and_then(|o| usize::try_from(o).ok());
        main.and_then(|o| self.sizes.get(o).copied()).unwrap_or(0)
    }
}

/// A file inside a folder: its length and checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sub {
    pub folder: usize,
    pub size: u64,
    pub crc: Option<u32>,
}

/// Packed streams, folders and what they hold.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub folders: Vec<Folder>,
    pub subs: Vec<Sub>,
}

/// What a header is.
pub(super) enum Parsed {
    /// Members and streams.
    Plain(Vec<Member>, Streams),
    /// A header that is packed itself.
    Encoded(Streams),
}

struct Parser<'a> {
    c: Cursor<'a>,
    limits: &'a Limits,
    /// Length of the file's part that packed streams may lie in, from its first byte.
    room: u64,
}

/// Parses `raw`; packed streams lie in the first `room` bytes of the file.
pub(super) fn parse(raw: &[u8], room: u64, limits: &Limits) -> Result<Parsed> {
    let mut p = Parser {
        c: Cursor::new(raw),
        limits,
        room,
    };
    match p.number()? {
        id::HEADER => p.header(),
        id::ENCODED_HEADER => Ok(Parsed::Encoded(p.streams()?)),
        other => Err(bad(format!("property {other:#x} where the header begins"))),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::malformed("sevenz.bad-header", message)
}

impl<'a> Parser<'a> {
    fn byte(&mut self) -> Result<u8> {
        self.c.u8().map_err(|_| bad("the header is cut off"))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        self.c.take(n).map_err(|_| bad("the header is cut off"))
    }

    /// The first byte says by its leading ones how many bytes follow.
    fn number(&mut self) -> Result<u64> {
        let first = self.byte()?;
        let follow = first.leading_ones().min(8);
        let mut n = 0u64;
        for i in 0..follow {
            n |= u64::from(self.byte()?) << (8 * i);
        }
        if follow < 7 {
            let high = u64::from(first & (0x7f >> follow));
            n |= high << (8 * follow);
        }
        Ok(n)
    }

    /// A count of things that take at least a byte (`per` of them one) each.
    fn count(&mut self, what: &str, per: u64) -> Result<u64> {
        let n = self.number()?;
        if n > (self.c.left() as u64).saturating_mul(per) {
            return Err(bad(format!("{n} {what} do not fit the header")));
        }
        Ok(n)
    }

    fn bits(&mut self, n: u64) -> Result<Vec<bool>> {
        let raw = self.take(n.div_ceil(8))?;
        let all = raw
            .iter()
            .flat_map(|b| (0..8).map(move |i| b & (0x80 >> i) != 0));
        Ok(all.take(usize::try_from(n).unwrap_or(0)).collect())
    }

    /// Bits behind a byte that says that all are set.
    fn optional_bits(&mut self, n: u64) -> Result<Vec<bool>> {
        if self.byte()? == 0 {
            return self.bits(n);
        }
        // Each set bit stands for a value that has to be there.
        if n > self.c.left() as u64 {
            return Err(bad(format!("{n} values do not fit the header")));
        }
        Ok(vec![true; usize::try_from(n).unwrap_or(0)])
    }

    fn checksums(&mut self, n: u64) -> Result<Vec<Option<u32>>> {
        let defined = self.optional_bits(n)?;
        let mut out = Vec::with_capacity(defined.len());
        for d in defined {
            out.push(if d { Some(self.u32()?) } else { None });
        }
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        self.c.u32().map_err(|_| bad("the header is cut off"))
    }

    fn expect(&mut self, want: u64) -> Result<()> {
        let n = self.number()?;
        if n != want {
            return Err(bad(format!("property {n:#x} where {want:#x} belongs")));
        }
        Ok(())
    }

    /// `Header`: perhaps properties of the archive, the streams, the files.
    fn header(&mut self) -> Result<Parsed> {
        let mut streams = Streams::default();
        let mut members = Vec::new();
        loop {
            match self.number()? {
                id::END => return Ok(Parsed::Plain(members, streams)),
                id::ARCHIVE_PROPERTIES => {
                    while self.number()? != id::END {
                        let n = self.number()?;
                        self.take(n)?;
                    }
                }
                id::ADDITIONAL_STREAMS => {
                    return Err(Error::unsupported(
                        "sevenz.additional-streams",
                        "header data in streams of its own",
                    ));
                }
                id::MAIN_STREAMS => streams = self.streams()?,
                id::FILES => members = self.files(&streams)?,
                other => return Err(bad(format!("property {other:#x} in the header"))),
            }
        }
    }

    /// `StreamsInfo`.
    fn streams(&mut self) -> Result<Streams> {
        let mut packed = Vec::new();
        let mut streams = Streams::default();
        let mut subs = false;
        loop {
            match self.number()? {
                id::END => break,
                id::PACK_INFO => packed = self.pack_info()?,
                id::UNPACK_INFO => {
                    streams.folders = self.folders()?;
                    assign(&mut streams.folders, &packed)?;
                }
                id::SUBSTREAMS => {
                    streams.subs = self.substreams(&streams.folders)?;
                    subs = true;
                }
                other => return Err(bad(format!("property {other:#x} among the streams"))),
            }
        }
        if !subs {
            let whole = streams.folders.iter().enumerate().map(|(folder, f)| Sub {
                folder,
                size: f.size(),
                crc: f.crc,
            });
            streams.subs = whole.collect();
        }
        Ok(streams)
    }

    /// `PackInfo`: where the packed streams lie; positions in the file.
    fn pack_info(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut at = self.number()?.saturating_add(super::SIGNATURE_LEN);
        let count = self.count("packed streams", 1)?;
        let mut out = Vec::new();
        loop {
            match self.number()? {
                id::END => return Ok(out),
                id::SIZE => {
                    for _ in 0..count {
                        let size = self.number()?;
                        let end = at.checked_add(size).filter(|&e| e <= self.room);
                        let Some(end) = end else {
                            return Err(Error::truncated(
                                "sevenz.truncated",
                                format!("a packed stream of {size} bytes at {at} leaves the file"),
                            ));
                        };
                        out.push((at, size));
                        at = end;
                    }
                }
                id::CRC => {
                    self.checksums(count)?;
                }
                other => return Err(bad(format!("property {other:#x} among packed streams"))),
            }
        }
    }

    /// `UnPackInfo`.
    fn folders(&mut self) -> Result<Vec<Folder>> {
        self.expect(id::FOLDER)?;
        let count = self.count("folders", 1)?;
        self.external()?;
        let mut folders = Vec::new();
        for _ in 0..count {
            folders.push(self.folder()?);
        }
        self.expect(id::UNPACK_SIZE)?;
        for f in &mut folders {
            for _ in 0..f.coders.iter().map(|c| c.outputs).sum() {
                f.sizes.push(self.number()?);
            }
        }
        loop {
            match self.number()? {
                id::END => return Ok(folders),
                id::CRC => {
                    let crcs = self.checksums(count)?;
                    for (f, crc) in folders.iter_mut().zip(crcs) {
                        f.crc = crc;
                    }
                }
                other => return Err(bad(format!("property {other:#x} among folders"))),
            }
        }
    }

    fn external(&mut self) -> Result<()> {
        if self.byte()? != 0 {
            return Err(Error::unsupported(
                "sevenz.additional-streams",
                "header data in streams of its own",
            ));
        }
        Ok(())
    }

    fn folder(&mut self) -> Result<Folder> {
        let mut f = Folder::default();
        let coders = self.number()?;
        if coders == 0 || coders > CODERS {
            return Err(bad(format!("a folder of {coders} coders")));
        }
        let (mut inputs, mut outputs) = (0, 0);
        for _ in 0..coders {
            let coder = self.coder()?;
            inputs += coder.inputs;
            outputs += coder.outputs;
            f.coders.push(coder);
        }
        let binds = outputs - 1;
        if binds > inputs {
            return Err(bad("a folder with more outputs than inputs"));
        }
        for _ in 0..binds {
            let bind = (self.number()?, self.number()?);
            if bind.0 >= inputs || bind.1 >= outputs {
                return Err(bad("a folder binds streams that there are not"));
            }
            f.binds.push(bind);
        }
        match inputs - binds {
            1 => {
                let fed: HashSet<u64> = f.binds.iter().map(|b| b.0).collect();
                f.packed.extend((0..inputs).find(|i| !fed.contains(i)));
            }
            n => {
                for _ in 0..n {
                    let i = self.number()?;
                    if i >= inputs {
                        return Err(bad("a folder takes streams that there are not"));
                    }
                    f.packed.push(i);
                }
            }
        }
        if f.packed.is_empty() {
            return Err(bad("a folder with nothing packed"));
        }
        Ok(f)
    }

    fn coder(&mut self) -> Result<Coder> {
        let flags = self.byte()?;
        if flags & 0xc0 != 0 {
            return Err(bad("a coder with reserved flags"));
        }
        let raw = self.take(u64::from(flags & 0x0f))?;
        if raw.len() > 8 {
            return Err(bad("a coder with a long id"));
        }
        let id = raw.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let (mut inputs, mut outputs) = (1, 1);
        if flags & 0x10 != 0 {
            (inputs, outputs) = (self.number()?, self.number()?);
            let range = 1..=STREAMS;
            if !range.contains(&inputs) || !range.contains(&outputs) {
                return Err(bad(format!(
                    "a coder of {inputs} inputs and {outputs} outputs"
                )));
            }
        }
        let props = if flags & 0x20 != 0 {
            let n = self.number()?;
            self.take(n)?.to_vec()
        } else {
            Vec::new()
        };
        Ok(Coder {
            id,
            props,
            inputs,
            outputs,
        })
    }

    /// `SubStreamsInfo`: how the folders are cut into files.
    fn substreams(&mut self, folders: &[Folder]) -> Result<Vec<Sub>> {
        let mut next = self.number()?;
        let mut counts = vec![1u64; folders.len()];
        if next == id::NUM_STREAMS {
            for n in &mut counts {
                *n = self.count("files of a folder", 8)?;
            }
            next = self.number()?;
        }
        let mut subs = Vec::new();
        let sized = next == id::SIZE;
        for (folder, (f, &n)) in folders.iter().zip(&counts).enumerate() {
            let mut left = f.size();
            for i in 0..n {
                // All but the last have their size written.
                let size = if i + 1 == n {
                    left
                } else if sized {
                    self.number()?
                } else {
                    return Err(bad("a folder of several files without their sizes"));
                };
                left = left
                    .checked_sub(size)
                    .ok_or_else(|| bad("the files of a folder are longer than it"))?;
                let crc = f.crc.filter(|_| n == 1);
                subs.push(Sub { folder, size, crc });
            }
            self.members_fit(subs.len() as u64)?;
        }
        if sized {
            next = self.number()?;
        }
        let mut summed = false;
        loop {
            match next {
                id::END => return Ok(subs),
                id::CRC if summed => return Err(bad("the files' checksums stand twice")),
                id::CRC => {
                    summed = true;
                    // Those of folders with one file and a checksum of their own are not repeated.
                    let open: Vec<&mut Sub> = subs.iter_mut().filter(|s| s.crc.is_none()).collect();
                    let crcs = self.checksums(open.len() as u64)?;
                    for (s, crc) in open.into_iter().zip(crcs) {
                        s.crc = crc;
                    }
                }
                other => return Err(bad(format!("property {other:#x} among files' streams"))),
            }
            next = self.number()?;
        }
    }

    fn members_fit(&self, n: u64) -> Result<()> {
        Limits::check(
            n,
            self.limits.members,
            "sevenz.members",
            "members of the archive",
        )
    }

    /// `FilesInfo`.
    fn files(&mut self, streams: &Streams) -> Result<Vec<Member>> {
        // Each has a name of a letter at least, and the zero after it: four bytes.
        let count = self.number()?;
        if count > self.c.left() as u64 / 2 {
            return Err(bad(format!("{count} files do not fit the header")));
        }
        self.members_fit(count)?;
        let n = usize::try_from(count).unwrap_or(0);
        let mut names: Vec<String> = Vec::new();
        let mut empty = vec![false; n];
        let mut empties = 0;
        let (mut empty_file, mut anti) = (Vec::new(), Vec::new());
        let mut attributes: Vec<Option<u32>> = Vec::new();
        loop {
            let kind = self.number()?;
            if kind == id::END {
                break;
            }
            let len = self.number()?;
            let raw = self.take(len)?;
            let mut p = Parser {
                c: Cursor::new(raw),
                ..*self
            };
            match kind {
                id::NAMES => names = p.names(count)?,
                id::EMPTY_STREAM => {
                    empty = p.bits(count)?;
                    // Counted here: a header can have a property for every two of its bytes.
                    empties = empty.iter().filter(|&&e| e).count() as u64;
                }
                id::EMPTY_FILE => empty_file = p.bits(empties)?,
                id::ANTI => anti = p.bits(empties)?,
                id::ATTRIBUTES => {
                    let defined = p.optional_bits(count)?;
                    p.external()?;
                    // Where they come twice, the last ones count, as in every other list.
                    attributes.clear();
                    for d in defined {
                        attributes.push(if d { Some(p.u32()?) } else { None });
                    }
                }
                // Times, padding, comments: nothing a loader goes by.
                _ => {}
            }
        }
        members(Lists {
            names,
            empty,
            empty_file,
            anti,
            attributes,
            subs: &streams.subs,
        })
    }

    fn names(&mut self, count: u64) -> Result<Vec<String>> {
        self.external()?;
        let raw = self.take(self.c.left() as u64)?;
        let mut units = raw
            .chunks_exact(2)
            .map(|p| p.iter().rev().fold(0u16, |n, &b| n << 8 | u16::from(b)));
        let mut names = Vec::new();
        for _ in 0..count {
            let mut name: Vec<u16> = Vec::new();
            loop {
                match units.next() {
                    Some(0) => break,
                    Some(u) => name.push(u),
                    None => return Err(bad("a name does not end")),
                }
            }
            names.push(String::from_utf16_lossy(&name));
        }
        if units.next().is_some() {
            return Err(bad("more names than files"));
        }
        Ok(names)
    }
}

/// What the header says of its files, list by list.
struct Lists<'a> {
    names: Vec<String>,
    empty: Vec<bool>,
    empty_file: Vec<bool>,
    anti: Vec<bool>,
    attributes: Vec<Option<u32>>,
    subs: &'a [Sub],
}

fn members(l: Lists<'_>) -> Result<Vec<Member>> {
    let mut subs = l.subs.iter();
    let mut out = Vec::new();
    let (mut files, mut antis) = (l.empty_file.iter(), l.anti.iter());
    let mut names = l.names.into_iter();
    for (i, empty) in l.empty.iter().enumerate() {
        let attributes = l.attributes.get(i).copied().flatten();
        let sub = if *empty {
            None
        } else {
            let s = subs.next();
            Some(s.ok_or_else(|| bad("more files than streams"))?)
        };
        let file = !empty || files.next().copied().unwrap_or(false);
        let anti = *empty && antis.next().copied().unwrap_or(false);
        out.push(Member {
            name: names.next().unwrap_or_default(),
            kind: kind(file, anti, attributes),
            size: sub.map_or(0, |s| s.size),
            crc32: sub.and_then(|s| s.crc),
            attributes,
            folder: sub.map(|s| s.folder),
        });
    }
    if subs.next().is_some() {
        return Err(bad("more streams than files"));
    }
    Ok(out)
}

fn kind(file: bool, anti: bool, attributes: Option<u32>) -> Kind {
    let attributes = attributes.unwrap_or(0);
    let unix = if attributes & UNIX != 0 {
        (attributes >> 16) & 0xf000
    } else {
        0
    };
    match unix {
        _ if anti => Kind::Anti,
        0xa000 => Kind::SymLink,
        0x1000 | 0x2000 | 0x6000 | 0xc000 => Kind::Device,
        _ if attributes & REPARSE != 0 => Kind::SymLink,
        _ if !file || attributes & DIRECTORY != 0 => Kind::Dir,
        _ => Kind::File,
    }
}

/// Gives each folder its packed streams, in order.
fn assign(folders: &mut [Folder], packed: &[(u64, u64)]) -> Result<()> {
    let mut streams = packed.iter();
    for f in folders {
        for _ in 0..f.packed.len() {
            let s = streams.next();
            let s = s.ok_or_else(|| bad("more folders than packed streams"))?;
            f.streams.push(*s);
        }
    }
    Ok(())
}
