//! `WB-COD-006`: scripts and event handlers in metadata.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::leaves;
use crate::subject::{Subject, TextOrigin};

/// Looks for active web content in metadata and configurations.
#[derive(Debug)]
pub struct ActiveContent;

impl Check for ActiveContent {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-COD-006"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for t in &subject.texts {
            if !matches!(t.origin, TextOrigin::Metadata | TextOrigin::Config) {
                continue;
            }
            if let Ok(text) = std::str::from_utf8(&t.bytes)
                && let Some((what, at)) = active(text)
            {
                let message = format!("`{}` holds {what}", t.key);
                let offset = t.base.map(|b| b.saturating_add(at as u64));
                out.add("WB-COD-006", &t.place, offset, message, excerpt(text, at))?;
            }
        }
        for c in &subject.configs {
            let mut result = Ok(());
            leaves::strings(&c.value, &mut |leaf| {
                if let Some((what, at)) = active(leaf.text)
                    && result.is_ok()
                {
                    let message = format!("`{}` holds {what}", leaf.path);
                    result = out.add(
                        "WB-COD-006",
                        &c.place,
                        None,
                        message,
                        excerpt(leaf.text, at),
                    );
                }
            });
            result?;
        }
        Ok(())
    }
}

fn excerpt(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    match rest.char_indices().nth(200) {
        Some((cut, _)) => rest.get(..cut).unwrap_or_default(),
        None => rest,
    }
}

/// Most tags of one text that are looked at, and the longest tag.
const TAGS: usize = 10_000;
const LONGEST_TAG: usize = 4096;

/// The first tag of `text` that makes a browser run something, and where it begins.
fn active(text: &str) -> Option<(&'static str, usize)> {
    let mut from = 0;
    for _ in 0..TAGS {
        let at = from + text.get(from..)?.find('<')?;
        from = at + 1;
        let rest = text.get(from..)?;
        let name_len = rest
            .bytes()
            .take(16)
            .take_while(|b| b.is_ascii_alphanumeric() || *b == b'-')
            .count();
        if name_len == 0 {
            continue;
        }
        let name = rest.get(..name_len)?.to_ascii_lowercase();
        let window = rest.as_bytes().get(..rest.len().min(LONGEST_TAG))?;
        let Some(end) = tag_end(window, name_len) else {
            continue;
        };
        let attributes = rest.get(name_len..end).unwrap_or_default();
        let body = rest.get(end + 1..).unwrap_or_default();
        if let Some(what) = judge(&name, attributes, body) {
            return Some((what, at));
        }
        from = from.max(at + 1);
    }
    None
}

/// Where the tag's `>` stands, quotes skipped.
fn tag_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut quote = None;
    for (i, &b) in bytes.iter().enumerate().skip(from) {
        match (b, quote) {
            (b, Some(q)) if b == q => quote = None,
            (_, Some(_)) => {}
            (b'"' | b'\'', None) => quote = Some(b),
            (b'>', None) => return Some(i),
            (b'<', None) => return None,
            _ => {}
        }
    }
    None
}

fn judge(name: &str, attributes: &str, body: &str) -> Option<&'static str> {
    let plain: String = attributes
        .chars()
        .filter(|c| !c.is_whitespace() && !c.is_control())
        .collect::<String>()
        .to_ascii_lowercase();
    if name == "script" {
        let source = plain.contains("src=");
        let head = body
            .as_bytes()
            .get(..body.len().min(LONGEST_TAG))
            .unwrap_or_default();
        let end = head
            .windows(2)
            .position(|w| w == b"</")
            .unwrap_or(head.len());
        let inner = head.get(..end).unwrap_or_default().trim_ascii();
        let data = plain.contains("application/ld+json") || plain.contains("application/json");
        return (source || !inner.is_empty() && !data).then_some("a script");
    }
    if has_handler(attributes) {
        return Some("an event handler");
    }
    let addresses = ["javascript:", "vbscript:", "data:text/html", "srcdoc="];
    if addresses.iter().any(|a| plain.contains(a)) {
        return Some("a script address");
    }
    if name == "meta" && plain.contains("http-equiv=\"refresh") && plain.contains("//") {
        return Some("a redirection");
    }
    (matches!(name, "object" | "embed" | "applet")
        && (plain.contains("src=") || plain.contains("data=")))
    .then_some("an embedded object")
}

/// Whether a tag has an attribute `on…=` with a value.
fn has_handler(attributes: &str) -> bool {
    let bytes = attributes.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        match (b, quote) {
            (b, Some(q)) if b == q => quote = None,
            (_, Some(_)) => {}
            (b'"' | b'\'', None) => quote = Some(b),
            (b'o' | b'O', None) => {
                let before = at.checked_sub(1).and_then(|i| bytes.get(i));
                let opens = before
                    .is_none_or(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'"' | b'\''));
                let rest = bytes.get(at..).unwrap_or_default();
                let word = rest
                    .iter()
                    .take(32)
                    .take_while(|b| b.is_ascii_alphabetic())
                    .count();
                let name = rest.get(..word).unwrap_or_default().to_ascii_lowercase();
                let after = rest.get(word..).unwrap_or_default().trim_ascii_start();
                if opens
                    && word > 4
                    && name.starts_with(b"on")
                    && after.first() == Some(&b'=')
                    && after.len() > 1
                {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::active;

    #[test]
    fn what_a_browser_would_run_is_found() {
        for t in [
            "<script>alert('XSS')</script>",
            "hello <SCRIPT src=//x.example/a.js></SCRIPT>",
            "<img src=x onerror=alert(1)>",
            "<svg/onload=alert(1)>",
            "<a href=\"java\nscript:alert(1)\">x</a>",
            "<iframe srcdoc='<p>'></iframe>",
            "<body onload = \"x()\">",
            "<meta http-equiv=\"refresh\" content=\"0;url=http://x\">",
            "<embed src=x.swf>",
        ] {
            assert!(active(t).is_some(), "{t}");
        }
    }

    #[test]
    fn harmless_markup_and_tokens_are_quiet() {
        for t in [
            "<script>",
            "<|im_start|>",
            "</script>",
            "<s> x </s>",
            "a < b and c > d",
            "<img src=\"https://x.example/a.png\" alt=\"one=two\">",
            "<a href=\"https://x.example\">on=1</a>",
            "<p option=\"x\">on</p>",
            "<div class='a' data-on='b'>",
            "<iframe src=\"https://x.example/space\"></iframe>",
            "<unk>",
            "<extra_id_0>",
            "{% if x < y %} onload=1 {% endif %}",
        ] {
            assert_eq!(active(t), None, "{t}");
        }
    }

    #[test]
    fn many_open_tags_take_linear_time() {
        assert_eq!(active(&"<a ".repeat(300_000)), None);
        assert_eq!(active(&"<a \"".repeat(300_000)), None);
    }
}
