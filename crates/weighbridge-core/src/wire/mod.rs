//! Encodings that several formats share.

pub mod npy;
pub mod tar;
pub mod zip;
