//! Random pickles: most of them nearly valid, because only those get far.

use weighbridge_core::pickle::Op;

use crate::mutate::Rng;

/// Numbers as the text opcodes may spell them, right and wrong.
const NUMBERS: [&str; 62] = [
    "0",
    "1",
    "7",
    "00",
    "01",
    "02",
    "-1",
    "+1",
    "-0",
    "+0",
    " 1",
    "1 ",
    "\t12",
    "12\x0b",
    "1\r",
    "01\r",
    "0x10",
    "0X1f",
    "-0x10",
    "0x",
    "0x_1",
    "0x1_",
    "0b1",
    "0b101",
    "0b2",
    "0o17",
    "0O7",
    "010",
    "-010",
    "08",
    "0_0",
    "0_1",
    "1_0",
    "1__0",
    "_1",
    "1_",
    "1_000_000",
    "+ 1",
    "--1",
    "1.5",
    "1L",
    "0x10L",
    "L",
    "LL",
    "010L",
    "1\x002",
    "\x00",
    "\x005",
    "1\x00",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "99999999999999999999999",
    "0777777777777777777777777",
    "0xffffffffffffffffffff",
    "0b11111111111111111111111111111111111111111111111111111111111111111111",
    "",
    " ",
    "e",
    "\u{a0}1",
    "1 2",
];

const FLOATS: [&str; 26] = [
    "1.5", "-0.0", ".5", "5.", ".", "1e3", "1E-3", "1e", "1e400", "-1e400", "1e-400", "inf",
    "-Inf", "INFINITY", "infin", "nan", "-nan", "+nan", " 1.5", "1.5 ", "1_0.5", "0x1p3",
    "1.5\x00z", "1.5\r", "--1", "",
];

const STRINGS: [&str; 18] = [
    "'abc'",
    "\"abc\"",
    "'a\"",
    "'",
    "''",
    "abc",
    " 'a'",
    "'a' ",
    "'\\x41'",
    "'\\x4'",
    "'\\xzz'",
    "'\\101'",
    "'\\777'",
    "'\\q'",
    "'\\'",
    "'\\\\'",
    "'a\\'b'",
    "'\\n\\t\\0'",
];

const TEXTS: [&str; 16] = [
    "abc",
    "",
    "caf\\u00e9",
    "\\U0001f600",
    "\\ud800",
    "\\ud83d\\ude00",
    "\\u12",
    "\\U00110000",
    "\\u+041",
    "\\\\u0041",
    "\\\\\\u0041",
    "a\\",
    "\\n",
    "a\rb",
    "tab\t",
    "\\x41",
];

const INDICES: [&str; 14] = [
    "0", "1", "2", "3", " 1", "1_0", "+2", "-0", "-1", "007", "0x1", "1\x009", "70000", "",
];

const MODULES: [&str; 10] = [
    "os",
    "m",
    "a.b",
    "__main__",
    "builtins",
    "",
    "caf\u{e9}",
    "o s",
    "os\r",
    "x\0y",
];

const NAMES: [&str; 9] = [
    "system",
    "C",
    "f",
    "a.b.c",
    "",
    "<lambda>",
    "na\u{ef}ve",
    "eval",
    "C\r",
];

/// Spellings of one text opcode each, with everything else in order: pickles of their own.
pub fn spellings() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut each = |op: &str, words: &[&str], before: &[u8], after: &[u8]| {
        for w in words {
            let mut p = before.to_vec();
            p.extend_from_slice(op.as_bytes());
            p.extend_from_slice(w.as_bytes());
            p.extend_from_slice(after);
            out.push(p);
        }
    };
    each("I", &NUMBERS, b"", b"\n.");
    each("L", &NUMBERS, b"", b"\n.");
    each("F", &FLOATS, b"", b"\n.");
    each("F", &NUMBERS, b"", b"\n.");
    each("S", &STRINGS, b"", b"\n.");
    each("V", &TEXTS, b"", b"\n.");
    each("p", &INDICES, b"K\x05", b"\n0g1\n.");
    each("g", &INDICES, b"K\x05q\x00K\x06q\x01K\x07q\x0a0", b"\n.");
    each("c", &MODULES, b"", b"\nname\n.");
    each("cmodule\n", &NAMES, b"", b"\n.");
    each("i", &MODULES, b"(K\x01", b"\nname\n.");
    each("imodule\n", &NAMES, b"(K\x01", b"\n.");
    each("P", &TEXTS, b"", b"\n.");
    // Lines without an end.
    for cut in [
        &b"I1"[..],
        b"cos\nsystemX",
        b"cosX",
        b"(Vid\nios\nsystemX",
        b"Pid",
        b"V",
    ] {
        out.push(cut.to_vec());
    }
    out
}

