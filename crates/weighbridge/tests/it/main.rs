//! Integration tests of the library, one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod arrays;
mod convert;
mod convert_refusals;
mod directories;
mod gguf;
mod gguf_hostile;
mod graphs;
mod hdf5;
mod hdf5_oracle;
mod hdf5_write;
mod hostile_cases;
mod keras;
mod keras_inject;
mod keras_write;
mod models;
mod onnx_check;
mod onnx_convert;
mod onnx_duplicates;
mod onnx_external;
mod onnx_inject;
mod onnx_quantize;
mod onnx_quantize_many;
mod onnx_quantize_types;
mod onnx_roundtrip;
mod onnx_share;
mod onnx_tensors;
mod onnx_weights;
mod onnx_write;
mod pytorch;
mod quantize;
mod quantize_experts;
mod quantize_split;
mod quantize_ways;
mod rule_fixtures;
mod safetensors;
mod scan;
mod scan_corpus;
mod tensorflow;
mod trainers;
