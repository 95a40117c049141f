//! A graph with its functions and branches put in place: one list of nodes, one list of values.
//!
//! Both branches of an `If` stand in the list, with a [`Op::Select`] behind them for each result.
//! Bodies of loops stay bodies; the outer values that they use are numbered as everywhere else.

use std::collections::HashMap;
use std::sync::Arc;

use weighbridge_core::model::{
    AttributeValue, Graph, GraphAttribute, GraphFunction, GraphNode, GraphValue, Tensor as Stored,
};

use super::interp::value::{Kind, Tensor, Value};
use super::interp::{Attributes, Op, named};

/// The number of a value.
pub(crate) type Id = usize;

/// Most nodes after everything is put in place, beyond twice those of the file.
const MOST_NODES: usize = 20_000;

/// Deepest nesting of functions and bodies.
const MOST_DEEP: usize = 40;

/// Where a value comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin<'g> {
    /// The input of that number.
    Input(usize),
    /// A tensor of the file.
    Stored(&'g Stored),
    /// A constant that is written out in an attribute.
    Known(Value),
    /// A node, or the caller of a body.
    Made,
    /// Nothing: the name is not defined.
    Missing,
    /// Nothing: a parameter that the caller of a function leaves out.
    Absent,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) struct Named<'g> {
    pub(crate) name: &'g str,
    pub(crate) origin: Origin<'g>,
}

/// An operator in its place.
#[derive(Debug, Clone)]
pub(crate) struct Node<'g> {
    pub(crate) op: Op,
    /// The node as the file has it.
    pub(crate) node: &'g GraphNode,
    pub(crate) attributes: Attributes<'g>,
    pub(crate) opset: i64,
    pub(crate) inputs: Vec<Option<Id>>,
    pub(crate) outputs: Vec<Option<Id>>,
    /// The body of a loop.
    pub(crate) body: Option<Arc<Body<'g>>>,
    /// The functions and branches it stands in, outermost first.
    pub(crate) place: Arc<str>,
}

/// What a loop runs.
#[derive(Debug)]
pub(crate) struct Body<'g> {
    pub(crate) inputs: Vec<Id>,
    pub(crate) outputs: Vec<Option<Id>>,
    pub(crate) nodes: Vec<Node<'g>>,
    /// Values from outside that it uses.
    pub(crate) captures: Vec<Id>,
}

impl Node<'_> {
    /// Everything that it reads.
    pub(crate) fn reads(&self) -> impl Iterator<Item = Id> {
        let captured = self.body.iter().flat_map(|b| b.captures.iter().copied());
        self.inputs.iter().flatten().copied().chain(captured)
    }

    /// Everything that it makes.
    pub(crate) fn makes(&self) -> impl Iterator<Item = Id> {
        self.outputs.iter().flatten().copied()
    }

    /// How it is called in a report.
    pub(crate) fn title(&self) -> String {
        let name = match self.node.name.as_str() {
            "" => self.node.outputs.first().map_or("", String::as_str),
            name => name,
        };
        let name: String = name.chars().take(80).collect();
        format!("{} {name}", self.node.operator)
    }
}

/// The whole graph.
#[derive(Debug)]
pub(crate) struct Flat<'g> {
    pub(crate) values: Vec<Named<'g>>,
    pub(crate) nodes: Vec<Node<'g>>,
    /// Inputs without a default.
    pub(crate) inputs: Vec<(&'g GraphValue, Id)>,
    pub(crate) outputs: Vec<Id>,
    /// What the file says of the type of each value.
    pub(crate) types: HashMap<Id, &'g GraphValue>,
    /// A name that is read before anything makes it, or that nothing makes.
    pub(crate) broken: Option<&'g str>,
}

/// Puts everything in place; `None` when that would be too much.
pub(crate) fn flatten(graph: &Graph) -> Option<Flat<'_>> {
    let mut f = Flattener {
        functions: HashMap::new(),
        values: Vec::new(),
        types: HashMap::new(),
        nodes: 0,
        most: MOST_NODES.saturating_add(written(graph).saturating_mul(2)),
        broken: None,
    };
    for function in &graph.functions {
        let key = (function.domain.as_str(), function.name.as_str());
        f.functions.entry(key).or_default().push(function);
    }
    let mut scope = Scope {
        opset: graph.opset("").unwrap_or(1),
        ..Scope::default()
    };
    let mut inputs = Vec::new();
    scope.levels.push(HashMap::new());
    f.constants(graph, &mut scope);
    for v in &graph.inputs {
        if scope.find(&v.name).is_none() {
            let id = f.value(&v.name, Origin::Input(inputs.len()));
            scope.set(&v.name, id);
            inputs.push((v, id));
        }
    }
    let mut nodes = Vec::new();
    f.nodes(&graph.nodes, &mut scope, &mut nodes, 0)?;
    for v in graph
        .values
        .iter()
        .chain(&graph.inputs)
        .chain(&graph.outputs)
    {
        if let Some(id) = scope.find(&v.name) {
            f.types.entry(id).or_insert(v);
        }
    }
    let outputs = graph.outputs.iter().filter_map(|o| scope.find(&o.name));
    let outputs = outputs.collect();
    Some(Flat {
        values: f.values,
        nodes,
        inputs,
        outputs,
        types: f.types,
        broken: f.broken,
    })
}

