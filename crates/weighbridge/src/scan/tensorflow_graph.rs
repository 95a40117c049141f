//! The nodes of one TensorFlow graph or function: operators, and the constant strings that reach
//! them.

use std::collections::{HashMap, HashSet};

use weighbridge_core::wire::protobuf::{Message, Reader, Span};
use weighbridge_core::{Error, Result};
use weighbridge_scan::{GraphKind, Operator};

use super::examine::{Examiner, Item};
use super::onnx::NAME;

/// Most strings of one constant that are kept, and most constants of a graph.
const MOST_STRINGS: usize = 8;
const MOST_CONSTANTS: usize = 100_000;

/// Most distinct operators listed for one file.
const MOST_OPERATORS: usize = 100_000;

/// Most inputs of a node that are followed.
const MOST_INPUTS: usize = 16;

/// How many nodes that hand a string on are passed through, one after the other and in all.
const MOST_STEPS: usize = 8;
const MOST_VISITS: u32 = 64;

/// Most bytes of strings kept of a file's constants, and listed with its operators.
pub(super) const MOST_BYTES: usize = 32 << 20;

/// Deepest nesting of functions in attributes.
const MOST_DEEP: u32 = 32;

/// Operators that give what they take.
const PASS: [&str; 8] = [
    "Identity",
    "IdentityN",
    "StringJoin",
    "PlaceholderWithDefault",
    "StopGradient",
    "Snapshot",
    "Pack",
    "Reshape",
];

/// A node as far as it is kept.
#[derive(Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) operator: String,
    inputs: Vec<String>,
    /// Strings among its attributes that may be paths.
    paths: Vec<String>,
    /// The strings of a constant.
    strings: Vec<String>,
}

impl Node {
    pub(super) fn input(&mut self, name: String) {
        if self.inputs.len() < MOST_INPUTS && !name.starts_with('^') {
            self.inputs.push(name);
        }
    }

    /// Keeps a string of the attribute `key` if it may be a path. Names of devices, of colocated
    /// nodes and of shared resources are none.
    pub(super) fn path(&mut self, key: &str, text: String) {
        let like = text.contains(['/', '\\', ':']);
        let named = key.starts_with('_') || matches!(key, "container" | "shared_name");
        if like && !named && self.paths.len() < MOST_STRINGS {
            self.paths.push(text);
        }
    }

    pub(super) fn string(&mut self, text: String) {
        if self.strings.len() < MOST_STRINGS && !text.is_empty() {
            self.strings.push(text);
        }
    }
}

/// The scope in which nodes name each other.
pub(super) struct Graph<'g, 's, 'a> {
    cx: &'g mut Examiner<'s, 'a>,
    item: &'g Item,
    place: String,
    constants: HashMap<String, Vec<String>>,
    passed: HashMap<String, Vec<String>>,
    seen: HashSet<(String, Vec<String>)>,
    /// Bytes of strings that may still be kept.
    left: &'g mut usize,
}

impl<'g, 's, 'a> Graph<'g, 's, 'a> {
    pub(super) fn new(
        cx: &'g mut Examiner<'s, 'a>,
        item: &'g Item,
        place: String,
        left: &'g mut usize,
    ) -> Self {
        Self {
            cx,
            item,
            place,
            constants: HashMap::new(),
            passed: HashMap::new(),
            seen: HashSet::new(),
            left,
        }
    }

