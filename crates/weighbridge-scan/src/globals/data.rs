//! The tables that the catalogue is made of, as `build/catalogue.rs` compiles them from `rules/`.

use super::{Allowed, Applied, ByArguments, Profile};
use crate::subject::Use;

/// A table from name to value, sorted by name.
#[derive(Debug)]
pub(super) struct Table<V: 'static>(pub(super) &'static [(&'static str, V)]);

impl<V> Table<V> {
    /// The entry called `name`.
    pub(super) fn entry(&self, name: &str) -> Option<&'static (&'static str, V)> {
        find(self.0, name)
    }

    /// The value under `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'static V> {
        self.entry(name).map(|e| &e.1)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }
}

/// The entry called `name` of a sorted table.
pub(super) fn find<'t, V>(
    table: &'t [(&'static str, V)],
    name: &str,
) -> Option<&'t (&'static str, V)> {
    let at = table.binary_search_by(|e| e.0.cmp(name)).ok()?;
    table.get(at)
}

/// Classes that execute an attribute of their state.
#[derive(Debug)]
pub(super) struct StateRule {
    pub(super) modules: &'static [&'static str],
    /// What the names of the classes end with.
    pub(super) suffix: &'static str,
    /// Those of them with other names.
    pub(super) names: &'static [&'static str],
    /// The attribute, which holds signatures of methods.
    pub(super) signatures: &'static str,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) profiles: &'static [Profile],
    /// Full name to the most that any profile lets be done with it.
    pub(super) allowed: Table<Use>,
    pub(super) by_arguments: Table<ByArguments>,
    /// Function to the arguments it calls, and how.
    pub(super) applies: Table<Applied>,
    pub(super) by_state: &'static [StateRule],
    pub(super) no_attributes: Table<()>,
    pub(super) wrappers: Table<()>,
    pub(super) encodings: Table<()>,
    pub(super) stdlib: Table<()>,
    pub(super) installed: Table<()>,
    pub(super) code_objects: Table<()>,
    pub(super) type_builders: Table<()>,
    /// Module or full name to why.
    pub(super) dangerous: Table<&'static str>,
    /// Module or full name to the first advisory on it.
    pub(super) advisories: Table<&'static str>,
    /// What Python 3 calls a module of Python 2.
    pub(super) modules: Table<&'static str>,
    /// What Python 3 calls a global of Python 2.
    pub(super) names: Table<&'static str>,
}

pub(super) static DATA: Data = include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));
