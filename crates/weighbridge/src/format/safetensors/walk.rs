//! The one pass over a header's JSON.

use std::borrow::Cow;

use weighbridge_core::model::Shape;
use weighbridge_core::{Error, Limits, Result};

use super::canonical;
use super::entry::{Entry, HeaderSpan, Shown, clip, dtype};
use super::header::METADATA_KEY;
use super::json::{Number, Scanner};
use super::names::{NameHashes, NameTable};

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
    let names = Names::Table(NameTable::with_room_for(bytes.len() / 96));
    let (metadata, _) = walk_with(bytes, lenient, limits, visit, names)?;
    Ok(metadata)
}

/// As [`walk`] for a visitor that starts empty, several times as fast, and blind to repeated
/// names: `None` says that there are some, and the walk is to be done again with [`walk`].
///
/// # Errors
/// As [`walk`].
pub(super) fn walk_unique(
    bytes: &[u8],
    lenient: bool,
    limits: &Limits,
    visit: &mut dyn Visit,
) -> Result<Option<Vec<(String, String)>>> {
    let names = Names::Hashes(NameHashes::with_room_for(bytes.len() / 96));
    let (metadata, names) = walk_with(bytes, lenient, limits, visit, names)?;
    let repeated = match names {
        Names::Hashes(h) => h.repeated(),
        Names::Table(_) => false,
    };
    Ok((!repeated).then_some(metadata))
}

fn walk_with(
    bytes: &[u8],
    lenient: bool,
    limits: &Limits,
    visit: &mut dyn Visit,
    names: Names,
) -> Result<(Vec<(String, String)>, Names)> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let bad = e.error_len().unwrap_or(bytes.len() - e.valid_up_to());
        Error::malformed("safetensors.bad-utf8", "the header is no UTF-8 text")
            .span(e.valid_up_to() as u64, bad as u64)
    })?;
    let mut found = Found {
        names,
        tensors: 0,
        metadata: None,
    };
    let mut walker = Walker {
        scan: Scanner::new(text),
        lenient,
        limits,
        visit,
        found: &mut found,
    };
    walker.beginning()?;
    walker.items(true, None)?;
    walker.padding()?;
    Ok((found.metadata.unwrap_or_default(), found.names))
}

/// As [`walk_unique`] over a header of `len` bytes that `read` gives piece by piece, so that a
/// long one is never in memory whole: fresh memory costs more than the parsing. `None` also says
/// that something is wrong or merely unusual (an item longer than a piece); [`walk_unique`] will
/// tell which.
///
/// # Errors
/// What `read` returns.
pub(super) fn walk_pieces(
    len: usize,
    read: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    lenient: bool,
    limits: &Limits,
    visit: &mut dyn Visit,
) -> Result<Option<Vec<(String, String)>>> {
    let mut found = Found {
        names: Names::Hashes(NameHashes::with_room_for(len / 96)),
        tensors: 0,
        metadata: None,
    };
    let mut piece = vec![0u8; PIECE.min(len)];
    let (mut left, mut filled, mut begun) = (len, 0, false);
    loop {
        let n = left.min(piece.len() - filled);
        read(piece.get_mut(filled..filled + n).unwrap_or_default())?;
        left -= n;
        filled += n;
        let bytes = piece.get(..filled).unwrap_or_default();
        // A character that the piece cuts is left for the next.
        let whole = match std::str::from_utf8(bytes) {
            Ok(_) => filled,
            Err(e) if left > 0 && e.error_len().is_none() => e.valid_up_to(),
            Err(_) => return Ok(None),
        };
        let text = std::str::from_utf8(bytes.get(..whole).unwrap_or_default()).unwrap_or_default();
        let mut walker = Walker {
            scan: if begun {
                Scanner::inside(text)
            } else {
                Scanner::new(text)
            },
            lenient,
            limits,
            visit: &mut *visit,
            found: &mut found,
        };
        let Ok(used) = walker.piece(!begun, left == 0) else {
            return Ok(None);
        };
        if left == 0 {
            break;
        }
        if used == 0 {
            return Ok(None);
        }
        begun = true;
        piece.copy_within(used..filled, 0);
        filled -= used;
    }
    let repeated = match found.names {
        Names::Hashes(h) => h.repeated(),
        Names::Table(_) => false,
    };
    Ok((!repeated).then(|| found.metadata.unwrap_or_default()))
}

