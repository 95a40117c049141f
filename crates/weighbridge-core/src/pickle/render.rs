//! Values as Python-like text.

use std::borrow::Cow;
use std::collections::HashMap;

use super::value::{Call, Node, NodeId, Trace};

impl Trace<'_> {
    /// A short Python-like rendering of a node for messages and evidence, at most about `budget`
    /// characters.
    pub fn render(&self, id: NodeId, budget: usize) -> String {
        Renderer::plain(self).value(id, budget)
    }

    /// The arguments of `call`, without the parentheses, as far as `budget` characters go.
    pub fn render_args(&self, call: &Call, budget: usize) -> String {
        Renderer::plain(self).args(call, budget)
    }
}

/// Renders values, those that have a variable as its name.
pub(super) struct Renderer<'r> {
    trace: &'r Trace<'r>,
    /// Nodes to the numbers of their variables.
    names: Option<&'r HashMap<NodeId, u32>>,
}

/// How deep values in values are shown.
const DEEPEST: u32 = 8;

impl<'r> Renderer<'r> {
    fn plain(trace: &'r Trace<'_>) -> Self {
        Self { trace, names: None }
    }

    pub(super) fn named(trace: &'r Trace<'_>, names: &'r HashMap<NodeId, u32>) -> Self {
        Self {
            trace,
            names: Some(names),
        }
    }

    pub(super) fn value(&self, id: NodeId, budget: usize) -> String {
        let mut out = String::new();
        self.render_into(id, &mut out, budget, 0);
        out
    }

    /// The value that made `id`, even where it has a name.
    pub(super) fn origin(&self, id: NodeId, budget: usize) -> String {
        let mut out = String::new();
        self.write_node(id, &mut out, budget, 0);
        out
    }

    pub(super) fn args(&self, call: &Call, budget: usize) -> String {
        let mut out = String::new();
        self.render_arguments(call, &mut out, budget, 0);
        out
    }

    fn render_list(&self, ids: &[NodeId], out: &mut String, budget: usize, depth: u32) {
        for (i, id) in ids.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            if out.len() >= budget {
                out.push('…');
                return;
            }
            self.render_into(*id, out, budget, depth + 1);
        }
    }

    fn render_arguments(&self, call: &Call, out: &mut String, budget: usize, depth: u32) {
        match self.trace.items(call.args) {
            Some(items) => self.render_list(items, out, budget, depth),
            None => {
                out.push('*');
                self.render_into(call.args, out, budget, depth + 1);
            }
        }
        if let Some(kwargs) = call.kwargs
            && self.trace.dict(kwargs).is_none_or(|d| !d.is_empty())
        {
            out.push_str(if out.ends_with('(') || out.is_empty() {
                "**"
            } else {
                ", **"
            });
            self.render_into(kwargs, out, budget, depth + 1);
        }
    }

    fn render_into(&self, id: NodeId, out: &mut String, budget: usize, depth: u32) {
        if out.len() >= budget || depth > DEEPEST {
            out.push('…');
            return;
        }
        match self.names.and_then(|names| names.get(&id)) {
            Some(n) => {
                out.push_str("_var");
                out.push_str(&n.to_string());
            }
            None => self.write_node(id, out, budget, depth),
        }
    }

    fn write_node(&self, id: NodeId, out: &mut String, budget: usize, depth: u32) {
        use std::fmt::Write as _;
        let trace = self.trace;
        let room = budget.saturating_sub(out.len()).max(8);
        let _ = match trace.node(id) {
            Node::None => write!(out, "None"),
            Node::Bool(b) => write!(out, "{}", if *b { "True" } else { "False" }),
            Node::Int(i) => write!(out, "{i}"),
            Node::BigInt(b) => write!(out, "{}", cut(&trace.decimal(b), room)),
            Node::BigText(t) => write!(out, "{}", cut(t, room)),
            Node::Float(f) => write!(out, "{f:?}"),
            Node::Str(b) | Node::ByteStr(b) => {
                // As many characters as there is room for lie in four times as many bytes.
                let bytes = trace.blob(b);
                let enough = bytes.len().min(room.saturating_mul(4));
                let s = String::from_utf8_lossy(bytes.get(..enough).unwrap_or_default());
                write!(out, "{:?}", s.chars().take(room).collect::<String>())
            }
            Node::Bytes(b) | Node::ByteArray(b) => {
                let b = trace.blob(b);
                write!(
                    out,
                    "b\"{}\"",
                    b.get(..room.min(b.len()))
                        .unwrap_or_default()
                        .escape_ascii()
                )
            }
            Node::Tuple(t) => {
                out.push('(');
                self.render_list(t, out, budget, depth);
                write!(out, "{})", if t.len() == 1 { "," } else { "" })
            }
            Node::List(l) => {
                out.push('[');
                self.render_list(l, out, budget, depth);
                write!(out, "]")
            }
            Node::Set(l) if l.is_empty() => write!(out, "set()"),
            Node::Set(l) => {
                out.push('{');
                self.render_list(l, out, budget, depth);
                write!(out, "}}")
            }
            Node::FrozenSet(l) => {
                out.push_str("frozenset({");
                self.render_list(l, out, budget, depth);
                write!(out, "}})")
            }
            Node::Dict(d) => {
                out.push('{');
                for (i, (k, v)) in d.iter().enumerate() {
                    if i > 0 {
                        out.push_str(", ");
                    }
                    if out.len() >= budget {
                        out.push('…');
                        break;
                    }
                    self.render_into(*k, out, budget, depth + 1);
                    out.push_str(": ");
                    self.render_into(*v, out, budget, depth + 1);
                }
                write!(out, "}}")
            }
            Node::Global(_) => write!(out, "{}", trace.global_name(id).unwrap_or_default()),
            Node::DynamicGlobal(m, n) => {
                out.push_str("import(");
                self.render_into(*m, out, budget, depth + 1);
                out.push_str(", ");
                self.render_into(*n, out, budget, depth + 1);
                write!(out, ")")
            }
            Node::Persistent(p) => {
                out.push_str("persistent(");
                self.render_into(*p, out, budget, depth + 1);
                write!(out, ")")
            }
            Node::Call(c) => {
                self.render_into(c.callee, out, budget, depth + 1);
                out.push('(');
                self.render_arguments(c, out, budget, depth);
                write!(out, ")")
            }
            Node::Extension(code) => write!(out, "extension({code})"),
            Node::Buffer => write!(out, "buffer()"),
        };
    }
}

