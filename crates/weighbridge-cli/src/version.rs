//! `weighbridge --version`.

use serde_json::json;
use weighbridge::Result;
use weighbridge_sandbox::{Layer, Sandbox};

use crate::exit::Exit;
use crate::output::{Output, SCHEMA_VERSION};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this build reads and writes, as the JSON documents spell it.
const READS: [&str; 4] = ["safetensors", "pytorch", "gguf", "onnx"];
const WRITES: [&str; 4] = ["safetensors", "pytorch", "gguf", "onnx"];

pub(crate) fn print(verbose: bool, out: &mut Output) -> Result<Exit> {
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if out.json {
        out.document(&json!({
            "schema_version": SCHEMA_VERSION,
            "version": VERSION,
            "target": target,
            "reads": READS,
            "writes": WRITES,
            "sandbox": sandbox(),
        }))?;
        return Ok(Exit::Done);
    }
    out.line(format_args!("weighbridge {VERSION}"))?;
    if verbose {
        out.line(format_args!("target: {target}"))?;
        out.line(format_args!("reads: {}", READS.join(", ")))?;
        out.line(format_args!("writes: {}", WRITES.join(", ")))?;
        out.line(format_args!("sandbox: {}", Sandbox::offered()))?;
        out.line(format_args!(
            "JSON documents: schema_version {SCHEMA_VERSION}"
        ))?;
    }
    Ok(Exit::Done)
}

/// What the system offers `scan` to confine itself with.
fn sandbox() -> serde_json::Value {
    let offered = Sandbox::offered();
    json!({
        "complete": offered.is_complete(),
        "landlock_abi": offered.landlock_abi,
        "seccomp": offered.calls == Layer::On,
    })
}
