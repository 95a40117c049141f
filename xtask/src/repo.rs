//! Where things lie, and running commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// The repository's root: this crate's parent directory.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The build directory: what cargo was told, else `target` in the root.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(root());
    c
}

/// The nightly cargo, through rustup's proxy: the one that started us is of another toolchain.
pub(crate) fn nightly() -> Command {
    let mut c = Command::new("cargo");
    c.arg("+nightly").current_dir(root());
    // What the outer toolchain set would win over `+nightly`.
    for key in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        c.env_remove(key);
    }
    c
}

/// Whether `command` runs and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Runs `command` to its end, its output shown.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command
        .status()
        .map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{shown}`: {status}"))
    }
}

/// Runs `command` and gives its standard output; its standard error is shown.
///
/// # Errors
/// As [`run`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    if !out.status.success() {
        return Err(format!("`{shown}`: {}", out.status));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Builds the command line tool and gives its path.
///
/// # Errors
/// When it does not build.
pub(crate) fn build_tool(release: bool) -> Result<PathBuf> {
    let mut c = cargo();
    // All binaries at once, so that features resolve as in `cargo test --workspace` and nothing
    // is compiled twice. Without ourselves: a running program cannot be replaced everywhere.
    c.args(["build", "--workspace", "--bins", "--exclude", "xtask"]);
    if release {
        c.arg("--release");
    }
    run(&mut c)?;
    let name = format!("weighbridge{}", std::env::consts::EXE_SUFFIX);
    let tool = target()
        .join(if release { "release" } else { "debug" })
        .join(name);
    if tool.is_file() {
        Ok(tool)
    } else {
        Err(format!("the build left no {}", tool.display()))
    }
}

/// The corpus: what the environment names, else `../shared/corpus` where it exists.
pub(crate) fn corpus() -> Option<PathBuf> {
    match std::env::var_os("WEIGHBRIDGE_CORPUS") {
        Some(dir) => Some(root().join(dir)),
        None => root()
            .join("../shared/corpus")
            .canonicalize()
            .ok()
            .filter(|d| d.is_dir()),
    }
}

/// The lines `versions` of docs speak of: the machine and the compiler.
pub(crate) fn machine() -> String {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| {
            l.strip_prefix("model name")
                .map(|r| r.trim_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .map_or_else(String::new, |kb: u64| {
            format!(", {:.0} GiB memory", kb as f64 / 1_048_576.0)
        });
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim();
    let system = std::env::consts::OS;
    format!("{cpu}, {cores} cores{memory}, {system} {kernel}")
}

/// The commit that is checked out, and whether files differ from it.
pub(crate) fn commit() -> Result<String> {
    let args = ["describe", "--always", "--dirty"];
    let said = output(Command::new("git").args(args).current_dir(root()))?;
    Ok(said.trim().to_owned())
}

/// The compiler's version.
pub(crate) fn rustc() -> Result<String> {
    let said = output(Command::new("rustc").arg("--version"))?;
    Ok(said.trim().to_owned())
}

/// Today, as `YYYY-MM-DD` (UTC).
pub(crate) fn today() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    // Days to civil date, by counting in 400-year cycles from 1 March of year 0.
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let d = of_year - (153 * month + 2) / 5 + 1;
    let m = if month < 10 { month + 3 } else { month - 9 };
    let y = year + era * 400 + i64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn today_is_a_date_of_this_century() {
        let today = super::today();
        assert_eq!(today.len(), 10, "{today}");
        assert!(today.starts_with("20"), "{today}");
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(super::root().join("Cargo.lock").is_file());
    }
}
