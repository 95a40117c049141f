//! The checks, one file a family of rules.

pub mod archive;
pub mod format;
pub mod markup;
pub mod onnx_operators;
pub mod pickle_globals;
pub mod references;
pub mod tensorflow_operators;
pub mod torchscript;
