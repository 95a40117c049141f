//! Encodings that several formats share.

pub mod codec;
pub mod tar;
pub mod zip;
