//! Drives a scan: files on every core, reports in the order of the listing.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use weighbridge_core::{Limits, Result};
use weighbridge_scan::report::Report;
use weighbridge_scan::{Engine, FileReport};

use super::gate::Gate;
use super::walk::{Entry, Listing, What, list};
use super::weights::Weights;
use super::{ScanOptions, scan_file, unread};

/// How far beyond the first file whose report is not out yet others are begun.
const AHEAD: usize = 1024;

/// How many findings and gaps may wait for their turn.
const WAITING: usize = 20_000;

/// The stack of a thread that looks into files, in bytes: as much as a main thread has.
const STACK: usize = 8 << 20;

/// Scans the files at `paths`, folders recursively and in the order of their names. `progress` is
/// told each file that is taken up.
///
/// # Errors
/// `Io` when none of `paths` exists. What goes wrong with a file beneath is in its report.
pub fn scan(
    paths: &[PathBuf],
    options: &ScanOptions,
    progress: &mut dyn FnMut(&Path),
) -> Result<Report> {
    let listing = list(paths, options, &mut |_| {})?;
    let mut report = Report::default();
    scan_listed(&listing, options, progress, &mut |file| {
        report.files.push(file);
        Ok(())
    })?;
    Ok(report)
}

/// Scans what was listed and gives the reports to `each`, one a path, in the order of the
/// listing and as soon as it is their turn; few are held at a time. `progress` is told each file
/// that is taken up. Both are called on the calling thread.
///
/// # Errors
/// What `each` returns ends the scan. What goes wrong with a file is in its report.
pub fn scan_listed(
    listing: &Listing,
    options: &ScanOptions,
    progress: &mut dyn FnMut(&Path),
    each: &mut dyn FnMut(FileReport) -> Result<()>,
) -> Result<()> {
    let engine = Engine::configured(&options.settings)?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let threads = threads.min(listing.entries.len());
    let job = Job {
        models: model_folders(&listing.entries),
        weights: Weights::new(&listing.entries, &options.limits),
        entries: &listing.entries,
        engine: &engine,
        limits: &options.limits,
        contain: options.contain_panics,
        gate: Gate::new(threads),
    };
    let look = |path: &Path| job.look(path);
    let mut out = Repeats::new(&listing.entries, &look, each);
    if threads > 1 {
        parallel(&job, threads, progress, &mut out)
    } else {
        serial(&job, progress, &mut out)
    }
}

/// What is to be done.
struct Job<'a> {
    entries: &'a [Entry],
    /// The folders in which a model lies.
    models: HashSet<&'a Path>,
    /// The weights of graphs that lie outside of them.
    weights: Weights<'a>,
    engine: &'a Engine,
    limits: &'a Limits,
    contain: bool,
    gate: Arc<Gate>,
}

impl Job<'_> {
    /// The report of an entry; `None` for what repeats an earlier one.
    fn report(&self, i: usize) -> Result<Option<FileReport>> {
        let Some(entry) = self.entries.get(i) else {
            return Ok(None);
        };
        match &entry.what {
            What::File => self.look(&entry.path).map(Some),
            What::Same(_) => Ok(None),
            What::Skipped(why) => Ok(Some(unread(&entry.path, why.clone()))),
        }
    }

    fn look(&self, path: &Path) -> Result<FileReport> {
        let _visit = self.gate.file();
        let beside = path.parent().is_some_and(|p| self.models.contains(p));
        let look = || scan_file(self.engine, path, beside, &self.weights, self.limits);
        if !self.contain {
            return look();
        }
        // One file that makes the scanner fail may not hide what the others hold.
        catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|panic| {
            let why = format!(
                "the scanner itself failed, which is a bug: {}",
                said(&panic)
            );
            Ok(unread(path, why))
        })
    }
}

/// The folders in which a file lies whose name says that it is a model.
fn model_folders(entries: &[Entry]) -> HashSet<&Path> {
    let model = |e: &&Entry| e.path.to_str().is_some_and(super::zip::is_model);
    let models = entries.iter().filter(model);
    models.filter_map(|e| e.path.parent()).collect()
}

