//! Finding the files to scan, by their names only: nothing is opened but folders.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::format::tensorflow::checkpoint;
use weighbridge_core::{Error, Result};

use super::ScanOptions;
use super::ignored::Ignored;

/// Most files beside a graph that it may read.
const MOST_BESIDE: usize = 1024;

/// What will be scanned, in the order of the reports: the paths as they were given, and in each
/// folder by name.
#[derive(Debug, Default)]
pub struct Listing {
    pub(super) entries: Vec<Entry>,
    /// The paths that were given.
    roots: Vec<PathBuf>,
    /// Links to files: they may lead out of the folders.
    links: Vec<PathBuf>,
    /// Files beside graphs that were given.
    beside: Vec<PathBuf>,
    ignored: u64,
    missing: u64,
    bytes: u64,
}

/// One path that gets a report.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A file to be looked into.
    File,
    /// The file of an earlier entry, reached another way.
    Same(usize),
    /// Something that is not scanned, and why.
    Skipped(String),
}

impl Listing {
    /// How many paths get a report.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing to scan.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How long the files are together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many files `.weighbridgeignore` files hide.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// How many of the paths that were given cannot be looked at. Each has a report that says why.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Everything that has to be readable for the scan: the paths that were given, the links met
    /// beneath them, which may lead elsewhere, the files beside an ONNX graph that was given, where
    /// its weights may lie, and the index beside the data of a TensorFlow checkpoint.
    pub fn reads(&self) -> impl Iterator<Item = &Path> {
        let more = self.links.iter().chain(&self.beside);
        self.roots.iter().chain(more).map(PathBuf::as_path)
    }
}

/// Lists what is at and beneath `paths`. `seen` is told of each path that is met.
///
/// # Errors
/// `Io` when none of `paths` can be looked at; `Io` or `Parameter` when an ignore file cannot be
/// followed. What goes wrong with one of several, or beneath, is in the listing.
pub fn list(
    paths: &[PathBuf],
    options: &ScanOptions,
    seen: &mut dyn FnMut(&Path),
) -> Result<Listing> {
    let mut walk = Walk {
        listing: Listing::default(),
        known: HashMap::new(),
        share: !options.settings.depend_on_paths(),
        seen,
    };
    let mut first = None;
    for path in paths {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) => {
                // What stands for the files of a checkpoint is itself no file.
                if walk.checkpoint(path) {
                    continue;
                }
                // What the other paths hold is told all the same.
                walk.listing.missing += 1;
                walk.skipped(path.clone(), format!("cannot be opened: {e}"));
                first.get_or_insert((path, e));
                continue;
            }
        };
        walk.listing.roots.push(path.clone());
        if !meta.is_dir() {
            let graph = path
                .extension()
                .is_some_and(|x| x.eq_ignore_ascii_case("onnx"));
            if graph {
                walk.beside(path);
            }
            // What lies in the data of a checkpoint is said by its index.
            let index = checkpoint::beside(path).filter(|p| p.is_file());
            walk.listing.beside.extend(index);
            walk.file(path.clone(), &meta);
            continue;
        }
        let ignored = if options.ignore_files {
            Ignored::of(path)?
        } else {
            Ignored::default()
        };
        let ignored = (!ignored.is_empty()).then_some(&ignored);
        walk.folder(path, Path::new(""), options.limits.depth, ignored);
    }
    match first {
        Some((path, e)) if walk.listing.roots.is_empty() => {
            Err(Error::io("cannot open", e).in_file(path.display().to_string()))
        }
        _ => Ok(walk.listing),
    }
}

/// What tells a file whatever path leads to it, and the name under which it was reached: what a
/// loader makes of a file depends on its name too.
type Identity = (u64, u64, OsString);

struct Walk<'a> {
    listing: Listing,
    known: HashMap<Identity, usize>,
    /// Whether a file's report holds for its other paths.
    share: bool,
    seen: &'a mut dyn FnMut(&Path),
}

