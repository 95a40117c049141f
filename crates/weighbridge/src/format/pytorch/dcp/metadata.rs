//! The `.metadata` pickle, read as data: what is saved, in which boxes, and where each box lies.
//!
//! Reference: `torch/distributed/checkpoint/metadata.py` and `filesystem.py` (`_StorageInfo`).
//! The classes moved and grew fields over the versions; fields are found by name, and of tensor
//! properties only what all versions agree on is used.

use std::collections::HashMap;

use weighbridge_core::model::{DType, Shape};
use weighbridge_core::pickle::{Node, NodeId, Trace};
use weighbridge_core::{Error, Limits, Result};

use super::super::{dtype, folder};

/// Longest name of an entry, in bytes.
const LONGEST_NAME: usize = 64 << 10;
/// Most boxes one tensor may be cut into; more than any cluster has ranks.
const MOST_CHUNKS: usize = 20_000;

/// Where the bytes of one item lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Index into [`Metadata::files`].
    pub file: usize,
    pub offset: u64,
    pub len: u64,
}

/// One box of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub start: Shape,
    pub shape: Shape,
    pub place: Place,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A Python object, saved by `torch.save`.
    Object(Place),
    Tensor {
        dtype: DType,
        shape: Shape,
        chunks: Vec<Chunk>,
    },
}

/// One step from the root of the state dict to a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// One entry of the flattened state dict.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    /// Where it belongs in the nested state dict.
    pub path: Vec<Step>,
    pub kind: Kind,
}

/// The whole file.
#[derive(Debug)]
pub(super) struct Metadata {
    pub entries: Vec<Entry>,
    /// The files the items lie in, in the order of their first use.
    pub files: Vec<String>,
    pub version: Option<String>,
}

fn bad<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::malformed("dcp.bad-metadata", message))
}

/// Reads a finished trace of `.metadata`.
///
/// # Errors
/// `Malformed` (`dcp.*`) for anything that is not as torch writes it, `Unsupported` for transforms
/// and layouts that cannot be read.
pub(super) fn read(trace: &Trace<'_>, limits: &Limits) -> Result<Metadata> {
    let Some(root) = trace.root else {
        return bad("the pickle gives no value");
    };
    let class = class_of(trace, root);
    if !class.as_deref().is_some_and(|c| c.ends_with(".Metadata")) {
        return bad(format!(
            "the pickle should hold a checkpoint's Metadata, it holds {}",
            trace.render(root, 60)
        ));
    }
    let mut reader = Reader {
        trace,
        limits,
        names: HashMap::new(),
        ids: HashMap::new(),
        files: Vec::new(),
        file_ids: HashMap::new(),
        file_names: HashMap::new(),
        stored: HashMap::new(),
        paths: HashMap::new(),
        chunks_left: 0,
    };
    reader.storage(attr(trace, root, "storage_data"))?;
    reader.planner(attr(trace, root, "planner_data"));
    let entries = reader.entries(attr(trace, root, "state_dict_metadata"))?;
    let version = attr(trace, root, "version").and_then(|v| trace.text(v).map(|t| t.into_owned()));
    Ok(Metadata {
        entries,
        files: reader.files,
        version,
    })
}

/// The field `name` of a dataclass instance: the last state it was given.
fn attr(trace: &Trace<'_>, id: NodeId, name: &str) -> Option<NodeId> {
    let Node::Call(c) = trace.node(id) else {
        return None;
    };
    trace.spend(c.states.len().saturating_mul(8));
    c.states.iter().rev().find_map(|&state| {
        if let Some(pairs) = trace.dict(state) {
            return trace.lookup(pairs, name);
        }
        // `(__dict__, slots)`.
        let [dict, slots] = *trace.items(state)? else {
            return None;
        };
        let within = |id| trace.lookup(trace.dict(id)?, name);
        within(slots).or_else(|| within(dict))
    })
}

