//! Reading members: local headers, payload ranges, whole contents.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use super::directory::Wide;
use super::{Archive, LOCAL, LOCAL_LEN, Member, Method};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::{CHUNK, Checksum, Storage, StorageData};

/// A member read whole into memory is a pickle or text, which deflate makes this much smaller at
/// best; only tensors full of zeros are a thousand times smaller.
const TEXT_RATIO: u64 = 64;

/// What it may inflate to in any case, in bytes.
const TEXT_BYTES: u64 = 4 << 20;

/// What a local header says.
#[derive(Debug)]
struct Local {
    name: Vec<u8>,
    extra: Range<u64>,
    method: Method,
    flags: u16,
    crc32: u32,
    stored: u32,
    size: u32,
    data_offset: u64,
}

impl Archive {
    /// Reads the local header of `m`, checks that it says what the central directory says, and
    /// gives the position of the payload. With flag bit 3 the header's sizes and checksum mean
    /// nothing (they follow the payload) and are not compared.
    ///
    /// # Errors
    /// `Malformed` with rule `zip.header-mismatch` where they differ or no header is there,
    /// `zip.out-of-bounds` where the payload would reach into the central directory.
    pub fn data_offset(&self, m: &Member) -> Result<u64> {
        self.data_offset_inner(m).map_err(|e| self.named(m, e))
    }

    fn data_offset_inner(&self, m: &Member) -> Result<u64> {
        let local = self.local_header(m)?;
        let bad = |what: &str, here: String, there: String| {
            Err(Error::malformed(
                "zip.header-mismatch",
                format!("{what} is {here} in the local header, {there} in the central directory"),
            )
            .span(m.header_offset, LOCAL_LEN))
        };
        if local.name != m.name_bytes() {
            let here = String::from_utf8_lossy(&local.name).into_owned();
            return bad("the name", format!("{here:?}"), format!("{:?}", m.name));
        }
        if local.method != m.method {
            return bad(
                "the method",
                local.method.name().into(),
                m.method.name().into(),
            );
        }
        if (local.flags ^ m.flags) & 1 != 0 {
            let say = |f: u16| if f & 1 != 0 { "set" } else { "clear" };
            return bad(
                "the encryption bit",
                say(local.flags).into(),
                say(m.flags).into(),
            );
        }
        if local.flags & (1 << 3) == 0 {
            let wide = Wide {
                size: u64::from(local.size),
                stored: u64::from(local.stored),
                offset: 0,
                disk: 0,
            };
            let full = [
                local.size == u32::MAX,
                local.stored == u32::MAX,
                false,
                false,
            ];
            // The extra fields matter (and are read) only where a number is in them.
            let wide = if full.contains(&true) {
                let extra = self.source.read_vec(local.extra)?;
                wide.widen(&extra, full)
                    .map_err(|e| e.at(m.header_offset))?
            } else {
                wide
            };
            // Zeros stand for "see the central directory" in some writers' headers.
            if wide.size != 0 && wide.size != m.size {
                return bad("the size", wide.size.to_string(), m.size.to_string());
            }
            if wide.stored != 0 && wide.stored != m.stored {
                return bad(
                    "the stored size",
                    wide.stored.to_string(),
                    m.stored.to_string(),
                );
            }
            if local.crc32 != 0 && local.crc32 != m.crc32 {
                let hex = |n: u32| format!("{n:08x}");
                return bad("the CRC-32", hex(local.crc32), hex(m.crc32));
            }
        }
        if local
            .data_offset
            .checked_add(m.stored)
            .is_none_or(|end| end > self.directory.start)
        {
            return Err(Error::malformed(
                "zip.out-of-bounds",
                format!(
                    "{} bytes from {} reach past the start of the central directory at {}",
                    m.stored, local.data_offset, self.directory.start
                ),
            )
            .span(m.header_offset, LOCAL_LEN));
        }
        Ok(local.data_offset)
    }

