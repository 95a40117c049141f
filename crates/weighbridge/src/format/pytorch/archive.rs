//! torch's zip archives: `torch.save` since 1.6, TorchScript, torch.package and `torch.export`.
//!
//! Reference: `caffe2/serialize/inline_container.cc` (records under one root folder) and
//! `torch/serialization.py`, `_load`.

use std::collections::HashMap;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Storage, Value, Warning};
use weighbridge_core::pickle;
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::zip::{Archive, Method};
use weighbridge_core::{Error, Limits, Result};

use super::read::{PickleBytes, fill, lower, open_nested};
use super::storages::{StorageRequest, Storages, check_key};
use super::{export, torchscript};
use crate::OpenOptions;

/// What kind of torch archive, and the root folder with its slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Save {
        root: String,
    },
    TorchScript {
        root: String,
    },
    Package {
        root: String,
    },
    Export {
        root: String,
    },
    /// `torch.export` before torch 2.6: a state dict file inside the zip.
    OldExport {
        root: String,
    },
}

/// Recognises a torch archive by the records every writer of its kind makes.
pub(super) fn kind(archive: &Archive) -> Option<Kind> {
    let mut pickle_root: Option<String> = None;
    for m in archive.members() {
        let Some(root) = m.name.strip_suffix("data.pkl") else {
            continue;
        };
        let one_folder = root.is_empty() || root.strip_suffix('/').is_some_and(|r| !r.is_empty());
        if one_folder && pickle_root.as_ref().is_none_or(|r| r.len() > root.len()) {
            pickle_root = Some(root.to_owned());
        }
    }
    if let Some(root) = pickle_root {
        let script = archive.by_name(&format!("{root}constants.pkl")).is_some();
        return Some(if script {
            Kind::TorchScript { root }
        } else {
            Kind::Save { root }
        });
    }
    for m in archive.members() {
        let root = |suffix: &str| m.name.strip_suffix(suffix).map(str::to_owned);
        if let Some(root) = root(".data/extern_modules").or_else(|| root(".data/python_version")) {
            return Some(Kind::Package { root });
        }
        if let Some(root) = root("archive_format") {
            return Some(Kind::Export { root });
        }
        if let Some(root) =
            root("serialized_state_dict.pt").or_else(|| root("serialized_state_dict.json"))
        {
            return Some(Kind::OldExport { root });
        }
    }
    None
}

pub(super) fn open(
    source: Arc<dyn ByteSource>,
    options: &OpenOptions,
    depth: u32,
) -> Result<Model> {
    let archive = Archive::open(source, &options.limits)?;
    if !options.lenient {
        archive.strict()?;
    }
    let Some(kind) = kind(&archive) else {
        return Err(Error::unsupported(
            "pytorch.no-pickle",
            "the zip archive holds no data.pkl and none of torch's other records",
        )
        .help("a zip of other files is no checkpoint; unpack it and open the model inside"));
    };
    let mut model = match &kind {
        Kind::Save { root } => open_save(&archive, root, options, depth)?,
        Kind::TorchScript { root } => torchscript::open(&archive, root, options, depth)?,
        Kind::Package { root } => open_package(&archive, root, options, depth)?,
        Kind::Export { root } => export::open(&archive, root, options, depth)?,
        Kind::OldExport { root } => open_old_export(&archive, root, options, depth)?,
    };
    if archive.checksums_off() {
        model.warnings.push(Warning::new(
            "zip.checksums-off",
            "every CRC-32 of the archive is zero: they were switched off, nothing was verified",
        ));
    }
    for (n, what, rule) in [
        (
            archive.prefix_bytes(),
            "lie before the archive",
            "zip.prefix",
        ),
        (
            archive.trailing_bytes(),
            "follow the archive",
            "zip.trailing-data",
        ),
    ] {
        if n > 0 {
            model
                .warnings
                .push(Warning::new(rule, format!("{n} bytes {what}")));
        }
    }
    Ok(model)
}

/// The storages of one folder of records.
pub(super) struct Records<'a> {
    archive: &'a Archive,
    /// What stands before the key, and after it.
    around: (String, &'static str),
    big_endian: bool,
    known: HashMap<String, Arc<Storage>>,
}

