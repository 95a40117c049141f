//! A pickle's opcodes, one by one, for people who want to see them.
//!
//! The argument kinds have the names that Python's `pickletools` gives them, and the operands are
//! read by the machine's own rules.

use std::borrow::Cow;
use std::ops::Range;

use super::input::Input;
use super::machine::Reading;
use super::number;
use super::opcode::Op;
use super::value::Node;
use crate::error::{Error, Result};

/// An opcode's operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument<'a> {
    /// It has none.
    None,
    /// A number of at most 64 bits.
    Int(i128),
    /// A number of any width: its decimal digits, or how long it is.
    Digits(String),
    /// A double.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Two lines: the module and name of a global.
    Pair(Cow<'a, str>, Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// A line that does not spell what the opcode wants.
    Bad(&'a [u8]),
}

/// One opcode of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Opcode<'a> {
    /// Where it stands.
    pub offset: usize,
    /// Where the next one does.
    pub end: usize,
    /// What it is.
    pub op: Op,
    /// What `pickletools` calls the kind of its operand, `None` when it has none.
    pub kind: Option<&'static str>,
    /// Its operand.
    pub argument: Argument<'a>,
    /// How many values, marks included, it takes off the stack.
    pub takes: usize,
    /// How many it puts there.
    pub gives: usize,
    /// How many there are afterwards, marks included.
    pub depth: usize,
}

/// The opcodes of the pickle at the start of `data`, up to its `STOP` or the first that cannot be
/// read. The stack is counted, not checked: where a real unpickler stops is what [`super::run`]
/// says. `raw` is [`super::Trace::raw`]: ranges that are no opcodes, in their order.
pub fn opcodes<'a>(data: &'a [u8], raw: &'a [Range<usize>]) -> Opcodes<'a> {
    Opcodes {
        input: Input::new(data, Reading::Plan(Vec::new())),
        raw,
        values: 0,
        marks: Vec::new(),
        done: false,
    }
}

/// The iterator of [`opcodes`].
#[derive(Debug)]
pub struct Opcodes<'a> {
    input: Input<'a>,
    /// Ranges ahead that are no opcodes.
    raw: &'a [Range<usize>],
    values: usize,
    /// Values below each open mark.
    marks: Vec<usize>,
    done: bool,
}

impl<'a> Iterator for Opcodes<'a> {
    type Item = Result<Opcode<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read();
        self.done = match &next {
            Ok(o) => o.op == Op::STOP,
            Err(_) => true,
        };
        Some(next)
    }
}

