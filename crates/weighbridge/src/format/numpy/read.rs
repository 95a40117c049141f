//! Reading `.npy` and `.npz`.

use std::collections::HashSet;
use std::sync::Arc;

use weighbridge_core::model::{
    Dict, FormatId, Model, Part, Storage, StorageData, Tensor, Value, Warning,
};
use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::npy::{Header, header_len};
use weighbridge_core::wire::zip::{Archive, Member, Method};
use weighbridge_core::{Error, Limits, Result};

use super::array::Array;
use crate::OpenOptions;
use crate::format::pytorch::lower::each_reference;
use crate::format::pytorch::read::objects;

/// What the only array of a file is called.
pub(super) const ROOT: &str = "tensor";

/// The extension of members that are arrays; `numpy.load` names them without it.
pub(super) const NPY: &str = ".npy";

/// How much of a member is read at first: headers fit.
const HEAD: usize = 4096;

/// Most warnings of one kind: they are alike.
const MOST_WARNINGS: usize = 100;

/// Whether the bytes begin a zip archive.
pub(super) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

/// Opens a `.npy` or a `.npz`.
///
/// # Errors
/// What is wrong with the archive or an array.
pub(super) fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let name = source.name().to_owned();
    let bytes = source.len();
    let head = source.read_vec(0..bytes.min(8))?;
    let opened = match is_zip(&head) {
        true => Archive::open(Arc::clone(&source), &options.limits)
            .and_then(|archive| archived(&archive, options)),
        false => single(&source, options),
    };
    let mut model = opened.map_err(|e| e.in_file(name.as_str()))?;
    model.parts.push(Part {
        path: name.into(),
        bytes,
    });
    let total = |n: u64, t: &Tensor| n.saturating_add(t.byte_len()).saturating_add(least(t));
    let total = model.tensors.iter().fold(0u64, total);
    let cap = options.limits.expand_cap(bytes);
    if total > cap {
        let message = format!("the arrays expand to {total} bytes, the cap is {cap}");
        return Err(Error::limit("numpy.expansion", message)
            .help("raise the cap with --max-expand SIZE if you trust the file's origin"));
    }
    Ok(model)
}

/// Bytes that texts take at least: a length each.
fn least(t: &Tensor) -> u64 {
    let texts = t.dtype.is_text();
    t.numel().filter(|_| texts).unwrap_or(0).saturating_mul(8)
}

/// The header of the array at the start of `source`.
///
/// # Errors
/// As [`Header::parse`].
pub(super) fn header(source: &dyn ByteSource, at: u64) -> Result<Header> {
    let left = source.len().saturating_sub(at);
    let head = source.read_vec(at..at.saturating_add(left.min(12)))?;
    let end = header_len(&head).map_err(|e| e.shifted(at))?.min(left);
    let bytes = source.read_vec(at..at.saturating_add(end))?;
    Header::parse(&bytes).map_err(|e| e.shifted(at))
}

/// What a member or file holds.
struct Taken {
    tensors: Vec<Tensor>,
    value: Value,
    warnings: Vec<Warning>,
    /// Position behind it, where that is known.
    end: Option<u64>,
}

fn plain(
    header: &Header,
    name: &str,
    storage: &dyn Fn(bool) -> Result<Arc<Storage>>,
    at: u64,
) -> Result<Taken> {
    let array = Array {
        name,
        dtype: &header.dtype,
        descr: Some(&header.descr),
        shape: &header.shape,
        fortran: header.fortran_order,
    };
    let mut warnings = Vec::new();
    let tensor = array.tensor(storage, at, &mut warnings)?;
    Ok(Taken {
        value: Value::Tensor(tensor.name.clone()),
        tensors: vec![tensor],
        warnings,
        end: header.data_bytes().and_then(|n| at.checked_add(n)),
    })
}

fn pickled(
    source: &Arc<dyn ByteSource>,
    at: u64,
    name: &str,
    options: &OpenOptions,
) -> Result<Taken> {
    let o = objects(source, at, name, options)?;
    Ok(Taken {
        tensors: o.tensors,
        value: o.value,
        warnings: o.warnings,
        end: Some(o.end),
    })
}

