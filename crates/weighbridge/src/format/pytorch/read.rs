//! Which container a file is, and the way from a pickle to a model.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Part, Storage, Tensor, Value, Warning};
use weighbridge_core::pickle::{self, NoArrays, Trace};
use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::wire::zip::Archive;
use weighbridge_core::{Error, ErrorKind, Limits, Result};

use super::arrays::Arrays;
use super::lower::{Lower, Lowered, NESTED_PER_BYTE};
use super::storages::{StorageRequest, Storages};
use super::{archive, legacy, tar};
use crate::OpenOptions;
use crate::format::joblib::{self, Loader};

/// How deep torch files may lie in the byte strings of each other.
const NESTED_FILES: u32 = 3;

/// The legacy magic number 0x1950a86a20f9469cfc6c as protocol 2 pickles it
/// (`torch/serialization.py`, `MAGIC_NUMBER`). Other protocols differ in the first bytes.
pub(crate) const LEGACY_MAGIC: [u8; 10] =
    [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Opens a PyTorch file of any container.
///
/// # Errors
/// What the container's reader finds wrong.
pub fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let name = source.name().to_owned();
    open_nested(source, options, 0).map_err(|e| e.in_file(name))
}

pub(super) fn open_nested(
    source: Arc<dyn ByteSource>,
    options: &OpenOptions,
    depth: u32,
) -> Result<Model> {
    if depth > NESTED_FILES {
        return Err(Error::limit(
            "pytorch.nested-files",
            "torch files lie in each other too deep",
        ));
    }
    let mut head = vec![0u8; 512.min(usize::try_from(source.len()).unwrap_or(512))];
    source.read_at(0, &mut head)?;
    let bytes = source.len();
    let mut model = if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        archive::open(Arc::clone(&source), options, depth)?
    } else if tar::sniff(&head) {
        tar::open(Arc::clone(&source), options)?
    } else if legacy::sniff(&head) {
        legacy::open(Arc::clone(&source), options)?
    } else if let Some(unpacked) = joblib::unpacked(&head, source.as_ref(), &options.limits)? {
        let mut model = open_bare(&unpacked, options, depth)?;
        if model.format == FormatId::Pickle {
            model.container = Some("joblib");
        }
        model
    } else {
        match open_bare(&source, options, depth) {
            Err(e) if e.rule() == "pickle.unknown-opcode" && !looks_like_pickle(&head) => {
                // Something was put before a zip, or this is no torch file at all.
                match Archive::open(Arc::clone(&source), &options.limits) {
                    Ok(_) => archive::open(Arc::clone(&source), options, depth)?,
                    Err(_) => return Err(e),
                }
            }
            other => other?,
        }
    };
    if model.parts.is_empty() {
        model.parts.push(Part {
            path: source.name().into(),
            bytes,
        });
    }
    Ok(model)
}

fn looks_like_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 0..=5, ..])
}

/// Whether a zip's members are those of one of torch's archives.
pub fn is_torch_zip(archive: &Archive) -> bool {
    archive::kind(archive).is_some()
}

/// Whether a zip is a TorchScript archive, whose pickles name classes of its own code.
pub fn is_torchscript_zip(archive: &Archive) -> bool {
    matches!(
        archive::kind(archive),
        Some(archive::Kind::TorchScript { .. })
    )
}

/// A pickle with nothing around it: plain Python data, tensors that carry their storages as byte
/// strings, or joblib's stream with arrays between the opcodes.
fn open_bare(source: &Arc<dyn ByteSource>, options: &OpenOptions, depth: u32) -> Result<Model> {
    let limits = &options.limits;
    let loaded = joblib::load(source.as_ref(), 0, limits)?;
    let mut loader = Loader::new(&loaded.holes);
    let trace = pickle::run_with(&loaded.data, limits, &mut loader);
    let Loader { met, files, .. } = loader;
    let named = source.name().to_ascii_lowercase().ends_with(".joblib");
    let joblib = named || !met.is_empty() || !files.is_empty();
    // Estimators are arrays with something around them.
    let sklearn = |m: &str| m == "sklearn" || m.starts_with("sklearn.");
    let arrays = joblib || trace.globals.iter().any(|g| sklearn(&g.module));
    let arrays = arrays.then(|| {
        Rc::new(Arrays::new(
            Arc::clone(source),
            0,
            loaded.holes.clone(),
            met,
        ))
    });
    let mut none = NoStorages;
    let low = lower_with(
        trace,
        &mut none,
        options,
        source.len(),
        depth,
        arrays.clone(),
    )?;
    let torch = names_torch(&low.structure.0) || arrays.is_none() && !low.tensors.is_empty();
    let mut model = Model::new(if torch {
        FormatId::PyTorch
    } else {
        FormatId::Pickle
    });
    model.container = Some(if joblib { "joblib" } else { "pickle" });
    fill(&mut model, low);
    if let Some(arrays) = arrays {
        model.warnings.extend(arrays.warnings());
    }
    for (_, path) in files {
        let message =
            format!("an array lies in the file {path:?} beside this one, which is not opened");
        model
            .warnings
            .push(Warning::new("joblib.outside-array", message));
    }
    if loaded.end < source.len() {
        model.warnings.push(Warning {
            rule: "pickle.trailing-data",
            message: format!(
                "{} bytes follow the first pickle",
                source.len() - loaded.end
            ),
            offset: Some(loaded.end),
        });
    }
    Ok(model)
}

