//! The checks, one file a family of rules.

pub mod format;
pub mod pickle_globals;
pub mod policy;
pub mod torchscript;