/// How many nodes stand in the file.
fn written(graph: &Graph) -> usize {
    fn all(nodes: &[GraphNode], depth: usize) -> usize {
        if depth > MOST_DEEP {
            return 0;
        }
        let inner = nodes.iter().flat_map(GraphNode::bodies);
        let inner: usize = inner.map(|(_, g)| all(&g.nodes, depth + 1)).sum();
        nodes.len().saturating_add(inner)
    }
    let functions: usize = graph.functions.iter().map(|f| all(&f.nodes, 0)).sum();
    all(&graph.nodes, 0).saturating_add(functions)
}

/// Which value a name means, innermost level last.
#[derive(Debug, Default)]
struct Scope<'g> {
    levels: Vec<HashMap<&'g str, Id>>,
    opset: i64,
    /// The attributes of a function's caller, and the function's defaults.
    given: Option<(Attributes<'g>, &'g [GraphAttribute])>,
    place: Option<Arc<str>>,
}

impl<'g> Scope<'g> {
    fn find(&self, name: &str) -> Option<Id> {
        self.levels.iter().rev().find_map(|l| l.get(name).copied())
    }

    fn set(&mut self, name: &'g str, id: Id) {
        if let Some(l) = self.levels.last_mut() {
            l.insert(name, id);
        }
    }

    /// The same with one more step of the place.
    fn inside(&self, step: &str) -> Arc<str> {
        match self.place.as_deref() {
            Some(p) if p.len() > 400 => Arc::from(p),
            Some(p) if !p.is_empty() => Arc::from(format!("{p} → {step}")),
            _ => Arc::from(step),
        }
    }

    /// The attributes of `node`, with references looked up.
    fn attributes(&self, node: &'g GraphNode) -> Attributes<'g> {
        let one = |a: &'g GraphAttribute| match &a.value {
            AttributeValue::Reference(r) => {
                let (caller, defaults) = self.given.as_ref()?;
                let default = || defaults.iter().find(|d| d.name == *r).map(|d| &d.value);
                let value = caller.get(r).or_else(default)?;
                Some((a.name.as_str(), value))
            }
            value => Some((a.name.as_str(), value)),
        };
        Attributes(node.attributes.iter().filter_map(one).collect())
    }
}

struct Flattener<'g> {
    functions: HashMap<(&'g str, &'g str), Vec<&'g GraphFunction>>,
    values: Vec<Named<'g>>,
    types: HashMap<Id, &'g GraphValue>,
    nodes: usize,
    most: usize,
    broken: Option<&'g str>,
}

impl<'g> Flattener<'g> {
    fn value(&mut self, name: &'g str, origin: Origin<'g>) -> Id {
        self.values.push(Named { name, origin });
        self.values.len() - 1
    }

    fn constants(&mut self, graph: &'g Graph, scope: &mut Scope<'g>) {
        for t in &graph.initializers {
            let id = self.value(&t.name, Origin::Stored(t));
            scope.set(&t.name, id);
        }
    }

    /// Puts `nodes` behind `out`.
    fn nodes(
        &mut self,
        nodes: &'g [GraphNode],
        scope: &mut Scope<'g>,
        out: &mut Vec<Node<'g>>,
        depth: usize,
    ) -> Option<()> {
        if depth > MOST_DEEP {
            return None;
        }
        for i in sorted(nodes) {
            let node = nodes.get(i)?;
            self.nodes += 1;
            if self.nodes > self.most {
                return None;
            }
            self.node(node, scope, out, depth)?;
        }
        Some(())
    }

