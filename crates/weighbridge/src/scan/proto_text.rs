//! Graphs in protobuf's text form (`saved_model.pbtxt`, `.textproto`), which their loaders take as
//! readily as the binary one.
//!
//! Source: "Text Format Language Specification",
//! <https://protobuf.dev/reference/protobuf/textformat-spec/>.

use weighbridge_core::{Error, Result};
use weighbridge_scan::{Function, GraphKind, Operator};

use super::examine::{Examiner, Item};
use super::onnx_tensor;
use super::tensorflow_graph::{Graph, MOST_BYTES, Node};

/// The first fields of the messages that are looked for.
const TENSORFLOW: [&str; 8] = [
    "node",
    "library",
    "versions",
    "saved_model_schema_version",
    "meta_graphs",
    "meta_info_def",
    "graph_def",
    "object_graph_def",
];
const ONNX: [&str; 8] = [
    "ir_version",
    "producer_name",
    "producer_version",
    "model_version",
    "doc_string",
    "graph",
    "opset_import",
    "metadata_props",
];

/// Deepest nesting that is followed.
const MOST_DEEP: usize = 1000;

/// Longest name or value kept, in bytes.
const KEPT: usize = 1 << 10;

/// Takes a graph in text form; says whether this is one.
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    let Some((first, opens)) = first_field(&item.head) else {
        return Ok(false);
    };
    let tensorflow = TENSORFLOW.contains(&first);
    let onnx = ONNX.contains(&first);
    if !tensorflow && !onnx || item.source.len() > cx.limits.text_bytes {
        return Ok(false);
    }
    let bytes = item.source.read_vec(0..item.source.len())?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Ok(false);
    };
    // Prose may begin with such a word and a colon.
    let body = if onnx { "graph" } else { "node" };
    let is_body = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix(body).is_some_and(|rest| {
            let rest = rest.trim_start_matches("_def").trim_start();
            let rest = rest.strip_prefix(':').unwrap_or(rest);
            rest.trim_start().starts_with(['{', '<'])
        })
    };
    if !opens && !text.lines().any(is_body) {
        return Ok(false);
    }
    let format = match first {
        _ if onnx => "onnx",
        "node" | "library" | "versions" => "graphdef",
        _ => "savedmodel",
    };
    cx.named(item, format);
    let mut walk = Walk {
        cx,
        item,
        onnx,
        nodes: Vec::new(),
    };
    match walk.text(text) {
        Ok(()) => walk.finish()?,
        Err(e) => {
            walk.finish()?;
            cx.failed(&item.place, e);
        }
    }
    if onnx {
        let reason = "whether the graph hides a backdoor is not judged by this version";
        cx.gap(&item.place, None, reason);
    }
    Ok(true)
}

/// The first field of a message in text form, and whether it opens a message.
fn first_field(head: &[u8]) -> Option<(&str, bool)> {
    let mut rest = head.trim_ascii_start();
    while rest.first() == Some(&b'#') {
        let line = memchr::memchr(b'\n', rest)?;
        rest = rest.get(line..)?.trim_ascii_start();
    }
    let end = rest
        .iter()
        .position(|b| !b.is_ascii_alphanumeric() && *b != b'_')?;
    let name = std::str::from_utf8(rest.get(..end)?).ok()?;
    let after = rest.get(end..)?.trim_ascii_start();
    match after.first()? {
        b'{' | b'<' => Some((name, true)),
        b':' => Some((name, false)),
        _ => None,
    }
}

/// A piece of the text.
#[derive(Debug, PartialEq)]
enum Token {
    /// A name, a number or another word.
    Word(String),
    /// A string, escapes resolved.
    Text(String),
    Open,
    Close,
    /// `:`, `,`, `;`, `[`, `]`.
    Other,
}

/// A message that is open.
#[derive(Default)]
struct Frame {
    name: String,
    node: Option<Node>,
    /// Of ONNX: the domain of a node, and the key and value of an entry.
    domain: String,
    key: String,
    value: String,
}

struct Walk<'w, 's, 'a> {
    cx: &'w mut Examiner<'s, 'a>,
    item: &'w Item,
    onnx: bool,
    nodes: Vec<(Node, u64)>,
}

