//! The checks, one file a family of rules.

pub mod active_content;
pub mod archive;
pub mod code_string;
pub mod config_hooks;
pub mod config_paths;
pub mod config_secrets;
pub mod config_urls;
pub mod format;
pub mod hidden_pickle;
mod keras_code;
pub mod keras_config;
pub mod markup;
pub mod onnx_gates;
pub mod onnx_operators;
pub mod pickle_globals;
pub mod policy;
pub mod programs;
pub mod references;
pub mod templates;
pub mod tensorflow_operators;
pub mod torchscript;
