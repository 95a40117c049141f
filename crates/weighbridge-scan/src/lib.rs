//! The security scanner: rules, findings and verdicts.
//!
//! A caller that knows the formats (the `weighbridge` crate) lays everything it saw of one file
//! into a [`Subject`]; an [`Engine`] runs every check over it and makes the [`FileReport`]. The
//! scanner knows no format itself, executes nothing and imports nothing, so that a file which
//! fails to parse is still judged by what could be read of it.
//!
//! Rules are data in `rules/*.toml`, compiled in: their texts are what reports and `--explain`
//! show, and their lists decide which globals of a pickle are allowed.

mod baseline;
pub mod checks;
mod danger;
mod date;
pub mod encoded;
mod engine;
mod finding;
pub mod globals;
pub mod graph;
mod hidden;
pub mod inner;
pub mod jinja;
mod leaves;
pub mod native;
pub mod policy;
pub mod python;
pub mod report;
mod rule;
mod settle;
mod shell;
mod subject;
mod trace;

pub use baseline::{Baseline, BaselineWriter};
pub use checks::hidden_pickle::constants;
pub use engine::{Check, Engine, Known, Settings};
pub use finding::{
    By, FileReport, Finding, Findings, Gap, Global, Origin, Overridden, Severity, Suppressed,
    Verdict,
};
pub use globals::{Catalogue, Loads, Standing};
pub use policy::Policy;
pub use rule::{RuleMeta, Rules};
pub use subject::{
    ComputedCall, Config, Difference, Fault, Function, GlobalUse, GraphKind, GraphModel, Link,
    Operator, PickleTrace, Program, ProgramKind, Reference, Script, Subject, Template, Text,
    TextOrigin, Use,
};