/// The class that a call makes an instance of.
fn class_of(trace: &Trace<'_>, id: NodeId) -> Option<String> {
    let Node::Call(c) = trace.node(id) else {
        return None;
    };
    let name = trace.global_name(c.callee)?;
    if name == "copyreg._reconstructor" || name == "copy_reg._reconstructor" {
        return trace.global_name(*trace.items(c.args)?.first()?);
    }
    Some(name)
}

struct Reader<'t> {
    trace: &'t Trace<'t>,
    limits: &'t Limits,
    /// Names already met, by node: pickles share the node of a repeated string.
    names: HashMap<NodeId, u32>,
    ids: HashMap<String, u32>,
    files: Vec<String>,
    file_ids: HashMap<NodeId, usize>,
    file_names: HashMap<String, usize>,
    stored: HashMap<(u32, Option<Shape>), Place>,
    paths: HashMap<u32, NodeId>,
    /// Chunks that may still come: lists can be shared inside a pickle, stored items cannot.
    chunks_left: usize,
}

impl Reader<'_> {
    /// The number of a name.
    fn name(&mut self, id: NodeId) -> Result<u32> {
        if let Some(&n) = self.names.get(&id) {
            return Ok(n);
        }
        let Some(text) = self.trace.text(id) else {
            return bad("the name of an entry is no text");
        };
        if text.len() > LONGEST_NAME {
            return Err(Error::limit(
                "dcp.long-name",
                "the name of an entry passes 64 KiB",
            ));
        }
        let next = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let n = *self.ids.entry(text.into_owned()).or_insert(next);
        self.names.insert(id, n);
        Ok(n)
    }

    /// `storage_data`: which item lies where.
    fn storage(&mut self, id: Option<NodeId>) -> Result<()> {
        let trace = self.trace;
        let Some(pairs) = id.and_then(|id| trace.dict(id)) else {
            return bad("storage_data is no mapping");
        };
        self.chunks_left = pairs.len().saturating_mul(4).saturating_add(64);
        for &(key, info) in pairs {
            trace.check_work()?;
            let Some(fqn) = attr(trace, key, "fqn") else {
                return bad("a key of storage_data has no fqn");
            };
            let name = self.name(fqn)?;
            let offset = match attr(trace, key, "offset").map(|o| (o, trace.node(o))) {
                None | Some((_, Node::None)) => None,
                Some((o, _)) => Some(self.dims(o, "offset")?),
            };
            let place = self.place(info)?;
            self.stored.insert((name, offset), place);
        }
        Ok(())
    }

    /// One `_StorageInfo`.
    fn place(&mut self, info: NodeId) -> Result<Place> {
        let trace = self.trace;
        let Some(path) = attr(trace, info, "relative_path") else {
            return bad("a storage entry has no relative_path");
        };
        let transforms = attr(trace, info, "transform_descriptors");
        let plain = |t: NodeId| match trace.node(t) {
            Node::None => true,
            _ => trace.items(t).is_some_and(<[NodeId]>::is_empty),
        };
        if let Some(t) = transforms.filter(|&t| !plain(t)) {
            return Err(Error::unsupported(
                "dcp.transform",
                format!("items are stored through {}", trace.render(t, 60)),
            )
            .help("load the checkpoint with torch and save it without transforms"));
        }
        let number = |name: &str| {
            attr(trace, info, name)
                .and_then(|n| trace.int(n))
                .and_then(|n| u64::try_from(n).ok())
        };
        let (Some(offset), Some(len)) = (number("offset"), number("length")) else {
            return bad("a storage entry has no offset and length");
        };
        let file = match self.file_ids.get(&path) {
            Some(&f) => f,
            None => {
                let f = self.file(path)?;
                self.file_ids.insert(path, f);
                f
            }
        };
        Ok(Place { file, offset, len })
    }

    fn file(&mut self, path: NodeId) -> Result<usize> {
        let name = self.trace.text(path).unwrap_or_default();
        if !folder::is_plain_name(&name) {
            return Err(Error::malformed(
                "dcp.unsafe-path",
                format!(
                    "an item should lie in a file of this folder, it names {}",
                    self.trace.render(path, 100)
                ),
            )
            .help("no version of torch writes such paths; do not load this checkpoint with other tools"));
        }
        if let Some(&i) = self.file_names.get(name.as_ref()) {
            return Ok(i);
        }
        Limits::check(
            self.files.len() as u64 + 1,
            self.limits.parts,
            "dcp.too-many-files",
            "files of a checkpoint",
        )?;
        let i = self.files.len();
        self.file_names.insert(name.to_string(), i);
        self.files.push(name.into_owned());
        Ok(i)
    }

    /// `planner_data`: the path of each name in the nested state dict. Another planner's data is
    /// passed over; the names then stay as they are.
    fn planner(&mut self, id: Option<NodeId>) {
        let trace = self.trace;
        for &(key, path) in id.and_then(|id| trace.dict(id)).unwrap_or_default() {
            // The names then stay as they are; whoever reads on is told.
            if trace.check_work().is_err() {
                return;
            }
            if let Ok(name) = self.name(key) {
                self.paths.insert(name, path);
            }
        }
    }

    /// The steps to entry `name`. torch joins them with dots to make the name, so a path that does
    /// not spell the name is none of torch's, and the name itself is the only step then.
    fn path(&self, name: u32, text: &str) -> Vec<Step> {
        let whole = || vec![Step::Key(text.to_owned())];
        let items = self.paths.get(&name).and_then(|&p| self.trace.items(p));
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            return whole();
        };
        if items.len() > self.limits.depth as usize {
            return whole();
        }
        let mut steps = Vec::with_capacity(items.len());
        let mut rest = Some(text);
        for &item in items {
            let Some(left) = rest else { return whole() };
            let (step, used) = match (self.trace.node(item), self.trace.text(item)) {
                (Node::Int(i), _) => match usize::try_from(*i) {
                    Ok(n) if left.starts_with(&n.to_string()) => {
                        (Step::Index(n), n.to_string().len())
                    }
                    _ => return whole(),
                },
                (_, Some(t)) if left.starts_with(t.as_ref()) => {
                    let n = t.len();
                    (Step::Key(t.into_owned()), n)
                }
                _ => return whole(),
            };
            steps.push(step);
            let after = left.get(used..).unwrap_or_default();
            rest = match after.strip_prefix('.') {
                Some(more) => Some(more),
                None if after.is_empty() => None,
                None => return whole(),
            };
        }
        if rest.is_some() || matches!(steps.first(), Some(Step::Index(_))) {
            return whole();
        }
        steps
    }

    /// `state_dict_metadata`, in its order.
    fn entries(&mut self, id: Option<NodeId>) -> Result<Vec<Entry>> {
        let trace = self.trace;
        let Some(pairs) = id.and_then(|id| trace.dict(id)) else {
            return bad("state_dict_metadata is no mapping");
        };
        // A key set again keeps its place and takes the later value, as in Python.
        let mut order: Vec<(u32, NodeId)> = Vec::new();
        let mut slots: HashMap<u32, usize> = HashMap::new();
        for &(key, value) in pairs {
            let name = self.name(key)?;
            let slot = *slots.entry(name).or_insert(order.len());
            match order.get_mut(slot) {
                Some(old) => old.1 = value,
                None => order.push((name, value)),
            }
        }
        let mut texts: HashMap<u32, &str> = HashMap::with_capacity(self.ids.len());
        let ids = std::mem::take(&mut self.ids);
        for (text, &n) in &ids {
            texts.insert(n, text);
        }
        let mut out = Vec::with_capacity(order.len());
        for (name, value) in order {
            trace.check_work()?;
            let text = texts.get(&name).copied().unwrap_or_default();
            let kind = self
                .kind(name, value)
                .map_err(|e| e.within(format!("entry {text:?}")))?;
            out.push(Entry {
                name: text.to_owned(),
                path: self.path(name, text),
                kind,
            });
        }
        Ok(out)
    }

    fn kind(&mut self, name: u32, value: NodeId) -> Result<Kind> {
        let trace = self.trace;
        let class = class_of(trace, value).unwrap_or_default();
        if class.ends_with(".BytesStorageMetadata") {
            return match self.stored.get(&(name, None)) {
                Some(&place) => Ok(Kind::Object(place)),
                None => self.missing(),
            };
        }
        if !class.ends_with(".TensorStorageMetadata") {
            return bad(format!(
                "it should be a tensor or bytes, it is {}",
                trace.render(value, 60)
            ));
        }
        let Some(size) = attr(trace, value, "size") else {
            return bad("the tensor has no size");
        };
        let shape = self.dims(size, "size")?;
        let dtype = self.dtype(attr(trace, value, "properties"))?;
        let Some(list) = attr(trace, value, "chunks").and_then(|c| trace.items(c)) else {
            return bad("the tensor has no list of chunks");
        };
        if list.len() > MOST_CHUNKS || list.len() > self.chunks_left {
            return Err(Error::limit(
                "dcp.too-many-chunks",
                format!("the tensor is cut into {} parts", list.len()),
            ));
        }
        self.chunks_left -= list.len();
        let mut chunks: Vec<Chunk> = Vec::with_capacity(list.len());
        let mut seen: HashMap<Shape, Shape> = HashMap::new();
        for &c in list {
            trace.check_work()?;
            let dims = |field: &str| match attr(trace, c, field) {
                Some(id) => self.dims(id, field),
                None => bad(format!("a chunk has no {field}")),
            };
            let (start, extent) = (dims("offsets")?, dims("sizes")?);
            // Old planners list a replicated box once for each rank.
            if seen.insert(start.clone(), extent.clone()).as_ref() == Some(&extent) {
                continue;
            }
            let Some(&place) = self.stored.get(&(name, Some(start.clone()))) else {
                return self.missing();
            };
            chunks.push(Chunk {
                start,
                shape: extent,
                place,
            });
        }
        Ok(Kind::Tensor {
            dtype,
            shape,
            chunks,
        })
    }

    fn missing<T>(&self) -> Result<T> {
        Err(Error::malformed(
            "dcp.missing-item",
            "no file is named where the item lies",
        ))
    }

    /// The dtype of tensor properties: the first of a state tuple, or a field.
    fn dtype(&self, properties: Option<NodeId>) -> Result<DType> {
        let trace = self.trace;
        let state = match properties.map(|p| trace.node(p)) {
            Some(Node::Call(c)) => c.states.last().copied(),
            _ => None,
        };
        let field = |i: usize, name: &str| {
            let state = state?;
            match trace.dict(state) {
                Some(d) => trace.lookup(d, name),
                None => trace.items(state)?.get(i).copied(),
            }
        };
        let layout = field(1, "layout").map(|l| trace.render(l, 80));
        if layout.is_some_and(|l| l.contains("sparse") || l.contains("mkldnn")) {
            return Err(Error::unsupported(
                "dcp.layout",
                "the tensor's layout is not strided",
            ));
        }
        match field(0, "dtype").and_then(|d| trace.global(d)) {
            Some(g) if g.module == "torch" => dtype::of_name(&g.name).ok_or_else(|| {
                Error::unsupported(
                    "pytorch.dtype",
                    format!("torch.{} has no element type here", g.name),
                )
            }),
            _ => bad("the tensor has no dtype"),
        }
    }

    /// A `torch.Size`, tuple or list of counts.
    fn dims(&self, id: NodeId, what: &str) -> Result<Shape> {
        let trace = self.trace;
        let items = match trace.node(id) {
            Node::Call(c) => trace
                .items(c.args)
                .and_then(|a| a.first())
                .and_then(|&a| trace.items(a)),
            _ => trace.items(id),
        };
        let Some(items) = items else {
            return bad(format!("the {what} of a tensor is no tuple"));
        };
        if items.len() > 64 {
            return bad(format!(
                "a tensor has {} dimensions, torch allows 64",
                items.len()
            ));
        }
        items
            .iter()
            .map(|&i| match trace.int(i).map(u64::try_from) {
                Some(Ok(n)) => Ok(n),
                _ => bad(format!(
                    "the {what} of a tensor holds {}, which is no count",
                    trace.render(i, 40)
                )),
            })
            .collect()
    }
}
