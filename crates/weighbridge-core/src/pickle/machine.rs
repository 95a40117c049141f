use std::collections::HashMap;

use super::number;
use super::opcode::Op;
use super::raw::{Nested, NoArrays, Raw, RawArrays};
use super::value::{Blob, Build, Call, CallOp, Global, Node, NodeId, Trace};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Memo indices up to this one lie in a vector; the text opcodes may name any number, and a
/// hostile one must not allocate.
const DENSE_MEMO: u64 = 1 << 16;

/// Node ids have 32 bits; an opcode makes a few nodes.
const MOST_NODES: u64 = (1 << 32) - 16;

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
/// of the stream: `arrays` is asked after every `BUILD`.
pub fn run_with<'a>(data: &'a [u8], limits: &Limits, arrays: &mut dyn RawArrays) -> Trace<'a> {
    let mut m = Machine {
        cur: Cursor::new(data),
        trace: Trace::new(
            data,
            vec![
                Node::None,
                Node::Bool(false),
                Node::Bool(true),
                Node::Tuple(Box::default()),
            ],
            limits,
        ),
        stack: Vec::new(),
        marks: Vec::new(),
        dense: Vec::new(),
        sparse: HashMap::new(),
        memo_len: 0,
        small: HashMap::new(),
        at: 0,
        names_left: data.len().saturating_mul(16).saturating_add(8 << 20),
    };
    let done = m.run(limits, arrays);
    let (at, cur) = (m.at, m.cur);
    let mut trace = m.trace;
    trace.end = cur.pos();
    if let Err(e) = done {
        let op = data
            .get(at)
            .and_then(|b| Op::from_byte(*b))
            .map_or("?", Op::name);
        let number = trace.ops.saturating_sub(1);
        trace.error = Some(
            e.at(at as u64)
                .within(op)
                .within(format!("opcode {number}")),
        );
    }
    trace
}

struct Machine<'a> {
    cur: Cursor<'a>,
    trace: Trace<'a>,
    stack: Vec<NodeId>,
    marks: Vec<usize>,
    dense: Vec<Option<NodeId>>,
    sparse: HashMap<u64, NodeId>,
    memo_len: u64,
    small: HashMap<i64, NodeId>,
    at: usize,
    /// Bytes that the names of globals may still take: `STACK_GLOBAL` copies them from strings
    /// that many globals can share.
    names_left: usize,
}

fn bad<T>(rule: &'static str, message: impl Into<String>) -> Result<T> {
    Err(Error::malformed(rule, message))
}

