//! The machine itself: one opcode after the other, by the rules of CPython's `Modules/_pickle.c`.

mod call;
mod container;
mod memo;
mod reading;
mod scalar;
#[cfg(test)]
mod tests;

use super::input::Input;
use super::opcode::Op;
use super::raw::{Nested, NoArrays, Raw, RawArrays};
use super::value::{Event, Node, NodeId, Trace};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limits;
use memo::Memo;
pub(super) use reading::{PREFETCH, Reading};

/// Node ids have 32 bits; an opcode makes a few nodes.
const MOST_NODES: u64 = (1 << 32) - 16;

/// Memory that a byte of a stream is good for: dates and other small objects, one call for ten
/// bytes, take about as much. An opcode can make a hundred times its length.
const MEMORY_PER_BYTE: u64 = 24;

/// Memory that any stream may take beyond that.
const SPARE_MEMORY: u64 = 64 << 20;

/// Nodes that every stream shares: `None`, the two truth values, the empty tuple.
const NONE: NodeId = 0;
const FALSE: NodeId = 1;
const TRUE: NodeId = 2;
const EMPTY: NodeId = 3;

/// Runs the first pickle in `data` to its `STOP` opcode.
///
/// A stream that breaks is no `Err`: the trace then carries `error` and all that came before it,
/// because a real unpickler would have executed that much.
pub fn run<'a>(data: &'a [u8], limits: &Limits) -> Trace<'a> {
    run_with(data, limits, &mut NoArrays)
}

/// Runs the first pickle in `data` like [`run`], for loaders that read raw bytes out of the middle
/// of the stream: `arrays` is asked after every `BUILD`, in each reading anew.
pub fn run_with<'a>(data: &'a [u8], limits: &Limits, arrays: &mut dyn RawArrays) -> Trace<'a> {
    reading::all(data, limits, arrays)
}

/// One reading of the pickle in `data`, and what its frames made it decide.
fn run_once<'a>(
    data: &'a [u8],
    limits: &Limits,
    arrays: &mut dyn RawArrays,
    reading: Reading,
) -> (Trace<'a>, Vec<bool>) {
    let shared = vec![
        Node::None,
        Node::Bool(false),
        Node::Bool(true),
        Node::Tuple(Box::default()),
    ];
    let mut m = Machine {
        input: Input::new(data, reading),
        trace: Trace::new(data, shared, limits),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
        small: [NONE; SMALL],
        at: 0,
        protocol: 0,
        fault: None,
        names_left: data.len().saturating_mul(16).saturating_add(8 << 20),
        heap: 0,
        hash_work: 1 << 20,
        copies_left: data.len().saturating_add(16 << 20),
    };
    let done = m.run(limits, arrays);
    m.finish(done)
}

/// The integers from -1 to 255 are made once.
const SMALL: usize = 257;

struct Machine<'a> {
    input: Input<'a>,
    trace: Trace<'a>,
    stack: Vec<NodeId>,
    /// Stack heights at which the open `MARK`s stand; below the last one no opcode reaches.
    marks: Vec<usize>,
    memo: Memo,
    /// Nodes of the small integers, `NONE` where there is none yet.
    small: [NodeId; SMALL],
    /// Offset of the opcode that runs.
    at: usize,
    /// What the last `PROTO` said.
    protocol: u8,
    /// The first fault that stops only some unpicklers.
    fault: Option<Error>,
    /// Bytes that the names of globals may still take: `STACK_GLOBAL` copies them from strings
    /// that many globals can share.
    names_left: usize,
    /// Bytes that the values take beside the nodes themselves.
    heap: u64,
    /// Steps that looking for unhashable keys may still take.
    hash_work: u32,
    /// Bytes of bytearrays that may still be copied to change them.
    copies_left: usize,
}

fn bad<T>(rule: &'static str, message: impl Into<String>) -> Result<T> {
    Err(Error::malformed(rule, message))
}

impl<'a> Machine<'a> {
    fn run(&mut self, limits: &Limits, arrays: &mut dyn RawArrays) -> Result<()> {
        let most_nodes = limits.values.min(MOST_NODES);
        let justified = (self.trace.data.len() as u64).saturating_mul(MEMORY_PER_BYTE);
        let most_memory = limits
            .pickle_memory
            .min(justified.saturating_add(SPARE_MEMORY));
        loop {
            self.at = self.input.pos();
            if self.trace.ops >= limits.pickle_ops {
                return Err(Error::limit("pickle.too-many-opcodes", "too many opcodes"));
            }
            let nodes = self.trace.nodes.len() as u64;
            if nodes > most_nodes {
                return Err(Error::limit("pickle.too-many-values", "too many values"));
            }
            if self.memory() > most_memory {
                return Err(Error::limit(
                    "pickle.too-much-memory",
                    "the values take more memory than a pickle may",
                ));
            }
            let Some(byte) = self.input.opcode() else {
                return Err(Error::truncated(
                    "pickle.no-stop",
                    "the stream ends without STOP",
                ));
            };
            // A frame may have been left behind on the way.
            self.at = self.input.pos().saturating_sub(1);
            self.trace.ops += 1;
            let Some(op) = Op::from_byte(byte) else {
                return bad(
                    "pickle.unknown-opcode",
                    format!("no opcode has the byte {byte:#04x}"),
                );
            };
            if op == Op::STOP {
                self.trace.root = Some(self.pop()?);
                return Ok(());
            }
            self.step(op)?;
            if op == Op::BUILD {
                self.raw(limits, arrays)?;
            }
        }
    }