impl<'a> Records<'a> {
    pub(super) fn new(
        archive: &'a Archive,
        prefix: String,
        suffix: &'static str,
        big_endian: bool,
    ) -> Self {
        Self {
            archive,
            around: (prefix, suffix),
            big_endian,
            known: HashMap::new(),
        }
    }
}

impl Storages for Records<'_> {
    fn find(&mut self, request: &StorageRequest) -> Result<Arc<Storage>> {
        if let Some(s) = self.known.get(&request.key) {
            return Ok(Arc::clone(s));
        }
        check_key(&request.key)?;
        let name = format!("{}{}{}", self.around.0, request.key, self.around.1);
        let member = self.archive.by_name(&name).ok_or_else(|| {
            Error::malformed(
                "pytorch.missing-storage",
                format!(
                    "the pickle names storage {}, the archive has no {name}",
                    request.key
                ),
            )
        })?;
        let storage = Arc::new(self.archive.storage(member, self.big_endian)?);
        self.known.insert(request.key.clone(), Arc::clone(&storage));
        Ok(storage)
    }
}

/// Reads a small text record.
pub(super) fn text(archive: &Archive, name: &str) -> Result<Option<String>> {
    let Some(member) = archive.by_name(name) else {
        return Ok(None);
    };
    let bytes = archive.read(member, 1 << 16)?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// The byte order record; files before torch 2.1 have none and are little-endian.
pub(super) fn big_endian(archive: &Archive, root: &str) -> Result<bool> {
    match text(archive, &format!("{root}byteorder"))?.as_deref() {
        None | Some("little") => Ok(false),
        Some("big") => Ok(true),
        Some(other) => Err(Error::malformed(
            "pytorch.byteorder",
            format!("the byteorder record says {other:?}; it must be little or big"),
        )),
    }
}

/// Reads a pickle record whole and lowers it.
pub(super) fn lower_record(
    archive: &Archive,
    name: &str,
    storages: &mut dyn Storages,
    options: &OpenOptions,
    depth: u32,
) -> Result<super::lower::Lowered> {
    let member = archive.by_name(name).ok_or_else(|| {
        Error::malformed(
            "pytorch.missing-record",
            format!("the archive has no {name}"),
        )
    })?;
    let data = archive.read(member, options.limits.pickle_bytes)?;
    let base = archive.data_offset(member)?;
    // A deflated pickle can be a thousand times what the file holds of it.
    let mut limits = options.limits.clone();
    let justified = member.stored.saturating_mul(16).saturating_add(1 << 18);
    limits.values = limits.values.min(justified);
    let trace = pickle::run(&data, &limits);
    lower(trace, storages, options, archive.source().len(), depth)
        .map_err(|e| e.shifted(base).within(name))
}

fn open_save(archive: &Archive, root: &str, options: &OpenOptions, depth: u32) -> Result<Model> {
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("zip");
    model.version = text(archive, &format!("{root}version"))?;
    let big = big_endian(archive, root)?;
    if big {
        model
            .metadata
            .push(("byteorder".into(), Value::Str("big".into())));
    }
    let mut records = Records::new(archive, format!("{root}data/"), "", big);
    let low = lower_record(
        archive,
        &format!("{root}data.pkl"),
        &mut records,
        options,
        depth,
    )?;
    fill(&mut model, low);
    Ok(model)
}

/// torch.package: storages under `.data/`, one pickle for each resource.
fn open_package(archive: &Archive, root: &str, options: &OpenOptions, depth: u32) -> Result<Model> {
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("package");
    model.version = text(archive, &format!("{root}.data/version"))?;
    let big = big_endian(archive, root)?;
    let names: Vec<&str> = package_pickles(archive, root);
    let mut records = Records::new(archive, format!("{root}.data/"), ".storage", big);
    let several = names.len() > 1;
    // Every record is read whole: together they must be records of this file, and take no more
    // than one may.
    refuse_overlap(archive, &names)?;
    let mut each = options.clone();
    each.limits.spare_bytes /= names.len().max(1) as u64;
    for name in &names {
        let mut low = lower_record(archive, name, &mut records, &each, depth)?;
        if several {
            // Several resources: each under its own path, so that names stay apart.
            let stem = name.strip_prefix(root).unwrap_or(name);
            let stem = stem.strip_suffix(".pkl").unwrap_or(stem).replace('/', ".");
            if stem.len() > LONGEST_RESOURCE {
                return Err(Error::limit(
                    "pytorch.long-name",
                    format!("the name of a record passes {LONGEST_RESOURCE} bytes"),
                ));
            }
            low = low.prefixed(&stem);
            model.merge_resource(&stem, low);
        } else {
            fill(&mut model, low);
        }
    }
    Ok(model)
}

/// Longest name of a package's resource: every tensor in it gets the name.
const LONGEST_RESOURCE: usize = 1024;

/// Refuses records that lie over each other so much that they hold more than the file does.
fn refuse_overlap(archive: &Archive, names: &[&str]) -> Result<()> {
    let stored = names.iter().filter_map(|n| archive.by_name(n));
    let stored = stored.fold(0u64, |n, m| n.saturating_add(m.stored));
    let have = archive.source().len();
    if stored > have {
        return Err(Error::malformed(
            "zip.overlap",
            format!("records of {stored} bytes in a file of {have}: they lie over each other"),
        ));
    }
    Ok(())
}

fn package_pickles<'a>(archive: &'a Archive, root: &str) -> Vec<&'a str> {
    archive
        .members()
        .iter()
        .map(|m| m.name.as_str())
        .filter(|n| n.ends_with(".pkl") && !n.starts_with(&format!("{root}.data/")))
        .collect()
}

