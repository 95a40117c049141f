//! From the pickle machine's trace to tensors and the structure tree.

use std::collections::HashMap;
use std::rc::Rc;

use weighbridge_core::model::{Dict, Object, Tensor, TensorSource, Value, View};
use weighbridge_core::pickle::{Blob, Call, Node, NodeId, Trace};
use weighbridge_core::{Error, Limits, Result};

use super::arrays::{self, Arrays};
use super::storages::{self, StorageRef, Storages};
use super::{dtype, numpy, objects};

/// What one pickle gave.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub tensors: Vec<Tensor>,
    pub structure: Value2,
    /// Names that were taken and got a `#n`.
    pub collisions: Vec<String>,
    pub omitted: Vec<(String, String)>,
}

/// `Value` has no default of its own; an absent structure is `Null`.
#[derive(Debug)]
pub(super) struct Value2(pub Value);

impl Default for Value2 {
    fn default() -> Self {
        Self(Value::Null)
    }
}

/// Opens a complete torch file that a pickle holds as bytes (`torch.storage._load_from_bytes`).
pub(super) type NestedOpener<'s> = dyn Fn(&[u8]) -> Result<Vec<Tensor>> + 's;

/// What one value costs in memory, in bytes, here and as JSON; a container, an entry, a tensor.
const VALUE: usize = 64;
const CONTAINER: usize = 128;
const ENTRY: usize = 64;
const TENSOR: usize = 512;

/// Memory that a byte of the pickle justifies. No value takes more unless it is referred to from
/// several places.
const ROOM_PER_BYTE: u64 = 192;

/// Longest name of a tensor, in bytes.
const LONGEST_NAME: usize = 64 << 10;

/// Memory, in bytes, that a byte of a file inside the pickle justifies.
pub(super) const NESTED_PER_BYTE: u64 = 64;

/// Views of storages up to this length are read with the storage whole.
const WHOLE_STORAGE: u64 = 16 << 20;
/// Largest step, in elements, at which neighbours are read in one go.
const RUN_STEP: u64 = 64;
/// What one read costs, in bytes.
const READ_COST: u64 = 512;
/// Bytes of a view that are read together.
const READ_BLOCK: u64 = 4 << 20;

/// A tensor made once for its node.
struct Draft {
    tensor: Option<Tensor>,
    /// What another copy of it costs.
    weight: usize,
}

/// Walks one trace. Recursion is bounded by `limits.depth`, the number of values by
/// `limits.values`, memory by the pickle's length and `limits.spare_bytes`, the bytes that views
/// expand to by `limits.expand_cap`.
pub(super) struct Lower<'t, 's> {
    pub(super) trace: &'t Trace<'t>,
    pub(super) storages: &'s mut dyn Storages,
    pub(super) limits: &'s Limits,
    nested: &'s NestedOpener<'s>,
    drafts: HashMap<NodeId, Draft>,
    /// Storages that are files in byte strings, by the node of the bytes.
    nested_storages: HashMap<NodeId, Option<StorageRef>>,
    /// Names that are taken, with the next number to try.
    names: HashMap<String, u64>,
    /// Containers that are being read, and how much of `path` leads to them.
    open: HashMap<NodeId, usize>,
    path: String,
    pub(super) depth: u32,
    made: u64,
    /// Memory taken so far, estimated, and how much may be.
    taken: u64,
    room: u64,
    expanded: u64,
    cap: u64,
    out: Lowered,
    /// While set, tensors met are not added to the model (attributes of tensors).
    quiet: bool,
    /// How NumPy arrays become tensors, where they do.
    pub(super) arrays: Option<Rc<Arrays>>,
}

