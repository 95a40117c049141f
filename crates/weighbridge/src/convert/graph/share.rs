//! One file of weights for two ecosystems: a graph whose external data is a safetensors file.
//!
//! The data of a safetensors file lie one behind the other from the end of its header on, so that
//! each tensor has an offset in the file (`docs/ExternalData.md` of the ONNX repository asks for
//! no more).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Part, Tensor};
use weighbridge_core::{Error, Result};

use super::{Content, Target, Work, base, carry, folder, keep_shards, location};
use crate::convert::{ConvertOptions, Report, provenance};
use crate::format::onnx::place::{Lying, whole};
use crate::format::onnx::raw;
use crate::format::onnx::splice::Edits;
use crate::format::onnx::walk::Home;
use crate::format::onnx::write::{self, MOST_BYTES, Options, Original, Weights};
use crate::format::safetensors::Safetensors;
use crate::format::{FormatWriter as _, WriteOptions};
use crate::output::{raw_bytes, same_file};

/// What memory is mapped in.
const PAGE: u64 = 4096;

/// Where the shared file lies, and what the graph calls it.
pub(super) struct Place {
    path: PathBuf,
    location: Arc<str>,
}

impl Place {
    /// The shared file at `path`, for a graph at `out`.
    pub(super) fn new(path: &Path, out: &Path) -> Result<Self> {
        let bad = |message: &str, help: String| {
            let e = Error::parameter("convert.shared-weights", message);
            Err(e.in_file(path.display().to_string()).help(help))
        };
        if path.extension().is_none_or(|e| e != "safetensors") {
            let help = "the file of shared weights is safetensors: name it so".to_owned();
            return bad("the name does not end in .safetensors", help);
        }
        let (here, there) = (folder(path), folder(out));
        let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
        if real(here) != real(there) {
            let name = path.file_name().unwrap_or_default();
            let help = format!("name {}", there.join(name).display());
            return bad(
                "the shared weights have to lie in the folder of the graph",
                help,
            );
        }
        if same_file(path, out) || path.file_name() == out.file_name() {
            return bad(
                "graph and weights are one file",
                "name another OUT".to_owned(),
            );
        }
        // A link leads out of the folder, where readers of ONNX do not follow.
        if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
            return bad(
                "the file is a link, which readers of ONNX refuse as external data",
                "put the file itself into the folder".to_owned(),
            );
        }
        Ok(Self {
            path: path.to_owned(),
            location: location(path)?.into(),
        })
    }
}

/// Tensors that come to lie, or lie already, in the shared file.
pub(super) struct Sharing<'p> {
    place: &'p Place,
    /// Whether the input is that file: it stays as it is.
    points: bool,
    model: Model,
    /// What stands for each in the graph.
    raw: Vec<&'p raw::Tensor>,
}

impl<'p> Sharing<'p> {
    pub(super) fn new(place: &'p Place, input: &[Part]) -> Self {
        let points = input.iter().any(|p| same_file(&p.path, &place.path));
        Self {
            place,
            points,
            model: Model::new(FormatId::Onnx),
            raw: Vec::new(),
        }
    }

    /// Whether the file is there and stays as it is.
    pub(super) fn points(&self) -> bool {
        self.points
    }

    /// Shares the bytes of `tensor`, which `raw` stands for.
    pub(super) fn add(&mut self, raw: &'p raw::Tensor, tensor: Tensor) {
        self.raw.push(raw);
        self.model.tensors.push(tensor);
    }

    /// Says of every tensor where it lies; gives the file to write, if it is to be written, and how
    /// many they are.
    pub(super) fn finish(self, edits: &mut Edits) -> Result<(Option<Target>, u64)> {
        if self.model.tensors.is_empty() {
            let message = "none of the graph's weights can lie in a safetensors file";
            return Err(Error::unsupported("convert.shared-weights", message));
        }
        match self.points {
            true => self.point(edits).map(|n| (None, n)),
            false => self.write(edits).map(|(target, n)| (Some(target), n)),
        }
    }

    fn leave(&self, i: usize, offset: u64, edits: &mut Edits) -> Result<u64> {
        let (Some(t), Some(raw)) = (self.model.tensors.get(i), self.raw.get(i)) else {
            return Ok(0);
        };
        whole(raw)?;
        let lying = Lying {
            location: &self.place.location,
            offset,
            length: t.byte_len(),
        };
        lying.leave(edits, raw);
        Ok(t.byte_len())
    }

