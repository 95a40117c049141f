//! Writing archives as PyTorch's own writer lays them out (`caffe2/serialize/inline_container.cc`
//! over miniz): stored members, payloads aligned through an `FB` extra field, sizes and checksum
//! in a data descriptor, zip64 where numbers need it. Equal input gives equal bytes: every date is
//! 1980-01-01.
//!
//! The writer makes the bytes around the payloads and leaves moving bytes to its caller, who may
//! then copy payloads inside the kernel.

use super::{LOCAL, LOCAL_LEN};
use crate::error::{Error, Result};

/// PyTorch's alignment of payloads (`kFieldAlignment`).
pub const ALIGN: u64 = 64;

const CENTRAL: u32 = 0x0201_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR: u32 = 0x0706_4b50;
const CENTRAL_LEN: u64 = 46;
/// Data descriptor follows (bit 3), name in UTF-8 (bit 11).
const FLAGS: u16 = 1 << 3 | 1 << 11;
/// 1980-01-01, the first day an MS-DOS date can say.
const DATE: u16 = 0x21;
/// Numbers from here on go to zip64 fields.
const FULL32: u64 = u32::MAX as u64;
const FULL16: u64 = u16::MAX as u64;

/// The bytes of an archive around its payloads. The order of calls for each member is
/// [`Writer::start`], then [`Writer::data`] or [`Writer::copied`] for its payload, then
/// [`Writer::end`]; the bytes that `start`, `end` and [`Writer::finish`] return go to the output
/// in that order, the payload between them.
#[derive(Debug)]
pub struct Writer {
    align: u64,
    at: u64,
    central: Vec<u8>,
    count: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    entry: Entry,
    written: u64,
    crc: crc32fast::Hasher,
}

/// Where a member goes and what its headers take.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    size: u64,
    header_offset: u64,
    padding: u64,
}

impl Entry {
    fn new(at: u64, align: u64, name: &str, size: u64) -> Result<Self> {
        if name.len() > usize::from(u16::MAX) {
            return Err(Error::parameter(
                "zip.name-length",
                format!("a member name of {} bytes is over 65535", name.len()),
            ));
        }
        let mut entry = Self {
            name: name.to_owned(),
            size,
            header_offset: at,
            padding: 0,
        };
        let data = entry.data_offset();
        entry.padding = data.next_multiple_of(align) - data;
        Ok(entry)
    }

    fn wide(&self) -> bool {
        self.size >= FULL32 || self.header_offset >= FULL32
    }

    /// The zip64 extra field, the same in both headers; empty where nothing needs it.
    fn zip64(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        if self.size >= FULL32 {
            // Original and stored size, which are the same for stored members.
            fields.extend(self.size.to_le_bytes());
            fields.extend(self.size.to_le_bytes());
        }
        if self.header_offset >= FULL32 {
            fields.extend(self.header_offset.to_le_bytes());
        }
        if fields.is_empty() {
            return fields;
        }
        let mut out = Vec::from(1u16.to_le_bytes());
        out.extend((fields.len() as u16).to_le_bytes());
        out.extend(fields);
        out
    }

    /// Position of the payload: after header, name, zip64 field, and the `FB` field with its
    /// padding.
    fn data_offset(&self) -> u64 {
        self.header_offset
            + LOCAL_LEN
            + self.name.len() as u64
            + self.zip64().len() as u64
            + 4
            + self.padding
    }

    /// PyTorch (`PyTorchStreamReader::getRecordOffsetNoRead`) computes later offsets from these
    /// lengths, so they follow miniz: wide sizes where any number of the member is wide.
    fn descriptor_len(&self) -> u64 {
        if self.wide() { 24 } else { 16 }
    }

    fn end(&self) -> u64 {
        self.data_offset() + self.size + self.descriptor_len()
    }

    fn central_len(&self) -> u64 {
        CENTRAL_LEN + self.name.len() as u64 + self.zip64().len() as u64
    }

    fn version(&self) -> u16 {
        if self.wide() { 45 } else { 20 }
    }