    fn local_header(&self, m: &Member) -> Result<Local> {
        let missing = |found: String| {
            Error::malformed(
                "zip.header-mismatch",
                format!("the local header is not the member's: {found}"),
            )
            .span(m.header_offset, LOCAL_LEN)
        };
        let mut fixed = [0u8; LOCAL_LEN as usize];
        self.source.read_at(m.header_offset, &mut fixed)?;
        let mut c = Cursor::new(&fixed);
        let signature = c.u32()?;
        if signature != LOCAL {
            return Err(missing(format!("its signature is {signature:08x}")));
        }
        let _version = c.u16()?;
        let flags = c.u16()?;
        let method = Method::from_number(c.u16()?);
        let _time_date = c.u32()?;
        let crc32 = c.u32()?;
        let (stored, size) = (c.u32()?, c.u32()?);
        let (name_len, extra_len) = (u64::from(c.u16()?), u64::from(c.u16()?));
        // Before the name is read: members that share one header with a long name must not make
        // the work larger than the directory is.
        if name_len != m.name_bytes().len() as u64 {
            return Err(missing(format!("the header's name has {name_len} bytes")));
        }
        let name_at = m.header_offset.saturating_add(LOCAL_LEN);
        let extra_at = name_at.saturating_add(name_len);
        let data_offset = extra_at.saturating_add(extra_len);
        if data_offset > self.directory.start {
            return Err(missing(
                "its name and extra fields leave the archive".into(),
            ));
        }
        Ok(Local {
            name: self.source.read_vec(name_at..extra_at)?,
            extra: extra_at..data_offset,
            method,
            flags,
            crc32,
            stored,
            size,
            data_offset,
        })
    }

    /// The member as a storage: raw where it is stored, inflated on reading where deflated. The
    /// checksum is verified when the storage is read, unless the archive has none
    /// ([`Archive::checksums_off`]).
    ///
    /// # Errors
    /// As [`Archive::data_offset`]; `Unsupported` with `zip.encrypted` or `zip.method`;
    /// `Malformed` with `zip.size-mismatch`; `Limit` with `zip.inflate-ratio`.
    pub fn storage(&self, m: &Member, big_endian: bool) -> Result<Storage> {
        let offset = self.readable(m)?;
        let source = Arc::clone(&self.source);
        let checksum = (!self.checksums_off).then_some(Checksum::Crc32(m.crc32));
        let data = match m.method {
            Method::Deflate => StorageData::Deflated {
                source,
                offset,
                stored: m.stored,
                checksum,
            },
            _ => StorageData::Raw {
                source,
                offset,
                checksum,
            },
        };
        Storage::new(m.name.as_str(), m.size, big_endian, data)
    }

    /// Everything that has to hold before a byte of `m` is read; gives the payload's position.
    fn readable(&self, m: &Member) -> Result<u64> {
        self.method_supported(m).map_err(|e| self.named(m, e))?;
        self.data_offset(m)
    }

    fn method_supported(&self, m: &Member) -> Result<()> {
        if m.is_encrypted() {
            return Err(
                Error::unsupported("zip.encrypted", "the member is encrypted")
                    .at(m.central_offset)
                    .help("decrypt the archive with the tool that made it"),
            );
        }
        match m.method {
            Method::Stored if m.stored != m.size => Err(Error::malformed(
                "zip.size-mismatch",
                format!(
                    "a stored member has {} bytes in the file and claims {}",
                    m.stored, m.size
                ),
            )
            .at(m.central_offset)),
            Method::Deflate if m.size > m.stored.saturating_mul(self.limits.inflate_ratio) => {
                Err(Error::limit(
                    "zip.inflate-ratio",
                    format!(
                        "{} stored bytes claim to inflate to {}, over the limit of {} to one",
                        m.stored, m.size, self.limits.inflate_ratio
                    ),
                )
                .at(m.central_offset))
            }
            Method::Stored | Method::Deflate => Ok(()),
            Method::Other(n) => Err(Error::unsupported(
                "zip.method",
                format!("compression method {n} ({}) is not read", m.method.name()),
            )
            .at(m.central_offset)
            .help("pack the archive again with stored or deflated members")),
        }
    }

    /// How many bytes of `m` may be read into memory where `limit` are wanted at most: of a
    /// deflated member no more than a pickle or text of its stored length can have.
    pub fn most_read(&self, m: &Member, limit: u64) -> u64 {
        match m.method {
            Method::Deflate => limit
                .min(self.limits.inflate_bytes)
                .min(m.stored.saturating_mul(TEXT_RATIO).max(TEXT_BYTES)),
            _ => limit,
        }
    }

    /// Reads the whole member into memory, at most `limit` bytes, and verifies its checksum.
    /// Memory grows with the bytes that are really there, never with what a header claims.
    ///
    /// # Errors
    /// As [`Archive::storage`]; `Limit` with `zip.member-size`; `Integrity` with
    /// `zip.crc-mismatch`; `Malformed` with `zip.bad-deflate`.
    pub fn read(&self, m: &Member, limit: u64) -> Result<Vec<u8>> {
        let cap = self.most_read(m, limit);
        Limits::check(m.size, cap, "zip.member-size", "bytes of the member")
            .map_err(|e| self.named(m, e.at(m.central_offset)))?;
        let mut out = Vec::new();
        self.stream(m, &mut |part| {
            out.extend_from_slice(part);
            Ok(())
        })?;
        Ok(out)
    }

