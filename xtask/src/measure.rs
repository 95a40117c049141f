//! What one command costs: wall time, peak resident memory, peak private memory.
//!
//! The kernel keeps peak resident memory for all waited-for children together, so each measured
//! command runs below a fresh process of this program (`xtask measure -- COMMAND`), which also is
//! small: a child's peak starts at the size of the process that spawned it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

/// How often private memory is looked at.
const SAMPLE: Duration = Duration::from_millis(2);

/// What a command cost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost {
    /// From before it was spawned until it was waited for.
    pub(crate) seconds: f64,
    /// Processor time of all of its threads, in the kernel's too; 0 where that is not known.
    pub(crate) processor: f64,
    /// Peak resident memory in bytes: file pages it had mapped included.
    pub(crate) resident: u64,
    /// Peak anonymous resident memory in bytes, sampled; 0 for what ends between two samples.
    pub(crate) private: u64,
    /// What it wrote to its standard output.
    pub(crate) output: String,
}

/// Runs `command` below a fresh measuring process.
///
/// # Errors
/// When it cannot be run or fails; its standard error is shown then.
pub(crate) fn measure(command: &[&str]) -> Result<Cost> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new(own)
        .args(["measure", "--"])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start {command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let mut numbers = first.split(' ').map(str::parse::<f64>);
    let (Some(Ok(seconds)), Some(Ok(resident)), Some(Ok(private)), Some(Ok(processor)), true) = (
        numbers.next(),
        numbers.next(),
        numbers.next(),
        numbers.next(),
        out.status.success(),
    ) else {
        return Err(format!(
            "{} failed ({}):\n{}",
            command.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        ));
    };
    Ok(Cost {
        seconds,
        processor,
        resident: resident as u64,
        private: private as u64,
        output: rest.to_owned(),
    })
}

/// How a command ended that may fail.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// What it cost; its output is both streams.
    pub(crate) cost: Cost,
    /// The exit code; `None` when a signal ended it, as running out of time does.
    pub(crate) code: Option<i32>,
}

/// Most memory that a command on trial may reserve, in bytes.
const MOST_MEMORY: u64 = 8 << 30;

/// Runs `command` in `dir` below a fresh measuring process, for at most `limit`, whatever it
/// makes of it.
///
/// # Errors
/// When it cannot be run.
pub(crate) fn attempt(command: &[&str], dir: &Path, limit: Duration) -> Result<Outcome> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new(own)
        .args(["measure", "--limit", &limit.as_secs().to_string(), "--"])
        .args(command)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start {command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let words: Vec<&str> = first.split(' ').collect();
    let number = |n: usize| words.get(n).and_then(|w| w.parse::<f64>().ok());
    let (Some(seconds), Some(resident), Some(private), Some(processor), true) = (
        number(0),
        number(1),
        number(2),
        number(3),
        out.status.success(),
    ) else {
        return Err(format!(
            "{} could not be tried ({}):\n{}",
            command.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        ));
    };
    Ok(Outcome {
        cost: Cost {
            seconds,
            processor,
            resident: resident as u64,
            private: private as u64,
            output: rest.to_owned(),
        },
        code: words.get(4).and_then(|w| w.parse().ok()),
    })
}

/// The measuring process: `measure -- COMMAND…` prints `SECONDS RESIDENT PRIVATE PROCESSOR`, a line
/// feed and what the command wrote. `measure --limit SECONDS -- COMMAND…` ends it when it takes longer,
/// takes any exit code and prints that fifth (`-` for none).
///
/// # Errors
/// When the command cannot be run, or fails without `--limit`.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let limit = match arguments {
        [flag, seconds, ..] if flag == "--limit" => {
            let seconds = seconds.parse().map_err(|_| "--limit SECONDS")?;
            Some(Duration::from_secs(seconds))
        }
        _ => None,
    };
    let arguments = arguments.get(if limit.is_some() { 2 } else { 0 }..);
    let command = match arguments.and_then(|a| a.split_first()) {
        Some((dashes, command)) if dashes == "--" => command,
        _ => arguments.unwrap_or_default(),
    };
    let Some((program, rest)) = command.split_first() else {
        return Err("measure -- COMMAND".into());
    };
    // A file, not a pipe: nobody reads while the command runs.
    let kept = std::env::temp_dir().join(format!("xtask-measure-{}", std::process::id()));
    let file = std::fs::File::create(&kept).map_err(|e| e.to_string())?;
    let errors = match limit {
        Some(_) => Some(file.try_clone().map_err(|e| e.to_string())?),
        None => None,
    };
    let outcome = spawn(program, rest, file, errors, limit);
    let output = std::fs::read(&kept).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    let _ = std::fs::remove_file(&kept);
    let (cost, code) = outcome?;
    let (resident, private) = (cost.resident, cost.private);
    print!("{} {resident} {private} {}", cost.seconds, cost.processor);
    match (limit, code) {
        (None, _) => println!(),
        (Some(_), Some(code)) => println!(" {code}"),
        (Some(_), None) => println!(" -"),
    }
    print!("{output}");
    Ok(())
}

