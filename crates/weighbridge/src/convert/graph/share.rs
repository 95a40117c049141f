//! One file of weights for two ecosystems: a graph whose external data is a safetensors file.
//!
//! The data of a safetensors file lie one behind the other from the end of its header on, so that
//! each tensor has an offset in the file (`docs/ExternalData.md` of the ONNX repository asks for
//! no more).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Part, Tensor};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::base::{Base, Fate};
use super::{Content, Target, Work, carry, folder, keep_shards, location};
use crate::convert::{ConvertOptions, Report, provenance};
use crate::format::onnx::homes::Home;
use crate::format::onnx::splice::Edits;
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
    spans: Vec<Span>,
}

impl<'p> Sharing<'p> {
    pub(super) fn new(place: &'p Place, input: &[Part]) -> Self {
        let points = input.iter().any(|p| same_file(&p.path, &place.path));
        Self {
            place,
            points,
            model: Model::new(FormatId::Onnx),
            spans: Vec::new(),
        }
    }

    /// Whether the file is there and stays as it is.
    pub(super) fn points(&self) -> bool {
        self.points
    }

    /// Shares the bytes of `tensor`, which the `TensorProto` at `span` stands for.
    pub(super) fn add(&mut self, span: Span, tensor: Tensor) {
        self.spans.push(span);
        self.model.tensors.push(tensor);
    }

    /// Says of every tensor where it lies; gives the file to write, if it is to be written.
    pub(super) fn finish(mut self, fates: &mut HashMap<Span, Fate>) -> Result<Option<Target>> {
        if self.model.tensors.is_empty() {
            let message = "none of the graph's weights can lie in a safetensors file";
            return Err(Error::unsupported("convert.shared-weights", message));
        }
        match self.points {
            true => self.point(fates).map(|()| None),
            false => self.write(fates).map(Some),
        }
    }

    fn outside(&self, offset: u64, length: u64) -> Fate {
        Fate::Outside {
            location: Arc::clone(&self.place.location),
            offset,
            length,
        }
    }

    fn point(&mut self, fates: &mut HashMap<Span, Fate>) -> Result<()> {
        for (t, span) in self.model.tensors.iter().zip(&self.spans) {
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
            fates.insert(*span, self.outside(at, t.byte_len()));
        }
        Ok(())
    }

    fn write(self, fates: &mut HashMap<Span, Fate>) -> Result<Target> {
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
            if let (Some(t), Some(span)) = (self.model.tensors.get(i), self.spans.get(i)) {
                let length = t.byte_len();
                fates.insert(*span, self.outside(at, length));
                at = at.saturating_add(length);
            }
        }
        Ok(Target {
            path: self.place.path.clone(),
            bytes: file.bytes,
            content: Content::Safetensors(Box::new(self.model), plan),
        })
    }

    /// Has the file say which graph its weights are of.
    pub(super) fn describe(&mut self, base: &Base) {
        self.model.parts.clone_from(&base.model.parts);
        self.model.metadata.clone_from(&base.model.metadata);
        provenance::record(&mut self.model, &HashMap::new(), &base.limits);
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
    let base = Base::open(carry::graph_file(&model)?, false, &options.limits)?;
    let mut sharing = Sharing::new(&place, &[]);
    let mut fates = HashMap::new();
    for slot in base.slots(false)? {
        if let (Home::Initializer(raw), true) = (slot.home, slot.shared()) {
            sharing.add(raw.span, slot.tensor.clone());
        }
    }
    sharing.describe(&base);
    let mut files: Vec<Target> = sharing.finish(&mut fates)?.into_iter().collect();
    let tensors = fates.len() as u64;
    let spliced = base.readable(&fates, Edits::new())?;
    files.push(Target {
        path: out.to_path_buf(),
        bytes: spliced.len(),
        content: Content::Splice(Arc::clone(&base.source), spliced),
    });
    let written: Vec<_> = files.iter().map(|f| f.path.clone()).collect();
    keep_shards(&base.model, &written)?;
    Ok(Work {
        files,
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
