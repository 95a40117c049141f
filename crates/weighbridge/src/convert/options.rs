//! What a conversion is asked for.

use std::path::{Path, PathBuf};

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
    /// Put weights in the order in which another framework has them.
    pub layout: Option<super::layout::Layout>,
    /// The file that the weights are put into: an ONNX graph where the target is ONNX, a `.keras`
    /// archive or an HDF5 file of Keras where it is that.
    pub graph: Option<PathBuf>,
    /// Which tensor goes into which of the graph, where their names differ.
    pub map: Vec<(String, String)>,
    /// Transpose the last two dimensions of tensors whose name, before `map`, matches any of these
    /// regular expressions.
    pub transpose: Vec<String>,
    /// Put into the graph what fits, and let it keep the rest.
    pub partial: bool,
    /// Cover the values of the graph's `Constant` nodes too: the model was opened with
    /// [`crate::OpenOptions::constants`].
    pub constants: bool,
    /// The safetensors file that an ONNX graph's weights lie in: written, unless it is the input.
    pub shared_weights: Option<PathBuf>,
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
            layout: None,
            graph: None,
            map: Vec::new(),
            transpose: Vec::new(),
            partial: false,
            constants: false,
            shared_weights: None,
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

    /// Refuses what only a graph makes sense of, for another target.
    pub(super) fn refuse_graph(&self) -> Result<()> {
        let asked = [
            ("--graph", self.graph.is_some()),
            ("--map", !self.map.is_empty()),
            ("--transpose", !self.transpose.is_empty()),
            ("--partial", self.partial),
            ("--shared-weights", self.shared_weights.is_some()),
        ];
        match asked.iter().find(|(_, on)| *on) {
            Some((flag, _)) => {
                let message = format!("{flag} is for files that have a graph, and OUT is none");
                Err(Error::parameter("convert.graph", message)
                    .help("name an OUT that ends in .onnx, .keras or .h5"))
            }
            None => Ok(()),
        }
    }
}

/// The pairs that the text of a `--map` file lists: one `FROM=TO` a line, or both names with a tab
/// between them where a name holds `=`. Empty lines and lines that begin with `#` say nothing.
///
/// # Errors
/// `Parameter` naming the first line that is neither.
///
/// # Examples
/// ```
/// let map = weighbridge::convert::parse_map("# layers\nfc.weight=onnx::MatMul_7\n\na=b\tc\n")?;
/// assert_eq!(map[0], ("fc.weight".into(), "onnx::MatMul_7".into()));
/// assert_eq!(map[1], ("a=b".into(), "c".into()));
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn parse_map(text: &str) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.split_once('\t').or_else(|| line.split_once('='));
        match pair {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => {
                out.push((from.to_owned(), to.to_owned()));
            }
            _ => {
                let message = format!("line {} of the map is no FROM=TO", i + 1);
                return Err(Error::parameter("convert.map", message));
            }
        }
    }
    Ok(out)
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

/// What to write, for messages.
pub(super) const TARGETS: &str = "write .safetensors, .gguf, .onnx, .npz, .h5, .weights.h5, or .pt, .pth, .ckpt or .bin for PyTorch";

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
        Some("onnx") => return Ok(FormatId::Onnx),
        Some("index") => return Ok(FormatId::TfCheckpoint),
        Some("npz" | "npy") => return Ok(FormatId::Numpy),
        Some("h5" | "hdf5") => return Ok(FormatId::Hdf5),
        Some("keras") => return Ok(FormatId::Keras),
        Some("pt" | "pth" | "ckpt" | "bin") => return Ok(FormatId::PyTorch),
        _ => {}
    }
    let later = [".pb", ".tflite", ".msgpack"];
    let help = TARGETS;
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
