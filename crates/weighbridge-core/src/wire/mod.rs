//! Encodings that several formats share.

pub mod tar;
pub mod zip;
