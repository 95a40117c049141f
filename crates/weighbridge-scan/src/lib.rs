//! The security scanner: rules, findings and verdicts.
//!
//! A caller that knows the formats (the `weighbridge` crate) lays everything it saw of one file
//! into a [`Subject`]; an [`Engine`] runs every check over it and makes the [`FileReport`]. The
//! scanner knows no format itself, executes nothing and imports nothing, so that a file which
//! fails to parse is still judged by what could be read of it.
//!
//! Rules are data in `rules/*.toml`, compiled in: their texts are what reports and `--explain`
//! show, and their lists decide which globals of a pickle are allowed.

pub mod checks;
mod engine;
mod finding;
pub mod globals;
pub mod report;
mod rule;
mod subject;
mod trace;

pub use engine::{Check, Engine};
pub use finding::{FileReport, Finding, Findings, Gap, Severity, Verdict};
pub use globals::{Catalogue, Loads, Standing};
pub use rule::{RuleMeta, Rules};
pub use subject::{
    ComputedCall, Config, Difference, Fault, GlobalUse, GraphKind, Link, Operator, PickleTrace,
    Program, ProgramKind, Reference, Script, Subject, Template, Text, TextOrigin, Use,
};
