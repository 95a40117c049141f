//! The names that a graph sees: its own and those of the graphs it lies in.

use std::collections::HashMap;

use super::kinds::Kind;
use super::raw::Tensor;
use super::shapes::Dims;

/// Visible values, and how to forget those of a graph that ends. Looking one up takes the same time
/// however deep the graph lies.
#[derive(Debug, Default)]
pub(super) struct Scope<'m> {
    names: HashMap<&'m str, Value<'m>>,
    /// What a name meant before this graph gave it another meaning.
    before: Vec<(&'m str, Option<Value<'m>>)>,
    level: u32,
}

/// What is known of a value.
#[derive(Debug, Clone)]
struct Value<'m> {
    /// How deep the graph lies that defines it.
    level: u32,
    kind: Option<Kind>,
    shape: Option<Dims>,
    /// The tensor that it always is.
    constant: Option<&'m Tensor>,
}

/// Where a graph began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(usize);

impl<'m> Scope<'m> {
    /// Begins a graph.
    pub(super) fn enter(&mut self) -> Mark {
        self.level = self.level.saturating_add(1);
        Mark(self.before.len())
    }

    /// Ends the graph that began at `mark`.
    pub(super) fn leave(&mut self, mark: Mark) {
        while self.before.len() > mark.0 {
            match self.before.pop() {
                Some((name, Some(value))) => self.names.insert(name, value),
                Some((name, None)) => self.names.remove(name),
                None => break,
            };
        }
        self.level = self.level.saturating_sub(1);
    }

    /// Defines a name in this graph.
    pub(super) fn add(&mut self, name: &'m str, kind: Option<Kind>) {
        let level = self.level;
        let value = Value {
            level,
            kind,
            shape: None,
            constant: None,
        };
        let old = self.names.insert(name, value);
        // A second definition in one graph leaves what is to be restored as it is.
        if old.as_ref().is_none_or(|v| v.level < level) {
            self.before.push((name, old));
        }
    }

    /// Says what shape the value `name` of this graph has, and which tensor it always is.
    pub(super) fn describe(
        &mut self,
        name: &str,
        shape: Option<Dims>,
        constant: Option<&'m Tensor>,
    ) {
        if let Some(v) = self.names.get_mut(name).filter(|v| v.level == self.level) {
            (v.shape, v.constant) = (shape, constant);
        }
    }

    /// Whether this graph defines `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|v| v.level == self.level)
    }

    /// Whether this graph or one around it defines `name`.
    pub(super) fn sees(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The type of a value, where it is known.
    pub(super) fn kind(&self, name: &str) -> Option<&Kind> {
        self.names.get(name)?.kind.as_ref()
    }

    /// The shape of a value, as far as it is known.
    pub(super) fn shape(&self, name: &str) -> Option<&Dims> {
        self.names.get(name)?.shape.as_ref()
    }

    /// The same of a value that this graph defines.
    pub(super) fn own_shape(&self, name: &str) -> Option<&Dims> {
        self.shape(name).filter(|_| self.has(name))
    }

    /// The tensor that a value always is.
    pub(super) fn constant(&self, name: &str) -> Option<&'m Tensor> {
        self.names.get(name)?.constant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_ends_leaves_the_names_as_they_were() {
        let mut scope = Scope::default();
        let outer = scope.enter();
        scope.add("a", Some("float".into()));
        let inner = scope.enter();
        assert!(scope.sees("a") && !scope.has("a"));
        scope.add("a", Some("int64".into()));
        scope.add("a", None);
        scope.add("b", None);
        assert!(scope.has("a") && scope.has("b"));
        scope.leave(inner);
        assert!(scope.has("a") && !scope.sees("b"));
        assert_eq!(scope.kind("a").unwrap(), "float");
        scope.leave(outer);
        assert!(!scope.sees("a"));
    }
}
