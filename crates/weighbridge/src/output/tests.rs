use super::place::failed;
use super::*;
use std::fs::File;
use weighbridge_core::source::{FileSource, SliceSource};

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_dropped_output_leaves_the_old_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    std::fs::write(&path, b"old").unwrap();
    let mut out = Output::create(&path, true).unwrap();
    out.reserve(10 << 20).unwrap();
    out.put(&vec![7; 3 << 20]).unwrap();
    assert_eq!(
        listing(dir.path()).len(),
        2,
        "a temporary file lies beside it"
    );
    drop(out);
    assert_eq!(listing(dir.path()), ["m.bin"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn bytes_arrive_in_order_from_every_path() {
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..5u32 << 20).map(|i| (i % 253) as u8).collect();
    let input = dir.path().join("in");
    std::fs::write(&input, &big).unwrap();
    let file = FileSource::open(&input).unwrap();
    let memory = SliceSource::new(big.clone(), "memory");
    let path = dir.path().join("out");
    let mut out = Output::create(&path, false).unwrap();
    out.reserve(64 << 20).unwrap();
    let mut want = Vec::new();
    for i in 0..9usize {
        out.put(&big[i..i + 100_001]).unwrap();
        want.extend_from_slice(&big[i..i + 100_001]);
        let range = (i * 1000)..(i * 1000 + 400_000 * i);
        let source: &dyn ByteSource = if i % 2 == 0 { &file } else { &memory };
        out.copy(source, range.start as u64..range.end as u64)
            .unwrap();
        want.extend_from_slice(&big[range]);
    }
    out.put(&big).unwrap();
    want.extend_from_slice(&big);
    assert_eq!(out.position(), want.len() as u64);
    out.finish().unwrap();
    assert!(std::fs::read(&path).unwrap() == want);
    assert_eq!(listing(dir.path()), ["in", "out"]);
}

#[test]
fn a_source_that_shrinks_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    std::fs::write(&input, vec![1; 4 << 20]).unwrap();
    let source = FileSource::open(&input).unwrap();
    File::options()
        .write(true)
        .open(&input)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let mut out = Output::create(&dir.path().join("out"), false).unwrap();
    let e = out.copy(&source, 0..4 << 20).unwrap_err();
    assert_eq!(e.rule(), "source.shrunk");
    drop(out);
    assert_eq!(listing(dir.path()), ["in"]);
}

#[test]
fn a_set_appears_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let write = |set: &mut OutputSet, name: &str| {
        let mut out = Output::create(&dir.path().join(name), true).unwrap();
        out.put(name.as_bytes()).unwrap();
        set.push(out).unwrap();
    };
    let mut set = OutputSet::new();
    write(&mut set, "a");
    write(&mut set, "b");
    assert!(listing(dir.path()).iter().all(|n| n.ends_with(".tmp")));
    drop(set);
    assert!(listing(dir.path()).is_empty());
    let mut set = OutputSet::new();
    write(&mut set, "a");
    write(&mut set, "b");
    assert_eq!(set.commit().unwrap().len(), 2);
    assert_eq!(listing(dir.path()), ["a", "b"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_permissions_kept() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    std::fs::write(&real, b"old").unwrap();
    std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("real", &link).unwrap();
    assert!(same_file(&real, &link));
    let mut out = Output::create(&link, true).unwrap();
    out.put(b"new").unwrap();
    out.finish().unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(&real).unwrap(), b"new");
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!same_file(&real, dir.path()));
    let e = Output::create(dir.path(), true).unwrap_err();
    assert_eq!(e.rule(), "output.is-a-directory");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let path = Path::new("/dev/full");
    assert_eq!(
        Output::create(path, false).unwrap_err().rule(),
        "output.not-a-file"
    );
    let e = failed("cannot write", rustix::io::Errno::NOSPC.into(), path);
    assert_eq!(e.rule(), "io.disk-full");
    assert!(e.advice().is_some());
    // No file system takes 2^62 bytes.
    let dir = tempfile::tempdir().unwrap();
    let mut out = Output::create(&dir.path().join("x"), false).unwrap();
    let e = out.reserve(1 << 62).unwrap_err();
    assert!(
        ["io.disk-full", "io.file-too-large"].contains(&e.rule()),
        "{e}"
    );
}

/// An old model with two files of weights, and a set that replaces all three.
fn tied(dir: &Path) -> OutputSet {
    let mut set = OutputSet::new();
    for name in ["a.data", "b.data", "m.onnx"] {
        std::fs::write(dir.join(name), "old").unwrap();
        let fill = &mut |out: &mut Output| out.put(b"new");
        set.add(&dir.join(name), 3, true, fill).unwrap();
    }
    set.old_is_tied();
    set
}

/// Lets no file come to the place.
fn block(path: &Path) {
    std::fs::remove_file(path).unwrap();
    std::fs::create_dir(path).unwrap();
    std::fs::write(path.join("x"), "").unwrap();
}

#[test]
fn what_is_tied_to_others_is_never_seen_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
    let all = ["a.data", "b.data", "m.onnx"];
    tied(dir.path()).commit().unwrap();
    assert_eq!(listing(dir.path()), all);
    assert!(all.iter().all(|n| read(n).as_deref() == Some("new")));
    // Nothing came into place: all is as it was.
    let set = tied(dir.path());
    block(&dir.path().join("a.data"));
    set.commit().unwrap_err();
    assert_eq!(listing(dir.path()), all);
    assert_eq!(read("b.data").as_deref(), Some("old"));
    assert_eq!(read("m.onnx").as_deref(), Some("old"));
    std::fs::remove_dir_all(dir.path().join("a.data")).unwrap();
    // Something did: the old model would be wrong.
    let set = tied(dir.path());
    block(&dir.path().join("b.data"));
    set.commit().unwrap_err();
    assert_eq!(listing(dir.path()), ["a.data", "b.data"]);
    assert_eq!(read("a.data").as_deref(), Some("new"));
}
