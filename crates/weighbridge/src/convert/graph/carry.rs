//! An ONNX model as it is: the graph and every file that it points to.

use std::path::{Path, PathBuf};

use weighbridge_core::model::{Model, Warning};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, Result};

use super::{Content, Target, Work, folder};
use crate::convert::{ConvertOptions, Report};
use crate::output::same_file;

/// The file of the graph of an ONNX model.
pub(super) fn graph_file(model: &Model) -> Result<&Path> {
    let path = model.parts.first().map(|p| p.path.as_path());
    path.filter(|p| p.is_file())
        .ok_or_else(|| Error::parameter("convert.graph", "the ONNX model is no file of its own"))
}

/// Refuses what would change the tensors of a graph that stays as it is.
pub(super) fn refuse_changes_of_tensors(options: &ConvertOptions) -> Result<()> {
    let asked = [
        ("--dtype", options.dtype.is_some()),
        ("--shard-size", options.shard_size.is_some()),
        ("--select", !options.select.is_empty()),
        ("--drop", !options.drop.is_empty()),
        ("--strip-prefix", !options.strip_prefix.is_empty()),
        ("--rename", !options.rename.is_empty()),
        ("--names label", options.labels),
        ("--dequantize", options.dequantize),
        ("--densify", options.densify),
        ("--complex-as-real", options.complex_as_real),
        ("--dedupe", options.dedupe),
        ("--layout", options.layout.is_some()),
    ];
    let Some((flag, _)) = asked.iter().find(|(_, on)| *on) else {
        return Ok(());
    };
    let message = format!("{flag} would change tensors under a graph that stays as it is");
    Err(Error::parameter("convert.graph-tensors", message).help(
        "edit renames and moves weights, split and merge change the files they lie in, quantize \
         casts; a conversion of ONNX to ONNX copies the model",
    ))
}

/// Plans to copy the model to `out`.
pub(super) fn prepare(model: &Model, out: &Path, options: &ConvertOptions) -> Result<Work> {
    refuse_changes_of_tensors(options)?;
    let graph = graph_file(model)?;
    let missing = |w: &&Warning| w.rule == "onnx.external-missing";
    if let Some(w) = model.warnings.iter().find(missing) {
        return Err(Error::unsupported(w.rule, w.message.as_str())
            .in_file(graph.display().to_string())
            .help("fetch the file and put it beside the model, under this name"));
    }
    let home = folder(graph);
    let mut files = Vec::new();
    for part in model.parts.iter().skip(1) {
        let outside = || {
            let message = "a file of the model lies outside its folder";
            Error::parameter("convert.graph", message).in_file(part.path.display().to_string())
        };
        let place = part.path.strip_prefix(home).map_err(|_| outside())?;
        let path = folder(out).join(place);
        if same_file(&path, &part.path) {
            continue;
        }
        if path.exists() {
            let message = "the copy would take the place of another file";
            return Err(Error::parameter("convert.exists", message)
                .in_file(path.display().to_string())
                .help("name an OUT in another folder: the graph says how its data is called"));
        }
        files.push(copy(&part.path, path)?);
    }
    // Links to data in a folder of blobs are read through, and the graph itself may be one.
    files.push(copy(graph, out.to_path_buf())?);
    super::keep_shards(model, &[out.to_path_buf()])?;
    make_folders(&files, options)?;
    Ok(Work {
        files,
        graph: None,
        report: Report {
            output: Vec::new(),
            tensors: model.tensors.len() as u64,
            bytes: 0,
            changed: Vec::new(),
            lost: Vec::new(),
            warnings: model.warnings.clone(),
            seconds: 0.0,
        },
    })
}

fn copy(from: &Path, to: PathBuf) -> Result<Target> {
    let source = source::open_file(from, Backend::Pread)?;
    Ok(Target {
        path: to,
        bytes: source.len(),
        content: Content::Copy(source),
    })
}

/// Data may lie in folders within the model's.
fn make_folders(files: &[Target], options: &ConvertOptions) -> Result<()> {
    let Some(out) = files.last().filter(|_| !options.dry_run) else {
        return Ok(());
    };
    for f in files {
        let inside = folder(&f.path);
        if inside != folder(&out.path) && !inside.exists() {
            std::fs::create_dir_all(inside).map_err(|e| {
                Error::io("cannot make the folder", e).in_file(inside.display().to_string())
            })?;
        }
    }
    Ok(())
}
