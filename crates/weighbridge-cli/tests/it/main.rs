//! Tests of the binary as users run it: exit codes, documents, streams.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(missing_docs, unreachable_pub, missing_debug_implementations)]

mod check;
mod common;
mod convert;
mod diff;
mod disasm;
mod edit;
mod inspect;
mod quantize;
mod scan;
mod scan_policy;
mod scan_report;
mod schema;
mod streams;
mod usage;
