//! The header: one pass over its JSON, straight into tensors.
//!
//! The rules are those of the format's text (`README.md` of the safetensors repository, section
//! Format) and of its reference reader (`safetensors/src/tensor.rs`, crate 0.8.0, read through
//! `serde` and `serde_json`). Strict mode is the text. Lenient mode gives the reference reader's
//! verdict, which lets duplicate names, a null `__metadata__`, leading white space and padding
//! other than spaces pass, and takes two spellings of a tensor that its derived deserializer
//! happens to know: a list of the three fields, and a dtype written as `{"F32": null}`.

use std::borrow::Cow;
use std::ops::Range;

use weighbridge_core::model::{DType, Shape};
use weighbridge_core::{Error, Limits, Result};

use super::json::{Number, Scanner};
use super::names::NameTable;

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
    let mut visit = Plain(Vec::new());
    let metadata = walk(bytes, lenient, &Limits::default(), &mut visit)?;
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

/// Who receives what the parser finds.
pub(super) trait Visit {
    /// Takes the next tensor. Its fields are all present unless [`Visit::broken`] let a
    /// violation pass.
    fn push(&mut self, entry: Entry<'_>);

    /// Takes `entry` in place of the tensor with index `i`, which has the same name.
    fn replace(&mut self, i: usize, entry: Entry<'_>);

    /// The name of the tensor with index `i`.
    fn name(&self, i: usize) -> &str;

    /// A rule is broken but the parser could go on: `Err` stops it.
    fn broken(&mut self, error: Error) -> Result<()>;
}

/// A range of bytes in the header.
pub(super) type HeaderSpan = Range<usize>;

/// One tensor as the parser met it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: Cow<'a, str>,
    /// Where the name stands, quotes included.
    pub(super) name_at: HeaderSpan,
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Shape>,
    pub(super) shape_at: HeaderSpan,
    pub(super) offsets: Option<(u64, u64)>,
    pub(super) offsets_at: HeaderSpan,
}

/// Collects [`TensorInfo`]s and stops at the first broken rule.
struct Plain(Vec<TensorInfo>);

impl Plain {
    fn info(entry: Entry<'_>) -> TensorInfo {
        let (begin, end) = entry.offsets.unwrap_or_default();
        TensorInfo {
            name: entry.name.into_owned(),
            dtype: entry.dtype.unwrap_or(DType::U8),
            shape: entry.shape.unwrap_or_default(),
            data: begin..end,
        }
    }
}

impl Visit for Plain {
    fn push(&mut self, entry: Entry<'_>) {
        self.0.push(Self::info(entry));
    }

    fn replace(&mut self, i: usize, entry: Entry<'_>) {
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

/// Walks the header text, giving tensors to `visit` and returning the metadata.
///
/// # Errors
/// What `visit` does not let pass, and what the parser cannot go on after.
pub(super) fn walk(
    bytes: &[u8],
    lenient: bool,
    limits: &Limits,
    visit: &mut dyn Visit,
) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let bad = e.error_len().unwrap_or(bytes.len() - e.valid_up_to());
        Error::malformed("safetensors.bad-utf8", "the header is no UTF-8 text")
            .span(e.valid_up_to() as u64, bad as u64)
    })?;
    let mut walker = Walker {
        scan: Scanner::new(text),
        lenient,
        limits,
        visit,
        names: NameTable::with_room_for(bytes.len() / 96),
        tensors: 0,
        metadata: None,
    };
    walker.document(bytes)?;
    Ok(walker.metadata.unwrap_or_default())
}

struct Walker<'a, 'v> {
    scan: Scanner<'a>,
    lenient: bool,
    limits: &'a Limits,
    visit: &'v mut dyn Visit,
    names: NameTable,
    tensors: usize,
    metadata: Option<Vec<(String, String)>>,
}

