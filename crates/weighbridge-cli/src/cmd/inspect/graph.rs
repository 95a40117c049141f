//! The graph of a model: what it takes and gives, its operators, the graphs in it, and where its
//! parameters lie.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde_json::{Map, Value as Json, json};
use weighbridge::{DType, Result, Tensor};
use weighbridge_core::model::{
    AttributeValue, Dim, Graph, GraphFunction, GraphNode, GraphValue, ValueType,
};

use crate::cmd::summary::field;
use crate::output::Output;
use crate::text::{brief, count, plural, size};

/// How many inputs, functions, subtrees … are shown to people.
const LINES: usize = 12;

/// Width of names, in characters.
const WIDE: usize = 60;

/// How many graphs within the graph are listed, and how long the way to one may be, in characters:
/// a small file can hold many of both.
const MOST_GRAPHS: usize = 10_000;
const MOST_PLACE: usize = 300;

/// How many steps of a name make a subtree.
const DEPTH: usize = 2;

/// Tensors and what they hold.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    tensors: u64,
    values: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.tensors += other.tensors;
        self.values = self.values.saturating_add(other.values);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn of(t: &Tensor) -> Self {
        let sparse = t.sparse().map_or(0, |s| s.values.byte_len());
        Self {
            tensors: 1,
            values: t.numel().unwrap_or(0),
            bytes: t.byte_len().saturating_add(sparse),
        }
    }

    /// So many numbers of `width` bytes.
    fn numbers(values: usize, width: u64) -> Self {
        Self {
            tensors: 1,
            values: values as u64,
            bytes: (values as u64).saturating_mul(width),
        }
    }
}

/// A graph that an operator runs, or one of training.
#[derive(Debug)]
struct Inner {
    place: Rc<str>,
    nodes: u64,
    inputs: u64,
    outputs: u64,
}

/// What is counted over a graph, the graphs in it and its functions.
#[derive(Debug, Default)]
pub(super) struct Counted {
    operators: BTreeMap<String, u64>,
    inner: Vec<Inner>,
    /// How many graphs there are within the graph, and how many nodes are in them.
    graphs: (u64, u64),
    initializers: Sum,
    constants: Sum,
    /// By the graph in the graph (empty for the outermost) and the subtree.
    parameters: BTreeMap<(Rc<str>, String), Sum>,
}

impl Counted {
    pub(super) fn of(g: &Graph) -> Self {
        let mut out = Self::default();
        out.graph(g, &"".into());
        for f in &g.functions {
            out.nodes(&f.nodes, &cut(&title(f)).into());
        }
        for (role, g) in &g.training {
            out.inner(g, format!("training.{role}").into());
        }
        out
    }

    fn inner(&mut self, g: &Graph, place: Rc<str>) {
        let nodes = g.nodes.len() as u64;
        self.graphs = (self.graphs.0 + 1, self.graphs.1.saturating_add(nodes));
        if self.inner.len() < MOST_GRAPHS {
            self.inner.push(Inner {
                place: Rc::clone(&place),
                nodes,
                inputs: g.inputs.len() as u64,
                outputs: g.outputs.len() as u64,
            });
        }
        self.graph(g, &place);
    }

    fn graph(&mut self, g: &Graph, place: &Rc<str>) {
        let mut readers: HashMap<&str, &str> = HashMap::new();
        for n in g.nodes.iter().filter(|n| !n.name.is_empty()) {
            for i in &n.inputs {
                readers.entry(i).or_insert(&n.name);
            }
        }
        for t in &g.initializers {
            self.initializers.add(Sum::of(t));
            // A name without steps says less than the node that reads the tensor.
            let reader = readers.get(t.name.as_str()).copied();
            let path = subtree(&t.name).or_else(|| subtree(reader?));
            self.parameter(place, path, Sum::of(t));
        }
        self.nodes(&g.nodes, place);
    }

    fn nodes(&mut self, all: &[GraphNode], place: &Rc<str>) {
        for n in all {
            *self.operators.entry(operator(n)).or_default() += 1;
            if n.is("Constant") {
                for sum in n.attributes.iter().filter_map(|a| constant(&a.value)) {
                    self.constants.add(sum);
                    let output = n.outputs.first().map_or("", |o| o.as_str());
                    let path = subtree(&n.name).or_else(|| subtree(output));
                    self.parameter(place, path, sum);
                }
            }
            for (attribute, g) in n.bodies() {
                self.inner(g, within(place, n, attribute).into());
            }
        }
    }

    fn parameter(&mut self, place: &Rc<str>, path: Option<&str>, sum: Sum) {
        let key = (Rc::clone(place), path.unwrap_or_default().to_owned());
        self.parameters.entry(key).or_default().add(sum);
    }

