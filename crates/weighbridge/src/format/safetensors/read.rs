//! Opening a file: the header is read into memory once, the payload is not touched.

use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{
    DType, FormatId, Model, Part, Storage, StorageData, Tensor, TensorSource, Value, View,
};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};

use super::entry::Entry;
use super::header::{self, MAX_HEADER};
use super::verify;
use super::walk::{self, Visit};
use crate::OpenOptions;

/// Bytes of the length field in front of the header.
pub(super) const LENGTH_BYTES: u64 = 8;

/// See [`super::Safetensors`].
pub(super) fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let name = source.name().to_owned();
    open_inner(source, options).map_err(|e| e.in_file(name))
}

fn open_inner(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let range = header_range(source.as_ref(), &options.limits)?;
    let data_len = source.len() - range.end;
    let data = StorageData::Raw {
        source: Arc::clone(&source),
        offset: range.end,
        checksum: None,
    };
    let storage = Storage::new("data", data_len, false, data)?.into_region();
    let mut build = Build {
        tensors: Vec::with_capacity((range.end / 128) as usize),
        storage: Arc::new(storage),
        end: 0,
        in_order: true,
    };
    let metadata = walk_header(source.as_ref(), &range, options, &mut build)?;
    if !build.covers(data_len) {
        let text = source.read_vec(range)?;
        return Err(verify::first_layout_error(&text, data_len, options));
    }
    let mut model = Model::new(FormatId::Safetensors);
    model.parts = vec![Part {
        path: source.name().into(),
        bytes: source.len(),
    }];
    model.metadata = metadata
        .into_iter()
        .map(|(k, v)| (k, Value::Str(v)))
        .collect();
    model.tensors = build.tensors;
    Ok(model)
}

/// Walks the header by the fastest way that works: in pieces, then whole, then whole with every
/// name looked up.
fn walk_header(
    source: &dyn ByteSource,
    range: &Range<u64>,
    options: &OpenOptions,
    build: &mut Build,
) -> Result<Vec<(String, String)>> {
    let (lenient, limits) = (options.lenient, &options.limits);
    let mut at = range.start;
    let mut read = |piece: &mut [u8]| {
        source.read_at(at, piece)?;
        at += piece.len() as u64;
        Ok(())
    };
    // At most MAX_HEADER.
    let len = (range.end - range.start) as usize;
    if let Some(metadata) = walk::walk_pieces(len, &mut read, lenient, limits, build)? {
        return Ok(metadata);
    }
    let shifted = |e: Error| e.shifted(LENGTH_BYTES);
    let text = source.read_vec(range.clone())?;
    build.restart();
    if let Some(metadata) = walk::walk_unique(&text, lenient, limits, build).map_err(shifted)? {
        return Ok(metadata);
    }
    build.restart();
    walk::walk(&text, lenient, limits, build).map_err(shifted)
}

/// Where the header's JSON lies, from the length in front of it.
///
/// # Errors
/// When the length cannot be right; a file of another well-known kind is named.
pub(super) fn header_range(source: &dyn ByteSource, limits: &Limits) -> Result<Range<u64>> {
    let len = source.len();
    let mut head = [0u8; 64];
    let head = head.get_mut(..len.min(64) as usize).unwrap_or_default();
    source.read_at(0, head)?;
    let Some(field) = head.first_chunk::<8>() else {
        return Err(foreign(head).unwrap_or_else(|| {
            Error::truncated(
                "safetensors.too-short",
                format!("the file has {len} bytes, the length of the header alone takes 8"),
            )
            .span(0, len)
        }));
    };
    let n = u64::from_le_bytes(*field);
    if n > MAX_HEADER {
        return Err(foreign(head).unwrap_or_else(|| {
            Error::malformed(
                "safetensors.header-too-large",
                format!("the header is {n} bytes long, the format allows {MAX_HEADER}"),
            )
            .span(0, LENGTH_BYTES)
        }));
    }
    Limits::check(
        n,
        limits.header_bytes,
        "safetensors.header-limit",
        "header bytes",
    )
    .map_err(|e| e.span(0, LENGTH_BYTES))?;
    if n > len - LENGTH_BYTES {
        return Err(foreign(head).unwrap_or_else(|| {
            Error::truncated(
                "safetensors.header-past-end",
                format!(
                    "the header is {n} bytes long, the file has {} after its length",
                    len - 8
                ),
            )
            .span(0, LENGTH_BYTES)
            .help("the file was cut short or is no safetensors file; fetch it again")
        }));
    }
    Ok(LENGTH_BYTES..LENGTH_BYTES + n)
}

