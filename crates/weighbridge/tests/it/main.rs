//! Integration tests of the library, one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stderr, missing_docs, unreachable_pub)]

mod pytorch;
mod safetensors;