    /// Subtrees, the largest first.
    fn largest(&self) -> Vec<(&(Rc<str>, String), &Sum)> {
        let mut all: Vec<_> = self.parameters.iter().collect();
        all.sort_by_key(|(_, s)| std::cmp::Reverse((s.bytes, s.values)));
        all
    }

    /// Operators, the most frequent first.
    fn frequent(&self) -> Vec<(&String, &u64)> {
        let mut all: Vec<_> = self.operators.iter().collect();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        all
    }
}

/// An operator with its domain, unless that is the standard one.
fn operator(n: &GraphNode) -> String {
    match n.domain.as_str() {
        "" | "ai.onnx" => n.operator.clone(),
        domain => format!("{domain}.{}", n.operator),
    }
}

/// A function by its full name.
fn title(f: &GraphFunction) -> String {
    let mut out = format!("{}.{}", f.domain, f.name);
    if !f.overload.is_empty() {
        out = format!("{out}:{}", f.overload);
    }
    out
}

/// The place of a graph in a graph: nodes and attributes on the way.
fn within(place: &str, n: &GraphNode, attribute: &str) -> String {
    let node = match n.name.as_str() {
        "" => n
            .outputs
            .first()
            .map_or(n.operator.as_str(), |o| o.as_str()),
        name => name,
    };
    match place {
        "" => cut(&format!("{node}.{attribute}")),
        place if place.ends_with('…') => place.to_owned(),
        place => cut(&format!("{place}.{node}.{attribute}")),
    }
}

/// A place of a bearable length.
fn cut(place: &str) -> String {
    match place.char_indices().nth(MOST_PLACE) {
        Some((end, _)) => format!("{}…", place.get(..end).unwrap_or_default()),
        None => place.to_owned(),
    }
}

/// The first steps of a dotted or slashed name, without its last; `None` where it has but one.
fn subtree(name: &str) -> Option<&str> {
    let name = name.trim_start_matches(['/', '.']);
    let mut ends = name.match_indices(['.', '/']).map(|(i, _)| i);
    let mut end = ends.next()?;
    for next in ends.take(DEPTH - 1) {
        end = next;
    }
    name.get(..end).filter(|n| !n.is_empty())
}

/// What a constant holds.
fn constant(value: &AttributeValue) -> Option<Sum> {
    Some(match value {
        AttributeValue::Tensor(t) => Sum::of(t),
        AttributeValue::Float(_) => Sum::numbers(1, 4),
        AttributeValue::Int(_) => Sum::numbers(1, 8),
        AttributeValue::Floats(all) => Sum::numbers(all.len(), 4),
        AttributeValue::Ints(all) => Sum::numbers(all.len(), 8),
        AttributeValue::Str(s) => Sum::numbers(1, s.len() as u64),
        AttributeValue::Strs(all) => Sum {
            bytes: all.iter().map(|s| s.len() as u64).sum(),
            ..Sum::numbers(all.len(), 0)
        },
        _ => return None,
    })
}

/// The document of a graph.
pub(super) fn document(g: &Graph) -> Json {
    let c = Counted::of(g);
    let mut m = Map::new();
    if !g.name.is_empty() {
        m.insert("name".into(), g.name.as_str().into());
    }
    m.insert("nodes".into(), g.nodes.len().into());
    m.insert("inputs".into(), values(&g.inputs).into());
    m.insert("outputs".into(), values(&g.outputs).into());
    m.insert("operators".into(), json!(c.operators));
    if !g.opsets.is_empty() {
        let named = g.opsets.iter().map(|(d, v)| (domain(d), Json::from(*v)));
        m.insert("opsets".into(), Json::Object(named.collect()));
    }
    if !g.functions.is_empty() {
        let all: Vec<Json> = g.functions.iter().map(function).collect();
        m.insert("functions".into(), all.into());
    }
    if !c.inner.is_empty() {
        let one = |i: &Inner| json!({"path": i.place.as_ref(), "nodes": i.nodes, "inputs": i.inputs, "outputs": i.outputs});
        let all: Vec<Json> = c.inner.iter().map(one).collect();
        m.insert("subgraphs".into(), all.into());
    }
    for (key, sum) in [("initializers", c.initializers), ("constants", c.constants)] {
        if sum.tensors > 0 {
            m.insert(key.into(), sum_json(&sum).into());
        }
    }
    if !c.parameters.is_empty() {
        let one = |((place, path), sum): (&(Rc<str>, String), &Sum)| {
            let mut m = Map::new();
            if !place.is_empty() {
                m.insert("subgraph".into(), place.as_ref().into());
            }
            m.insert("path".into(), path.as_str().into());
            m.extend(sum_json(sum));
            Json::Object(m)
        };
        let all: Vec<Json> = c.largest().into_iter().map(one).collect();
        m.insert("parameters".into(), all.into());
    }
    m.into()
}

