//! A pickle protocol 2 writer: the opcodes that `torch.load(weights_only=True)` reads
//! (`torch/_weights_only_unpickler.py`), and no others.

use std::collections::HashMap;

use weighbridge_core::{Error, Result};

/// Items per `SETITEMS` or `APPENDS`, as CPython's pickler batches them (`_BATCHSIZE`).
pub(super) const BATCH: usize = 1000;

/// Strings up to this length are memoized, so that the keys of many like dicts are written once.
const INTERN: usize = 100;

/// Most bytes of an integer: `LONG1` has a one-byte length and `LONG4` is not on torch's list.
const LONG1_MAX: usize = 255;

/// A pickle in the making.
#[derive(Debug)]
pub(super) struct Pickler {
    out: Vec<u8>,
    memo: u32,
    globals: HashMap<(&'static str, String), u32>,
    strings: HashMap<String, u32>,
}

impl Pickler {
    pub(super) fn new() -> Self {
        Self {
            out: vec![0x80, 2],
            memo: 0,
            globals: HashMap::new(),
            strings: HashMap::new(),
        }
    }

    /// The finished pickle: what is on the stack is the result.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.op(b'.');
        self.out
    }

    fn op(&mut self, op: u8) {
        self.out.push(op);
    }

    /// Memoizes the top of the stack.
    pub(super) fn put(&mut self) -> u32 {
        let id = self.memo;
        self.memo = self.memo.saturating_add(1);
        match u8::try_from(id) {
            Ok(short) => self.out.extend([b'q', short]),
            Err(_) => {
                self.op(b'r');
                self.out.extend(id.to_le_bytes());
            }
        }
        id
    }

    /// Pushes a memoized value.
    pub(super) fn get(&mut self, id: u32) {
        match u8::try_from(id) {
            Ok(short) => self.out.extend([b'h', short]),
            Err(_) => {
                self.op(b'j');
                self.out.extend(id.to_le_bytes());
            }
        }
    }

    pub(super) fn none(&mut self) {
        self.op(b'N');
    }

    pub(super) fn bool(&mut self, b: bool) {
        self.op(if b { 0x88 } else { 0x89 });
    }

    pub(super) fn int(&mut self, i: i64) {
        if let Ok(b) = u8::try_from(i) {
            self.out.extend([b'K', b]);
        } else if let Ok(h) = u16::try_from(i) {
            self.op(b'M');
            self.out.extend(h.to_le_bytes());
        } else if let Ok(w) = i32::try_from(i) {
            self.op(b'J');
            self.out.extend(w.to_le_bytes());
        } else {
            let mut bytes = i.to_le_bytes().to_vec();
            trim_sign(&mut bytes);
            self.op(0x8a);
            self.out.push(bytes.len() as u8);
            self.out.extend(bytes);
        }
    }

    /// An unsigned count, such as a size or an offset.
    pub(super) fn count(&mut self, n: u64) {
        match i64::try_from(n) {
            Ok(i) => self.int(i),
            Err(_) => {
                let mut bytes = n.to_le_bytes().to_vec();
                bytes.push(0);
                self.op(0x8a);
                self.out.push(9);
                self.out.extend(bytes);
            }
        }
    }

    /// A decimal integer of any size; `false`, and nothing written, when it is none or needs more
    /// than 255 bytes.
    pub(super) fn big_int(&mut self, digits: &str) -> bool {
        match two_complement(digits) {
            Some(bytes) => {
                self.op(0x8a);
                self.out.push(bytes.len() as u8);
                self.out.extend(bytes);
                true
            }
            None => false,
        }
    }

    pub(super) fn float(&mut self, f: f64) {
        self.op(b'G');
        self.out.extend(f.to_be_bytes());
    }

    pub(super) fn str(&mut self, s: &str) -> Result<()> {
        if let Some(&id) = self.strings.get(s) {
            self.get(id);
            return Ok(());
        }
        let len = u32::try_from(s.len()).map_err(|_| {
            Error::unsupported(
                "pytorch.long-string",
                "a string of 4 GiB has no place in a pickle of protocol 2",
            )
        })?;
        self.op(b'X');
        self.out.extend(len.to_le_bytes());
        self.out.extend(s.as_bytes());
        if s.len() <= INTERN {
            let id = self.put();
            self.strings.insert(s.to_owned(), id);
        }
        Ok(())
    }

