//! Renaming values and nodes, and taking out weights and inputs that nothing uses.

use std::collections::{HashMap, HashSet};

use weighbridge_core::{Error, Result};

use super::super::Change;
use super::names::{Kind, Names, Root, Site};
use crate::format::Note;
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw::Node;
use crate::format::onnx::splice::{Edits, Piece};

/// Longest name that is read, in bytes.
const MOST_NAME: usize = 1 << 16;

/// Most users of a value that are named.
const MOST_USERS: usize = 5;

fn refused(rule: &'static str, message: String) -> Error {
    Error::parameter(rule, message)
}

fn text(number: u32, s: &str) -> Vec<Piece> {
    vec![Piece::Fields(Fields::new().bytes(number, s))]
}

/// Applies the changes of names: all renames at once, each of what the file called so before.
///
/// # Errors
/// `Parameter` for names that are missing, taken, or in use where they are to go.
pub(super) fn apply(
    names: &Names<'_>,
    changes: &[Change],
    edits: &mut Edits,
    notes: &mut Vec<Note>,
) -> Result<()> {
    values(names, changes, edits, notes)?;
    nodes(names, changes, edits, notes)?;
    let renamed = |name: &str| {
        let mut all = changes.iter();
        all.any(|c| matches!(c, Change::Rename(a, b) if a == name || b == name))
    };
    let mut gone = HashSet::new();
    for c in changes {
        let Change::Remove(name) = c else { continue };
        if renamed(name) {
            let message = format!("{name} is renamed and removed at once");
            return Err(refused("edit.conflict", message));
        }
        if gone.insert(name) {
            remove(names, name, edits, notes)?;
        }
    }
    Ok(())
}

fn fit(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MOST_NAME || name.contains('\0') {
        let message = format!("a name is empty, holds a NUL or has more than {MOST_NAME} bytes");
        return Err(refused("edit.name", message));
    }
    Ok(())
}

/// What is to have another name, and which: those of `pairs` that change something.
fn renames<'c>(
    pairs: impl Iterator<Item = (&'c String, &'c String)>,
) -> Result<Vec<(&'c str, &'c str)>> {
    let mut out = Vec::new();
    for (from, to) in pairs {
        fit(to)?;
        if from != to {
            out.push((from.as_str(), to.as_str()));
        }
    }
    Ok(out)
}

fn taken(name: &str) -> Error {
    refused(
        "edit.name-taken",
        format!("the model has a value {name} already"),
    )
    .help("graphs in nodes see the values around them, so that one name is used once in all")
}

fn values(
    names: &Names<'_>,
    changes: &[Change],
    edits: &mut Edits,
    notes: &mut Vec<Note>,
) -> Result<()> {
    // Where each text that changes begins, and what it becomes.
    let mut new: HashMap<u64, &str> = HashMap::new();
    let mut targets = HashSet::new();
    let mut sites = Vec::new();
    let pairs = changes.iter().filter_map(|c| match c {
        Change::Rename(from, to) => Some((from, to)),
        _ => None,
    });
    for (from, to) in renames(pairs)? {
        if !targets.insert(to) {
            return Err(taken(to));
        }
        let scopes = names.scopes(from);
        if from.is_empty() || scopes.is_empty() {
            return Err(no_value(names, from));
        }
        let mut what = None;
        for scope in scopes {
            for s in names.sites(scope, from)? {
                if new.insert(s.text.start, to).is_some() {
                    let message = format!("{from} is renamed twice");
                    return Err(refused("edit.conflict", message));
                }
                what = what.or(match (s.kind, scope.root) {
                    (Kind::Input, Root::Main) => Some("an input"),
                    (Kind::Use, Root::Main) if s.whole.is_some() => Some("an output"),
                    _ => None,
                });
                sites.push((s, to));
            }
        }
        let what = what.map_or_else(String::new, |w| format!(", {w} of the model"));
        notes.push(Note {
            what: from.to_owned(),
            why: format!("renamed to {to}{what}"),
            naming: true,
        });
    }
    let mut clash = None;
    if !targets.is_empty() {
        names.all(&mut |s| {
            if targets.contains(s.name.as_ref()) && !new.contains_key(&s.text.start) {
                clash = Some(s.name.into_owned());
            }
        })?;
    }
    if let Some(name) = clash {
        return Err(taken(&name));
    }
    for (s, to) in sites {
        edits.replace(s.message, s.text, text(s.number, to));
    }
    Ok(())
}