fn sum_json(s: &Sum) -> Map<String, Json> {
    let mut m = Map::new();
    m.insert("tensors".into(), s.tensors.into());
    m.insert("values".into(), s.values.into());
    m.insert("bytes".into(), s.bytes.into());
    m
}

fn domain(d: &str) -> String {
    match d {
        "" => "ai.onnx".to_owned(),
        d => d.to_owned(),
    }
}

fn function(f: &GraphFunction) -> Json {
    let mut m = Map::new();
    m.insert("domain".into(), f.domain.as_str().into());
    m.insert("name".into(), f.name.as_str().into());
    if !f.overload.is_empty() {
        m.insert("overload".into(), f.overload.as_str().into());
    }
    m.insert("nodes".into(), f.nodes.len().into());
    m.insert("inputs".into(), json!(f.inputs));
    m.insert("outputs".into(), json!(f.outputs));
    let defaults = f.defaults.iter().map(|a| a.name.as_str());
    let attributes = f.attributes.iter().map(String::as_str).chain(defaults);
    let attributes: Vec<&str> = attributes.collect();
    if !attributes.is_empty() {
        m.insert("attributes".into(), json!(attributes));
    }
    m.into()
}

/// Inputs and outputs with what is known of their types.
fn values(all: &[GraphValue]) -> Vec<Json> {
    all.iter()
        .map(|v| {
            let mut m = Map::new();
            m.insert("name".into(), v.name.as_str().into());
            value_type(&v.kind, &mut m);
            Json::Object(m)
        })
        .collect()
}

/// Adds `dtype`, `shape` and whatever else there is to say of a type.
fn value_type(kind: &ValueType, m: &mut Map<String, Json>) {
    let nested = |kind: &ValueType| {
        let mut m = Map::new();
        value_type(kind, &mut m);
        Json::Object(m)
    };
    let dims = |shape: &Option<Vec<Dim>>| match shape {
        None => Json::Null,
        Some(all) => all.iter().map(dim).collect(),
    };
    let dtype = |d: &Option<DType>| d.map_or(Json::Null, |d| d.as_str().into());
    match kind {
        ValueType::Unknown => {}
        ValueType::Tensor { dtype: d, shape } => {
            m.insert("dtype".into(), dtype(d));
            m.insert("shape".into(), dims(shape));
        }
        ValueType::SparseTensor { dtype: d, shape } => {
            m.insert("kind".into(), "sparse".into());
            m.insert("dtype".into(), dtype(d));
            m.insert("shape".into(), dims(shape));
        }
        ValueType::Sequence(of) => {
            m.insert("kind".into(), "sequence".into());
            m.insert("of".into(), nested(of));
        }
        ValueType::Optional(of) => {
            m.insert("kind".into(), "optional".into());
            m.insert("of".into(), nested(of));
        }
        ValueType::Map { key, value } => {
            m.insert("kind".into(), "map".into());
            m.insert("key".into(), dtype(key));
            m.insert("of".into(), nested(value));
        }
        ValueType::Opaque { domain, name } => {
            m.insert("kind".into(), "opaque".into());
            m.insert("type".into(), format!("{domain}.{name}").into());
        }
    }
}

/// An extent, the name of one, or `null`.
fn dim(d: &Dim) -> Json {
    match d {
        Dim::Known(n) => (*n).into(),
        Dim::Symbol(s) => s.as_str().into(),
        Dim::Unknown => Json::Null,
    }
}

/// The graph for people.
pub(super) fn print(g: &Graph, out: &mut Output) -> Result<()> {
    let c = Counted::of(g);
    let inner = match c.graphs {
        (0, _) => String::new(),
        (n, nodes) => {
            let (graphs, nodes) = (plural(n, "graph"), plural(nodes, "node"));
            format!("; in {graphs} within it {nodes}")
        }
    };
    let name = match g.name.as_str() {
        "" => String::new(),
        name => format!("{}: ", brief(name, WIDE)),
    };
    let nodes = plural(g.nodes.len() as u64, "node");
    field(out, "graph", format_args!("{name}{nodes}{inner}"))?;
    if !g.opsets.is_empty() {
        let all = g.opsets.iter().map(|(d, v)| format!("{} {v}", domain(d)));
        let all: Vec<String> = all.take(LINES).collect();
        field(out, "opsets", brief(&all.join(", "), 4 * WIDE))?;
    }
    for (what, all) in [("input", &g.inputs), ("output", &g.outputs)] {
        for v in all.iter().take(LINES) {
            let kind = shown(&v.kind);
            let name = brief(&v.name, WIDE);
            field(
                out,
                what,
                format_args!("{name}: {}", brief(&kind, 2 * WIDE)),
            )?;
        }
        more(out, all.len())?;
    }
    let operators: Vec<String> = c
        .frequent()
        .into_iter()
        .take(LINES)
        .map(|(o, n)| format!("{} × {}", brief(o, WIDE), count(*n)))
        .collect();
    let rest = match c.operators.len().saturating_sub(LINES) {
        0 => String::new(),
        n => format!(" and {n} others"),
    };
    if !operators.is_empty() {
        field(
            out,
            "operators",
            format_args!("{}{rest}", operators.join(", ")),
        )?;
    }
    bodies(g, &c, out)?;
    parameters(&c, out)
}