impl Walk<'_, '_, '_> {
    fn text(&mut self, text: &str) -> Result<()> {
        let mut tokens = Tokens {
            text: text.as_bytes(),
            at: 0,
        };
        let mut frames = vec![Frame::default()];
        let mut name = String::new();
        loop {
            let at = tokens.at as u64;
            let Some(token) = tokens.next()? else {
                return Ok(());
            };
            match token {
                Token::Word(w) => {
                    // A word after a name is its value: an enumerator or a number.
                    name = w;
                }
                Token::Text(t) => set(&mut frames, &name, t),
                Token::Open => {
                    if frames.len() >= MOST_DEEP {
                        let e =
                            Error::limit("protobuf.depth", "messages lie in each other too deep");
                        return Err(e.at(at));
                    }
                    let is_node = matches!(name.as_str(), "node" | "node_def");
                    frames.push(Frame {
                        name: std::mem::take(&mut name),
                        node: is_node.then(Node::default),
                        ..Frame::default()
                    });
                }
                Token::Close => {
                    if frames.len() < 2 {
                        let e =
                            Error::malformed("protobuf.text", "a message ends that did not begin");
                        return Err(e.at(at));
                    }
                    let outer = frames.iter().rev().nth(1).map(|f| f.name.clone());
                    if let Some(frame) = frames.pop() {
                        self.close(frame, &outer.unwrap_or_default(), at);
                    }
                }
                Token::Other => {}
            }
        }
    }

    fn close(&mut self, frame: Frame, outer: &str, at: u64) {
        if let Some(node) = frame.node {
            if self.onnx {
                self.cx.subject.operators.push(Operator {
                    graph: GraphKind::Onnx,
                    place: self.item.place.text(),
                    offset: Some(self.item.place.offset(at)),
                    domain: frame.domain,
                    name: node.operator,
                    node: node.name,
                    constants: Vec::new(),
                });
            } else {
                self.nodes.push((node, at));
            }
            return;
        }
        match frame.name.as_str() {
            "external_data" if frame.key == "location" => {
                let (kind, path) = ("external data", frame.value.as_str());
                onnx_tensor::reference(self.cx, self.item, "", kind, path, at);
            }
            // ONNX names a function in itself, TensorFlow in its signature.
            "signature" if outer == "function" => self.function(String::new(), frame.value, at),
            "functions" => self.function(frame.domain, frame.value, at),
            _ => {}
        }
    }

    fn function(&mut self, domain: String, name: String, at: u64) {
        let graph = if self.onnx {
            GraphKind::Onnx
        } else {
            GraphKind::TensorFlow
        };
        self.cx.subject.functions.push(Function {
            graph,
            offset: Some(self.item.place.offset(at)),
            domain,
            name,
        });
    }

    /// Lists TensorFlow's nodes, once all constants are known.
    fn finish(&mut self) -> Result<()> {
        let mut left = MOST_BYTES;
        let nodes = std::mem::take(&mut self.nodes);
        let place = self.item.place.text();
        Graph::new(self.cx, self.item, place, &mut left).nodes(nodes)
    }
}

