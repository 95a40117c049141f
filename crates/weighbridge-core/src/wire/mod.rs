//! Encodings that several formats share.

pub mod zip;