/// Names a file that is plainly something else.
fn foreign(head: &[u8]) -> Option<Error> {
    let text = head.trim_ascii_start();
    let tag = |t: &[u8]| {
        text.get(..t.len())
            .is_some_and(|h| h.eq_ignore_ascii_case(t))
    };
    let e =
        |rule, message: &str, help: &str| Some(Error::malformed(rule, message).at(0).help(help));
    if tag(b"version https://git-lfs") {
        return e(
            "safetensors.git-lfs-pointer",
            "this is a Git LFS pointer, not the file it stands for",
            "run `git lfs pull` in the repository, or download the file itself",
        );
    }
    if tag(b"<!doctype") || tag(b"<html") || tag(b"<?xml") {
        return e(
            "safetensors.html-page",
            "this is an HTML or XML page, probably an error message saved in place of the file",
            "download the file again; the page may say why it was refused (say, a missing login)",
        );
    }
    let (kind, help) = match head {
        [b'P', b'K', 3, 4, ..] => (
            "a zip archive",
            "PyTorch checkpoints are zip archives: rename it to .pt",
        ),
        [0x80, 0..=5, ..] => (
            "a pickle",
            "it may be a PyTorch checkpoint: rename it to .pt",
        ),
        [b'G', b'G', b'U', b'F', ..] => ("a GGUF file", "rename it to .gguf"),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file", "rename it to .h5"),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => ("a NumPy file", "rename it to .npy"),
        [0x1f, 0x8b, ..] => ("gzip data", "decompress it first"),
        _ => return None,
    };
    e(
        "safetensors.other-format",
        &format!("this is {kind}, not safetensors"),
        help,
    )
}

/// Builds the model's tensors while the header is walked.
struct Build {
    tensors: Vec<Tensor>,
    storage: Arc<Storage>,
    /// Where the tensors so far end, while each began where the one before ended.
    end: u64,
    in_order: bool,
}

impl Build {
    fn tensor(&self, entry: &mut Entry<'_>) -> (Tensor, (u64, u64)) {
        // Absent fields never come here: `broken` stops the walk.
        let (begin, end) = entry.offsets.unwrap_or_default();
        let tensor = Tensor {
            name: entry.take_name(),
            dtype: entry.dtype.unwrap_or(DType::U8),
            shape: entry.shape.take().unwrap_or_default(),
            layout: weighbridge_core::model::Layout::Strided,
            source: TensorSource::View(View {
                storage: Arc::clone(&self.storage),
                offset: begin,
            }),
            extra: None,
        };
        (tensor, (begin, end))
    }

    fn restart(&mut self) {
        self.tensors.clear();
        (self.end, self.in_order) = (0, true);
    }

    /// Whether the tensors cover the data region exactly.
    fn covers(&self, data_len: u64) -> bool {
        if self.in_order {
            return self.end == data_len;
        }
        let span = |t: &Tensor| match &t.source {
            TensorSource::View(v) => (v.offset, v.offset.saturating_add(t.byte_len())),
            _ => (0, 0),
        };
        header::covered(self.tensors.iter().map(span).collect()) == Some(data_len)
    }
}

impl Visit for Build {
    fn push(&mut self, entry: &mut Entry<'_>) {
        let (tensor, (begin, end)) = self.tensor(entry);
        self.in_order &= begin == self.end;
        self.end = end;
        self.tensors.push(tensor);
    }

    fn replace(&mut self, i: usize, entry: &mut Entry<'_>) {
        let (tensor, _) = self.tensor(entry);
        self.in_order = false;
        if let Some(slot) = self.tensors.get_mut(i) {
            *slot = tensor;
        }
    }

    fn name(&self, i: usize) -> &str {
        self.tensors.get(i).map_or("", |t| &t.name)
    }

    fn broken(&mut self, error: Error) -> Result<()> {
        Err(error)
    }
}
