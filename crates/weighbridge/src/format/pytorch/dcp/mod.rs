//! Checkpoints of `torch.distributed.checkpoint`: a `.metadata` pickle and one `__R_I.distcp` file
//! or more for each rank, in which every item is a complete `torch.save` archive of its own.
//!
//! Reference: `torch/distributed/checkpoint/filesystem.py`.

mod metadata;
mod nest;

use std::cell::Cell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{
    Assembly, DType, FormatId, Layout, Model, Part, Piece, Shape, Tensor, TensorSource, Value,
    Warning,
};
use weighbridge_core::source::{self, ByteSource, Window};
use weighbridge_core::{Error, ErrorKind, Limits, Result, pickle};

use super::{folder, read, verify};
use crate::OpenOptions;
use crate::check::Violation;
use metadata::{Chunk, Kind, Metadata, Place};
use nest::{Nest, Rebase};

/// Bytes of an object that is no torch file are kept as they are up to this size.
const RAW_BYTES: u64 = 1 << 20;

/// What one item's structure may take at least beyond its proportion, where the entries share
/// what one file may.
const LEAST_SPARE: u64 = 4 << 10;

/// Longest name of an entry that its tensors' names begin with, in bytes.
const LONGEST_PREFIX: usize = 4 << 10;

/// How many times over the items may lie in their files.
const OVERLAP: u64 = 4;

/// Whether the folder `dir` holds such a checkpoint.
pub(crate) fn is_checkpoint(dir: &Path) -> bool {
    metadata_path(dir).is_some()
}

/// The metadata file: `.metadata`, or that of rank 0 where each rank saved on its own.
fn metadata_path(dir: &Path) -> Option<PathBuf> {
    [".metadata", "__0.metadata"]
        .iter()
        .map(|n| dir.join(n))
        .find(|p| p.is_file())
}

/// Opens the checkpoint in the folder `dir`: headers only.
///
/// # Errors
/// `Malformed` or `Truncated` (`dcp.*`) for metadata that does not fit the files, and what the
/// items' own reader finds wrong.
pub(crate) fn open(dir: &Path, options: &OpenOptions) -> Result<Model> {
    let (meta, path, bytes) = load(dir, options)?;
    let shown = path.display().to_string();
    let files = Files::open(dir, &meta, options).map_err(|e| e.in_file(shown.as_str()))?;
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("dcp");
    model.version.clone_from(&meta.version);
    model.parts.push(Part { path, bytes });
    model.parts.extend(files.parts());
    let mut build = Build {
        model,
        names: HashSet::new(),
        root: Nest::dict(),
    };
    let mut each = options.clone();
    each.limits.spare_bytes =
        (options.limits.spare_bytes / meta.entries.len().max(1) as u64).max(LEAST_SPARE);
    for entry in &meta.entries {
        build
            .entry(entry, &files, &each)
            .map_err(|e| e.within(format!("entry {:?}", entry.name)))
            .map_err(|e| e.in_file(shown.as_str()))?;
    }
    let mut model = build.model;
    let mut holes = meta.entries.len();
    model.structure = Some(
        build
            .root
            .finish(&mut holes)
            .map_err(|e| e.in_file(shown.as_str()))?,
    );
    folder::check_bounds(&model, options)?;
    Ok(model)
}

fn load(dir: &Path, options: &OpenOptions) -> Result<(Metadata, PathBuf, u64)> {
    let Some(path) = metadata_path(dir) else {
        return Err(Error::malformed(
            "dcp.no-metadata",
            "the folder has .distcp files and no .metadata, which says what they hold",
        )
        .in_file(dir.display().to_string())
        .help("torch writes .metadata last: the save did not finish, or the file was not copied"));
    };
    if path.ends_with("__0.metadata") && dir.join("__1.metadata").is_file() {
        return Err(Error::unsupported(
            "dcp.uncoordinated",
            "the ranks saved without coordination: each has a .metadata file of its own",
        )
        .in_file(dir.display().to_string()));
    }
    let source = source::open_file(&path, options.backend)?;
    let shown = path.display().to_string();
    let (data, _) = read::load_pickle(source.as_ref(), 0, &options.limits)
        .map_err(|e| e.in_file(shown.as_str()))?;
    let mut trace = pickle::run(&data, &options.limits);
    if let Some(e) = trace.error.take() {
        return Err(e.in_file(shown));
    }
    let meta = metadata::read(&trace, &options.limits).map_err(|e| e.in_file(shown.as_str()))?;
    Ok((meta, path, source.len()))
}

