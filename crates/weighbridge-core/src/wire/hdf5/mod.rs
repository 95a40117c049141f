//! HDF5 as a container: objects, links, attributes and the values of datasets.
//!
//! Everything is from the *HDF5 File Format Specification, version 3.0* (cited by its section
//! numbers) and, where that leaves sizes open, from the reference library (HDF5 1.14, files named
//! where they are followed). Nothing outside the file is ever opened: external links, external
//! storage and virtual datasets are told of, and no more.
//!
//! [`File`] is the way in. It reads structures when they are asked for, through a small cache of
//! blocks where the source is no memory, and it counts what it hands out: a file whose structures
//! refer to each other so that reading them never ends is over its budget soon.

mod attribute;
mod btree1;
mod btree2;
mod checksum;
mod chunk;
mod dataset;
mod datatype;
mod extensible;
mod fields;
mod file;
mod filter;
mod fixed;
mod fractal;
mod global;
mod group;
mod header;
mod layout;
mod link;
mod lzf;
mod message;
mod scale;
mod shared;
mod superblock;
mod values;
mod virtual_list;

pub use attribute::Attribute;
pub use chunk::{Chunk, ChunkMap};
pub use dataset::{Dataset, External};
pub use datatype::{Class, Datatype, Float, Member, Padding};
pub use file::{File, SIGNATURE, signature};
pub use filter::{Filter, Pipeline, filter_name};
pub use header::{Header, Kind};
pub use layout::{ChunkIndex, Layout};
pub use link::{Link, Target};
pub use message::{Dataspace, Fill};
pub use superblock::Superblock;
pub use values::Sink;
