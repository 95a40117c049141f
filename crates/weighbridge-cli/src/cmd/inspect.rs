//! `weighbridge inspect`.

mod document;
mod graph;
mod human;
mod values;

use std::path::Path;

use weighbridge::{Model, OpenOptions, Result};

use crate::args::Inspect;
use crate::cmd::open_options;
use crate::exit::Exit;
use crate::output::{Output, error_document};
use crate::progress::Progress;

/// A model with what was asked for beyond its headers.
#[derive(Debug)]
struct Inspected<'a> {
    path: &'a Path,
    model: Model,
    /// Digest of each tensor with data, in tensor order; empty when not asked for.
    hashes: Vec<Option<[u8; 32]>>,
    /// Statistics of each tensor with data, likewise.
    stats: Vec<Option<weighbridge::stats::Stats>>,
}

pub(crate) fn run(args: &Inspect, out: &mut Output) -> Result<Exit> {
    let single = args.paths.len() == 1;
    let mut exit = Exit::Done;
    let mut documents = Vec::new();
    for (i, path) in args.paths.iter().enumerate() {
        match inspect(path, args, out) {
            Ok(x) if out.json && single => out.document(&document::Document::new(&x))?,
            Ok(x) if out.json => documents.push(document::Document::new(&x).to_json()),
            Ok(x) => {
                if i > 0 {
                    out.line("")?;
                }
                human::print(&x, args.tensors, out)?;
            }
            Err(e) if single => return Err(e),
            Err(e) => {
                exit = exit.and(Exit::Failed);
                if out.json {
                    documents.push(error_document(&e, Some(path)));
                } else {
                    out.explain(&e);
                }
            }
        }
    }
    if out.json && !single {
        out.document(&documents)?;
    }
    Ok(exit)
}

fn inspect<'a>(path: &'a Path, args: &Inspect, out: &Output) -> Result<Inspected<'a>> {
    let options = OpenOptions {
        constants: args.constants,
        ..open_options(&args.open, None)
    };
    let model = options.open(path)?;
    let bytes = model
        .tensors
        .iter()
        .fold(0u64, |n, t| n.saturating_add(t.byte_len()));
    let (mut hashes, mut stats) = (Vec::new(), Vec::new());
    if args.hash {
        let progress = Progress::new(out, "hashing", bytes);
        hashes = weighbridge::hash::sha256_all(&model, &|n| progress.add(n))?;
    }
    if args.stats {
        let progress = Progress::new(out, "reading", bytes);
        stats = weighbridge::stats::stats_all(&model, &|n| progress.add(n))?;
    }
    Ok(Inspected {
        path,
        model,
        hashes,
        stats,
    })
}
