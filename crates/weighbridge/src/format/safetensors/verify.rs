//! Every broken rule of a file, where opening stops at the first.

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, ErrorKind, Result};

use super::entry::{Entry, Shown};
use super::read::{LENGTH_BYTES, header_range};
use super::walk::{self, Visit};
use crate::OpenOptions;
use crate::check::Violation;

/// How many violations are listed; a hostile header could hold millions.
const MOST: usize = 1000;

/// See [`super::Safetensors`]. The format has no checksums, so the payload is not read: what a
/// data region that is not aligned costs is the loader's affair and no rule of the format.
pub(super) fn verify(source: &dyn ByteSource, options: &OpenOptions) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    let range = match header_range(source, &options.limits) {
        Ok(range) => range,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e.in_file(source.name())),
        Err(e) => {
            found.push(e);
            0..0
        }
    };
    if found.is_empty() {
        let text = source.read_vec(range.clone())?;
        found = collect(&text, source.len() - range.end, options);
    }
    Ok(found
        .into_iter()
        .map(|e| Violation::from(&e.in_file(source.name())))
        .collect())
}

/// The error for a header whose tensors are known not to cover the data region.
#[cold]
pub(super) fn first_layout_error(text: &[u8], data_len: u64, options: &OpenOptions) -> Error {
    collect(text, data_len, options)
        .into_iter()
        .next()
        .unwrap_or_else(|| {
            Error::malformed(
                "safetensors.layout",
                "the tensors do not cover the data region exactly once",
            )
        })
}

/// Every violation of the header `text` over a data region of `data_len` bytes, offsets counted
/// in the file.
fn collect(text: &[u8], data_len: u64, options: &OpenOptions) -> Vec<Error> {
    let mut all = Collector::default();
    match walk::walk(text, options.lenient, &options.limits, &mut all) {
        Ok(_) => all.layout(data_len, LENGTH_BYTES + text.len() as u64),
        Err(e) => all.errors.push(e.shifted(LENGTH_BYTES)),
    }
    all.errors
}

/// A tensor's place, and where the header gives it.
struct Place {
    name: String,
    begin: u64,
    end: u64,
    /// First byte of its data_offsets in the header.
    at: usize,
    len: usize,
}

#[derive(Default)]
struct Collector {
    errors: Vec<Error>,
    places: Vec<Place>,
}

impl Collector {
    fn place(entry: &mut Entry<'_>) -> Place {
        let (begin, end) = entry.offsets.unwrap_or_default();
        Place {
            name: entry.take_name(),
            begin,
            end,
            at: entry.offsets_at.start,
            len: entry.offsets_at.len(),
        }
    }

    /// Holes, overlaps, and an end that is not the file's. `start` is the file offset of the
    /// data region. Stops at [`MOST`].
    fn layout(&mut self, data_len: u64, start: u64) {
        // Without its offsets a tensor cannot be placed, and every neighbour would look wrong.
        if self.places.iter().any(|p| p.len == 0 || p.begin > p.end) {
            return;
        }
        let mut order: Vec<&Place> = self.places.iter().collect();
        order.sort_by_key(|p| (p.begin, p.end));
        let mut at = 0u64;
        let mut last = "";
        for p in order {
            if self.errors.len() >= MOST {
                self.errors.push(too_many());
                return;
            }
            if p.begin > at {
                let message = format!(
                    "bytes {at}..{} of the data region, before tensor {}, belong to no tensor",
                    p.begin,
                    Shown(&p.name)
                );
                let e = Error::malformed("safetensors.hole", message);
                self.errors
                    .push(e.span(start.saturating_add(at), p.begin - at));
            } else if p.begin < at {
                let message = if p.begin == p.end {
                    format!(
                        "the empty tensor {} lies inside tensor {}",
                        Shown(&p.name),
                        Shown(last)
                    )
                } else {
                    format!(
                        "tensor {} begins at byte {} of the data region, inside tensor {} which ends at {at}",
                        Shown(&p.name),
                        p.begin,
                        Shown(last)
                    )
                };
                let e = Error::malformed("safetensors.overlap", message);
                let header_at = (p.at as u64).saturating_add(LENGTH_BYTES);
                self.errors.push(e.span(header_at, p.len as u64));
            }
            if p.end >= at {
                at = p.end;
                last = &p.name;
            }
        }
        if at < data_len {
            let message = format!(
                "the tensors end at byte {at} of the data region, the file has {} more",
                data_len - at
            );
            let e = Error::malformed("safetensors.trailing-bytes", message);
            self.errors
                .push(e.span(start.saturating_add(at), data_len - at));
        } else if at > data_len {
            let message = format!(
                "the tensors need {at} bytes of data, the file has {data_len}: {} are missing",
                at - data_len
            );
            let e = Error::truncated("safetensors.short-data", message)
                .at(start.saturating_add(data_len))
                .help("the file was cut short; fetch it again");
            self.errors.push(e);
        }
    }
}

fn too_many() -> Error {
    Error::malformed(
        "safetensors.more",
        format!("the first {MOST} violations are listed, there may be more"),
    )
}

impl Visit for Collector {
    fn push(&mut self, entry: &mut Entry<'_>) {
        self.places.push(Self::place(entry));
    }

    fn replace(&mut self, i: usize, entry: &mut Entry<'_>) {
        if let Some(slot) = self.places.get_mut(i) {
            *slot = Self::place(entry);
        }
    }

    fn name(&self, i: usize) -> &str {
        self.places.get(i).map_or("", |p| &p.name)
    }

    fn broken(&mut self, error: Error) -> Result<()> {
        if self.errors.len() >= MOST {
            return Err(too_many());
        }
        self.errors.push(error.shifted(LENGTH_BYTES));
        Ok(())
    }
}
