//! Which tensor of the weights goes into which of the graph: by its name, or as it is told.

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{Layout, Model, Tensor};
use weighbridge_core::{Error, Result};

use super::base::Slot;
use super::some_names;

/// Who goes where, by index.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// A slot and the tensor for it.
    pub pairs: Vec<(usize, usize)>,
    /// Slots of weights without a tensor.
    pub uncovered: Vec<usize>,
    /// Other slots without a tensor, which keep what the graph has.
    pub kept: Vec<usize>,
    /// Tensors without a slot.
    pub unused: Vec<usize>,
}

/// Pairs the tensors of `weights` but `bulk` with `slots`.
///
/// # Errors
/// `Parameter` for a pair of `map` that names what is not there, and for two tensors that are to
/// go into one place; `Unsupported` where dtype or shape differ.
pub(super) fn pair(
    slots: &[Slot<'_>],
    weights: &Model,
    bulk: &HashSet<String>,
    map: &[(String, String)],
) -> Result<Pairs> {
    let places = slots.iter().enumerate().filter(|(_, s)| s.replaceable());
    let places: HashMap<&str, usize> = places.map(|(i, s)| (s.name(), i)).collect();
    let given = weights.tensors.iter().enumerate();
    let given = given.filter(|(_, t)| !bulk.contains(&t.name));
    let given: HashMap<&str, usize> = given.map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut chosen: HashMap<usize, usize> = HashMap::new();
    let mut told: HashSet<&str> = HashSet::new();
    for (from, to) in map {
        let no = |name: &str, whose: &str| {
            Error::parameter("convert.map", format!("--map: {whose} no tensor {name:?}"))
                .help("list the names with: weighbridge inspect --tensors")
        };
        let &w = given.get(from.as_str()).ok_or_else(|| no(from, "IN has"))?;
        let place = places.get(to.as_str());
        let &s = place.ok_or_else(|| no(to, "the graph has"))?;
        if chosen.insert(s, w).is_some_and(|other| other != w) {
            let message = format!("--map: two tensors are to become {to:?}");
            return Err(Error::parameter("convert.map", message));
        }
        told.insert(from);
    }
    for (&name, &s) in &places {
        if let Some(&w) = given.get(name).filter(|_| !told.contains(name)) {
            chosen.entry(s).or_insert(w);
        }
    }
    let mut out = Pairs::default();
    let mut used = HashSet::new();
    for (i, s) in slots.iter().enumerate() {
        match chosen.get(&i) {
            Some(&w) => {
                used.insert(w);
                out.pairs.push((i, w));
            }
            None if s.weighs() => out.uncovered.push(i),
            None => out.kept.push(i),
        }
    }
    let left = given.into_values().filter(|w| !used.contains(w));
    out.unused = left.collect();
    out.unused.sort_unstable();
    for &(s, w) in &out.pairs {
        if let (Some(s), Some(t)) = (slots.get(s), weights.tensors.get(w)) {
            fits(s.name(), s.tensor, "the graph", t)?;
        }
    }
    Ok(out)
}

/// Whether `t` can stand where `old`, called `name`, stands in `whole`.
///
/// # Errors
/// `Unsupported` where it cannot, with what helps.
pub(super) fn fits(name: &str, old: &Tensor, whole: &str, t: &Tensor) -> Result<()> {
    let named = match name == t.name {
        true => t.name.clone(),
        false => format!("{} (for {name})", t.name),
    };
    let no = |rule, message: String| Err(Error::unsupported(rule, message));
    if t.layout != Layout::Strided || !t.has_data() {
        let message = format!("{named} is {}, {whole} wants it dense", t.layout.as_str());
        return no("convert.graph-layout", message).map_err(|e| e.help("--densify writes it so"));
    }
    let (want, have) = (old.dtype, t.dtype);
    if want != have {
        let message = format!("{named} is {have}, {whole} wants {want}");
        let help = match (
            want.is_float(),
            t.dtype.block().is_some() || have.is_float(),
        ) {
            (true, true) => format!(
                "--dtype {} casts the weights, --drop leaves the tensor out",
                want.as_str().to_ascii_lowercase()
            ),
            _ => "--drop leaves the tensor out".to_owned(),
        };
        return no("convert.graph-dtype", message).map_err(|e| e.help(help));
    }
    let (want, have) = (&old.shape, &t.shape);
    if want != have {
        let message = format!("{named} is {have:?}, {whole} wants {want:?}");
        let mut turned = have.clone();
        if let [.., a, b] = turned.as_mut_slice() {
            std::mem::swap(a, b);
        }
        let help = match turned == *want {
            true => format!(
                "if {whole} has its transpose: --transpose '^{}$'",
                regex::escape(&t.name)
            ),
            false => "--map FROM=TO pairs it with another, --drop leaves it out".to_owned(),
        };
        return no("convert.graph-shape", message).map_err(|e| e.help(help));
    }
    Ok(())
}

impl Pairs {
    /// Refuses leftovers on either side.
    pub(super) fn complete(&self, slots: &[Slot<'_>], weights: &Model) -> Result<()> {
        let slot = |&i: &usize| slots.get(i).map_or("", Slot::name);
        let tensor = |&i: &usize| weights.tensors.get(i).map_or("", |t| t.name.as_str());
        let mut said = Vec::new();
        if !self.uncovered.is_empty() {
            let names = some_names(self.uncovered.iter().map(slot));
            let n = self.uncovered.len();
            said.push(format!(
                "IN has nothing for {n} of the graph's tensors: {names}"
            ));
        }
        if !self.unused.is_empty() {
            let names = some_names(self.unused.iter().map(tensor));
            let n = self.unused.len();
            said.push(format!("the graph has no place for {n} of IN's: {names}"));
        }
        if said.is_empty() {
            return Ok(());
        }
        Err(Error::parameter("convert.partial", said.join("; ")).help(
            "--map FROM=TO pairs names; --partial puts in what fits and keeps the rest of the \
             graph; with --dry-run it lists everything",
        ))
    }
}
