//! Which format a file is, by its bytes; the extension only breaks ties and names what a damaged
//! file was meant to be.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::FormatId;
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::{hdf5, tar, zip};
use weighbridge_core::{Error, Limits, Result, pickle};

use super::{flax, joblib};

/// How many bytes detection looks at.
const HEAD: u64 = 4096;

/// What a file is, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// A format by its content.
    Content(FormatId),
    /// Nothing in the content; the extension says what it was meant to be.
    Extension(FormatId),
    /// A Git LFS pointer: the model itself was never downloaded.
    LfsPointer,
    /// A web page, as saved from a failed download.
    Html,
    /// None of the formats known.
    Unknown,
}

/// Recognises `source`.
///
/// # Errors
/// `Io` when it cannot be read.
pub fn detect(source: &Arc<dyn ByteSource>, limits: &Limits) -> Result<Detected> {
    // The name `.safetensors` is a promise that nothing can be executed: a pickle under it is
    // judged, and refused, as the safetensors file it claims to be.
    if by_extension(Path::new(source.name())) == Some(FormatId::Safetensors) {
        return Ok(Detected::Content(FormatId::Safetensors));
    }
    let n = source.len().min(HEAD);
    let head = source.read_vec(0..n)?;
    if let Some(found) = by_content(&head, source, limits) {
        return Ok(found);
    }
    let name = source.name().to_ascii_lowercase();
    if let Some(format) = by_extension(Path::new(&name)) {
        return Ok(Detected::Extension(format));
    }
    Ok(Detected::Unknown)
}

fn by_content(head: &[u8], source: &Arc<dyn ByteSource>, limits: &Limits) -> Option<Detected> {
    use Detected::Content;
    let text = head.trim_ascii_start();
    if text.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some(Detected::LfsPointer);
    }
    let starts = |s: &[u8]| {
        text.get(..s.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(s))
    };
    if starts(b"<!doctype html") || starts(b"<html") {
        return Some(Detected::Html);
    }
    if head.starts_with(b"GGUF") || head.starts_with(b"FUGG") {
        return Some(Content(FormatId::Gguf));
    }
    if head.starts_with(b"\x89HDF\r\n\x1a\n") {
        return Some(Content(FormatId::Hdf5));
    }
    if head.starts_with(b"\x93NUMPY") {
        return Some(Content(FormatId::Numpy));
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Some(match zip::Archive::open(Arc::clone(source), limits) {
            Ok(a) if super::pytorch::is_torch_zip(&a) => Content(FormatId::PyTorch),
            Ok(a) if super::keras::read::is_archive(&a) => Content(FormatId::Keras),
            Ok(a) if a.members().iter().any(|m| m.name.ends_with(".npy")) => {
                Content(FormatId::Numpy)
            }
            // Archives without an array are arrays by their name only.
            Ok(_) if named(source.name(), FormatId::Numpy) => Content(FormatId::Numpy),
            // A damaged archive is what its extension says, so that the damage is reported.
            Err(_) if named(source.name(), FormatId::PyTorch) => Content(FormatId::PyTorch),
            Err(_) if named(source.name(), FormatId::Numpy) => Content(FormatId::Numpy),
            _ if named(source.name(), FormatId::Keras) => Content(FormatId::Keras),
            _ => Content(FormatId::Zip),
        });
    }
    if looks_like_safetensors(head, source.len()) {
        return Some(Content(FormatId::Safetensors));
    }
    if tar::is_tar(head) {
        let torch = tar::Archive::open(Arc::clone(source), limits)
            .is_ok_and(|a| a.by_name("pickle").is_some() || a.by_name("./pickle").is_some());
        let format = if torch {
            FormatId::PyTorch
        } else {
            FormatId::Tar
        };
        return Some(Content(format));
    }
    // A block of the user's may come first; it can begin like anything.
    if let Ok(Some(_)) = hdf5::signature(source.as_ref()) {
        return Some(Content(FormatId::Hdf5));
    }
    if looks_like_pickle(head, source.name(), limits) {
        return Some(Content(FormatId::PyTorch));
    }
    if flax::is_flax(head, source.as_ref()) {
        return Some(Content(FormatId::Flax));
    }
    if joblib::is_packed_pickle(head, source.as_ref()) {
        return Some(Content(FormatId::Pickle));
    }
    let onnx = named(source.name(), FormatId::Onnx);
    if super::onnx::sniff::is_model(source.as_ref(), onnx).unwrap_or(false) {
        return Some(Content(FormatId::Onnx));
    }
    if let Some(format) = super::tensorflow::detect(head, source.as_ref()) {
        return Some(Content(format));
    }
    if text.starts_with(b"{") && source.name().ends_with(".weights.json") {
        return Some(Content(FormatId::Keras));
    }
    if text.starts_with(b"{") && source.name().ends_with(".json") {
        return Some(Content(FormatId::Json));
    }
    None
}

