//! TorchScript archives: `data.pkl` holds the module's attributes, `constants.pkl` the tensors
//! that code refers to, `code/` source that is never read here.
//!
//! Reference: `torch/csrc/jit/serialization/{export_module,import}.cpp`.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use weighbridge_core::Result;
use weighbridge_core::model::{Dict, FormatId, Model, Value};
use weighbridge_core::wire::zip::Archive;

use super::archive::{Records, big_endian, lower_record, text};
use super::read::fill;
use crate::OpenOptions;
use crate::structure::{self, Form};

/// Attributes every scripted module has.
const INTERNALS: &[&str] = &["training", "_is_full_backward_hook"];

pub(super) fn open(
    archive: &Archive,
    root: &str,
    options: &OpenOptions,
    depth: u32,
) -> Result<Model> {
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("torchscript");
    model.version = text(archive, &format!("{root}version"))?;
    let big = big_endian(archive, root)?;
    // torch 1.0 to 1.3 kept tensors under tensors/; later ones under data/.
    let folder = if archive
        .members()
        .iter()
        .any(|m| m.name.starts_with(&format!("{root}data/")))
    {
        "data/"
    } else {
        "tensors/"
    };
    let mut records = Records::new(archive, format!("{root}{folder}"), "", big);
    let low = lower_record(
        archive,
        &format!("{root}data.pkl"),
        &mut records,
        options,
        depth,
    )?;
    fill(&mut model, low);
    let mut code = Code::new(archive, root, options.limits.text_bytes);
    let mut tree = Tree::default();
    if let Some(v) = model.structure.take() {
        tree.walk(&v, "", &mut code);
    }
    model.structure = Some(Value::Dict(Dict {
        entries: tree.flat,
        ..Dict::default()
    }));
    if !tree.attributes.is_empty() {
        let attributes = Value::Dict(Dict {
            entries: tree.attributes,
            ..Dict::default()
        });
        let json = structure::to_json(&attributes, Form::Stored).to_string();
        model
            .metadata
            .push(("torchscript.attributes".into(), Value::Str(json)));
    }
    model.tensors.retain(|t| !tree.beside.contains(&t.name));
    let mut beside: Vec<String> = tree.beside.into_iter().collect();
    beside.sort();
    for name in beside {
        let why =
            "a tensor attribute that is neither parameter nor buffer is not in the state_dict";
        model.omitted.push((name, why.into()));
    }
    let constants = format!("{root}constants.pkl");
    let mut records = Records::new(archive, format!("{root}constants/"), "", big);
    let low = lower_record(archive, &constants, &mut records, options, depth)?;
    for t in low.tensors {
        let why = "a constant of the archive's code is no weight";
        model
            .omitted
            .push((format!("constants.{}", t.name), why.into()));
    }
    Ok(model)
}

/// The names that classes of the archive's code register, by class. The code is read as text for
/// its `__parameters__` and `__buffers__` lists; the format stores them nowhere else.
struct Code<'a> {
    archive: &'a Archive,
    root: &'a str,
    limit: u64,
    /// The classes of each file of code that was asked for.
    files: HashMap<String, HashMap<String, Names>>,
}

/// The names that one class registers.
type Names = Rc<HashSet<String>>;

impl<'a> Code<'a> {
    fn new(archive: &'a Archive, root: &'a str, limit: u64) -> Self {
        Self {
            archive,
            root,
            limit,
            files: HashMap::new(),
        }
    }

    /// The parameters and buffers of `class`, or `None` when its code is not in the archive.
    fn registered(&mut self, class: &str) -> Option<Names> {
        let (module, name) = class.rsplit_once('.')?;
        let (archive, root, limit) = (self.archive, self.root, self.limit);
        let classes = self.files.entry(module.to_owned()).or_insert_with(|| {
            let path = format!("{root}code/{}.py", module.replace('.', "/"));
            let bytes = archive
                .by_name(&path)
                .and_then(|m| archive.read(m, limit).ok());
            let text = bytes.and_then(|b| String::from_utf8(b).ok());
            classes(text.as_deref().unwrap_or_default())
        });
        classes.get(name).cloned()
    }
}

/// What every class in a file of code registers, in one pass: there may be as many modules as
/// lines.
fn classes(text: &str) -> HashMap<String, Names> {
    let mut out: HashMap<String, Names> = HashMap::new();
    let mut class: Option<(String, HashSet<String>)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("class ") {
            if let Some((name, names)) = class.take() {
                out.entry(name).or_insert_with(|| Rc::new(names));
            }
            class = rest
                .split_once('(')
                .map(|(name, _)| (name.to_owned(), HashSet::new()));
        } else if let Some((_, names)) = &mut class {
            let line = line.trim_start();
            if line.starts_with("__parameters__") || line.starts_with("__buffers__") {
                names.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }
    if let Some((name, names)) = class {
        out.entry(name).or_insert_with(|| Rc::new(names));
    }
    out
}

/// A module tree taken apart.
#[derive(Default)]
struct Tree {
    /// What `state_dict()` would give.
    flat: Vec<(Value, Value)>,
    /// Attributes that are no tensors.
    attributes: Vec<(Value, Value)>,
    /// Tensors that are neither parameters nor buffers.
    beside: HashSet<String>,
}

impl Tree {
    fn walk(&mut self, v: &Value, path: &str, code: &mut Code<'_>) {
        let Value::Object(o) = v else {
            return self.attribute(v, path);
        };
        let Some(Value::Dict(d)) = &o.state else {
            return;
        };
        let registered = code.registered(&o.class);
        for (k, v) in &d.entries {
            let k = super::lower::step_of(k);
            let place = if path.is_empty() {
                k.clone()
            } else {
                format!("{path}.{k}")
            };
            match v {
                Value::Tensor(name) if registered.as_ref().is_none_or(|r| r.contains(&k)) => {
                    self.flat.push((Value::Str(name.clone()), v.clone()));
                }
                Value::Object(_) => self.walk(v, &place, code),
                Value::Null => {}
                _ if INTERNALS.contains(&k.as_str()) => {}
                _ => self.attribute(v, &place),
            }
        }
    }

    fn attribute(&mut self, v: &Value, path: &str) {
        if !has_tensor(v) {
            self.attributes
                .push((Value::Str(path.to_owned()), v.clone()));
            return;
        }
        match v {
            Value::Tensor(name) => {
                self.beside.insert(name.clone());
            }
            Value::List(l) | Value::Tuple(l) => {
                for (i, v) in l.iter().enumerate() {
                    self.attribute(v, &format!("{path}.{i}"));
                }
            }
            Value::Dict(d) => {
                for (k, v) in &d.entries {
                    self.attribute(v, &format!("{path}.{}", super::lower::step_of(k)));
                }
            }
            _ => {}
        }
    }
}

fn has_tensor(v: &Value) -> bool {
    match v {
        Value::Tensor(_) => true,
        Value::List(l) | Value::Tuple(l) => l.iter().any(has_tensor),
        Value::Dict(d) => d.entries.iter().any(|(_, v)| has_tensor(v)),
        Value::Object(o) => o.state.as_ref().is_some_and(has_tensor),
        _ => false,
    }
}