fn no_value(names: &Names<'_>, name: &str) -> Error {
    let mut node = false;
    names.nodes(&mut |n, _| node |= n.name() == name);
    let e = refused(
        "edit.no-such-value",
        format!("no graph of the model has a value {name}"),
    );
    match node {
        true => e.help("there is a node of this name: --rename-node renames it"),
        false => e.help("`weighbridge inspect --tensors FILE` lists weights, inputs and outputs; values in functions are not renamed"),
    }
}

fn nodes(
    names: &Names<'_>,
    changes: &[Change],
    edits: &mut Edits,
    notes: &mut Vec<Note>,
) -> Result<()> {
    let mut new: HashMap<u64, &str> = HashMap::new();
    let mut targets = HashSet::new();
    let pairs = changes.iter().filter_map(|c| match c {
        Change::RenameNode(from, to) => Some((from, to)),
        _ => None,
    });
    for (from, to) in renames(pairs)? {
        let (mut outer, mut inner): (Vec<&Node>, Vec<&Node>) = Default::default();
        names.nodes(&mut |n, main| {
            if n.name() == from {
                if main { &mut outer } else { &mut inner }.push(n);
            }
        });
        let found = if outer.is_empty() { inner } else { outer };
        let node = match found.as_slice() {
            [one] if !from.is_empty() => one,
            [] => {
                let message = format!("the model has no node {from}");
                return Err(refused("edit.no-such-node", message));
            }
            many => {
                let message = format!("{} nodes are called {from:?}", many.len());
                return Err(refused("edit.ambiguous", message));
            }
        };
        if !targets.insert(to) || new.insert(node.span.start, to).is_some() {
            let message = format!("two nodes would be called {to}, or {from} is renamed twice");
            return Err(refused("edit.name-taken", message));
        }
        edits.set(node.span, 3, text(3, to));
        notes.push(Note {
            what: format!("node {from}"),
            why: format!("renamed to {to}"),
            naming: true,
        });
    }
    let mut clash = None;
    names.nodes(&mut |n, _| {
        if targets.contains(n.name()) && !new.contains_key(&n.span.start) {
            clash = Some(n.name());
        }
    });
    match clash {
        Some(name) => {
            let message = format!("the model has a node {name} already");
            Err(refused("edit.name-taken", message))
        }
        None => Ok(()),
    }
}

fn remove(names: &Names<'_>, name: &str, edits: &mut Edits, notes: &mut Vec<Note>) -> Result<()> {
    let scopes = names.scopes(name);
    let scope = match scopes.as_slice() {
        [] => return Err(no_value(names, name)),
        [one] => *one,
        many => {
            let message = format!("{} graphs have a value {name}", many.len());
            return Err(refused("edit.ambiguous", message));
        }
    };
    let sites = names.sites(scope, name)?;
    let made = sites.iter().find(|s| s.kind == Kind::Made);
    if let Some(s) = made {
        let message = format!("{name} is what {} makes", s.by);
        return Err(refused("edit.not-removable", message).help("weights and inputs are left out"));
    }
    let users: Vec<&Site<'_>> = sites.iter().filter(|s| s.kind == Kind::Use).collect();
    if !users.is_empty() {
        let mut shown: Vec<String> = users.iter().map(|s| s.by.to_string()).collect();
        shown.dedup();
        let more = shown.len().saturating_sub(MOST_USERS);
        shown.truncate(MOST_USERS);
        let more = match more {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let message = format!("{name} is used by {}{more}", shown.join(", "));
        return Err(refused("edit.in-use", message));
    }
    let input = sites.iter().any(|s| s.kind == Kind::Input);
    if input && !matches!(scope.root, Root::Main) {
        let message = format!("{name} is an input of a graph in a node, which counts them");
        return Err(refused("edit.not-removable", message));
    }
    for (parent, message) in sites.iter().filter_map(|s| s.whole) {
        edits.remove(parent, message);
    }
    let why = match (input, sites.iter().any(|s| s.kind == Kind::Weight)) {
        (true, true) => "left out, the input and its weight",
        (true, false) => "left out, an input that nothing used",
        _ => "left out, a weight that nothing used",
    };
    notes.push(Note::new(name, why));
    Ok(())
}
