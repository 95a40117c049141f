//! Opening what Keras writes: the archive and its HDF5 file, an HDF5 file by itself, and weights
//! in several files with their list.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};
use std::sync::Arc;

use serde_json::Value as Json;
use weighbridge_core::model::{
    Checksum, FormatId, Model, Part, Storage, StorageData, TensorSource, Value, Warning,
};
use weighbridge_core::source::{self, ByteSource, Window};
use weighbridge_core::wire::zip::{Archive, Member, Method};
use weighbridge_core::{Error, ErrorKind, Limits, Result};

use super::labels::{Named, labels};
use super::{legacy, optimizer, stored};
use crate::OpenOptions;
use crate::format::hdf5;
use crate::format::hdf5::write::LAYER_CLASS;

/// The configuration of the model.
pub(crate) const CONFIG: &str = "config.json";

/// Who wrote the archive, and when.
pub(crate) const METADATA: &str = "metadata.json";

/// The weights, in one file or in several that the other lists.
pub(crate) const WEIGHTS: &str = "model.weights.h5";
pub(crate) const SHARDS: &str = "model.weights.json";

/// Where layers keep files of their own.
pub(crate) const ASSETS: &str = "assets/";

/// Whether an archive is Keras'.
pub(crate) fn is_archive(archive: &Archive) -> bool {
    let has = |name| archive.by_name(name).is_some();
    has(CONFIG) && (has(WEIGHTS) || has(SHARDS) || has("model.weights.npz"))
}

/// Opens an archive, an HDF5 file, or the list of several.
pub(super) fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let mut head = [0u8; 4];
    if source.len() >= 4 {
        source.read_at(0, &mut head)?;
    }
    if head.starts_with(b"PK") {
        return open_archive(source, options);
    }
    if source.name().ends_with(".json") {
        return open_shards(source, options);
    }
    let mut model = hdf5::read::open(source, &options.limits)?;
    refine(&mut model, &options.limits);
    Ok(model)
}

/// Makes a model of Keras of a model of HDF5, if it is one: its format, what its weights are.
pub(crate) fn refine(model: &mut Model, limits: &Limits) {
    if stored::is_tree(model) {
        model.format = FormatId::Keras;
        model.container = Some("weights.h5");
        let groups = stored::groups(model);
        let names = stored::names(model, &groups);
        apply(model, names);
    } else if legacy::is_legacy(model) {
        model.format = FormatId::Keras;
        model.container = Some("h5");
        let text = |key: &str| {
            let found = model.metadata.iter().find(|(k, _)| k == key);
            found.and_then(|(_, v)| v.as_str())
        };
        let version = text("keras_version").or_else(|| text("model_weights@keras_version"));
        model.version = version.map(str::to_owned);
        let config = text("model_config").map(|t| parse("model_config", t.as_bytes(), limits));
        let (config, warning) = match config {
            Some(Ok(config)) => (Some(config), None),
            Some(Err(e)) => (None, Some(Warning::new(e.rule(), e.message()))),
            None => (None, None),
        };
        let names = legacy::names(model, config.as_ref());
        model.warnings.extend(warning);
        apply(model, names);
    }
}

/// Tells the tensors what they are.
fn apply(model: &mut Model, names: HashMap<usize, Named>) {
    for (i, named) in names {
        let Some(t) = model.tensors.get_mut(i) else {
            continue;
        };
        let extra = t.extra_mut();
        if named.label.is_some() {
            extra.label = named.label;
        }
        if !named.class.is_empty() {
            let class = Value::Str(named.class);
            extra.attributes.retain(|(k, _)| k != LAYER_CLASS);
            extra.attributes.push((LAYER_CLASS.into(), class));
        }
    }
}

