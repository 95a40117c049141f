use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use super::raw::Nested;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Index of a node in [`Trace::nodes`].
pub type NodeId = u32;

/// Bytes of a pickle: a range of the stream, or decoded ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blob {
    /// They stand in the stream as they are.
    At {
        /// First byte.
        start: usize,
        /// Length in bytes.
        len: usize,
    },
    /// They were decoded from an escaped form.
    Own(Box<[u8]>),
}

/// A global the pickle names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// The module, as written.
    pub module: String,
    /// The (perhaps dotted) name, as written.
    pub name: String,
    /// Offset of the opcode that names it.
    pub offset: usize,
}

/// Which opcode would call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CallOp {
    Reduce,
    NewObj,
    NewObjEx,
    Inst,
    Obj,
}

/// A call that a real unpickler would make, and what is done to its result afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Which opcode calls.
    pub op: CallOp,
    /// Offset of that opcode.
    pub offset: usize,
    /// What would be called: usually a [`Node::Global`].
    pub callee: NodeId,
    /// The positional arguments: usually a [`Node::Tuple`].
    pub args: NodeId,
    /// The keyword arguments of `NEWOBJ_EX`.
    pub kwargs: Option<NodeId>,
    /// States handed to `BUILD`, in order.
    pub states: Vec<NodeId>,
    /// Values appended or added, in order.
    pub items: Vec<NodeId>,
    /// Items set, in order.
    pub pairs: Vec<(NodeId, NodeId)>,
}

/// A `BUILD` on anything, for consumers that look for state set on classes and modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// What the state is set on.
    pub target: NodeId,
    /// The state.
    pub state: NodeId,
    /// Offset of the opcode.
    pub offset: usize,
}

/// One value of the abstract machine.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Node {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A wider integer, little-endian two's complement.
    BigInt(Blob),
    /// A wider integer written as text, with Python's base prefix if any.
    BigText(Box<str>),
    /// A double.
    Float(f64),
    /// Text (UTF-8; lone surrogates as Python's `surrogatepass` writes them).
    Str(Blob),
    /// A Python 2 `str`: bytes that Python 3 decodes with the caller's encoding.
    ByteStr(Blob),
    /// `bytes`.
    Bytes(Blob),
    /// `bytearray`.
    ByteArray(Blob),
    /// A tuple.
    Tuple(Box<[NodeId]>),
    /// A list.
    List(Vec<NodeId>),
    /// A dict, in insertion order, duplicates kept.
    Dict(Vec<(NodeId, NodeId)>),
    /// A set.
    Set(Vec<NodeId>),
    /// A frozen set.
    FrozenSet(Box<[NodeId]>),
    /// A global: an index into [`Trace::globals`].
    Global(u32),
    /// A global whose module or name is no constant string: nodes of both.
    DynamicGlobal(NodeId, NodeId),
    /// A persistent id.
    Persistent(NodeId),
    /// A call.
    Call(Box<Call>),
    /// An extension registry code.
    Extension(u32),
    /// An out-of-band buffer (`NEXT_BUFFER`).
    Buffer,
}

/// What a pickle would do, as data.
#[derive(Debug)]
pub struct Trace<'a> {
    /// The stream the trace was made from.
    pub data: &'a [u8],
    /// Every value made, in order of making: also those that were popped again.
    pub nodes: Vec<Node>,
    /// Every global named, in order.
    pub globals: Vec<Global>,
    /// Every `BUILD`, in order.
    pub builds: Vec<Build>,
    /// The value at `STOP`.
    pub root: Option<NodeId>,
    /// Position after `STOP`, or where the machine stopped.
    pub end: usize,
    /// Highest protocol a `PROTO` opcode named.
    pub protocol: u8,
    /// Ranges of the stream that are no opcodes: a [`RawArrays`] said that the loader reads them
    /// itself.
    ///
    /// [`RawArrays`]: super::RawArrays
    pub raw: Vec<Range<usize>>,
    /// Pickles that the loader reads from the middle of this one, in order.
    pub nested: Vec<Nested<'a>>,
    /// Number of opcodes executed.
    pub ops: u64,
    /// Why the stream broke before `STOP`, if it did. What came before has been recorded: a real
    /// unpickler would have executed it.
    pub error: Option<Error>,
    /// How much its readers have looked at.
    pub(super) work: Cell<u64>,
    /// How much they may.
    pub(super) work_limit: u64,
}

/// Work that every byte of a pickle is good for: reading it once by any consumer takes far less.
const WORK_PER_BYTE: u64 = 256;

impl<'a> Trace<'a> {
    /// An empty trace of `data`, which already holds `nodes`.
    pub(super) fn new(data: &'a [u8], nodes: Vec<Node>, limits: &Limits) -> Self {
        Self {
            data,
            nodes,
            globals: Vec::new(),
            builds: Vec::new(),
            raw: Vec::new(),
            nested: Vec::new(),
            root: None,
            end: 0,
            protocol: 0,
            ops: 0,
            error: None,
            work: Cell::new(0),
            work_limit: limits
                .spare_bytes
                .saturating_mul(3)
                .saturating_add((data.len() as u64).saturating_mul(WORK_PER_BYTE)),
        }
    }
}

