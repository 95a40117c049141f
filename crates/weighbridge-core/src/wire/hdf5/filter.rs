//! What is done to chunks when they are written (IV.A.2.l), and how it is undone.

use flate2::{Decompress, FlushDecompress, Status};

use super::checksum::fletcher32;
use super::fields::{Fields, text_of};
use super::{lzf, scale};
use crate::error::{Error, Result};

const RULE: &str = "hdf5.filter";

/// Most filters of one pipeline (`H5Z_MAX_NFILTERS`).
const MOST: u8 = 32;

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its registered number.
    pub id: u16,
    /// Its name, where the file says one.
    pub name: String,
    /// What it was told.
    pub values: Vec<u32>,
}

impl Filter {
    /// What to call it.
    pub fn label(&self) -> String {
        match (filter_name(self.id), self.name.as_str()) {
            (Some(name), _) => name.to_owned(),
            (None, "") => format!("filter {}", self.id),
            (None, name) => format!("{name} ({})", self.id),
        }
    }

    /// Whether this version undoes it.
    pub fn is_known(&self) -> bool {
        match self.id {
            6 => scale::is_known(&self.values),
            id => matches!(id, 1..=3 | 32000),
        }
    }
}

/// The filters that chunks went through, first to last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pipeline {
    /// The filters.
    pub filters: Vec<Filter>,
}

/// The name of a registered filter (the HDF Group's list of registered filters).
pub fn filter_name(id: u16) -> Option<&'static str> {
    Some(match id {
        1 => "deflate",
        2 => "shuffle",
        3 => "fletcher32",
        4 => "szip",
        5 => "nbit",
        6 => "scale-offset",
        305 => "lzo",
        307 => "bzip2",
        32000 => "lzf",
        32001 => "blosc",
        32004 => "lz4",
        32008 => "bitshuffle",
        32013 => "zfp",
        32015 => "zstd",
        32026 => "blosc2",
        _ => return None,
    })
}

impl Pipeline {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        let version = f.version(1..=2, RULE)?;
        let place = f.place();
        let n = f.u8()?;
        if n > MOST {
            return Err(Error::malformed(RULE, format!("{n} filters are too many")).at(place));
        }
        f.skip(if version == 1 { 6 } else { 0 })?;
        let filters = (0..n).map(|_| filter(f, version)).collect::<Result<_>>()?;
        Ok(Self { filters })
    }

    /// The first filter that this version does not undo.
    pub fn unknown(&self) -> Option<&Filter> {
        self.filters.iter().find(|f| !f.is_known())
    }

    /// Undoes the filters of a chunk that are not masked out; what comes of it has `len` bytes.
    ///
    /// # Errors
    /// `Unsupported` for a filter that is not known, `Integrity` for a wrong checksum, `Malformed`
    /// for what cannot have come out of the filters.
    pub(super) fn undo(
        &self,
        mut data: Vec<u8>,
        mask: u32,
        len: u64,
        element: usize,
    ) -> Result<Vec<u8>> {
        // Between two filters there may be a little more than in the end.
        let cap = usize::try_from(len.saturating_mul(2).saturating_add(1 << 16));
        let cap = cap.unwrap_or(usize::MAX);
        for (i, filter) in self.filters.iter().enumerate().rev() {
            if mask & (1u32 << (i as u32 & 31)) != 0 {
                continue;
            }
            data = match filter.id {
                1 => inflate(&data, cap)?,
                2 => unshuffle(&data, filter, element),
                3 => checked(data)?,
                6 => scale::undo(&data, &filter.values, cap)?,
                32000 => lzf::undo(&data, cap)?,
                _ => return Err(unsupported(filter)),
            };
        }
        if data.len() as u64 != len {
            let message = format!(
                "a chunk has {} bytes behind its filters, where {len} should be",
                data.len()
            );
            return Err(Error::malformed("hdf5.chunk", message));
        }
        Ok(data)
    }
}

fn unsupported(filter: &Filter) -> Error {
    let message = format!(
        "the filter {} is not undone by this version",
        filter.label()
    );
    Error::unsupported(RULE, message).help(
        "write the file anew without that filter, say with `h5repack -f NONE`, or with one of deflate, shuffle, fletcher32, lzf and scale-offset",
    )
}

fn filter(f: &mut Fields<'_>, version: u8) -> Result<Filter> {
    let id = f.u16()?;
    let name = if version == 1 || id >= 256 {
        f.u16()?
    } else {
        0
    };
    f.skip(2)?;
    let count = f.u16()?;
    let name = match version {
        1 => usize::from(name).next_multiple_of(8),
        _ => name.into(),
    };
    let name = f.take(name)?;
    let name = text_of(name.split(|&b| b == 0).next().unwrap_or_default());
    let values = (0..count).map(|_| f.u32()).collect::<Result<Vec<_>>>()?;
    f.skip(if version == 1 && count % 2 == 1 { 4 } else { 0 })?;
    Ok(Filter { id, name, values })
}