    /// Bytes, as CPython writes them in protocol 2: `_codecs.encode(text, "latin1")`. (For the
    /// empty bytes it writes a call of `bytes`, which torch does not allow; this form it does.)
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let text: String = bytes.iter().map(|&b| char::from(b)).collect();
        self.global("_codecs", "encode");
        self.str(&text)?;
        self.str("latin1")?;
        self.tuple_of(2);
        self.reduce();
        Ok(())
    }

    /// Pushes a global. `module` is Python 2's spelling, which protocol 2 uses.
    pub(super) fn global(&mut self, module: &'static str, name: &str) {
        if let Some(&id) = self.globals.get(&(module, name.to_owned())) {
            self.get(id);
            return;
        }
        self.op(b'c');
        self.out.extend(module.as_bytes());
        self.op(b'\n');
        self.out.extend(name.as_bytes());
        self.op(b'\n');
        let id = self.put();
        self.globals.insert((module, name.to_owned()), id);
    }

    pub(super) fn mark(&mut self) {
        self.op(b'(');
    }

    /// Makes a tuple of everything since the mark.
    pub(super) fn tuple(&mut self) {
        self.op(b't');
    }

    /// Makes a tuple of the top `n` values, at most three.
    pub(super) fn tuple_of(&mut self, n: u8) {
        self.op(match n {
            0 => b')',
            1 => 0x85,
            2 => 0x86,
            _ => 0x87,
        });
    }

    /// Pushes a tuple of counts.
    pub(super) fn counts(&mut self, dims: &[u64]) {
        let short = u8::try_from(dims.len()).ok().filter(|&n| n <= 3);
        if short.is_none() {
            self.mark();
        }
        for &d in dims {
            self.count(d);
        }
        match short {
            Some(n) => self.tuple_of(n),
            None => self.tuple(),
        }
    }

    pub(super) fn empty_list(&mut self) {
        self.op(b']');
    }

    pub(super) fn appends(&mut self) {
        self.op(b'e');
    }

    pub(super) fn empty_dict(&mut self) {
        self.op(b'}');
    }

    pub(super) fn set_items(&mut self) {
        self.op(b'u');
    }

    pub(super) fn set_item(&mut self) {
        self.op(b's');
    }

    /// Calls the callable below the top with the tuple on top.
    pub(super) fn reduce(&mut self) {
        self.op(b'R');
    }

    /// Sets the state on top on the object below it.
    pub(super) fn build(&mut self) {
        self.op(b'b');
    }

    /// Turns the tuple on top into the storage it identifies.
    pub(super) fn persistent_id(&mut self) {
        self.op(b'Q');
    }
}

/// Drops the bytes of a little-endian two's complement number that repeat its sign.
fn trim_sign(bytes: &mut Vec<u8>) {
    while let [.., below, top] = bytes.as_slice() {
        let sign = if below & 0x80 == 0 { 0 } else { 0xff };
        if *top != sign {
            break;
        }
        bytes.pop();
    }
}

/// Decimal digits as a little-endian two's complement number of at most [`LONG1_MAX`] bytes.
fn two_complement(digits: &str) -> Option<Vec<u8>> {
    let (negative, magnitude) = match digits.strip_prefix('-') {
        Some(m) => (true, m),
        None => (false, digits),
    };
    // 255 bytes hold fewer than 615 decimal digits, so longer texts need no work.
    if magnitude.is_empty() || magnitude.len() > 615 {
        return None;
    }
    let mut bytes: Vec<u8> = Vec::new();
    for d in magnitude.bytes() {
        let mut carry = u32::from(d.is_ascii_digit().then(|| d - b'0')?);
        for b in &mut bytes {
            let n = u32::from(*b) * 10 + carry;
            *b = n as u8;
            carry = n >> 8;
        }
        if carry > 0 {
            bytes.push(carry as u8);
        }
    }
    bytes.push(0);
    if negative {
        let mut carry = true;
        for b in &mut bytes {
            let (n, over) = (!*b).overflowing_add(u8::from(carry));
            *b = n;
            carry = over;
        }
    }
    trim_sign(&mut bytes);
    (bytes.len() <= LONG1_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_the_shortest_opcode() {
        let written = |i: i64| {
            let mut p = Pickler::new();
            p.int(i);
            p.out.split_off(2)
        };
        assert_eq!(written(255), [b'K', 255]);
        assert_eq!(written(256), [b'M', 0, 1]);
        assert_eq!(written(-1), [b'J', 255, 255, 255, 255]);
        assert_eq!(written(1 << 31), [0x8a, 5, 0, 0, 0, 0x80, 0]);
        assert_eq!(written(-(1 << 31) - 1), [0x8a, 5, 255, 255, 255, 0x7f, 255]);
        assert_eq!(written(i64::MIN), [0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    }

    #[test]
    fn decimal_text_becomes_two_complement() {
        for i in [
            0i64,
            1,
            -1,
            127,
            128,
            -128,
            -129,
            255,
            256,
            i64::MAX,
            i64::MIN,
        ] {
            let mut want = i.to_le_bytes().to_vec();
            trim_sign(&mut want);
            assert_eq!(two_complement(&i.to_string()), Some(want), "{i}");
        }
        // 2^70 and -2^65, as CPython encodes them (`pickle.encode_long`).
        let big = two_complement("1180591620717411303424").unwrap();
        assert_eq!(big, [0, 0, 0, 0, 0, 0, 0, 0, 0x40]);
        let big = two_complement("-36893488147419103232").unwrap();
        assert_eq!(big, [0, 0, 0, 0, 0, 0, 0, 0, 0xfe]);
        assert_eq!(two_complement("1x"), None);
        assert_eq!(two_complement(""), None);
        assert_eq!(two_complement(&"9".repeat(700)), None);
        assert_eq!(two_complement(&"9".repeat(614)), None);
        assert_eq!(two_complement(&"9".repeat(613)).map(|b| b.len()), Some(255));
    }
}
