//! The abstract pickle machine.
