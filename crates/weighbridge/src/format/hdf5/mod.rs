//! HDF5: files of datasets in groups, whoever wrote them. Keras' files are HDF5 too: what they
//! mean beyond that is in [`super::keras`].
//!
//! The container is [`weighbridge_core::wire::hdf5`]; here its objects become a model. Datasets
//! are tensors called by their path; attributes of the root are metadata under their own name,
//! those of a group under `path@name`, and those of a dataset go with its tensor.

mod attributes;
mod compute;
mod dataset;
pub mod read;
mod types;
mod verify;
pub(crate) mod write;

pub use read::Hdf5;