impl<'t, 's> Lower<'t, 's> {
    pub(super) fn new(
        trace: &'t Trace<'t>,
        storages: &'s mut dyn Storages,
        limits: &'s Limits,
        file_bytes: u64,
        nested: &'s NestedOpener<'s>,
    ) -> Self {
        Self {
            trace,
            storages,
            limits,
            nested,
            drafts: HashMap::new(),
            nested_storages: HashMap::new(),
            names: HashMap::new(),
            open: HashMap::new(),
            path: String::new(),
            depth: 0,
            made: 0,
            taken: 0,
            room: (trace.data.len() as u64)
                .saturating_mul(ROOM_PER_BYTE)
                .saturating_add(limits.spare_bytes),
            expanded: 0,
            cap: limits.expand_cap(file_bytes),
            out: Lowered::default(),
            quiet: false,
            arrays: None,
        }
    }

    /// Makes tensors of NumPy arrays.
    pub(super) fn with_arrays(mut self, arrays: Rc<Arrays>) -> Self {
        self.arrays = Some(arrays);
        self
    }

    /// Names everything under `path`, or by itself where that is empty.
    pub(super) fn under(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// The value of another trace at this place: a pickle inside this one.
    pub(super) fn nested_value(&mut self, trace: &Trace<'_>, arrays: Rc<Arrays>) -> Result<Value> {
        let Some(root) = trace.root else {
            return Ok(Value::Null);
        };
        let mut other = Lower {
            trace,
            storages: &mut *self.storages,
            limits: self.limits,
            nested: self.nested,
            drafts: HashMap::new(),
            nested_storages: HashMap::new(),
            names: std::mem::take(&mut self.names),
            open: HashMap::new(),
            path: self.path.clone(),
            depth: self.depth,
            made: self.made,
            taken: self.taken,
            room: self.room,
            expanded: self.expanded,
            cap: self.cap,
            out: std::mem::take(&mut self.out),
            quiet: self.quiet,
            arrays: Some(arrays),
        };
        let value = other.deeper(|o| o.value(root));
        let Lower {
            names,
            made,
            taken,
            expanded,
            out,
            ..
        } = other;
        (self.names, self.out) = (names, out);
        (self.made, self.taken, self.expanded) = (made, taken, expanded);
        value
    }

    /// Lowers the value at `STOP`.
    pub(super) fn run(mut self) -> Result<Lowered> {
        let Some(root) = self.trace.root else {
            return Err(Error::malformed(
                "pickle.no-stop",
                "the pickle gives no value",
            ));
        };
        let structure = self.value(root)?;
        self.out.structure = Value2(structure);
        Ok(self.out)
    }

    /// The value of `id` with tensors inside left out of the model: attributes of tensors.
    pub(super) fn plain(&mut self, id: NodeId) -> Result<Value> {
        let before = std::mem::replace(&mut self.quiet, true);
        let v = self.value(id);
        self.quiet = before;
        v
    }

    /// Takes `bytes` of the memory that the pickle's length justifies.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        self.taken = self.taken.saturating_add(bytes as u64);
        if self.taken > self.room {
            return Err(Error::limit(
                "pytorch.too-many-values",
                format!(
                    "the structure expands to over {} bytes, more than a pickle of {} justifies: \
                     it refers to its values again and again",
                    self.room,
                    self.trace.data.len()
                ),
            ));
        }
        self.trace.check_work()
    }

