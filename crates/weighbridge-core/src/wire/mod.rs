//! Encodings that several formats share.

pub mod codec;
pub mod marshal;
pub mod protobuf;
pub mod tar;
pub mod zip;