    /// The first bytes of the member, inflated as needed: `most`, or all of a shorter one. No
    /// checksum is verified.
    ///
    /// # Errors
    /// As [`Archive::storage`]; `Malformed` with `zip.bad-deflate`.
    pub fn head(&self, m: &Member, most: usize) -> Result<Vec<u8>> {
        let offset = self.readable(m)?;
        let want = m.size.min(most as u64);
        if m.method != Method::Deflate {
            return self.source.read_vec(offset..offset + want);
        }
        let raw = Payload {
            archive: self,
            at: offset,
            end: offset + m.stored,
            failed: None,
        };
        let mut inflate = flate2::read::DeflateDecoder::new(raw).take(want);
        let mut out = Vec::new();
        match inflate.read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(e) => {
                let failed = inflate.get_mut().get_mut().failed.take();
                let bad = || Error::malformed("zip.bad-deflate", e.to_string()).at(offset);
                Err(self.named(m, failed.unwrap_or_else(bad)))
            }
        }
    }

    /// Reads the whole member in pieces of at most 1 MiB, inflating as needed, verifies its
    /// checksum, and that the compressed bytes end where the directory says.
    ///
    /// # Errors
    /// As [`Archive::read`], and what `sink` returns.
    pub fn stream(&self, m: &Member, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let offset = self.readable(m)?;
        self.stream_inner(m, offset, sink)
            .map_err(|e| self.named(m, e))
    }

    fn stream_inner(
        &self,
        m: &Member,
        offset: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut raw = Payload {
            archive: self,
            at: offset,
            end: offset + m.stored,
            failed: None,
        };
        let mut buf = vec![0u8; (CHUNK as u64).min(m.size).max(1) as usize];
        let mut total: u64 = 0;
        let mut feed = |part: &[u8]| {
            crc.update(part);
            sink(part)
        };
        if m.method == Method::Deflate {
            let mut inflate = flate2::read::DeflateDecoder::new(&mut raw);
            loop {
                let read = inflate.read(&mut buf);
                let n = match read {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(e) => {
                        return Err(inflate.get_mut().failed.take().unwrap_or_else(|| {
                            Error::malformed("zip.bad-deflate", e.to_string()).at(offset)
                        }));
                    }
                };
                total += n as u64;
                if total > m.size {
                    return Err(size_error(m, format!("more than {}", m.size), offset));
                }
                feed(buf.get(..n).unwrap_or_default())?;
            }
            if inflate.total_in() != m.stored {
                return Err(Error::malformed(
                    "zip.hidden-bytes",
                    format!(
                        "the deflate stream ends after {} of {} stored bytes",
                        inflate.total_in(),
                        m.stored
                    ),
                )
                .span(
                    offset.saturating_add(inflate.total_in()),
                    m.stored.saturating_sub(inflate.total_in()),
                ));
            }
        } else {
            while total < m.size {
                let n = (m.size - total).min(buf.len() as u64) as usize;
                let part = buf.get_mut(..n).unwrap_or_default();
                self.source.read_at(offset + total, part)?;
                feed(part)?;
                total += n as u64;
            }
        }
        if total != m.size {
            return Err(size_error(m, total.to_string(), offset));
        }
        let computed = crc.finalize();
        if !self.checksums_off && computed != m.crc32 {
            return Err(Error::integrity(
                "zip.crc-mismatch",
                format!(
                    "the stored CRC-32 is {:08x}, the bytes give {computed:08x}",
                    m.crc32
                ),
            )
            .span(offset, m.stored)
            .help("the member was damaged or altered after it was written; fetch the file again"));
        }
        Ok(())
    }
}

fn size_error(m: &Member, found: String, at: u64) -> Error {
    Error::malformed(
        "zip.size-mismatch",
        format!("the member claims {} bytes and inflates to {found}", m.size),
    )
    .at(at)
}

/// `Read` over a member's stored bytes that keeps the source's own error.
struct Payload<'a> {
    archive: &'a Archive,
    at: u64,
    end: u64,
    failed: Option<Error>,
}

impl Read for Payload<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.end - self.at).min(buf.len() as u64) as usize;
        let part = buf.get_mut(..n).unwrap_or_default();
        if let Err(e) = self.archive.source.read_at(self.at, part) {
            self.failed = Some(e);
            return Err(std::io::Error::other("the source failed"));
        }
        self.at += n as u64;
        Ok(n)
    }
}
