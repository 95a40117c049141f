//! Functions that a model defines for itself.

use std::collections::{HashMap, HashSet};

use weighbridge_core::Result;

use super::super::operators::Found;
use super::super::raw::{Function, Graph, Node, Text};
use super::graph::Later;
use super::{Checker, FunctionId, Step, quoted, shown};

/// The two names of the standard domain are one.
fn plain(domain: &str) -> &str {
    match domain {
        "ai.onnx" => "",
        d => d,
    }
}

fn text(t: Option<&Text>) -> &str {
    t.map_or("", |t| t.text.as_str())
}

/// What nodes call a function by (`GetFunctionImplId` of `onnx/common/proto_util.h`).
pub(super) fn id_of(f: &Function) -> FunctionId<'_> {
    let domain = plain(text(f.domain.as_ref()));
    (domain, &f.name.text, text(f.overload.as_ref()))
}

/// The function that a node would call.
pub(super) fn callee(n: &Node) -> FunctionId<'_> {
    let overload = text(n.overload.as_ref());
    (plain(n.domain()), &n.operator.text, overload)
}

impl<'m> Checker<'m> {
    pub(super) fn all_functions(&mut self) -> Result<()> {
        let all = &self.model.functions;
        let mut seen: HashSet<FunctionId<'_>> = HashSet::new();
        for f in all {
            if !seen.insert(id_of(f)) {
                let message = format!("the function {} is defined twice", quoted(&f.name.text));
                self.wrong("onnx.duplicate-function", f.span, message);
            }
        }
        self.recursion();
        // Functions may use what other functions import.
        let mut together = self.opsets.clone();
        for o in all.iter().flat_map(|f| &f.opsets) {
            together.entry(&o.domain).or_insert(o.version);
        }
        for f in all {
            self.inside(Step::Function(f), |c| c.one_function(f, &together))?;
        }
        Ok(())
    }

    fn one_function(&mut self, f: &'m Function, model: &HashMap<&'m str, i64>) -> Result<()> {
        if f.name.text.is_empty() {
            self.wrong("onnx.function-name", f.span, "a function has no name");
        }
        if f.domain.is_none() {
            let message = "a function does not say its domain";
            self.wrong("onnx.function-domain", f.span, message);
        }
        self.entries(&f.metadata, false);
        let own = self.opsets_of(&f.opsets);
        let opsets = std::mem::replace(&mut self.opsets, own);
        let scope = std::mem::take(&mut self.scope);
        let defaults = f.defaults.iter().map(|a| a.name.text.as_str());
        let named = f.attributes.iter().map(|a| a.text.as_str());
        self.attributes = Some(named.chain(defaults).collect());
        self.signature(f);
        self.compatible(f, model);
        let done = self.function_body(f);
        self.attributes = None;
        self.scope = scope;
        self.opsets = opsets;
        done
    }

    fn function_body(&mut self, f: &'m Function) -> Result<()> {
        let mark = self.scope.enter();
        for i in &f.inputs {
            if self.scope.has(&i.text) {
                let message = format!("the parameter {} stands twice", quoted(&i.text));
                self.wrong("onnx.duplicate-input", i.span, message);
            }
            self.scope.add(&i.text, None);
        }
        let done = self.nodes(&f.nodes, Later::default());
        for o in &f.outputs {
            if self.scope.has(&o.text) {
                continue;
            }
            let message = format!(
                "nothing in the function makes its result {}",
                quoted(&o.text)
            );
            self.strict("onnx.output-undefined", o.span, message);
        }
        self.scope.leave(mark);
        done
    }

    /// Names of results and attributes, none of which stands twice.
    fn signature(&mut self, f: &'m Function) {
        let mut seen: HashSet<&str> = HashSet::new();
        for o in &f.outputs {
            if !seen.insert(&o.text) {
                let message = format!("the result {} stands twice", quoted(&o.text));
                self.wrong("onnx.duplicate-output", o.span, message);
            }
        }
        seen.clear();
        for a in &f.attributes {
            if !seen.insert(&a.text) {
                let message = format!("the attribute {} stands twice", quoted(&a.text));
                self.wrong("onnx.duplicate-attribute", a.span, message);
            }
        }
        for a in &f.defaults {
            if !seen.insert(&a.name.text) {
                let message = format!("the attribute {} stands twice", quoted(&a.name.text));
                self.strict("onnx.duplicate-attribute", a.span, message);
            }
        }
    }

