//! What a user finds after something went wrong around the tool: it was killed, the disk was
//! full, its source shrank. The real tool is run, as its users run it.
//!
//! `cargo xtask test` names the tool in `WEIGHBRIDGE_BIN`; without it, it is built here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(clippy::print_stderr, missing_docs)]
#![cfg(unix)]

#[path = "faults/onnx.rs"]
mod onnx;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weighbridge_fuzzing::Rng;

/// Tensors of the source, and bytes of each.
const TENSORS: usize = 24;
const TENSOR_BYTES: usize = 4 << 20;

const KILLS: usize = 20;

fn tool() -> &'static Path {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| {
        if let Some(path) = std::env::var_os("WEIGHBRIDGE_BIN") {
            return path.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "weighbridge-cli"])
            .current_dir(&root)
            .status();
        assert!(built.is_ok_and(|s| s.success()), "the tool does not build");
        // This test lies in <profile>/deps, the tool in <profile>.
        let own = std::env::current_exe().expect("this test has a path");
        own.ancestors()
            .nth(2)
            .expect("a build folder")
            .join("weighbridge")
    })
}

/// A folder on the build's own disk: the temporary one may be memory, and small.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Bytes that no file system can leave out or share.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len / 8)
        .flat_map(|_| rng.bits().to_le_bytes())
        .collect()
}

/// A safetensors file written without our writer.
fn write_source(path: &Path) {
    let entries: Vec<String> = (0..TENSORS)
        .map(|i| {
            format!(
                "\"layer.{i:02}.weight\":{{\"dtype\":\"F32\",\"shape\":[{},1024],\"data_offsets\":[{},{}]}}",
                TENSOR_BYTES / 4096,
                i * TENSOR_BYTES,
                (i + 1) * TENSOR_BYTES
            )
        })
        .collect();
    let mut header = format!("{{{}}}", entries.join(","));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut out = BufWriter::new(File::create(path).expect("a source"));
    out.write_all(&(header.len() as u64).to_le_bytes())
        .expect("writes");
    out.write_all(header.as_bytes()).expect("writes");
    for i in 0..TENSORS {
        out.write_all(&noise(i as u64, TENSOR_BYTES))
            .expect("writes");
    }
    out.flush().expect("writes");
}

fn spawn(arguments: &[&Path]) -> Child {
    Command::new(tool())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts")
}

fn convert(from: &Path, to: &Path) -> Child {
    spawn(&[Path::new("convert"), from, to])
}

fn succeed(child: Child) -> Output {
    let out = child.wait_with_output().expect("the tool ends");
    assert!(out.status.success(), "{}", said(&out));
    out
}

fn said(out: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Names and sizes in a folder.
fn listing(dir: &Path) -> BTreeMap<String, u64> {
    fs::read_dir(dir)
        .expect("a folder")
        .flatten()
        .map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            (name, e.metadata().map_or(0, |m| m.len()))
        })
        .collect()
}

/// A source in both formats, and what converting the one to the other rightly gives.
struct Bench {
    dir: TempDir,
    source: PathBuf,
    right: Vec<u8>,
    took: Duration,
}

fn bench(to: &str) -> Bench {
    let dir = folder();
    let st = dir.path().join("source.safetensors");
    let pt = dir.path().join("source.pt");
    write_source(&st);
    let source = if to == "pt" {
        st
    } else {
        succeed(convert(&st, &pt));
        fs::remove_file(&st).expect("removes");
        pt
    };
    // Of the name that the others will have: a PyTorch archive's root folder is called by it.
    let reference = dir.path().join(format!("target.{to}"));
    let started = Instant::now();
    succeed(convert(&source, &reference));
    let took = started.elapsed();
    let right = fs::read(&reference).expect("reads");
    fs::remove_file(&reference).expect("removes");
    assert!(
        right.len() > TENSORS * TENSOR_BYTES,
        "the reference is whole"
    );
    Bench {
        dir,
        source,
        right,
        took,
    }
}

