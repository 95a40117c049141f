//! What every format lowers into: tensors whose bytes are read only when somebody asks, a typed
//! metadata tree, an optional graph, and what was noticed on the way.

mod checksum;
mod dtype;
mod graph;
mod metadata;
mod read;
mod storage;
mod tensor;
mod typed;

pub use checksum::{Checksum, mask as mask_crc32c};
pub use dtype::{Block, DType};
pub use graph::{
    AttributeValue, Dim, Graph, GraphAttribute, GraphFunction, GraphNode, GraphValue, ValueType,
};
pub use metadata::{Dict, NdArray, Object, Value};
pub use read::{CHUNK, Chunks};
pub use storage::{Storage, StorageData};
pub use tensor::{
    Assembly, Compute, Extra, Layout, Piece, Quantization, Shape, Sparse, Strided, Tensor,
    TensorSource, View,
};
pub use typed::{Coding, Element, Number, Packed};

use std::path::PathBuf;

/// The formats Weighbridge names. `as_str` is the spelling of the JSON documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatId {
    /// safetensors, single file or shards with an index.
    Safetensors,
    /// PyTorch in any of its containers.
    PyTorch,
    /// A bare pickle that is no PyTorch checkpoint.
    Pickle,
    /// GGUF.
    Gguf,
    /// ONNX, a graph with its weights inside or beside it.
    Onnx,
    /// HDF5 that no known library's model lies in.
    Hdf5,
    /// Keras: `.keras` archives, `.weights.h5` and the older `.h5`.
    Keras,
    /// A TensorFlow checkpoint, of version 1 or 2.
    TfCheckpoint,
    /// A TensorFlow SavedModel with its variables.
    SavedModel,
    /// A TensorFlow graph on its own, weights frozen into it.
    GraphDef,
    /// A TensorFlow Lite model.
    TfLite,
    /// NumPy `.npy` or `.npz`.
    Numpy,
    /// Flax's msgpack.
    Flax,
    /// A zip archive that holds no known model.
    Zip,
    /// A tar archive that holds no known model.
    Tar,
    /// A JSON document.
    Json,
}

impl FormatId {
    /// The spelling used in JSON documents, messages and `--format`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "pytorch",
            Self::Pickle => "pickle",
            Self::Gguf => "gguf",
            Self::Onnx => "onnx",
            Self::Hdf5 => "hdf5",
            Self::Keras => "keras",
            Self::TfCheckpoint => "tf-checkpoint",
            Self::SavedModel => "savedmodel",
            Self::GraphDef => "graphdef",
            Self::TfLite => "tflite",
            Self::Flax => "flax",
            Self::Numpy => "numpy",
            Self::Zip => "zip",
            Self::Tar => "tar",
            Self::Json => "json",
        }
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Something a reader noticed that does not stop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Stable dotted identifier.
    pub rule: &'static str,
    /// What was noticed, for people.
    pub message: String,
    /// The byte offset it concerns, where there is one.
    pub offset: Option<u64>,
}

impl Warning {
    /// A warning without an offset.
    pub fn new(rule: &'static str, message: impl Into<String>) -> Self {
        Self {
            rule,
            message: message.into(),
            offset: None,
        }
    }
}

/// A model: headers read, payloads not.
#[derive(Debug, Clone)]
pub struct Model {
    /// Which format it was read from.
    pub format: FormatId,
    /// The container or variant within the format (`zip`, `legacy`, `dcp`…), where there are several.
    pub container: Option<&'static str>,
    /// The format's own version, as the file spells it.
    pub version: Option<String>,
    /// The files it consists of, in the order of their parts.
    pub parts: Vec<Part>,
    /// Key-values of the format, in file order: safetensors `__metadata__`, GGUF keys, container
    /// facts. Values are plain unless the format types them.
    pub metadata: Vec<(String, Value)>,
    /// The non-tensor state with `Value::Tensor` references into `tensors` (see
    /// `docs/structure.md`), where the format carries one.
    pub structure: Option<Value>,
    /// The tensors, in file order.
    pub tensors: Vec<Tensor>,
    /// The computation graph, for formats that carry one.
    pub graph: Option<Graph>,
    /// What was noticed on the way.
    pub warnings: Vec<Warning>,
    /// State that the reader knows of and left out of `tensors` (say, optimizer shards beside
    /// merged weights), each with the reason: writers list it as lost.
    pub omitted: Vec<(String, String)>,
}

impl Model {
    /// An empty model of `format`.
    pub fn new(format: FormatId) -> Self {
        Self {
            format,
            container: None,
            version: None,
            parts: Vec::new(),
            metadata: Vec::new(),
            structure: None,
            tensors: Vec::new(),
            graph: None,
            warnings: Vec::new(),
            omitted: Vec::new(),
        }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The size of all parts together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |n, p| n.saturating_add(p.bytes))
    }

    /// Groups of tensors (by index, each group in tensor order) that lie in one storage and
    /// overlap there: ties and views.
    pub fn alias_groups(&self) -> Vec<Vec<usize>> {
        tensor::alias_groups(&self.tensors)
    }
}