/// The item files of a checkpoint.
struct Files {
    sources: Vec<Arc<dyn ByteSource>>,
    paths: Vec<PathBuf>,
    /// How many bytes of items may still be opened: each is parsed, and nothing else keeps a
    /// million entries from naming the same one.
    left: Cell<u64>,
}

impl Files {
    fn open(dir: &Path, meta: &Metadata, options: &OpenOptions) -> Result<Self> {
        let paths: Vec<PathBuf> = meta.files.iter().map(|f| dir.join(f)).collect();
        let gone: Vec<&str> = meta
            .files
            .iter()
            .zip(&paths)
            .filter(|(_, p)| !p.is_file())
            .map(|(f, _)| f.as_str())
            .collect();
        if !gone.is_empty() {
            let more = gone.len().saturating_sub(8);
            let shown = gone.get(..gone.len().min(8)).unwrap_or_default().join(", ");
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            return Err(Error::malformed(
                "dcp.missing-file",
                format!(
                    "the checkpoint has {} files, missing are: {shown}{more}",
                    paths.len()
                ),
            )
            .help("copy the files of every rank into the folder"));
        }
        let sources: Vec<_> = paths
            .iter()
            .map(|p| source::open_file(p, options.backend))
            .collect::<Result<_>>()?;
        let bytes = sources.iter().fold(0u64, |n, s| n.saturating_add(s.len()));
        let left = Cell::new(bytes.saturating_mul(OVERLAP));
        Ok(Self {
            sources,
            paths,
            left,
        })
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        self.paths.iter().zip(&self.sources).map(|(path, s)| Part {
            path: path.clone(),
            bytes: s.len(),
        })
    }

    /// The bytes of one item.
    fn item(&self, place: Place) -> Result<Arc<dyn ByteSource>> {
        let Some(source) = self.sources.get(place.file) else {
            return Err(Error::malformed("dcp.missing-item", "the item has no file"));
        };
        let name = source.name();
        let end = place.offset.checked_add(place.len);
        let Some(end) = end.filter(|&e| e <= source.len()) else {
            return Err(Error::truncated(
                "dcp.item-out-of-file",
                format!(
                    "an item should have {} bytes from {}, the file has {}",
                    place.len,
                    place.offset,
                    source.len()
                ),
            )
            .span(place.offset, place.len)
            .in_file(name));
        };
        let left = self.left.get().checked_sub(place.len).ok_or_else(|| {
            Error::malformed(
                "dcp.overlap",
                "the items lie over each other: together they are far longer than their files",
            )
            .span(place.offset, place.len)
            .in_file(name)
        })?;
        self.left.set(left);
        let shown = format!("{name} (item at byte {})", place.offset);
        let window = Window::new(Arc::clone(source), place.offset..end, shown)?;
        Ok(Arc::new(window))
    }
}

struct Build {
    model: Model,
    names: HashSet<String>,
    root: Nest,
}

impl Build {
    fn entry(
        &mut self,
        entry: &metadata::Entry,
        files: &Files,
        options: &OpenOptions,
    ) -> Result<()> {
        let value = match &entry.kind {
            Kind::Object(place) => self.object(&entry.name, files.item(*place)?, options)?,
            Kind::Tensor {
                dtype,
                shape,
                chunks,
            } => {
                let mut t = tensor(*dtype, shape, chunks, files, options)?;
                t.name.clone_from(&entry.name);
                self.push(t)?
            }
        };
        self.root.set(&entry.path, value)
    }