impl<'a> Machine<'a> {
    fn run(&mut self, limits: &Limits, arrays: &mut dyn RawArrays) -> Result<()> {
        loop {
            self.at = self.cur.pos();
            if self.trace.ops >= limits.pickle_ops {
                return Err(Error::limit("pickle.too-many-opcodes", "too many opcodes"));
            }
            if self.trace.nodes.len() as u64 > limits.values.min(MOST_NODES) {
                return Err(Error::limit("pickle.too-many-values", "too many values"));
            }
            let Ok(byte) = self.cur.u8() else {
                return Err(Error::truncated(
                    "pickle.no-stop",
                    "the stream ends without STOP",
                ));
            };
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

    /// Steps over what the loader reads from the file itself after a `BUILD`.
    fn raw(&mut self, limits: &Limits, arrays: &mut dyn RawArrays) -> Result<()> {
        let Some(&build) = self.trace.builds.last() else {
            return Ok(());
        };
        let at = self.cur.pos();
        match arrays.after_build(&self.trace, &build, at)? {
            Raw::Nothing => {}
            Raw::Skip(n) => {
                self.cur.take(n)?;
                self.trace.raw.push(at..at.saturating_add(n));
            }
            Raw::Nested => {
                let rest = self.trace.data.get(at..).unwrap_or_default();
                let mut inner = limits.clone();
                inner.pickle_ops = limits.pickle_ops.saturating_sub(self.trace.ops);
                let trace = run(rest, &inner);
                self.trace.ops = self.trace.ops.saturating_add(trace.ops);
                let (end, broken) = (trace.end, trace.error.is_some());
                self.trace.nested.push(Nested { start: at, trace });
                if broken {
                    return bad("pickle.nested", "the pickle of an array of objects breaks");
                }
                self.cur.take(end)?;
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
            Op::POP_MARK => drop(self.pop_mark()?),
            Op::DUP => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            Op::NONE => self.stack.push(NONE),
            Op::NEWTRUE => self.stack.push(TRUE),
            Op::NEWFALSE => self.stack.push(FALSE),
            Op::EMPTY_TUPLE => self.stack.push(EMPTY),
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
            Op::EMPTY_LIST => self.push(Node::List(Vec::new())),
            Op::EMPTY_DICT => self.push(Node::Dict(Vec::new())),
            Op::EMPTY_SET => self.push(Node::Set(Vec::new())),
            Op::TUPLE1 => self.tuple(1)?,
            Op::TUPLE2 => self.tuple(2)?,
            Op::TUPLE3 => self.tuple(3)?,
            Op::TUPLE => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items.into()));
            }
            Op::LIST => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            Op::FROZENSET => {
                let items = self.pop_mark()?;
                self.push(Node::FrozenSet(items.into()));
            }
            Op::DICT => {
                let items = self.pop_mark()?;
                let pairs = pairs(&items)?;
                self.push(Node::Dict(pairs));
            }
            Op::APPEND => {
                let v = self.pop()?;
                self.append(&[v])?;
            }
            Op::APPENDS | Op::ADDITEMS => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            Op::SETITEM => {
                let v = self.pop()?;
                let k = self.pop()?;
                self.set_items(&[(k, v)])?;
            }
            Op::SETITEMS => {
                let items = self.pop_mark()?;
                let pairs = pairs(&items)?;
                self.set_items(&pairs)?;
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
            Op::PERSID => {
                let blob = self.line_blob()?;
                let id = self.add(Node::Str(blob));
                self.push(Node::Persistent(id));
            }
            Op::BINPERSID => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            Op::PROTO => {
                let v = self.cur.u8()?;
                if v > 5 {
                    return bad("pickle.protocol", format!("protocol {v} does not exist"));
                }
                self.trace.protocol = self.trace.protocol.max(v);
            }
            Op::FRAME => {
                let n = self.cur.u64()?;
                if n > self.cur.left() as u64 {
                    return Err(Error::truncated(
                        "pickle.frame",
                        format!("a frame of {n} bytes, {} are left", self.cur.left()),
                    ));
                }
            }
            Op::NEXT_BUFFER => self.push(Node::Buffer),
            Op::READONLY_BUFFER => {
                let top = self.pop()?;
                self.stack.push(top);
            }
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> NodeId {
        // `MOST_NODES` keeps the arena below 2^32 nodes.
        let id = self.trace.nodes.len() as NodeId;
        self.trace.nodes.push(node);
        id
    }

    fn push(&mut self, node: Node) {
        let id = self.add(node);
        self.stack.push(id);
    }

    fn push_int(&mut self, v: i64) {
        // Small integers are most of a checkpoint's pickle: make each once.
        if (-1..256).contains(&v) {
            if let Some(&id) = self.small.get(&v) {
                self.stack.push(id);
                return;
            }
            let id = self.add(Node::Int(v));
            self.small.insert(v, id);
            self.stack.push(id);
            return;
        }
        self.push(Node::Int(v));
    }

    fn pop(&mut self) -> Result<NodeId> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return bad(
                "pickle.stack-underflow",
                "a value is needed, the stack has none",
            );
        }
        self.stack
            .pop()
            .ok_or_else(|| Error::malformed("pickle.stack-underflow", "the stack is empty"))
    }

    fn pop_mark(&mut self) -> Result<Vec<NodeId>> {
        match self.marks.pop() {
            Some(at) => Ok(self.stack.split_off(at.min(self.stack.len()))),
            None => bad("pickle.no-mark", "a MARK is needed, there is none"),
        }
    }

    /// The value that a container opcode changes: it stays on the stack.
    fn top(&self) -> Result<NodeId> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => bad(
                "pickle.stack-underflow",
                "a container is needed, the stack has none",
            ),
        }
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut items = vec![NONE; n];
        for slot in items.iter_mut().rev() {
            *slot = self.pop()?;
        }
        self.push(Node::Tuple(items.into()));
        Ok(())
    }

    fn number(&mut self, op: Op) -> Result<()> {
        match op {
            Op::BININT1 => {
                let v = self.cur.u8()?;
                self.push_int(i64::from(v));
            }
            Op::BININT2 => {
                let v = self.cur.u16()?;
                self.push_int(i64::from(v));
            }
            Op::BININT => {
                let v = self.cur.i32()?;
                self.push_int(i64::from(v));
            }
            Op::BINFLOAT => {
                let v = self.cur.f64_be()?;
                self.push(Node::Float(v));
            }
            Op::LONG1 => {
                let n = usize::from(self.cur.u8()?);
                self.long(n)?;
            }
            Op::LONG4 => {
                let n = self.cur.i32()?;
                match usize::try_from(n) {
                    Ok(n) => self.long(n)?,
                    Err(_) => return bad("pickle.negative-length", format!("length {n}")),
                }
            }
            Op::FLOAT => {
                let line = self.cur.line()?;
                match number::float(line) {
                    Some(v) => self.push(Node::Float(v)),
                    None => return bad("pickle.bad-number", "no float literal"),
                }
            }
            Op::INT => {
                let line = self.cur.line()?;
                match line {
                    b"00" => self.stack.push(FALSE),
                    b"01" => self.stack.push(TRUE),
                    _ => self.text_int(number::integer(line, true))?,
                }
            }
            _ => {
                let line = self.cur.line()?;
                let digits = line.strip_suffix(b"L").unwrap_or(line);
                self.text_int(number::integer(digits, true))?;
            }
        }
        Ok(())
    }

    fn text_int(&mut self, v: Option<Node>) -> Result<()> {
        match v {
            Some(Node::Int(v)) => self.push_int(v),
            Some(node) => self.push(node),
            None => return bad("pickle.bad-number", "no integer literal"),
        }
        Ok(())
    }

    fn long(&mut self, n: usize) -> Result<()> {
        let start = self.cur.pos();
        let bytes = self.cur.take(n)?;
        if n <= 8 {
            let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) {
                0xff
            } else {
                0
            };
            let mut a = [fill; 8];
            for (to, from) in a.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.push_int(i64::from_le_bytes(a));
        } else {
            self.push(Node::BigInt(Blob::At { start, len: n }));
        }
        Ok(())
    }

    fn line_blob(&mut self) -> Result<Blob> {
        let start = self.cur.pos();
        let len = self.cur.line()?.len();
        Ok(Blob::At { start, len })
    }

    fn string(&mut self, op: Op) -> Result<()> {
        let len = match op {
            Op::STRING => {
                let line = self.cur.line()?;
                let Some(bytes) = number::unquote(line) else {
                    return bad(
                        "pickle.bad-string",
                        "the STRING operand is not quoted right",
                    );
                };
                self.push(Node::ByteStr(Blob::Own(bytes.into())));
                return Ok(());
            }
            Op::UNICODE => {
                let line = self.cur.line()?;
                let Some(text) = number::raw_unicode(line) else {
                    return bad("pickle.bad-string", "the UNICODE operand has a bad escape");
                };
                self.push(Node::Str(Blob::Own(text.into_bytes().into())));
                return Ok(());
            }
            Op::SHORT_BINSTRING | Op::SHORT_BINBYTES | Op::SHORT_BINUNICODE => {
                u64::from(self.cur.u8()?)
            }
            Op::BINSTRING => {
                let n = self.cur.i32()?;
                match u64::try_from(n) {
                    Ok(n) => n,
                    Err(_) => return bad("pickle.negative-length", format!("length {n}")),
                }
            }
            Op::BINUNICODE | Op::BINBYTES => u64::from(self.cur.u32()?),
            _ => self.cur.u64()?,
        };
        let start = self.cur.pos();
        let Some(len) = usize::try_from(len).ok().filter(|&n| n <= self.cur.left()) else {
            return Err(Error::truncated(
                "pickle.truncated",
                format!("a string of {len} bytes, {} are left", self.cur.left()),
            ));
        };
        let bytes = self.cur.take(len)?;
        let blob = Blob::At { start, len };
        self.push(match op {
            Op::BINSTRING | Op::SHORT_BINSTRING => Node::ByteStr(blob),
            Op::BINBYTES | Op::SHORT_BINBYTES | Op::BINBYTES8 => Node::Bytes(blob),
            Op::BYTEARRAY8 => Node::ByteArray(blob),
            _ => {
                check_utf8(bytes)?;
                Node::Str(blob)
            }
        });
        Ok(())
    }

    fn append(&mut self, items: &[NodeId]) -> Result<()> {
        let target = self.top()?;
        match self.trace.nodes.get_mut(target as usize) {
            Some(Node::List(l) | Node::Set(l)) => l.extend_from_slice(items),
            Some(Node::Call(c)) => c.items.extend_from_slice(items),
            _ => {
                return bad(
                    "pickle.not-a-list",
                    "items are appended to what is no list or object",
                );
            }
        }
        Ok(())
    }

    fn set_items(&mut self, pairs: &[(NodeId, NodeId)]) -> Result<()> {
        let target = self.top()?;
        match self.trace.nodes.get_mut(target as usize) {
            Some(Node::Dict(d)) => d.extend_from_slice(pairs),
            Some(Node::Call(c)) => c.pairs.extend_from_slice(pairs),
            _ => {
                return bad(
                    "pickle.not-a-dict",
                    "items are set on what is no dict or object",
                );
            }
        }
        Ok(())
    }

    fn memo(&mut self, op: Op) -> Result<()> {
        let index = match op {
            Op::BINGET | Op::BINPUT => u64::from(self.cur.u8()?),
            Op::LONG_BINGET | Op::LONG_BINPUT => u64::from(self.cur.u32()?),
            Op::MEMOIZE => self.memo_len,
            _ => {
                let line = self.cur.line()?;
                match number::integer(line, false) {
                    Some(Node::Int(v)) if v >= 0 => v as u64,
                    _ => return bad("pickle.bad-number", "no memo index"),
                }
            }
        };
        if matches!(op, Op::GET | Op::BINGET | Op::LONG_BINGET) {
            let found = if index < DENSE_MEMO {
                self.dense.get(index as usize).copied().flatten()
            } else {
                self.sparse.get(&index).copied()
            };
            match found {
                Some(id) => self.stack.push(id),
                None => return bad("pickle.memo-miss", format!("memo {index} is not set")),
            }
            return Ok(());
        }
        let top = self.top()?;
        let old = if index < DENSE_MEMO {
            let i = index as usize;
            if self.dense.len() <= i {
                self.dense.resize(i + 1, None);
            }
            self.dense.get_mut(i).and_then(|s| s.replace(top))
        } else {
            self.sparse.insert(index, top)
        };
        if old.is_none() {
            self.memo_len += 1;
        }
        Ok(())
    }

    fn import(&mut self, op: Op) -> Result<()> {
        match op {
            Op::GLOBAL => {
                let module = self.line_text()?;
                let name = self.line_text()?;
                self.push_global(module, name);
            }
            Op::STACK_GLOBAL => {
                let name = self.pop()?;
                let module = self.pop()?;
                let bytes = self.text_len(module).saturating_add(self.text_len(name));
                self.names_left = self.names_left.checked_sub(bytes).ok_or_else(|| {
                    Error::limit(
                        "pickle.too-long-names",
                        "the names of the globals are far longer than the pickle",
                    )
                })?;
                match (self.owned_text(module), self.owned_text(name)) {
                    (Some(m), Some(n)) => self.push_global(m, n),
                    _ => self.push(Node::DynamicGlobal(module, name)),
                }
            }
            _ => {
                let code = match op {
                    Op::EXT1 => u32::from(self.cur.u8()?),
                    Op::EXT2 => u32::from(self.cur.u16()?),
                    _ => self.cur.u32()?,
                };
                self.push(Node::Extension(code));
            }
        }
        Ok(())
    }

    fn line_text(&mut self) -> Result<String> {
        let line = self.cur.line()?;
        match std::str::from_utf8(line) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => bad("pickle.bad-utf8", "the name of a global is not UTF-8"),
        }
    }

    fn text_len(&self, id: NodeId) -> usize {
        match self.trace.node(id) {
            Node::Str(b) => self.trace.blob(b).len(),
            _ => 0,
        }
    }

    fn owned_text(&self, id: NodeId) -> Option<String> {
        match self.trace.node(id) {
            Node::Str(_) => self.trace.text(id).map(|t| t.into_owned()),
            _ => None,
        }
    }

    fn push_global(&mut self, module: String, name: String) {
        let index = self.trace.globals.len() as u32;
        self.trace.globals.push(Global {
            module,
            name,
            offset: self.at,
        });
        self.push(Node::Global(index));
    }

    fn call(&mut self, op: Op) -> Result<()> {
        let (kind, callee, args, kwargs) = match op {
            Op::REDUCE | Op::NEWOBJ => {
                let args = self.pop()?;
                let callee = self.pop()?;
                let kind = if op == Op::REDUCE {
                    CallOp::Reduce
                } else {
                    CallOp::NewObj
                };
                (kind, callee, args, None)
            }
            Op::NEWOBJ_EX => {
                let kwargs = self.pop()?;
                let args = self.pop()?;
                (CallOp::NewObjEx, self.pop()?, args, Some(kwargs))
            }
            Op::INST => {
                let module = self.line_text()?;
                let name = self.line_text()?;
                let items = self.pop_mark()?;
                self.push_global(module, name);
                let callee = self.pop()?;
                (
                    CallOp::Inst,
                    callee,
                    self.add(Node::Tuple(items.into())),
                    None,
                )
            }
            _ => {
                let items = self.pop_mark()?;
                let Some((&callee, rest)) = items.split_first() else {
                    return bad("pickle.stack-underflow", "OBJ has no class");
                };
                let args = self.add(Node::Tuple(rest.into()));
                (CallOp::Obj, callee, args, None)
            }
        };
        self.push(Node::Call(Box::new(Call {
            op: kind,
            offset: self.at,
            callee,
            args,
            kwargs,
            states: Vec::new(),
            items: Vec::new(),
            pairs: Vec::new(),
        })));
        Ok(())
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        self.trace.builds.push(Build {
            target,
            state,
            offset: self.at,
        });
        if let Some(Node::Call(c)) = self.trace.nodes.get_mut(target as usize) {
            c.states.push(state);
        }
        Ok(())
    }
}

