//! From the metadata tree to the pickle of a checkpoint.

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{Dict, Model, Tensor, Value};
use weighbridge_core::{Error, Limits, Result};

use super::dtype;
use super::pickle_out::{BATCH, Pickler};
use super::storage_out::{Layout, refusal};
use crate::format::{Note, Plan, WriteOptions};
use crate::structure;

/// Device types `torch.device` knows (`c10/core/DeviceType.cpp`); it raises on others.
const DEVICES: [&str; 20] = [
    "cpu",
    "cuda",
    "mkldnn",
    "opengl",
    "opencl",
    "ideep",
    "hip",
    "ve",
    "fpga",
    "maia",
    "xla",
    "lazy",
    "vulkan",
    "mps",
    "meta",
    "hpu",
    "mtia",
    "ipu",
    "xpu",
    "privateuseone",
];

/// Bytes that may become values again whatever the size of the model's files.
const LEAST_MOVED: u64 = 16 << 20;

/// The pickle and what it names.
pub(super) struct Written {
    pub(super) pickle: Vec<u8>,
    /// The storage behind every key, in the order of the keys.
    pub(super) stores: Vec<usize>,
    /// The model's tensors in the order they are named.
    pub(super) tensors: Vec<usize>,
}

/// Pickles the structure of `model`, or a flat dict of its tensors, and adds to `plan` what
/// changes and what is lost.
///
/// # Errors
/// `Limit` for a structure nested too deep, and what reading state kept in tensors gives.
pub(super) fn pickle(
    model: &Model,
    layout: &Layout<'_>,
    options: &WriteOptions,
    plan: &mut Plan,
) -> Result<Written> {
    let by_name = model.tensors.iter().enumerate();
    let mut out = Out {
        model,
        layout,
        plan,
        p: Pickler::new(),
        by_name: by_name.map(|(i, t)| (t.name.as_str(), i)).collect(),
        uses: HashMap::new(),
        wanted: HashSet::new(),
        bulk: HashSet::new(),
        memo: HashMap::new(),
        made: HashMap::new(),
        keys: HashMap::new(),
        written: Written {
            pickle: Vec::new(),
            stores: Vec::new(),
            tensors: Vec::new(),
        },
        seen: HashSet::new(),
        path: String::from("$"),
        depth: 0,
        moved: 0,
        depth_limit: Limits::default().depth,
    };
    let structure = model.structure.as_ref().filter(|_| !options.weights_only);
    for t in &model.tensors {
        if let Some(why) = refusal(t) {
            out.plan.lost.push(Note::new(t.name.as_str(), why));
        }
    }
    if let Some(s) = &model.structure {
        out.survey(s);
    }
    match structure {
        Some(s) => out.root(s)?,
        None => out.flat()?,
    }
    if !options.weights_only {
        out.foreign_metadata();
    }
    out.written.pickle = out.p.finish();
    Ok(out.written)
}

pub(super) struct Out<'a, 'p> {
    pub(super) model: &'a Model,
    pub(super) layout: &'a Layout<'a>,
    plan: &'p mut Plan,
    pub(super) p: Pickler,
    by_name: HashMap<&'a str, usize>,
    /// How often the structure names each tensor.
    uses: HashMap<&'a str, u32>,
    /// Paths that references point to.
    wanted: HashSet<&'a str>,
    /// Tensors that only hold the bytes of moved values.
    bulk: HashSet<&'a str>,
    /// Memo numbers of the wanted values, by path.
    memo: HashMap<String, u32>,
    /// Memo numbers of tensors that are named again.
    made: HashMap<usize, u32>,
    /// The key of every storage that is in use.
    pub(super) keys: HashMap<usize, usize>,
    pub(super) written: Written,
    seen: HashSet<usize>,
    path: String,
    depth: u32,
    /// Bytes of tensors that became values again.
    moved: u64,
    depth_limit: u32,
}

