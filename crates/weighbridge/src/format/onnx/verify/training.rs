//! What training runs (`TrainingInfoProto` of `onnx/onnx.proto3`), of which the reference checker
//! looks at nothing.

use std::collections::HashSet;

use weighbridge_core::Result;

use super::super::raw::{Entry, Graph};
use super::{Checker, Step, quoted};

impl<'m> Checker<'m> {
    pub(super) fn training(&mut self) -> Result<()> {
        let model = self.model;
        let Some(main) = &model.graph else {
            return Ok(());
        };
        for t in &model.training {
            self.path.push(Step::Plain("training"));
            let done = self.one_training(t, main);
            self.path.pop();
            done?;
        }
        Ok(())
    }

    fn one_training(&mut self, t: &'m super::raw::Training, main: &'m Graph) -> Result<()> {
        // Both see the values of the model's own graph.
        let mark = self.scope.enter();
        for name in main.initializers.iter().map(|t| t.name()).chain(made(main)) {
            self.scope.add(name, None);
        }
        self.outermost = false;
        let mut done = Ok(());
        for (role, g) in [
            ("initialization", &t.initialization),
            ("algorithm", &t.algorithm),
        ] {
            if let (Some(g), Ok(())) = (g, &done) {
                done = self.inside(Step::Plain(role), |c| c.graph(g));
            }
        }
        self.outermost = true;
        self.scope.leave(mark);
        done?;
        let own = t.algorithm.iter().flat_map(|g| &g.initializers);
        let variables: HashSet<&str> = main
            .initializers
            .iter()
            .chain(own)
            .map(|t| t.name())
            .collect();
        self.bindings(
            &t.initialization_binding,
            &variables,
            t.initialization.as_ref(),
        );
        self.bindings(&t.update_binding, &variables, t.algorithm.as_ref());
        Ok(())
    }

    /// Keys are initializers, values outputs of the graph.
    fn bindings(&mut self, all: &'m [Entry], variables: &HashSet<&str>, g: Option<&'m Graph>) {
        let outputs: HashSet<&str> = g
            .into_iter()
            .flat_map(|g| &g.outputs)
            .map(|v| v.name.text.as_str())
            .collect();
        let mut seen: HashSet<&str> = HashSet::new();
        for e in all {
            let (key, value) = (e.key.text.as_str(), e.value.text.as_str());
            if !seen.insert(key) {
                let message = format!("{} is set twice", quoted(key));
                self.strict("onnx.training-binding", e.span, message);
            }
            if !variables.contains(key) {
                let message = format!("{} is set and no initializer", quoted(key));
                self.strict("onnx.training-binding", e.key.span, message);
            }
            if !outputs.contains(value) {
                let message = format!("{} is no output of the graph", quoted(value));
                self.strict("onnx.training-binding", e.value.span, message);
            }
        }
    }
}

/// The names of inputs and of what nodes make.
fn made(g: &Graph) -> impl Iterator<Item = &str> {
    let inputs = g.inputs.iter().map(|v| v.name.text.as_str());
    let made = g.nodes.iter().flat_map(|n| &n.outputs);
    inputs.chain(made.map(|o| o.text.as_str()))
}
