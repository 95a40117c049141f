//! What a conversion is asked for.

use std::path::Path;

use weighbridge_core::model::{DType, FormatId};
use weighbridge_core::{Error, Limits, Result};

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// The least significant one.
    Little,
    /// The most significant one.
    Big,
}

/// How a model is converted. The defaults change nothing but the format.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The target format; told by the output's extension when absent.
    pub target: Option<FormatId>,
    /// Cast floating-point tensors to this dtype.
    pub dtype: Option<DType>,
    /// Split into files of at most this many payload bytes, with an index.
    pub shard_size: Option<u64>,
    /// Split into files of at most this many tensors, with an index.
    pub shard_tensors: Option<u64>,
    /// Keep tensors whose name matches any of these regular expressions; all when empty.
    pub select: Vec<String>,
    /// Leave out tensors whose name matches any of these regular expressions.
    pub drop: Vec<String>,
    /// Take the first of these prefixes that a name has off it.
    pub strip_prefix: Vec<String>,
    /// Rename tensors, after prefixes were taken off: an exact name, or a prefix when both sides
    /// end in `*`. The first pair that fits a name applies.
    pub rename: Vec<(String, String)>,
    /// Leave all non-tensor state out: the output is a flat set of tensors.
    pub weights_only: bool,
    /// Turn quantized tensors into F32.
    pub dequantize: bool,
    /// Threads that dequantize; 0 for as many as the machine has.
    pub threads: usize,
    /// Write sparse tensors in full.
    pub densify: bool,
    /// Write complex tensors that the target cannot hold as pairs of real numbers: one more
    /// dimension of extent 2.
    pub complex_as_real: bool,
    /// Keep one copy of tensors that share storage.
    pub dedupe: bool,
    /// Use a tensor's label as its name, where it has one.
    pub labels: bool,
    /// The byte order of the output, for formats that have two (GGUF); little where not told.
    pub endian: Option<Endian>,
    /// Refuse when anything but names would change or be lost.
    pub strict: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Wait until the result is on the disk.
    pub sync: bool,
    /// Limits; [`Limits::expand_bytes`] bounds what tensors may expand to.
    pub limits: Limits,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            target: None,
            dtype: None,
            shard_size: None,
            shard_tensors: None,
            select: Vec::new(),
            drop: Vec::new(),
            strip_prefix: Vec::new(),
            rename: Vec::new(),
            weights_only: false,
            dequantize: false,
            threads: 0,
            densify: false,
            complex_as_real: false,
            dedupe: false,
            labels: false,
            endian: None,
            strict: false,
            dry_run: false,
            sync: true,
            limits: Limits::default(),
        }
    }
}

impl ConvertOptions {
    /// Whether names are given that differ from the input's.
    pub(super) fn renames(&self) -> bool {
        !self.strip_prefix.is_empty() || !self.rename.is_empty() || self.labels
    }
}

/// The dtype that `name` spells for `--dtype`: safetensors' spelling or torch's, in any case.
///
/// # Errors
/// `Parameter` for anything that is no floating-point dtype tensors can be cast to.
pub fn parse_dtype(name: &str) -> Result<DType> {
    let dtype = match name.to_ascii_lowercase().as_str() {
        "f64" | "fp64" | "float64" | "double" => DType::F64,
        "f32" | "fp32" | "float32" | "float" => DType::F32,
        "f16" | "fp16" | "float16" | "half" => DType::F16,
        "bf16" | "bfloat16" => DType::BF16,
        "f8_e4m3" | "float8_e4m3fn" => DType::F8_E4M3,
        "f8_e5m2" | "float8_e5m2" => DType::F8_E5M2,
        "f8_e4m3fnuz" | "float8_e4m3fnuz" => DType::F8_E4M3FNUZ,
        "f8_e5m2fnuz" | "float8_e5m2fnuz" => DType::F8_E5M2FNUZ,
        _ => {
            return Err(Error::parameter(
                "convert.dtype",
                format!("tensors cannot be cast to {name:?}"),
            )
            .help("use f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e4m3fnuz or f8_e5m2fnuz"));
        }
    };
    Ok(dtype)
}

/// The format that an output's extension stands for.
///
/// # Errors
/// `Unsupported` for formats that are not written yet, `Parameter` when the extension says
/// nothing.
pub fn target_of(path: &Path) -> Result<FormatId> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("safetensors") => return Ok(FormatId::Safetensors),
        Some("gguf") => return Ok(FormatId::Gguf),
        Some("pt" | "pth" | "ckpt" | "bin") => return Ok(FormatId::PyTorch),
        _ => {}
    }
    let later = [
        ".onnx", ".h5", ".keras", ".npz", ".npy", ".pb", ".tflite", ".msgpack",
    ];
    let help = "write .safetensors, .gguf, or .pt, .pth, .ckpt or .bin for PyTorch";
    if let Some(known) = later.iter().find(|e| name.ends_with(**e)) {
        let message = format!("writing {known} files is not supported yet");
        return Err(Error::unsupported("convert.target", message).help(help));
    }
    let message = match extension {
        Some(e) => format!("the extension .{e} stands for no format that can be written"),
        None => "the output has no extension that tells its format".to_owned(),
    };
    Err(Error::parameter("convert.target", message)
        .in_file(path.display().to_string())
        .help(format!("{help}, or name the format with --to")))
}