fn single(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let header = header(source.as_ref(), 0)?;
    let at = header.data_at;
    let taken = match header.data_bytes() {
        // What the array holds is the model: names begin there.
        None => pickled(source, at, "", options)?,
        Some(bytes) => {
            let left = source.len().saturating_sub(at);
            let storage = |big_endian| {
                let data = StorageData::Raw {
                    source: Arc::clone(source),
                    offset: at,
                    checksum: None,
                };
                let storage = Storage::new("array", left.min(bytes), big_endian, data)?;
                Ok(Arc::new(storage.into_region()))
            };
            let mut taken = plain(&header, ROOT, &storage, 0).map_err(|e| e.shifted(at))?;
            taken.end = at.checked_add(bytes);
            taken
        }
    };
    let mut model = Model::new(FormatId::Numpy);
    model.container = Some("npy");
    model.version = Some(format!("{}.0", header.version));
    if header.dtype.has_objects() {
        model.structure = Some(taken.value);
    }
    model.tensors = taken.tensors;
    model.warnings = taken.warnings;
    if let Some(end) = taken.end.filter(|&end| end < source.len()) {
        model.warnings.push(Warning {
            rule: "numpy.trailing-data",
            message: format!("{} bytes follow the array", source.len() - end),
            offset: Some(end),
        });
    }
    Ok(model)
}

/// The arrays of an archive in the order of its directory.
fn archived(archive: &Archive, options: &OpenOptions) -> Result<Model> {
    let mut model = Model::new(FormatId::Numpy);
    model.container = Some("npz");
    let mut entries = Vec::new();
    let mut objects = false;
    let mut names: HashSet<String> = HashSet::new();
    let mut said = HashSet::new();
    for m in archive.members() {
        let Some(name) = m.name.strip_suffix(NPY).filter(|_| !m.is_dir()) else {
            let why = "it is no .npy: numpy.load gives its bytes as they are";
            model.omitted.push((m.name.clone(), why.into()));
            continue;
        };
        let last = archive.by_name(&m.name);
        if last.is_some_and(|l| l.central_offset != m.central_offset) {
            let why = "a later member has the same name, and readers take that one";
            model.omitted.push((m.name.clone(), why.into()));
            continue;
        }
        Limits::check(
            model.tensors.len() as u64,
            options.limits.tensors,
            "numpy.too-many-arrays",
            "arrays",
        )?;
        let mut taken = member(archive, m, name, options).map_err(|e| e.within(m.name.as_str()))?;
        objects |= !matches!(taken.value, Value::Tensor(_));
        for mut t in taken.tensors {
            // Paths into objects may lead to the name of another member.
            let name = crate::structure::free_name(&t.name, &mut names);
            if name != t.name {
                let message =
                    format!("two arrays flatten to one name; the later one is called {name}");
                model
                    .warnings
                    .push(Warning::new("names.collision", message));
                each_reference(&mut taken.value, &mut |at| {
                    if *at == t.name {
                        name.clone_into(at);
                    }
                });
                t.name = name;
            }
            model.tensors.push(t);
        }
        entries.push((Value::Str(name.to_owned()), taken.value));
        for w in taken.warnings {
            if said.len() < MOST_WARNINGS && said.insert((w.rule, w.message.clone())) {
                model.warnings.push(w);
            }
        }
    }
    if objects {
        model.structure = Some(Value::Dict(Dict {
            entries,
            ..Dict::default()
        }));
    }
    if archive.checksums_off() {
        let message = "all checksums of the archive are zero: they were switched off";
        model
            .warnings
            .push(Warning::new("zip.checksums-off", message));
    }
    Ok(model)
}

fn member(archive: &Archive, m: &Member, name: &str, options: &OpenOptions) -> Result<Taken> {
    let mut head = archive.head(m, HEAD)?;
    let whole = header_len(&head)?;
    if whole > head.len() as u64 && whole <= m.size {
        head = archive.head(m, usize::try_from(whole).unwrap_or(usize::MAX))?;
    }
    let header = Header::parse(&head)?;
    if header.data_bytes().is_some() {
        let storage = |big_endian| archive.storage(m, big_endian).map(Arc::new);
        let mut taken = plain(&header, name, &storage, header.data_at)?;
        trailing(m, taken.end, &mut taken.warnings);
        return Ok(taken);
    }
    let source: Arc<dyn ByteSource> = match m.method {
        Method::Stored => {
            let at = archive.data_offset(m)?;
            // The pickle is checked before it is run; the arrays in it lie in the file.
            archive.storage(m, false)?.verify()?;
            let inner = Arc::clone(archive.source());
            Arc::new(Window::new(
                inner,
                at..at.saturating_add(m.size),
                m.name.clone(),
            )?)
        }
        _ => {
            let bytes = archive.read(m, options.limits.inflate_bytes)?;
            Arc::new(weighbridge_core::source::SliceSource::new(
                bytes,
                m.name.clone(),
            ))
        }
    };
    let mut taken = pickled(&source, header.data_at, name, options)?;
    trailing(m, taken.end, &mut taken.warnings);
    Ok(taken)
}

fn trailing(m: &Member, end: Option<u64>, warnings: &mut Vec<Warning>) {
    if let Some(end) = end.filter(|&end| end < m.size) {
        let more = m.size - end;
        let message = format!("{}: {more} bytes follow the array", m.name);
        warnings.push(Warning::new("numpy.trailing-data", message));
    }
}