/// How much of a long header is in memory at a time, in bytes.
const PIECE: usize = 1 << 20;

/// A piece is left when less than this is left of it, so that few items are cut.
const MARGIN: usize = 64 << 10;

/// How repeated names are found.
enum Names {
    /// At once, with the index of the first.
    Table(NameTable),
    /// At the end, and only that there are some.
    Hashes(NameHashes),
}

struct Walker<'a, 'v> {
    scan: Scanner<'a>,
    lenient: bool,
    limits: &'a Limits,
    visit: &'v mut dyn Visit,
    found: &'v mut Found,
}

/// What a walk has gathered itself.
struct Found {
    names: Names,
    tensors: usize,
    metadata: Option<Vec<(String, String)>>,
}

impl<'a> Walker<'a, '_> {
    /// One piece of a header, the `first` or the `last` or one between; gives how many bytes of
    /// it are done with.
    fn piece(&mut self, first: bool, last: bool) -> Result<usize> {
        if first {
            self.beginning()?;
        }
        let stop = self.scan.rest().len().saturating_sub(MARGIN) + self.scan.at();
        let ended = self.items(first, (!last).then_some(stop))?;
        match (ended, last) {
            (true, true) => self.padding()?,
            (false, false) => {}
            // The object ends before the last piece: long padding, or data behind it.
            _ => return Err(self.scan.unexpected("an item")),
        }
        Ok(self.scan.at())
    }

    /// The items of the header's object up to its end (`true`), or to the end of the first item
    /// that reaches position `stop`.
    fn items(&mut self, mut first: bool, stop: Option<usize>) -> Result<bool> {
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
            if stop.is_some_and(|s| self.scan.at() >= s) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The opening brace and what stands before it.
    fn beginning(&mut self) -> Result<()> {
        if self.scan.rest().starts_with(b"\xef\xbb\xbf") {
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
            Some(b'{') => self.scan.enter(),
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
        if self.found.metadata.is_some() {
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
            self.found.metadata.get_or_insert_default();
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
            self.found.metadata.get_or_insert_default();
            return self.other_kind(
                "safetensors.metadata-not-an-object",
                "`__metadata__` must be an object of strings",
            );
        }
        let mut entries = self.found.metadata.take().unwrap_or_default();
        let done = self.metadata_entries(&mut entries);
        self.found.metadata = Some(entries);
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
        let next = self.scan.peek();
        if let Some(f) = canonical::fields(self.scan.rest()) {
            let at = self.scan.at();
            entry.dtype = Some(f.dtype);
            entry.shape = Some(f.shape);
            entry.shape_at = at + f.shape_at.start..at + f.shape_at.end;
            entry.offsets = Some(f.offsets);
            entry.offsets_at = at + f.offsets_at.start..at + f.offsets_at.end;
            self.scan.advance(f.len);
        } else {
            match next {
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
        }
        if let Err(e) = entry.check() {
            self.visit.broken(e)?;
        }
        self.add(entry)
    }

    /// Hands a tensor on, unless its name was there before.
    fn add(&mut self, entry: Entry<'a>) -> Result<()> {
        let n = self.found.tensors;
        let visit = &*self.visit;
        let earlier = match &mut self.found.names {
            Names::Table(t) => t.insert(&entry.name, n, |i| visit.name(i)),
            Names::Hashes(h) => {
                h.add(&entry.name);
                None
            }
        };
        match earlier {
            None => {
                Limits::check(
                    n as u64,
                    self.limits.tensors,
                    "safetensors.tensor-limit",
                    "tensors",
                )?;
                self.found.tensors += 1;
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
