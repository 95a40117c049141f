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

mod convert;
mod directories;
mod gguf;
mod gguf_hostile;
mod graphs;
mod hdf5;
mod hdf5_oracle;
mod hostile_cases;
mod models;
mod onnx_check;
mod onnx_convert;
mod onnx_external;
mod onnx_quantize;
mod onnx_quantize_types;
mod onnx_tensors;
mod onnx_weights;
mod onnx_write;
mod pytorch;
mod quantize;
mod quantize_experts;
mod rule_fixtures;
mod safetensors;
mod scan;
mod scan_corpus;
mod trainers;