    pub(super) fn value(&mut self, id: NodeId) -> Result<Value> {
        self.charge(VALUE)?;
        self.made += 1;
        if self.made > self.limits.values {
            return Err(Error::limit(
                "pytorch.too-many-values",
                "the structure expands to too many values",
            ));
        }
        let trace = self.trace;
        Ok(match trace.node(id) {
            Node::None => Value::Null,
            Node::Bool(b) => Value::Bool(*b),
            Node::Int(i) => Value::Int(*i),
            Node::BigInt(b) => big(trace.decimal(b)),
            Node::BigText(t) => {
                self.charge(t.len().saturating_mul(2))?;
                Value::BigInt(t.to_string())
            }
            Node::Float(f) => Value::Float(*f),
            Node::Str(b) => Value::Str(String::from_utf8_lossy(self.bytes(b)?).into_owned()),
            Node::ByteStr(b) => {
                let bytes = self.bytes(b)?;
                match std::str::from_utf8(bytes) {
                    Ok(s) => Value::Str(s.to_owned()),
                    Err(_) => Value::Bytes(bytes.to_vec()),
                }
            }
            Node::Bytes(b) => Value::Bytes(self.bytes(b)?.to_vec()),
            Node::ByteArray(b) => Value::ByteArray(self.bytes(b)?.to_vec()),
            Node::Tuple(items) => self.nest(id, |s| Ok(Value::Tuple(s.list(items)?)))?,
            Node::List(items) => self.nest(id, |s| Ok(Value::List(s.list(items)?)))?,
            Node::Set(items) => self.nest(id, |s| Ok(Value::Set(s.list(items)?)))?,
            Node::FrozenSet(items) => self.nest(id, |s| Ok(Value::FrozenSet(s.list(items)?)))?,
            Node::Dict(pairs) => self.nest(id, |s| {
                Ok(Value::Dict(Dict {
                    entries: s.entries(pairs)?,
                    ..Dict::default()
                }))
            })?,
            Node::Global(_) => match trace.global(id) {
                Some(g) if g.module == "torch" && dtype::is_dtype(&g.name) => {
                    Value::DType(format!("torch.{}", g.name))
                }
                _ => {
                    let name = self.class_name(id);
                    self.charge(name.len().saturating_mul(2))?;
                    Value::Global(name)
                }
            },
            Node::DynamicGlobal(..) => Value::Global(trace.render(id, 200)),
            Node::Persistent(p) => self.persistent(*p)?,
            Node::Extension(code) => Value::Global(format!("copyreg.extension({code})")),
            Node::Call(call) => self.nest(id, |s| s.call(id, call))?,
            _ => Value::Global("pickle.buffer".into()),
        })
    }

    /// The bytes of `blob`, which are about to be copied.
    fn bytes(&mut self, blob: &'t Blob) -> Result<&'t [u8]> {
        let bytes = self.trace.blob(blob);
        self.charge(bytes.len().saturating_mul(3))?;
        Ok(bytes)
    }

    /// Guards recursion: a container met inside itself is a reference, and depth is bounded.
    fn nest(&mut self, id: NodeId, f: impl FnOnce(&mut Self) -> Result<Value>) -> Result<Value> {
        if let Some(&len) = self.open.get(&id) {
            self.charge(len)?;
            // Containers around this one lie on the path to it.
            return Ok(Value::Ref(match self.path.get(..len) {
                None | Some("") => "$".to_owned(),
                Some(first) => format!("$.{first}"),
            }));
        }
        self.charge(CONTAINER)?;
        self.open.insert(id, self.path.len());
        let v = self.deeper(f);
        self.open.remove(&id);
        v
    }

    /// Runs `f` one level deeper. Whatever recurses goes through here, so that one limit bounds
    /// the stack.
    pub(super) fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= self.limits.depth {
            return Err(Error::limit(
                "pytorch.too-deep",
                format!(
                    "the structure nests deeper than {} levels",
                    self.limits.depth
                ),
            )
            .within(self.path.as_str()));
        }
        self.depth += 1;
        let v = f(self);
        self.depth -= 1;
        v
    }

    /// Runs `f` with `step` added to the path.
    pub(super) fn at<T>(
        &mut self,
        step: &str,
        f: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(step);
        let v = if self.path.len() > LONGEST_NAME {
            Err(Error::limit(
                "pytorch.long-name",
                "a tensor's name passes 64 KiB",
            ))
        } else {
            // Tensors and attributes are named by the whole path.
            self.charge(self.path.len()).and_then(|()| f(self))
        };
        self.path.truncate(before);
        v
    }

    pub(super) fn list(&mut self, items: &[NodeId]) -> Result<Vec<Value>> {
        items
            .iter()
            .enumerate()
            .map(|(i, &v)| self.at(&i.to_string(), |s| s.value(v)))
            .collect()
    }

