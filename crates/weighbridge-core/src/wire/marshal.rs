//! Python's `marshal`: the form in which code objects are stored, read as data.
//!
//! Source: `Python/marshal.c` (`r_object`) of CPython 2.7 to 3.14. Every object is a type byte,
//! whose top bit says that later `r` objects may refer to it, and a payload. A code object's
//! layout depends on the interpreter and the stream does not say which one wrote it; the numbers
//! in front of the bytecode, and the type of the fifth object behind it, tell.

use crate::cursor::Cursor;
use crate::error::{Error, Result};

/// Deepest nesting that is followed; the compiler's own limits keep code far below.
const MOST_DEEP: u32 = 200;

/// Most objects: real code has thousands, and one takes a byte of the stream and many of memory.
const MOST_NODES: usize = 1 << 20;

/// The type byte's flag for objects that are referred to later.
const REF: u8 = 0x80;

/// An object; others are named by their index in [`Tree::nodes`].
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`, `Ellipsis`, `StopIteration`, or the end mark of a dictionary.
    Nothing,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of up to 32 bits, or a longer one's low 64 bits.
    Int(i64),
    /// A float or complex number; its value is of no use here.
    Number,
    /// Bytes, or a string of Python 2.
    Bytes(Vec<u8>),
    /// Text.
    Str(String),
    /// A tuple, list, set, frozen set, slice or dictionary (keys and values in turn).
    Items(Vec<usize>),
    /// A code object.
    Code(Code),
}

/// The parts of a code object that say what it reaches.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Code {
    /// The bytecode.
    pub code: usize,
    /// The constants, a tuple.
    pub consts: usize,
    /// The names of globals and attributes it uses, a tuple.
    pub names: usize,
}

/// What a stream holds.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every object, children before parents except where code refers to itself.
    pub nodes: Vec<Node>,
    /// The outermost object.
    pub root: usize,
    /// Bytes used.
    pub end: usize,
}

impl Tree {
    /// The object at `index`.
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// The elements of the tuple (or other sequence) at `index`.
    pub fn items(&self, index: usize) -> &[usize] {
        match self.node(index) {
            Some(Node::Items(items)) => items,
            _ => &[],
        }
    }

    /// The code objects, in the order they end.
    pub fn codes(&self) -> impl Iterator<Item = &Code> {
        self.nodes.iter().filter_map(|n| match n {
            Node::Code(c) => Some(c),
            _ => None,
        })
    }
}

/// Reads one object.
///
/// # Errors
/// `Truncated` and `Malformed` when the stream breaks, `Limit` when it nests too deep.
pub fn read(data: &[u8]) -> Result<Tree> {
    let mut r = Reader {
        data,
        cursor: Cursor::new(data),
        tree: Tree::default(),
        refs: Vec::new(),
        interned: Vec::new(),
    };
    r.tree.root = r.object(0)?;
    r.tree.end = r.cursor.pos();
    Ok(r.tree)
}

struct Reader<'a> {
    data: &'a [u8],
    cursor: Cursor<'a>,
    tree: Tree,
    refs: Vec<usize>,
    /// Python 2's own list of interned strings, which `R` refers to.
    interned: Vec<usize>,
}

impl Reader<'_> {
    fn object(&mut self, depth: u32) -> Result<usize> {
        let at = self.cursor.pos();
        if depth > MOST_DEEP {
            return Err(Error::limit("marshal.depth", "objects nest too deep").at(at as u64));
        }
        let byte = self.cursor.u8()?;
        let kind = byte & !REF;
        if kind == b'r' {
            let n = self.cursor.u32()? as usize;
            return self.refs.get(n).copied().ok_or_else(|| {
                Error::malformed("marshal.reference", format!("there is no object {n} yet"))
                    .at(at as u64)
            });
        }
        if kind == b'R' {
            let n = self.cursor.u32()? as usize;
            return self.interned.get(n).copied().ok_or_else(|| {
                Error::malformed("marshal.reference", format!("there is no string {n} yet"))
                    .at(at as u64)
            });
        }
        // A container's number is taken before what it holds.
        let index = self.tree.nodes.len();
        if index >= MOST_NODES {
            return Err(
                Error::limit("marshal.objects", "there are too many objects").at(at as u64),
            );
        }
        self.tree.nodes.push(Node::Nothing);
        if byte & REF != 0 {
            self.refs.push(index);
        }
        let node = self.payload(kind, at, depth)?;
        if kind == b't' {
            self.interned.push(index);
        }
        if let Some(slot) = self.tree.nodes.get_mut(index) {
            *slot = node;
        }
        Ok(index)
    }

    fn payload(&mut self, kind: u8, at: usize, depth: u32) -> Result<Node> {
        Ok(match kind {
            b'0' | b'N' | b'S' | b'.' => Node::Nothing,
            b'F' => Node::Bool(false),
            b'T' => Node::Bool(true),
            b'i' => Node::Int(i64::from(self.cursor.i32()?)),
            b'I' => Node::Int(self.cursor.i64()?),
            b'l' => self.long()?,
            b'f' | b'x' => {
                for _ in 0..if kind == b'f' { 1 } else { 2 } {
                    let n = self.cursor.u8()?;
                    self.cursor.take(usize::from(n))?;
                }
                Node::Number
            }
            b'g' => self.number(8)?,
            b'y' => self.number(16)?,
            b's' => Node::Bytes(self.long_bytes()?.to_vec()),
            b't' | b'u' => Node::Str(text(self.long_bytes()?)),
            b'a' | b'A' => Node::Str(latin(self.long_bytes()?)),
            b'z' | b'Z' => {
                let n = self.cursor.u8()?;
                Node::Str(latin(self.cursor.take(usize::from(n))?))
            }
            b')' => {
                let n = self.cursor.u8()?;
                self.items(u32::from(n), depth)?
            }
            b'(' | b'[' | b'<' | b'>' => {
                let n = self.cursor.u32()?;
                self.items(n, depth)?
            }
            b':' => self.items(3, depth)?,
            b'{' => self.dict(depth)?,
            b'c' => Node::Code(self.code(depth)?),
            _ => {
                let message = format!("{kind:#04x} is no type of object");
                return Err(Error::malformed("marshal.type", message).at(at as u64));
            }
        })
    }

    fn number(&mut self, bytes: usize) -> Result<Node> {
        self.cursor.take(bytes)?;
        Ok(Node::Number)
    }

    /// Digits of 15 bits, least first, their count negative for a negative number.
    fn long(&mut self) -> Result<Node> {
        let n = self.cursor.i32()?;
        let mut value = 0u64;
        for i in 0..n.unsigned_abs() {
            let digit = u64::from(self.cursor.u16()? & 0x7fff);
            value |= digit.checked_shl(i.saturating_mul(15)).unwrap_or(0);
        }
        let value = value as i64;
        Ok(Node::Int(if n < 0 { value.wrapping_neg() } else { value }))
    }

    fn long_bytes(&mut self) -> Result<&[u8]> {
        let n = self.cursor.u32()?;
        self.cursor.take(n as usize)
    }

    fn items(&mut self, n: u32, depth: u32) -> Result<Node> {
        // Every element takes a byte at least: a wild count allocates nothing.
        let mut items = Vec::new();
        for _ in 0..n {
            items.push(self.object(depth + 1)?);
        }
        Ok(Node::Items(items))
    }

    fn dict(&mut self, depth: u32) -> Result<Node> {
        let mut items = Vec::new();
        loop {
            if self.cursor.peek().map(|b| b & !REF) == Some(b'0') {
                self.cursor.u8()?;
                return Ok(Node::Items(items));
            }
            items.push(self.object(depth + 1)?);
            items.push(self.object(depth + 1)?);
        }
    }

    /// The numbers in front are five since 3.11 and in 3.0 to 3.7, six in between, four in
    /// Python 2; then the bytecode, the constants and the names in every version.
    fn code(&mut self, depth: u32) -> Result<Code> {
        let start = self.cursor.pos();
        let numbers = [5usize, 6, 4]
            .into_iter()
            .find(|n| self.is_bytes_at(start.saturating_add(n * 4)))
            .ok_or_else(|| {
                Error::malformed("marshal.code", "a code object has no bytecode").at(start as u64)
            })?;
        self.cursor.take(numbers * 4)?;
        let code = Code {
            code: self.object(depth + 1)?,
            consts: self.object(depth + 1)?,
            names: self.object(depth + 1)?,
        };
        let _locals = self.object(depth + 1)?;
        let fifth = self.object(depth + 1)?;
        // Since 3.11 the fifth is the kinds of the locals, bytes; before, the free names, a tuple.
        let new = numbers == 5 && matches!(self.tree.node(fifth), Some(Node::Bytes(_)));
        for _ in 0..3 {
            self.object(depth + 1)?;
        }
        self.cursor.i32()?;
        for _ in 0..if new { 2 } else { 1 } {
            self.object(depth + 1)?;
        }
        Ok(code)
    }

    fn is_bytes_at(&self, at: usize) -> bool {
        let Some([kind, rest @ ..]) = self.data.get(at..) else {
            return false;
        };
        let len = rest.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
        match kind & !REF {
            b's' => len.is_some_and(|n| (n as usize) <= rest.len().saturating_sub(4)),
            b'r' => len.is_some_and(|n| (n as usize) < self.refs.len()),
            _ => false,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lambda x: __import__('os').system('id') + len(x)` as Python 3.11 stores it.
    const LAMBDA: &str = concat!(
        "630100000000000000000000000400000003000000f36600000097007401000000000000000000006401a601",
        "0000ab010000000000000000a00100000000000000000000000000000000000000006402a6010000ab010000",
        "0000000000007405000000000000000000007c00a6010000ab0100000000000000007a000000530029034eda",
        "026f73da0269642903da0a5f5f696d706f72745f5fda0673797374656dda036c656e2901da01787301000000",
        "20da016dfa083c6c616d6264613e720800000001000000732700000080008d6a9814d10e1ed40e1ed70e25d2",
        "0e25a064d10e2bd40e2bad63b021a966ac66d10e348000f300000000",
    );

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    fn strings(tree: &Tree, index: usize) -> Vec<&str> {
        tree.items(index)
            .iter()
            .filter_map(|&i| match tree.node(i) {
                Some(Node::Str(s)) => Some(s.as_str()),
                _ => None,
            })
            .collect()
    }

    /// A code object with `numbers` numbers in front, in the layout before 3.11.
    fn old(numbers: usize, string: u8) -> Vec<u8> {
        let mut d = vec![b'c'];
        d.extend(
            vec![0x43; 4 * numbers]
                .iter()
                .enumerate()
                .map(|(i, _)| u8::from(i % 4 == 0)),
        );
        let s = |t: u8, s: &str| [&[t][..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
        d.extend(s(b's', "d\x00S\x00"));
        d.extend([b'(', 1, 0, 0, 0]);
        d.extend(s(string, "id"));
        d.extend([b'(', 2, 0, 0, 0]);
        d.extend(s(string, "os"));
        d.extend(s(string, "system"));
        d.extend([b'(', 0, 0, 0, 0].repeat(3));
        d.extend(s(string, "f.py"));
        d.extend(s(string, "f"));
        d.extend([1, 0, 0, 0]);
        d.extend(s(b's', ""));
        d
    }

    #[test]
    fn code_of_every_layout_gives_its_names_and_constants() {
        let data = bytes(LAMBDA);
        let tree = read(&data).unwrap();
        assert_eq!(tree.end, data.len());
        let code = tree.codes().next().unwrap();
        assert_eq!(strings(&tree, code.names), ["__import__", "system", "len"]);
        assert_eq!(strings(&tree, code.consts), ["os", "id"]);
        for (numbers, string) in [(4, b't'), (5, b'u'), (6, b'a')] {
            let data = old(numbers, string);
            let tree = read(&data).unwrap();
            assert_eq!(tree.end, data.len(), "{numbers}");
            let code = tree.codes().next().unwrap();
            assert_eq!(strings(&tree, code.names), ["os", "system"]);
            assert_eq!(strings(&tree, code.consts), ["id"]);
        }
    }

    #[test]
    fn every_type_is_read() {
        let mut d = vec![b'[', 12, 0, 0, 0, b'N', b'T', b'F', b'.'];
        d.extend([b'i', 0xff, 0xff, 0xff, 0xff]);
        d.extend([b'l', 0xfe, 0xff, 0xff, 0xff, 1, 0, 2, 0]);
        d.extend([b'g', 0, 0, 0, 0, 0, 0, 0, 0]);
        d.extend([b'f', 1, b'1']);
        d.extend([b'Z' | REF, 2, b'a', b'b']);
        d.extend([b'r', 0, 0, 0, 0]);
        d.extend([b'{', b'z', 1, b'k', b'N', b'0']);
        d.extend([b':', b'N', b'N', b'N']);
        let tree = read(&d).unwrap();
        assert_eq!(tree.end, d.len());
        let items = tree.items(tree.root);
        assert_eq!(tree.node(items[4]), Some(&Node::Int(-1)));
        assert_eq!(tree.node(items[5]), Some(&Node::Int(-65537)));
        assert_eq!(items[8], items[9]);
        assert_eq!(tree.items(items[10]).len(), 2);
        assert_eq!(tree.items(items[11]).len(), 3);
    }

    #[test]
    fn damage_is_refused_and_costs_nothing() {
        let whole = bytes(LAMBDA);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(read(b"(\xff\xff\xff\xff").is_err());
        assert!(read(b"s\xff\xff\xff\x7f").is_err());
        assert!(read(b"r\0\0\0\0").is_err());
        assert!(read(b"?").is_err());
        assert_eq!(
            read(&b")\x01".repeat(300)).unwrap_err().rule(),
            "marshal.depth"
        );
        let many = [&b"("[..], &u32::MAX.to_le_bytes(), &b"N".repeat(MOST_NODES)].concat();
        assert_eq!(read(&many).unwrap_err().rule(), "marshal.objects");
        // A tuple that holds itself ends.
        let tree = read(b"\xa9\x01r\0\0\0\0").unwrap();
        assert_eq!(tree.items(tree.root), [tree.root]);
    }
}
