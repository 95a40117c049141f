//! Integration tests, one binary.
#![allow(missing_docs, unreachable_pub)]

mod pytorch;