impl<'a> Out<'a, '_> {
    /// Counts tensor names and gathers the targets of references.
    fn survey(&mut self, v: &'a Value) {
        match v {
            Value::Tensor(name) => *self.uses.entry(name).or_default() += 1,
            Value::Ref(path) => {
                self.wanted.insert(path);
            }
            Value::Moved { tensor, .. } => {
                self.bulk.insert(tensor);
            }
            Value::List(items)
            | Value::Tuple(items)
            | Value::Set(items)
            | Value::FrozenSet(items) => items.iter().for_each(|v| self.survey(v)),
            Value::Dict(d) => {
                for (k, v) in &d.entries {
                    self.survey(k);
                    self.survey(v);
                }
                d.attributes.iter().for_each(|(_, v)| self.survey(v));
            }
            Value::Object(o) => {
                o.args.iter().for_each(|v| self.survey(v));
                o.kwargs.iter().for_each(|(_, v)| self.survey(v));
                let parts = [&o.state, &o.items, &o.state_dict];
                parts.into_iter().flatten().for_each(|v| self.survey(v));
            }
            _ => {}
        }
    }

    /// A dict of all tensors by name: what `torch.save` of a plain state dict gives.
    fn flat(&mut self) -> Result<()> {
        self.p.empty_dict();
        self.p.mark();
        let mut n = 0;
        for (i, t) in self.model.tensors.iter().enumerate() {
            if !self.writable(i) || self.bulk.contains(t.name.as_str()) {
                continue;
            }
            self.batch(&mut n);
            self.p.str(&t.name)?;
            self.tensor(i)?;
        }
        self.p.set_items();
        Ok(())
    }

    /// Ends a full batch of items and begins the next.
    fn batch(&mut self, n: &mut usize) {
        if *n == BATCH {
            self.p.set_items();
            self.p.mark();
            *n = 0;
        }
        *n += 1;
    }

    /// The structure, with the tensors it does not name added to a root dict.
    fn root(&mut self, s: &'a Value) -> Result<()> {
        self.value(s)?;
        let left: Vec<usize> = (0..self.model.tensors.len())
            .filter(|&i| !self.seen.contains(&i) && self.writable(i))
            .filter(|&i| {
                let name = self.model.tensors.get(i).map_or("", |t| t.name.as_str());
                !self.bulk.contains(name)
            })
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let takes_items = matches!(s, Value::Dict(d) if is_native(d));
        if takes_items {
            self.p.mark();
        }
        let mut n = 0;
        for i in left {
            let Some(t) = self.model.tensors.get(i) else {
                continue;
            };
            if takes_items {
                self.batch(&mut n);
                self.p.str(&t.name)?;
                self.tensor(i)?;
                let why = "the structure does not name it: added to the root under its name";
                self.plan.changed.push(Note::new(t.name.as_str(), why));
            } else {
                let why = "the structure does not name it and its root is no dict";
                self.plan.lost.push(Note::new(t.name.as_str(), why));
            }
        }
        if takes_items {
            self.p.set_items();
        }
        Ok(())
    }

    /// Key-values of a format that a checkpoint has no place for.
    fn foreign_metadata(&mut self) {
        use weighbridge_core::model::FormatId;
        if matches!(self.model.format, FormatId::PyTorch | FormatId::Pickle) {
            return;
        }
        for (key, _) in &self.model.metadata {
            let own = key.starts_with("weighbridge.") && key != structure::STRUCTURE_KEY;
            if key != "format" && !own {
                let why = "a PyTorch checkpoint has no place for metadata of the file";
                self.plan
                    .lost
                    .push(Note::new(format!("metadata {key}"), why));
            }
        }
    }

    fn writable(&self, i: usize) -> bool {
        let t = self.model.tensors.get(i);
        t.is_some_and(|t| refusal(t).is_none())
    }

    fn place(&self) -> &str {
        self.path.strip_prefix("$.").unwrap_or(&self.path)
    }

    pub(super) fn changed(&mut self, why: impl Into<String>) {
        let note = Note::new(self.place(), why);
        self.plan.changed.push(note);
    }

    /// Runs `f` with `step` added to the path, one level deeper.
    pub(super) fn at(&mut self, step: &str, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let len = self.path.len();
        self.path.push('.');
        self.path.push_str(step);
        let done = f(self);
        self.path.truncate(len);
        done
    }

    /// Memoizes the top of the stack where a reference points to it. The first value of a path
    /// counts.
    pub(super) fn remember(&mut self) {
        if self.wanted.contains(self.path.as_str()) && !self.memo.contains_key(&self.path) {
            let id = self.p.put();
            self.memo.insert(self.path.clone(), id);
        }
    }

    pub(super) fn value(&mut self, v: &'a Value) -> Result<()> {
        if self.depth > self.depth_limit {
            return Err(Error::limit(
                "pytorch.too-deep",
                format!(
                    "the structure nests deeper than {} levels",
                    self.depth_limit
                ),
            ));
        }
        self.depth += 1;
        let done = self.value_inner(v);
        self.depth -= 1;
        done
    }

    fn value_inner(&mut self, v: &'a Value) -> Result<()> {
        match v {
            Value::Null => self.p.none(),
            Value::Bool(b) => self.p.bool(*b),
            Value::Int(i) => self.p.int(*i),
            Value::BigInt(digits) => {
                if !self.p.big_int(digits) {
                    self.tagged_text("$int", digits)?;
                }
            }
            Value::Float(f) => self.p.float(*f),
            Value::Str(s) => self.p.str(s)?,
            Value::Bytes(b) => self.p.bytes(b)?,
            Value::ByteArray(b) => self.bytearray(b)?,
            Value::List(items) => self.list(items)?,
            Value::Tuple(items) => self.tuple(items)?,
            Value::Set(items) if items.iter().all(hashable) => {
                self.p.global("__builtin__", "set");
                self.list(items)?;
                self.p.tuple_of(1);
                self.p.reduce();
            }
            Value::Set(items) => self.tagged_list("$set", items)?,
            Value::FrozenSet(items) => self.tagged_list("$frozenset", items)?,
            Value::Dict(d) => self.dict(d)?,
            Value::Complex(re, im) => {
                self.p.global("__builtin__", "complex");
                self.p.float(*re);
                self.p.float(*im);
                self.p.tuple_of(2);
                self.p.reduce();
            }
            Value::NdArray(a) => self.ndarray(a)?,
            Value::NpScalar { dtype, text, raw } => self.np_scalar(dtype, text, raw)?,
            Value::DType(name) => match torch_dtype(name) {
                Some(name) => self.p.global("torch", name),
                None => self.tagged_text("$dtype", name)?,
            },
            Value::Device(name) if is_device(name) => {
                self.p.global("torch", "device");
                self.p.str(name)?;
                self.p.tuple_of(1);
                self.p.reduce();
            }
            Value::Device(name) => self.tagged_text("$device", name)?,
            Value::Size(dims) => self.size(dims),
            Value::Tensor(name) => self.tensor_named(name)?,
            Value::Ref(path) => match self.memo.get(path) {
                Some(&id) => self.p.get(id),
                None => self.tagged_text("$ref", path)?,
            },
            Value::Global(name) => self.tagged_text("$global", name)?,
            Value::Object(o) => self.object(o)?,
            Value::Moved { value, tensor } => {
                let from = self.by_name.get(tensor.as_str());
                let from = from.and_then(|&i| self.model.tensors.get(i));
                self.moved_back(from.map_or(0, Tensor::byte_len))?;
                match structure::bulk_bytes(value, from)? {
                    Value::Bytes(b) => self.p.bytes(&b)?,
                    Value::ByteArray(b) => self.bytearray(&b)?,
                    Value::NdArray(a) => self.ndarray(&a)?,
                    _ => self.p.none(),
                }
            }
            other => {
                self.changed("a value of a kind this writer does not know becomes text");
                self.p.str(&format!("{other:?}"))?;
            }
        }
        self.remember();
        Ok(())
    }

    /// Counts the bytes that go back from tensors into the pickle, which is built in memory: not
    /// more than the model's files hold, however often the structure names a tensor.
    fn moved_back(&mut self, bytes: u64) -> Result<()> {
        self.moved = self.moved.saturating_add(bytes);
        Limits::check(
            self.moved,
            self.model.file_bytes().max(LEAST_MOVED),
            "structure.moved-bytes",
            "bytes that the structure takes from tensors",
        )
    }

    fn bytearray(&mut self, b: &[u8]) -> Result<()> {
        self.p.global("__builtin__", "bytearray");
        self.p.bytes(b)?;
        self.p.tuple_of(1);
        self.p.reduce();
        Ok(())
    }

    fn size(&mut self, dims: &[i64]) {
        self.p.global("torch", "Size");
        self.p.mark();
        for &d in dims {
            self.p.int(d);
        }
        self.p.tuple();
        self.p.tuple_of(1);
        self.p.reduce();
    }

    fn list(&mut self, items: &'a [Value]) -> Result<()> {
        self.p.empty_list();
        // Before the items, so that a cycle can point back here.
        self.remember();
        self.list_items(items)
    }

    pub(super) fn list_items(&mut self, items: &'a [Value]) -> Result<()> {
        for (b, batch) in items.chunks(BATCH).enumerate() {
            self.p.mark();
            for (i, v) in batch.iter().enumerate() {
                self.at(&(b * BATCH + i).to_string(), |s| s.value(v))?;
            }
            self.p.appends();
        }
        Ok(())
    }

    fn tuple(&mut self, items: &'a [Value]) -> Result<()> {
        let short = u8::try_from(items.len()).ok().filter(|&n| n <= 3);
        if short.is_none() {
            self.p.mark();
        }
        for (i, v) in items.iter().enumerate() {
            self.at(&i.to_string(), |s| s.value(v))?;
        }
        match short {
            Some(n) => self.p.tuple_of(n),
            None => self.p.tuple(),
        }
        Ok(())
    }

    fn dict(&mut self, d: &'a Dict) -> Result<()> {
        if !is_native(d) {
            return self.foreign_dict(d);
        }
        match d.class.as_deref() {
            None => {
                self.p.empty_dict();
                self.remember();
                self.entries(d)?;
            }
            Some("collections.OrderedDict") => {
                self.p.global("collections", "OrderedDict");
                self.p.tuple_of(0);
                self.p.reduce();
                self.remember();
                self.entries(d)?;
            }
            Some(_) => {
                self.p.global("collections", "Counter");
                self.p.empty_dict();
                self.entries(d)?;
                self.p.tuple_of(1);
                self.p.reduce();
            }
        }
        self.attributes(d)
    }

    fn attributes(&mut self, d: &'a Dict) -> Result<()> {
        if d.attributes.is_empty() {
            return Ok(());
        }
        self.p.empty_dict();
        for (name, v) in &d.attributes {
            self.p.str(name)?;
            self.at(name, |s| s.value(v))?;
            self.p.set_item();
        }
        self.p.build();
        Ok(())
    }

    pub(super) fn entries(&mut self, d: &'a Dict) -> Result<()> {
        // A dict without the entry is nearer to the truth than one with nothing under its key.
        let (kept, gone): (Vec<&'a (Value, Value)>, Vec<_>) = d
            .entries
            .iter()
            .partition(|(_, v)| !matches!(v, Value::Tensor(n) if !self.is_there(n)));
        for (_, v) in gone {
            if let Value::Tensor(name) = v {
                self.missing(name);
            }
        }
        for (b, batch) in kept.chunks(BATCH).enumerate() {
            self.p.mark();
            for (i, (k, v)) in batch.iter().enumerate() {
                let step = structure::step_name(k).unwrap_or_else(|| (b * BATCH + i).to_string());
                // A key has no place of its own for references to name.
                self.at("?", |s| s.value(k))?;
                self.at(&step, |s| s.value(v))?;
            }
            self.p.set_items();
        }
        Ok(())
    }

    fn is_there(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|&i| self.writable(i))
    }

    fn missing(&mut self, name: &str) {
        // A tensor that cannot be written is in the list already, with its reason.
        if !self.by_name.contains_key(name) {
            let why = "the structure names it, the file does not have it";
            self.plan.lost.push(Note::new(name, why));
        }
    }

    fn tensor_named(&mut self, name: &str) -> Result<()> {
        match self.by_name.get(name) {
            Some(&i) if self.writable(i) => self.tensor(i),
            _ => {
                self.missing(name);
                self.p.none();
                Ok(())
            }
        }
    }

    /// Pushes a tensor, the same object wherever the structure names it again.
    fn tensor(&mut self, i: usize) -> Result<()> {
        if let Some(&id) = self.made.get(&i) {
            self.p.get(id);
            return Ok(());
        }
        let Some(t) = self.model.tensors.get(i) else {
            self.p.none();
            return Ok(());
        };
        if self.seen.insert(i) {
            self.written.tensors.push(i);
        }
        self.wrapped(i)?;
        if self.uses.get(t.name.as_str()).is_some_and(|&n| n > 1) {
            let id = self.p.put();
            self.made.insert(i, id);
        }
        Ok(())
    }

    /// The tensor as the parameter or subclass it was, where torch allows that.
    fn wrapped(&mut self, i: usize) -> Result<()> {
        let Some(extra) = self.model.tensors.get(i).and_then(|t| t.extra.as_deref()) else {
            return self.bare_tensor(i, false);
        };
        let get = |key: &str| {
            extra
                .attributes
                .iter()
                .find(|(k, _)| k == key)
                .map(|(_, v)| v)
        };
        let grad = get("requires_grad") == Some(&Value::Bool(true));
        let class = get("class").and_then(Value::as_str);
        let state = get("state").filter(|s| matches!(s, Value::Dict(_)));
        let parameter = matches!(
            class,
            Some("torch.nn.parameter.Parameter" | "torch.nn.Parameter")
        );
        if let Some(class) = class.filter(|c| !parameter && *c != "torch.Tensor") {
            self.changed(format!("the {class} becomes a plain tensor"));
        }
        match (parameter, state) {
            (true, _) => {
                let with = state.map_or("", |_| "_with_state");
                self.p
                    .global("torch._utils", &format!("_rebuild_parameter{with}"));
                self.p.mark();
                self.bare_tensor(i, false)?;
                self.p.bool(grad);
                self.hooks();
                if let Some(s) = state {
                    self.value(s)?;
                }
                self.p.tuple();
                self.p.reduce();
                Ok(())
            }
            // Python attributes on a tensor: `_rebuild_from_type_v2(function, type, args, state)`.
            (false, Some(s)) => self.with_attributes(i, grad, s),
            (false, None) => self.bare_tensor(i, grad),
        }
    }

    /// `backward_hooks`: always an empty `OrderedDict`.
    pub(super) fn hooks(&mut self) {
        self.p.global("collections", "OrderedDict");
        self.p.tuple_of(0);
        self.p.reduce();
    }

    fn with_attributes(&mut self, i: usize, grad: bool, state: &'a Value) -> Result<()> {
        self.p.global("torch._tensor", "_rebuild_from_type_v2");
        self.p.mark();
        self.function(i);
        self.p.global("torch", "Tensor");
        self.arguments(i, grad)?;
        self.value(state)?;
        self.p.tuple();
        self.p.reduce();
        Ok(())
    }
}

