//! Compiles `rules/` into what the scanner looks things up in: nothing of it is parsed when a scan
//! starts. The TOML files are the only source; what breaks their shape breaks the build.

#[path = "build/catalogue.rs"]
mod catalogue;
#[path = "build/rules.rs"]
mod rules;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::de::DeserializeOwned;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=rules");
    println!("cargo::rerun-if-changed=build");
    let rules = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("rules");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    rules::write(&rules, &out)?;
    catalogue::write(&rules, &out)
}

/// Parses one of the data files.
fn parse<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?)
}