/// What a panic said.
fn said(panic: &Box<dyn Any + Send>) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it did not say why")
}

/// Hands reports out, and those of files that were read under another path again, where they
/// hold for that path too.
struct Repeats<'a> {
    entries: &'a [Entry],
    /// How often a file comes again.
    still: HashMap<usize, u64>,
    kept: HashMap<usize, FileReport>,
    /// Looks into a file.
    look: &'a dyn Fn(&Path) -> Result<FileReport>,
    each: &'a mut dyn FnMut(FileReport) -> Result<()>,
}

impl<'a> Repeats<'a> {
    fn new(
        entries: &'a [Entry],
        look: &'a dyn Fn(&Path) -> Result<FileReport>,
        each: &'a mut dyn FnMut(FileReport) -> Result<()>,
    ) -> Self {
        let mut still = HashMap::new();
        for e in entries {
            if let What::Same(first) = e.what {
                *still.entry(first).or_default() += 1;
            }
        }
        Self {
            entries,
            still,
            kept: HashMap::new(),
            look,
            each,
        }
    }

    /// Gives the report of entry `i`, `None` where it repeats another.
    fn give(&mut self, i: usize, report: Option<FileReport>) -> Result<()> {
        if let Some(report) = report {
            if self.still.contains_key(&i) && !report.of_folder {
                self.kept.insert(i, report.clone());
            }
            return (self.each)(report);
        }
        let Some(Entry {
            path,
            what: What::Same(first),
        }) = self.entries.get(i)
        else {
            return Ok(());
        };
        let left = self.still.get_mut(first).map(|n| {
            *n = n.saturating_sub(1);
            *n
        });
        let report = match left {
            Some(1..) => self.kept.get(first).cloned(),
            _ => self.kept.remove(first),
        };
        let report = match report {
            Some(mut report) => {
                report.path = path.display().to_string();
                report
            }
            None => (self.look)(path)?,
        };
        (self.each)(report)
    }
}

/// Where the threads meet.
struct Meeting {
    state: Mutex<State>,
    /// Told when a thread may begin another file.
    room: Condvar,
    /// Told when a file was begun or is done.
    news: Condvar,
}

#[derive(Default)]
struct State {
    /// The next entry to begin.
    next: usize,
    /// How many reports are out.
    out: usize,
    done: BTreeMap<usize, Result<Option<FileReport>>>,
    /// Findings and gaps among `done`.
    waiting: usize,
    /// No more files are begun.
    over: bool,
    /// A thread ended in a panic: its report will never come.
    broken: bool,
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next entry for a thread to look into, once there is room for its report.
    fn begin(&self, entries: usize) -> Option<usize> {
        let mut s = self.state();
        loop {
            if s.over || s.next >= entries {
                return None;
            }
            // The one whose turn it is always has room, so that things go on.
            if s.next == s.out || (s.next - s.out < AHEAD && s.waiting < WAITING) {
                break;
            }
            s = self.room.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        let i = s.next;
        s.next += 1;
        self.news.notify_one();
        Some(i)
    }

    fn done(&self, i: usize, report: Result<Option<FileReport>>) {
        let mut s = self.state();
        s.waiting += weight(&report);
        s.done.insert(i, report);
        self.news.notify_one();
    }

    fn stop(&self) {
        self.state().over = true;
        self.room.notify_all();
    }
}

fn weight(report: &Result<Option<FileReport>>) -> usize {
    match report {
        Ok(Some(r)) => r.findings.len() + r.incomplete.len(),
        _ => 0,
    }
}

/// Ends the meeting when its thread ends in a panic: otherwise all would wait for its report.
struct Watch<'a>(&'a Meeting);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state().broken = true;
            self.0.stop();
            self.0.news.notify_one();
        }
    }
}