    /// Adds a tensor under its name, or the next free one.
    fn push(&mut self, mut t: Tensor) -> Result<Value> {
        let base = t.name.clone();
        let mut n = 2;
        while !self.names.insert(t.name.clone()) {
            t.name = format!("{base}#{n}");
            n += 1;
        }
        if n > 2 {
            self.model.warnings.push(Warning::new(
                "names.collision",
                format!(
                    "two tensors flatten to one name; the later one is called {}",
                    t.name
                ),
            ));
        }
        let name = t.name.clone();
        self.model.tensors.push(t);
        Ok(Value::Tensor(name))
    }

    /// A saved Python object; tensors inside it join the model under its name.
    fn object(
        &mut self,
        name: &str,
        item: Arc<dyn ByteSource>,
        options: &OpenOptions,
    ) -> Result<Value> {
        let head = item.read_vec(0..item.len().min(4))?;
        let torch = head.starts_with(b"PK") || matches!(head.as_slice(), [0x80, 0..=5, ..]);
        if !torch {
            // A planner of the user's own may write what it likes.
            Limits::check(item.len(), RAW_BYTES, "dcp.raw-bytes", "bytes of an object")?;
            return Ok(Value::Bytes(item.read_vec(0..item.len())?));
        }
        let inner = read::open(item, options)?;
        if name.len() > LONGEST_PREFIX && inner.tensors.len() > 1 {
            return Err(Error::limit(
                "pytorch.long-name",
                "an entry with several tensors inside has a name that passes 4 KiB",
            ));
        }
        let mut structure = inner.structure.unwrap_or(Value::Null);
        let rebase = Rebase {
            prefix: name,
            root: matches!(structure, Value::Tensor(_)),
        };
        rebase.value(&mut structure);
        for mut t in inner.tensors {
            t.name = rebase.name(&t.name);
            if self.names.contains(&t.name) {
                return Err(Error::malformed(
                    "dcp.bad-path",
                    format!("a tensor inside has the name of another entry, {}", t.name),
                ));
            }
            self.push(t)?;
        }
        let within = |(what, why): (String, String)| (rebase.name(&what), why);
        self.model
            .omitted
            .extend(inner.omitted.into_iter().map(within));
        self.model.warnings.extend(inner.warnings);
        Ok(structure)
    }
}

/// The tensor that the chunks make up.
fn tensor(
    dtype: DType,
    shape: &Shape,
    chunks: &[Chunk],
    files: &Files,
    options: &OpenOptions,
) -> Result<Tensor> {
    let mut whole = shape.clone();
    if dtype == DType::F4 {
        // torch counts pairs of F4 values.
        if let Some(d) = whole.last_mut() {
            *d = d.saturating_mul(2);
        }
    }
    if dtype.size_of(&whole).is_none_or(|b| b > i64::MAX as u64) {
        return Err(Error::malformed(
            "pytorch.shape-overflow",
            format!("a tensor of shape {shape:?} has no size in 64 bits"),
        ));
    }
    let whole_chunk = |c: &Chunk| c.shape == *shape && c.start.iter().all(|&s| s == 0);
    if let [one] = chunks
        && one.start.len() == shape.len()
        && whole_chunk(one)
    {
        return piece(dtype, &whole, one, files, options);
    }
    if dtype.bytes().is_none() {
        return Err(Error::unsupported(
            "dcp.packed-chunks",
            format!("a {dtype} tensor in several chunks"),
        ));
    }
    // The plan is checked before any item is opened.
    let mut assembly = Assembly {
        shape: shape.clone(),
        pieces: chunks
            .iter()
            .map(|c| Piece {
                start: c.start.clone(),
                shape: c.shape.clone(),
                source: TensorSource::Absent,
            })
            .collect(),
    };
    assembly.check()?;
    for (p, c) in assembly.pieces.iter_mut().zip(chunks) {
        p.source = piece(dtype, &c.shape, c, files, options)?.source;
    }
    // Empty boxes have nothing to give.
    assembly.pieces.retain(|p| !p.shape.contains(&0));
    let source = TensorSource::Assembled(Arc::new(assembly));
    Ok(Tensor::new("", dtype, shape, source))
}

