//! Unpacking a folder: its coders as readers that read from each other.

use std::cell::RefCell;
use std::io::{BufReader, ErrorKind as IoKind, Read};
use std::rc::Rc;

use lzma_rust2::filter::bcj::BcjReader;
use lzma_rust2::filter::bcj2::Bcj2Reader;
use lzma_rust2::filter::delta::DeltaReader;
use lzma_rust2::{Lzma2Reader, LzmaReader};

use super::header::{Coder, Folder};
use crate::error::{Error, Result};
use crate::source::ByteSource;
use crate::wire::codec::{self, Input, Output};

/// Methods (`DOC/Methods.txt`).
mod id {
    pub(super) const COPY: u64 = 0x00;
    pub(super) const DELTA: u64 = 0x03;
    pub(super) const LZMA2: u64 = 0x21;
    pub(super) const LZMA: u64 = 0x03_01_01;
    pub(super) const BCJ2: u64 = 0x03_03_01_1b;
    pub(super) const PPMD: u64 = 0x03_04_01;
    pub(super) const DEFLATE: u64 = 0x04_01_08;
    pub(super) const BZIP2: u64 = 0x04_02_02;
    pub(super) const ZSTD: u64 = 0x04_f7_11_01;
    pub(super) const AES: u64 = 0x06_f1_07_01;
}

/// Small, as little is lost of what comes before an error.
const PIECE: usize = 4 << 10;

type Reader<'a> = Box<dyn Read + 'a>;

/// Whether a coder of `f` decrypts: any of 7-Zip's cryptographic methods.
pub(super) fn is_encrypted(f: &Folder) -> bool {
    let crypto = |c: &Coder| c.id == id::AES || c.id >> 24 == 0x06;
    f.coders.iter().any(crypto)
}

/// Unpacks `f` into `out`.
pub(super) fn unpack(source: &dyn ByteSource, f: &Folder, out: &mut Output<'_>) -> Result<()> {
    let at = f.streams.first().map_or(0, |s| s.0);
    if is_encrypted(f) {
        return Err(
            Error::unsupported("sevenz.encrypted", "the content is encrypted")
                .at(at)
                .help("unpack the archive with the tool and the password that made it"),
        );
    }
    let failed = Rc::new(RefCell::new(None));
    let mut chain = Chain {
        source,
        folder: f,
        out,
        failed: Rc::clone(&failed),
        windows: 0,
        used: 0,
        at,
    };
    let main = f.main_output().ok_or_else(|| broken("no output", at))?;
    let mut reader = chain.output(main)?;
    let packed: u64 = f.streams.iter().map(|s| s.1).sum();
    let mut left = f.size();
    let mut buf = [0u8; PIECE];
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let n = match reader.read(buf.get_mut(..room).unwrap_or_default()) {
            Ok(0) => return Err(cut(at)),
            Ok(n) => n.min(room),
            Err(e) if e.kind() == IoKind::Interrupted => continue,
            Err(e) => {
                return Err(match failed.borrow_mut().take() {
                    Some(own) => own,
                    None if e.kind() == IoKind::UnexpectedEof => cut(at),
                    None => broken(e, at),
                });
            }
        };
        left -= n as u64;
        out.push(buf.get(..n).unwrap_or_default(), packed)?;
    }
    Ok(())
}

fn cut(at: u64) -> Error {
    let message = "the packed data ends before the folder's size is reached";
    Error::truncated("sevenz.truncated", message).at(at)
}

fn broken(e: impl std::fmt::Display, at: u64) -> Error {
    Error::malformed(
        "sevenz.bad-data",
        format!("the packed data is broken ({e})"),
    )
    .at(at)
}

fn bad(message: &str, at: u64) -> Error {
    Error::malformed("sevenz.bad-header", message).at(at)
}

/// Builds readers from a folder's coders.
struct Chain<'a, 'o, 'p> {
    source: &'a dyn ByteSource,
    folder: &'a Folder,
    out: &'o Output<'p>,
    /// The source's own error, which readers cannot carry.
    failed: Rc<RefCell<Option<Error>>>,
    /// What the windows of all coders together may take, in bytes.
    windows: u64,
    /// How many coders were built: a folder that feeds a coder twice would never end.
    used: usize,
    at: u64,
}

