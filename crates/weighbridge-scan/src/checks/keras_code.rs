//! Python code inside Keras configurations: bytecode in base64, or source.

use std::collections::HashSet;

use weighbridge_core::wire::marshal::{self, Node, Tree};

/// Longest code looked into, in bytes of its text.
const MOST_CODE: usize = 16 << 20;

/// Most names and constants shown.
const MOST_SHOWN: usize = 24;

/// What a piece of code names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// The words of the list that it names.
    pub(crate) words: Vec<String>,
    /// Its names and constants, for the report.
    pub(crate) shown: String,
    /// Whether it could not be read as code, so that its bytes were searched instead.
    pub(crate) broken: bool,
}

/// What the code that `text` encodes names, when it is bytecode; `certain` when `text` stands
/// where only code stands, so that anything there counts.
pub(crate) fn bytecode(text: &str, words: &HashSet<&str>, certain: bool) -> Option<Named> {
    if text.len() > MOST_CODE || (!certain && !is_likely(text)) {
        return None;
    }
    let decoded = base64(text);
    // A loader takes what is no base64 as the bytes themselves (python_utils.func_load).
    let raw: Vec<u8> = text.chars().map(|c| c as u32 as u8).collect();
    for bytes in [&decoded, &raw] {
        if let Ok(tree) = marshal::read(bytes)
            && tree.codes().next().is_some()
        {
            let mut named = of_tree(&tree, words);
            if named.shown.is_empty() {
                named.shown = format!("{} bytes that name nothing", bytes.len());
            }
            return Some(named);
        }
    }
    // Damaged, or of an interpreter with another layout: the names still stand in it as they are.
    let begins = |b: &[u8]| matches!(b.first(), Some(0x63 | 0xe3));
    let bytes = if begins(&decoded) { decoded } else { raw };
    if !begins(&bytes) || (!certain && bytes.len() < 40) {
        return None;
    }
    let found = source(&String::from_utf8_lossy(&bytes), words);
    Some(Named {
        broken: true,
        ..found
    })
}

/// What source text names.
pub(crate) fn source(text: &str, words: &HashSet<&str>) -> Named {
    let mut found = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
        if words.contains(word) && !found.iter().any(|f| f == word) {
            found.push(word.to_owned());
        }
    }
    let shown = text.chars().filter(|c| !c.is_control()).take(300).collect();
    Named {
        words: found,
        shown,
        broken: false,
    }
}

/// Whether base64 text begins as a code object does: the type byte `c`, with and without the flag
/// for references. Decoders skip what is no base64.
fn is_likely(text: &str) -> bool {
    let mut letters = text.chars().filter(|&c| value(c).is_some());
    let head: String = letters.by_ref().take(2).collect();
    matches!(head.as_str(), "4w" | "Yw") && letters.take(30).count() == 30
}

fn of_tree(tree: &Tree, words: &HashSet<&str>) -> Named {
    let mut named = Named::default();
    let mut names = Vec::new();
    let mut constants = Vec::new();
    for code in tree.codes() {
        for &i in tree.items(code.names) {
            if let Some(text) = string(tree, i) {
                push(&mut names, text);
            }
        }
        flat(tree, code.consts, 0, &mut constants);
    }
    for n in names.iter().chain(&constants) {
        // A constant such as `os.system` names as much as a name does.
        for part in n.split('.') {
            let word = part.trim();
            if words.contains(word) && !named.words.iter().any(|w| w == word) {
                named.words.push(word.to_owned());
            }
        }
    }
    let quoted = constants.iter().map(|c| format!("{c:?}"));
    let all = names.iter().cloned().chain(quoted);
    named.shown = all.take(MOST_SHOWN).collect::<Vec<_>>().join(", ");
    named
}

fn string(tree: &Tree, index: usize) -> Option<String> {
    match tree.node(index)? {
        Node::Str(s) => Some(s.clone()),
        Node::Bytes(b) => Some(String::from_utf8_lossy(b).into_owned()),
        _ => None,
    }
}

/// The strings of a constant, also inside tuples.
fn flat(tree: &Tree, index: usize, depth: u32, out: &mut Vec<String>) {
    if let Some(text) = string(tree, index) {
        push(out, text);
    } else if depth < 4 {
        for &i in tree.items(index) {
            flat(tree, i, depth + 1, out);
        }
    }
}

fn push(out: &mut Vec<String>, text: String) {
    if out.len() < 4096 && text.len() < 4096 && !out.contains(&text) {
        out.push(text);
    }
}

fn value(c: char) -> Option<u32> {
    Some(match c {
        'A'..='Z' => c as u32 - 'A' as u32,
        'a'..='z' => c as u32 - 'a' as u32 + 26,
        '0'..='9' => c as u32 - '0' as u32 + 52,
        '+' => 62,
        '/' => 63,
        _ => return None,
    })
}

/// Decodes base64 as Python's decoder does: what is none of its letters is skipped, and the first
/// padding ends it.
fn base64(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for c in text.chars() {
        if c == '=' && held < 8 && held != 0 {
            break;
        }
        let Some(v) = value(c) else {
            continue;
        };
        bits = (bits << 6) | v;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lambda x: __import__("os").system("true")`, Python 3.11.
    const EVIL: &str = concat!(
        "4wEAAAAAAAAAAAAAAAMAAAADAAAA80YAAACXAHQBAAAAAAAAAAAAAGQBpgEAAKsBAAAAAAAAAACgAQAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAZAKmAQAAqwEAAAAAAAAAAFMAKQNO2gJvc9oEdHJ1ZSkC2gpfX2ltcG9ydF9f2gZzeXN0ZW0p",
        "AdoBeHMBAAAAIPoEZi5wefoIPGxhbWJkYT5yCAAAAAEAAABzHAAAAIAAjWqYFNEOHtQOHtcOJdIOJaBm0Q4t1A4t",
        "gADzAAAAAA==",
        "\n"
    );

    fn words() -> HashSet<&'static str> {
        ["os", "system", "__import__", "eval"].into()
    }

    #[test]
    fn bytecode_gives_the_names_it_uses() {
        let named = bytecode(EVIL, &words(), false).unwrap();
        assert_eq!(named.words, ["__import__", "system", "os"]);
        assert_eq!(named.shown, "__import__, system, \"os\", \"true\"");
        assert!(!named.broken);
        // What Python's decoder skips hides nothing.
        let spread: String = EVIL.chars().flat_map(|c| [c, '!', '\n']).collect();
        assert_eq!(bytecode(&spread, &words(), false).unwrap().words.len(), 3);
        // Bytes as they are.
        let raw: String = base64(EVIL).into_iter().map(char::from).collect();
        assert_eq!(bytecode(&raw, &words(), true).unwrap().words.len(), 3);
    }

    #[test]
    fn damaged_bytecode_is_searched() {
        let named = bytecode(&EVIL[..240], &words(), false).unwrap();
        assert!(named.broken);
        assert!(named.words.contains(&"system".to_owned()), "{named:?}");
    }

    #[test]
    fn ordinary_text_is_no_code() {
        for text in [
            "",
            "relu",
            "4wd",
            "sequential",
            "Yw==",
            "cGxhaW4gdGV4dCBpbiBiYXNlNjQ=",
        ] {
            assert!(bytecode(text, &words(), false).is_none(), "{text}");
        }
    }

    #[test]
    fn source_gives_whole_words_only() {
        assert_eq!(source("lambda x: eval('1')", &words()).words, ["eval"]);
        assert!(
            source("lambda x: evaluate(cosine)", &words())
                .words
                .is_empty()
        );
    }
}
