//! Opening a file: every object that links reach, once; no payload is read.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Part, Tensor, Value, Warning};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::hdf5::{File, Header, Kind, Link, Target};
use weighbridge_core::{Error, ErrorKind, Limits, Result};

use super::attributes::Values;
use super::dataset::Tensors;
use super::verify;
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

/// What the reader says of a further name of a dataset: the first one. No attribute of the file.
pub(crate) const SAME: &str = "same";

/// HDF5 files. See the [module](super).
#[derive(Debug, Clone, Copy)]
pub struct Hdf5;

impl FormatReader for Hdf5 {
    fn id(&self) -> FormatId {
        FormatId::Hdf5
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        let name = source.name().to_owned();
        open(source, &options.limits).map_err(|e| e.in_file(name))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(&source, options)
    }
}

/// The model that an HDF5 file is.
///
/// # Errors
/// What the specification does not allow; `Limit` for files whose datasets come to far more than
/// their bytes.
pub(crate) fn open(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Model> {
    let file = Arc::new(File::open(Arc::clone(&source), limits)?);
    let mut walk = Walk::new(&file)?;
    walk.all()?;
    let mut model = walk.model;
    model.parts = vec![Part {
        path: source.name().into(),
        bytes: source.len(),
    }];
    Ok(model)
}

/// A way through a file's objects.
pub(super) struct Walk<'f> {
    file: &'f Arc<File>,
    tensors: Tensors,
    values: Values<'f>,
    pub(super) model: Model,
    /// Which tensor a dataset became first.
    datasets: HashMap<u64, usize>,
    /// The path under which a group was met first.
    groups: HashMap<u64, String>,
    /// Where to keep what is wrong and go on; without it, the first error ends the walk.
    pub(super) errors: Option<Vec<Error>>,
    /// With errors kept: where the values of each dataset lie, and which tensor it is.
    pub(super) data: Vec<(Range<u64>, usize)>,
    /// Bytes that paths may still have: each one repeats the names of the groups above it.
    paths_left: u64,
}

/// What paths may come to in any case, in bytes; else so many times the file.
const PATHS_LEAST: u64 = 16 << 20;

/// The most errors that are kept.
const MOST_ERRORS: usize = 1000;

impl<'f> Walk<'f> {
    pub(super) fn new(file: &'f Arc<File>) -> Result<Self> {
        let mut model = Model::new(FormatId::Hdf5);
        model.version = Some(file.superblock().version.to_string());
        Ok(Self {
            file,
            tensors: Tensors::new(file)?,
            values: Values::new(file),
            model,
            datasets: HashMap::new(),
            groups: HashMap::new(),
            errors: None,
            data: Vec::new(),
            paths_left: file.source().len().saturating_mul(16).max(PATHS_LEAST),
        })
    }

    /// Walks every object, in the order of names.
    pub(super) fn all(&mut self) -> Result<()> {
        let root = self.file.superblock().root;
        self.groups.insert(root, String::new());
        let Some(links) = self.group("", root)? else {
            return Ok(());
        };
        let mut open = vec![(String::new(), links.into_iter())];
        while let Some((prefix, links)) = open.last_mut() {
            let Some(link) = links.next() else {
                open.pop();
                continue;
            };
            let path = match prefix.as_str() {
                "" => link.name.clone(),
                prefix => format!("{prefix}/{}", link.name),
            };
            let depth = open.len() as u64;
            if let Some(links) = self.link(path.clone(), link)? {
                let most = self.file.limits().depth.into();
                Limits::check(depth, most, "hdf5.depth", "groups within groups")?;
                open.push((path, links.into_iter()));
            }
        }
        Ok(())
    }

    /// Keeps an error, or ends the walk with it.
    pub(super) fn keep<T>(&mut self, result: Result<T>, path: &str) -> Result<Option<T>> {
        let e = match result {
            Ok(it) => return Ok(Some(it)),
            Err(e) if path.is_empty() => e,
            Err(e) => e.within(path),
        };
        match &mut self.errors {
            Some(errors) if !matches!(e.kind(), ErrorKind::Io) && errors.len() < MOST_ERRORS => {
                errors.push(e);
                Ok(None)
            }
            _ => Err(e),
        }
    }

    fn warn(&mut self, at: u64, rule: &'static str, message: String) {
        self.model.warnings.push(Warning {
            offset: Some(at),
            ..Warning::new(rule, message)
        });
    }