trait MergeResource {
    fn merge_resource(&mut self, key: &str, low: super::lower::Lowered);
}

impl MergeResource for Model {
    fn merge_resource(&mut self, key: &str, low: super::lower::Lowered) {
        self.tensors.extend(low.tensors);
        self.omitted.extend(low.omitted);
        let entry = (Value::Str(key.to_owned()), low.structure.0);
        match &mut self.structure {
            Some(Value::Dict(d)) => d.entries.push(entry),
            other => {
                *other = Some(Value::Dict(weighbridge_core::model::Dict {
                    entries: vec![entry],
                    ..Default::default()
                }));
            }
        }
    }
}

/// `torch.export` before 2.6 keeps the state dict as a complete torch file in a stored member.
fn open_old_export(
    archive: &Archive,
    root: &str,
    options: &OpenOptions,
    depth: u32,
) -> Result<Model> {
    for name in ["serialized_state_dict.pt", "serialized_state_dict.json"] {
        let full = format!("{root}{name}");
        let Some(member) = archive.by_name(&full) else {
            continue;
        };
        // Reading it where it lies inflated takes a place to inflate it to.
        if member.method != Method::Stored && member.size > options.limits.temporary_bytes {
            return Err(Error::unsupported(
                "pytorch.compressed-export",
                "the export's state dict is compressed, and no temporary file may be written",
            )
            .within(full));
        }
        let storage = Arc::new(archive.storage(member, false)?);
        storage.verify()?;
        let (source, base) = storage.random()?;
        let window = weighbridge_core::source::Window::new(
            source,
            base..base + storage.len(),
            archive.source().name(),
        )?;
        let mut model =
            open_nested(Arc::new(window), options, depth + 1).map_err(|e| e.within(full))?;
        model.container = Some("pt2");
        model.parts.clear();
        return Ok(model);
    }
    Err(Error::malformed(
        "pytorch.missing-record",
        "the export archive has no state dict",
    ))
}

/// Every pickle record of the archive.
pub(super) fn pickles(source: &Arc<dyn ByteSource>, limits: &Limits) -> Result<Vec<PickleBytes>> {
    let archive = Archive::open(Arc::clone(source), limits)?;
    let script = matches!(kind(&archive), Some(Kind::TorchScript { .. }));
    let mut out = Vec::new();
    let names = archive.members().iter().map(|m| m.name.as_str());
    let names: Vec<&str> = names.filter(|n| n.ends_with(".pkl")).collect();
    refuse_overlap(&archive, &names)?;
    for m in archive.members() {
        // TorchScript's debug pickles are read by no loader's interpreter of data.
        if !m.name.ends_with(".pkl") {
            continue;
        }
        let data = archive.read(m, limits.pickle_bytes)?;
        out.push(PickleBytes {
            place: m.name.clone(),
            offset: archive.data_offset(m)?,
            data,
            torchscript: script,
        });
    }
    Ok(out)
}