/// Whether a file's name promises `format`.
fn named(name: &str, format: FormatId) -> bool {
    by_extension(Path::new(name)) == Some(format)
}

/// Eight bytes of header length that fit the file, then `{`.
fn looks_like_safetensors(head: &[u8], len: u64) -> bool {
    let Some((n, rest)) = head.split_first_chunk::<8>() else {
        return false;
    };
    let n = u64::from_le_bytes(*n);
    n >= 2 && n.checked_add(8).is_some_and(|end| end <= len) && rest.first() == Some(&b'{')
}

/// Protocols from 2 on announce themselves; 0 and 1 are plausible only when the first opcodes run
/// and the name says pickle.
fn looks_like_pickle(head: &[u8], name: &str, limits: &Limits) -> bool {
    if let [0x80, 0..=5, rest @ ..] = head {
        return rest
            .first()
            .is_some_and(|&b| pickle::Op::from_byte(b).is_some());
    }
    let lower = name.to_ascii_lowercase();
    let named = [
        ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".p", ".joblib",
    ]
    .iter()
    .any(|e| lower.ends_with(e));
    if !named {
        return false;
    }
    let trace = pickle::run(head, limits);
    // Either it ended, or the window did after a fair run of sensible opcodes.
    trace
        .error
        .as_ref()
        .is_none_or(|e| e.kind() == weighbridge_core::ErrorKind::Truncated && trace.ops >= 8)
}

/// The format that an extension promises. `.bin` promises nothing, except under the name
/// `pytorch_model*.bin`.
pub fn by_extension(path: &Path) -> Option<FormatId> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".tar").unwrap_or(&name);
    let ext = name.rsplit_once('.').map(|(_, e)| e)?;
    Some(match ext {
        "safetensors" => FormatId::Safetensors,
        "pt" | "pth" | "ckpt" | "pt2" => FormatId::PyTorch,
        "bin" if name.starts_with("pytorch_model") || name.starts_with("adapter_model") => {
            FormatId::PyTorch
        }
        "pkl" | "pickle" | "joblib" => FormatId::Pickle,
        "gguf" => FormatId::Gguf,
        "onnx" => FormatId::Onnx,
        "h5" | "hdf5" => FormatId::Hdf5,
        "keras" => FormatId::Keras,
        "npy" | "npz" => FormatId::Numpy,
        "tflite" => FormatId::TfLite,
        "index" => FormatId::TfCheckpoint,
        _ if super::tensorflow::checkpoint::is_data(name) => FormatId::TfCheckpoint,
        "msgpack" | "flax" => FormatId::Flax,
        _ => return None,
    })
}

/// The error for a file that is no model, saying what it is instead.
pub(crate) fn refuse(found: Detected, name: &str) -> Error {
    let e = match found {
        Detected::LfsPointer => Error::unsupported(
            "format.lfs-pointer",
            "this is a Git LFS pointer, not the model: the real file was never downloaded",
        )
        .help("run `git lfs pull` in the repository, or download the file itself"),
        Detected::Html => Error::unsupported(
            "format.html",
            "this is a web page, not a model: the download failed or needs a login",
        )
        .help("download the file again and look at what the server answers"),
        Detected::Content(f) | Detected::Extension(f) => Error::unsupported(
            "format.no-reader",
            format!(
                "{} files are recognised, and this version cannot read them",
                f.as_str()
            ),
        ),
        Detected::Unknown => Error::unsupported(
            "format.unknown",
            "this is no model file of any known format",
        )
        .help(
            "formats read: safetensors, GGUF, ONNX, PyTorch (.pt .pth .ckpt .bin), bare pickles and \
             TensorFlow (checkpoints, SavedModels, .pb, .tflite)",
        ),
    };
    e.in_file(name)
}