fn parallel(
    job: &Job<'_>,
    threads: usize,
    progress: &mut dyn FnMut(&Path),
    out: &mut Repeats<'_>,
) -> Result<()> {
    let meeting = Meeting {
        state: Mutex::default(),
        room: Condvar::new(),
        news: Condvar::new(),
    };
    let entries = job.entries.len();
    let work = || {
        let watch = Watch(&meeting);
        while let Some(i) = watch.0.begin(entries) {
            let report = job.report(i);
            watch.0.done(i, report);
        }
    };
    std::thread::scope(|scope| {
        let mut started = 0;
        for n in 0..threads {
            let thread = std::thread::Builder::new()
                .name(format!("scan-{n}"))
                .stack_size(STACK);
            if thread.spawn_scoped(scope, work).is_err() {
                break;
            }
            started += 1;
        }
        if started == 0 {
            // No thread is to be had.
            return serial(job, progress, out);
        }
        let outcome = hand_out(&meeting, job.entries, progress, out);
        meeting.stop();
        outcome
    })
}

fn serial(job: &Job<'_>, progress: &mut dyn FnMut(&Path), out: &mut Repeats<'_>) -> Result<()> {
    for (i, entry) in job.entries.iter().enumerate() {
        if entry.what == What::File {
            progress(&entry.path);
        }
        let report = job.report(i)?;
        out.give(i, report)?;
    }
    Ok(())
}

