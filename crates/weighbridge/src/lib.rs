//! One safe, fast toolkit for every ML model file format.
//!
//! Nothing in a model file is ever executed. Opening costs the header, not the file:
//!
//! ```no_run
//! let model = weighbridge::open("model.safetensors")?;
//! for t in &model.tensors {
//!     println!("{} {} {:?}", t.name, t.dtype, t.shape);
//! }
//! // Borrowed from the mapping where the layout allows, read and verified otherwise.
//! let bytes = model.tensors[0].bytes()?;
//! # let _ = bytes;
//! # Ok::<(), weighbridge::Error>(())
//! ```
//!
//! Tiers, from the outside in: [`open()`] and [`mod@convert`] work for any format; [`mod@format`] has one
//! folder a format with its own reader and writer; `weighbridge_core` has the encodings beneath.

pub mod check;
pub mod convert;
pub mod diff;
pub mod disasm;
pub mod edit;
pub mod format;
pub mod hash;
mod json;
mod open;
pub mod output;
mod parallel;
pub mod quantize;
pub mod scan;
pub mod split;
pub mod stats;
pub mod structure;

pub use open::{OpenOptions, open};
pub use weighbridge_core::model::{DType, FormatId, Model, Tensor};
pub use weighbridge_core::{Error, ErrorKind, Limits, Result, source::Backend};
