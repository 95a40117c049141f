//! The nested state dict again from its flattened entries.
//!
//! Reference: `torch/distributed/checkpoint/_traverse.py`, `set_element`: text steps are keys of
//! mappings, numbers are positions of lists.

use std::collections::{BTreeMap, HashMap};

use weighbridge_core::model::{Dict, Value};
use weighbridge_core::{Error, Result};

use super::metadata::Step;

/// A container that is still being filled.
#[derive(Debug)]
pub(super) enum Nest {
    Leaf(Value),
    Dict {
        order: Vec<(String, Nest)>,
        slots: HashMap<String, usize>,
    },
    List(BTreeMap<usize, Nest>),
}

impl Nest {
    /// An empty mapping.
    pub(super) fn dict() -> Self {
        Self::Dict {
            order: Vec::new(),
            slots: HashMap::new(),
        }
    }

    fn for_step(step: Option<&Step>) -> Self {
        match step {
            Some(Step::Index(_)) => Self::List(BTreeMap::new()),
            _ => Self::dict(),
        }
    }

    /// Puts `value` at `path`.
    ///
    /// # Errors
    /// `Malformed` when the path leads through a value, or its kind of container is another.
    pub(super) fn set(&mut self, path: &[Step], value: Value) -> Result<()> {
        let mut here = self;
        for (i, step) in path.iter().enumerate() {
            let next = path.get(i + 1);
            here = match (here, step) {
                (Self::Dict { order, slots }, Step::Key(k)) => {
                    let slot = match slots.get(k) {
                        Some(&s) => s,
                        None => {
                            slots.insert(k.clone(), order.len());
                            order.push((k.clone(), Self::for_step(next)));
                            order.len() - 1
                        }
                    };
                    match order.get_mut(slot) {
                        Some((_, n)) => n,
                        None => return clash(path),
                    }
                }
                (Self::List(items), Step::Index(n)) => {
                    items.entry(*n).or_insert_with(|| Self::for_step(next))
                }
                _ => return clash(path),
            };
        }
        // A container made for deeper entries is no free place.
        let free = match here {
            Self::Dict { order, .. } => order.is_empty(),
            Self::List(l) => l.is_empty(),
            Self::Leaf(_) => false,
        };
        if !free {
            return clash(path);
        }
        *here = Self::Leaf(value);
        Ok(())
    }

    /// The finished tree. Positions of lists that no entry fills are `None`, as torch leaves them;
    /// at most `holes` of them.
    pub(super) fn finish(self, holes: &mut usize) -> Result<Value> {
        Ok(match self {
            Self::Leaf(v) => v,
            Self::Dict { order, .. } => {
                let entries = order
                    .into_iter()
                    .map(|(k, n)| Ok((Value::Str(k), n.finish(holes)?)))
                    .collect::<Result<_>>()?;
                Value::Dict(Dict {
                    entries,
                    ..Dict::default()
                })
            }
            Self::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (at, n) in items {
                    let gap = at.saturating_sub(out.len());
                    *holes = holes.checked_sub(gap).ok_or_else(|| {
                        Error::malformed(
                            "dcp.bad-path",
                            format!("a list has a position {at} and hardly any before it"),
                        )
                    })?;
                    out.extend(std::iter::repeat_n(Value::Null, gap));
                    out.push(n.finish(holes)?);
                }
                Value::List(out)
            }
        })
    }
}

fn clash<T>(path: &[Step]) -> Result<T> {
    let shown: Vec<String> = path
        .iter()
        .map(|s| match s {
            Step::Key(k) => k.clone(),
            Step::Index(i) => i.to_string(),
        })
        .collect();
    Err(Error::malformed(
        "dcp.bad-path",
        format!("the path {} leads through another entry", shown.join(".")),
    ))
}

/// Moves what an item's own file refers to under the place of the item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rebase<'a> {
    /// The item's name in the whole.
    pub prefix: &'a str,
    /// Whether the item is nothing but a tensor, which then has the item's name.
    pub root: bool,
}

impl Rebase<'_> {
    /// The name of an item's tensor in the whole.
    pub(super) fn name(&self, name: &str) -> String {
        if self.root {
            self.prefix.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    /// Renames every reference in `v`. The recursion is as deep as the reader let `v` become.
    pub(super) fn value(&self, v: &mut Value) {
        let each = |l: &mut Vec<Value>| l.iter_mut().for_each(|v| self.value(v));
        match v {
            Value::Tensor(name) => *name = self.name(name),
            Value::Moved { tensor, .. } => *tensor = self.name(tensor),
            Value::Ref(path) => {
                let inner = path.strip_prefix('$').unwrap_or(path);
                *path = format!("$.{}{inner}", self.prefix);
            }
            Value::List(l) | Value::Tuple(l) | Value::Set(l) | Value::FrozenSet(l) => each(l),
            Value::Dict(d) => {
                d.entries.iter_mut().for_each(|(_, v)| self.value(v));
                d.attributes.iter_mut().for_each(|(_, v)| self.value(v));
            }
            Value::Object(o) => {
                each(&mut o.args);
                o.kwargs.iter_mut().for_each(|(_, v)| self.value(v));
                [&mut o.state, &mut o.items, &mut o.state_dict]
                    .into_iter()
                    .flatten()
                    .for_each(|v| self.value(v));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(k: &str) -> Step {
        Step::Key(k.into())
    }

    #[test]
    fn nests_and_refuses_clashes() {
        let mut root = Nest::dict();
        let int = Value::Int;
        root.set(&[key("a"), Step::Index(1), key("x")], int(1))
            .unwrap();
        root.set(&[key("a"), Step::Index(0)], int(2)).unwrap();
        root.set(&[key("b")], int(3)).unwrap();
        assert_eq!(
            root.set(&[key("b"), key("c")], int(4)).unwrap_err().rule(),
            "dcp.bad-path"
        );
        assert!(root.set(&[key("a"), key("c")], int(4)).is_err());
        assert!(root.set(&[key("a")], int(4)).is_err());
        let v = root.finish(&mut 0).unwrap();
        let Some(Value::List(l)) = v.get("a") else {
            panic!()
        };
        assert_eq!(l[0], Value::Int(2));
        assert_eq!(l[1].get("x"), Some(&Value::Int(1)));
    }

    #[test]
    fn a_far_position_allocates_nothing() {
        let mut root = Nest::dict();
        root.set(&[key("a"), Step::Index(usize::MAX)], Value::Null)
            .unwrap();
        assert_eq!(root.finish(&mut 10).unwrap_err().rule(), "dcp.bad-path");
        let mut root = Nest::dict();
        root.set(&[key("a"), Step::Index(2)], Value::Null).unwrap();
        let v = root.finish(&mut 2).unwrap();
        assert_eq!(v.get("a"), Some(&Value::List(vec![Value::Null; 3])));
    }
}