/// The pickle of one seed.
pub fn case(seed: u64) -> Vec<u8> {
    let mut maker = Maker {
        rng: Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        parts: Vec::new(),
        heights: Vec::new(),
        height: 0,
        memo: 0,
    };
    for _ in 0..3 {
        // The first numbers of near seeds are alike.
        maker.rng.bits();
    }
    maker.pickle()
}

struct Maker {
    rng: Rng,
    parts: Vec<Vec<u8>>,
    /// Stack heights below the open marks.
    heights: Vec<usize>,
    /// Values above the last mark.
    height: usize,
    memo: usize,
}

/// What opcodes take off the stack and give back; those of a mark are apart.
const PLAIN: [(Op, usize, usize); 46] = [
    (Op::NONE, 0, 1),
    (Op::NEWTRUE, 0, 1),
    (Op::NEWFALSE, 0, 1),
    (Op::INT, 0, 1),
    (Op::LONG, 0, 1),
    (Op::FLOAT, 0, 1),
    (Op::BININT, 0, 1),
    (Op::BININT1, 0, 1),
    (Op::BININT2, 0, 1),
    (Op::LONG1, 0, 1),
    (Op::LONG4, 0, 1),
    (Op::BINFLOAT, 0, 1),
    (Op::STRING, 0, 1),
    (Op::BINSTRING, 0, 1),
    (Op::SHORT_BINSTRING, 0, 1),
    (Op::UNICODE, 0, 1),
    (Op::BINUNICODE, 0, 1),
    (Op::SHORT_BINUNICODE, 0, 1),
    (Op::BINUNICODE8, 0, 1),
    (Op::BINBYTES, 0, 1),
    (Op::SHORT_BINBYTES, 0, 1),
    (Op::BINBYTES8, 0, 1),
    (Op::BYTEARRAY8, 0, 1),
    (Op::EMPTY_LIST, 0, 1),
    (Op::EMPTY_DICT, 0, 1),
    (Op::EMPTY_SET, 0, 1),
    (Op::EMPTY_TUPLE, 0, 1),
    (Op::TUPLE1, 1, 1),
    (Op::TUPLE2, 2, 1),
    (Op::TUPLE3, 3, 1),
    (Op::DUP, 1, 2),
    (Op::POP, 1, 0),
    (Op::MEMOIZE, 1, 1),
    (Op::BINPUT, 1, 1),
    (Op::PUT, 1, 1),
    (Op::LONG_BINPUT, 1, 1),
    (Op::BINGET, 0, 1),
    (Op::GET, 0, 1),
    (Op::LONG_BINGET, 0, 1),
    (Op::PERSID, 0, 1),
    (Op::BINPERSID, 1, 1),
    (Op::PROTO, 0, 0),
    (Op::FRAME, 0, 0),
    (Op::READONLY_BUFFER, 1, 1),
    (Op::APPEND, 2, 1),
    (Op::SETITEM, 3, 1),
];

const MARKED: [Op; 12] = [
    Op::TUPLE,
    Op::LIST,
    Op::DICT,
    Op::FROZENSET,
    Op::APPENDS,
    Op::SETITEMS,
    Op::ADDITEMS,
    Op::POP_MARK,
    Op::OBJ,
    Op::INST,
    Op::TUPLE,
    Op::LIST,
];

impl Maker {
    fn pickle(mut self) -> Vec<u8> {
        let protocol = self.rng.below(6) as u8;
        let soup = self.rng.below(16) == 0;
        if protocol >= 2 && self.rng.below(8) != 0 {
            self.parts.push(vec![0x80, protocol]);
        }
        let length = 3 + self.rng.below(28);
        for _ in 0..length {
            if soup || self.rng.below(40) == 0 {
                self.any();
            } else {
                self.fitting();
            }
        }
        while let Some(below) = self.heights.pop() {
            self.parts.push(vec![Op::TUPLE as u8]);
            self.height = below + 1;
        }
        if self.height == 0 {
            self.parts.push(vec![Op::NONE as u8]);
        }
        self.parts.push(vec![Op::STOP as u8]);
        if protocol >= 4 && self.rng.below(2) == 0 {
            self.frames();
        }
        let mut out = self.parts.concat();
        if self.rng.below(6) == 0 {
            self.damage(&mut out);
        }
        out
    }