/// Mappings the pickle can hold as what they are.
fn is_native(d: &Dict) -> bool {
    let class = match d.class.as_deref() {
        None => d.attributes.is_empty(),
        Some("collections.OrderedDict" | "collections.Counter") => true,
        Some(_) => false,
    };
    class && d.entries.iter().all(|(k, _)| hashable(k))
}

/// Whether the Python object that is written for `v` can be a key or a member of a set.
pub(super) fn hashable(v: &Value) -> bool {
    match v {
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Str(_)
        | Value::Bytes(_)
        | Value::Complex(..)
        | Value::Size(_)
        | Value::Tensor(_) => true,
        // Longer ones are written as tagged dicts.
        Value::BigInt(digits) => digits.len() < 600,
        Value::DType(name) => torch_dtype(name).is_some(),
        Value::Device(name) => is_device(name),
        Value::Tuple(items) => items.iter().all(hashable),
        _ => false,
    }
}

fn torch_dtype(name: &str) -> Option<&str> {
    name.strip_prefix("torch.").filter(|n| dtype::is_dtype(n))
}

fn is_device(name: &str) -> bool {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, index),
        None => (name, "0"),
    };
    // torch keeps the index in eight bits and refuses leading zeros.
    DEVICES.contains(&kind)
        && index
            .parse::<i8>()
            .is_ok_and(|i| i.to_string() == index && i >= 0)
}