    /// Makes the trace, with the error that stopped the machine or the first fault before it.
    fn finish(mut self, done: Result<()>) -> (Trace<'a>, Vec<bool>) {
        if let Some(at) = self.input.crossed_at {
            self.soften(
                Error::malformed(
                    "pickle.frame-crossed",
                    "an opcode crosses the end of its frame, where readers part",
                )
                .at(at as u64),
            );
        }
        // What is made of bytes that end too early says less than that they do.
        let early = |e: &Error| e.kind() == ErrorKind::Truncated;
        let error = match done {
            Err(e) if early(&e) || !self.fault.as_ref().is_some_and(early) => Some(self.place(e)),
            _ => self.fault.take(),
        };
        let memory = self.memory();
        let mut trace = self.trace;
        trace.memory = memory;
        trace.error = error;
        trace.end = self.input.pos();
        trace.frame_end = self.input.frame_end().map(|_| self.input.file_pos());
        (trace, self.input.decided)
    }

    /// `e` with the offset and name of the opcode that runs.
    fn place(&self, e: Error) -> Error {
        let byte = self.trace.data.get(self.at);
        let op = byte.and_then(|b| Op::from_byte(*b)).map_or("?", Op::name);
        let number = self.trace.ops.saturating_sub(1);
        let e = if e.byte_span().is_some() {
            e
        } else {
            e.at(self.at as u64)
        };
        e.within(op).within(format!("opcode {number}"))
    }

    /// Records a fault that stops some unpicklers and not others: the machine goes on.
    fn soften(&mut self, e: Error) {
        if self.fault.is_none() {
            self.fault = Some(self.place(e));
        }
    }

