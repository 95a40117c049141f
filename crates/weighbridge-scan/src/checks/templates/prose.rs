//! What the text of a template says to people and models: sentences, addresses, invisible signs.

/// Fewest words of a sentence that counts as an instruction.
const FEW_WORDS: usize = 4;

/// Fewest signs of a script that does without blanks.
const FEW_SIGNS: usize = 8;

/// Whether `text` holds a sentence: words beside the markers (`<|im_start|>`, `[INST]`) and field
/// names that templates are made of.
pub(super) fn is_instruction(text: &str) -> bool {
    let (words, signs) = count(text);
    let address = text.contains("://") || text.contains("www.");
    words >= FEW_WORDS
        || signs >= FEW_SIGNS
        || address
        || text.contains("<!--")
        || text.split_whitespace().any(is_encoded)
}

fn count(text: &str) -> (usize, usize) {
    let mut words = 0;
    let mut signs = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let close = match c {
            '<' => Some('>'),
            '[' => Some(']'),
            _ => None,
        };
        // A marker holds no blank; a mark of less or more does.
        let marker = close.and_then(|close| {
            let end = rest.find([close, ' ', '\n'])?;
            rest.get(end..)?.strip_prefix(close)
        });
        if let Some(after) = marker {
            rest = after;
            continue;
        }
        let len = match rest.find(|c: char| !(c.is_alphabetic() || c == '\'')) {
            Some(0) => {
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
                continue;
            }
            Some(n) => n,
            None => rest.len(),
        };
        let (word, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
        // `tool_name`, `a.b` and `"key":` are identifiers.
        let name = after.starts_with(['_', '=', '/', '|', '@'])
            || after.starts_with("\":")
            || (after.starts_with('.') && after.chars().nth(1).is_some_and(char::is_alphanumeric));
        let ideographs = word.chars().filter(|c| is_ideograph(*c)).count();
        signs += ideographs;
        if !name && ideographs == 0 && word.chars().nth(1).is_some() {
            words += 1;
        }
        rest = after;
    }
    (words, signs)
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}'
        | '\u{e00}'..='\u{e7f}')
}

/// Whether a word looks like Base64.
fn is_encoded(word: &str) -> bool {
    let has = |f: fn(&u8) -> bool| word.as_bytes().iter().any(f);
    word.len() >= 20
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
}

/// Whether a constant that is looked for in a message is a marker of the template's own language
/// (`</think>`, `/no_think`, `data:image`) or mere punctuation.
pub(super) fn is_marker(text: &str) -> bool {
    let t = text.trim();
    let lower = t.to_ascii_lowercase();
    let media = t.starts_with(['<', '['])
        && ["image", "img", "video", "audio"]
            .iter()
            .any(|w| lower.contains(w));
    media
        || (t.is_ascii() && !t.bytes().any(|b| b.is_ascii_alphanumeric()))
        || ["think", "reasoning", "data:", "tool_"]
            .iter()
            .any(|w| lower.contains(w))
}

/// Where `text` holds signs that are not displayed, and what they are.
pub(super) fn invisible(text: &str) -> Option<(usize, &'static str)> {
    let mut run = (0, 0);
    let mut tags = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '\u{202d}' | '\u{202e}' | '\u{2066}'..='\u{2068}' => {
                return Some((at, "controls that change the direction of writing"));
            }
            '\u{e0020}'..='\u{e007e}' => {
                // The flags of England, Scotland and Wales are a black flag and six tags.
                if tags.0 == 0 {
                    tags.1 = at;
                }
                tags.0 += 1;
                if tags.0 >= 7 {
                    return Some((tags.1, "tag characters"));
                }
            }
            '\u{e007f}' => tags.0 = 0,
            '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{180e}' => {
                if run.0 == 0 {
                    run.1 = at;
                }
                run.0 += 1;
                if run.0 >= 8 {
                    return Some((run.1, "a run of zero-width characters"));
                }
                continue;
            }
            _ => {}
        }
        run.0 = 0;
    }
    None
}

/// Where `text` holds markup that a page would act on.
pub(super) fn active_markup(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    for opening in ["<script", "<iframe", "<object", "<embed", "javascript:"] {
        let found = lower.find(opening).filter(|at| {
            let after = lower.get(at + opening.len()..).unwrap_or_default();
            opening.ends_with(':') || after.starts_with([' ', '>', '\n', '\t', '/'])
        });
        if found.is_some() {
            return found;
        }
    }
    let image = lower.find("<img ").filter(|at| {
        let tag = lower.get(*at..).unwrap_or_default();
        let tag = tag.split('>').next().unwrap_or_default();
        tag.contains("//") || tag.contains("onerror")
    });
    image.or_else(|| {
        let at = lower.find("![")?;
        let rest = lower.get(at..)?;
        let target = rest.get(rest.find("](")? + 2..)?;
        target.starts_with("http").then_some(at)
    })
}

/// Whether `text` ends inside an address, so that what follows becomes part of it.
pub(super) fn ends_in_address(text: &str) -> bool {
    let last = text
        .rsplit([' ', '\n', '\t', '"', '\'', '('])
        .find(|w| !w.is_empty());
    last.is_some_and(|w| {
        (w.contains("http://") || w.contains("https://"))
            && w.ends_with(['=', '?', '&', '/', '#'])
            && w.len() > 10
    }) && !text.ends_with([' ', '\n', '\t'])
}

/// Where a run of one character begins that is longer than any layout needs.
pub(super) fn padding(text: &str, most: usize) -> Option<usize> {
    let mut run = (None, 0, 0);
    for (at, c) in text.char_indices() {
        if run.0 == Some(c) {
            run.2 += 1;
            if run.2 >= most {
                return Some(run.1);
            }
        } else {
            run = (Some(c), at, 1);
        }
    }
    None
}
