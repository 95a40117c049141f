//! GGUF: key-values and tensor descriptions, then the tensors' data, aligned.
//!
//! Facts are from `docs/gguf.md` of the ggml repository and the reference reader
//! (`ggml/src/gguf.cpp`, ggml 0.25.3).

mod kept;
pub mod raw;
pub mod read;
mod reader;
pub mod split;
pub(crate) mod swap;
pub mod types;
pub mod verify;
pub(crate) mod vocabulary;
mod walk;
pub mod write;

pub use read::Gguf;
pub(crate) use reader::number;
