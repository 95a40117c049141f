//! The abstract pickle machine: runs a pickle's opcodes over plain data, never importing,
//! calling or building anything. A call of a global becomes a [`Call`] node that says what would
//! have been called with what; the PyTorch reader and the scanner are two consumers of the same
//! [`Trace`].
//!
//! Reference: CPython `Modules/_pickle.c` and `Lib/pickletools.py`, protocols 0 to 5.

mod compat;
pub mod disasm;
mod input;
mod machine;
mod number;
mod opcode;
mod program;
mod raw;
mod render;
mod value;

pub use machine::{run, run_with};
pub use opcode::Op;
pub use program::{Line, program};
pub use raw::{Nested, NoArrays, Raw, RawArrays};
pub use render::decimal;
pub use value::{Blob, Build, Call, CallOp, Change, Event, Global, Node, NodeId, Trace};