    fn point(&self, edits: &mut Edits) -> Result<u64> {
        for (i, t) in self.model.tensors.iter().enumerate() {
            let at = raw_bytes(t).and_then(|(source, at)| {
                let there = same_file(Path::new(source.name()), &self.place.path);
                let base = source.as_file().filter(|_| there)?.1;
                base.checked_add(at)
            });
            let Some(at) = at else {
                let message = format!("{} does not lie in this file as the graph wants it", t.name);
                return Err(Error::parameter("convert.shared-weights", message)
                    .in_file(self.place.path.display().to_string())
                    .help("to cast or transpose, name another file: it is written"));
            };
            self.leave(i, at, edits)?;
        }
        Ok(self.model.tensors.len() as u64)
    }

    fn write(self, edits: &mut Edits) -> Result<(Target, u64)> {
        let options = WriteOptions {
            align: PAGE,
            ..WriteOptions::default()
        };
        let plan = Safetensors.plan(&self.model, &options)?;
        let Some(file) = plan.files.first() else {
            let message = "there is nothing to write";
            return Err(Error::parameter("convert.shared-weights", message));
        };
        // What the format has no dtype for is not in the plan, and stays in the graph.
        let mut at = file.prepared.len() as u64;
        for &i in &file.tensors {
            at = at.saturating_add(self.leave(i, at, edits)?);
        }
        let count = file.tensors.len() as u64;
        let target = Target {
            path: self.place.path.clone(),
            bytes: file.bytes,
            content: Content::Safetensors(Box::new(self.model), plan),
        };
        Ok((target, count))
    }

    /// Has the file say which graph its weights are of.
    pub(super) fn describe(&mut self, base: &Original) {
        self.model.parts.clone_from(&base.model.parts);
        self.model.metadata.clone_from(&base.model.metadata);
        provenance::record(&mut self.model, &HashMap::new(), base.limits());
    }
}

/// Plans to take the weights of an ONNX model into the safetensors file `file`, with the graph at
/// `out` pointing into it.
pub(super) fn prepare(
    model: Model,
    file: &Path,
    out: &Path,
    options: &ConvertOptions,
) -> Result<Work> {
    carry::refuse_changes_of_tensors(options)?;
    let place = Place::new(file, out)?;
    let base = base::open(carry::graph_file(&model)?, false, &options.limits)?;
    let slots = base::slots(&base, false)?;
    let mut sharing = Sharing::new(&place, &[]);
    for slot in &slots {
        if let (Home::Initializer(raw), true) = (slot.home, slot.shared()) {
            sharing.add(raw, slot.tensor.clone());
        }
    }
    sharing.describe(&base);
    let mut edits = Edits::new();
    let (file, tensors) = sharing.finish(&mut edits)?;
    let files: Vec<Target> = file.into_iter().collect();
    keep_shards(&base.model, &[out.to_path_buf()])?;
    let graph = plan(&base, edits, out, &LEFT)?;
    let beside = files.iter().map(|f| f.path.clone());
    let written: Vec<_> = beside.chain(graph.paths()).collect();
    keep_shards(&base.model, &written)?;
    Ok(Work {
        files,
        graph: Some(graph),
        report: Report {
            output: Vec::new(),
            tensors,
            bytes: 0,
            changed: Vec::new(),
            lost: Vec::new(),
            warnings: model.warnings,
            seconds: 0.0,
        },
    })
}

/// What does not lie in the shared file is in the graph.
pub(super) const LEFT: Options = Options {
    weights: Weights::Inline,
    otherwise: None,
    most_bytes: MOST_BYTES,
};

/// Plans to write `base` with `edits` to `out`.
pub(super) fn plan(
    base: &Original,
    edits: Edits,
    out: &Path,
    how: &Options,
) -> Result<write::Plan> {
    write::plan(base, edits, out, how).map_err(|e| match e.rule() {
        "onnx.over-2gib" => {
            let message =
                "the graph would be too long for others even without its large initializers";
            Error::limit("onnx.too-large", format!("{message}: {}", e.message()))
                .in_file(base.source.name())
        }
        _ => e,
    })
}
