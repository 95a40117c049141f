//! The oracle of the pickle machine: random pickles, and what the machine makes of each in the
//! words of `peers/unpickle.py`, which asks the real unpicklers.

mod answer;
mod cases;
mod text;

pub use answer::{Answer, check};
pub use cases::{case, spellings};
