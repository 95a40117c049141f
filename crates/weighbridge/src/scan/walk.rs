//! Finding the files to scan.

use std::path::{Path, PathBuf};

use weighbridge_core::{Error, Limits, Result};

/// What the walk met.
pub(super) enum Found<'a> {
    /// A file, to be scanned.
    File(&'a Path),
    /// Something that is not scanned, and why.
    Skipped(&'a Path, String),
}

/// Gives every file at or beneath `path` to `f`, folders in the order of their names.
///
/// # Errors
/// `Io` when `path` itself cannot be looked at, and what `f` returns.
pub(super) fn walk(
    path: &Path,
    limits: &Limits,
    f: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let meta = std::fs::metadata(path)
        .map_err(|e| Error::io("cannot open", e).in_file(path.display().to_string()))?;
    if meta.is_dir() {
        folder(path, limits.depth, f)
    } else {
        f(Found::File(path))
    }
}

fn folder(path: &Path, depth: u32, f: &mut dyn FnMut(Found<'_>) -> Result<()>) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return f(Found::Skipped(
            path,
            "folders lie in each other too deep".into(),
        ));
    };
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(e) => e,
        Err(e) => return f(Found::Skipped(path, format!("cannot list the folder: {e}"))),
    };
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).collect();
    paths.sort();
    for p in paths {
        let Ok(link) = std::fs::symlink_metadata(&p) else {
            f(Found::Skipped(&p, "cannot be looked at".into()))?;
            continue;
        };
        if link.is_dir() {
            folder(&p, depth, f)?;
            continue;
        }
        // A link to a file is followed (model caches are made of them); one to a folder is not,
        // because it can lead anywhere and back.
        match std::fs::metadata(&p) {
            Ok(m) if m.is_file() => f(Found::File(&p))?,
            Ok(m) if m.is_dir() => {
                f(Found::Skipped(
                    &p,
                    "a symbolic link to a folder is not followed".into(),
                ))?;
            }
            Ok(_) => f(Found::Skipped(&p, "neither a file nor a folder".into()))?,
            Err(e) => f(Found::Skipped(&p, format!("cannot be opened: {e}")))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        let mut f = |found: Found<'_>| {
            let name = |p: &Path| p.strip_prefix(dir.path()).unwrap().display().to_string();
            match found {
                Found::File(p) => files.push(name(p)),
                Found::Skipped(p, _) => skipped.push(name(p)),
            }
            Ok(())
        };
        walk(dir.path(), &Limits::default(), &mut f).unwrap();
        if cfg!(unix) {
            assert_eq!(files, ["a", "b/2.bin", "c", "d"]);
            assert_eq!(skipped, ["b/loop", "e"]);
        }
        assert!(walk(&at("missing"), &Limits::default(), &mut |_| Ok(())).is_err());
    }
}