impl Walk<'_> {
    /// Lists the folder at `path`, which lies at `beneath` in the folder that was given.
    fn folder(&mut self, path: &Path, beneath: &Path, depth: u32, ignored: Option<&Ignored>) {
        (self.seen)(path);
        let Some(depth) = depth.checked_sub(1) else {
            return self.skipped(path.into(), "folders lie in each other too deep".into());
        };
        let names = match names(path) {
            Ok(names) => names,
            Err(e) => return self.skipped(path.into(), format!("cannot list the folder: {e}")),
        };
        for name in names {
            let p = path.join(&name);
            let link = match std::fs::symlink_metadata(&p) {
                Ok(link) => link,
                Err(e) => {
                    self.skipped(p, format!("cannot be looked at: {e}"));
                    continue;
                }
            };
            let below = ignored.map(|i| (i, beneath.join(&name)));
            if let Some((patterns, below)) = &below
                && patterns.hides(below, link.is_dir())
            {
                self.listing.ignored += if link.is_dir() { count(&p, depth) } else { 1 };
            } else if link.is_dir() {
                let below = below.map(|(_, b)| b).unwrap_or_default();
                self.folder(&p, &below, depth, ignored);
            } else if link.is_symlink() {
                self.link(p);
            } else {
                self.file(p, &link);
            }
        }
    }

    /// Lists the files of the TensorFlow checkpoint whose prefix `path` is; says whether it is one.
    fn checkpoint(&mut self, path: &Path) -> bool {
        let mut found = false;
        for file in checkpoint::all_of(path) {
            if let Ok(meta) = std::fs::metadata(&file) {
                self.listing.roots.push(file.clone());
                self.file(file, &meta);
                found = true;
            }
        }
        found
    }

    /// Lists the files beside the graph at `path`: which of them hold its weights it only says
    /// itself, and nothing can be opened any more by the time that it is read. Folders are left
    /// out, so that little is opened by naming a model in a home folder.
    fn beside(&mut self, path: &Path) {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let Ok(names) = names(folder) else { return };
        let files = names.into_iter().map(|n| folder.join(n));
        let files = files.filter(|p| std::fs::metadata(p).is_ok_and(|m| m.is_file()));
        self.listing.beside.extend(files.take(MOST_BESIDE));
    }

    /// A link to a file is followed (model caches are made of them); one to a folder is not,
    /// because it can lead anywhere and back.
    fn link(&mut self, path: PathBuf) {
        match std::fs::metadata(&path) {
            Ok(m) if m.is_dir() => {
                self.skipped(path, "a symbolic link to a folder is not followed".into());
            }
            Ok(m) => {
                if m.is_file() {
                    self.listing.links.push(path.clone());
                }
                self.file(path, &m);
            }
            Err(e) => self.skipped(path, format!("cannot be opened: {e}")),
        }
    }

    fn file(&mut self, path: PathBuf, meta: &Metadata) {
        if !meta.is_file() {
            return self.skipped(path, "neither a file nor a folder".into());
        }
        let next = self.listing.entries.len();
        let id = self.share.then(|| identity(&path, meta)).flatten();
        let what = match id {
            Some(id) => match *self.known.entry(id).or_insert(next) {
                first if first == next => What::File,
                first => What::Same(first),
            },
            None => What::File,
        };
        if what == What::File {
            self.listing.bytes = self.listing.bytes.saturating_add(meta.len());
        }
        self.listing.entries.push(Entry { path, what });
    }

    fn skipped(&mut self, path: PathBuf, why: String) {
        self.listing.entries.push(Entry {
            path,
            what: What::Skipped(why),
        });
    }
}