impl<'a> Opcodes<'a> {
    fn read(&mut self) -> Result<Opcode<'a>> {
        while let [next, rest @ ..] = self.raw
            && next.start <= self.input.file_pos()
        {
            self.input.skip(next.len())?;
            self.raw = rest;
        }
        let offset = self.input.pos();
        let Some(byte) = self.input.opcode() else {
            return Err(
                Error::truncated("pickle.no-stop", "the stream ends without STOP")
                    .at(offset as u64),
            );
        };
        let Some(op) = Op::from_byte(byte) else {
            let message = format!("no opcode has the byte {byte:#04x}");
            return Err(Error::malformed("pickle.unknown-opcode", message).at(offset as u64));
        };
        let argument = self
            .argument(op)
            .map_err(|e| e.at(offset as u64).within(op.name()))?;
        let (takes, gives) = self.effect(op);
        Ok(Opcode {
            offset,
            end: self.input.pos(),
            op,
            kind: kind(op),
            argument,
            takes,
            gives,
            depth: self.values.saturating_add(self.marks.len()),
        })
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let line = self.input.line()?;
        if line.ended {
            Ok(line.text)
        } else {
            Err(Error::truncated("pickle.truncated", "a line has no end"))
        }
    }

    fn argument(&mut self, op: Op) -> Result<Argument<'a>> {
        let i = &mut self.input;
        Ok(match op {
            Op::BININT1 | Op::BINGET | Op::BINPUT | Op::EXT1 | Op::PROTO => {
                Argument::Int(i.u8()?.into())
            }
            Op::BININT2 | Op::EXT2 => Argument::Int(i.u16()?.into()),
            Op::BININT | Op::EXT4 => Argument::Int(i.i32()?.into()),
            Op::LONG_BINGET | Op::LONG_BINPUT => Argument::Int(i.u32()?.into()),
            Op::FRAME => Argument::Int(i.u64()?.into()),
            Op::BINFLOAT => Argument::Float(f64::from_be_bytes(i.array()?)),
            Op::LONG1 => {
                let n = u64::from(i.u8()?);
                digits(self.counted(n)?)
            }
            Op::LONG4 => {
                let n = i.i32()?;
                let Ok(n) = u64::try_from(n) else {
                    return Err(Error::malformed(
                        "pickle.negative-length",
                        format!("length {n}"),
                    ));
                };
                digits(self.counted(n)?)
            }
            Op::SHORT_BINSTRING
            | Op::SHORT_BINBYTES
            | Op::SHORT_BINUNICODE
            | Op::BINSTRING
            | Op::BINBYTES
            | Op::BINUNICODE
            | Op::BINBYTES8
            | Op::BINUNICODE8
            | Op::BYTEARRAY8 => self.string(op)?,
            Op::GLOBAL | Op::INST => {
                let module = String::from_utf8_lossy(self.line()?);
                Argument::Pair(module, String::from_utf8_lossy(self.line()?))
            }
            Op::PERSID => Argument::Text(String::from_utf8_lossy(self.line()?)),
            Op::INT | Op::LONG | Op::FLOAT | Op::STRING | Op::UNICODE | Op::GET | Op::PUT => {
                let line = self.line()?;
                spelled(op, line).unwrap_or(Argument::Bad(line))
            }
            _ => Argument::None,
        })
    }

    fn string(&mut self, op: Op) -> Result<Argument<'a>> {
        let n = match op {
            Op::SHORT_BINSTRING | Op::SHORT_BINBYTES | Op::SHORT_BINUNICODE => {
                u64::from(self.input.u8()?)
            }
            Op::BINSTRING | Op::BINBYTES | Op::BINUNICODE => u64::from(self.input.u32()?),
            _ => self.input.u64()?,
        };
        let bytes = self.counted(n)?;
        Ok(match op {
            Op::SHORT_BINUNICODE | Op::BINUNICODE | Op::BINUNICODE8 => {
                Argument::Text(String::from_utf8_lossy(bytes))
            }
            _ => Argument::Bytes(Cow::Borrowed(bytes)),
        })
    }

    fn counted(&mut self, n: u64) -> Result<&'a [u8]> {
        self.input.take(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// Counts what `op` does to the stack: how many it takes and gives, marks included.
    fn effect(&mut self, op: Op) -> (usize, usize) {
        if op == Op::MARK {
            self.marks.push(self.values);
            return (0, 1);
        }
        let on_mark = self.marks.last() == Some(&self.values);
        if op == Op::POP && on_mark {
            self.marks.pop();
            return (1, 0);
        }
        if let Some((takes, gives)) = marked(op) {
            let below = self.marks.pop();
            let above = self.values.saturating_sub(below.unwrap_or(0));
            self.values = below.unwrap_or(0).saturating_sub(takes) + gives;
            let marks = usize::from(below.is_some());
            return (above.saturating_add(takes).saturating_add(marks), gives);
        }
        let (takes, gives) = plain(op);
        self.values = self.values.saturating_sub(takes).saturating_add(gives);
        (takes, gives)
    }
}

/// An integer of so many bytes, in decimal unless that would take long.
fn digits(bytes: &[u8]) -> Argument<'_> {
    if bytes.len() > MOST_DIGITS {
        Argument::Digits(format!("an integer of {} bytes", bytes.len()))
    } else {
        Argument::Digits(super::decimal(bytes))
    }
}

/// Longest integer that is shown in decimal, in bytes.
const MOST_DIGITS: usize = 1024;

/// What an opcode takes from below its mark, and gives.
fn marked(op: Op) -> Option<(usize, usize)> {
    match op {
        Op::TUPLE | Op::LIST | Op::DICT | Op::FROZENSET | Op::OBJ | Op::INST => Some((0, 1)),
        Op::APPENDS | Op::SETITEMS | Op::ADDITEMS => Some((1, 1)),
        Op::POP_MARK => Some((0, 0)),
        _ => None,
    }
}

/// What an opcode without a mark takes and gives.
fn plain(op: Op) -> (usize, usize) {
    match op {
        Op::PROTO | Op::FRAME => (0, 0),
        Op::STOP | Op::POP => (1, 0),
        Op::DUP => (1, 2),
        Op::TUPLE1 | Op::BINPERSID | Op::READONLY_BUFFER => (1, 1),
        Op::PUT | Op::BINPUT | Op::LONG_BINPUT | Op::MEMOIZE => (1, 1),
        Op::TUPLE2 | Op::REDUCE | Op::NEWOBJ | Op::BUILD | Op::APPEND | Op::STACK_GLOBAL => (2, 1),
        Op::TUPLE3 | Op::SETITEM | Op::NEWOBJ_EX => (3, 1),
        _ => (0, 1),
    }
}