    /// Operators mean the same by the function's operator sets and by the model's.
    fn compatible(&mut self, f: &'m Function, model: &HashMap<&'m str, i64>) {
        for n in &f.nodes {
            if self.full() {
                return;
            }
            let Some(own) = self.opsets.get(n.domain()).copied() else {
                // That it is missing is said of the node, but not where it has its other name.
                if self.version_of(n.domain()).is_some() {
                    let message = "functions name the standard operator set by an empty domain";
                    self.wrong("onnx.opset-missing", n.span, message);
                }
                continue;
            };
            let Some(&whole) = model.get(n.domain()).filter(|&&v| v != own) else {
                continue;
            };
            let here = self.since(n, own);
            let there = self.since(n, whole);
            if here != there {
                let message = format!(
                    "{} is another in version {own} of the operator set {}, which the function names, than in {whole}, which the model names",
                    n.operator.text,
                    shown(n.domain())
                );
                self.inside(Step::Node(n), |c| {
                    c.wrong("onnx.opset-function", n.span, message);
                });
            }
        }
    }

    fn since(&mut self, n: &'m Node, version: i64) -> Option<i64> {
        match self.operator(n, version).as_ref() {
            Found::Operator(o) => Some(o.since),
            _ => None,
        }
    }

    /// Functions that call themselves, be it through others.
    fn recursion(&mut self) {
        let all = &self.model.functions;
        let index: HashMap<FunctionId<'_>, usize> =
            all.iter().enumerate().map(|(i, f)| (id_of(f), i)).collect();
        let calls: Vec<Vec<usize>> = all
            .iter()
            .map(|f| {
                let mut out = Vec::new();
                calls_of(&f.nodes, &index, &mut out);
                out.sort_unstable();
                out.dedup();
                out
            })
            .collect();
        for (from, to) in back_edges(&calls) {
            let (Some(f), Some(g)) = (all.get(from), all.get(to)) else {
                continue;
            };
            let message = format!(
                "the function {} calls {}, which leads back to it",
                quoted(&f.name.text),
                quoted(&g.name.text)
            );
            self.wrong("onnx.function-recursion", f.span, message);
        }
    }
}

/// The functions that nodes and the graphs in them call. Graphs nest no deeper than the parser
/// lets them.
fn calls_of(nodes: &[Node], index: &HashMap<FunctionId<'_>, usize>, out: &mut Vec<usize>) {
    for n in nodes {
        out.extend(index.get(&callee(n)));
        for a in &n.attributes {
            for g in a.g.iter().map(AsRef::as_ref).chain(&a.graphs) {
                let g: &Graph = g;
                calls_of(&g.nodes, index, out);
            }
        }
    }
}

/// The edges of a graph that close a cycle, found without recursion.
fn back_edges(edges: &[Vec<usize>]) -> Vec<(usize, usize)> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut state = vec![State::New; edges.len()];
    let mut found = Vec::new();
    for root in 0..edges.len() {
        if state.get(root) != Some(&State::New) {
            continue;
        }
        let mut stack = vec![(root, 0usize)];
        while let Some((at, next)) = stack.last_mut() {
            let (at, i) = (*at, *next);
            *next = next.saturating_add(1);
            if let Some(s) = state.get_mut(at) {
                *s = State::Open;
            }
            match edges.get(at).and_then(|e| e.get(i)) {
                Some(&to) => match state.get(to) {
                    Some(State::New) => stack.push((to, 0)),
                    Some(State::Open) => found.push((at, to)),
                    _ => {}
                },
                None => {
                    if let Some(s) = state.get_mut(at) {
                        *s = State::Done;
                    }
                    stack.pop();
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::back_edges;

    #[test]
    fn cycles_are_found_and_diamonds_are_none() {
        assert_eq!(back_edges(&[vec![1, 2], vec![3], vec![3], vec![]]), []);
        assert_eq!(back_edges(&[vec![1], vec![2], vec![0]]), [(2, 0)]);
        assert_eq!(back_edges(&[vec![0]]), [(0, 0)]);
    }
}
