//! `cargo xtask bless`: golden files from what the code gives now.

use crate::{Result, repo};

/// Runs the tests named `golden` with `WEIGHBRIDGE_BLESS=1`: they write instead of comparing.
/// What changed is then read with `git diff` before it is committed.
///
/// # Errors
/// When a test fails to build or to write.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut c = repo::cargo();
    c.args(["test", "--workspace", "--quiet"]).args(arguments);
    if arguments.is_empty() {
        c.arg("golden");
    }
    if let Some(dir) = repo::corpus() {
        c.env("WEIGHBRIDGE_CORPUS", dir);
    }
    repo::run(c.env("WEIGHBRIDGE_BLESS", "1"))?;
    println!("golden files written; read `git diff` before you commit them");
    Ok(())
}