/// At most about `room` characters of digits.
fn cut(digits: &str, room: usize) -> Cow<'_, str> {
    match digits.get(..room) {
        Some(head) if head.len() < digits.len() => Cow::Owned(format!("{head}…")),
        _ => Cow::Borrowed(digits),
    }
}

/// A little-endian two's complement integer in decimal; beyond 2 KiB, where decimal digits cost
/// quadratic time, in hexadecimal with a `0x` prefix.
pub fn decimal(bytes: &[u8]) -> String {
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut mag: Vec<u8> = bytes.to_vec();
    if negative {
        let mut carry = true;
        for b in &mut mag {
            let (v, c) = (!*b).overflowing_add(u8::from(carry));
            *b = v;
            carry = c;
        }
    }
    let sign = if negative { "-" } else { "" };
    while mag.last() == Some(&0) {
        mag.pop();
    }
    if mag.is_empty() {
        return "0".into();
    }
    if mag.len() > 2048 {
        let hex: String = mag.iter().rev().map(|b| format!("{b:02x}")).collect();
        return format!("{sign}0x{}", hex.trim_start_matches('0'));
    }
    let mut digits: Vec<u32> = Vec::new();
    let mut limbs: Vec<u32> = mag
        .chunks(4)
        .map(|c| c.iter().rev().fold(0u32, |n, &b| (n << 8) | u32::from(b)))
        .collect();
    while limbs.iter().any(|&l| l != 0) {
        let mut rest = 0u64;
        for l in limbs.iter_mut().rev() {
            let v = (rest << 32) | u64::from(*l);
            *l = (v / 1_000_000_000) as u32;
            rest = v % 1_000_000_000;
        }
        digits.push(rest as u32);
    }
    let mut out = String::from(sign);
    for (i, d) in digits.iter().rev().enumerate() {
        out.push_str(&if i == 0 {
            d.to_string()
        } else {
            format!("{d:09}")
        });
    }
    out
}
