//! Checking checkpoints: every block, every entry, every byte of payload.

use std::sync::Arc;

use weighbridge_core::model::{Chunks, Model};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::sstable::Table;
use weighbridge_core::{Error, ErrorKind, Result};

use super::index::{self, Header};
use super::read::{Files, beside};
use super::{TfCheckpoint, is_v1};
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

/// How many violations are listed.
const MOST: usize = 1000;

/// What was found so far.
struct Found {
    violations: Vec<Violation>,
    file: String,
}

impl Found {
    /// Lists `e`, unless the system refused something.
    fn note(&mut self, e: Error) -> Result<()> {
        if e.kind() == ErrorKind::Io {
            return Err(e);
        }
        let v = Violation::from(&e.in_file(self.file.as_str()));
        if self.violations.len() < MOST && !self.violations.contains(&v) {
            self.violations.push(v);
        }
        Ok(())
    }
}

/// See [`super::TfCheckpoint`].
pub(super) fn verify(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
    let mut found = Found {
        violations: Vec::new(),
        file: source.name().to_owned(),
    };
    let opened = super::files::refuse_other(&source)
        .and_then(|()| Table::open(Arc::clone(&source), &options.limits))
        .and_then(|t| Ok((is_v1(&t)?, t)));
    match opened {
        Ok((v1, table)) => {
            blocks(&table, v1, options, &mut found)?;
            match table.rest() {
                Ok(rest) => {
                    for r in rest {
                        let message = format!("{} bytes belong to no block", r.end - r.start);
                        let e = Error::malformed("sstable.unused-bytes", message);
                        found.note(e.span(r.start, r.end - r.start))?;
                    }
                }
                Err(e) => found.note(e)?,
            }
        }
        Err(e) => found.note(e)?,
    }
    match TfCheckpoint.open(source, options) {
        Ok(model) => payload(&model, &mut found)?,
        // Named already, one by one.
        Err(e) if !found.violations.is_empty() && e.kind() != ErrorKind::Io => {}
        Err(e) => found.note(e)?,
    }
    Ok(found.violations)
}

/// Every block and, of version 2, every entry by itself.
fn blocks(table: &Table, v1: bool, options: &OpenOptions, found: &mut Found) -> Result<()> {
    let (mut last, mut budget) = (None, table.budget());
    let open = beside(options);
    let prefix = index::prefix(table.source().as_ref()).to_owned();
    let mut header: Option<Header> = None;
    let mut files: Option<Files<'_>> = None;
    for n in 0..table.blocks() {
        let loaded = match table.block(n) {
            Ok(loaded) => loaded,
            Err(e) => {
                found.note(e)?;
                continue;
            }
        };
        let walked = table.entries(n, &loaded, &mut last, &mut budget, &mut |e| {
            if v1 {
                return Ok(());
            }
            if e.key().is_empty() {
                match index::header(e) {
                    Ok(h) => {
                        header = Some(h);
                        files = Some(Files::new(h, &prefix, &open));
                    }
                    Err(e) => found.note(e)?,
                }
                return Ok(());
            }
            let name = String::from_utf8_lossy(e.key()).into_owned();
            let entry = match index::entry(e) {
                Ok(entry) => entry,
                Err(e) => return found.note(e.within(name)),
            };
            if entry.slices.is_empty()
                && let Some(files) = &mut files
                && let Err(e) = files.tensor(&name, &entry, e.at())
            {
                found.note(e.within(name))?;
            }
            Ok(())
        });
        if let Err(e) = walked {
            found.note(e)?;
        }
    }
    Ok(())
}

/// Every value, against its checksum.
fn payload(model: &Model, found: &mut Found) -> Result<()> {
    let mut chunks = Chunks::new();
    for t in model.tensors.iter().filter(|t| t.has_data()) {
        if found.violations.len() >= MOST {
            break;
        }
        match t.stream(&mut chunks, &mut |_| Ok(())) {
            Ok(()) => {}
            Err(e) => found.note(e)?,
        }
    }
    for w in &model.warnings {
        let told = w.rule == "tensorflow.missing-data";
        if !told && w.rule.starts_with("tensorflow.") {
            let e = Error::malformed(w.rule, w.message.clone());
            found.note(e)?;
        }
    }
    Ok(())
}
