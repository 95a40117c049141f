//! The header: one pass over its JSON, straight into tensors.
//!
//! The rules are those of the format's text (`README.md` of the safetensors repository, section
//! Format) and of its reference reader (`safetensors/src/tensor.rs`, crate 0.8.0, read through
//! `serde` and `serde_json`). Strict mode is the text. Lenient mode gives the reference reader's
//! verdict, which lets duplicate names, a null `__metadata__`, leading white space and padding
//! other than spaces pass, and takes two spellings of a tensor that its derived deserializer
//! happens to know: a list of the three fields, and a dtype written as `{"F32": null}`.

use std::ops::Range;

use weighbridge_core::model::{DType, Shape};
use weighbridge_core::{Error, Limits, Result};

use super::entry::Entry;
use super::walk::{Visit, walk, walk_unique};

/// The longest header the format allows, in bytes (`MAX_HEADER_SIZE` of the reference reader).
pub const MAX_HEADER: u64 = 100_000_000;

/// The key that holds the string-to-string metadata.
pub const METADATA_KEY: &str = "__metadata__";

/// What a header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The entries of `__metadata__`, in file order.
    pub metadata: Vec<(String, String)>,
    /// The tensors, in header order.
    pub tensors: Vec<TensorInfo>,
}

/// One tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Shape,
    /// Where its bytes lie, counted from the start of the data region.
    pub data: Range<u64>,
}

/// Parses the JSON text of a header (without the eight bytes of its length) and checks every
/// tensor by itself. Whether the tensors cover a data region without holes is
/// [`Header::data_len`]'s question.
///
/// # Errors
/// The first broken rule, its offset counted from the start of `bytes`.
///
/// # Examples
/// ```
/// use weighbridge::format::safetensors::header;
///
/// let text = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
/// let header = header::parse(text, false)?;
/// assert_eq!(header.tensors[0].name, "w");
/// assert_eq!(header.data_len(), Some(8));
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn parse(bytes: &[u8], lenient: bool) -> Result<Header> {
    let limits = Limits::default();
    let mut visit = Plain(Vec::new());
    let metadata = match walk_unique(bytes, lenient, &limits, &mut visit)? {
        Some(metadata) => metadata,
        None => {
            visit.0.clear();
            walk(bytes, lenient, &limits, &mut visit)?
        }
    };
    Ok(Header {
        metadata,
        tensors: visit.0,
    })
}

impl Header {
    /// The length of the data region in bytes when the tensors cover it exactly, each byte once
    /// (empty tensors at a boundary); `None` when there is a hole or an overlap.
    pub fn data_len(&self) -> Option<u64> {
        let spans = self.tensors.iter().map(|t| (t.data.start, t.data.end));
        covered(spans.collect())
    }
}

/// See [`Header::data_len`].
pub(super) fn covered(mut spans: Vec<(u64, u64)>) -> Option<u64> {
    spans.sort_unstable();
    spans.iter().try_fold(0, |at, &(begin, end)| {
        (begin == at && end >= at).then_some(end)
    })
}

/// Collects [`TensorInfo`]s and stops at the first broken rule.
struct Plain(Vec<TensorInfo>);

impl Plain {
    fn info(entry: &mut Entry<'_>) -> TensorInfo {
        let (begin, end) = entry.offsets.unwrap_or_default();
        TensorInfo {
            name: entry.take_name(),
            dtype: entry.dtype.unwrap_or(DType::U8),
            shape: entry.shape.take().unwrap_or_default(),
            data: begin..end,
        }
    }
}

impl Visit for Plain {
    fn push(&mut self, entry: &mut Entry<'_>) {
        self.0.push(Self::info(entry));
    }

    fn replace(&mut self, i: usize, entry: &mut Entry<'_>) {
        if let Some(slot) = self.0.get_mut(i) {
            *slot = Self::info(entry);
        }
    }

    fn name(&self, i: usize) -> &str {
        self.0.get(i).map_or("", |t| &t.name)
    }

    fn broken(&mut self, error: Error) -> Result<()> {
        Err(error)
    }
}