    /// Bends the bytes of a pickle that was good.
    fn damage(&mut self, out: &mut Vec<u8>) {
        let at = self.rng.below(out.len());
        match self.rng.below(4) {
            0 => out.truncate(at),
            1 => {
                if let Some(b) = out.get_mut(at) {
                    *b = self.rng.bits() as u8;
                }
            }
            2 => out.insert(at, self.rng.bits() as u8),
            _ => {
                out.remove(at);
            }
        }
        // An index of the memo is memory in the real unpickler, and four bytes of it too much.
        while let Some(i) = out.iter().position(|&b| b == Op::LONG_BINPUT as u8) {
            if let Some(b) = out.get_mut(i) {
                *b = Op::MEMOIZE as u8;
            }
        }
    }

    /// Puts frames around runs of opcodes, one in three of a wrong length.
    fn frames(&mut self) {
        let wide = self.rng.below(12) == 0;
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut parts = std::mem::take(&mut self.parts).into_iter().peekable();
        if wide {
            // So that a buffered file has to refill within the frames.
            let n = 4000 + self.rng.below(90) as u32;
            let mut part = vec![Op::BINBYTES as u8];
            part.extend_from_slice(&n.to_le_bytes());
            part.resize(5 + n as usize, b'.');
            out.extend([part, vec![Op::POP as u8]]);
        }
        while parts.peek().is_some() {
            let n = 1 + self.rng.below(6);
            let run: Vec<u8> = parts.by_ref().take(n).flatten().collect();
            let mut len = run.len() as u64;
            match self.rng.below(9) {
                0 => len = len.saturating_sub(1 + self.rng.below(4) as u64),
                1 => len += 1 + self.rng.below(6) as u64,
                2 if self.rng.below(8) == 0 => len = self.rng.bits(),
                _ => {}
            }
            let mut frame = vec![Op::FRAME as u8];
            frame.extend_from_slice(&len.to_le_bytes());
            out.extend([frame, run]);
        }
        self.parts = out;
    }

    /// An opcode that the stack has room for.
    fn fitting(&mut self) {
        match self.rng.below(10) {
            0 => {
                self.parts.push(vec![Op::MARK as u8]);
                self.heights.push(self.height);
                self.height = 0;
            }
            1 if !self.heights.is_empty() => self.marked(),
            2 | 3 => self.global(),
            4 => self.called(),
            _ => self.plain(),
        }
    }

    fn plain(&mut self) {
        for _ in 0..8 {
            let Some(&(op, takes, gives)) = self.rng.pick(&PLAIN) else {
                return;
            };
            let gets = matches!(op, Op::GET | Op::BINGET | Op::LONG_BINGET);
            let puts = matches!(op, Op::PUT | Op::BINPUT | Op::LONG_BINPUT);
            if takes > self.height || gets && self.memo == 0 || op == Op::POP && self.height < 2 {
                continue;
            }
            if op == Op::SETITEM && self.rng.below(4) != 0 {
                // With a key that can be one.
                self.parts
                    .push(vec![Op::EMPTY_DICT as u8, Op::BININT1 as u8, 7]);
                self.parts.push(vec![Op::NONE as u8, Op::SETITEM as u8]);
                self.height += 1;
                return;
            }
            self.emit(op);
            self.height = self.height - takes + gives;
            if puts || op == Op::MEMOIZE {
                self.memo += 1;
            }
            return;
        }
    }

    fn marked(&mut self) {
        let Some(&op) = self.rng.pick(&MARKED) else {
            return;
        };
        let below = self.heights.last().copied().unwrap_or(0);
        let changes = matches!(op, Op::APPENDS | Op::SETITEMS | Op::ADDITEMS);
        let paired = matches!(op, Op::DICT | Op::SETITEMS);
        if changes && below == 0
            || paired && self.height % 2 == 1 && self.rng.below(8) != 0
            || op == Op::OBJ && self.height == 0
        {
            return;
        }
        self.emit(op);
        self.heights.pop();
        let gives = usize::from(!changes && op != Op::POP_MARK);
        self.height = below + gives;
    }

    fn global(&mut self) {
        if self.rng.below(3) == 0 {
            let (module, name) = (self.word(&MODULES), self.word(&NAMES));
            for text in [module, name] {
                let mut part = vec![Op::SHORT_BINUNICODE as u8, text.len() as u8];
                part.extend_from_slice(text.as_bytes());
                self.parts.push(part);
            }
            self.parts.push(vec![Op::STACK_GLOBAL as u8]);
        } else {
            self.emit(Op::GLOBAL);
        }
        self.height += 1;
    }