/// Reads JSON as Python does.
pub(super) fn parse(what: &str, bytes: &[u8], limits: &Limits) -> Result<Json> {
    Limits::check(
        bytes.len() as u64,
        limits.text_bytes,
        "keras.config-size",
        what,
    )?;
    let bad = |why: String| Error::malformed("keras.bad-json", format!("{what}: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
    crate::json::parse(text).map_err(|e| bad(e.to_string()))
}

fn open_archive(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let limits = &options.limits;
    let archive = Archive::open(Arc::clone(&source), limits)?;
    archive.strict()?;
    let config = text_member(&archive, CONFIG, limits)?
        .ok_or_else(|| missing(CONFIG, "the configuration of the model"))?;
    let json = parse(CONFIG, config.as_bytes(), limits).map_err(|e| e.within(CONFIG))?;
    let metadata = text_member(&archive, METADATA, limits)?;
    let mut model = weights(&archive, limits)?;
    let version = match &metadata {
        Some(text) => parse(METADATA, text.as_bytes(), limits)
            .map_err(|e| e.within(METADATA))?
            .get("keras_version")
            .and_then(Json::as_str)
            .map(str::to_owned),
        None => {
            let message = format!("the archive has no {METADATA}");
            model
                .warnings
                .push(Warning::new("keras.missing-member", message));
            None
        }
    };
    name_by_config(&mut model, &json);
    let mut own = vec![(CONFIG.to_owned(), Value::Str(config))];
    own.extend(metadata.map(|text| (METADATA.to_owned(), Value::Str(text))));
    let assets = archive.members().iter().map(|m| m.name.as_str());
    let assets: Vec<Value> = assets
        .filter(|n| n.starts_with(ASSETS) && !n.ends_with('/'))
        .map(|n| Value::Str(n.to_owned()))
        .collect();
    if !assets.is_empty() {
        own.push(("assets".to_owned(), Value::List(assets)));
    }
    own.append(&mut model.metadata);
    model.metadata = own;
    model.format = FormatId::Keras;
    model.container = Some("keras");
    model.version = version;
    model.parts = vec![Part {
        path: source.name().into(),
        bytes: source.len(),
    }];
    Ok(model)
}

fn missing(name: &str, what: &str) -> Error {
    let message = format!("the archive has no {name}, {what}");
    Error::malformed("keras.missing-member", message)
}

fn text_member(archive: &Archive, name: &str, limits: &Limits) -> Result<Option<String>> {
    let Some(member) = archive.by_name(name) else {
        return Ok(None);
    };
    let bytes = archive.read(member, limits.text_bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::malformed("keras.bad-json", format!("{name} is no UTF-8")).within(name)
    })?;
    Ok(Some(text))
}

/// The weights of an archive.
fn weights(archive: &Archive, limits: &Limits) -> Result<Model> {
    if let Some(member) = archive.by_name(WEIGHTS) {
        return member_model(archive, member, limits);
    }
    if let Some(list) = archive.by_name(SHARDS) {
        let bytes = archive.read(list, limits.text_bytes)?;
        let list = parse(SHARDS, &bytes, limits)?;
        return merged(&list, limits, &|name| {
            let member = archive
                .by_name(name)
                .ok_or_else(|| missing(name, "a part of the weights"))?;
            member_model(archive, member, limits)
        });
    }
    if archive.by_name("model.weights.npz").is_some() {
        let message = "the weights are in model.weights.npz, an experimental form of Keras";
        return Err(Error::unsupported("keras.npz-weights", message)
            .help("unpack the archive and open model.weights.npz"));
    }
    Err(missing(WEIGHTS, "the weights"))
}

/// The HDF5 file that `member` is. What views of it read is checked against the archive's
/// checksum, all of it, once.
fn member_model(archive: &Archive, member: &Member, limits: &Limits) -> Result<Model> {
    let (inner, checksum) = member_source(archive, member, limits)?;
    let mut model = hdf5::read::open(inner, limits).map_err(|e| e.within(member.name.as_str()))?;
    if let Some(checksum) = checksum {
        checked(&mut model, checksum)?;
    }
    Ok(model)
}

/// The bytes of a member: a window of the archive, or, of a deflated one, what it inflates to. The
/// checksum, where it is still to be verified.
pub(crate) fn member_source(
    archive: &Archive,
    member: &Member,
    limits: &Limits,
) -> Result<(Arc<dyn ByteSource>, Option<Checksum>)> {
    if member.method != Method::Stored {
        // It goes to a temporary file: an archive of nothing must not fill the disk.
        let cap = limits.expand_cap(archive.source().len());
        let most = cap.min(limits.temporary_bytes);
        let what = "bytes of the inflated member";
        Limits::check(member.size, most, "keras.temporary", what).map_err(|e| {
            e.within(member.name.as_str())
                .help("raise the cap with --max-expand if the file is trusted")
        })?;
    }
    let storage = archive.storage(member, false)?;
    let (source, at) = storage.random()?;
    let name = format!("{} → {}", archive.source().name(), member.name);
    let end = at.saturating_add(storage.len());
    let window: Arc<dyn ByteSource> = Arc::new(Window::new(source, at..end, name)?);
    let due = member.method == Method::Stored && !archive.checksums_off();
    Ok((window, due.then_some(Checksum::Crc32(member.crc32))))
}

/// Has the storages of `model`, which are the whole of one source, verified by `checksum`.
fn checked(model: &mut Model, checksum: Checksum) -> Result<()> {
    let mut made: HashMap<*const Storage, Arc<Storage>> = HashMap::new();
    for t in &mut model.tensors {
        let TensorSource::View(view) = &mut t.source else {
            continue;
        };
        let key = Arc::as_ptr(&view.storage);
        if let Some(new) = made.get(&key) {
            view.storage = Arc::clone(new);
            continue;
        }
        let StorageData::Raw { source, offset, .. } = view.storage.data() else {
            continue;
        };
        let data = StorageData::Raw {
            source: Arc::clone(source),
            offset: *offset,
            checksum: Some(checksum),
        };
        let old = &view.storage;
        let new = Storage::new(old.name(), old.len(), old.is_big_endian(), data)?;
        let new = Arc::new(new.into_region());
        made.insert(key, Arc::clone(&new));
        view.storage = new;
    }
    Ok(())
}

/// Labels weights by the configuration of their model.
fn name_by_config(model: &mut Model, config: &Json) {
    let groups = stored::groups(model);
    let found = labels(config, &groups);
    let optimizer_config = config
        .get("compile_config")
        .and_then(|c| c.get("optimizer"));
    let inner = optimizer_config
        .and_then(|c| c.get("config"))
        .and_then(|c| c.get("inner_optimizer"));
    let mut names = found.names;
    for (config, group) in [
        (optimizer_config, "optimizer"),
        (inner, "optimizer/inner_optimizer"),
    ] {
        if let (Some(config), Some(stored)) = (config, groups.get(group)) {
            let values = optimizer::names(config, stored, found.trained.as_deref());
            for (s, label) in stored.iter().zip(values) {
                let class = String::new();
                names.insert(s.tensor, Named { label, class });
            }
        }
    }
    apply(model, names);
}

/// The list of weights in several files, which lie beside it.
fn open_shards(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let limits = &options.limits;
    Limits::check(
        source.len(),
        limits.text_bytes,
        "keras.config-size",
        "bytes of the list",
    )?;
    let bytes = source.read_vec(0..source.len())?;
    let list = parse("the list of weights", &bytes, limits)?;
    let path = Path::new(source.name());
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut model = merged(&list, limits, &|name| {
        let file = source::open_file(&folder.join(name), options.backend)?;
        hdf5::read::open(file, limits)
    })?;
    refine(&mut model, limits);
    model.container = Some("weights.json");
    model.parts.push(Part {
        path: path.to_owned(),
        bytes: source.len(),
    });
    Ok(model)
}

/// The files that a list names, in order.
pub(super) fn shard_names(list: &Json) -> Result<BTreeSet<String>> {
    let bad = |what: &str| Err(Error::malformed("keras.bad-weight-map", what.to_owned()));
    let Some(map) = list.get("weight_map").and_then(Json::as_object) else {
        return bad("the list has no `weight_map`");
    };
    let mut names = BTreeSet::new();
    for value in map.values() {
        let all = match value {
            Json::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for name in all {
            let Some(name) = name.as_str() else {
                return bad("the list names a file by something else than text");
            };
            // What a list says is no way out of its folder, on whatever system.
            let mut steps = Path::new(name).components();
            let plain = matches!(
                (steps.next(), steps.next()),
                (Some(Component::Normal(_)), None)
            );
            if !plain || name.contains(['/', '\\', ':']) {
                return bad("the list names a file in another folder");
            }
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// The weights of all files of a list as one model.
fn merged(list: &Json, limits: &Limits, open: &dyn Fn(&str) -> Result<Model>) -> Result<Model> {
    let names = shard_names(list)?;
    Limits::check(
        names.len() as u64,
        limits.parts,
        "keras.shards",
        "files of weights",
    )?;
    let mut all = Model::new(FormatId::Keras);
    let (mut tensors, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for name in &names {
        let part = open(name).map_err(|e| match e.kind() {
            ErrorKind::Io => e,
            _ => e.in_file(name.as_str()),
        })?;
        for t in part.tensors {
            if !tensors.insert(t.name.clone()) {
                let message = format!("{} is in two files", t.name);
                return Err(Error::malformed("keras.duplicate-weight", message));
            }
            all.tensors.push(t);
        }
        let new = part.metadata.into_iter();
        all.metadata
            .extend(new.filter(|(k, _)| keys.insert(k.clone())));
        all.warnings.extend(part.warnings);
        all.parts.extend(part.parts);
    }
    Ok(all)
}
