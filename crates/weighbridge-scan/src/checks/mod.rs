//! The checks, one file a family of rules.

pub mod archive;
pub mod format;
pub mod markup;
pub mod pickle_globals;
pub mod policy;
pub mod templates;
pub mod torchscript;