/// Kills conversions at random moments; gives how many died and how many files they left behind.
fn kill_at_random(b: &Bench, to: &str, old: Option<&[u8]>) -> (usize, usize) {
    let out_dir = b.dir.path().join("out");
    fs::create_dir_all(&out_dir).expect("a folder");
    let target = out_dir.join(format!("target.{to}"));
    let mut rng = Rng::new(99);
    let (mut died, mut left) = (0, 0);
    for n in 0..KILLS {
        match old {
            Some(bytes) => fs::write(&target, bytes).expect("writes"),
            None => drop(fs::remove_file(&target)),
        }
        let mut child = convert(&b.source, &target);
        let most = b.took.as_micros() as usize * 11 / 10;
        std::thread::sleep(Duration::from_micros(rng.below(most) as u64));
        child.kill().expect("kills");
        let out = child.wait_with_output().expect("ends");
        died += usize::from(out.status.signal() == Some(9));
        match (fs::read(&target), old) {
            (Ok(now), Some(old)) => assert!(
                now == old || now == b.right,
                "kill {n}: the target is neither the old file nor the new one ({} bytes)",
                now.len()
            ),
            (Ok(now), None) => assert!(
                now == b.right,
                "kill {n}: half a file of {} bytes lies at the target",
                now.len()
            ),
            (Err(e), Some(_)) => panic!("kill {n}: the old file is gone: {e}"),
            (Err(_), None) => {}
        }
        for name in listing(&out_dir).into_keys() {
            if Path::new(&name) != target.file_name().expect("a name") {
                left += 1;
                fs::remove_file(out_dir.join(&name)).expect("removes");
            }
        }
    }
    println!(
        "{to}: {died} of {KILLS} conversions died, {left} temporary files were left beside the \
         target (a killed process cannot remove them)"
    );
    assert!(
        left <= died,
        "a conversion that ended left a temporary file"
    );
    (died, left)
}

#[test]
fn killed_while_writing_safetensors_leaves_the_old_file_or_none() {
    let b = bench("safetensors");
    let (first, _) = kill_at_random(&b, "safetensors", None);
    let (second, _) = kill_at_random(&b, "safetensors", Some(b"what was there before"));
    assert!(
        first + second >= KILLS / 4,
        "hardly any kill came in time: {first}, {second}"
    );
}

#[test]
fn killed_while_writing_pytorch_leaves_the_old_file_or_none() {
    let b = bench("pt");
    let (first, _) = kill_at_random(&b, "pt", None);
    let (second, _) = kill_at_random(&b, "pt", Some(b"what was there before"));
    assert!(
        first + second >= KILLS / 4,
        "hardly any kill came in time: {first}, {second}"
    );
}

