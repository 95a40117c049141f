//! SavedModels: a folder with `saved_model.pb`, the graphs, `variables/`, a checkpoint, and
//! `assets/`. And graphs in a file of their own: `GraphDef` and `MetaGraphDef`.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{
    FormatId, Model, Part, Storage, StorageData, Value as Meta, Warning,
};
use weighbridge_core::source::{ByteSource, open_file};
use weighbridge_core::wire::protobuf::{Message, Reader, Span, Value};
use weighbridge_core::{Error, Result};

use super::checkpoint::TfCheckpoint;
use super::graph::Walk;
use super::meta::{self, MetaGraph};
use super::proto::{self, Home, NAME};
use super::sniff::{self, Kind};
use crate::OpenOptions;
use crate::format::FormatReader;

/// The file that makes a folder a SavedModel.
pub(crate) const NAME_OF_FILE: &str = "saved_model.pb";

/// Deepest folder among the assets that is listed, and most files.
const MOST_DEEP: u32 = 8;
const MOST_FILES: usize = 100_000;

/// Opens a graph: a SavedModel with its variables, or one on its own.
///
/// # Errors
/// What reading gives; what the file breaks.
pub(super) fn open(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let name = source.name().to_owned();
    read(source, options)
        .map(|(model, _)| model)
        .map_err(|e| e.in_file(name))
}

/// The model, and what is wrong with its constants without stopping anything.
///
/// # Errors
/// What reading gives; what the file breaks.
pub(super) fn read(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
) -> Result<(Model, Vec<Error>)> {
    let file = file_name(source.as_ref());
    let kind = sniff::kind(source.as_ref(), &file.to_ascii_lowercase())?;
    let named = match file.as_str() {
        NAME_OF_FILE => Some(Kind::SavedModel),
        _ if file.ends_with(".meta") => Some(Kind::MetaGraph),
        _ => Some(Kind::Graph),
    };
    let whole = Span::of(source.as_ref());
    let mut walk = walk(source, options, kind == Some(Kind::SavedModel))?;
    match kind.or(named) {
        Some(Kind::SavedModel) => saved_model(source, walk, options),
        Some(Kind::MetaGraph) => {
            let found = meta::read(&mut walk, whole)?;
            let mut model = Model::new(FormatId::GraphDef);
            model.container = Some("meta");
            model.metadata = found.metadata();
            model.graph = Some(found.graph);
            finish(model, source, walk, options, true)
        }
        Some(Kind::Graph) => {
            let (graph, producer) = walk.graph(whole)?;
            let mut model = Model::new(FormatId::GraphDef);
            model.version = producer.map(|n| n.to_string());
            model.graph = Some(graph);
            finish(model, source, walk, options, true)
        }
        _ => Err(Error::unsupported(
            "tensorflow.no-graph",
            "this is no graph of TensorFlow but what lies beside one",
        )
        .help("name the folder of the model, or its saved_model.pb")),
    }
}

fn walk<'s>(
    source: &'s Arc<dyn ByteSource>,
    options: &OpenOptions,
    saved: bool,
) -> Result<Walk<'s>> {
    let data = StorageData::Raw {
        source: Arc::clone(source),
        offset: 0,
        checksum: None,
    };
    let home = Home {
        source: Arc::clone(source),
        storage: Arc::new(Storage::new("graph", source.len(), false, data)?.into_region()),
        base: 0,
    };
    let reader = Reader::new(source.as_ref(), options.limits.values);
    // The weights of a frozen graph may lie in its functions; a SavedModel keeps them beside.
    Ok(Walk::new(reader, home, options.constants || !saved))
}

fn file_name(source: &dyn ByteSource) -> String {
    let name = source.name().rsplit(['/', '\\']).next();
    name.unwrap_or_default().to_owned()
}

/// Puts together what a graph gave.
fn finish(
    mut model: Model,
    source: &Arc<dyn ByteSource>,
    walk: Walk<'_>,
    options: &OpenOptions,
    constants: bool,
) -> Result<(Model, Vec<Error>)> {
    model.parts.insert(0, part(source.as_ref()));
    if constants {
        proto::check_expansion(&walk.constants, &options.limits, source.len())?;
        model.tensors.extend(walk.constants);
    }
    for e in &walk.faults {
        let message = format!("a constant is left out: {e}");
        model.warnings.push(Warning::new(e.rule(), message));
    }
    Ok((model, walk.faults))
}

fn part(source: &dyn ByteSource) -> Part {
    Part {
        path: source.name().into(),
        bytes: source.len(),
    }
}