impl Trace<'_> {
    /// Counts `n` bytes looked at (8 for an entry of a mapping). Any value can be referred to from
    /// many places, so what is cheap once may be asked for a million times.
    pub fn spend(&self, n: usize) {
        self.work.set(self.work.get().saturating_add(n as u64));
    }

    /// Refuses to go on when the readers of this trace have looked at far more than its length
    /// justifies. Whoever reads values in a loop asks this once a round.
    ///
    /// # Errors
    /// `Limit` with rule `pickle.too-much-work`.
    pub fn check_work(&self) -> Result<()> {
        if self.work.get() > self.work_limit {
            return Err(Error::limit(
                "pickle.too-much-work",
                "the pickle refers to its values so often that reading it takes no end",
            ));
        }
        Ok(())
    }

    /// The node `id`. An id out of range (which the machine never makes) reads as `None`.
    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    /// The bytes of `blob`.
    pub fn blob<'b>(&'b self, blob: &'b Blob) -> &'b [u8] {
        match blob {
            Blob::At { start, len } => self
                .data
                .get(*start..start.saturating_add(*len))
                .unwrap_or_default(),
            Blob::Own(b) => b,
        }
    }

    /// The text of a string node. A Python 2 string counts when it is UTF-8.
    pub fn text(&self, id: NodeId) -> Option<Cow<'_, str>> {
        match self.node(id) {
            Node::Str(b) => {
                let bytes = self.blob(b);
                self.spend(bytes.len());
                Some(String::from_utf8_lossy(bytes))
            }
            Node::ByteStr(b) => {
                let bytes = self.blob(b);
                self.spend(bytes.len());
                std::str::from_utf8(bytes).ok().map(Cow::Borrowed)
            }
            _ => None,
        }
    }

    /// Whether a node is the text `want`: [`Trace::text`] compared, without reading a long one.
    pub fn is_text(&self, id: NodeId, want: &str) -> bool {
        match self.node(id) {
            Node::Str(b) | Node::ByteStr(b) => self.blob(b) == want.as_bytes(),
            _ => false,
        }
    }

    /// The value of an integer node (a truth value counts, as in Python).
    pub fn int(&self, id: NodeId) -> Option<i64> {
        match self.node(id) {
            Node::Int(i) => Some(*i),
            Node::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    /// The digits of a wide integer, as [`decimal`] gives them.
    pub fn decimal(&self, blob: &Blob) -> String {
        let bytes = self.blob(blob);
        let quadratic = bytes.len().min(2048);
        self.spend(bytes.len().saturating_add(quadratic * quadratic / 8));
        decimal(bytes)
    }

    /// The items of a tuple or list node.
    pub fn items(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.node(id) {
            Node::Tuple(t) => Some(t),
            Node::List(l) => Some(l),
            _ => None,
        }
    }

    /// The entries of a plain dict node.
    pub fn dict(&self, id: NodeId) -> Option<&[(NodeId, NodeId)]> {
        match self.node(id) {
            Node::Dict(d) => Some(d),
            _ => None,
        }
    }

    /// The value under the string `key` of `pairs`; the last one set wins, as in Python.
    pub fn lookup(&self, pairs: &[(NodeId, NodeId)], key: &str) -> Option<NodeId> {
        self.spend(pairs.len().saturating_mul(8));
        pairs
            .iter()
            .rev()
            .find(|(k, _)| self.is_text(*k, key))
            .map(|(_, v)| *v)
    }

    /// The global a node stands for.
    pub fn global(&self, id: NodeId) -> Option<&Global> {
        match self.node(id) {
            Node::Global(g) => self.globals.get(*g as usize),
            _ => None,
        }
    }

    /// The dotted name of a global node: `module.name`.
    pub fn global_name(&self, id: NodeId) -> Option<String> {
        self.global(id).map(|g| format!("{}.{}", g.module, g.name))
    }

    /// A short Python-like rendering of a node for messages and evidence, at most about `budget`
    /// characters.
    pub fn render(&self, id: NodeId, budget: usize) -> String {
        let mut out = String::new();
        self.render_into(id, &mut out, budget, 0);
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

    fn render_into(&self, id: NodeId, out: &mut String, budget: usize, depth: u32) {
        use std::fmt::Write as _;
        if out.len() >= budget || depth > 8 {
            out.push('…');
            return;
        }
        let room = budget.saturating_sub(out.len()).max(8);
        let _ = match self.node(id) {
            Node::None => write!(out, "None"),
            Node::Bool(b) => write!(out, "{}", if *b { "True" } else { "False" }),
            Node::Int(i) => write!(out, "{i}"),
            Node::BigInt(b) => write!(out, "{}", self.decimal(b)),
            Node::BigText(t) => write!(out, "{}", t.get(..room).unwrap_or(t)),
            Node::Float(f) => write!(out, "{f:?}"),
            Node::Str(b) => {
                // As many characters as there is room for lie in four times as many bytes.
                let bytes = self.blob(b);
                let enough = bytes.len().min(room.saturating_mul(4));
                let s = String::from_utf8_lossy(bytes.get(..enough).unwrap_or_default());
                write!(out, "{:?}", s.chars().take(room).collect::<String>())
            }
            Node::ByteStr(b) | Node::Bytes(b) | Node::ByteArray(b) => {
                let b = self.blob(b);
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
            Node::Global(_) => write!(out, "{}", self.global_name(id).unwrap_or_default()),
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
                match self.items(c.args) {
                    Some(items) => self.render_list(items, out, budget, depth),
                    None => {
                        out.push('*');
                        self.render_into(c.args, out, budget, depth + 1);
                    }
                }
                write!(out, ")")
            }
            Node::Extension(code) => write!(out, "extension({code})"),
            Node::Buffer => write!(out, "buffer()"),
        };
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
