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
pub mod markup;
pub mod pickle_globals;
pub mod policy;
pub mod programs;
pub mod templates;
pub mod torchscript;