    /// Steps over what the loader reads from the file itself after a `BUILD`.
    fn raw(&mut self, limits: &Limits, arrays: &mut dyn RawArrays) -> Result<()> {
        let Some(&build) = self.trace.builds.last() else {
            return Ok(());
        };
        let at = self.input.file_pos();
        match arrays.after_build(&self.trace, &build, at)? {
            Raw::Nothing => {}
            Raw::Skip(n) => {
                self.input.skip(n)?;
                self.trace.raw.push(at..at.saturating_add(n));
            }
            Raw::Nested => {
                let rest = self.trace.data.get(at..).unwrap_or_default();
                let mut inner = limits.clone();
                inner.pickle_ops = limits.pickle_ops.saturating_sub(self.trace.ops);
                inner.pickle_memory = limits.pickle_memory.saturating_sub(self.memory());
                let trace = run(rest, &inner);
                self.trace.ops = self.trace.ops.saturating_add(trace.ops);
                let used = trace.memory.saturating_add(size_of::<Nested<'_>>() as u64);
                self.heap = self.heap.saturating_add(used);
                let end = trace.frame_end.unwrap_or(trace.end);
                let broken = trace.error.is_some();
                self.trace.nested.push(Nested { start: at, trace });
                if broken {
                    return bad("pickle.nested", "the pickle of an array of objects breaks");
                }
                self.input.skip(end)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, op: Op) -> Result<()> {
        match op {
            Op::STOP => {}
            Op::MARK => self.marks.push(self.stack.len()),
            Op::POP => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            Op::POP_MARK => {
                let at = self.mark()?;
                self.stack.truncate(at);
            }
            Op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }
            Op::NONE => self.stack.push(NONE),
            Op::NEWTRUE => self.stack.push(TRUE),
            Op::NEWFALSE => self.stack.push(FALSE),
            Op::INT
            | Op::LONG
            | Op::FLOAT
            | Op::BININT
            | Op::BININT1
            | Op::BININT2
            | Op::LONG1
            | Op::LONG4
            | Op::BINFLOAT => self.number(op)?,
            Op::STRING
            | Op::BINSTRING
            | Op::SHORT_BINSTRING
            | Op::UNICODE
            | Op::BINUNICODE
            | Op::SHORT_BINUNICODE
            | Op::BINUNICODE8
            | Op::BINBYTES
            | Op::SHORT_BINBYTES
            | Op::BINBYTES8
            | Op::BYTEARRAY8 => self.string(op)?,
            Op::EMPTY_TUPLE
            | Op::TUPLE1
            | Op::TUPLE2
            | Op::TUPLE3
            | Op::TUPLE
            | Op::EMPTY_LIST
            | Op::LIST
            | Op::EMPTY_DICT
            | Op::DICT
            | Op::EMPTY_SET
            | Op::FROZENSET => self.make(op)?,
            Op::APPEND | Op::APPENDS | Op::ADDITEMS | Op::SETITEM | Op::SETITEMS => {
                self.change(op)?;
            }
            Op::GET
            | Op::BINGET
            | Op::LONG_BINGET
            | Op::PUT
            | Op::BINPUT
            | Op::LONG_BINPUT
            | Op::MEMOIZE => self.memo(op)?,
            Op::GLOBAL | Op::STACK_GLOBAL | Op::EXT1 | Op::EXT2 | Op::EXT4 => self.import(op)?,
            Op::REDUCE | Op::NEWOBJ | Op::NEWOBJ_EX | Op::INST | Op::OBJ => self.call(op)?,
            Op::BUILD => self.build()?,
            Op::PERSID | Op::BINPERSID => self.persistent(op)?,
            Op::PROTO => self.proto()?,
            Op::FRAME => self.frame()?,
            Op::NEXT_BUFFER => {
                self.push(Node::Buffer);
            }
            Op::READONLY_BUFFER => self.read_only()?,
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> NodeId {
        // `MOST_NODES` keeps the arena below 2^32 nodes.
        let id = self.trace.nodes.len() as NodeId;
        self.trace.nodes.push(node);
        id
    }

    fn push(&mut self, node: Node) -> NodeId {
        let id = self.add(node);
        self.stack.push(id);
        id
    }

    fn event(&mut self, event: Event) {
        self.took(1, size_of::<(usize, Event)>());
        self.trace.events.push((self.at, event));
    }

    fn memory(&self) -> u64 {
        let nodes = self.trace.nodes.len().saturating_mul(size_of::<Node>());
        let stack = self.stack.len().saturating_mul(size_of::<NodeId>());
        self.heap.saturating_add(nodes.saturating_add(stack) as u64)
    }

    /// Counts `n` values or names that take `each` bytes.
    fn took(&mut self, n: usize, each: usize) {
        self.heap = self.heap.saturating_add(n.saturating_mul(each) as u64);
    }

    /// The lowest height to which the stack may be taken down.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<NodeId> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The value that an opcode looks at or changes in place.
    fn top(&self) -> Result<NodeId> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => bad(
                "pickle.stack-underflow",
                "a value is needed, the stack has none",
            ),
        }
    }

    /// Takes the topmost mark: the height of the stack below what stands above it.
    fn mark(&mut self) -> Result<usize> {
        match self.marks.pop() {
            Some(at) => Ok(at.min(self.stack.len())),
            None => bad("pickle.no-mark", "a MARK is needed, there is none"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<NodeId>> {
        let at = self.mark()?;
        Ok(self.stack.split_off(at))
    }

    fn proto(&mut self) -> Result<()> {
        let v = self.input.u8()?;
        if v > 5 {
            return bad("pickle.protocol", format!("protocol {v} does not exist"));
        }
        self.protocol = v;
        self.trace.protocol = self.trace.protocol.max(v);
        Ok(())
    }

    fn frame(&mut self) -> Result<()> {
        let n = self.input.u64()?;
        if let Some(left) = self.input.begin_frame(n)? {
            self.soften(Error::truncated(
                "pickle.frame",
                format!("a frame of {n} bytes, {left} are left"),
            ));
        }
        Ok(())
    }

    fn read_only(&mut self) -> Result<()> {
        let top = self.top()?;
        match self.trace.node(top) {
            Node::Bytes(_) => {}
            Node::ByteArray(blob) => {
                // A read-only view, which unlike what it views can be a key.
                let view = Node::Bytes(blob.clone());
                self.stack.pop();
                self.push(view);
            }
            node if is_plain(node) => {
                return bad("pickle.no-buffer", "READONLY_BUFFER of no buffer");
            }
            _ => {}
        }
        Ok(())
    }

    /// What a line opcode reads. One that the stream's end cuts off stops the C unpickler.
    fn line(&mut self) -> Result<(usize, &'a [u8])> {
        let line = self.input.line()?;
        if !line.ended {
            self.soften(Error::truncated("pickle.truncated", "a line has no end"));
        }
        Ok((line.start, line.text))
    }
}

/// Whether a node is a value of a built-in type: nothing of its behaviour is open.
fn is_plain(node: &Node) -> bool {
    match node {
        Node::None
        | Node::Bool(_)
        | Node::Int(_)
        | Node::BigInt(_)
        | Node::BigText(_)
        | Node::Float(_)
        | Node::Str(_)
        | Node::ByteStr(_)
        | Node::Bytes(_)
        | Node::ByteArray(_)
        | Node::Tuple(_)
        | Node::List(_)
        | Node::Dict(_)
        | Node::Set(_)
        | Node::FrozenSet(_) => true,
        Node::Global(_)
        | Node::DynamicGlobal(..)
        | Node::Persistent(_)
        | Node::Call(_)
        | Node::Extension(_)
        | Node::Buffer => false,
    }
}
