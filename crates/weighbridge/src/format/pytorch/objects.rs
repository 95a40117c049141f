//! Classes whose meaning is known: containers, value classes, modules.

use std::collections::HashSet;

use weighbridge_core::model::{Dict, Object, Value};
use weighbridge_core::pickle::{Call, Node, NodeId};
use weighbridge_core::{Limits, Result};

use super::lower::{Lower, step_of};
use super::numpy;

/// The value that `call` would make, when its class is one whose meaning is known.
pub(super) fn value_class(s: &mut Lower<'_, '_>, call: &Call) -> Result<Option<Value>> {
    let trace = s.trace;
    let Some(g) = trace.global(call.callee) else {
        return Ok(None);
    };
    let args = trace.items(call.args).unwrap_or_default();
    let state = call.states.last().copied();
    let module = match g.module.as_str() {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        m => m,
    };
    Ok(Some(match (module, g.name.as_str()) {
        ("collections", "OrderedDict" | "Counter") => {
            let class = format!("collections.{}", g.name);
            let Some(pairs) = mapping_pairs(s, call) else {
                return Ok(None);
            };
            let entries = s.entries(&pairs)?;
            let attributes = s.attributes(state)?;
            Value::Dict(Dict {
                class: Some(class),
                entries,
                attributes,
            })
        }
        ("collections", "defaultdict") => {
            let entries = s.entries(&call.pairs)?;
            let mut attributes = s.attributes(state)?;
            if let Some(&factory) = args.first() {
                attributes.insert(0, ("default_factory".into(), s.plain(factory)?));
            }
            Value::Dict(Dict {
                class: Some("collections.defaultdict".into()),
                entries,
                attributes,
            })
        }
        ("builtins", "dict") if args.is_empty() => Value::Dict(Dict {
            entries: s.entries(&call.pairs)?,
            ..Dict::default()
        }),
        ("builtins" | "sets", "set" | "frozenset" | "Set") => {
            let items = match args.first() {
                None => Vec::new(),
                Some(&a) => match trace.node(a) {
                    Node::Set(l) | Node::List(l) => l.clone(),
                    _ => match trace.items(a) {
                        Some(l) => l.to_vec(),
                        None => return Ok(None),
                    },
                },
            };
            let items: Vec<NodeId> = items
                .into_iter()
                .chain(call.items.iter().copied())
                .collect();
            trace.spend(items.len().saturating_mul(8));
            let values = s.list(&items)?;
            if g.name == "frozenset" {
                Value::FrozenSet(values)
            } else {
                Value::Set(values)
            }
        }
        ("builtins", "list") if args.is_empty() => Value::List(s.list(&call.items)?),
        ("_codecs", "encode") | ("builtins", "bytes") => match bytes(s, call)? {
            Some(b) => Value::Bytes(b),
            None => return Ok(None),
        },
        ("builtins", "bytearray") => match bytes(s, call)? {
            Some(b) => Value::ByteArray(b),
            None => return Ok(None),
        },
        ("builtins", "complex") => {
            let part = |i: usize| match args.get(i).map(|&a| trace.node(a)) {
                Some(Node::Float(f)) => Some(*f),
                Some(Node::Int(n)) => Some(*n as f64),
                None => Some(0.0),
                _ => None,
            };
            match (part(0), part(1)) {
                (Some(re), Some(im)) => Value::Complex(re, im),
                _ => return Ok(None),
            }
        }
        ("torch", "Size") => {
            let Some(&[dims]) = trace.items(call.args) else {
                return Ok(None);
            };
            let dims = trace.items(dims).unwrap_or_default();
            s.charge(dims.len().saturating_mul(64))?;
            match dims
                .iter()
                .map(|&d| trace.int(d))
                .collect::<Option<Vec<i64>>>()
            {
                Some(d) => Value::Size(d),
                None => return Ok(None),
            }
        }
        ("torch", "device") => match args {
            [kind] => match s.text(*kind)? {
                Some(t) => Value::Device(t),
                None => return Ok(None),
            },
            [kind, index] => match (s.text(*kind)?, trace.int(*index)) {
                (Some(t), Some(i)) => Value::Device(format!("{t}:{i}")),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        },
        ("torch.serialization", "_get_layout") => match args.first() {
            Some(&a) => match s.text(a)? {
                Some(t) => Value::Global(t),
                None => return Ok(None),
            },
            None => return Ok(None),
        },
        // TorchScript tags its containers with their types.
        ("torch.jit._pickle", "restore_type_tag") => match args.first() {
            Some(&inner) => s.value(inner)?,
            None => return Ok(None),
        },
        (
            "torch.jit._pickle",
            "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist",
        ) => match args.first().and_then(|&a| trace.items(a)) {
            Some(items) => Value::List(s.list(items)?),
            None => return Ok(None),
        },
        (m, _) if m == "numpy" || m.starts_with("numpy.") => return numpy_value(s, call),
        _ => match text_of(s, module, &g.name, call) {
            Some(text) => {
                s.charge(text.len().saturating_mul(3))?;
                let args = s.plain_args(args)?;
                let class = format!("{module}.{}", g.name);
                let object = Object {
                    class,
                    args,
                    text: Some(text),
                    ..Object::default()
                };
                Value::Object(Box::new(object))
            }
            None => return Ok(None),
        },
    }))
}

impl Lower<'_, '_> {
    /// The arguments of a value class: no tensors in them, no names.
    fn plain_args(&mut self, args: &[NodeId]) -> Result<Vec<Value>> {
        args.iter().map(|&a| self.plain(a)).collect()
    }

    /// The text of a node, copied.
    fn text(&mut self, id: NodeId) -> Result<Option<String>> {
        let text = self.trace.text(id);
        self.charge(text.as_ref().map_or(0, |t| t.len()).saturating_mul(2))?;
        Ok(text.map(|t| t.into_owned()))
    }
}

fn mapping_pairs(s: &Lower<'_, '_>, call: &Call) -> Option<Vec<(NodeId, NodeId)>> {
    let mut out = Vec::new();
    let spend = |n: usize| s.trace.spend(n.saturating_mul(8));
    spend(call.pairs.len());
    if let Some(&[first]) = s.trace.items(call.args) {
        match s.pairs(first) {
            Some(p) => out = p,
            None => {
                spend(s.trace.items(first)?.len());
                for &item in s.trace.items(first)? {
                    let &[k, v] = s.trace.items(item)? else {
                        return None;
                    };
                    out.push((k, v));
                }
            }
        }
    }
    out.extend_from_slice(&call.pairs);
    Some(out)
}

fn bytes(s: &mut Lower<'_, '_>, call: &Call) -> Result<Option<Vec<u8>>> {
    let bytes = numpy::bytes_of_call(s.trace, call);
    s.charge(bytes.as_ref().map_or(0, |b| b.len()).saturating_mul(3))?;
    Ok(bytes.map(|b| b.into_owned()))
}

fn numpy_value(s: &mut Lower<'_, '_>, call: &Call) -> Result<Option<Value>> {
    let trace = s.trace;
    if let Some(v) = numpy::scalar(trace, call) {
        if let Value::NpScalar { text, raw, .. } = &v {
            s.charge(text.len().saturating_add(raw.len()).saturating_mul(3))?;
        }
        return Ok(Some(v));
    }
    let limits: &Limits = s.limits;
    if let Some(a) = numpy::array(trace, call, limits)? {
        s.charge(a.data.len().saturating_mul(3).saturating_add(1024))?;
        return Ok(Some(Value::NdArray(a)));
    }
    if trace.global(call.callee).is_some_and(|g| g.name == "dtype")
        && let Some(name) = numpy::dtype_name_of_call(trace, call)
    {
        let object = Object {
            class: "numpy.dtype".into(),
            text: Some(name),
            ..Object::default()
        };
        return Ok(Some(Value::Object(Box::new(object))));
    }
    Ok(None)
}

/// What `str()` prints for the value classes people keep in checkpoints.
fn text_of(s: &Lower<'_, '_>, module: &str, class: &str, call: &Call) -> Option<String> {
    let trace = s.trace;
    let args = trace.items(call.args)?;
    let int = |i: usize| args.get(i).and_then(|&a| trace.int(a));
    match (module, class) {
        (
            m,
            "PosixPath" | "PurePosixPath" | "Path" | "PurePath" | "WindowsPath" | "PureWindowsPath",
        ) if m.starts_with("pathlib") => {
            let windows = class.contains("Windows");
            let parts: Option<Vec<_>> = args.iter().map(|&a| trace.text(a)).collect();
            let parts = parts?;
            let sep = if windows { "\\" } else { "/" };
            let text = match parts.split_first() {
                None => ".".to_owned(),
                Some((root, rest)) if root.ends_with(sep) => format!("{root}{}", rest.join(sep)),
                Some(_) => parts.join(sep),
            };
            Some(text)
        }
        ("datetime", "datetime") if args.len() == 1 => {
            let b = numpy::bytes_of(trace, *args.first()?)?;
            let &[y1, y0, mo, d, h, mi, se, u2, u1, u0] = b.as_ref() else {
                return None;
            };
            let year = u16::from_be_bytes([y1, y0]);
            let micro = u32::from_be_bytes([0, u2, u1, u0]);
            let tail = if micro > 0 {
                format!(".{micro:06}")
            } else {
                String::new()
            };
            Some(format!(
                "{year:04}-{:02}-{d:02} {h:02}:{mi:02}:{se:02}{tail}",
                mo & 0x7f
            ))
        }
        ("datetime", "date") => {
            let b = numpy::bytes_of(trace, *args.first()?)?;
            let &[y1, y0, mo, d] = b.as_ref() else {
                return None;
            };
            Some(format!(
                "{:04}-{mo:02}-{d:02}",
                u16::from_be_bytes([y1, y0])
            ))
        }
        ("datetime", "time") if args.len() == 1 => {
            let b = numpy::bytes_of(trace, *args.first()?)?;
            let &[h, mi, se, u2, u1, u0] = b.as_ref() else {
                return None;
            };
            let micro = u32::from_be_bytes([0, u2, u1, u0]);
            let tail = if micro > 0 {
                format!(".{micro:06}")
            } else {
                String::new()
            };
            Some(format!("{:02}:{mi:02}:{se:02}{tail}", h & 0x7f))
        }
        ("datetime", "timedelta") => {
            let (days, secs, micro) = (int(0)?, int(1).unwrap_or(0), int(2).unwrap_or(0));
            let plural = if days.unsigned_abs() == 1 { "" } else { "s" };
            let lead = if days == 0 {
                String::new()
            } else {
                format!("{days} day{plural}, ")
            };
            let tail = if micro > 0 {
                format!(".{micro:06}")
            } else {
                String::new()
            };
            let (h, m, sec) = (secs / 3600, secs / 60 % 60, secs % 60);
            Some(format!("{lead}{h}:{m:02}:{sec:02}{tail}"))
        }
        ("fractions", "Fraction") if args.len() == 2 => Some(format!("{}/{}", int(0)?, int(1)?)),
        ("decimal", "Decimal") | ("fractions", "Fraction") => {
            trace.text(*args.first()?).map(|t| t.into_owned())
        }
        ("uuid", "UUID") => {
            let state = trace.dict(*call.states.last()?)?;
            let n = trace.lookup(state, "int")?;
            let mut b = match trace.node(n) {
                Node::BigInt(blob) => trace.blob(blob).to_vec(),
                Node::Int(i) if *i >= 0 => i.to_le_bytes().to_vec(),
                _ => return None,
            };
            while b.last() == Some(&0) {
                b.pop();
            }
            if b.len() > 16 {
                return None;
            }
            b.resize(16, 0);
            b.reverse();
            let h = hex::encode(&b);
            Some(format!(
                "{}-{}-{}-{}-{}",
                h.get(..8)?,
                h.get(8..12)?,
                h.get(12..16)?,
                h.get(16..20)?,
                h.get(20..)?
            ))
        }
        _ => None,
    }
}

/// Attributes every `nn.Module` has, which say nothing of the model.
const MODULE_INTERNALS: &[&str] = &[
    "training",
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
];

/// A pickled `nn.Module`, named as its `state_dict()` would be: own parameters, own persistent
/// buffers, then the children (`torch/nn/modules/module.py`, `_save_to_state_dict`).
pub(super) fn module(s: &mut Lower<'_, '_>, call: &Call) -> Result<Option<Value>> {
    let trace = s.trace;
    let Some(state) = module_state(s, call) else {
        return Ok(None);
    };
    if s.is_quiet() {
        return Ok(None);
    }
    let class = s.class_name(call.callee);
    let class = match trace.items(call.args).and_then(|a| a.first()) {
        Some(&real) if class.ends_with("._reconstructor") => s.class_name(real),
        _ => class,
    };
    let mut flat = Vec::new();
    let mut beside = Vec::new();
    s.deeper(|s| collect(s, &state, "", &mut flat, &mut beside))?;
    if !beside.is_empty() {
        let what = if s.place().is_empty() {
            class.clone()
        } else {
            s.place().to_owned()
        };
        beside.sort();
        beside.dedup();
        let shown: Vec<String> = beside.iter().take(8).cloned().collect();
        let more = if beside.len() > 8 { ", …" } else { "" };
        let why = format!(
            "attributes of the pickled modules that are not in their state_dict: {}{more}",
            shown.join(", ")
        );
        s.charge(why.len())?;
        s.omit(what, why);
    }
    let dict = Dict {
        entries: flat,
        ..Dict::default()
    };
    let object = Object {
        class,
        state_dict: Some(Value::Dict(dict)),
        ..Object::default()
    };
    Ok(Some(Value::Object(Box::new(object))))
}

/// The instance dict of a module, or `None` for other objects.
fn module_state(s: &Lower<'_, '_>, call: &Call) -> Option<Vec<(NodeId, NodeId)>> {
    let state = call.states.iter().rev().find_map(|&st| s.pairs(st))?;
    let has = |key| {
        s.trace
            .lookup(&state, key)
            .and_then(|v| s.pairs(v))
            .is_some()
    };
    (has("_parameters") && has("_modules")).then_some(state)
}

fn collect(
    s: &mut Lower<'_, '_>,
    state: &[(NodeId, NodeId)],
    prefix: &str,
    flat: &mut Vec<(Value, Value)>,
    beside: &mut Vec<String>,
) -> Result<()> {
    let trace = s.trace;
    let skip: HashSet<String> = trace
        .lookup(state, "_non_persistent_buffers_set")
        .map(|id| match trace.node(id) {
            Node::Set(l) => l.clone(),
            Node::Call(c) => {
                trace.spend(c.items.len().saturating_mul(8));
                let inner = trace.items(c.args).and_then(|a| a.first().copied());
                let mut items = inner
                    .and_then(|i| trace.items(i))
                    .unwrap_or_default()
                    .to_vec();
                items.extend_from_slice(&c.items);
                items
            }
            _ => Vec::new(),
        })
        .unwrap_or_default()
        .into_iter()
        // Longer than any name may be; shared by many, they would fill the memory.
        .filter_map(|i| trace.text(i).filter(|t| t.len() < 4096))
        .map(|t| t.into_owned())
        .collect();
    trace.spend(skip.len().saturating_mul(64));
    trace.check_work()?;
    for (group, persistent_only) in [("_parameters", false), ("_buffers", true)] {
        let Some(pairs) = trace.lookup(state, group).and_then(|id| s.pairs(id)) else {
            continue;
        };
        for (k, v) in pairs {
            let key = s.plain(k)?;
            let step = step_of(&key);
            if matches!(trace.node(v), Node::None) || (persistent_only && skip.contains(&step)) {
                continue;
            }
            let name = format!("{prefix}{step}");
            s.charge(name.len().saturating_mul(2))?;
            let value = s.at(&name, |s| s.value(v))?;
            flat.push((Value::Str(name), value));
        }
    }
    for (k, _) in state {
        if let Some(name) = trace.text(*k) {
            let hook = name.ends_with("_hooks")
                || name.ends_with("_hooks_with_kwargs")
                || name.ends_with("_hooks_always_called");
            if !MODULE_INTERNALS.contains(&name.as_ref()) && !hook {
                s.charge(name.len().saturating_add(64))?;
                beside.push(name.into_owned());
            }
        }
    }
    let children = trace
        .lookup(state, "_modules")
        .and_then(|id| s.pairs(id))
        .unwrap_or_default();
    for (k, v) in children {
        let Node::Call(c) = trace.node(v) else {
            continue;
        };
        let Some(inner) = module_state(s, c) else {
            continue;
        };
        let key = s.plain(k)?;
        let prefix = format!("{prefix}{}.", step_of(&key));
        // The prefixes of all levels are in memory together.
        s.at(&prefix, |_| Ok(()))?;
        s.deeper(|s| collect(s, &inner, &prefix, flat, beside))?;
    }
    Ok(())
}