/// Checks that a full disk was told of, with nothing left behind.
fn told_of_a_full_disk(out: &Output, left: &BTreeMap<String, u64>) {
    assert_eq!(out.status.code(), Some(2), "{}", said(out));
    let message = String::from_utf8_lossy(&out.stderr).to_lowercase();
    assert!(
        message.contains("space") || message.contains("too large") || message.contains("full"),
        "the message does not say what is wrong: {message}"
    );
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// A limit on the size of files stands for the full disk: it needs no privileges.
#[test]
fn a_write_that_fails_is_told_and_cleaned_up() {
    for to in ["safetensors", "pt"] {
        let b = bench(to);
        let out_dir = b.dir.path().join("limited");
        fs::create_dir(&out_dir).expect("a folder");
        // In blocks of 512 bytes. The tool makes an error of the signal.
        let script = "ulimit -f 20000; exec \"$@\"";
        let out = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([tool(), Path::new("convert"), &b.source])
            .arg(out_dir.join(format!("target.{to}")))
            .output()
            .expect("sh runs");
        told_of_a_full_disk(&out, &listing(&out_dir));
    }
}

/// A file system of 8 MiB in memory, where this machine lets us have one.
#[test]
fn a_full_disk_is_told_and_cleaned_up() {
    let b = bench("safetensors");
    let mount = b.dir.path().join("mount");
    fs::create_dir(&mount).expect("a folder");
    let listed = b.dir.path().join("listed");
    // A mount name space of its own: nothing stays mounted, whatever happens to us.
    let script = "mount -t tmpfs -o size=8m weighbridge \"$1\" || exit 77
        \"$2\" convert \"$3\" \"$1/target.safetensors\"; code=$?
        ls -A \"$1\" > \"$4\"; exit $code";
    let out = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([&mount, tool(), b.source.as_path(), &listed])
        .output();
    let out = match out {
        Ok(out) if listed.exists() => out,
        Ok(out) => {
            println!(
                "skipped: a full disk, no file system may be mounted here: {}",
                said(&out)
            );
            return;
        }
        Err(e) => {
            println!("skipped: a full disk, there is no `unshare` here: {e}");
            return;
        }
    };
    let names = fs::read_to_string(&listed).expect("reads");
    told_of_a_full_disk(&out, &names.lines().map(|l| (l.to_owned(), 0)).collect());
}

/// The tool reads by position where files may shrink, so that it gets an error and no signal.
#[test]
fn a_source_that_shrinks_is_an_error_and_no_signal() {
    let b = bench("safetensors");
    let whole = fs::read(&b.source).expect("reads");
    let out_dir = b.dir.path().join("shrinking");
    fs::create_dir(&out_dir).expect("a folder");
    let target = out_dir.join("target.safetensors");
    let verbs: [&[&Path]; 3] = [
        &[Path::new("convert"), &b.source, &target],
        &[Path::new("inspect"), Path::new("--hash"), &b.source],
        &[Path::new("check"), &b.source],
    ];
    let mut rng = Rng::new(5);
    for words in verbs {
        let verb = words[0].display();
        let mut noticed = 0;
        for _ in 0..12 {
            fs::write(&b.source, &whole).expect("writes");
            let started = Instant::now();
            succeed(spawn(words));
            let took = started.elapsed();
            drop(fs::remove_file(&target));
            let child = spawn(words);
            std::thread::sleep(took.mul_f64(0.1 + rng.below(80) as f64 / 100.0));
            let file = File::options().write(true).open(&b.source).expect("opens");
            file.set_len(4096 + rng.below(whole.len() / 2) as u64)
                .expect("truncates");
            let out = child.wait_with_output().expect("ends");
            assert_eq!(out.status.signal(), None, "{verb}: {}", said(&out));
            match out.status.code() {
                Some(0) => {} // it was done before
                Some(2) => {
                    noticed += 1;
                    assert!(!out.stderr.is_empty(), "{verb} says nothing");
                    let left = listing(&out_dir);
                    assert!(left.is_empty(), "{verb} left {left:?}");
                }
                // `check` answers: the file does not conform.
                Some(1) if words[0] == Path::new("check") => noticed += 1,
                _ => panic!("{verb}: {}", said(&out)),
            }
            drop(fs::remove_file(&target));
        }
        println!("{verb}: {noticed} of 12 runs noticed that the source had shrunk");
        assert!(noticed > 0, "{verb}: no run was in time to notice");
    }
}

/// A GGUF file of `tensors` tensors, written without our writer.
fn write_gguf(path: &Path, tensors: usize) {
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    let mut f = b"GGUF\x03\0\0\0".to_vec();
    f.extend((tensors as u64).to_le_bytes());
    f.extend(1u64.to_le_bytes());
    text(&mut f, "general.architecture");
    f.extend(8u32.to_le_bytes());
    text(&mut f, "llama");
    for i in 0..tensors {
        text(&mut f, &format!("layer.{i:02}.weight"));
        f.extend(1u32.to_le_bytes());
        f.extend((TENSOR_BYTES as u64 / 4).to_le_bytes());
        f.extend(0u32.to_le_bytes());
        f.extend(((i * TENSOR_BYTES) as u64).to_le_bytes());
    }
    f.resize(f.len().next_multiple_of(32), 0);
    let mut out = BufWriter::new(File::create(path).expect("a source"));
    out.write_all(&f).expect("writes");
    for i in 0..tensors {
        out.write_all(&noise(i as u64, TENSOR_BYTES))
            .expect("writes");
    }
    out.flush().expect("writes");
}

fn edit(path: &Path, words: &[&str]) -> Child {
    let words = words.iter().map(Path::new);
    let all: Vec<&Path> = [Path::new("edit"), path].into_iter().chain(words).collect();
    spawn(&all)
}

/// What the key `note` says, and the bytes of all tensors.
fn said_and_held(path: &Path) -> (Option<String>, Vec<u8>) {
    let model = weighbridge::open(path).expect("the file opens");
    let note = model.metadata.iter().find(|(k, _)| k == "note");
    let note = note.and_then(|(_, v)| v.as_str().map(str::to_owned));
    let tensors = model.tensors.iter();
    let bytes = tensors.flat_map(|t| t.bytes().expect("reads").to_vec());
    (note, bytes.collect())
}

/// Megabytes of text, so that every write takes a while.
#[test]
fn killed_while_editing_in_place_leaves_the_old_or_the_new() {
    let dir = folder();
    let path = dir.path().join("m.gguf");
    write_gguf(&path, 1);
    succeed(edit(&path, &["--reserve", "50MB"]));
    let mut rng = Rng::new(7);
    let (mut died, mut unchanged, mut was) = (0, 0, None);
    let (_, data) = said_and_held(&path);
    let mut took = Duration::from_millis(40);
    for n in 0..KILLS * 2 {
        let text = format!("{n} {}", "x".repeat(1_500_000 + rng.below(1 << 20)));
        let file = dir.path().join("note");
        fs::write(&file, &text).expect("writes");
        let words = ["--set-file", &format!("note={}", file.display())];
        let started = Instant::now();
        let mut child = edit(&path, &words);
        if n > 1 {
            std::thread::sleep(Duration::from_micros(
                rng.below(took.as_micros() as usize) as u64
            ));
            child.kill().expect("kills");
        }
        let out = child.wait_with_output().expect("ends");
        if n <= 1 {
            assert!(out.status.success(), "{}", said(&out));
            took = started.elapsed();
        }
        died += usize::from(out.status.signal() == Some(9));
        let (now, held) = said_and_held(&path);
        assert!(
            now == was || now.as_ref() == Some(&text),
            "kill {n}: the file says neither the old nor the new"
        );
        assert!(held == data, "kill {n}: the tensors are others");
        unchanged += usize::from(now == was);
        was = now;
    }
    println!(
        "{died} of {} edits died, {unchanged} of them before the switch",
        KILLS * 2
    );
    assert!(died >= KILLS / 2, "hardly any kill came in time: {died}");
}

#[test]
fn killed_while_editing_through_a_new_file_leaves_the_old_or_the_new() {
    let dir = folder();
    let path = dir.path().join("m.gguf");
    write_gguf(&path, TENSORS);
    let old = fs::read(&path).expect("reads");
    let words = ["--set", "note=long enough that all the data has to move"];
    let started = Instant::now();
    succeed(edit(&path, &words));
    let mut took = started.elapsed();
    let right = fs::read(&path).expect("reads");
    assert!(right.len() > old.len());
    let mut rng = Rng::new(11);
    let mut died = 0;
    for n in 0..KILLS {
        fs::write(&path, &old).expect("writes");
        let started = Instant::now();
        let mut child = edit(&path, &words);
        let most = took.as_micros().max(1) as usize;
        std::thread::sleep(Duration::from_micros(rng.below(most) as u64));
        let slept = started.elapsed();
        child.kill().expect("kills");
        let out = child.wait_with_output().expect("ends");
        match out.status.signal() {
            Some(9) => died += 1,
            // The first run was a slow one: a busy machine has to have its kills in time too.
            _ => took = took.min(slept),
        }
        let now = fs::read(&path).expect("the file is there");
        assert!(
            now == old || now == right,
            "kill {n}: neither the old nor the new"
        );
        for name in listing(dir.path()).into_keys().filter(|n| n != "m.gguf") {
            fs::remove_file(dir.path().join(name)).expect("removes");
        }
    }
    assert!(died >= KILLS / 4, "hardly any kill came in time: {died}");
}

/// A limit on the size of files stands for the full disk, as above.
#[test]
fn an_edit_for_which_there_is_no_room_leaves_the_file_as_it_was() {
    let dir = folder();
    let path = dir.path().join("m.gguf");
    write_gguf(&path, 6);
    let old = fs::read(&path).expect("reads");
    let script = "ulimit -f 20000; exec \"$@\"";
    let out = Command::new("sh")
        .args(["-c", script, "sh"])
        .args([tool(), Path::new("edit"), &path])
        .args(["--set", "note=long enough that all the data has to move"])
        .output()
        .expect("sh runs");
    let mut left = listing(dir.path());
    left.remove("m.gguf");
    told_of_a_full_disk(&out, &left);
    assert!(
        fs::read(&path).expect("reads") == old,
        "the file has changed"
    );
}