/// The names in a folder, in their order.
fn names(path: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(path)?
        .map(|e| e.map(|e| e.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// How many files lie beneath a folder that is hidden.
fn count(path: &Path, depth: u32) -> u64 {
    let Some(depth) = depth.checked_sub(1) else {
        return 0;
    };
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let of = |e: std::fs::DirEntry| match e.file_type() {
        Ok(t) if t.is_dir() => count(&e.path(), depth),
        _ => 1,
    };
    entries.flatten().map(of).sum()
}

#[cfg(unix)]
fn identity(path: &Path, meta: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let name = path.file_name()?.to_ascii_lowercase();
    Some((meta.dev(), meta.ino(), name))
}

#[cfg(not(unix))]
fn identity(_: &Path, _: &Metadata) -> Option<Identity> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(paths: &[PathBuf], base: &Path, options: &ScanOptions) -> (Vec<String>, Listing) {
        let listing = list(paths, options, &mut |_| {}).unwrap();
        let shown = listing.entries.iter().map(|e| {
            let name = e.path.strip_prefix(base).unwrap().display();
            match &e.what {
                What::File => format!("{name}"),
                What::Same(n) => format!("{name} = {n}"),
                What::Skipped(_) => format!("{name} !"),
            }
        });
        (shown.collect(), listing)
    }

    #[test]
    fn folders_are_walked_in_order_and_links_to_folders_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("b/2.bin"), b"x").unwrap();
        std::fs::write(at("c"), b"x").unwrap();
        std::fs::write(at("a"), b"x").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path(), at("b/loop")).unwrap();
            std::os::unix::fs::symlink(at("a"), at("d")).unwrap();
            std::os::unix::fs::symlink(at("gone"), at("e")).unwrap();
        }
        let options = ScanOptions::default();
        let (shown, listing) = listed(&[dir.path().to_owned()], dir.path(), &options);
        if cfg!(unix) {
            assert_eq!(shown, ["a", "b/2.bin", "b/loop !", "c", "d", "e !"]);
            let reads: Vec<_> = listing.reads().collect();
            assert_eq!(reads, [dir.path(), &at("d")]);
        }
        assert!(list(&[at("missing")], &options, &mut |_| {}).is_err());
    }

    #[test]
    fn the_prefix_of_a_checkpoint_stands_for_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        for name in [
            "a.index",
            "a.data-00000-of-00002",
            "a.data-00001-of-00002",
            "a.meta",
            "a-1.index",
            "a.txt",
            "ab.index",
            "old-00000-of-00001",
        ] {
            std::fs::write(at(name), b"x").unwrap();
        }
        let options = ScanOptions::default();
        let (shown, listing) = listed(&[at("a")], dir.path(), &options);
        let files = [
            "a.data-00000-of-00002",
            "a.data-00001-of-00002",
            "a.index",
            "a.meta",
        ];
        assert_eq!(shown, files);
        assert_eq!(listing.missing(), 0);
        // All of them can be read once nothing else can.
        let reads: Vec<_> = listing.reads().map(Path::to_owned).collect();
        assert_eq!(reads, files.map(at));
        let (shown, _) = listed(&[at("old")], dir.path(), &options);
        assert_eq!(shown, ["old-00000-of-00001"]);
        assert!(list(&[at("gone")], &options, &mut |_| {}).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_under_one_name_in_two_places_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        for d in ["a", "b"] {
            std::fs::create_dir(at(d)).unwrap();
        }
        std::fs::write(at("a/m.pt"), b"x").unwrap();
        std::fs::hard_link(at("a/m.pt"), at("b/m.pt")).unwrap();
        // What it is called decides what loads it.
        std::fs::hard_link(at("a/m.pt"), at("b/other.py")).unwrap();
        std::os::unix::fs::symlink("../a/m.pt", at("b/M.PT")).unwrap();
        let root = [dir.path().to_owned()];
        let (shown, listing) = listed(&root, dir.path(), &ScanOptions::default());
        assert_eq!(shown, ["a/m.pt", "b/M.PT = 0", "b/m.pt = 0", "b/other.py"]);
        assert_eq!(listing.bytes(), 2);
    }

    #[test]
    fn what_is_ignored_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        std::fs::create_dir_all(at("skip/deep")).unwrap();
        std::fs::create_dir(at("model")).unwrap();
        for f in ["skip/1", "skip/deep/2", "a.log", "m.pt", "model/x.log"] {
            std::fs::write(at(f), b"x").unwrap();
        }
        std::fs::write(at(".weighbridgeignore"), "*.log\nskip/\n").unwrap();
        // One that came with a model hides nothing.
        std::fs::write(at("model/.weighbridgeignore"), "*\n").unwrap();
        std::fs::write(at("model/evil.pt"), b"x").unwrap();
        let options = ScanOptions {
            ignore_files: true,
            ..ScanOptions::default()
        };
        let root = [dir.path().to_owned()];
        let (shown, listing) = listed(&root, dir.path(), &options);
        let kept = [
            ".weighbridgeignore",
            "m.pt",
            "model/.weighbridgeignore",
            "model/evil.pt",
        ];
        assert_eq!(shown, kept);
        assert_eq!(listing.ignored(), 4);
        let (shown, listing) = listed(&root, dir.path(), &ScanOptions::default());
        assert_eq!((shown.len(), listing.ignored()), (8, 0));
        // Named on the command line, it is scanned.
        let (shown, _) = listed(&[at("a.log")], dir.path(), &options);
        assert_eq!(shown, ["a.log"]);
    }
}