impl<'a> Walker<'a, '_> {
    fn document(&mut self, bytes: &[u8]) -> Result<()> {
        self.beginning(bytes)?;
        self.scan.enter()?;
        let mut first = true;
        while self.scan.more(b'}', first)? {
            first = false;
            self.scan.peek();
            let start = self.scan.at();
            let key = self.scan.string_key()?;
            let name_at = start..self.scan.at();
            self.scan.expect(b':')?;
            if key == METADATA_KEY {
                self.metadata(&name_at)?;
            } else {
                self.tensor(key, name_at)?;
            }
        }
        self.padding()
    }

    /// What stands before the opening brace.
    fn beginning(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.starts_with(b"\xef\xbb\xbf") {
            let e = Error::malformed(
                "safetensors.byte-order-mark",
                "the header begins with a byte order mark, it must begin with `{`",
            );
            return Err(e.span(0, 3));
        }
        let next = self.scan.peek();
        if self.scan.at() > 0 && !self.lenient {
            self.visit.broken(
                Error::malformed(
                    "safetensors.leading-space",
                    "the header begins with white space, it must begin with `{`",
                )
                .span(0, self.scan.at() as u64),
            )?;
        }
        match next {
            Some(b'{') => Ok(()),
            None => Err(Error::truncated(
                "safetensors.empty-header",
                "the header is empty, it must hold at least `{}`",
            )
            .at(0)),
            Some(_) => {
                let at = self.scan.at() as u64;
                let rest = self.scan.unexpected("`{`");
                // A well-formed value of another kind is named as such.
                let e = match self.scan.skip() {
                    Ok(()) => Error::malformed(
                        "safetensors.not-an-object",
                        "the header is no JSON object, it must begin with `{`",
                    ),
                    Err(_) => rest,
                };
                Err(e.at(at))
            }
        }
    }

    /// What stands behind the closing brace.
    fn padding(&mut self) -> Result<()> {
        let start = self.scan.at();
        let rest = self.scan.rest();
        let Some(odd) = rest.iter().position(|&b| b != b' ') else {
            return Ok(());
        };
        if self.scan.peek().is_some() {
            return Err(Error::malformed(
                "safetensors.trailing-data",
                format!(
                    "the header goes on after its object with byte 0x{:02x}",
                    self.scan.rest().first().copied().unwrap_or(0)
                ),
            )
            .at(self.scan.at() as u64));
        }
        if self.lenient {
            return Ok(());
        }
        self.visit.broken(
            Error::malformed(
                "safetensors.padding",
                format!(
                    "the header is padded with byte 0x{:02x}, only spaces (0x20) are allowed",
                    rest.get(odd).copied().unwrap_or(0)
                ),
            )
            .span((start + odd) as u64, (rest.len() - odd) as u64),
        )
    }

    fn metadata(&mut self, key_at: &HeaderSpan) -> Result<()> {
        if self.metadata.is_some() {
            self.visit.broken(
                Error::malformed(
                    "safetensors.duplicate-metadata",
                    "`__metadata__` stands twice in the header",
                )
                .span(key_at.start as u64, key_at.len() as u64),
            )?;
        }
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        if self.scan.null() {
            self.metadata.get_or_insert_default();
            if self.lenient {
                return Ok(());
            }
            return self.visit.broken(
                Error::malformed(
                    "safetensors.metadata-null",
                    "`__metadata__` is null, it must be an object or absent",
                )
                .span(start as u64, 4),
            );
        }
        if self.scan.peek() != Some(b'{') {
            self.metadata.get_or_insert_default();
            return self.other_kind(
                "safetensors.metadata-not-an-object",
                "`__metadata__` must be an object of strings",
            );
        }
        let mut entries = self.metadata.take().unwrap_or_default();
        let done = self.metadata_entries(&mut entries);
        self.metadata = Some(entries);
        done
    }

    fn metadata_entries(&mut self, entries: &mut Vec<(String, String)>) -> Result<()> {
        let mut seen = NameTable::with_room_for(16);
        for (i, (k, _)) in entries.iter().enumerate() {
            seen.insert(k, i, |_| "");
        }
        self.scan.enter()?;
        let mut first = true;
        while self.scan.more(b'}', first)? {
            first = false;
            self.scan.peek();
            let start = self.scan.at();
            let key = self.scan.string_key()?.into_owned();
            let key_at = start..self.scan.at();
            self.scan.expect(b':')?;
            if self.scan.peek() != Some(b'"') {
                self.other_kind(
                    "safetensors.metadata-not-a-string",
                    &format!("the value of metadata key {} must be a string", Shown(&key)),
                )?;
                continue;
            }
            let value = self.scan.string()?.into_owned();
            let n = entries.len();
            Limits::check(
                n as u64,
                self.limits.values,
                "safetensors.metadata-limit",
                "metadata entries",
            )?;
            let name = |i: usize| entries.get(i).map_or("", |(k, _)| k.as_str());
            match seen.insert(&key, n, name) {
                None => entries.push((key, value)),
                Some(i) => {
                    if !self.lenient {
                        self.visit.broken(
                            Error::malformed(
                                "safetensors.duplicate-metadata-key",
                                format!("metadata key {} stands twice in the header", Shown(&key)),
                            )
                            .span(key_at.start as u64, key_at.len() as u64),
                        )?;
                    }
                    if let Some(slot) = entries.get_mut(i) {
                        slot.1 = value;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a value of another kind than the rule wants and says so.
    #[cold]
    fn other_kind(&mut self, rule: &'static str, wanted: &str) -> Result<()> {
        self.scan.peek();
        let start = self.scan.at();
        self.scan.skip()?;
        let found = clip(self.scan.since(start));
        let e = Error::malformed(rule, format!("{wanted}, found {found}"))
            .span(start as u64, (self.scan.at() - start) as u64);
        self.visit.broken(e)
    }

    fn tensor(&mut self, name: Cow<'a, str>, name_at: HeaderSpan) -> Result<()> {
        let mut entry = Entry {
            name,
            name_at,
            dtype: None,
            shape: None,
            shape_at: 0..0,
            offsets: None,
            offsets_at: 0..0,
        };
        match self.scan.peek() {
            Some(b'{') => self.fields(&mut entry)?,
            Some(b'[') if self.lenient => self.listed_fields(&mut entry)?,
            _ => {
                let wanted = format!(
                    "tensor {} must be described by an object",
                    Shown(&entry.name)
                );
                return self.other_kind("safetensors.tensor-not-an-object", &wanted);
            }
        }
        if let Err(e) = entry.check() {
            self.visit.broken(e)?;
        }
        self.add(entry)
    }

    /// Hands a tensor on, unless its name was there before.
    fn add(&mut self, entry: Entry<'a>) -> Result<()> {
        let n = self.tensors;
        let visit = &*self.visit;
        match self.names.insert(&entry.name, n, |i| visit.name(i)) {
            None => {
                Limits::check(
                    n as u64,
                    self.limits.tensors,
                    "safetensors.tensor-limit",
                    "tensors",
                )?;
                self.tensors += 1;
                self.visit.push(entry);
            }
            Some(i) => {
                if !self.lenient {
                    self.visit.broken(
                        Error::malformed(
                            "safetensors.duplicate-name",
                            format!("tensor {} stands twice in the header", Shown(&entry.name)),
                        )
                        .span(entry.name_at.start as u64, entry.name_at.len() as u64),
                    )?;
                }
                self.visit.replace(i, entry);
            }
        }
        Ok(())
    }

    fn fields(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let mut seen = 0u8;
        self.scan.enter()?;
        let mut first = true;
        while self.scan.more(b'}', first)? {
            first = false;
            self.scan.peek();
            let start = self.scan.at();
            let key = self.scan.string_key()?;
            let end = self.scan.at();
            self.scan.expect(b':')?;
            let bit = match key.as_ref() {
                "dtype" => 1,
                "shape" => 2,
                "data_offsets" => 4,
                _ => 0,
            };
            if seen & bit != 0 {
                let message = format!("tensor {} has the field `{key}` twice", Shown(&entry.name));
                let e = Error::malformed("safetensors.duplicate-field", message);
                self.visit
                    .broken(e.span(start as u64, (end - start) as u64))?;
            }
            seen |= bit;
            match bit {
                1 => self.dtype(entry)?,
                2 => self.shape(entry)?,
                4 => self.offsets(entry)?,
                _ => self.scan.skip()?,
            }
        }
        if seen == 7 {
            return Ok(());
        }
        for (bit, field) in [(1, "dtype"), (2, "shape"), (4, "data_offsets")] {
            if seen & bit == 0 {
                let message = format!("tensor {} has no field `{field}`", Shown(&entry.name));
                let e = Error::malformed("safetensors.missing-field", message);
                let (at, len) = (entry.name_at.start, entry.name_at.len());
                self.visit.broken(e.span(at as u64, len as u64))?;
            }
        }
        Ok(())
    }

    /// `["F32", [2], [0, 8]]`, which the reference reader takes for a tensor.
    fn listed_fields(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = self.scan.at();
        self.scan.enter()?;
        let mut n = 0;
        while self.scan.more(b']', n == 0)? {
            match n {
                0 => self.dtype(entry)?,
                1 => self.shape(entry)?,
                2 => self.offsets(entry)?,
                _ => self.scan.skip()?,
            }
            n += 1;
        }
        if n == 3 {
            return Ok(());
        }
        let message = format!(
            "tensor {} is a list of {n} values instead of 3",
            Shown(&entry.name)
        );
        let e = Error::malformed("safetensors.missing-field", message);
        self.visit
            .broken(e.span(start as u64, (self.scan.at() - start) as u64))
    }

    fn dtype(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        let name = match self.scan.peek() {
            Some(b'"') => self.scan.string()?,
            Some(b'{') if self.lenient => {
                self.scan.enter()?;
                let mut name = Cow::Borrowed("");
                let mut n = 0;
                let mut unit = true;
                while self.scan.more(b'}', n == 0)? {
                    name = self.scan.key()?;
                    unit = self.scan.null();
                    if !unit {
                        self.scan.skip()?;
                    }
                    n += 1;
                }
                if n == 1 && unit {
                    name
                } else {
                    Cow::Borrowed("")
                }
            }
            _ => {
                let wanted = format!(
                    "the dtype of tensor {} must be a string",
                    Shown(&entry.name)
                );
                return self.other_kind("safetensors.bad-dtype", &wanted);
            }
        };
        entry.dtype = dtype(&name);
        if entry.dtype.is_some() {
            return Ok(());
        }
        let message = format!(
            "tensor {} has the unknown dtype {}",
            Shown(&entry.name),
            Shown(&name)
        );
        let e = Error::malformed("safetensors.unknown-dtype", message);
        self.visit
            .broken(e.span(start as u64, (self.scan.at() - start) as u64))
    }

    fn shape(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        if self.scan.peek() != Some(b'[') {
            let wanted = format!("the shape of tensor {} must be a list", Shown(&entry.name));
            return self.other_kind("safetensors.bad-shape", &wanted);
        }
        self.scan.enter()?;
        let mut shape = Shape::new();
        let mut good = true;
        let mut first = true;
        while self.scan.more(b']', first)? {
            first = false;
            match self.unsigned(&entry.name, "safetensors.bad-shape", "extents")? {
                Some(d) => shape.push(d),
                None => good = false,
            }
        }
        entry.shape = good.then_some(shape);
        entry.shape_at = start..self.scan.at();
        Ok(())
    }

    fn offsets(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        if self.scan.peek() != Some(b'[') {
            let wanted = format!(
                "the data_offsets of tensor {} must be a list",
                Shown(&entry.name)
            );
            return self.other_kind("safetensors.bad-offsets", &wanted);
        }
        self.scan.enter()?;
        let mut pair = [None; 2];
        let mut n = 0usize;
        while self.scan.more(b']', n == 0)? {
            match pair.get_mut(n) {
                Some(slot) => {
                    *slot =
                        self.unsigned(&entry.name, "safetensors.bad-offsets", "data_offsets")?;
                }
                None => self.scan.skip()?,
            }
            n += 1;
        }
        entry.offsets_at = start..self.scan.at();
        if n != 2 {
            let message = format!(
                "tensor {} has {n} data_offsets instead of 2",
                Shown(&entry.name)
            );
            let e = Error::malformed("safetensors.bad-offsets", message);
            return self
                .visit
                .broken(e.span(start as u64, entry.offsets_at.len() as u64));
        }
        if let [Some(begin), Some(end)] = pair {
            entry.offsets = Some((begin, end));
        }
        Ok(())
    }

    /// A non-negative integer of at most 64 bits; `None` when it was something else and that
    /// was let pass.
    #[inline]
    fn unsigned(&mut self, name: &str, rule: &'static str, what: &str) -> Result<Option<u64>> {
        let next = self.scan.peek();
        let start = self.scan.at();
        if matches!(next, Some(b'0'..=b'9' | b'-')) {
            if let Number::Unsigned(n) = self.scan.number()? {
                return Ok(Some(n));
            }
            let text = self.scan.since(start);
            let e = Error::malformed(
                rule,
                format!(
                    "{what} of tensor {} must be integers from 0 to 2^64 - 1, found {}",
                    Shown(name),
                    clip(text)
                ),
            );
            self.visit.broken(e.span(start as u64, text.len() as u64))?;
        } else {
            let wanted = format!("{what} of tensor {} must be integers", Shown(name));
            self.other_kind(rule, &wanted)?;
        }
        Ok(None)
    }
}

impl Entry<'_> {
    /// Whether the range is in order and as long as dtype and shape ask, as far as these are
    /// known. The product runs in the order of the dimensions, as the reference reader's does:
    /// `[0, 2^62, 2^62]` is 0, `[2^62, 2^62, 0]` overflows.
    #[inline]
    fn check(&self) -> Result<()> {
        let (Some(dtype), Some(shape)) = (self.dtype, &self.shape) else {
            return Ok(());
        };
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bits()));
        let (Some(bits), Some((begin, end))) = (bits, self.offsets) else {
            return if bits.is_some() {
                Ok(())
            } else {
                Err(self.overflow())
            };
        };
        if bits % 8 == 0 && begin.checked_add(bits / 8) == Some(end) {
            return Ok(());
        }
        Err(self.wrong_size(dtype, bits, begin, end))
    }

    #[cold]
    fn overflow(&self) -> Error {
        Error::malformed(
            "safetensors.shape-overflow",
            format!(
                "the size of tensor {} does not fit 64 bits",
                Shown(&self.name)
            ),
        )
        .span(self.shape_at.start as u64, self.shape_at.len() as u64)
    }

    #[cold]
    fn wrong_size(&self, dtype: DType, bits: u64, begin: u64, end: u64) -> Error {
        let name = Shown(&self.name);
        let at = &self.offsets_at;
        let Some(len) = end.checked_sub(begin) else {
            let message = format!("tensor {name} begins at {begin}, after its end at {end}");
            return Error::malformed("safetensors.begin-after-end", message)
                .span(at.start as u64, at.len() as u64);
        };
        if bits % 8 != 0 {
            return Error::malformed(
                "safetensors.part-of-a-byte",
                format!("tensor {name} of {dtype} has {bits} bits, which are no whole bytes"),
            )
            .span(self.shape_at.start as u64, self.shape_at.len() as u64);
        }
        Error::malformed(
            "safetensors.size-mismatch",
            format!(
                "tensor {name} needs {} bytes by its dtype and shape, its data_offsets span {len}",
                bits / 8
            ),
        )
        .span(at.start as u64, at.len() as u64)
    }
}

/// A name in a message: quoted, and clipped, since a file may hold one of many megabytes.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", clip(self.0))
    }
}

/// At most 200 characters of `text`.
fn clip(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(200) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

/// The 22 dtypes of the format, by their names there.
#[inline]
fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "BF16" => DType::BF16,
        "F16" => DType::F16,
        "BOOL" => DType::Bool,
        "F4" => DType::F4,
        "F6_E2M3" => DType::F6_E2M3,
        "F6_E3M2" => DType::F6_E3M2,
        "U8" => DType::U8,
        "I8" => DType::I8,
        "F8_E5M2" => DType::F8_E5M2,
        "F8_E4M3" => DType::F8_E4M3,
        "F8_E8M0" => DType::F8_E8M0,
        "F8_E4M3FNUZ" => DType::F8_E4M3FNUZ,
        "F8_E5M2FNUZ" => DType::F8_E5M2FNUZ,
        "I16" => DType::I16,
        "U16" => DType::U16,
        "I32" => DType::I32,
        "U32" => DType::U32,
        "C64" => DType::C64,
        "F64" => DType::F64,
        "I64" => DType::I64,
        "U64" => DType::U64,
        _ => return None,
    })
}

/// Whether the format has `d`.
pub(super) fn has_dtype(d: DType) -> bool {
    dtype(d.as_str()) == Some(d)
}
