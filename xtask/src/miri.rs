//! `cargo xtask miri`: the tests around unsafe code, interpreted.

use std::process::Command;

use crate::{Result, repo};

/// What Miri is asked to run by default: the vector kernels at every length and alignment, and the
/// loads, stores and gathers of the block types' vectors in eight lanes. Out of its reach are mapping
/// a file, a foreign call (the one unsafe block of `source/mmap.rs`), and the F16C conversions, which
/// it does not know; those share their loads and stores with the AVX2 ones. The exhaustive comparisons
/// take hours there.
const DEFAULT: [&str; 4] = ["-p", "weighbridge-kernels", "--lib", "every_length"];

/// The same loads and stores in sixteen lanes, whose gathers Miri does not know.
const SIXTEEN: [&str; 4] = [
    "-p",
    "weighbridge-kernels",
    "--lib",
    "every_length_is_touched",
];

/// What Miri reports of the processor is what is compiled in.
const AVX2: &str = "-Ctarget-feature=+avx2";
const AVX512: &str = "-Ctarget-feature=+avx2,+avx512f,+avx512bw,+avx512dq,+avx512vl";

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
        return miri(arguments.iter().map(String::as_str), AVX2);
    }
    miri(DEFAULT.into_iter(), AVX2)?;
    if cfg!(target_arch = "x86_64") {
        miri(SIXTEEN.into_iter(), AVX512)?;
    }
    println!("miri: nothing found");
    Ok(())
}

fn miri<'a>(arguments: impl Iterator<Item = &'a str>, features: &str) -> Result<()> {
    let mut c = repo::nightly();
    c.args(["miri", "test"])
        .args(arguments)
        .env("CARGO_TARGET_DIR", repo::target().join("miri"))
        .env("MIRIFLAGS", "-Zmiri-disable-isolation");
    if cfg!(target_arch = "x86_64") {
        c.env("RUSTFLAGS", features);
    }
    repo::run(&mut c)
}