/// The tensor that one item holds, which must be the box the metadata speaks of.
fn piece(
    dtype: DType,
    shape: &Shape,
    chunk: &Chunk,
    files: &Files,
    options: &OpenOptions,
) -> Result<Tensor> {
    let item = files.item(chunk.place)?;
    let shown = item.name().to_owned();
    let head = item.read_vec(0..item.len().min(9))?;
    if head.get(8) == Some(&b'{') {
        return Err(Error::unsupported(
            "dcp.safetensors-items",
            "the items are stored as safetensors, not by torch.save",
        )
        .in_file(shown)
        .help("open the .safetensors files of the folder"));
    }
    let mut model = read::open(item, options)?;
    let (Some(mut t), true) = (model.tensors.pop(), model.tensors.is_empty()) else {
        return Err(Error::malformed(
            "dcp.item-no-tensor",
            "the item should hold one tensor, it holds none or several",
        )
        .in_file(shown));
    };
    let dense = matches!(t.source, TensorSource::View(_) | TensorSource::Strided(_));
    if t.layout != Layout::Strided || !dense {
        return Err(Error::unsupported(
            "dcp.layout",
            format!(
                "the item is a {} tensor without plain values",
                t.layout.as_str()
            ),
        )
        .in_file(shown));
    }
    if t.dtype != dtype || t.shape != *shape {
        return Err(Error::malformed(
            "dcp.item-mismatch",
            format!(
                "the metadata speaks of {dtype} {:?}, the item holds {} {:?}",
                shape.as_slice(),
                t.dtype,
                t.shape.as_slice()
            ),
        )
        .in_file(shown));
    }
    let conj = matches!(&t.source, TensorSource::Strided(s) if s.conj || s.neg);
    if conj {
        return Err(Error::unsupported(
            "dcp.lazy-signs",
            "the item is a lazily conjugated or negated view",
        )
        .in_file(shown));
    }
    t.extra = None;
    Ok(t)
}

/// Every rule that the checkpoint in `dir` breaks: the metadata, and each item as the archive it
/// is.
///
/// # Errors
/// Only `Io`.
pub(crate) fn check(dir: &Path, options: &OpenOptions) -> Result<Vec<Violation>> {
    let mut out = Vec::new();
    let mut note = |e: Error| -> Result<()> {
        if e.kind() == ErrorKind::Io {
            return Err(e);
        }
        out.push(Violation::from(&e));
        Ok(())
    };
    let meta = match load(dir, options) {
        Ok((meta, ..)) => meta,
        Err(e) => {
            note(e)?;
            return Ok(out);
        }
    };
    if let Err(e) = open(dir, options) {
        note(e)?;
    }
    let Ok(files) = Files::open(dir, &meta, options) else {
        return Ok(out);
    };
    let mut seen = HashSet::new();
    for entry in &meta.entries {
        let places: Vec<Place> = match &entry.kind {
            Kind::Object(p) => vec![*p],
            Kind::Tensor { chunks, .. } => chunks.iter().map(|c| c.place).collect(),
        };
        for place in places {
            // Items that end outside their file have been named by the opening above.
            if !seen.insert((place.file, place.offset)) {
                continue;
            }
            if let Ok(item) = files.item(place) {
                let raw = matches!(entry.kind, Kind::Object(_))
                    && !item.read_vec(0..item.len().min(2))?.starts_with(b"PK");
                if !raw {
                    out.extend(verify::verify(item, options)?);
                }
            }
        }
    }
    let mut seen = HashSet::new();
    out.retain(|v| seen.insert((v.rule, v.place.clone(), v.offset, v.message.clone())));
    Ok(out)
}
