//! Applying changes to a header, and refusing those that no reader would survive.

use std::collections::HashSet;

use weighbridge_core::model::Element;
use weighbridge_core::{Error, Result};

use super::super::value::{encode, infer};
use super::super::{Change, Kind};
use super::draft::{Body, Draft, Item, RESERVE, USED, alignment};
use crate::format::Note;
use crate::format::gguf::raw::MOST_ALIGNMENT;
use crate::format::gguf::split;
use crate::format::gguf::write::ALIGNMENT_KEY;

/// The key that names the architecture; the keys of its numbers begin with its value.
const ARCHITECTURE: &str = "general.architecture";

/// Longest name of a tensor that all readers take, in bytes.
const LONGEST_NAME: usize = 63;

fn refused(rule: &'static str, message: String) -> Error {
    Error::parameter(rule, message)
}

/// Applies `changes` in the order that [`Change`] tells; gives what is different now.
pub(super) fn apply(draft: &mut Draft<'_>, changes: &[Change]) -> Result<Vec<Note>> {
    let architecture = draft.text_of(ARCHITECTURE).map(|s| s.into_owned());
    let mut notes = Vec::new();
    for c in changes {
        if let Change::RenameKey(from, to) = c {
            rename_key(draft, from, to, &mut notes)?;
        }
    }
    for c in changes {
        if let Change::Unset(key) = c {
            unset(draft, key, &mut notes)?;
        }
    }
    for c in changes {
        match c {
            Change::Set { key, kind, text } => set(draft, key, *kind, text, &mut notes)?,
            Change::SetText { key, text } => {
                let old = draft.find(key).and_then(|i| draft.items.get(i));
                if let Some(kind) = old
                    .map(|i| i.kind)
                    .filter(|k| *k != Kind::One(Element::Str))
                {
                    let message = format!("the value of {key} is of type {kind}, no text");
                    let e = refused("edit.type", message);
                    return Err(e.help("remove the key first (--unset) if that is meant"));
                }
                let kind = Some(Kind::One(Element::Str));
                set(draft, key, kind, text, &mut notes)?;
            }
            _ => {}
        }
    }
    tensors(draft, changes, &mut notes)?;
    whole(draft, architecture.as_deref())?;
    Ok(notes)
}

/// Refuses keys that edits do not touch.
fn guard(key: &str) -> Result<()> {
    if key == RESERVE || key == USED {
        let e = refused("edit.reserve", format!("{key} is room for edits in place"));
        return Err(e.help("--reserve SIZE makes room, --reserve 0 gives it back"));
    }
    if split::is_key(key) {
        let message = format!("{key} holds the files of a split model together");
        let e = refused("edit.split", message);
        return Err(e.help("`weighbridge merge` and `weighbridge split` write it"));
    }
    Ok(())
}

fn fit_for_a_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > 65_535 || key.contains('\0') {
        let message = "a key is empty, holds a NUL or is longer than 65535 bytes";
        return Err(refused("edit.key", message.to_owned()));
    }
    Ok(())
}

fn missing(key: &str) -> Error {
    let message = format!("the file has no key {key}");
    refused("edit.no-such-key", message).help("`weighbridge inspect FILE` lists the keys")
}

fn rename_key(draft: &mut Draft<'_>, from: &str, to: &str, notes: &mut Vec<Note>) -> Result<()> {
    for key in [from, to] {
        guard(key)?;
        if key == ARCHITECTURE || key == ALIGNMENT_KEY {
            let message = format!("readers look for {key} by this name");
            return Err(refused("edit.reserved-key", message));
        }
    }
    fit_for_a_key(to)?;
    let i = draft.find(from).ok_or_else(|| missing(from))?;
    if from == to {
        return Ok(());
    }
    if draft.find(to).is_some() {
        let e = refused("edit.key-taken", format!("there is a key {to} already"));
        return Err(e.help("remove it first, in a run of its own"));
    }
    let Some(item) = draft.items.get(i) else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    draft.coding.put_string(to.as_bytes(), &mut bytes);
    let value = draft.body(item).get(draft.coding.prefix() + from.len()..);
    bytes.extend_from_slice(value.unwrap_or_default());
    if let Some(item) = draft.items.get_mut(i) {
        to.clone_into(&mut item.key);
        item.body = Body::New(bytes);
    }
    notes.push(Note {
        what: format!("metadata {from}"),
        why: format!("renamed to {to}"),
        naming: true,
    });
    Ok(())
}

fn unset(draft: &mut Draft<'_>, key: &str, notes: &mut Vec<Note>) -> Result<()> {
    guard(key)?;
    if key == ARCHITECTURE {
        let message = format!("no reader of models takes a file without {key}");
        return Err(refused("edit.reserved-key", message));
    }
    let i = draft.find(key).ok_or_else(|| missing(key))?;
    draft.items.remove(i);
    notes.push(Note::new(format!("metadata {key}"), "removed"));
    Ok(())
}

