//! The ground floor of Weighbridge: byte sources, limits, errors, the model every format lowers
//! into, the encodings formats share, and the abstract pickle machine.
//!
//! Nothing here knows a model format, opens a network connection or executes anything a file says.

pub mod cursor;
pub mod error;
pub mod limits;
pub mod model;
pub mod pickle;
pub mod source;
pub mod wire;

pub use error::{Error, ErrorKind, Result, Span};
pub use limits::Limits;