    /// The entries of a mapping: a key set again keeps its place and takes the later value, as in
    /// Python.
    pub(super) fn entries(&mut self, pairs: &[(NodeId, NodeId)]) -> Result<Vec<(Value, Value)>> {
        let mut keys: Vec<(Value, String, NodeId)> = Vec::with_capacity(pairs.len());
        let mut seen: HashMap<String, usize> = HashMap::new();
        for &(k, v) in pairs {
            let key = self.plain(k)?;
            let step = step_of(&key);
            self.charge(ENTRY.saturating_add(step.len().saturating_mul(3)))?;
            // Text and numbers that print alike are different keys.
            let kind = matches!(key, Value::Str(_));
            let slot = *seen.entry(format!("{kind}{step}")).or_insert(keys.len());
            match keys.get_mut(slot) {
                Some(old) => old.2 = v,
                None => keys.push((key, step, v)),
            }
        }
        keys.into_iter()
            .map(|(key, step, v)| Ok((key, self.at(&step, |s| s.value(v))?)))
            .collect()
    }

    fn persistent(&mut self, id: NodeId) -> Result<Value> {
        if let Some(t) = self.tensor_by_id(id) {
            return self.emit(t);
        }
        // Old whole-module saves carry each class with its source: ("module", class, file, text).
        if let Some([kind, class, ..]) = self.trace.items(id)
            && self.trace.is_text(*kind, "module")
        {
            return self.value(*class);
        }
        // A storage that stands alone is a tensor of one dimension.
        let request = storages::request(self.trace, id)?;
        let storage = storages::resolve(self.storages, &request)?;
        self.emit_storage(storage)
    }

    fn emit_storage(&mut self, s: StorageRef) -> Result<Value> {
        let dtype = s.dtype.unwrap_or(weighbridge_core::model::DType::U8);
        let n = s.len / dtype.bytes().unwrap_or(1).max(1);
        let view = View {
            storage: s.storage,
            offset: s.base,
        };
        self.emit(Tensor::new("", dtype, &[n], TensorSource::View(view)))
    }

    pub(super) fn tensor_by_id(&mut self, id: NodeId) -> Option<Tensor> {
        let text = match self.trace.node(id) {
            Node::Int(i) => i.to_string(),
            _ => self.trace.text(id)?.into_owned(),
        };
        self.storages.tensor(&text)
    }

    /// Adds a tensor under the present path and gives the reference to it.
    pub(super) fn emit(&mut self, mut t: Tensor) -> Result<Value> {
        let base = if self.path.is_empty() {
            "tensor"
        } else {
            self.path.as_str()
        };
        if self.quiet {
            return Ok(Value::Str(format!(
                "<tensor {} {:?}>",
                t.dtype,
                t.shape.as_slice()
            )));
        }
        let name = match self.names.get(base).copied() {
            None => base.to_owned(),
            Some(mut n) => {
                let mut name = format!("{base}#{n}");
                while self.names.contains_key(&name) {
                    n += 1;
                    name = format!("{base}#{n}");
                }
                let base = base.to_owned();
                self.names.insert(base, n + 1);
                self.out.collisions.push(name.clone());
                name
            }
        };
        self.charge(TENSOR.saturating_add(name.len().saturating_mul(4)))?;
        self.names.insert(name.clone(), 2);
        if self.out.tensors.len() as u64 >= self.limits.tensors {
            return Err(Error::limit("pytorch.too-many-tensors", "too many tensors"));
        }
        let mut bytes = t.byte_len();
        if let Some(s) = t.sparse() {
            bytes = s
                .indices
                .iter()
                .fold(s.values.byte_len(), |n, i| n.saturating_add(i.byte_len()));
        }
        self.expanded = self.expanded.saturating_add(bytes.max(scattered(&t)));
        if self.expanded > self.cap {
            return Err(Error::limit(
                "pytorch.expansion",
                format!(
                    "the views of this file expand to {} bytes and more, the cap is {}",
                    self.expanded, self.cap
                ),
            )
            .within(name)
            .help("raise the cap with --max-expand SIZE if you trust the file's origin"));
        }
        t.name.clone_from(&name);
        self.out.tensors.push(t);
        Ok(Value::Tensor(name))
    }

    pub(super) fn omit(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.out.omitted.push((what.into(), why.into()));
    }