    fn node(
        &mut self,
        node: &'g GraphNode,
        scope: &mut Scope<'g>,
        out: &mut Vec<Node<'g>>,
        depth: usize,
    ) -> Option<()> {
        let attributes = scope.attributes(node);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for name in &node.inputs {
            inputs.push(match name.as_str() {
                "" => None,
                name => {
                    let id = self.find(name, scope);
                    let origin = self.values.get(id).map(|v| &v.origin);
                    Some(id).filter(|_| !matches!(origin, Some(Origin::Absent)))
                }
            });
        }
        if let Some(f) = self.function(node) {
            return self.inline(f, node, attributes, inputs, scope, out, depth);
        }
        let standard = node.domain.is_empty() || node.domain == "ai.onnx";
        let op = if standard {
            named(&node.operator)
        } else {
            Op::Other
        };
        if standard && node.operator == "If" {
            return self.branch(node, inputs, scope, out, depth);
        }
        let body = match op {
            Op::Loop | Op::Scan => match attributes.get("body") {
                Some(AttributeValue::Graph(g)) => Some(self.body(g, node, scope, depth)?),
                _ => None,
            },
            _ => None,
        };
        let constant = if op == Op::Constant {
            constant(&attributes)
        } else {
            None
        };
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for name in &node.outputs {
            outputs.push(match name.as_str() {
                "" => None,
                name => {
                    let origin = constant.clone().unwrap_or(Origin::Made);
                    let id = self.value(name, origin);
                    scope.set(name, id);
                    Some(id)
                }
            });
        }
        if constant.is_some() {
            return Some(());
        }
        out.push(Node {
            op,
            node,
            attributes,
            opset: scope.opset,
            inputs,
            outputs,
            body,
            place: scope.place.clone().unwrap_or_else(|| Arc::from("")),
        });
        Some(())
    }

    fn find(&mut self, name: &'g str, scope: &mut Scope<'g>) -> Id {
        scope.find(name).unwrap_or_else(|| {
            let id = self.value(name, Origin::Missing);
            scope.set(name, id);
            self.broken.get_or_insert(name);
            id
        })
    }

    fn function(&self, node: &GraphNode) -> Option<&'g GraphFunction> {
        let key = (node.domain.as_str(), node.operator.as_str());
        let all = self.functions.get(&key)?;
        let exact = all.iter().find(|f| f.overload == node.overload);
        exact.or_else(|| all.first()).copied()
    }

    #[allow(clippy::too_many_arguments)]
    fn inline(
        &mut self,
        f: &'g GraphFunction,
        node: &'g GraphNode,
        attributes: Attributes<'g>,
        inputs: Vec<Option<Id>>,
        scope: &mut Scope<'g>,
        out: &mut Vec<Node<'g>>,
        depth: usize,
    ) -> Option<()> {
        let step = format!("function {}::{}", f.domain, f.name);
        let mut inner = Scope {
            levels: vec![HashMap::new()],
            opset: f.opset("").unwrap_or(scope.opset),
            given: Some((attributes, &f.defaults)),
            place: Some(scope.inside(&step)),
        };
        for (i, name) in f.inputs.iter().enumerate() {
            let given = inputs.get(i).copied().flatten();
            let id = given.unwrap_or_else(|| self.value(name, Origin::Absent));
            inner.set(name, id);
        }
        self.nodes(&f.nodes, &mut inner, out, depth + 1)?;
        for (theirs, ours) in f.outputs.iter().zip(&node.outputs) {
            if !ours.is_empty() {
                let id = self.find(theirs, &mut inner);
                scope.set(ours, id);
            }
        }
        Some(())
    }

    fn branch(
        &mut self,
        node: &'g GraphNode,
        inputs: Vec<Option<Id>>,
        scope: &mut Scope<'g>,
        out: &mut Vec<Node<'g>>,
        depth: usize,
    ) -> Option<()> {
        let mut sides = Vec::new();
        for name in ["then_branch", "else_branch"] {
            let Some(AttributeValue::Graph(g)) = node.attribute(name) else {
                return Some(());
            };
            let outer = scope.place.clone();
            let title = match node.name.as_str() {
                "" => node.outputs.first().map_or("", String::as_str),
                n => n,
            };
            let title: String = title.chars().take(80).collect();
            scope.place = Some(scope.inside(&format!("If {title} {name}")));
            scope.levels.push(HashMap::new());
            self.constants(g, scope);
            let done = self.nodes(&g.nodes, scope, out, depth + 1);
            let made: Vec<Id> = match done {
                Some(()) => g
                    .outputs
                    .iter()
                    .map(|o| self.find(&o.name, scope))
                    .collect(),
                None => Vec::new(),
            };
            scope.levels.pop();
            scope.place = outer;
            done?;
            sides.push(made);
        }
        for (i, name) in node.outputs.iter().enumerate() {
            if name.is_empty() {
                continue;
            }
            let id = self.value(name, Origin::Made);
            scope.set(name, id);
            let side = |s: usize| sides.get(s).and_then(|v: &Vec<Id>| v.get(i).copied());
            out.push(Node {
                op: Op::Select,
                node,
                attributes: Attributes::default(),
                opset: scope.opset,
                inputs: vec![inputs.first().copied().flatten(), side(0), side(1)],
                outputs: vec![Some(id)],
                body: None,
                place: scope.place.clone().unwrap_or_else(|| Arc::from("")),
            });
        }
        Some(())
    }

    fn body(
        &mut self,
        g: &'g Graph,
        node: &'g GraphNode,
        scope: &mut Scope<'g>,
        depth: usize,
    ) -> Option<Arc<Body<'g>>> {
        let outer = scope.place.clone();
        let title: String = node.name.chars().take(80).collect();
        scope.place = Some(scope.inside(&format!("{} {title} body", node.operator)));
        let first = self.values.len();
        scope.levels.push(HashMap::new());
        self.constants(g, scope);
        let mut inputs = Vec::new();
        for v in &g.inputs {
            let id = self.value(&v.name, Origin::Made);
            scope.set(&v.name, id);
            self.types.insert(id, v);
            inputs.push(id);
        }
        let mut nodes = Vec::new();
        let done = self.nodes(&g.nodes, scope, &mut nodes, depth + 1);
        let outputs: Vec<Option<Id>> = match done {
            Some(()) => g
                .outputs
                .iter()
                .map(|o| Some(self.find(&o.name, scope)))
                .collect(),
            None => Vec::new(),
        };
        scope.levels.pop();
        scope.place = outer;
        done?;
        let mut captures: Vec<Id> = nodes.iter().flat_map(Node::reads).collect();
        captures.extend(outputs.iter().flatten());
        captures.retain(|&id| id < first);
        captures.sort_unstable();
        captures.dedup();
        Some(Arc::new(Body {
            inputs,
            outputs,
            nodes,
            captures,
        }))
    }
}

