//! Numbers, strings and persistent ids.

use super::super::number;
use super::super::opcode::Op;
use super::super::value::{Blob, Event, Node};
use super::{FALSE, Machine, NONE, TRUE, bad};
use crate::error::{Error, Result};

impl Machine<'_> {
    fn push_int(&mut self, v: i64) {
        // Small integers are most of a checkpoint's pickle: make each once.
        let Some(i) = v.checked_add(1).and_then(|i| usize::try_from(i).ok()) else {
            self.push(Node::Int(v));
            return;
        };
        match self.small.get(i).copied() {
            Some(NONE) => {
                let id = self.add(Node::Int(v));
                if let Some(slot) = self.small.get_mut(i) {
                    *slot = id;
                }
                self.stack.push(id);
            }
            Some(id) => self.stack.push(id),
            None => {
                self.push(Node::Int(v));
            }
        }
    }

    pub(super) fn number(&mut self, op: Op) -> Result<()> {
        match op {
            Op::BININT1 => {
                let v = self.input.u8()?;
                self.push_int(i64::from(v));
            }
            Op::BININT2 => {
                let v = self.input.u16()?;
                self.push_int(i64::from(v));
            }
            Op::BININT => {
                let v = self.input.i32()?;
                self.push_int(i64::from(v));
            }
            Op::BINFLOAT => {
                let v = f64::from_be_bytes(self.input.array()?);
                self.push(Node::Float(v));
            }
            Op::LONG1 => {
                let n = usize::from(self.input.u8()?);
                self.long(n)?;
            }
            Op::LONG4 => {
                let n = self.input.i32()?;
                match usize::try_from(n) {
                    Ok(n) => self.long(n)?,
                    Err(_) => return bad("pickle.negative-length", format!("length {n}")),
                }
            }
            Op::FLOAT => {
                let (_, line) = self.line()?;
                let v = match (number::float_line(line), number::float_python(line)) {
                    (Some(v), _) => v,
                    (None, Some(v)) => {
                        self.soften(Error::malformed("pickle.bad-number", "no C float literal"));
                        v
                    }
                    (None, None) => return bad("pickle.bad-number", "no float literal"),
                };
                self.push(Node::Float(v));
            }
            Op::INT => {
                let (_, line) = self.line()?;
                self.text_int(number::int_line(line))?;
            }
            _ => {
                let (_, line) = self.line()?;
                self.text_int(number::long_line(line))?;
            }
        }
        Ok(())
    }

    fn text_int(&mut self, v: Option<Node>) -> Result<()> {
        match v {
            Some(Node::Int(v)) => self.push_int(v),
            Some(Node::Bool(v)) => self.stack.push(if v { TRUE } else { FALSE }),
            Some(node) => {
                if let Node::BigText(t) = &node {
                    self.took(t.len(), 1);
                }
                self.push(node);
            }
            None => return bad("pickle.bad-number", "no integer literal"),
        }
        Ok(())
    }

    fn long(&mut self, n: usize) -> Result<()> {
        let bytes = self.input.take(n)?;
        let start = self.input.pos().saturating_sub(n);
        if n <= 8 {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut a = if negative { [0xff; 8] } else { [0; 8] };
            for (to, from) in a.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.push_int(i64::from_le_bytes(a));
        } else {
            self.push(Node::BigInt(Blob::At { start, len: n }));
        }
        Ok(())
    }

    pub(super) fn string(&mut self, op: Op) -> Result<()> {
        let len = match op {
            Op::STRING | Op::UNICODE => return self.text_line(op),
            Op::SHORT_BINSTRING | Op::SHORT_BINBYTES | Op::SHORT_BINUNICODE => {
                u64::from(self.input.u8()?)
            }
            // The C unpickler takes all of them as unsigned.
            Op::BINSTRING | Op::BINUNICODE | Op::BINBYTES => u64::from(self.input.u32()?),
            _ => self.input.u64()?,
        };
        let Some(len) = usize::try_from(len)
            .ok()
            .filter(|&n| n <= self.input.left())
        else {
            return Err(Error::truncated(
                "pickle.truncated",
                format!("a string of {len} bytes, {} are left", self.input.left()),
            ));
        };
        let bytes = match op {
            Op::BINBYTES | Op::SHORT_BINBYTES | Op::BINBYTES8 | Op::BYTEARRAY8 => {
                self.input.take_through(len)?
            }
            _ => self.input.take(len)?,
        };
        let start = self.input.pos().saturating_sub(len);
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

    fn text_line(&mut self, op: Op) -> Result<()> {
        let (start, line) = self.line()?;
        let plain = line.is_ascii() && memchr::memchr(b'\\', line).is_none();
        if op == Op::STRING {
            let Some(bytes) = number::unquote(line) else {
                return bad(
                    "pickle.bad-string",
                    "the STRING operand is not quoted right",
                );
            };
            let blob = if plain {
                Blob::At {
                    start: start.saturating_add(1),
                    len: bytes.len(),
                }
            } else {
                self.own(bytes)
            };
            self.push(Node::ByteStr(blob));
            return Ok(());
        }
        let blob = if plain {
            Blob::At {
                start,
                len: line.len(),
            }
        } else {
            match number::raw_unicode(line) {
                Some(text) => self.own(text),
                None => return bad("pickle.bad-string", "the UNICODE operand has a bad escape"),
            }
        };
        self.push(Node::Str(blob));
        Ok(())
    }

    fn own(&mut self, bytes: Vec<u8>) -> Blob {
        self.took(bytes.len(), 1);
        Blob::Own(bytes.into())
    }

    pub(super) fn persistent(&mut self, op: Op) -> Result<()> {
        let id = if op == Op::BINPERSID {
            self.pop()?
        } else {
            let (start, line) = self.line()?;
            if !line.is_ascii() {
                return bad("pickle.bad-string", "a persistent id is not ASCII");
            }
            self.add(Node::Str(Blob::At {
                start,
                len: line.len(),
            }))
        };
        let id = self.push(Node::Persistent(id));
        self.event(Event::Persistent(id));
        Ok(())
    }
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