/// Gives the reports out in their order, until the last one or the first error.
fn hand_out(
    meeting: &Meeting,
    entries: &[Entry],
    progress: &mut dyn FnMut(&Path),
    out: &mut Repeats<'_>,
) -> Result<()> {
    let mut told = 0;
    for turn in 0..entries.len() {
        let report = loop {
            let mut s = meeting.state();
            while s.next == told && !s.done.contains_key(&turn) && !s.broken {
                s = meeting.news.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
            let begun = told..s.next;
            told = s.next;
            let report = s.done.remove(&turn);
            if let Some(report) = &report {
                s.out = turn + 1;
                s.waiting -= weight(report);
                meeting.room.notify_all();
            }
            let broken = s.broken;
            drop(s);
            for e in entries.get(begun).unwrap_or_default() {
                if e.what == What::File {
                    progress(&e.path);
                }
            }
            match report {
                Some(report) => break report,
                // The scope ends in the thread's panic.
                None if broken => return Ok(()),
                None => {}
            }
        };
        out.give(turn, report?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use weighbridge_core::Error;
    use weighbridge_scan::Verdict;

    use super::*;

    const EVIL: &[u8] = b"cposix\nsystem\n(Vid\ntR.";

    /// A folder of `n` small files, every tenth of them harmful.
    fn folder(n: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..n {
            let bytes: &[u8] = if i % 10 == 0 { EVIL } else { b"text" };
            std::fs::write(dir.path().join(format!("{i:05}.txt")), bytes).unwrap();
        }
        dir
    }

    fn options(threads: usize) -> ScanOptions {
        ScanOptions {
            threads,
            ..ScanOptions::default()
        }
    }

    #[test]
    fn reports_come_in_order_whatever_the_number_of_threads() {
        let dir = folder(2 * AHEAD + 7);
        let paths = [dir.path().to_owned()];
        let run = |threads| {
            let mut told = Vec::new();
            let mut tell = |p: &Path| told.push(p.to_owned());
            let report = scan(&paths, &options(threads), &mut tell).unwrap();
            (report.files, told)
        };
        let (one, told) = run(1);
        let (many, told_many) = run(7);
        assert_eq!(one.len(), 2 * AHEAD + 7);
        assert_eq!(told, told_many);
        for (i, (a, b)) in one.iter().zip(&many).enumerate() {
            assert_eq!((&a.path, a.verdict), (&b.path, b.verdict));
            assert!(a.path.ends_with(&format!("{i:05}.txt")), "{}", a.path);
            assert_eq!(a.verdict == Verdict::Malicious, i % 10 == 0);
        }
        assert_eq!(many.len(), one.len());
    }

    #[test]
    fn an_error_of_the_receiver_ends_the_scan() {
        let dir = folder(300);
        for threads in [1, 4] {
            let options = options(threads);
            let listing = list(&[dir.path().to_owned()], &options, &mut |_| {}).unwrap();
            let mut taken = 0;
            let outcome = scan_listed(&listing, &options, &mut |_| {}, &mut |_| {
                taken += 1;
                match taken {
                    5 => Err(Error::parameter("test", "enough")),
                    _ => Ok(()),
                }
            });
            assert_eq!((outcome.unwrap_err().rule(), taken), ("test", 5));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_met_again_is_reported_under_each_path() {
        let dir = tempfile::tempdir().unwrap();
        for d in ["a", "b", "c"] {
            std::fs::create_dir(dir.path().join(d)).unwrap();
        }
        let first = dir.path().join("a/m.pkl");
        std::fs::write(&first, EVIL).unwrap();
        std::fs::hard_link(&first, dir.path().join("b/m.pkl")).unwrap();
        std::os::unix::fs::symlink(&first, dir.path().join("c/m.pkl")).unwrap();
        for threads in [1, 4] {
            let mut told = 0;
            let paths = [dir.path().to_owned()];
            let report = scan(&paths, &options(threads), &mut |_| told += 1).unwrap();
            assert_eq!(told, 1, "it is read once");
            let seen: Vec<_> = report
                .files
                .iter()
                .map(|f| (f.path.rsplit('/').nth(1).unwrap(), f.verdict))
                .collect();
            let bad = Verdict::Malicious;
            assert_eq!(seen, [("a", bad), ("b", bad), ("c", bad)]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_lies_beside_a_file_counts_under_each_path() {
        let dir = tempfile::tempdir().unwrap();
        for d in ["a", "b"] {
            std::fs::create_dir(dir.path().join(d)).unwrap();
        }
        // Alone a program is a program; beside a model it has no business.
        let program = [&b"\x7fELF\x02\x01\x01"[..], &[0; 57]].concat();
        std::fs::write(dir.path().join("a/run"), program).unwrap();
        std::os::unix::fs::symlink("../a/run", dir.path().join("b/run")).unwrap();
        std::fs::write(dir.path().join("b/m.pkl"), b"\x80\x02N.").unwrap();
        for threads in [1, 4] {
            let paths = [dir.path().to_owned()];
            let report = scan(&paths, &options(threads), &mut |_| {}).unwrap();
            let rules = |f: &FileReport| {
                let rules = f.findings.iter().map(|x| x.rule.to_string());
                rules.collect::<Vec<_>>().join(" ")
            };
            let [alone, _, beside] = report.files.as_slice() else {
                panic!("{} reports", report.files.len());
            };
            assert!(beside.path.ends_with("b/run"), "{}", beside.path);
            assert_eq!(rules(alone), "WB-COD-009");
            assert_eq!(rules(beside), "WB-COD-008");
        }
    }

    #[test]
    fn a_thread_that_panics_ends_the_meeting() {
        let meeting = Meeting {
            state: Mutex::default(),
            room: Condvar::new(),
            news: Condvar::new(),
        };
        let ended = catch_unwind(AssertUnwindSafe(|| {
            std::thread::scope(|s| {
                s.spawn(|| {
                    let watch = Watch(&meeting);
                    assert_eq!(watch.0.begin(9), Some(0));
                    panic!("on purpose");
                });
                let mut each = |_| Ok(());
                let look = |_: &Path| unreachable!("nothing comes again");
                let mut out = Repeats::new(&[], &look, &mut each);
                let entry = Entry {
                    path: PathBuf::new(),
                    what: What::File,
                };
                hand_out(&meeting, &[entry], &mut |_| {}, &mut out)
            })
        }));
        assert!(ended.is_err());
        assert_eq!(meeting.begin(9), None);
    }
}