/// Keeps a string that stands under `name` in the innermost message.
fn set(frames: &mut [Frame], name: &str, mut text: String) {
    let mut end = text.len().min(KEPT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    let Some((frame, outer)) = frames.split_last_mut() else {
        return;
    };
    match (name, &mut frame.node) {
        ("name", Some(node)) => node.name = text,
        ("op" | "op_type", Some(node)) => node.operator = text,
        ("input", Some(node)) => node.input(text),
        ("domain", _) => frame.domain = text,
        ("key", None) => frame.key = text,
        ("value" | "name", None) => frame.value = text,
        ("s" | "string_val", None) => {
            let key = outer.iter().rev().find(|f| f.name == "attr");
            let key = key.map_or(String::new(), |f| f.key.clone());
            let node = outer.iter_mut().rev().find_map(|f| f.node.as_mut());
            if let Some(node) = node {
                if name == "s" {
                    node.path(&key, text);
                } else {
                    node.string(text);
                }
            }
        }
        _ => {}
    }
}

struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
}

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>> {
        loop {
            let Some(&b) = self.text.get(self.at) else {
                return Ok(None);
            };
            self.at += 1;
            return Ok(Some(match b {
                b if b.is_ascii_whitespace() => continue,
                b'#' => {
                    let rest = self.text.get(self.at..).unwrap_or_default();
                    self.at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    continue;
                }
                b'{' | b'<' => Token::Open,
                b'}' | b'>' => Token::Close,
                b'"' | b'\'' => Token::Text(self.string(b)?),
                b':' | b',' | b';' | b'[' | b']' => Token::Other,
                _ => Token::Word(self.word()),
            }));
        }
    }

    fn word(&mut self) -> String {
        let start = self.at - 1;
        let rest = self.text.get(start..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|b| b.is_ascii_whitespace() || b"{}<>:,;[]\"'#".contains(b));
        let word = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        self.at = start + word.len().max(1);
        String::from_utf8_lossy(word.get(..word.len().min(KEPT)).unwrap_or_default()).into_owned()
    }

    /// A string to its closing quote; strings that follow it belong to it.
    fn string(&mut self, quote: u8) -> Result<String> {
        let mut out = Vec::new();
        let mut quote = quote;
        loop {
            self.one(quote, &mut out)?;
            let rest = self.text.get(self.at..).unwrap_or_default();
            let next = rest.iter().position(|b| !b.is_ascii_whitespace());
            match next.and_then(|n| rest.get(n)) {
                Some(&q @ (b'"' | b'\'')) => {
                    self.at += next.unwrap_or(0) + 1;
                    quote = q;
                }
                _ => return Ok(String::from_utf8_lossy(&out).into_owned()),
            }
        }
    }

    fn one(&mut self, quote: u8, out: &mut Vec<u8>) -> Result<()> {
        let start = self.at;
        while let Some(&b) = self.text.get(self.at) {
            self.at += 1;
            match b {
                b if b == quote => return Ok(()),
                b'\n' => break,
                b'\\' => self.escape(out),
                b => out.push(b),
            }
        }
        Err(Error::malformed("protobuf.text", "a string does not end").at(start as u64))
    }

    fn escape(&mut self, out: &mut Vec<u8>) {
        let Some(&b) = self.text.get(self.at) else {
            return;
        };
        self.at += 1;
        match b {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'x' | b'X' => {
                let n = self.digits(16, 2);
                out.push(n as u8);
            }
            b'u' | b'U' => {
                let n = self.digits(16, if b == b'u' { 4 } else { 8 });
                let c = char::from_u32(n).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            b'0'..=b'7' => {
                self.at -= 1;
                let n = self.digits(8, 3);
                out.push(n as u8);
            }
            b => out.push(b),
        }
    }

    fn digits(&mut self, radix: u32, most: usize) -> u32 {
        let mut n = 0u32;
        for _ in 0..most {
            let digit = self
                .text
                .get(self.at)
                .and_then(|&b| char::from(b).to_digit(radix));
            let Some(d) = digit else {
                break;
            };
            n = n.wrapping_mul(radix).wrapping_add(d);
            self.at += 1;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    /// The format, the operators with their constants, and the references.
    fn taken(text: &str) -> Option<(String, Vec<String>, Vec<String>, usize)> {
        let source = Arc::new(SliceSource::new(text.as_bytes(), "saved_model.pbtxt"));
        let item = Item::new(source.clone(), Place::default(), "saved_model.pbtxt").unwrap();
        let mut s = Subject::new("saved_model.pbtxt", source.as_ref());
        let limits = Limits::default();
        let taken = take(&mut Examiner::new(&mut s, &limits), &item).unwrap();
        let operators = s
            .operators
            .iter()
            .map(|o| format!("{}{}{:?}", o.domain, o.name, o.constants))
            .collect();
        let paths = s.references.into_iter().map(|r| r.path).collect();
        taken.then_some((s.format, operators, paths, s.faults.len()))
    }

    #[test]
    fn tensorflows_graphs_are_taken_apart() {
        let text = "# a comment\nsaved_model_schema_version: 1\nmeta_graphs {\n graph_def {\n\
            node { name: 'p' op: \"Const\" attr { key: \"value\" value { tensor {\n\
              dtype: DT_STRING string_val: \"/etc/\" 'pass\\167d' } } } }\n\
            node < name: \"r\", op: \"Read\\x46ile\"; input: \"p\" >\n\
            library { function { signature { name: \"f\" } node_def { name: \"x\" op: \"PyFunc\" } } }\n\
            } }";
        let (format, operators, _, faults) = taken(text).unwrap();
        assert_eq!((format.as_str(), faults), ("savedmodel", 0));
        assert_eq!(
            operators,
            ["Const[]", "ReadFile[\"/etc/passwd\"]", "PyFunc[]"]
        );
    }

    #[test]
    fn onnx_models_are_taken_apart() {
        let text = "ir_version: 8\ngraph {\n node { op_type: \"PyOp\" domain: \"x\" }\n\
            initializer { external_data { key: \"location\" value: \"../x\" } } }";
        let (format, operators, paths, faults) = taken(text).unwrap();
        assert_eq!((format.as_str(), faults), ("onnx", 0));
        assert_eq!(
            (operators, paths),
            (vec!["xPyOp[]".into()], vec!["../x".into()])
        );
    }

    #[test]
    fn prose_is_no_graph_and_damage_is_a_fault() {
        assert_eq!(taken("node: a point of a graph\n"), None);
        assert_eq!(taken("graph theory {"), None);
        assert_eq!(taken("{\"node\": 1}"), None);
        assert_eq!(taken("node { op: \"PyFunc"), taken("node { op: \"x"));
        let (_, operators, _, faults) = taken("node { op: \"PyFunc\" } }").unwrap();
        assert_eq!((operators, faults), (vec!["PyFunc[]".to_owned()], 1));
    }
}
