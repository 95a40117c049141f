//! Encodings that several formats share.

pub mod codec;
pub mod hdf5;
pub mod marshal;
pub mod npy;
pub mod path;
pub mod protobuf;
pub mod sevenz;
pub mod tar;
pub mod zip;