    pub(super) fn place(&self) -> &str {
        &self.path
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A tensor by its constructor, made once for each node.
    pub(super) fn draft(&mut self, id: NodeId, call: &Call) -> Result<Option<Tensor>> {
        self.draft_at(id, call, 0).map_err(|e| {
            e.within(format!("tensor {:?}", self.path))
                .within(format!("pickle byte {}", call.offset))
        })
    }

    /// As [`Lower::draft`], for a constructor inside `wraps` others.
    pub(super) fn draft_at(
        &mut self,
        id: NodeId,
        call: &Call,
        wraps: u32,
    ) -> Result<Option<Tensor>> {
        if let Some(weight) = self.drafts.get(&id).map(|d| d.weight) {
            self.charge(weight)?;
            return Ok(self.drafts.get(&id).and_then(|d| d.tensor.clone()));
        }
        let before = self.taken;
        let made = self.tensor_of(call, wraps)?;
        if made.is_some() {
            self.charge(TENSOR)?;
        }
        let weight = usize::try_from(self.taken - before).unwrap_or(usize::MAX);
        let tensor = made.clone();
        self.drafts.insert(id, Draft { tensor, weight });
        Ok(made)
    }

    fn call(&mut self, id: NodeId, call: &Call) -> Result<Value> {
        if let Some(t) = self.draft(id, call)? {
            return self.emit(t);
        }
        if let Some(v) = arrays::value(self, id, call)? {
            return Ok(v);
        }
        if let Some(v) = objects::value_class(self, call)? {
            return Ok(v);
        }
        if let Some(v) = objects::module(self, call)? {
            return Ok(v);
        }
        self.opaque(call)
    }

    /// The storage that a pickle holds as a complete torch file in a byte string.
    pub(super) fn nested_storage(&mut self, call: &Call) -> Result<Option<StorageRef>> {
        let name = self.trace.global_name(call.callee).unwrap_or_default();
        if name != "torch.storage._load_from_bytes" {
            return Ok(None);
        }
        let trace = self.trace;
        let Some(&[one]) = trace.items(call.args) else {
            return Ok(None);
        };
        if let Some(known) = self.nested_storages.get(&one) {
            return Ok(known.clone());
        }
        let Some(bytes) = numpy::bytes_of(trace, one) else {
            return Ok(None);
        };
        // What the file inside may take is taken from what this one may.
        self.charge(bytes.len().saturating_mul(NESTED_PER_BYTE as usize))?;
        let tensors = (self.nested)(&bytes)?;
        let made = tensors
            .into_iter()
            .next()
            .and_then(|t| match (&t.source, t.byte_len()) {
                (TensorSource::View(v), len) => Some(StorageRef {
                    storage: v.storage.clone(),
                    base: v.offset,
                    len,
                    dtype: Some(t.dtype),
                }),
                _ => None,
            });
        self.nested_storages.insert(one, made.clone());
        Ok(made)
    }

    /// The dotted name of a class or function, in Python 3's spelling; whole-module saves before
    /// torch 1.6 wrap classes in a persistent id that carries their source.
    pub(super) fn class_name(&self, id: NodeId) -> String {
        let id = match self.trace.node(id) {
            Node::Persistent(p) => match self.trace.items(*p) {
                Some([kind, class, ..]) if self.trace.is_text(*kind, "module") => *class,
                _ => id,
            },
            _ => id,
        };
        let Some(g) = self.trace.global(id) else {
            return self.trace.render(id, 200);
        };
        // `Lib/_compat_pickle.py`, the names that protocols up to 2 write in Python 2's spelling.
        let (module, name) = match (g.module.as_str(), g.name.as_str()) {
            ("__builtin__", "xrange") => ("builtins", "range"),
            ("__builtin__", "unicode") => ("builtins", "str"),
            ("__builtin__", "long") => ("builtins", "int"),
            ("__builtin__" | "exceptions", name) => ("builtins", name),
            ("copy_reg", name) => ("copyreg", name),
            other => other,
        };
        format!("{module}.{name}")
    }

    /// Anything else: an object with its class, arguments, state and items kept as data.
    pub(super) fn opaque(&mut self, call: &Call) -> Result<Value> {
        let class = self.class_name(call.callee);
        self.charge(CONTAINER.saturating_add(class.len().saturating_mul(2)))?;
        let trace = self.trace;
        // A mapping subclass: built empty, then filled.
        let state = call.states.last().copied();
        let no_args = trace.items(call.args).is_some_and(<[NodeId]>::is_empty);
        if !call.pairs.is_empty() && call.items.is_empty() && no_args && call.kwargs.is_none() {
            let entries = self.entries(&call.pairs)?;
            let attributes = self.attributes(state)?;
            return Ok(Value::Dict(Dict {
                class: Some(class),
                entries,
                attributes,
            }));
        }
        let mut object = Object {
            class,
            ..Object::default()
        };
        // `copyreg._reconstructor(class, base, state)` and `copyreg.__newobj__(class, …)` build an
        // instance of their first argument.
        let mut args = trace.items(call.args).unwrap_or_default();
        if let Some(real) = args
            .first()
            .filter(|&&a| trace.global(a).is_some())
            .map(|&a| self.class_name(a))
        {
            let wrapper = object.class.rsplit('.').next().unwrap_or_default();
            if matches!(wrapper, "_reconstructor" | "__newobj__" | "__newobj_ex__")
                && object.class.starts_with("copy")
            {
                let skip = if wrapper == "_reconstructor" {
                    args.len()
                } else {
                    1
                };
                object.class = real;
                args = args.get(skip..).unwrap_or_default();
            }
        }
        if !args.is_empty() {
            object.args = self.at("args", |s| s.list(args))?;
        }
        if let Some(kwargs) = call.kwargs.and_then(|k| trace.dict(k)) {
            let entries = self.at("kwargs", |s| s.entries(kwargs))?;
            object.kwargs = entries.into_iter().map(|(k, v)| (step_of(&k), v)).collect();
        }
        if let Some(state) = state {
            object.state = Some(self.state(state)?);
        }
        if !call.pairs.is_empty() {
            let entries = self.entries(&call.pairs)?;
            object.items = Some(Value::Dict(Dict {
                entries,
                ..Dict::default()
            }));
        } else if !call.items.is_empty() {
            object.items = Some(Value::List(self.list(&call.items)?));
        }
        Ok(Value::Object(Box::new(object)))
    }

    /// The state of an object: attributes continue the path as they are.
    fn state(&mut self, id: NodeId) -> Result<Value> {
        let trace = self.trace;
        match trace.items(id) {
            // `(__dict__, slots)`: one namespace.
            Some([dict, slots])
                if trace.dict(*slots).is_some()
                    && (trace.dict(*dict).is_some() || matches!(trace.node(*dict), Node::None)) =>
            {
                let mut pairs = trace.dict(*dict).unwrap_or_default().to_vec();
                trace.spend(pairs.len().saturating_mul(8));
                pairs.extend_from_slice(trace.dict(*slots).unwrap_or_default());
                let entries = self.entries(&pairs)?;
                Ok(Value::Dict(Dict {
                    entries,
                    ..Dict::default()
                }))
            }
            _ => self.value(id),
        }
    }

    /// A state that sets attributes on a mapping, such as a state dict's `_metadata`.
    pub(super) fn attributes(&mut self, state: Option<NodeId>) -> Result<Vec<(String, Value)>> {
        let Some(state) = state else {
            return Ok(Vec::new());
        };
        let value = self.state(state)?;
        Ok(match value {
            Value::Dict(d) => d
                .entries
                .into_iter()
                .map(|(k, v)| (step_of(&k), v))
                .collect(),
            Value::Null => Vec::new(),
            other => vec![("state".into(), other)],
        })
    }

    /// The pairs of a mapping node: a plain dict, or an `OrderedDict` and its like.
    pub(super) fn pairs(&self, id: NodeId) -> Option<Vec<(NodeId, NodeId)>> {
        let trace = self.trace;
        let spend = |n: usize| trace.spend(n.saturating_mul(8));
        match trace.node(id) {
            Node::Dict(d) => {
                spend(d.len());
                Some(d.clone())
            }
            Node::Call(c) => {
                let mut out = Vec::new();
                // Python 2 hands the items to the constructor: `OrderedDict([[k, v], …])`.
                spend(c.pairs.len());
                if let Some(&[first]) = trace.items(c.args) {
                    match trace.node(first) {
                        Node::Dict(d) => {
                            spend(d.len());
                            out.extend_from_slice(d);
                        }
                        _ => {
                            spend(trace.items(first)?.len());
                            for &item in trace.items(first)? {
                                let &[k, v] = trace.items(item)? else {
                                    return None;
                                };
                                out.push((k, v));
                            }
                        }
                    }
                }
                out.extend_from_slice(&c.pairs);
                Some(out)
            }
            _ => None,
        }
    }
}

/// What reading a view value by value costs, in bytes: each read of a few bytes from a large
/// storage takes as long as copying hundreds. 0 where runs can be read, or the storage whole.
fn scattered(t: &Tensor) -> u64 {
    let (TensorSource::Strided(s), Some(width)) = (&t.source, t.dtype.bytes()) else {
        return 0;
    };
    if s.storage.len() <= WHOLE_STORAGE {
        return 0;
    }
    let (mut run, mut inner) = (1, width.max(1));
    for (&d, &step) in t.shape.iter().zip(&s.strides).rev() {
        let here = d.min(READ_BLOCK / inner).max(1);
        if step <= RUN_STEP {
            run = run.max(here);
        }
        inner = inner.saturating_mul(d.max(1));
        if inner > READ_BLOCK {
            break;
        }
    }
    (t.byte_len() / width.max(1) / run).saturating_mul(READ_COST)
}

fn big(text: String) -> Value {
    text.parse().map_or(Value::BigInt(text), Value::Int)
}

/// The path step of a mapping key: text as it is, numbers in decimal, the rest as Python prints
/// it.
pub(super) fn step_of(key: &Value) -> String {
    match key {
        Value::Str(s) | Value::BigInt(s) | Value::Global(s) | Value::DType(s) => s.clone(),
        Value::Int(i) => i.to_string(),
        Value::Bool(b) => if *b { "True" } else { "False" }.into(),
        Value::Float(f) => numpy::float_text(*f, false),
        Value::Null => "None".into(),
        Value::Tuple(items) => {
            let parts: Vec<String> = items.iter().map(step_of).collect();
            format!("({})", parts.join(", "))
        }
        Value::NpScalar { text, .. } => text.clone(),
        Value::Object(o) => o.text.clone().unwrap_or_else(|| o.class.clone()),
        _ => "?".into(),
    }
}

impl Lowered {
    /// The same with every tensor name under `prefix`.
    pub(super) fn prefixed(mut self, prefix: &str) -> Self {
        for t in &mut self.tensors {
            t.name = format!("{prefix}.{}", t.name);
        }
        each_reference(&mut self.structure.0, &mut |name| {
            *name = format!("{prefix}.{name}");
        });
        self
    }
}

/// Calls `f` with the name of every tensor that `v` refers to.
pub(crate) fn each_reference(v: &mut Value, f: &mut dyn FnMut(&mut String)) {
    match v {
        Value::Tensor(name) => f(name),
        Value::List(l) | Value::Tuple(l) | Value::Set(l) | Value::FrozenSet(l) => {
            l.iter_mut().for_each(|v| each_reference(v, f));
        }
        Value::Dict(d) => {
            for (_, v) in &mut d.entries {
                each_reference(v, f);
            }
            for (_, v) in &mut d.attributes {
                each_reference(v, f);
            }
        }
        Value::Object(o) => {
            o.args.iter_mut().for_each(|v| each_reference(v, f));
            for (_, v) in &mut o.kwargs {
                each_reference(v, f);
            }
            for v in [&mut o.state, &mut o.items, &mut o.state_dict]
                .into_iter()
                .flatten()
            {
                each_reference(v, f);
            }
        }
        _ => {}
    }
}
