//! Comparing models tensor by tensor.

mod lockstep;

pub(crate) use lockstep::same_bytes;
