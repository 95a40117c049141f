//! The one pass over a header's JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use weighbridge_core::{Error, Limits, Result};

use super::canonical;
use super::entry::{Entry, HeaderSpan, Shown, clip};
use super::header::METADATA_KEY;
use super::json::Scanner;
use super::names::{NameHashes, NameTable};

/// Who receives what the parser finds.
pub(super) trait Visit {
    /// Takes the next tensor out of `entry`. Its fields are all present unless
    /// [`Visit::broken`] let a violation pass.
    fn push(&mut self, entry: &mut Entry<'_>);

    /// Takes `entry` in place of the tensor with index `i`, which has the same name.
    fn replace(&mut self, i: usize, entry: &mut Entry<'_>);

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
    let found = walk_with(bytes, lenient, limits, visit, names)?;
    Ok(found.metadata.unwrap_or_default())
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
    let found = walk_with(bytes, lenient, limits, visit, names)?;
    Ok(found.unless_repeated())
}

fn walk_with(
    bytes: &[u8],
    lenient: bool,
    limits: &Limits,
    visit: &mut dyn Visit,
    names: Names,
) -> Result<Found> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let bad = e.error_len().unwrap_or(bytes.len() - e.valid_up_to());
        Error::malformed("safetensors.bad-utf8", "the header is no UTF-8 text")
            .span(e.valid_up_to() as u64, bad as u64)
    })?;
    let mut found = Found::new(names);
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
    if matches!(walker.found.names, Names::Table(_)) {
        walker.wrong_sizes()?;
    }
    Ok(found)
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
    let mut found = Found::new(Names::Hashes(NameHashes::with_room_for(len / 96)));
    let mut piece = vec![0u8; PIECE.min(len)];
    let (mut left, mut filled, mut begun) = (len, 0, false);
    loop {
        let n = left.min(piece.len() - filled);
        read(piece.get_mut(filled..filled + n).unwrap_or_default())?;
        left -= n;
        filled += n;
        let bytes = piece.get(..filled).unwrap_or_default();
        // A character that the piece cuts is left for the next.
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) if left > 0 && e.error_len().is_none() => {
                let whole = bytes.get(..e.valid_up_to()).unwrap_or_default();
                std::str::from_utf8(whole).unwrap_or_default()
            }
            Err(_) => return Ok(None),
        };
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
    Ok(found.unless_repeated())
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

pub(super) struct Walker<'a, 'v> {
    pub(super) scan: Scanner<'a>,
    pub(super) lenient: bool,
    limits: &'a Limits,
    pub(super) visit: &'v mut dyn Visit,
    found: &'v mut Found,
}

/// What a walk has gathered itself.
struct Found {
    names: Names,
    tensors: usize,
    metadata: Option<Vec<(String, String)>>,
    /// The keys of `metadata`, which may stand in the header many times.
    keys: Option<NameTable>,
    /// Lenient only: the tensors whose size is wrong, by index, and where their names stand.
    wrong: BTreeMap<usize, usize>,
}

impl Found {
    fn new(names: Names) -> Self {
        Self {
            names,
            tensors: 0,
            metadata: None,
            keys: None,
            wrong: BTreeMap::new(),
        }
    }

    /// The metadata, unless a name was repeated or might excuse a wrong size.
    fn unless_repeated(self) -> Option<Vec<(String, String)>> {
        let repeated = match self.names {
            Names::Hashes(h) => !self.wrong.is_empty() || h.repeated(),
            Names::Table(_) => false,
        };
        (!repeated).then(|| self.metadata.unwrap_or_default())
    }
}

/// Hears no violation: they have been reported before.
struct Deaf;

impl Visit for Deaf {
    fn push(&mut self, _: &mut Entry<'_>) {}

    fn replace(&mut self, _: usize, _: &mut Entry<'_>) {}

    fn name(&self, _: usize) -> &str {
        ""
    }

    fn broken(&mut self, _: Error) -> Result<()> {
        Ok(())
    }
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
        let mut keys = self.found.keys.take();
        let done = self.metadata_entries(
            &mut entries,
            keys.get_or_insert_with(|| NameTable::with_room_for(16)),
        );
        self.found.metadata = Some(entries);
        self.found.keys = keys;
        done
    }

    fn metadata_entries(
        &mut self,
        entries: &mut Vec<(String, String)>,
        seen: &mut NameTable,
    ) -> Result<()> {
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
    pub(super) fn other_kind(&mut self, rule: &'static str, wanted: &str) -> Result<()> {
        self.scan.peek();
        let start = self.scan.at();
        self.scan.skip()?;
        let found = clip(self.scan.since(start));
        let e = Error::malformed(rule, format!("{wanted}, found {found}"))
            .span(start as u64, (self.scan.at() - start) as u64);
        self.visit.broken(e)
    }

    fn tensor(&mut self, name: Cow<'a, str>, name_at: HeaderSpan) -> Result<()> {
        let start = name_at.start;
        let mut entry = Entry::named(name, name_at);
        if !self.describe(&mut entry)? {
            return Ok(());
        }
        let wrong = entry.check().err();
        let i = self.add(&mut entry)?;
        if !self.lenient {
            return wrong.map_or(Ok(()), |e| self.visit.broken(e));
        }
        // The reference reader checks sizes when a later tensor of the same name has replaced
        // this one.
        if wrong.is_some() {
            self.found.wrong.insert(i, start);
        } else if !self.found.wrong.is_empty() {
            self.found.wrong.remove(&i);
        }
        Ok(())
    }

    /// Reads what the header says of one tensor; `false` when that is no description and it was
    /// let pass.
    #[inline]
    fn describe(&mut self, entry: &mut Entry<'a>) -> Result<bool> {
        let next = self.scan.peek();
        if let Some(len) = canonical::fields(self.scan.rest(), self.scan.at(), entry) {
            self.scan.advance(len);
            return Ok(true);
        }
        // The fast path may have filled some of them before it gave up.
        (entry.dtype, entry.shape, entry.offsets) = (None, None, None);
        match next {
            Some(b'{') => self.fields(entry)?,
            Some(b'[') if self.lenient => self.listed_fields(entry)?,
            _ => {
                let wanted = format!(
                    "tensor {} must be described by an object",
                    Shown(&entry.name)
                );
                self.other_kind("safetensors.tensor-not-an-object", &wanted)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reports the tensors of wrong size that no later one replaced, reading each once more.
    fn wrong_sizes(&mut self) -> Result<()> {
        for start in std::mem::take(&mut self.found.wrong).into_values() {
            self.scan.back_to(start);
            let name = self.scan.string_key()?;
            let name_at = start..self.scan.at();
            self.scan.expect(b':')?;
            let mut again = Walker {
                scan: self.scan.clone(),
                lenient: self.lenient,
                limits: self.limits,
                visit: &mut Deaf,
                found: &mut *self.found,
            };
            let mut entry = Entry::named(name, name_at);
            if again.describe(&mut entry)? {
                entry.check().or_else(|e| self.visit.broken(e))?;
            }
        }
        Ok(())
    }

    /// Hands a tensor on, or puts it in place of the earlier one of its name; gives its index.
    #[inline]
    fn add(&mut self, entry: &mut Entry<'a>) -> Result<usize> {
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
                Ok(n)
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
                Ok(i)
            }
        }
    }
}