/// What a pickle of NumPy arrays holds, with every name under `name`: the arrays as tensors, and
/// what they lie in.
pub(crate) struct Objects {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) value: Value,
    pub(crate) warnings: Vec<Warning>,
    /// Position behind the pickle.
    pub(crate) end: u64,
}

/// Reads the pickle of an array of objects at `at` of `source`.
///
/// # Errors
/// What the pickle machine finds wrong, with offsets counted in the source.
pub(crate) fn objects(
    source: &Arc<dyn ByteSource>,
    at: u64,
    name: &str,
    options: &OpenOptions,
) -> Result<Objects> {
    let limits = &options.limits;
    let loaded = joblib::load(source.as_ref(), at, limits)?;
    let trace = pickle::run_with(&loaded.data, limits, &mut NoArrays);
    let holes = joblib::Holes::default();
    let arrays = Rc::new(Arrays::new(Arc::clone(source), at, holes, Vec::new()));
    let mut none = NoStorages;
    let nested = |_: &[u8]| -> Result<Vec<Tensor>> { Ok(Vec::new()) };
    if let Some(e) = trace.error {
        return Err(e.shifted(at));
    }
    let lower = Lower::new(&trace, &mut none, limits, source.len(), &nested);
    let low = lower.with_arrays(Rc::clone(&arrays)).under(name).run()?;
    let mut model = Model::new(FormatId::Numpy);
    fill(&mut model, low);
    model.warnings.extend(arrays.warnings());
    Ok(Objects {
        tensors: model.tensors,
        value: model.structure.unwrap_or(Value::Null),
        warnings: model.warnings,
        end: at.saturating_add(loaded.end),
    })
}

fn names_torch(v: &Value) -> bool {
    match v {
        Value::Object(o) => o.class.starts_with("torch."),
        Value::Dict(d) => d.entries.iter().any(|(_, v)| names_torch(v)),
        _ => false,
    }
}

/// A container without storages.
pub(super) struct NoStorages;

impl Storages for NoStorages {
    fn find(&mut self, request: &StorageRequest) -> Result<Arc<Storage>> {
        Err(Error::malformed(
            "pytorch.missing-storage",
            format!(
                "storage {} is named, and there is no storage beside this pickle",
                request.key
            ),
        ))
    }
}

/// Lowers a finished trace.
pub(super) fn lower(
    trace: Trace<'_>,
    storages: &mut dyn Storages,
    options: &OpenOptions,
    file_bytes: u64,
    depth: u32,
) -> Result<Lowered> {
    lower_with(trace, storages, options, file_bytes, depth, None)
}

/// The same, with NumPy arrays made tensors where `arrays` are given.
fn lower_with(
    mut trace: Trace<'_>,
    storages: &mut dyn Storages,
    options: &OpenOptions,
    file_bytes: u64,
    depth: u32,
    arrays: Option<Rc<Arrays>>,
) -> Result<Lowered> {
    if let Some(e) = trace.error.take() {
        return Err(e);
    }
    let nested = |bytes: &[u8]| -> Result<Vec<Tensor>> {
        let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(bytes, "storage in a pickle"));
        let mut options = options.clone();
        options.limits.spare_bytes = NESTED_PER_BYTE.saturating_mul(bytes.len() as u64);
        Ok(open_nested(source, &options, depth + 1)?.tensors)
    };
    let lower = Lower::new(&trace, storages, &options.limits, file_bytes, &nested);
    match arrays {
        Some(arrays) => lower.with_arrays(arrays).run(),
        None => lower.run(),
    }
}