/// zlib (RFC 1950), its checksum included; at most `cap` bytes come out.
fn inflate(data: &[u8], cap: usize) -> Result<Vec<u8>> {
    let bad = |m: &str| Error::malformed("hdf5.deflate", m.to_owned());
    let mut state = Decompress::new(true);
    let mut out = Vec::with_capacity(data.len().saturating_mul(4).min(cap));
    loop {
        let rest = data.get(state.total_in() as usize..).unwrap_or_default();
        let before = (state.total_in(), state.total_out());
        if out.len() == out.capacity() {
            if out.len() >= cap {
                return Err(bad("a chunk inflates to more than it can be"));
            }
            out.reserve(out.len().clamp(4096, cap));
        }
        match state.decompress_vec(rest, &mut out, FlushDecompress::None) {
            Ok(Status::StreamEnd) => return Ok(out),
            Ok(_) if before == (state.total_in(), state.total_out()) => {
                return Err(bad("a chunk's deflated bytes end too early"));
            }
            Ok(_) => {}
            Err(e) => return Err(bad(&format!("a chunk does not inflate: {e}"))),
        }
    }
}

/// The first bytes of all elements came first, then the second ones, and so on.
fn unshuffle(data: &[u8], filter: &Filter, element: usize) -> Vec<u8> {
    let width = filter.values.first().map_or(element, |&w| w as usize);
    let n = data.len().checked_div(width).unwrap_or(0);
    if width <= 1 || n <= 1 {
        return data.to_vec();
    }
    let mut out = vec![0u8; data.len()];
    for (byte, plane) in data.chunks_exact(n).take(width).enumerate() {
        let places = out.iter_mut().skip(byte).step_by(width);
        for (to, from) in places.zip(plane) {
            *to = *from;
        }
    }
    // What was no whole element stayed where it was.
    let whole = n * width;
    if let (Some(to), Some(from)) = (out.get_mut(whole..), data.get(whole..)) {
        to.copy_from_slice(from);
    }
    out
}

/// Takes the Fletcher sum off the end, and compares it.
fn checked(mut data: Vec<u8>) -> Result<Vec<u8>> {
    let Some((body, stored)) = data.split_last_chunk::<4>() else {
        return Err(Error::malformed(
            "hdf5.fletcher32",
            "a chunk is too short for its checksum",
        ));
    };
    let (stored, computed) = (u32::from_le_bytes(*stored), fletcher32(body));
    // Before 1.6.3 the bytes of each half were the other way round on machines like ours.
    let old = computed.rotate_left(8) & 0x00ff_00ff | computed.rotate_right(8) & 0xff00_ff00;
    if stored != computed && stored != old {
        let message =
            format!("a chunk's stored checksum is {stored:08x}, its bytes give {computed:08x}");
        return Err(Error::integrity("hdf5.fletcher32", message)
            .help("the payload was damaged or altered after it was written; fetch it again"));
    }
    data.truncate(data.len() - 4);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter_of(id: u16, values: &[u32]) -> Filter {
        Filter {
            id,
            name: String::new(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn shuffled_bytes_come_back_and_what_is_over_stays() {
        let filter = filter_of(2, &[3]);
        assert_eq!(
            unshuffle(&[1, 4, 2, 5, 3, 6, 9], &filter, 0),
            [1, 2, 3, 4, 5, 6, 9]
        );
        assert_eq!(unshuffle(&[1, 2], &filter_of(2, &[0]), 0), [1, 2]);
    }

    #[test]
    fn a_mask_leaves_filters_out_and_a_wrong_sum_is_told() {
        let pipeline = Pipeline {
            filters: vec![filter_of(2, &[2]), filter_of(3, &[])],
        };
        let summed = [&[1, 3, 2, 4][..], &fletcher32(&[1, 3, 2, 4]).to_le_bytes()].concat();
        let undo = |data: &[u8], mask| pipeline.undo(data.to_vec(), mask, 4, 2);
        assert_eq!(undo(&summed, 0).unwrap(), [1, 2, 3, 4]);
        assert_eq!(undo(&[1, 2, 3, 4], 3).unwrap(), [1, 2, 3, 4]);
        let mut broken = summed;
        broken[0] ^= 1;
        assert_eq!(undo(&broken, 0).unwrap_err().rule(), "hdf5.fletcher32");
        assert_eq!(undo(&[1, 2, 3], 3).unwrap_err().rule(), "hdf5.chunk");
    }

    #[test]
    fn what_is_not_known_is_named() {
        let pipeline = Pipeline {
            filters: vec![filter_of(1, &[4]), filter_of(32015, &[])],
        };
        assert_eq!(pipeline.unknown().unwrap().label(), "zstd");
        let e = pipeline.undo(vec![0; 4], 0, 4, 1).unwrap_err();
        assert_eq!(e.rule(), "hdf5.filter");
    }
}
