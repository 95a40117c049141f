//! Linux: Landlock for files, seccomp for system calls.

use std::path::PathBuf;

use crate::{Layer, Report, files};

pub(crate) fn enter(read: &[PathBuf], write: &[i32]) -> Report {
    // Files first: once system calls are filtered, Landlock's own are not among the allowed.
    let (files, landlock_abi) = files::restrict(read);
    Report {
        files,
        landlock_abi,
        calls: calls(Reach::Process, write),
    }
}

pub(crate) fn close_files_of_this_thread() -> Layer {
    files::restrict_this_thread(&[]).0
}

pub(crate) fn offered() -> Report {
    let tried = std::thread::Builder::new().spawn(|| {
        let (files, landlock_abi) = files::restrict_this_thread(&[]);
        Report {
            files,
            landlock_abi,
            calls: calls(Reach::Thread, &[]),
        }
    });
    let failed = || Layer::Off("it could not be tried".into());
    tried
        .ok()
        .and_then(|t| t.join().ok())
        .unwrap_or_else(|| Report {
            files: failed(),
            landlock_abi: None,
            calls: failed(),
        })
}

/// Which threads a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every thread of the process.
    Process,
    /// The calling thread.
    Thread,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn calls(reach: Reach, write: &[i32]) -> Layer {
    match crate::calls::restrict(reach, write) {
        Ok(()) => Layer::On,
        Err(e) => Layer::Off(format!("the kernel refuses seccomp filters: {e}")),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn calls(_: Reach, _: &[i32]) -> Layer {
    Layer::Off("no seccomp filter is known for this processor".into())
}