    /// A call or a change of something that can be called.
    fn called(&mut self) {
        let callable: &[u8] = match self.rng.below(4) {
            0 => b"cm\nf\n",
            1 => b"cm\nC\n)R",
            2 => b"Ppid\n",
            _ => b"(im\nD\n",
        };
        self.parts.push(callable.to_vec());
        self.height += 1;
        let tail: &[u8] = match self.rng.below(14) {
            0 | 1 => b")R",
            2 => b"K\x01\x85R",
            3 => b")\x81",
            4 => b"K\x02\x85\x81",
            5 => b")}\x92",
            6 => b"N\x85}X\x01\0\0\0kK\x09s\x92",
            7 => b"}b",
            8 => b"N}\x86b",
            9 => b"K\x01a",
            10 => b"(K\x01K\x02e",
            11 => b"(K\x03\x90",
            12 => b"K\x01Ns",
            _ => b"(K\x01NVk\n]u",
        };
        self.parts.push(tail.to_vec());
    }

    /// Any opcode at all.
    fn any(&mut self) {
        let byte = self.rng.bits() as u8;
        match Op::from_byte(byte) {
            Some(op) => self.emit(op),
            None => {
                let ops: Vec<Op> = (0..=255).filter_map(Op::from_byte).collect();
                match self.rng.pick(&ops).copied() {
                    Some(op) if self.rng.below(20) != 0 => self.emit(op),
                    _ => self.parts.push(vec![byte]),
                }
            }
        }
    }

    /// The `usual` words come first and are taken more often.
    fn word(&mut self, words: &'static [&'static str]) -> &'static str {
        let n = if self.rng.below(3) == 0 {
            words.len()
        } else {
            3
        };
        words.get(self.rng.below(n)).copied().unwrap_or_default()
    }

    fn emit(&mut self, op: Op) {
        let mut part = vec![op as u8];
        let mut line = |text: &str| {
            part.extend_from_slice(text.as_bytes());
            part.push(b'\n');
        };
        match op {
            Op::INT | Op::LONG => line(self.word(&NUMBERS)),
            Op::FLOAT => line(self.word(&FLOATS)),
            Op::STRING => line(self.word(&STRINGS)),
            Op::UNICODE => line(self.word(&TEXTS)),
            Op::PERSID => line(self.word(&TEXTS)),
            Op::GET | Op::PUT => line(self.word(&INDICES)),
            Op::GLOBAL | Op::INST => {
                line(self.word(&MODULES));
                line(self.word(&NAMES));
            }
            Op::BININT1 | Op::EXT1 => part.push(self.rng.bits() as u8),
            Op::BINPUT | Op::BINGET => part.push(self.rng.below(self.memo.max(1)) as u8),
            Op::PROTO => part.push(self.rng.below(6) as u8),
            Op::BININT2 | Op::EXT2 => {
                part.extend_from_slice(&(self.rng.bits() as u16).to_le_bytes())
            }
            Op::BININT | Op::EXT4 => {
                part.extend_from_slice(&(self.rng.bits() as u32).to_le_bytes())
            }
            Op::LONG_BINPUT | Op::LONG_BINGET => {
                let index = self.rng.below(self.memo.max(1) + 1) as u32;
                part.extend_from_slice(&index.to_le_bytes());
            }
            Op::BINFLOAT => part.extend_from_slice(&self.rng.bits().to_le_bytes()),
            Op::FRAME => part.extend_from_slice(&(self.rng.below(20) as u64).to_le_bytes()),
            _ => self.counted(op, &mut part),
        }
        self.parts.push(part);
    }

    /// Opcodes whose operand has a length.
    fn counted(&mut self, op: Op, part: &mut Vec<u8>) {
        let width = match op {
            Op::LONG1 | Op::SHORT_BINSTRING | Op::SHORT_BINBYTES | Op::SHORT_BINUNICODE => 1,
            Op::LONG4 | Op::BINSTRING | Op::BINBYTES | Op::BINUNICODE => 4,
            Op::BINBYTES8 | Op::BYTEARRAY8 | Op::BINUNICODE8 => 8,
            _ => return,
        };
        let n = self.rng.below(12);
        let text = matches!(op, Op::SHORT_BINUNICODE | Op::BINUNICODE | Op::BINUNICODE8);
        let payload: Vec<u8> = match (text, self.rng.below(12)) {
            (true, 0) => b"\xed\xa0\x80x".to_vec(),
            (true, 1) => b"\xff\xfe".to_vec(),
            (true, 2) => "\u{1f600}\u{e9}".as_bytes().to_vec(),
            (true, _) => (0..n).map(|_| b'a' + self.rng.below(26) as u8).collect(),
            (false, _) => (0..n).map(|_| self.rng.bits() as u8).collect(),
        };
        let claimed = match self.rng.below(60) {
            0 => u64::MAX,
            1 => payload.len() as u64 + 1,
            _ => payload.len() as u64,
        };
        part.extend_from_slice(claimed.to_le_bytes().get(..width).unwrap_or_default());
        part.extend_from_slice(&payload);
    }
}
