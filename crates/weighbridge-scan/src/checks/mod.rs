//! The checks, one file a family of rules.

pub mod archive;
pub mod format;
mod keras_code;
pub mod keras_config;
pub mod markup;
pub mod onnx_operators;
pub mod pickle_globals;
pub mod policy;
pub mod references;
pub mod tensorflow_operators;
pub mod torchscript;
