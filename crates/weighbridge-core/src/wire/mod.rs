//! Encodings that several formats share.

pub mod codec;
pub mod path;
pub mod sevenz;
pub mod tar;
pub mod zip;