/// The value of a `Constant`.
fn constant<'g>(a: &Attributes<'g>) -> Option<Origin<'g>> {
    let known = |t: Tensor| Some(Origin::Known(Arc::new(t)));
    let (name, value) =
        a.0.iter()
            .find(|(n, _)| n.starts_with("value") || *n == "sparse_value")?;
    match (*name, *value) {
        (_, AttributeValue::Tensor(t)) => Some(Origin::Stored(t)),
        ("value_float", AttributeValue::Float(x)) => {
            known(Tensor::float(Kind::F32, Vec::new(), vec![f64::from(*x)]))
        }
        ("value_int", AttributeValue::Int(n)) => known(Tensor::scalar(*n)),
        ("value_floats", AttributeValue::Floats(v)) => {
            let all = v.iter().map(|&x| f64::from(x)).collect();
            known(Tensor::float(Kind::F32, vec![v.len()], all))
        }
        ("value_ints", AttributeValue::Ints(v)) => known(Tensor::ints(v.clone())),
        ("value_string", AttributeValue::Str(s)) => {
            known(Tensor::texts(Vec::new(), vec![Arc::from(s.as_slice())]))
        }
        ("value_strings", AttributeValue::Strs(v)) => {
            let all = v.iter().map(|s| Arc::from(s.as_slice())).collect();
            known(Tensor::texts(vec![v.len()], all))
        }
        _ => None,
    }
}

/// The order in which nodes can run: the file's, unless it has a node before what it needs.
fn sorted(nodes: &[GraphNode]) -> Vec<usize> {
    let mut made: HashMap<&str, usize> = HashMap::new();
    for (i, n) in nodes.iter().enumerate() {
        for o in n.outputs.iter().filter(|o| !o.is_empty()) {
            made.entry(o).or_insert(i);
        }
    }
    let needs = |n: &GraphNode| -> Vec<usize> {
        let mut names = Vec::new();
        used(n, &mut names, 0);
        names
            .iter()
            .filter_map(|&name| made.get(name).copied())
            .collect()
    };
    let needed: Vec<Vec<usize>> = nodes.iter().map(needs).collect();
    let in_order = needed
        .iter()
        .enumerate()
        .all(|(i, n)| n.iter().all(|&d| d < i));
    if in_order {
        return (0..nodes.len()).collect();
    }
    // Depth first, without recursion; what lies on a circle comes as it is met.
    let mut state = vec![0u8; nodes.len()];
    let mut out = Vec::with_capacity(nodes.len());
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for start in 0..nodes.len() {
        if state.get(start) != Some(&0) {
            continue;
        }
        stack.push((start, 0));
        while let Some((i, k)) = stack.pop() {
            if let (0, Some(s)) = (k, state.get_mut(i)) {
                *s = 1;
            }
            match needed.get(i).and_then(|n| n.get(k)) {
                Some(&d) => {
                    stack.push((i, k + 1));
                    if state.get(d) == Some(&0) {
                        stack.push((d, 0));
                    }
                }
                None => {
                    out.push(i);
                }
            }
        }
    }
    out
}

/// The names that a node reads, those in its bodies too.
fn used<'n>(n: &'n GraphNode, names: &mut Vec<&'n str>, depth: usize) {
    names.extend(n.inputs.iter().map(String::as_str));
    if depth > MOST_DEEP {
        return;
    }
    for (_, g) in n.bodies() {
        for inner in &g.nodes {
            used(inner, names, depth + 1);
        }
        names.extend(g.outputs.iter().map(|o| o.name.as_str()));
    }
}
