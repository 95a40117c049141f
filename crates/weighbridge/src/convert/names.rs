//! Which tensors are taken, and under which names.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use weighbridge_core::model::{Model, Value, Warning};
use weighbridge_core::{Error, Result};

use super::options::ConvertOptions;
use super::state;
use crate::format::Note;
use crate::format::safetensors::aliases;
use crate::structure::free_name;

/// Takes the tensors that `options` select out of `model` and gives them their new names; the old
/// names with the new ones. `bulk` names the tensors that hold moved state: they stay as they are.
pub(super) fn apply(
    model: &mut Model,
    options: &ConvertOptions,
    bulk: &HashSet<String>,
    changed: &mut Vec<Note>,
) -> Result<HashMap<String, String>> {
    select(model, options, bulk)?;
    Ok(rename(model, options, bulk, changed))
}

/// Reads the regular expressions that were given to `flag`.
pub(super) fn compile(patterns: &[String], flag: &str) -> Result<Vec<Regex>> {
    let compile = |p: &String| {
        Regex::new(p)
            .map_err(|e| Error::parameter("convert.bad-regex", format!("{flag} {p:?}: {e}")))
    };
    patterns.iter().map(compile).collect()
}

fn select(model: &mut Model, options: &ConvertOptions, bulk: &HashSet<String>) -> Result<()> {
    if options.select.is_empty() && options.drop.is_empty() {
        return Ok(());
    }
    let wanted = compile(&options.select, "--select")?;
    let unwanted = compile(&options.drop, "--drop")?;
    let takes = |name: &str| {
        (wanted.is_empty() || wanted.iter().any(|r| r.is_match(name)))
            && !unwanted.iter().any(|r| r.is_match(name))
    };
    let had_any = !model.tensors.is_empty();
    let mut left_out = HashSet::new();
    let mut taken = 0u64;
    model.tensors.retain(|t| {
        if bulk.contains(&t.name) {
            return true;
        }
        let take = takes(&t.name);
        if take {
            taken += 1;
        } else {
            left_out.insert(t.name.clone());
        }
        take
    });
    if taken == 0 && had_any {
        return Err(Error::parameter(
            "convert.nothing-selected",
            "no tensor is left after --select and --drop",
        )
        .help("list the names with: weighbridge inspect --tensors"));
    }
    if let Some(s) = &mut model.structure {
        state::prune(s, &left_out);
    }
    Ok(())
}

/// The name that the rules make of `name`; each rule that applied is ticked off.
fn new_name(t: &str, options: &ConvertOptions, used: &mut [bool]) -> String {
    let (strips, renames) = used.split_at_mut(options.strip_prefix.len());
    let mut name = t.to_owned();
    for (prefix, used) in options.strip_prefix.iter().zip(strips) {
        // A name is never stripped to nothing.
        if let Some(rest) = name.strip_prefix(prefix.as_str()).filter(|r| !r.is_empty()) {
            name = rest.to_owned();
            *used = true;
            break;
        }
    }
    for ((from, to), used) in options.rename.iter().zip(renames) {
        let renamed = match (from.strip_suffix('*'), to.strip_suffix('*')) {
            (Some(from), Some(to)) => name.strip_prefix(from).map(|rest| format!("{to}{rest}")),
            _ => (*from == name).then(|| to.clone()),
        };
        if let Some(n) = renamed {
            name = n;
            *used = true;
            break;
        }
    }
    name
}

fn rename(
    model: &mut Model,
    options: &ConvertOptions,
    bulk: &HashSet<String>,
    changed: &mut Vec<Note>,
) -> HashMap<String, String> {
    if !options.renames() {
        return HashMap::new();
    }
    let mut used = vec![false; options.strip_prefix.len() + options.rename.len()];
    let mut taken: HashSet<String> = bulk.clone();
    let mut renamed: HashMap<String, String> = HashMap::new();
    for t in &mut model.tensors {
        if bulk.contains(&t.name) {
            continue;
        }
        let label = t.label().filter(|_| options.labels).map(str::to_owned);
        let wanted = new_name(label.as_ref().unwrap_or(&t.name), options, &mut used);
        let name = free_name(&wanted, &mut taken);
        if name != t.name {
            let mut why = format!("renamed to {name}");
            if name != wanted {
                why.push_str(&format!(": {wanted} is taken"));
            }
            changed.push(Note {
                what: t.name.clone(),
                why,
                naming: true,
            });
            renamed.insert(std::mem::replace(&mut t.name, name.clone()), name);
        }
    }
    let flags = options.strip_prefix.iter().map(|p| ("--strip-prefix", p));
    let flags = flags.chain(options.rename.iter().map(|(from, _)| ("--rename", from)));
    for ((flag, what), used) in flags.zip(used) {
        if !used {
            let message = format!("{flag} {what:?} fits no tensor");
            model
                .warnings
                .push(Warning::new("convert.unused-rename", message));
        }
    }
    if !renamed.is_empty() {
        rename_aliases(model, &renamed);
    }
    renamed
}

/// Brings the record of shared storage up to the new names.
fn rename_aliases(model: &mut Model, renamed: &HashMap<String, String>) {
    for (key, value) in &mut model.metadata {
        let Value::Str(text) = value else { continue };
        if key != aliases::KEY {
            continue;
        }
        let Ok(mut groups) = aliases::decode(text) else {
            continue;
        };
        for a in groups.iter_mut().flat_map(|g| &mut g.tensors) {
            if let Some(new) = renamed.get(&a.name) {
                a.name.clone_from(new);
            }
            if let Some(same) = &mut a.same_as
                && let Some(new) = renamed.get(same)
            {
                same.clone_from(new);
            }
        }
        *text = aliases::encode(&groups);
    }
}
