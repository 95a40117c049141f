//! Encodings that several formats share.

pub mod codec;
pub mod flatbuffer;
pub mod hdf5;
pub mod marshal;
pub mod msgpack;
pub mod npy;
pub mod path;
pub mod protobuf;
pub mod sevenz;
pub mod sstable;
pub mod tar;
pub mod zip;
