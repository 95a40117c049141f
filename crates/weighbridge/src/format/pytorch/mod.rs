//! PyTorch checkpoints in every container torch has written, read with no Python and nothing
//! executed.
//!
//! | container | file |
//! |---|---|
//! | zip (torch ≥ 1.6), TorchScript, torch.package, `.pt2` | `archive`, `torchscript`, `export` |
//! | legacy stream with magic number | `legacy` |
//! | tar (2016–17) | `tar` |
//! | bare pickle | `read` |
//! | folders: distributed checkpoints, DeepSpeed, Megatron | `dcp`, `deepspeed`, `megatron` |
//!
//! Reference: `torch/serialization.py`, `torch/_utils.py`, `caffe2/serialize/inline_container.cc`.

mod alias_out;
mod archive;
pub(crate) mod arrays;
pub(crate) mod dcp;
pub(crate) mod deepspeed;
pub(crate) mod dtype;
mod export;
mod folder;
mod foreign_out;
pub(crate) mod legacy;
pub(crate) mod lower;
pub(crate) mod megatron;
mod numpy;
mod objects;
mod pickle_out;
pub(crate) mod read;
mod rebuild;
mod state_out;
mod storage_out;
mod storages;
mod tar;
mod tensor_out;
mod torchscript;
mod verify;
pub mod write;
#[cfg(test)]
mod write_tests;

pub use read::{is_torch_zip, is_torchscript_zip, open, pickles};

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::FormatReader;
use crate::OpenOptions;
use crate::check::Violation;

/// The reader of single PyTorch files.
#[derive(Debug, Clone, Copy, Default)]
pub struct PyTorch;

impl FormatReader for PyTorch {
    fn id(&self) -> FormatId {
        FormatId::PyTorch
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        read::open(source, options)
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(source, options)
    }
}
