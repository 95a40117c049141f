//! ONNX: a graph of operators and its weights, as one Protocol Buffers message.
//!
//! Facts are from `onnx/onnx.proto3`, `docs/IR.md` and `docs/ExternalData.md` of the ONNX
//! repository (ONNX 1.23). The file is walked by its fields ([`parse`]); weights stay where they
//! are, in the file or in files beside it ([`external`]).

pub(crate) mod beside;
pub mod constants;
mod data;
pub mod digest;
pub mod encode;
pub mod external;
pub mod operators;
pub mod parse;
pub mod place;
pub mod raw;
pub mod read;
mod relocate;
pub mod sniff;
pub mod splice;
mod tensors;
pub mod types;
pub mod unique;
pub mod verify;
pub mod walk;
pub mod write;

pub use read::Onnx;
