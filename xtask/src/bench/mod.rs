//! `cargo xtask bench`: us and the peers, alternately, in one run.

mod keras;
mod llama;
mod load;
mod model;
mod onnx;
mod quantize;
mod report;
mod scan;
mod scan_large;

use crate::Result;

/// `--peers-every N`: the slow peers get one file in N, and the page says so.
fn peers_every(arguments: &[String]) -> Result<Option<usize>> {
    let flag = "--peers-every";
    let Some(at) = arguments.iter().position(|a| a == flag) else {
        return Ok(None);
    };
    let number = arguments.get(at + 1).and_then(|n| n.parse().ok());
    match number {
        Some(n) if n > 0 => Ok(Some(n)),
        _ => Err(format!("{flag} needs a number above 0")),
    }
}

/// `--types A,B`: these types only, as `quantize` names them.
fn types(arguments: &[String]) -> Result<Option<&str>> {
    let flag = "--types";
    let Some(at) = arguments.iter().position(|a| a == flag) else {
        return Ok(None);
    };
    match arguments.get(at + 1) {
        Some(list) if !list.starts_with('-') && !list.is_empty() => Ok(Some(list)),
        _ => Err(format!("{flag} needs a list such as Q8_0,Q4_K_M+imatrix")),
    }
}

/// The sets, for messages.
const SETS: &str = "`load`, `scan`, `quantize`, `onnx` and `keras`";

/// Runs one set of benchmarks.
///
/// # Errors
/// When there is no such set, or something it measures fails.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let quick = arguments.iter().any(|a| a == "--quick");
    match arguments.first().map(String::as_str) {
        Some("load") => load::run(quick),
        Some("scan") => scan::run(quick, peers_every(arguments)?),
        Some("quantize") => quantize::run(quick, types(arguments)?),
        Some("onnx") => onnx::run(quick),
        Some("keras") => keras::run(quick),
        Some(other) => Err(format!("there is no benchmark `{other}`; there are {SETS}")),
        None => Err(format!("which benchmark? There are {SETS}")),
    }
}
