//! Every broken rule of Keras' files: of the archive, of the HDF5 file in it, and of what both say
//! of each other.

use std::sync::Arc;

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::zip::Archive;
use weighbridge_core::{Error, ErrorKind, Result};

use super::read::{ASSETS, CONFIG, METADATA, SHARDS, WEIGHTS, member_source, parse, shard_names};
use super::{legacy, read};
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::{FormatReader as _, hdf5};

/// Every broken rule of `source`. Payloads are read.
///
/// # Errors
/// Only `Io`: what is wrong with the file is the answer.
pub(super) fn verify(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
) -> Result<Vec<Violation>> {
    let mut head = [0u8; 2];
    if source.len() >= 2 {
        source.read_at(0, &mut head)?;
    }
    let mut out = Vec::new();
    let errors = match head {
        [b'P', b'K'] => archive(source, options, &mut out),
        _ if source.name().ends_with(".json") => shards(source, options),
        _ => file(source, options, &mut out),
    };
    let errors = match errors {
        Ok(errors) => errors,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => vec![e],
    };
    let name = source.name();
    out.extend(
        errors
            .into_iter()
            .map(|e| Violation::from(&e.in_file(name))),
    );
    Ok(out)
}

/// An HDF5 file by itself.
fn file(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
    out: &mut Vec<Violation>,
) -> Result<Vec<Error>> {
    out.extend(hdf5::Hdf5.verify(Arc::clone(source), options)?);
    if !out.is_empty() {
        return Ok(Vec::new());
    }
    let model = hdf5::read::open(Arc::clone(source), &options.limits)?;
    if !legacy::is_legacy(&model) {
        return Ok(Vec::new());
    }
    let mut errors = legacy::check(&model);
    for (key, value) in &model.metadata {
        if let ("model_config" | "training_config", Some(text)) = (key.as_str(), value.as_str()) {
            errors.extend(parse(key, text.as_bytes(), &options.limits).err());
        }
    }
    Ok(errors)
}

fn archive(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
    out: &mut Vec<Violation>,
) -> Result<Vec<Error>> {
    let limits = &options.limits;
    let archive = Archive::open(Arc::clone(source), limits)?;
    let mut errors = archive.check_layout()?;
    for member in archive.members() {
        let known = matches!(member.name.as_str(), CONFIG | METADATA | WEIGHTS | SHARDS)
            || member.name.starts_with(ASSETS)
            || member.name.ends_with(".weights.h5");
        if !known {
            let message = format!("{} is no part of a Keras archive", member.name);
            errors.push(Error::malformed("keras.unknown-member", message).at(member.header_offset));
        }
        // Whoever unpacks it would write elsewhere.
        let steps = member.name.split(['/', '\\']);
        if steps.clone().any(|s| s == "..") || member.name.starts_with(['/', '\\']) {
            let message = format!("{} leads out of the archive", member.name);
            errors.push(Error::malformed("keras.member-path", message).at(member.header_offset));
        }
        match archive.stream(member, &mut |_| Ok(())) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    for name in [CONFIG, METADATA] {
        let Some(member) = archive.by_name(name) else {
            let message = format!("the archive has no {name}");
            errors.push(Error::malformed("keras.missing-member", message));
            continue;
        };
        match archive.read(member, limits.text_bytes) {
            Ok(bytes) => errors.extend(parse(name, &bytes, limits).err()),
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) if e.kind() == ErrorKind::Limit => errors.push(e),
            // Said above.
            Err(_) => {}
        }
    }
    if archive
        .by_name(WEIGHTS)
        .or_else(|| archive.by_name(SHARDS))
        .is_none()
    {
        let message = format!("the archive has no {WEIGHTS}");
        errors.push(Error::malformed("keras.missing-member", message));
    }
    let files = archive
        .members()
        .iter()
        .filter(|m| m.name.ends_with(".weights.h5"));
    for member in files {
        match member_source(&archive, member, limits) {
            Ok((inner, _)) => out.extend(hdf5::Hdf5.verify(inner, options)?),
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) if e.kind() == ErrorKind::Limit => errors.push(e),
            Err(_) => {}
        }
    }
    Ok(errors)
}

/// A list of files, and those.
fn shards(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Error>> {
    let bytes = source.read_vec(0..source.len().min(options.limits.text_bytes))?;
    let list = parse("the list of weights", &bytes, &options.limits)?;
    let names = shard_names(&list)?;
    let model = read::open(Arc::clone(source), options)?;
    let mut errors = Vec::new();
    let groups: std::collections::HashSet<&str> = model
        .tensors
        .iter()
        .filter_map(|t| t.name.rsplit_once('/').map(|(g, _)| g))
        .collect();
    let map = list.get("weight_map").and_then(|m| m.as_object());
    for key in map.into_iter().flat_map(|m| m.keys()) {
        if !groups.contains(key.trim_start_matches('/')) {
            let message = format!(
                "the list has {key}, which none of {} files has",
                names.len()
            );
            errors.push(Error::malformed("keras.missing-weight", message));
        }
    }
    Ok(errors)
}
