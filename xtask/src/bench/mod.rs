//! `cargo xtask bench`: us and the peers, alternately, in one run.

mod load;
mod report;
mod scan;
mod scan_large;

use crate::Result;

/// Runs one set of benchmarks.
///
/// # Errors
/// When there is no such set, or something it measures fails.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let quick = arguments.iter().any(|a| a == "--quick");
    match arguments.first().map(String::as_str) {
        Some("load") => load::run(quick),
        Some("scan") => scan::run(quick),
        Some(other) => Err(format!(
            "there is no benchmark `{other}`; there are `load` and `scan`"
        )),
        None => Err("which benchmark? There are `load` and `scan`".into()),
    }
}