fn spawn(
    program: &str,
    arguments: &[String],
    stdout: std::fs::File,
    stderr: Option<std::fs::File>,
    limit: Option<Duration>,
) -> Result<(Cost, Option<i32>)> {
    let mut command = Command::new(program);
    command.args(arguments).stdout(stdout);
    if let Some(stderr) = stderr {
        command.stderr(stderr);
    }
    if limit.is_some() {
        on_trial(&mut command);
    }
    let started = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|e| format!("cannot start {program}: {e}"))?;
    let done = AtomicBool::new(false);
    let private = AtomicU64::new(0);
    let id = child.id();
    let status_file = format!("/proc/{id}/status");
    let status = std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some(n) = anonymous(Path::new(&status_file)) {
                    private.fetch_max(n, Ordering::Relaxed);
                }
                if limit.is_some_and(|l| started.elapsed() > l) {
                    end(id);
                }
                std::thread::sleep(SAMPLE);
            }
        });
        let status = child.wait();
        let seconds = started.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        status.map(|s| (s, seconds))
    });
    let (status, seconds) = status.map_err(|e| e.to_string())?;
    if limit.is_none() && !status.success() {
        return Err(format!("{program}: {status}"));
    }
    let (resident, processor) = children();
    let cost = Cost {
        seconds,
        processor,
        resident,
        private: private.load(Ordering::Relaxed),
        output: String::new(),
    };
    Ok((cost, status.code()))
}

/// Gives a command a process group of its own, so that all of it can be ended, and a limit of
/// memory.
#[cfg(unix)]
fn on_trial(command: &mut Command) {
    use nix::sys::resource::{Resource, setrlimit};
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    // This process is small and ends with the command.
    let _ = setrlimit(Resource::RLIMIT_AS, MOST_MEMORY, MOST_MEMORY);
}

#[cfg(not(unix))]
fn on_trial(_: &mut Command) {}

/// Ends the process group that the command leads.
#[cfg(unix)]
fn end(id: u32) {
    use nix::sys::signal::{Signal, killpg};
    if let Ok(id) = i32::try_from(id) {
        let _ = killpg(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
    }
}

#[cfg(not(unix))]
fn end(_: u32) {}

/// `RssAnon` of a process, in bytes.
fn anonymous(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kb: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kb * 1024)
}

/// Peak resident memory of the waited-for children in bytes, and their processor time in seconds.
#[cfg(unix)]
fn children() -> (u64, f64) {
    use nix::sys::resource::{UsageWho, getrusage};
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let Ok(used) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return (0, 0.0);
    };
    let resident = u64::try_from(used.max_rss()).map_or(0, |n| n * unit);
    let seconds = [used.user_time(), used.system_time()]
        .map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6);
    (resident, seconds.iter().sum())
}

#[cfg(not(unix))]
fn children() -> (u64, f64) {
    (0, 0.0)
}

/// The middle value; the mean of the two middle ones for an even count; NaN for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_command_that_holds_memory_is_seen_to() {
        let file = tempfile();
        let cost = spawn(
            "sh",
            &[
                "-c".into(),
                "x=$(head -c 30000000 /dev/zero | tr '\\0' a); sleep 0.05".into(),
            ],
            file,
            None,
            None,
        )
        .expect("sh runs")
        .0;
        assert!(cost.resident > 20 << 20, "{cost:?}");
        assert!(cost.private > 20 << 20, "{cost:?}");
        assert!(cost.seconds > 0.04, "{cost:?}");
        assert!(cost.processor > 0.0, "{cost:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_takes_too_long_is_ended_with_all_it_has_started() {
        let sh = |script: &str| {
            let limit = Some(Duration::from_millis(300));
            spawn("sh", &["-c".into(), script.into()], tempfile(), None, limit).expect("sh runs")
        };
        let (cost, code) = sh("sleep 30 & sleep 30");
        assert!(cost.seconds < 10.0, "{cost:?}");
        assert_eq!(code, None);
        assert_eq!(sh("exit 3").1, Some(3));
    }

    #[cfg(target_os = "linux")]
    fn tempfile() -> std::fs::File {
        std::fs::File::create("/dev/null").expect("null")
    }
}
