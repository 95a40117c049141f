//! Comparing models tensor by tensor.

mod lockstep;

pub(crate) use lockstep::{in_step, same_bytes};
