use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use super::compat;
use super::opcode::Op;
use super::raw::Nested;
use super::render::decimal;
use crate::error::{Error, ErrorKind, Result};
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
    /// The protocol that the last `PROTO` before it named, 0 if none: from 4 on a dotted name is
    /// walked attribute by attribute, and below 3 the names of Python 2 are translated.
    pub protocol: u8,
}

impl Global {
    /// Module and name as Python 3 resolves them: below protocol 3 the names of Python 2 are
    /// translated.
    pub fn resolved(&self) -> (&str, &str) {
        let renamed = (self.protocol < 3).then(|| compat::renamed(&self.module, &self.name));
        renamed.flatten().unwrap_or((&self.module, &self.name))
    }

    /// Whether the unpickler walks the name at its dots. Below protocol 4 it looks for one
    /// attribute of the whole name, which no module has.
    pub fn is_walked(&self) -> bool {
        self.protocol >= 4 && self.name.contains('.')
    }
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

/// Items appended to, added to or set on anything that is no plain list, dict or set: the
/// unpickler calls whatever method of that name it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is changed.
    pub target: NodeId,
    /// `APPEND`, `APPENDS`, `ADDITEMS`, `SETITEM` or `SETITEMS`.
    pub op: Op,
    /// The items; for `SETITEM` and `SETITEMS` keys and values in turn.
    pub items: Box<[NodeId]>,
    /// Offset of the opcode.
    pub offset: usize,
}

/// What a real unpickler does beside making plain values, in the order it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A global is imported, or an extension code looked up: the node.
    Import(NodeId),
    /// Something is called: the [`Node::Call`].
    Call(NodeId),
    /// The loader is asked for a persistent id: the [`Node::Persistent`].
    Persistent(NodeId),
    /// State is set: an index into [`Trace::builds`].
    Build(u32),
    /// Items are set, added or appended: an index into [`Trace::changes`].
    Change(u32),
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
    /// All that is imported, called or changed, in order, each with the offset of its opcode.
    pub events: Vec<(usize, Event)>,
    /// Every `BUILD`, in order.
    pub builds: Vec<Build>,
    /// Every change of what is no plain list, dict or set, in order.
    pub changes: Vec<Change>,
    /// The value at `STOP`, when the stream came that far.
    pub root: Option<NodeId>,
    /// Position after `STOP`, or where the machine stopped.
    pub end: usize,
    /// End of the last frame, when it reaches past `end`: some readers have taken it from the file
    /// whole, and a next `load` from that file starts there.
    pub frame_end: Option<usize>,
    /// What other readers see, when an opcode crosses the end of its frame: the C unpickler of
    /// Python before 3.13.15 and 3.14.7 drops the rest of a frame that it has read from a file,
    /// and executes other bytes than one that reads on.
    pub readings: Vec<Trace<'a>>,
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
    /// What is wrong with the stream, if anything. What came before has been recorded: a real
    /// unpickler would have executed it. With a `root` it is a fault that CPython's C unpickler
    /// gives up at and the one written in Python does not.
    pub error: Option<Error>,
    /// About how many bytes all of this takes.
    pub memory: u64,
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
            events: Vec::new(),
            builds: Vec::new(),
            changes: Vec::new(),
            raw: Vec::new(),
            nested: Vec::new(),
            root: None,
            end: 0,
            frame_end: None,
            readings: Vec::new(),
            protocol: 0,
            ops: 0,
            error: None,
            memory: 0,
            work: Cell::new(0),
            work_limit: limits
                .spare_bytes
                .saturating_mul(3)
                .saturating_add((data.len() as u64).saturating_mul(WORK_PER_BYTE)),
        }
    }
}

impl Trace<'_> {
    /// Whether more bytes could change what this says: it, another reading or a pickle inside it
    /// ran out of them.
    pub fn is_cut_short(&self) -> bool {
        let truncated = |e: &Error| e.kind() == ErrorKind::Truncated;
        self.error.as_ref().is_some_and(truncated)
            || self.readings.iter().any(Self::is_cut_short)
            || self.nested.iter().any(|n| n.trace.is_cut_short())
    }

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

    /// The text of a string node. A Python 2 string counts when it is UTF-8: what it is decoded
    /// with is the loader's choice, and all usual choices agree on ASCII.
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
}