fn pairs(items: &[NodeId]) -> Result<Vec<(NodeId, NodeId)>> {
    if !items.len().is_multiple_of(2) {
        return bad("pickle.odd-items", "an odd number of keys and values");
    }
    Ok(items
        .chunks_exact(2)
        .filter_map(|c| Some((*c.first()?, *c.last()?)))
        .collect())
}

/// Text is UTF-8, with lone surrogates as `surrogatepass` writes them (`ED A0..BF xx`).
fn check_utf8(bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while let Err(e) = std::str::from_utf8(rest) {
        let tail = rest.get(e.valid_up_to()..).unwrap_or_default();
        match tail {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, more @ ..] => rest = more,
            _ => return bad("pickle.bad-utf8", "a text operand is not UTF-8"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(data: &[u8]) -> Trace<'_> {
        let t = run(data, &Limits::default());
        assert!(t.error.is_none(), "{:?}", t.error);
        t
    }

    fn rule(data: &[u8]) -> &'static str {
        run(data, &Limits::default()).error.unwrap().rule()
    }

    #[test]
    fn containers_memo_and_numbers() {
        let t = ok(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x05X\x01\x00\x00\x00bh\x00u.");
        let root = t.root.unwrap();
        let d = t.dict(root).unwrap();
        assert_eq!(t.int(t.lookup(d, "a").unwrap()), Some(5));
        assert_eq!(t.lookup(d, "b"), Some(root));
        assert_eq!((t.protocol, t.end), (2, 24));
        let t = ok(b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x40.");
        assert_eq!(t.render(t.root.unwrap(), 80), "1180591620717411303424");
        assert_eq!(decimal_of(-(1i128 << 65)), "-36893488147419103232");
        let t = ok(b"I01\n.");
        assert_eq!(t.node(t.root.unwrap()), &Node::Bool(true));
    }

    fn decimal_of(v: i128) -> String {
        super::super::decimal(&v.to_le_bytes())
    }

    #[test]
    fn calls_are_data() {
        let t = ok(b"cposix\nsystem\n(X\x02\x00\x00\x00lstR}b.");
        let Node::Call(c) = t.node(t.root.unwrap()) else {
            panic!()
        };
        assert_eq!(t.global_name(c.callee).unwrap(), "posix.system");
        assert_eq!(
            (c.op, c.states.len(), t.builds.len()),
            (CallOp::Reduce, 1, 1)
        );
        assert_eq!(t.render(t.root.unwrap(), 80), "posix.system(\"ls\")");
        let t = ok(b"(X\x01\0\0\0aios\nsystem\n.");
        assert_eq!(t.render(t.root.unwrap(), 80), "os.system(\"a\")");
        let t = ok(b"\x80\x04\x8c\x02os\x8c\x06system\x93.");
        assert_eq!(t.globals[0].offset, 14);
    }

    #[test]
    fn broken_streams_name_rule_and_offset() {
        assert_eq!(rule(b"."), "pickle.stack-underflow");
        assert_eq!(rule(b"N"), "pickle.no-stop");
        assert_eq!(rule(b"t."), "pickle.no-mark");
        assert_eq!(rule(b"(N0000."), "pickle.stack-underflow");
        assert_eq!(rule(b"h\x05."), "pickle.memo-miss");
        assert_eq!(rule(b"\xff"), "pickle.unknown-opcode");
        assert_eq!(rule(b"X\xff\xff\xff\x7fab"), "pickle.truncated");
        assert_eq!(rule(b"\x80\x04\x95\xff\xff\0\0\0\0\0\0N."), "pickle.frame");
        let e = run(b"NN\xfe", &Limits::default()).error.unwrap();
        assert_eq!(e.byte_span().unwrap().offset, 2);
        assert_eq!(e.path(), ["opcode 2", "?"]);
    }

    #[test]
    fn a_huge_memo_index_allocates_nothing() {
        let t = ok(b"Nr\xff\xff\xff\xffp4294967294\n0j\xff\xff\xff\xff.");
        assert_eq!(t.root, Some(NONE));
    }

    #[test]
    fn every_truncation_and_byte_flip_ends() {
        let good = b"\x80\x04\x95\x20\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01G?\xf0\0\0\0\0\0\0e\x8c\x01bNu.";
        for n in 0..good.len() {
            let _ = run(&good[..n], &Limits::default());
            for b in 0..=255u8 {
                let mut m = good.to_vec();
                m[n] = b;
                let _ = run(&m, &Limits::default());
            }
        }
    }
}