impl<'a> Chain<'a, '_, '_> {
    /// The reader of output `o`.
    fn output(&mut self, o: u64) -> Result<Reader<'a>> {
        self.used += 1;
        if self.used > self.folder.coders.len() {
            return Err(bad("the coders of a folder feed each other", self.at));
        }
        let (mut input, mut output) = (0, 0);
        for c in &self.folder.coders {
            if o < output + c.outputs {
                if c.outputs != 1 {
                    return Err(self.method(c));
                }
                let size = usize::try_from(o).ok();
                let size = size.and_then(|o| self.folder.sizes.get(o).copied());
                let inputs = (input..input + c.inputs)
                    .map(|i| self.input(i))
                    .collect::<Result<Vec<_>>>()?;
                let size = size.unwrap_or(0);
                let reader = self.coder(c, inputs, size)?;
                return Ok(Box::new(reader.take(size)));
            }
            (input, output) = (input + c.inputs, output + c.outputs);
        }
        Err(bad("a folder's output belongs to no coder", self.at))
    }

    /// What feeds input `i`: another coder, or a packed stream.
    fn input(&mut self, i: u64) -> Result<Reader<'a>> {
        if let Some(&(_, o)) = self.folder.binds.iter().find(|(b, _)| *b == i) {
            return self.output(o);
        }
        let packed = self.folder.packed.iter().position(|&p| p == i);
        let stream = packed.and_then(|n| self.folder.streams.get(n));
        let &(at, len) = stream.ok_or_else(|| bad("nothing feeds a coder", self.at))?;
        Ok(Box::new(Packed {
            input: Input::new(self.source, at, at.saturating_add(len)),
            failed: Rc::clone(&self.failed),
        }))
    }

    fn method(&self, c: &Coder) -> Error {
        let message = format!("compression method {:x} is not read", c.id);
        Error::unsupported("sevenz.method", message).at(self.at)
    }

    /// Counts a window of `bytes`, or of the `size` that comes out, where that is less.
    fn window(&mut self, bytes: u64, size: u64) -> Result<()> {
        self.windows = self.windows.saturating_add(bytes.min(size));
        self.out.window(self.windows, self.at)
    }

    fn coder(&mut self, c: &Coder, inputs: Vec<Reader<'a>>, size: u64) -> Result<Reader<'a>> {
        let at = self.at;
        let broken = |e| broken(e, at);
        if c.id == id::BCJ2 {
            let reader = Bcj2Reader::try_new(inputs, size).map_err(broken)?;
            return Ok(Box::new(reader));
        }
        let [from] = <[Reader<'a>; 1]>::try_from(inputs).map_err(|_| self.method(c))?;
        let props = c.props.as_slice();
        Ok(match c.id {
            id::COPY => from,
            id::LZMA => {
                let &[p, a, b, d, e, ..] = props else {
                    return Err(bad("LZMA has at least five bytes of properties", at));
                };
                let dict = u32::from_le_bytes([a, b, d, e]);
                self.window(dict.into(), size)?;
                let dict = u32::try_from(size.min(dict.into())).unwrap_or(dict);
                let reader = LzmaReader::new_with_props(from, size, p, dict, None);
                let mut reader = reader.map_err(broken)?;
                // What came out before an error counts.
                reader.set_defer_errors(true);
                Box::new(reader)
            }
            id::LZMA2 => {
                let dict = codec::lzma2_dictionary(props)
                    .ok_or_else(|| bad("LZMA2 has one byte of properties, up to 40", at))?;
                self.window(dict.into(), size)?;
                let dict = u32::try_from(size.min(dict.into())).unwrap_or(dict);
                Box::new(Lzma2Reader::new(from, dict, None))
            }
            id::PPMD => {
                let &[order, a, b, d, e, ..] = props else {
                    return Err(bad("PPMd has at least five bytes of properties", at));
                };
                let memory = u32::from_le_bytes([a, b, d, e]);
                self.window(memory.into(), u64::MAX)?;
                let from = BufReader::with_capacity(PIECE, from);
                let reader = ppmd_rust::Ppmd7Decoder::new(from, order.into(), memory);
                Box::new(reader.map_err(|_| bad("PPMd with an order or memory out of range", at))?)
            }
            id::DEFLATE => Box::new(flate2::read::DeflateDecoder::new(from)),
            id::BZIP2 => Box::new(bzip2::read::MultiBzDecoder::new(from)),
            id::ZSTD => {
                let max = self.out.caps().max_window;
                // What the frame asks for is known only to the decoder, which holds it to the cap.
                self.window(1 << 20, size)?;
                let reader =
                    ruzstd::decoding::StreamingDecoder::new_with_max_window_size(from, max);
                Box::new(
                    reader
                        .map_err(|e| Error::malformed("sevenz.bad-data", e.to_string()).at(at))?,
                )
            }
            _ => filter(c, from).map_err(|_| self.method(c))?,
        })
    }
}

/// Filters, by the numbers of 7-Zip and by those of xz.
fn filter<'a>(c: &Coder, from: Reader<'a>) -> std::result::Result<Reader<'a>, Reader<'a>> {
    let start = match c.props.as_slice() {
        [] => 0,
        p => match p.try_into().map(u32::from_le_bytes) {
            Ok(n) => n as usize,
            Err(_) if c.id == id::DELTA => 0,
            Err(_) => return Err(from),
        },
    };
    Ok(match c.id {
        id::DELTA => match c.props.as_slice() {
            &[n] => Box::new(DeltaReader::new(from, usize::from(n) + 1)),
            _ => return Err(from),
        },
        0x04 | 0x0303_0103 => Box::new(BcjReader::new_x86(from, start)),
        0x05 | 0x0303_0205 => Box::new(BcjReader::new_ppc(from, start)),
        0x06 | 0x0303_0401 => Box::new(BcjReader::new_ia64(from, start)),
        0x07 | 0x0303_0501 => Box::new(BcjReader::new_arm(from, start)),
        0x08 | 0x0303_0701 => Box::new(BcjReader::new_arm_thumb(from, start)),
        0x09 | 0x0303_0805 => Box::new(BcjReader::new_sparc(from, start)),
        0x0a => Box::new(BcjReader::new_arm64(from, start)),
        0x0b => Box::new(BcjReader::new_riscv(from, start)),
        _ => return Err(from),
    })
}

/// A packed stream that keeps the source's own error.
struct Packed<'a> {
    input: Input<'a>,
    failed: Rc<RefCell<Option<Error>>>,
}

impl Read for Packed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.input.read(buf).inspect_err(|_| {
            *self.failed.borrow_mut() = self.input.take_failure();
        })
    }
}
