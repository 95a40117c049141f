//! The objects of an HDF5 file: what leads out of it, what its texts are, and which bytes are
//! values of datasets.

use std::collections::HashSet;
use std::ops::Range;

use weighbridge_core::wire::hdf5::{
    Attribute, Class, Dataset, Datatype, File, Header, Kind, Layout, Target,
};
use weighbridge_core::{Error, ErrorKind, Result};
use weighbridge_scan::Reference;

use super::examine::{Examiner, Item};

/// Most objects looked at.
const MOST_OBJECTS: usize = 1 << 20;

/// Longest path that is kept.
const LONGEST_PATH: usize = 4096;

/// Most bytes of texts that are taken.
const MOST_TEXT: usize = 32 << 20;

/// Deepest nesting of types that texts are looked for in.
const DEEPEST: u32 = 8;

/// A text of the file: the object's path, the attribute's name or nothing, the bytes, and where
/// they are.
pub(super) struct Found<'t> {
    pub(super) path: &'t str,
    pub(super) name: &'t str,
    pub(super) bytes: &'t [u8],
    pub(super) at: u64,
}

/// Where texts go.
pub(super) type Texts<'t, 's, 'a> = dyn FnMut(&mut Examiner<'s, 'a>, Found<'_>) + 't;

/// A walk over all objects that links reach.
pub(super) struct Walk<'w> {
    file: &'w File,
    item: &'w Item,
    /// Where values of datasets lie.
    pub(super) data: Vec<Range<u64>>,
    /// Whether something was wrong, so that not all was seen.
    pub(super) broken: bool,
    seen: HashSet<u64>,
    text_left: usize,
    expand_left: u64,
    /// Bytes that paths may still have.
    path_left: u64,
}

impl<'w> Walk<'w> {
    pub(super) fn new(file: &'w File, item: &'w Item) -> Self {
        Self {
            file,
            item,
            data: Vec::new(),
            broken: false,
            seen: HashSet::new(),
            text_left: MOST_TEXT,
            path_left: file.source().len().saturating_mul(8).max(8 << 20),
            expand_left: file.limits().expand_cap(file.source().len()),
        }
    }

