//! What the programs that load a model take for granted of its metadata, and have read or written
//! past the end of memory for: the types and lengths of a vocabulary's arrays, tokens that stand
//! for bytes, the number of blocks.
//!
//! The types are those of `docs/gguf.md`; what went wrong is in issue 26690 and the pull requests
//! 20735, 25821 and 25969 of llama.cpp. We read all of it as data, whatever it says.

use weighbridge_core::{Error, Result};

use super::raw::{Array, Header, Value, shown};
use super::types::ValueType;

/// Most blocks of a model (`LLAMA_MAX_LAYERS`).
const MOST_BLOCKS: u64 = 512;

/// The token type of a token that stands for a byte (`LLAMA_TOKEN_TYPE_BYTE`).
const BYTE: u32 = 6;

/// How many violations of one kind are told.
const MOST: usize = 10;

/// The arrays that have an element for each token or merge, with the types that readers take.
const ARRAYS: [(&str, &[ValueType], bool); 4] = [
    ("tokenizer.ggml.tokens", &[ValueType::String], false),
    ("tokenizer.ggml.merges", &[ValueType::String], false),
    ("tokenizer.ggml.scores", &[ValueType::F32], true),
    (
        "tokenizer.ggml.token_type",
        &[ValueType::I32, ValueType::U32],
        true,
    ),
];

/// Whether `rule` is one of these.
pub(crate) fn is_own(rule: &str) -> bool {
    matches!(
        rule,
        "gguf.vocabulary" | "gguf.byte-token" | "gguf.block-count"
    )
}

/// Appends what is wrong to `errors`.
///
/// # Errors
/// What reading gives.
pub(super) fn check(header: &Header<'_>, errors: &mut Vec<Error>) -> Result<()> {
    let mut tokens = None;
    for (key, types, parallel) in ARRAYS {
        let Some(entry) = header.entry(key) else {
            continue;
        };
        let at = entry.key.start as u64;
        match &entry.value {
            Value::Array(a) if types.contains(&a.element) => {
                if tokens.is_none() {
                    tokens = Some(a.len);
                } else if parallel && tokens != Some(a.len) {
                    let n = tokens.unwrap_or(0);
                    let message = format!("{key} has {} elements for {n} tokens", a.len);
                    errors.push(Error::malformed("gguf.vocabulary", message).at(at));
                }
            }
            Value::Array(a) => {
                let message = format!("{key} is an array of {}", a.element.as_str());
                errors.push(Error::malformed("gguf.vocabulary", message).at(at));
            }
            _ => {
                let message = format!("{key} is no array");
                errors.push(Error::malformed("gguf.vocabulary", message).at(at));
            }
        }
    }
    byte_tokens(header, errors)?;
    blocks(header, errors);
    Ok(())
}

fn array<'h>(header: &'h Header<'_>, key: &str, element: &[ValueType]) -> Option<&'h Array> {
    match &header.entry(key)?.value {
        Value::Array(a) if element.contains(&a.element) => Some(a),
        _ => None,
    }
}

/// A token of type byte is spelled `<0xAB>`: loaders parse it and index by the result.
fn byte_tokens(header: &Header<'_>, errors: &mut Vec<Error>) -> Result<()> {
    let types = array(
        header,
        "tokenizer.ggml.token_type",
        &[ValueType::I32, ValueType::U32],
    );
    let tokens = array(header, "tokenizer.ggml.tokens", &[ValueType::String]);
    let Some(tokens) = tokens else {
        return Ok(());
    };
    // One of llama.cpp's tokenizers goes by the spelling alone.
    let model = header.entry("tokenizer.ggml.model").map(|e| &e.value);
    let spelling = matches!(model, Some(Value::String(r)) if header.bytes(r) == b"plamo2");
    let bytes = match types {
        Some(types) => Marks::of(header, types)?,
        None => Marks::default(),
    };
    // Nothing is asked of the tokens behind the last one that stands for a byte.
    let last = if spelling { u64::MAX } else { bytes.end() };
    let (mut i, mut told) = (0, 0);
    if last == 0 {
        return Ok(());
    }
    header.each_string(tokens, &mut |at, token| {
        let parsed = bytes.has(i) || spelling && is_spelled(token);
        i += 1;
        if parsed && !is_byte(token) {
            let message = format!("the token {} stands for no byte", shown(token));
            let e = Error::malformed("gguf.byte-token", message);
            errors.push(e.span(at as u64, token.len() as u64));
            told += 1;
        }
        told < MOST && i < last
    })
}

/// Which tokens stand for bytes: a bit for each.
#[derive(Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn of(header: &Header<'_>, types: &Array) -> Result<Self> {
        let byte = match header.big_endian {
            true => BYTE.to_be_bytes(),
            false => BYTE.to_le_bytes(),
        };
        let mut marks = Vec::new();
        header.pieces(types, &mut |piece| {
            let (types, _) = piece.as_chunks::<4>();
            // Pieces but for the last are of whole words.
            marks.extend(types.chunks(64).map(|types| word(types, byte)));
        })?;
        Ok(Self(marks))
    }

    fn has(&self, i: u64) -> bool {
        let word = usize::try_from(i / 64).ok().and_then(|i| self.0.get(i));
        word.is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    /// The number behind the last that is marked.
    fn end(&self) -> u64 {
        let last = self.0.iter().rposition(|w| *w != 0);
        let word = last.and_then(|i| Some((i as u64, self.0.get(i)?)));
        word.map_or(0, |(i, w)| i * 64 + 64 - u64::from(w.leading_zeros()))
    }
}

fn word(types: &[[u8; 4]], byte: [u8; 4]) -> u64 {
    // Most have none, which takes no bit by bit.
    if !types.iter().fold(false, |any, t| any | (*t == byte)) {
        return 0;
    }
    let bits = types.iter().enumerate();
    bits.fold(0, |word, (i, t)| word | u64::from(*t == byte) << i)
}

/// Six bytes, `<0x` and `>` round two.
fn is_spelled(token: &[u8]) -> bool {
    token.len() == 6 && token.starts_with(b"<0x") && token.ends_with(b">")
}

fn is_byte(token: &[u8]) -> bool {
    let digits = token.get(3..5).unwrap_or_default();
    // A byte may stand for itself too.
    token.len() == 1 || is_spelled(token) && digits.iter().all(u8::is_ascii_hexdigit)
}

fn blocks(header: &Header<'_>, errors: &mut Vec<Error>) {
    for e in &header.entries {
        if !header.bytes(&e.key).ends_with(b".block_count") {
            continue;
        }
        let n = match e.value {
            Value::U8(n) => Some(u64::from(n)),
            Value::U16(n) => Some(u64::from(n)),
            Value::U32(n) => Some(u64::from(n)),
            Value::U64(n) => Some(n),
            Value::I32(n) => u64::try_from(n).ok(),
            Value::I64(n) => u64::try_from(n).ok(),
            _ => None,
        };
        if n.is_none_or(|n| n > MOST_BLOCKS) {
            let shown = match n {
                Some(n) => format!("{n} blocks, loaders have room for {MOST_BLOCKS}"),
                None => "the number of blocks is no count".to_owned(),
            };
            let e = Error::malformed("gguf.block-count", shown).at(e.key.start as u64);
            errors.push(e);
            return;
        }
    }
}
