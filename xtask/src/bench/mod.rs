//! `cargo xtask bench`: us and the peers, alternately, in one run.

mod load;
mod report;

use crate::Result;

/// Runs one set of benchmarks.
///
/// # Errors
/// When there is no such set, or something it measures fails.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let quick = arguments.iter().any(|a| a == "--quick");
    match arguments.first().map(String::as_str) {
        Some("load") => load::run(quick),
        Some(other) => Err(format!("there is no benchmark `{other}`; there is `load`")),
        None => Err("which benchmark? There is `load`".into()),
    }
}