    /// Looks at every object.
    ///
    /// # Errors
    /// `Io`; what is wrong with the file is recorded.
    pub(super) fn all<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        texts: &mut Texts<'_, 's, 'a>,
    ) -> Result<()> {
        let marked = self.file.mark_driver();
        self.note(cx, marked)?;
        let mut open = vec![(self.file.superblock().root, String::new())];
        if let Some(extension) = self.file.superblock().extension {
            let header = self.file.header(extension).map(|_| ());
            self.note(cx, header)?;
        }
        while let Some((address, path)) = open.pop() {
            if !self.seen.insert(address) {
                continue;
            }
            if self.seen.len() > MOST_OBJECTS {
                let e = Error::limit("hdf5.objects", "there are too many objects");
                return self.note(cx, Err::<(), _>(e)).map(|_| ());
            }
            let looked = self.object(cx, address, &path, texts);
            if let Some(children) = self.note(cx, looked)? {
                open.extend(children);
            }
        }
        if self.text_left == 0 {
            let reason = "its texts are longer than is looked at";
            cx.gap(&self.item.place, None, reason);
        }
        Ok(())
    }

    /// Records what is wrong, and goes on.
    fn note<T>(&mut self, cx: &mut Examiner<'_, '_>, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(it) => Ok(Some(it)),
            Err(e) if e.kind() == ErrorKind::Io => Err(e),
            Err(e) => {
                self.broken = true;
                cx.failed(&self.item.place, e);
                Ok(None)
            }
        }
    }

    fn object<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        address: u64,
        path: &str,
        texts: &mut Texts<'_, 's, 'a>,
    ) -> Result<Vec<(u64, String)>> {
        let file = self.file;
        let header = file.header(address)?;
        let attributes = file.attributes(&header);
        for a in self.note(cx, attributes)?.unwrap_or_default() {
            let told = a.and_then(|a| self.attribute(cx, path, &a, texts));
            self.note(cx, told)?;
        }
        match header.kind() {
            Kind::Group => self.group(cx, &header, path),
            Kind::Dataset => {
                self.dataset(cx, &header, path, texts)?;
                Ok(Vec::new())
            }
            Kind::Datatype | Kind::Other => Ok(Vec::new()),
        }
    }

    fn group(
        &mut self,
        cx: &mut Examiner<'_, '_>,
        header: &Header<'_>,
        path: &str,
    ) -> Result<Vec<(u64, String)>> {
        let mut children = Vec::new();
        for link in self.file.links(header)? {
            if matches!(link.target, Target::Soft(_) | Target::User(_)) {
                // A link of a user's own kind needs a program that knows what to do with it.
                continue;
            }
            let len = path.len() + link.name.len() + 1;
            let left = self.path_left.checked_sub(len as u64);
            let inner = match left.filter(|_| len < LONGEST_PATH) {
                Some(left) => {
                    self.path_left = left;
                    format!("{path}/{}", link.name)
                }
                None => String::new(),
            };
            match link.target {
                Target::Hard(address) => children.push((address, inner)),
                Target::External { file, .. } => {
                    self.outside(cx, "HDF5 external link", &inner, file, link.at);
                }
                Target::Soft(_) | Target::User(_) => {}
            }
        }
        Ok(children)
    }

    fn outside(
        &self,
        cx: &mut Examiner<'_, '_>,
        kind: &'static str,
        path: &str,
        file: String,
        at: u64,
    ) {
        let mut steps = self.item.place.steps.clone();
        steps.extend((!path.is_empty()).then(|| path.to_owned()));
        cx.subject.references.push(Reference {
            place: steps.join(" → "),
            offset: self.item.place.base.map(|b| b.saturating_add(at)),
            kind,
            path: file,
        });
    }

    fn dataset<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        header: &Header<'_>,
        path: &str,
        texts: &mut Texts<'_, 's, 'a>,
    ) -> Result<()> {
        let at = self.file.place(header.address);
        let d = self.file.dataset(header)?;
        for external in &d.external {
            let file = external.file.clone();
            self.outside(cx, "HDF5 external storage", path, file, external.at);
        }
        let bytes = d.space.elements();
        let bytes = bytes.and_then(|n| n.checked_mul(d.datatype.size.into()));
        // Unwritten chunks cost nothing in the file and their whole size in memory.
        let left = bytes.and_then(|b| self.expand_left.checked_sub(b));
        let Some(left) = left else {
            let message = format!("the dataset {path} is far larger than the file");
            return Err(Error::limit("hdf5.expand", message).at(at));
        };
        self.expand_left = left;
        match &d.layout {
            Layout::Virtual { list: Some(list) } => {
                for file in self.file.virtual_sources(*list)? {
                    if file != "." {
                        self.outside(cx, "HDF5 virtual source", path, file, at);
                    }
                }
            }
            _ => self.data.extend(self.file.data_ranges(&d, at)?),
        }
        if has_texts(&d.datatype, 0) {
            self.values(cx, &d, at, path, texts)?;
        }
        Ok(())
    }

    /// The texts of a dataset.
    fn values<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        d: &Dataset,
        at: u64,
        path: &str,
        texts: &mut Texts<'_, 's, 'a>,
    ) -> Result<()> {
        if !d.external.is_empty() || matches!(d.layout, Layout::Virtual { .. }) {
            return Ok(());
        }
        if let Some(filter) = d.pipeline.unknown() {
            let reason = format!("texts behind the filter {}", filter.label());
            cx.gap_once(&self.item.place, Some(at), reason);
            return Ok(());
        }
        let width = d.datatype.size.max(1) as usize;
        let file = self.file;
        file.values(d, at, &mut |band| {
            for element in band.chunks_exact(width) {
                self.element(cx, (path, "", &d.datatype), element, at, 0, texts)?;
            }
            Ok(())
        })
    }

    fn attribute<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        path: &str,
        a: &Attribute,
        texts: &mut Texts<'_, 's, 'a>,
    ) -> Result<()> {
        // What is of no free length lies there as it is, numbers too.
        if !matches!(a.datatype.class, Class::String | Class::Sequence(_)) {
            self.text(cx, (path, &a.name), &a.data, a.at, texts);
        }
        if !has_variable(&a.datatype, 0) {
            return Ok(());
        }
        let width = a.datatype.size.max(1) as usize;
        for (i, element) in a.data.chunks_exact(width).enumerate() {
            let at = a.at.saturating_add((i * width) as u64);
            self.element(cx, (path, &a.name, &a.datatype), element, at, 0, texts)?;
        }
        Ok(())
    }

    /// The texts of one element, whatever lies in it.
    fn element<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        (path, name, t): (&str, &str, &Datatype),
        bytes: &[u8],
        at: u64,
        depth: u32,
        texts: &mut Texts<'_, 's, 'a>,
    ) -> Result<()> {
        if self.text_left == 0 || depth > DEEPEST {
            return Ok(());
        }
        let file = self.file;
        let parts = |base: &Datatype| base.size.max(1) as usize;
        match &t.class {
            Class::Text(_) => self.text(cx, (path, name), bytes, at, texts),
            Class::String => {
                let text = file.variable_text(bytes, at)?;
                self.text(cx, (path, name), &text, at, texts);
            }
            Class::Sequence(base) => {
                let all = file.sequence(bytes, base.size, at)?;
                if !has_variable(base, 0) {
                    self.text(cx, (path, name), &all, at, texts);
                    return Ok(());
                }
                for part in all.chunks_exact(parts(base)) {
                    self.element(cx, (path, name, base), part, at, depth + 1, texts)?;
                }
            }
            Class::Array { base, .. } => {
                for part in bytes.chunks_exact(parts(base)) {
                    self.element(cx, (path, name, base), part, at, depth + 1, texts)?;
                }
            }
            Class::Compound(members) => {
                for m in members {
                    let from = m.offset as usize;
                    let part = bytes.get(from..from + m.datatype.size as usize);
                    let part = part.unwrap_or_default();
                    let at = at.saturating_add(m.offset.into());
                    self.element(cx, (path, name, &m.datatype), part, at, depth + 1, texts)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn text<'s, 'a>(
        &mut self,
        cx: &mut Examiner<'s, 'a>,
        (path, name): (&str, &str),
        bytes: &[u8],
        at: u64,
        texts: &mut Texts<'_, 's, 'a>,
    ) {
        self.text_left = self.text_left.saturating_sub(bytes.len());
        if self.text_left > 0 && !bytes.is_empty() {
            let found = Found {
                path,
                name,
                bytes,
                at,
            };
            texts(cx, found);
        }
    }
}

/// Whether elements of a type have parts that lie in the heap.
fn has_variable(t: &Datatype, depth: u32) -> bool {
    depth <= DEEPEST
        && match &t.class {
            Class::String | Class::Sequence(_) => true,
            Class::Array { base, .. } => has_variable(base, depth + 1),
            Class::Compound(members) => {
                members.iter().any(|m| has_variable(&m.datatype, depth + 1))
            }
            _ => false,
        }
}

/// Whether elements of a type are texts or have some.
fn has_texts(t: &Datatype, depth: u32) -> bool {
    depth <= DEEPEST
        && match &t.class {
            Class::Text(_) | Class::String | Class::Sequence(_) => true,
            Class::Array { base, .. } => has_texts(base, depth + 1),
            Class::Compound(members) => members.iter().any(|m| has_texts(&m.datatype, depth + 1)),
            _ => false,
        }
}
