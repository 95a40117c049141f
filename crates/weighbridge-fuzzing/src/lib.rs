//! What the fuzz targets (`fuzz/`) and the ordinary tests share: one function a target, a
//! deterministic mutation engine, and the places worth cutting a file at.
//!
//! A target takes any bytes and must return: no panic, no long run, no memory beyond what the
//! input's own size justifies. Where a target can tell a wrong answer by itself (a value that does
//! not survive being written and read again) it panics with what it found.

// A target that finds a wrong answer says so by panicking: that is what a fuzzer looks for.
#![allow(clippy::panic)]

mod boundary;
mod code;
mod edit;
mod exercise;
mod hdf5;
mod keras;
mod mutate;
mod onnx_edit;
mod onnx_files;
mod onnx_inject;
mod onnx_quantize;
pub mod oracle;
mod repack;
mod targets;
mod tensorflow;

pub use boundary::boundaries;
pub use code::{hidden_constant, python_source};
pub use edit::gguf_edit;
pub use exercise::{READ_BUDGET, model, open_path};
pub use hdf5::{hdf5, hdf5_structures};
pub use keras::keras;
pub use mutate::{Mutator, Rng};
pub use onnx_edit::onnx_edit;
pub use onnx_inject::onnx_inject;
pub use onnx_quantize::onnx_quantize;
pub use repack::Members;
pub use targets::{
    TARGETS, Target, codec_stream, detect_open, gguf_header, jinja_template, joblib_open,
    marshal_code, msgpack, npy, numpy_open, onnx_gates, onnx_read, pickle_machine, protobuf_fields,
    pytorch_open, safetensors_header, scan_file, scan_policy, sevenz_archive, structure_json,
    tar_archive, zip_archive, zip_survey,
};
pub use tensorflow::{graphdef, sstable, tf_checkpoint, tflite};