    fn local(&self) -> Vec<u8> {
        let zip64 = self.zip64();
        let mut out = Vec::new();
        out.extend(LOCAL.to_le_bytes());
        for n in [self.version(), FLAGS, 0, 0, DATE] {
            out.extend(n.to_le_bytes());
        }
        out.extend([0u8; 12]); // checksum and sizes are in the descriptor
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((zip64.len() as u16 + 4 + self.padding as u16).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(zip64);
        out.extend(b"FB");
        out.extend((self.padding as u16).to_le_bytes());
        out.resize(out.len() + self.padding as usize, b'Z');
        out
    }

    fn descriptor(&self, crc: u32) -> Vec<u8> {
        let mut out = Vec::from(DESCRIPTOR.to_le_bytes());
        out.extend(crc.to_le_bytes());
        for _ in 0..2 {
            if self.wide() {
                out.extend(self.size.to_le_bytes());
            } else {
                out.extend((self.size as u32).to_le_bytes());
            }
        }
        out
    }

    fn central(&self, crc: u32, out: &mut Vec<u8>) {
        let zip64 = self.zip64();
        let size = self.size.min(FULL32) as u32;
        out.extend(CENTRAL.to_le_bytes());
        for n in [self.version(), self.version(), FLAGS, 0, 0, DATE] {
            out.extend(n.to_le_bytes());
        }
        for n in [crc, size, size] {
            out.extend(n.to_le_bytes());
        }
        // Name and extra lengths; comment, disk and internal attributes are none.
        for n in [self.name.len() as u16, zip64.len() as u16, 0, 0, 0] {
            out.extend(n.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        out.extend((self.header_offset.min(FULL32) as u32).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(zip64);
    }
}

impl Writer {
    /// A writer whose payloads start at multiples of `align`, a power of two up to 32768.
    ///
    /// # Errors
    /// `Parameter` for another `align`.
    pub fn new(align: u64) -> Result<Self> {
        check_align(align)?;
        Ok(Self {
            align,
            at: 0,
            central: Vec::new(),
            count: 0,
            open: None,
        })
    }

    /// Begins the member `name` of exactly `size` payload bytes and gives the bytes that precede
    /// them; the payload then begins at [`Writer::position`].
    ///
    /// # Errors
    /// `Parameter` when the name is too long or the last member has not been ended.
    pub fn start(&mut self, name: &str, size: u64) -> Result<Vec<u8>> {
        if self.open.is_some() {
            return Err(misuse("a member was begun before the last one was ended"));
        }
        let entry = Entry::new(self.at, self.align, name, size)?;
        self.at = entry.data_offset();
        let header = entry.local();
        self.open = Some(Open {
            entry,
            written: 0,
            crc: crc32fast::Hasher::new(),
        });
        Ok(header)
    }

    /// Takes note of the next payload bytes.
    ///
    /// # Errors
    /// `Parameter` when no member is open.
    pub fn data(&mut self, part: &[u8]) -> Result<()> {
        let open = self
            .open
            .as_mut()
            .ok_or_else(|| misuse("no member is open"))?;
        open.crc.update(part);
        open.written += part.len() as u64;
        self.at += part.len() as u64;
        Ok(())
    }

    /// Takes note of the next `len` payload bytes, whose CRC-32 is `crc`, where the caller knows
    /// it and moves the bytes without looking at them.
    ///
    /// # Errors
    /// `Parameter` when no member is open.
    pub fn copied(&mut self, len: u64, crc: u32) -> Result<()> {
        let open = self
            .open
            .as_mut()
            .ok_or_else(|| misuse("no member is open"))?;
        open.crc
            .combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
        open.written += len;
        self.at += len;
        Ok(())
    }

    /// Ends the open member and gives the bytes that follow its payload.
    ///
    /// # Errors
    /// `Parameter` when no member is open, or its payload is not of the length it began with.
    pub fn end(&mut self) -> Result<Vec<u8>> {
        let open = self
            .open
            .take()
            .ok_or_else(|| misuse("no member is open"))?;
        if open.written != open.entry.size {
            return Err(misuse(&format!(
                "the member {:?} was begun with {} bytes and got {}",
                open.entry.name, open.entry.size, open.written
            )));
        }
        let crc = open.crc.finalize();
        open.entry.central(crc, &mut self.central);
        self.count += 1;
        self.at = open.entry.end();
        Ok(open.entry.descriptor(crc))
    }

    /// Position in the archive: how many bytes precede what comes next.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Ends the archive and gives its last bytes: the central directory and the end records.
    ///
    /// # Errors
    /// `Parameter` when a member is still open.
    pub fn finish(self) -> Result<Vec<u8>> {
        if self.open.is_some() {
            return Err(misuse("the archive was finished before its last member"));
        }
        let mut out = self.central;
        let size = out.len() as u64;
        let end = self.at + size;
        if needs_end64(self.count, size, self.at) {
            out.extend(END64.to_le_bytes());
            out.extend(44u64.to_le_bytes()); // length of what follows this field
            out.extend(45u16.to_le_bytes());
            out.extend(45u16.to_le_bytes());
            out.extend([0u8; 8]); // disks
            for n in [self.count, self.count, size, self.at] {
                out.extend(n.to_le_bytes());
            }
            out.extend(LOCATOR.to_le_bytes());
            out.extend(0u32.to_le_bytes());
            out.extend(end.to_le_bytes());
            out.extend(1u32.to_le_bytes());
        }
        out.extend(END.to_le_bytes());
        out.extend([0u8; 4]); // disks
        let count = self.count.min(FULL16) as u16;
        for n in [count, count] {
            out.extend(n.to_le_bytes());
        }
        for n in [size, self.at] {
            out.extend((n.min(FULL32) as u32).to_le_bytes());
        }
        out.extend(0u16.to_le_bytes());
        Ok(out)
    }

    /// Writes a whole member to `out`.
    ///
    /// # Errors
    /// As [`Writer::start`], and what `out` returns.
    pub fn member(
        &mut self,
        name: &str,
        payload: &[u8],
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        out(&self.start(name, payload.len() as u64)?)?;
        self.data(payload)?;
        out(payload)?;
        out(&self.end()?)
    }
}

/// The exact size of the archive that [`Writer`] makes of members with these names and payload
/// lengths in this order.
///
/// # Errors
/// `Parameter` for a bad `align`, a name that is too long, or sizes past 2^63 together.
pub fn plan_size<'a>(align: u64, members: impl IntoIterator<Item = (&'a str, u64)>) -> Result<u64> {
    check_align(align)?;
    let (mut at, mut central, mut count) = (0u64, 0u64, 0u64);
    for (name, size) in members {
        if size.checked_add(at).is_none_or(|n| n > i64::MAX as u64) {
            return Err(Error::parameter(
                "zip.too-large",
                "the archive would pass 2^63 bytes",
            ));
        }
        let entry = Entry::new(at, align, name, size)?;
        at = entry.end();
        central += entry.central_len();
        count += 1;
    }
    let end64 = if needs_end64(count, central, at) {
        76
    } else {
        0
    };
    Ok(at + central + end64 + 22)
}

fn needs_end64(count: u64, size: u64, offset: u64) -> bool {
    count >= FULL16 || size >= FULL32 || offset >= FULL32
}

fn check_align(align: u64) -> Result<()> {
    if !align.is_power_of_two() || align > 1 << 15 {
        return Err(Error::parameter(
            "zip.alignment",
            format!("payloads cannot be aligned to {align}; a power of two up to 32768 is needed"),
        ));
    }
    Ok(())
}

fn misuse(what: &str) -> Error {
    Error::parameter("zip.writer", what)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Limits;
    use crate::source::{ByteSource, SliceSource};
    use crate::wire::zip::Archive;

    fn pack(align: u64, members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut w = Writer::new(align).unwrap();
        let mut out = Vec::new();
        for (name, payload) in members {
            w.member(name, payload, &mut |b| {
                out.extend_from_slice(b);
                Ok(())
            })
            .unwrap();
            assert_eq!(w.position(), out.len() as u64);
        }
        out.extend(w.finish().unwrap());
        out
    }

    #[test]
    fn own_reader_accepts_and_size_is_as_planned() {
        let long = vec![7u8; 1000];
        let members = [
            ("m/data.pkl", &b"abc"[..]),
            ("m/data/0", &long),
            ("m/é", b""),
        ];
        for align in [1, 64, 4096] {
            let bytes = pack(align, &members);
            let plan = plan_size(align, members.iter().map(|(n, p)| (*n, p.len() as u64)));
            assert_eq!(plan.unwrap(), bytes.len() as u64);
            assert_eq!(bytes, pack(align, &members));
            let source = Arc::new(SliceSource::new(bytes, "w.zip"));
            let a = Archive::open(source, &Limits::default()).unwrap();
            assert!(a.check_layout().unwrap().is_empty());
            for (name, payload) in members {
                let m = a.by_name(name).unwrap();
                assert_eq!(a.data_offset(m).unwrap() % align, 0);
                assert_eq!(a.read(m, 1 << 20).unwrap(), payload);
            }
        }
        assert_eq!(plan_size(64, []).unwrap(), 22);
        assert_eq!(pack(64, &[]).len(), 22);
    }

    #[test]
    fn copied_payloads_get_the_same_checksum() {
        let whole = pack(64, &[("a", b"hello world")]);
        let mut w = Writer::new(64).unwrap();
        let mut out = w.start("a", 11).unwrap();
        out.extend(b"hello world");
        w.data(b"hello ").unwrap();
        w.copied(5, crc32fast::hash(b"world")).unwrap();
        out.extend(w.end().unwrap());
        out.extend(w.finish().unwrap());
        assert_eq!(out, whole);
    }

    #[test]
    fn misuse_is_refused() {
        assert!(Writer::new(48).is_err());
        let mut w = Writer::new(64).unwrap();
        assert!(w.data(b"x").is_err());
        w.start("a", 2).unwrap();
        assert!(w.start("b", 2).is_err());
        w.data(b"x").unwrap();
        assert_eq!(w.end().unwrap_err().rule(), "zip.writer");
        let mut w = Writer::new(64).unwrap();
        assert!(w.start(&"n".repeat(70_000), 0).is_err());
    }

    /// A source of zeros with a few written runs: a large file without the bytes.
    #[derive(Debug)]
    struct Sparse {
        len: u64,
        runs: Vec<(u64, Vec<u8>)>,
    }

    impl ByteSource for Sparse {
        fn len(&self) -> u64 {
            self.len
        }

        fn name(&self) -> &str {
            "sparse"
        }

        fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            buf.fill(0);
            for (start, run) in &self.runs {
                for (i, &b) in run.iter().enumerate() {
                    let here = start + i as u64;
                    if here >= at && here - at < buf.len() as u64 {
                        buf[(here - at) as usize] = b;
                    }
                }
            }
            Ok(())
        }

        fn slice(&self, _range: std::ops::Range<u64>) -> Option<&[u8]> {
            None
        }
    }

    #[test]
    fn members_and_offsets_over_4_gib_use_zip64() {
        let members = [
            ("big", 5u64 << 30),
            ("edge", FULL32),
            ("under", FULL32 - 1),
            ("small", 3),
        ];
        let mut w = Writer::new(64).unwrap();
        let mut source = Sparse {
            len: plan_size(64, members).unwrap(),
            runs: Vec::new(),
        };
        for (name, size) in members {
            let at = w.position();
            source.runs.push((at, w.start(name, size).unwrap()));
            assert_eq!(w.position() % 64, 0);
            w.copied(size, 0x1234_5678).unwrap();
            let at = w.position();
            source.runs.push((at, w.end().unwrap()));
        }
        let at = w.position();
        source.runs.push((at, w.finish().unwrap()));
        let (last_at, last) = source.runs.last().unwrap();
        assert_eq!(source.len, last_at + last.len() as u64);
        let a = Archive::open(Arc::new(source), &Limits::default()).unwrap();
        assert!(a.check_layout().unwrap().is_empty());
        let read: Vec<_> = a
            .members()
            .iter()
            .map(|m| (m.name.as_str(), m.size))
            .collect();
        assert_eq!(read, members);
        assert!(a.members().iter().all(|m| m.crc32 == 0x1234_5678));
    }

    #[test]
    fn more_than_65535_members_use_zip64() {
        let names: Vec<String> = (0..70_000).map(|i| format!("r/data/{i}")).collect();
        let mut w = Writer::new(64).unwrap();
        let mut out = Vec::new();
        for n in &names {
            w.member(n, b"", &mut |b| {
                out.extend_from_slice(b);
                Ok(())
            })
            .unwrap();
        }
        out.extend(w.finish().unwrap());
        let plan = plan_size(64, names.iter().map(|n| (n.as_str(), 0))).unwrap();
        assert_eq!(plan, out.len() as u64);
        let source = Arc::new(SliceSource::new(out, "many.zip"));
        let a = Archive::open(source, &Limits::default()).unwrap();
        assert_eq!(a.members().len(), names.len());
        a.strict().unwrap();
        assert_eq!(a.by_name("r/data/69999").unwrap().size, 0);
    }
}
