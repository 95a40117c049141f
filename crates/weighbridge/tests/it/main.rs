//! Integration tests of the library, one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stderr, missing_docs)]

mod safetensors;
