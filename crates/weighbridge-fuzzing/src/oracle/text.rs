//! A trace in the oracle's words.

use std::collections::HashMap;
use std::fmt::Write as _;

use weighbridge_core::pickle::{Event, Node, NodeId, Op, Trace, decimal};

/// FNV-1a of 32 bits, each part ended by a NUL.
pub(super) fn fnv<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> u32 {
    let mut h = 0x811c_9dc5u32;
    for part in parts {
        for b in part.as_ref().bytes().chain([0]) {
            h = (h ^ u32::from(b)).wrapping_mul(0x0100_0193);
        }
    }
    h
}

/// Events of one trace, spelled as the script spells them.
pub(super) struct Told<'t> {
    trace: &'t Trace<'t>,
    /// Numbers of the stand-ins in the order in which events made them.
    numbers: HashMap<NodeId, usize>,
}

/// Deeper values are cut, here as there.
const DEEPEST: u32 = 5;

impl<'t> Told<'t> {
    pub(super) fn new(trace: &'t Trace<'t>) -> Self {
        let mut numbers = HashMap::new();
        for (_, e) in &trace.events {
            if let Event::Import(id) | Event::Call(id) | Event::Persistent(id) = e {
                let n = numbers.len();
                numbers.insert(*id, n);
            }
        }
        Self { trace, numbers }
    }

    /// All events; without the values in them as an outline.
    pub(super) fn events(&self, outline: bool) -> Vec<String> {
        let mut out = Vec::new();
        for (_, e) in &self.trace.events {
            self.event(*e, outline, &mut out);
        }
        out
    }

    fn event(&self, event: Event, outline: bool, out: &mut Vec<String>) {
        let t = self.trace;
        match event {
            Event::Import(id) => match (t.node(id), t.global(id)) {
                (_, Some(g)) => out.push(format!("G {} {}", string(&g.module), string(&g.name))),
                (node, None) => out.push(format!("? {node:?}")),
            },
            Event::Persistent(id) => {
                let Node::Persistent(pid) = t.node(id) else {
                    return;
                };
                out.push(if outline {
                    "P".into()
                } else {
                    format!("P {}", self.text(*pid))
                });
            }
            Event::Call(id) => {
                let Node::Call(c) = t.node(id) else { return };
                let mut line = format!("C {}", self.text(c.callee));
                if !outline {
                    let kwargs = c.kwargs.map_or_else(|| "{}".into(), |k| self.text(k));
                    let _ = write!(line, " {} {kwargs}", self.text(c.args));
                }
                out.push(line);
            }
            Event::Build(i) => {
                let Some(b) = t.builds.get(i as usize) else {
                    return;
                };
                // A plain value takes no state: a real unpickler fails, or does nothing.
                if self.numbers.contains_key(&b.target) {
                    let state = if outline {
                        String::new()
                    } else {
                        format!(" {}", self.text(b.state))
                    };
                    out.push(format!("B {}{state}", self.text(b.target)));
                }
            }
            Event::Change(i) => {
                let Some(c) = t.changes.get(i as usize) else {
                    return;
                };
                if !self.numbers.contains_key(&c.target) {
                    return;
                }
                let keyed = matches!(c.op, Op::SETITEM | Op::SETITEMS);
                let (letter, size) = if keyed { ('S', 2) } else { ('I', 1) };
                for items in c.items.chunks_exact(size) {
                    let mut line = format!("{letter} {}", self.text(c.target));
                    for id in items.iter().filter(|_| !outline) {
                        let _ = write!(line, " {}", self.text(*id));
                    }
                    out.push(line);
                }
            }
        }
    }

    /// A value.
    pub(super) fn text(&self, id: NodeId) -> String {
        self.value(id, 0)
    }

