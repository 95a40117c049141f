//! The groups and datasets that names spell: `/` parts the names of groups.

use std::collections::{BTreeMap, HashMap};

use weighbridge_core::model::Value;

/// An object of the file.
#[derive(Debug, Default)]
pub(super) struct Object<'a> {
    /// The children, for a group.
    pub children: BTreeMap<String, usize>,
    /// The tensor, for a dataset.
    pub tensor: Option<usize>,
    /// The attributes, in the order they are written.
    pub attributes: Vec<(&'a str, &'a Value)>,
}

/// All objects. Parents come before their children; the first is the root.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub objects: Vec<Object<'a>>,
    /// The number that the next object of a taken name in a group gets.
    numbers: HashMap<(usize, String), u64>,
}

/// The steps of a path. The library passes over empty ones and over `.` when it follows a path,
/// so that nothing can be called so.
fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|s| !s.is_empty() && *s != ".")
}

impl<'a> Tree<'a> {
    pub(super) fn new() -> Self {
        Self {
            objects: vec![Object::default()],
            numbers: HashMap::new(),
        }
    }

    fn child(&self, at: usize, name: &str) -> Option<usize> {
        self.objects.get(at)?.children.get(name).copied()
    }

    fn is_group(&self, at: usize) -> bool {
        self.objects.get(at).is_some_and(|o| o.tensor.is_none())
    }

    /// The object at `path`, where there is one.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        steps(path).try_fold(0, |at, step| self.child(at, step))
    }

    /// The group at `path`, made where it is not there; `None` where a dataset is in the way.
    pub(super) fn group(&mut self, path: &str) -> Option<usize> {
        let mut at = 0;
        for step in steps(path) {
            at = match self.child(at, step) {
                Some(next) if self.is_group(next) => next,
                Some(_) => return None,
                None => self.push(at, step, None),
            };
        }
        Some(at)
    }

    fn push(&mut self, parent: usize, name: &str, tensor: Option<usize>) -> usize {
        let new = self.objects.len();
        self.objects.push(Object {
            tensor,
            ..Object::default()
        });
        if let Some(o) = self.objects.get_mut(parent) {
            o.children.insert(name.to_owned(), new);
        }
        new
    }

    /// Puts tensor number `tensor` at `name`, or at the next name that is free; gives that where
    /// it is another.
    pub(super) fn dataset(&mut self, name: &str, tensor: usize) -> (usize, Option<String>) {
        let clean = name.replace('\0', "_");
        let mut wanted: Vec<&str> = steps(&clean).collect();
        let last = wanted.pop().unwrap_or("tensor");
        let mut parts: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
        let (mut parent, mut i) = (0, 0);
        while let Some(step) = parts.get(i).cloned() {
            match self.child(parent, &step) {
                Some(next) if self.is_group(next) => parent = next,
                None => parent = self.push(parent, &step, None),
                Some(_) => {
                    // A dataset is in the way.
                    let free = self.free(parent, &step, true);
                    parent = match self.child(parent, &free) {
                        Some(group) => group,
                        None => self.push(parent, &free, None),
                    };
                    if let Some(p) = parts.get_mut(i) {
                        *p = free;
                    }
                }
            }
            i += 1;
        }
        let free = match self.child(parent, last) {
            None => last.to_owned(),
            Some(_) => self.free(parent, last, false),
        };
        let new = self.push(parent, &free, Some(tensor));
        parts.push(free);
        let path = parts.join("/");
        (new, (path != name.trim_start_matches('/')).then_some(path))
    }

    /// `name` with the first number that nothing has, or, if that will do, that a group has.
    fn free(&mut self, parent: usize, name: &str, or_group: bool) -> String {
        let key = (parent, name.to_owned());
        let mut n = self.numbers.get(&key).copied().unwrap_or(2);
        loop {
            let next = format!("{name}#{n}");
            let there = self.child(parent, &next);
            if there.is_none_or(|g| or_group && self.is_group(g)) {
                self.numbers.insert(key, n);
                return next;
            }
            n += 1;
        }
    }

    /// Gives the object `at` another attribute.
    pub(super) fn attribute(&mut self, at: usize, name: &'a str, value: &'a Value) {
        if let Some(o) = self.objects.get_mut(at) {
            o.attributes.push((name, value));
        }
    }
}