/// Functions and the graphs within the graph.
fn bodies(g: &Graph, c: &Counted, out: &mut Output) -> Result<()> {
    for f in g.functions.iter().take(LINES) {
        let text = format!(
            "{}({}) → {}",
            title(f),
            f.inputs.join(", "),
            f.outputs.join(", ")
        );
        let nodes = plural(f.nodes.len() as u64, "node");
        field(
            out,
            "function",
            format_args!("{}, {nodes}", brief(&text, 2 * WIDE)),
        )?;
    }
    more(out, g.functions.len())?;
    let mut inner: Vec<&Inner> = c.inner.iter().collect();
    inner.sort_by_key(|i| std::cmp::Reverse(i.nodes));
    for i in inner.into_iter().take(LINES) {
        let (place, nodes) = (brief(&i.place, WIDE), plural(i.nodes, "node"));
        field(out, "subgraph", format_args!("{place}, {nodes}"))?;
    }
    more(out, c.graphs.0 as usize)
}

fn parameters(c: &Counted, out: &mut Output) -> Result<()> {
    let sum = |s: &Sum| {
        let (tensors, values) = (plural(s.tensors, "tensor"), plural(s.values, "value"));
        format!("{tensors}, {values}, {}", size(s.bytes))
    };
    if c.constants.tensors > 0 {
        let text = sum(&c.constants);
        field(out, "constants", format_args!("{text} in Constant nodes"))?;
    }
    // One subtree says no more than the sum of all.
    if c.parameters.len() < 2 {
        return Ok(());
    }
    for ((place, path), s) in c.largest().into_iter().take(LINES) {
        let path = match path.as_str() {
            "" => "(no subtree)".to_owned(),
            p => brief(p, WIDE),
        };
        let place = match place.as_ref() {
            "" => String::new(),
            p => format!("{} → ", brief(p, WIDE)),
        };
        field(out, "subtree", format_args!("{place}{path}: {}", sum(s)))?;
    }
    more(out, c.parameters.len())
}

fn more(out: &mut Output, total: usize) -> Result<()> {
    match total.saturating_sub(LINES) {
        0 => Ok(()),
        n => field(out, "", format_args!("… and {} more", count(n as u64))),
    }
}

/// A type in a few words: `F32 [batch, 3, ?]`.
fn shown(kind: &ValueType) -> String {
    let dims = |shape: &Option<Vec<Dim>>| match shape {
        None => " of any shape".to_owned(),
        Some(all) => {
            let one = |d: &Dim| match d {
                Dim::Known(n) => n.to_string(),
                Dim::Symbol(s) => s.clone(),
                Dim::Unknown => "?".to_owned(),
            };
            let all: Vec<String> = all.iter().map(one).collect();
            format!(" [{}]", all.join(", "))
        }
    };
    let dtype = |d: &Option<DType>| d.map_or("?", |d| d.as_str());
    match kind {
        ValueType::Unknown => "?".to_owned(),
        ValueType::Tensor { dtype: d, shape } => format!("{}{}", dtype(d), dims(shape)),
        ValueType::SparseTensor { dtype: d, shape } => {
            format!("sparse {}{}", dtype(d), dims(shape))
        }
        ValueType::Sequence(of) => format!("sequence of {}", shown(of)),
        ValueType::Optional(of) => format!("optional {}", shown(of)),
        ValueType::Map { key, value } => format!("map from {} to {}", dtype(key), shown(value)),
        ValueType::Opaque { domain, name } => format!("{domain}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::subtree;

    #[test]
    fn a_subtree_is_two_steps_of_a_name_without_its_last() {
        for (name, path) in [
            ("encoder.layers.0.weight", Some("encoder.layers")),
            ("encoder.weight", Some("encoder")),
            ("weight", None),
            ("/stft/padding/Constant", Some("stft/padding")),
            ("/Constant", None),
            ("onnx::MatMul_12", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(subtree(name), path, "{name}");
        }
    }
}