/// Moves what a pickle gave into the model.
pub(super) fn fill(model: &mut Model, low: Lowered) {
    model.tensors = low.tensors;
    model.structure = Some(low.structure.0);
    model.omitted.extend(low.omitted);
    for name in low.collisions {
        model.warnings.push(Warning::new(
            "names.collision",
            format!("two tensors flatten to one name; the later one is called {name}"),
        ));
    }
}

/// Reads the pickle that begins at `at`, in growing steps, since only its opcodes say where it
/// ends. Gives its bytes and its length.
///
/// # Errors
/// What the pickle machine finds wrong, with offsets counted in the file.
pub(crate) fn load_pickle<'s>(
    source: &'s dyn ByteSource,
    at: u64,
    limits: &Limits,
) -> Result<(Cow<'s, [u8]>, usize)> {
    let left = source.len().saturating_sub(at);
    // A tar or legacy file has thousands of short ones.
    let mut step = 8u64 << 10;
    loop {
        let n = step.min(left);
        Limits::check(
            n,
            limits.pickle_bytes,
            "pickle.too-large",
            "bytes of a pickle",
        )?;
        // What lies in memory already is not copied.
        let data = match source.slice(at..at + n) {
            Some(s) => Cow::Borrowed(s),
            None => Cow::Owned(source.read_vec(at..at + n)?),
        };
        let trace = pickle::run(&data, limits);
        let end = trace.end;
        match trace.error {
            None => {
                return Ok((cut(data, end), end));
            }
            // A line cut short by the end of the bytes at hand is none of the stream's faults.
            Some(e) if n < left && (e.kind() == ErrorKind::Truncated || end as u64 >= n) => {
                step = n.saturating_mul(4);
            }
            Some(e) => return Err(e.shifted(at)),
        }
    }
}

fn cut(data: Cow<'_, [u8]>, end: usize) -> Cow<'_, [u8]> {
    match data {
        Cow::Borrowed(s) => Cow::Borrowed(s.get(..end).unwrap_or(s)),
        Cow::Owned(mut v) => {
            v.truncate(end);
            Cow::Owned(v)
        }
    }
}

/// One pickle of a file, for consumers that want its trace (the scanner, `disasm`).
#[derive(Debug, Clone)]
pub struct PickleBytes {
    /// The member or stream it is, for people.
    pub place: String,
    /// Position of its first byte in the file; for deflated members, of the member.
    pub offset: u64,
    /// The stream.
    pub data: Vec<u8>,
    /// Whether it is TorchScript's own, where `__torch__` classes are code inside the archive.
    pub torchscript: bool,
}

/// Every pickle of a PyTorch file that a loader would run, in the order it would.
///
/// # Errors
/// What the container's reader finds wrong; pickles that break are given as far as they go.
pub fn pickles(source: &Arc<dyn ByteSource>, limits: &Limits) -> Result<Vec<PickleBytes>> {
    let mut head = vec![0u8; 512.min(usize::try_from(source.len()).unwrap_or(512))];
    source.read_at(0, &mut head)?;
    if head.starts_with(b"PK") {
        return archive::pickles(source, limits);
    }
    if tar::sniff(&head) {
        return tar::pickles(source, limits);
    }
    // Streams follow each other; a legacy file has five before its storages.
    let mut out = Vec::new();
    let mut at = 0u64;
    let count = if legacy::sniff(&head) { 5 } else { 1 };
    for i in 0..count {
        let place = if count == 1 {
            "pickle".to_owned()
        } else {
            format!("pickle {}", i + 1)
        };
        let (data, whole) = match load_pickle(source.as_ref(), at, limits) {
            Ok((data, _)) => (data.into_owned(), true),
            Err(e) if matches!(e.kind(), ErrorKind::Malformed | ErrorKind::Truncated) => {
                let n = source.len().saturating_sub(at).min(limits.pickle_bytes);
                (source.read_vec(at..at + n)?, false)
            }
            Err(e) => return Err(e),
        };
        let n = data.len() as u64;
        out.push(PickleBytes {
            place,
            offset: at,
            data,
            torchscript: false,
        });
        at += n;
        if !whole {
            break;
        }
    }
    Ok(out)
}