fn set(
    draft: &mut Draft<'_>,
    key: &str,
    kind: Option<Kind>,
    text: &str,
    notes: &mut Vec<Note>,
) -> Result<()> {
    guard(key)?;
    fit_for_a_key(key)?;
    let found = draft.find(key);
    let old = found.and_then(|i| draft.items.get(i));
    let was = old.map(|i| i.kind);
    let kind = match (kind, was) {
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) if key == ALIGNMENT_KEY => Kind::One(Element::U32),
        (None, None) if key == ARCHITECTURE => Kind::One(Element::Str),
        (None, None) => infer(text)?,
    };
    let wrong = match key {
        ARCHITECTURE => kind != Kind::One(Element::Str) || text.is_empty(),
        ALIGNMENT_KEY => {
            let n = text.trim().parse::<u32>().unwrap_or(0);
            kind != Kind::One(Element::U32) || !n.is_power_of_two() || u64::from(n) > MOST_ALIGNMENT
        }
        _ => false,
    };
    if wrong {
        let what = match key {
            ARCHITECTURE => "a text that names the architecture (str)".to_owned(),
            _ => format!("a power of two up to {MOST_ALIGNMENT} (u32)"),
        };
        let message = format!("readers take {key} only as {what}");
        return Err(refused("edit.reserved-key", message));
    }
    let mut bytes = Vec::new();
    draft.coding.put_string(key.as_bytes(), &mut bytes);
    encode(kind, text, draft.coding, &mut bytes).map_err(|e| e.within(key))?;
    if old.is_some_and(|i| draft.body(i) == bytes) {
        return Ok(());
    }
    notes.push(Note::new(
        format!("metadata {key}"),
        match was {
            None => format!("added, of type {kind}"),
            Some(was) if was != kind => format!("a new value, of type {kind} and no longer {was}"),
            Some(_) => "a new value".to_owned(),
        },
    ));
    match found.and_then(|i| draft.items.get_mut(i)) {
        Some(item) => {
            item.kind = kind;
            item.body = Body::New(bytes);
        }
        None => draft.items.push(Item {
            key: key.to_owned(),
            kind,
            body: Body::New(bytes),
            added: true,
        }),
    }
    Ok(())
}

fn tensors(draft: &mut Draft<'_>, changes: &[Change], notes: &mut Vec<Note>) -> Result<()> {
    let missing = |name: &str| {
        let e = refused(
            "edit.no-such-tensor",
            format!("the file has no tensor {name}"),
        );
        e.help("`weighbridge inspect --tensors FILE` lists them")
    };
    let mut renamed = false;
    for c in changes {
        let Change::Rename(from, to) = c else {
            continue;
        };
        if to.is_empty() || to.len() > LONGEST_NAME || to.contains('\0') {
            let message = format!(
                "the name {to:?} is empty, holds a NUL or has more than {LONGEST_NAME} bytes"
            );
            return Err(refused("edit.name", message));
        }
        let found = draft.tensors.iter_mut().find(|t| t.name == *from);
        let t = found.ok_or_else(|| missing(from))?;
        if from != to {
            to.clone_into(&mut t.name);
            renamed = true;
            notes.push(Note {
                what: from.clone(),
                why: format!("renamed to {to}"),
                naming: true,
            });
        }
    }
    for c in changes {
        let Change::Remove(name) = c else { continue };
        if draft.find(split::COUNT).is_some() {
            let message = "a tensor of one file of a split model would be missed by the others";
            let e = refused("edit.split", message.to_owned());
            return Err(e.help("merge the files first (`weighbridge merge`)"));
        }
        let at = draft.tensors.iter().position(|t| t.name == *name);
        let t = draft.tensors.remove(at.ok_or_else(|| missing(name))?);
        notes.push(Note::new(
            name.as_str(),
            format!("left out, {} bytes", t.bytes),
        ));
    }
    let mut names = HashSet::new();
    let twice = draft
        .tensors
        .iter()
        .find(|t| !names.insert(t.name.as_str()));
    match twice {
        Some(t) if renamed => {
            let message = format!("two tensors would be called {}", t.name);
            Err(refused("edit.name-taken", message))
        }
        _ => Ok(()),
    }
}

/// What holds of the header as a whole: the alignment, and the keys of the architecture.
fn whole(draft: &mut Draft<'_>, architecture: Option<&str>) -> Result<()> {
    draft.alignment = alignment(draft)
        .filter(|n| n.is_power_of_two() && *n <= MOST_ALIGNMENT)
        .ok_or_else(|| {
            refused(
                "edit.reserved-key",
                format!("{ALIGNMENT_KEY} is no power of two"),
            )
        })?;
    let (Some(old), Some(new)) = (architecture, draft.text_of(ARCHITECTURE)) else {
        return Ok(());
    };
    if old == new {
        return Ok(());
    }
    let of = |name: &str| {
        let keys = draft.items.iter().filter(|i| {
            let rest = i.key.strip_prefix(name);
            rest.is_some_and(|r| r.starts_with('.'))
        });
        keys.count()
    };
    match of(old) {
        0 => Ok(()),
        n => {
            let message = format!(
                "{n} keys begin with {old:?}, and a reader of {new:?} looks for {new}.… instead"
            );
            let e = refused("edit.architecture", message);
            Err(e.help(
                "rename them in the same run: --rename-key OLD.block_count=NEW.block_count, …",
            ))
        }
    }
}
