//! A process that only reads.
//!
//! A parser of hostile bytes needs very little of the system: it reads files that are known by
//! name, computes, and says what it found. [`Sandbox::enter`] gives everything else up for good,
//! so that a fault in the parser is not a way into the machine:
//!
//! - *Files*: only what was planned can be opened, for reading; nothing can be written, made,
//!   removed, renamed or executed (Landlock, as far as the kernel's version of it reaches).
//! - *System calls*: a list of what a reader with threads needs; everything else fails with
//!   `EPERM` (seccomp). No sockets, no new programs or processes, no tracing, no signals to
//!   others, no executable memory, no writing but to standard output, standard error and what was
//!   opened for the purpose before.
//!
//! Both layers are Linux's. Elsewhere, and where the kernel lacks one, [`Report`] says so and the
//! process goes on: what must not go on without it asks [`Report::is_complete`].

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod calls;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod none;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use none as platform;

use std::path::PathBuf;

/// What a process will still be able to read.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    read: Vec<PathBuf>,
    /// Descriptors.
    write: Vec<i32>,
}

impl Sandbox {
    /// Plans a sandbox in which the files at `read`, and the files beneath the folders among
    /// them, can be read. Links are followed when the sandbox is entered; a path that is not
    /// there by then is left out, and reading it fails as it would have.
    pub fn plan(read: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            read: read.into_iter().collect(),
            write: Vec::new(),
        }
    }

    /// Lets an open file be written to and cut to its length, as standard output can be: the way
    /// out for a report that goes to a file.
    #[cfg(unix)]
    #[must_use]
    pub fn writing_to(mut self, file: &impl std::os::fd::AsRawFd) -> Self {
        self.write.push(file.as_raw_fd());
        self
    }

    /// Enters the sandbox, for good.
    ///
    /// Call it before other threads are started: system calls are restricted for every thread of
    /// the process, but kernels before 7.0 restrict files for the calling thread and those that
    /// it starts from then on only. What reads the system's configuration (the number of cores
    /// under a container's quota, the time zone) has to be done before.
    pub fn enter(self) -> Report {
        platform::enter(&self.read, &self.write)
    }

    /// Takes the right to open files from the calling thread alone, for a thread that does
    /// nothing but wait and has to be started before the process enters its sandbox.
    pub fn close_files_of_this_thread() -> Layer {
        platform::close_files_of_this_thread()
    }

    /// What [`Sandbox::enter`] would give here. It is tried on a thread that ends at once, so
    /// that the process stays as it is.
    pub fn offered() -> Report {
        platform::offered()
    }
}

/// Whether one layer of protection is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// It is.
    On,
    /// It is not, and why, for people.
    Off(String),
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Files: Landlock.
    pub files: Layer,
    /// The version of the kernel's Landlock that is in use, where there is one: version 4 added
    /// the network, 6 signals and abstract sockets.
    pub landlock_abi: Option<u32>,
    /// System calls: seccomp.
    pub calls: Layer,
}

impl Report {
    /// Whether every layer is in force.
    pub fn is_complete(&self) -> bool {
        self.files == Layer::On && self.calls == Layer::On
    }

    /// Why layers are missing, for people; nothing when none is.
    pub fn missing(&self) -> Vec<&str> {
        [&self.files, &self.calls]
            .into_iter()
            .filter_map(|layer| match layer {
                Layer::On => None,
                Layer::Off(why) => Some(why.as_str()),
            })
            .collect()
    }
}

impl Report {
    /// What is missing, as one clause.
    pub fn missing_text(&self) -> String {
        let mut why = self.missing();
        why.dedup();
        why.join(", and ")
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if cfg!(not(target_os = "linux")) {
            return f.write_str("none on this platform");
        }
        match (&self.files, self.landlock_abi) {
            (Layer::On, Some(abi)) => write!(f, "Landlock ABI {abi}")?,
            (Layer::On, None) => f.write_str("Landlock")?,
            (Layer::Off(why), _) => write!(f, "no Landlock ({why})")?,
        }
        match &self.calls {
            Layer::On => f.write_str(", seccomp"),
            Layer::Off(why) => write!(f, ", no seccomp ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let off = |s: &str| Layer::Off(s.into());
        let report = |files, calls| Report {
            files,
            landlock_abi: None,
            calls,
        };
        assert!(report(Layer::On, Layer::On).is_complete());
        assert!(report(Layer::On, Layer::On).missing().is_empty());
        let half = report(Layer::On, off("b"));
        assert!(!half.is_complete());
        assert_eq!(half.missing(), ["b"]);
        let none = report(off("a"), off("b"));
        assert!(!none.is_complete());
        assert_eq!(none.missing(), ["a", "b"]);
        assert_eq!(none.missing_text(), "a, and b");
        assert_eq!(report(off("a"), off("a")).missing_text(), "a");
    }

    #[test]
    fn asking_what_is_offered_changes_nothing() {
        let first = Sandbox::offered();
        let file = std::env::temp_dir().join(format!("weighbridge-offered-{}", std::process::id()));
        std::fs::write(&file, b"x").unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Sandbox::offered(), first);
        assert_eq!(first.is_complete(), first.missing().is_empty());
    }
}