    /// Takes a link; gives the links of a group that was not met before.
    fn link(&mut self, path: String, link: Link) -> Result<Option<Vec<Link>>> {
        let at = link.at;
        let left = self.paths_left.checked_sub(path.len() as u64);
        self.paths_left = left.ok_or_else(|| {
            let message = "the paths of its objects come to far more than the file";
            Error::limit("hdf5.paths", message).at(at)
        })?;
        let address = match link.target {
            Target::Hard(address) => address,
            Target::Soft(to) => {
                self.warn(
                    at,
                    "hdf5.soft-link",
                    format!("{path} is another name of {to}"),
                );
                return Ok(None);
            }
            Target::External { file, path: inner } => {
                let message = format!("{path} is {inner} of the file {file}, which is not opened");
                self.warn(at, "hdf5.external-link", message);
                return Ok(None);
            }
            Target::User(kind) => {
                self.warn(
                    at,
                    "hdf5.user-link",
                    format!("{path} is a link of type {kind}"),
                );
                return Ok(None);
            }
        };
        if let Some(&first) = self.datasets.get(&address) {
            self.admit()?;
            let alias = self.model.tensors.get(first).map(bare);
            if let Some(alias) = alias {
                self.tensors.again(&alias, self.file.place(address))?;
                let first = Value::Str(alias.name);
                let mut alias = Tensor {
                    name: path,
                    ..alias
                };
                // What else is said of it stands at its first name: names are many and cheap.
                alias.extra_mut().attributes = vec![(SAME.into(), first)];
                self.model.tensors.push(alias);
            }
            return Ok(None);
        }
        if let Some(first) = self.groups.get(&address) {
            let message = match first.as_str() {
                "" => format!("{path} is the root group again"),
                first => format!("{path} is the group {first} again"),
            };
            self.warn(at, "hdf5.same-group", message);
            return Ok(None);
        }
        let header = self.file.header(address);
        let Some(header) = self.keep(header, &path)? else {
            return Ok(None);
        };
        match header.kind() {
            Kind::Dataset => {
                let tensor = self.dataset(&path, &header);
                if self.keep(tensor, &path)?.is_some() && self.errors.is_some() {
                    let which = self.model.tensors.len().saturating_sub(1);
                    let sound = verify::dataset(self.file, &header, which, &mut self.data);
                    self.keep(sound, &path)?;
                }
                Ok(None)
            }
            Kind::Group => {
                self.groups.insert(address, path.clone());
                self.group(&path, address)
            }
            Kind::Datatype => {
                self.warn(at, "hdf5.named-datatype", format!("{path} is a datatype"));
                Ok(None)
            }
            Kind::Other => {
                self.warn(
                    at,
                    "hdf5.object",
                    format!("{path} is neither a group nor a dataset"),
                );
                Ok(None)
            }
        }
    }

    fn admit(&self) -> Result<()> {
        let cap = self.file.limits().tensors;
        let count = self.model.tensors.len() as u64 + 1;
        Limits::check(count, cap, "hdf5.tensors", "datasets")
    }

    fn dataset(&mut self, path: &str, header: &Header<'_>) -> Result<()> {
        self.admit()?;
        let attributes = self.attributes(path, header)?;
        let named = attributes.iter().find(|(name, _)| name == "dtype");
        let named = named.and_then(|(_, value)| value.as_str());
        let warnings = &mut self.model.warnings;
        let mut tensor = self.tensors.of(path, header, named, warnings)?;
        if !attributes.is_empty() {
            tensor.extra_mut().attributes.extend(attributes);
        }
        self.datasets
            .insert(header.address, self.model.tensors.len());
        self.model.tensors.push(tensor);
        Ok(())
    }

    /// A group's attributes go to the metadata; its links are given.
    fn group(&mut self, path: &str, address: u64) -> Result<Option<Vec<Link>>> {
        let read = self.read_group(path, address);
        self.keep(read, path)
    }

    fn read_group(&mut self, path: &str, address: u64) -> Result<Vec<Link>> {
        let header = self.file.header(address)?;
        for (name, value) in self.attributes(path, &header)? {
            let key = match path {
                "" => name,
                path => format!("{path}@{name}"),
            };
            self.model.metadata.push((key, value));
        }
        self.file.links(&header)
    }

    /// The attributes of an object; what is wrong with one of them alone is a warning.
    fn attributes(&mut self, path: &str, header: &Header<'_>) -> Result<Vec<(String, Value)>> {
        let mut all = Vec::new();
        for attribute in self.file.attributes(header)? {
            let value = attribute.and_then(|a| Ok((a.name.clone(), self.values.of(&a)?)));
            match value {
                Ok(pair) => all.push(pair),
                Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Limit) => return Err(e),
                Err(e) => {
                    let message = format!("an attribute of /{path}: {}", e.message());
                    self.model.warnings.push(Warning {
                        offset: e.byte_span().map(|s| s.offset),
                        ..Warning::new(e.rule(), message)
                    });
                    self.keep(Err::<(), _>(e), path).ok();
                }
            }
        }
        let mut names = HashSet::new();
        all.retain(|(name, _)| names.insert(name.clone()));
        Ok(all)
    }
}

/// A tensor without what few have.
fn bare(t: &Tensor) -> Tensor {
    Tensor {
        name: t.name.clone(),
        dtype: t.dtype,
        shape: t.shape.clone(),
        layout: t.layout,
        source: t.source.clone(),
        extra: None,
    }
}