/// The operand of a text opcode.
fn spelled(op: Op, line: &[u8]) -> Option<Argument<'_>> {
    let number = |node: Node| match node {
        Node::Int(v) => Some(Argument::Int(v.into())),
        Node::Bool(v) => Some(Argument::Text(Cow::Borrowed(if v {
            "True"
        } else {
            "False"
        }))),
        Node::BigText(t) => Some(Argument::Digits(t.into_string())),
        _ => None,
    };
    match op {
        Op::INT => number(number::int_line(line)?),
        Op::LONG => number(number::long_line(line)?),
        Op::GET | Op::PUT => Some(Argument::Int(number::memo_line(line)?.into())),
        Op::FLOAT => {
            let v = number::float_line(line).or_else(|| number::float_python(line))?;
            Some(Argument::Float(v))
        }
        Op::STRING => Some(Argument::Bytes(Cow::Owned(number::unquote(line)?))),
        _ => {
            let text = number::raw_unicode(line)?;
            let text = String::from_utf8_lossy(&text).into_owned();
            Some(Argument::Text(Cow::Owned(text)))
        }
    }
}

/// What `pickletools` calls the kind of an opcode's operand.
fn kind(op: Op) -> Option<&'static str> {
    Some(match op {
        Op::INT | Op::GET | Op::PUT => "decimalnl_short",
        Op::LONG => "decimalnl_long",
        Op::FLOAT => "floatnl",
        Op::STRING => "stringnl",
        Op::UNICODE => "unicodestringnl",
        Op::PERSID => "stringnl_noescape",
        Op::GLOBAL | Op::INST => "stringnl_noescape_pair",
        Op::BININT1 | Op::BINGET | Op::BINPUT | Op::EXT1 | Op::PROTO => "uint1",
        Op::BININT2 | Op::EXT2 => "uint2",
        Op::BININT | Op::EXT4 => "int4",
        Op::LONG_BINGET | Op::LONG_BINPUT => "uint4",
        Op::FRAME => "uint8",
        Op::BINFLOAT => "float8",
        Op::LONG1 => "long1",
        Op::LONG4 => "long4",
        Op::SHORT_BINSTRING => "string1",
        Op::BINSTRING => "string4",
        Op::SHORT_BINBYTES => "bytes1",
        Op::BINBYTES => "bytes4",
        Op::BINBYTES8 => "bytes8",
        Op::BYTEARRAY8 => "bytearray8",
        Op::SHORT_BINUNICODE => "unicodestring1",
        Op::BINUNICODE => "unicodestring4",
        Op::BINUNICODE8 => "unicodestring8",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(data: &[u8]) -> Vec<Opcode<'_>> {
        opcodes(data, &[]).map(Result::unwrap).collect()
    }

    #[test]
    fn opcodes_have_offsets_operands_and_depths() {
        let ops = all(b"\x80\x02cposix\nsystem\nq\x00(Vid\ntR0(K\x01K\x02lI0x10\n.");
        let shown: Vec<_> = ops
            .iter()
            .map(|o| (o.offset, o.op, o.takes, o.gives, o.depth))
            .collect();
        assert_eq!(
            shown,
            [
                (0, Op::PROTO, 0, 0, 0),
                (2, Op::GLOBAL, 0, 1, 1),
                (16, Op::BINPUT, 1, 1, 1),
                (18, Op::MARK, 0, 1, 2),
                (19, Op::UNICODE, 0, 1, 3),
                (23, Op::TUPLE, 2, 1, 2),
                (24, Op::REDUCE, 2, 1, 1),
                (25, Op::POP, 1, 0, 0),
                (26, Op::MARK, 0, 1, 1),
                (27, Op::BININT1, 0, 1, 2),
                (29, Op::BININT1, 0, 1, 3),
                (31, Op::LIST, 3, 1, 1),
                (32, Op::INT, 0, 1, 2),
                (38, Op::STOP, 1, 0, 1),
            ]
        );
        assert_eq!(ops[1].kind, Some("stringnl_noescape_pair"));
        assert_eq!(
            ops[1].argument,
            Argument::Pair("posix".into(), "system".into())
        );
        assert_eq!(ops[12].argument, Argument::Int(16));
        assert_eq!(ops[13].end, 39);
    }

    #[test]
    fn what_cannot_be_read_ends_it() {
        let mut it = opcodes(b"NX\xff\0\0\0", &[]);
        assert!(it.next().unwrap().is_ok());
        let e = it.next().unwrap().unwrap_err();
        assert_eq!(
            (e.rule(), e.byte_span().unwrap().offset),
            ("pickle.truncated", 1)
        );
        assert!(it.next().is_none());
        let e = opcodes(b"\xff", &[]).next().unwrap().unwrap_err();
        assert_eq!(e.rule(), "pickle.unknown-opcode");
        // Bytes that the loader reads itself are no opcodes.
        let ops: Vec<Op> = opcodes(b"Nxyz.", std::slice::from_ref(&(1..4)))
            .map(|o| o.unwrap().op)
            .collect();
        assert_eq!(ops, [Op::NONE, Op::STOP]);
        // A bad spelling is shown as it stands.
        let ops = all(b"Ix\n.");
        assert_eq!(ops[0].argument, Argument::Bad(b"x"));
    }
}
