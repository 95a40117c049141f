//! Tests of the binary as users run it: exit codes, documents, streams.
#![allow(missing_docs, unreachable_pub)]

mod check;
mod common;
mod convert;
mod diff;
mod inspect;
mod scan;
mod schema;
mod streams;
mod usage;
