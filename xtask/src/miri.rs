//! `cargo xtask miri`: the tests around unsafe code, interpreted.

use std::process::Command;

use crate::{Result, repo};

/// What Miri is asked to run by default. Mapping a file is a foreign call that Miri does not
/// interpret, so `source/mmap.rs` itself is out of its reach: its one unsafe block is the call.
/// What is checked is every piece of safe-looking code above it that works on borrowed bytes.
const DEFAULT: &[&[&str]] = &[
    &["-p", "weighbridge-kernels", "--lib"],
    &["-p", "weighbridge-core", "--lib", "cursor"],
    &["-p", "weighbridge-core", "--lib", "source::slice"],
];

/// Runs the tests around unsafe code under Miri, or says why it was skipped.
///
/// # Errors
/// When Miri finds undefined behaviour or a test fails.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if !repo::succeeds(repo::nightly().arg("--version")) {
        println!("skipped: miri, there is no nightly toolchain (rustup toolchain install nightly)");
        return Ok(());
    }
    if !repo::succeeds(repo::nightly().args(["miri", "--version"])) {
        println!("adding the miri component to the nightly toolchain");
        let added = repo::succeeds(Command::new("rustup").args([
            "component",
            "add",
            "--toolchain",
            "nightly",
            "miri",
            "rust-src",
        ]));
        if !added {
            println!("skipped: miri, this nightly has no such component");
            return Ok(());
        }
    }
    if !arguments.is_empty() {
        return miri(arguments.iter().map(String::as_str));
    }
    for part in DEFAULT {
        miri(part.iter().copied())?;
    }
    println!("miri: nothing found");
    Ok(())
}

fn miri<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    repo::run(
        repo::nightly()
            .args(["miri", "test"])
            .args(arguments)
            .env("CARGO_TARGET_DIR", repo::target().join("miri"))
            .env("MIRIFLAGS", "-Zmiri-disable-isolation"),
    )
}