    fn value(&self, id: NodeId, depth: u32) -> String {
        if depth > DEEPEST {
            return "~".into();
        }
        if let Some(n) = self.numbers.get(&id) {
            return format!("#{n}");
        }
        let t = self.trace;
        let list = |ids: &[NodeId]| {
            let all: Vec<String> = ids.iter().map(|i| self.value(*i, depth + 1)).collect();
            all.join(",")
        };
        match t.node(id) {
            Node::None => "N".into(),
            Node::Bool(true) => "T".into(),
            Node::Bool(false) => "F".into(),
            Node::Int(v) => v.to_string(),
            Node::BigInt(b) => t.decimal(b),
            Node::BigText(s) => wide(s),
            Node::Float(v) if v.is_nan() => "nan".into(),
            Node::Float(v) => format!("f{:016x}", v.to_bits()),
            Node::Str(b) => format!("s{}", hex(t.blob(b))),
            Node::ByteStr(b) => {
                let text: String = t.blob(b).iter().copied().map(char::from).collect();
                string(&text)
            }
            Node::Bytes(b) => format!("b{}", hex(t.blob(b))),
            Node::ByteArray(b) => format!("y{}", hex(t.blob(b))),
            Node::Tuple(v) => format!("({})", list(v)),
            Node::List(v) => format!("[{}]", list(v)),
            Node::Dict(pairs) => {
                let all: Vec<String> = self
                    .unique(pairs)
                    .into_iter()
                    .map(|(k, v)| {
                        format!("{}:{}", self.value(k, depth + 1), self.value(v, depth + 1))
                    })
                    .collect();
                format!("{{{}}}", all.join(","))
            }
            Node::Set(v) => self.set(v, depth),
            Node::FrozenSet(v) => self.set(v, depth),
            other => format!("?{other:?}"),
        }
    }

    fn set(&self, items: &[NodeId], depth: u32) -> String {
        let pairs: Vec<_> = items.iter().map(|&i| (i, i)).collect();
        let mut all: Vec<String> = self
            .unique(&pairs)
            .into_iter()
            .map(|(k, _)| self.value(k, depth + 1))
            .collect();
        all.sort();
        format!("<{}>", all.join(","))
    }

    /// Entries by the rules of a dict: the first of equal keys, the last of their values.
    fn unique(&self, pairs: &[(NodeId, NodeId)]) -> Vec<(NodeId, NodeId)> {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut out: Vec<(NodeId, NodeId)> = Vec::new();
        for &(k, v) in pairs {
            let form = self.key(k, 0);
            match places.get(&form).and_then(|&i| out.get_mut(i)) {
                Some(entry) => entry.1 = v,
                None => {
                    places.insert(form, out.len());
                    out.push((k, v));
                }
            }
        }
        out
    }

    /// What two keys share exactly when Python finds them equal.
    fn key(&self, id: NodeId, depth: u32) -> String {
        if depth > 64 {
            return format!("~{id}");
        }
        match self.trace.node(id) {
            Node::Bool(b) => i64::from(*b).to_string(),
            // Equal to itself only.
            Node::Float(v) if v.is_nan() => format!("nan{id}"),
            Node::Float(v) if v.fract() == 0.0 && v.abs() < 1e15 => (*v as i64).to_string(),
            Node::Tuple(items) => {
                let all: Vec<String> = items.iter().map(|i| self.key(*i, depth + 1)).collect();
                format!("({})", all.join(","))
            }
            Node::FrozenSet(items) => {
                let mut all: Vec<String> = items.iter().map(|i| self.key(*i, depth + 1)).collect();
                all.sort();
                all.dedup();
                format!("<{}>", all.join(","))
            }
            _ => self.value(id, DEEPEST),
        }
    }
}

fn string(text: &str) -> String {
    format!("s{}", hex(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// A wide number of the text opcodes, in decimal.
fn wide(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    let bits = match digits.get(..2) {
        Some("0x") => 4,
        Some("0o") => 3,
        Some("0b") => 1,
        _ => return text.to_owned(),
    };
    // Bits from the lowest up, then bytes.
    let mut low: Vec<bool> = Vec::new();
    for c in digits.chars().skip(2).collect::<Vec<_>>().iter().rev() {
        let v = c.to_digit(1 << bits).unwrap_or_default();
        low.extend((0..bits).map(|i| v >> i & 1 == 1));
    }
    let mut bytes: Vec<u8> = low
        .chunks(8)
        .map(|c| c.iter().rev().fold(0, |n, &b| n << 1 | u8::from(b)))
        .collect();
    bytes.push(0);
    format!("{sign}{}", decimal(&bytes))
}