fn saved_model(
    source: &Arc<dyn ByteSource>,
    mut walk: Walk<'_>,
    options: &OpenOptions,
) -> Result<(Model, Vec<Error>)> {
    let mut version = None;
    let mut graphs: Vec<MetaGraph> = Vec::new();
    let mut message = Message::new(Span::of(source.as_ref()));
    while let Some(f) = walk.reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Varint(n)) => version = Some(n),
            (2, Value::Bytes(graph)) => graphs.push(meta::read(&mut walk, graph)?),
            _ => {}
        }
    }
    let mut model = match variables(source.as_ref(), options)? {
        Some(mut variables) => {
            variables.format = FormatId::SavedModel;
            variables.container = None;
            variables
        }
        None => Model::new(FormatId::SavedModel),
    };
    model.version = version.map(|n| n.to_string());
    let others = graphs.len().saturating_sub(1);
    let mut graphs = graphs.into_iter();
    if let Some(first) = graphs.next() {
        model.metadata = first.metadata();
        model.graph = Some(first.graph);
    }
    if others > 0 {
        let tags: Vec<String> = graphs.map(|g| g.tags.join(",")).collect();
        let message = format!(
            "the model has {others} further graphs, which are not shown: {}",
            tags.join("; ")
        );
        model
            .warnings
            .push(Warning::new("tensorflow.more-graphs", message));
    }
    beside(source.as_ref(), &mut model)?;
    finish(model, source, walk, options, options.constants)
}

/// The checkpoint of the variables, where the model lies in a folder of its own.
fn variables(source: &dyn ByteSource, options: &OpenOptions) -> Result<Option<Model>> {
    if file_name(source) != NAME_OF_FILE {
        return Ok(None);
    }
    let index = Path::new(source.name()).with_file_name("variables");
    let index = index.join("variables.index");
    if !index.is_file() {
        return Ok(None);
    }
    let source = open_file(&index, options.backend)?;
    TfCheckpoint.open(source, options).map(Some)
}

/// Lists the files that belong to the model, and what its fingerprint says.
fn beside(source: &dyn ByteSource, model: &mut Model) -> Result<()> {
    if file_name(source) != NAME_OF_FILE {
        return Ok(());
    }
    let folder = Path::new(source.name());
    for name in ["fingerprint.pb", "keras_metadata.pb"] {
        let path = folder.with_file_name(name);
        if let Ok(m) = std::fs::metadata(&path)
            && m.is_file()
        {
            model.parts.push(Part {
                path: path.clone(),
                bytes: m.len(),
            });
            if name == "fingerprint.pb"
                && let Some(said) = fingerprint(&path)
            {
                model.metadata.push(("fingerprint".into(), said));
            }
        }
    }
    for name in ["assets", "assets.extra"] {
        list(&folder.with_file_name(name), 0, model);
    }
    Ok(())
}

/// The regular files in a folder of assets. Links are not followed.
fn list(folder: &Path, depth: u32, model: &mut Model) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut all: Vec<_> = entries.flatten().take(MOST_FILES).collect();
    all.sort_by_key(std::fs::DirEntry::file_name);
    for e in all {
        let Ok(m) = e.path().symlink_metadata() else {
            continue;
        };
        if m.is_file() && model.parts.len() < MOST_FILES {
            model.parts.push(Part {
                path: e.path(),
                bytes: m.len(),
            });
        } else if m.is_dir() && depth < MOST_DEEP {
            list(&e.path(), depth + 1, model);
        }
    }
}

/// A `FingerprintDef` (`tensorflow/core/protobuf/fingerprint.proto`).
fn fingerprint(path: &Path) -> Option<Meta> {
    const KEYS: [&str; 5] = [
        "saved_model_checksum",
        "graph_def_program_hash",
        "signature_def_hash",
        "saved_object_graph_hash",
        "checkpoint_hash",
    ];
    let source = open_file(path, Default::default()).ok()?;
    let mut reader = Reader::new(source.as_ref(), 1000);
    let mut message = Message::new(Span::of(source.as_ref()));
    let mut entries = Vec::new();
    while let Some(f) = reader.next(&mut message).ok()? {
        let key = f.number.checked_sub(1).and_then(|n| KEYS.get(n as usize));
        match (key, f.number, f.value) {
            (Some(key), _, Value::Varint(n)) => {
                let text = Meta::Str(format!("{n:016x}"));
                entries.push((Meta::Str((*key).into()), text));
            }
            (_, 7, Value::Bytes(s)) => {
                let text = reader.text(s, NAME).ok()?;
                entries.push((Meta::Str("uuid".into()), Meta::Str(text)));
            }
            _ => {}
        }
    }
    Some(Meta::Dict(weighbridge_core::model::Dict {
        entries,
        ..Default::default()
    }))
}