    /// Takes the nodes that are the fields `number` of the message in `span`; `assets` are the
    /// constants that stand for files of the model.
    ///
    /// # Errors
    /// What reading gives; what was seen before counts.
    pub(super) fn take(
        mut self,
        reader: &mut Reader<'_>,
        span: Span,
        number: u32,
        assets: &HashMap<String, String>,
    ) -> Result<()> {
        // Nodes stand in any order: first what the constants are, then who uses them.
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            if let (true, Some(inner)) = (f.number == number, f.bytes()) {
                let node = read(reader, inner, 0)?;
                self.remember(node, assets);
            }
        }
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            if let (true, Some(inner)) = (f.number == number, f.bytes()) {
                let node = read(reader, inner, 0)?;
                self.list(node, inner.start)?;
            }
        }
        Ok(())
    }

    /// Takes nodes that were read already, each with the place it stands at.
    ///
    /// # Errors
    /// `Limit` when there are too many.
    pub(super) fn nodes(mut self, nodes: Vec<(Node, u64)>) -> Result<()> {
        for (node, _) in &nodes {
            let kept = Node {
                name: node.name.clone(),
                operator: node.operator.clone(),
                inputs: node.inputs.clone(),
                strings: node.strings.clone(),
                ..Node::default()
            };
            self.remember(kept, &HashMap::new());
        }
        nodes.into_iter().try_for_each(|(n, at)| self.list(n, at))
    }

    fn remember(&mut self, node: Node, assets: &HashMap<String, String>) {
        if self.constants.len() + self.passed.len() >= MOST_CONSTANTS {
            return;
        }
        let bytes = node.strings.iter().map(String::len).sum();
        if !node.strings.is_empty() && !assets.contains_key(&node.name) {
            let Some(left) = self.left.checked_sub(bytes) else {
                return;
            };
            *self.left = left;
            self.constants.insert(node.name, node.strings);
        } else if PASS.contains(&node.operator.as_str()) {
            self.passed.insert(node.name, node.inputs);
        }
    }

    /// The strings that reach `input`.
    fn reaching(&self, input: &str, steps: usize, visits: &mut u32, out: &mut Vec<String>) {
        let Some(left) = visits.checked_sub(1) else {
            return;
        };
        *visits = left;
        // `name`, `name:1`, `name:output:0`.
        let name = input.split(':').next().unwrap_or_default();
        if let Some(strings) = self.constants.get(name) {
            for s in strings {
                if out.len() < MOST_STRINGS * 2 && !out.contains(s) {
                    out.push(s.clone());
                }
            }
        } else if let Some(inputs) = self.passed.get(name).filter(|_| steps > 0) {
            for i in inputs.iter().take(4) {
                self.reaching(i, steps - 1, visits, out);
            }
        }
    }

    fn list(&mut self, node: Node, at: u64) -> Result<()> {
        let mut strings = node.paths;
        let passes = PASS.contains(&node.operator.as_str());
        if !passes {
            let mut visits = MOST_VISITS;
            for i in &node.inputs {
                self.reaching(i, MOST_STEPS, &mut visits, &mut strings);
            }
        }
        let key = (node.operator, strings);
        if self.seen.contains(&key) {
            return Ok(());
        }
        let bytes = key.1.iter().map(String::len).sum();
        let left = self.left.checked_sub(bytes);
        if let Some(left) = left {
            *self.left = left;
        }
        if self.cx.subject.operators.len() >= MOST_OPERATORS || left.is_none() {
            let e = Error::limit(
                "tensorflow.operators",
                "the graphs use too many kinds of operators",
            );
            return Err(e.at(at));
        }
        self.cx.subject.operators.push(Operator {
            graph: GraphKind::TensorFlow,
            place: self.place.clone(),
            offset: self.item.place.base.map(|b| b.saturating_add(at)),
            domain: String::new(),
            name: key.0.clone(),
            node: node.name,
            constants: key.1.clone(),
        });
        self.seen.insert(key);
        Ok(())
    }
}

/// A `NodeDef`.
fn read(reader: &mut Reader<'_>, span: Span, depth: u32) -> Result<Node> {
    let mut node = Node::default();
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        let Some(inner) = f.bytes() else {
            continue;
        };
        match f.number {
            1 => node.name = reader.text(inner, NAME)?,
            2 => node.operator = reader.text(inner, NAME)?,
            3 if node.inputs.len() < MOST_INPUTS => node.input(reader.text(inner, NAME)?),
            5 => attribute(reader, inner, &mut node, depth)?,
            _ => {}
        }
    }
    Ok(node)
}

/// An entry of the map of attributes: the key, then the value.
fn attribute(reader: &mut Reader<'_>, span: Span, node: &mut Node, depth: u32) -> Result<()> {
    let mut key = String::new();
    let mut value = None;
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.bytes()) {
            (1, Some(s)) => key = reader.text(s, NAME)?,
            (2, Some(s)) => value = Some(s),
            _ => {}
        }
    }
    match value {
        Some(v) => self::value(reader, v, &key, node, depth),
        None => Ok(()),
    }
}

/// An `AttrValue`, or the list in one.
fn value(
    reader: &mut Reader<'_>,
    span: Span,
    key: &str,
    node: &mut Node,
    depth: u32,
) -> Result<()> {
    if depth > MOST_DEEP {
        let e = Error::limit("tensorflow.depth", "attributes nest too deep");
        return Err(e.at(span.start));
    }
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        let Some(inner) = f.bytes() else {
            continue;
        };
        match f.number {
            1 => value(reader, inner, key, node, depth + 1)?,
            2 if node.paths.len() < MOST_STRINGS => {
                let text = reader.text(inner, NAME)?;
                node.path(key, text);
            }
            8 if key == "value" => strings(reader, inner, node)?,
            10 => function(reader, inner, node, depth)?,
            _ => {}
        }
    }
    Ok(())
}

/// A `NameAttrList`: a function that the operator calls, with attributes of its own.
fn function(reader: &mut Reader<'_>, span: Span, node: &mut Node, depth: u32) -> Result<()> {
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        if let (2, Some(s)) = (f.number, f.bytes()) {
            attribute(reader, s, node, depth + 1)?;
        }
    }
    Ok(())
}

/// The strings of a tensor.
fn strings(reader: &mut Reader<'_>, span: Span, node: &mut Node) -> Result<()> {
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.bytes()) {
            (1, None) if f.varint() != Some(7) => return Ok(()),
            (8, Some(s)) if node.strings.len() < MOST_STRINGS => {
                node.string(reader.text(s, NAME)?);
            }
            _ => {}
        }
    }
    Ok(())
}
