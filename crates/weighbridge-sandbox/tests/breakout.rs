//! A child enters the sandbox and tries to break out.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;

use nix::unistd::Pid;
use weighbridge_sandbox::Sandbox;

/// Makes the copy of this program that finds it set try to break out of the folder it names.
const CHILD: &str = "WEIGHBRIDGE_SANDBOX_CHILD";

/// Enters the sandbox in a copy of this program and says how each attempt ended.
fn attempts(dir: &Path) -> BTreeMap<String, String> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .output()
        .unwrap();
    let text = String::from_utf8(child.stdout).unwrap();
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}\n{text}\n{errors}", child.status);
    text.lines()
        .filter_map(|l| l.split_once("attempt ")?.1.split_once(": "))
        .map(|(what, how)| (what.to_owned(), how.to_owned()))
        .collect()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n);
    fs::create_dir_all(at("in/deep")).unwrap();
    fs::create_dir(at("out")).unwrap();
    fs::write(at("in/deep/allowed"), b"allowed").unwrap();
    fs::write(at("in/victim"), b"victim").unwrap();
    fs::write(at("out/secret"), b"secret").unwrap();
    fs::write(at("out/blob"), b"blob").unwrap();
    symlink("../out/secret", at("in/to-secret")).unwrap();
    symlink("../out/blob", at("in/to-blob")).unwrap();
    dir
}

#[test]
fn nothing_gets_out_and_reading_still_works() {
    if !Sandbox::offered().is_complete() {
        println!(
            "skipped: this kernel offers {} and not the whole sandbox",
            Sandbox::offered()
        );
        return;
    }
    let dir = folder();
    // Something to connect to, so that a refusal is the sandbox's.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    fs::write(dir.path().join("in/port"), port.to_string()).unwrap();
    let _unix = UnixListener::bind(dir.path().join("in/socket")).unwrap();

    let mode = || {
        fs::metadata(dir.path().join("in/victim"))
            .unwrap()
            .permissions()
            .mode()
    };
    let mode_before = mode();

    let found = attempts(dir.path());
    assert!(found.len() > 35, "{found:#?}");
    for (what, how) in &found {
        let wanted = if what.starts_with("may ") {
            "done"
        } else {
            "denied"
        };
        assert_eq!(how, wanted, "{what}");
    }

    let at = |n: &str| dir.path().join(n);
    assert_eq!(fs::read(at("in/victim")).unwrap(), b"victim");
    assert_eq!(fs::read(at("out/blob")).unwrap(), b"blob");
    assert_eq!(fs::read(at("out/report")).unwrap(), b"rep");
    assert_eq!(mode(), mode_before);
    let mut names: Vec<_> = fs::read_dir(at("in"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["deep", "port", "socket", "to-blob", "to-secret", "victim"]
    );
}

/// What the copy does; in the test run itself it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let port: u16 = fs::read_to_string(dir.join("in/port"))
        .unwrap()
        .parse()
        .unwrap();
    // Asked now: inside, an answer would be an error number, and -1 means every process.
    let parent = nix::unistd::getppid();
    assert!(parent.as_raw() > 1);
    // Left open by a careless parent.
    let inherited = OpenOptions::new()
        .read(true)
        .append(true)
        .open(dir.join("out/blob"))
        .unwrap();
    let before: Vec<PathBuf> = vec![dir.join("in"), dir.join("in/to-blob"), dir.join("gone")];
    let wanted = File::create(dir.join("out/report")).unwrap();
    let report = Sandbox::plan(before).writing_to(&wanted).enter();
    assert!(report.is_complete(), "{report}");

    works(&dir);
    tried(
        "may write to the planned file",
        (&wanted).write_all(b"report"),
    );
    tried("may cut the planned file", wanted.set_len(3));
    files(&dir, &inherited);
    network(&dir, port);
    processes(parent);
}

fn say(what: &str, how: Result<(), String>) {
    let how = how.err().unwrap_or_else(|| "done".into());
    // In one write: the harness writes to the same stream.
    println!("\nattempt {what}: {how}");
}

/// A refusal for want of permission; any other failure would prove nothing.
fn tried<T>(what: &str, outcome: io::Result<T>) {
    say(
        what,
        match outcome {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(1 | 13)) => Err("denied".into()),
            Err(e) => Err(format!("failed otherwise: {e}")),
        },
    );
}

fn nix_tried<T>(what: &str, outcome: nix::Result<T>) {
    tried(what, outcome.map_err(io::Error::from));
}

fn works(dir: &Path) {
    tried("may read a file", fs::read(dir.join("in/deep/allowed")));
    tried(
        "may follow a planned link",
        fs::read(dir.join("in/to-blob")),
    );
    tried(
        "may list a folder",
        fs::read_dir(dir.join("in")).map(Iterator::count),
    );
    tried("may see sizes", fs::metadata(dir.join("in/victim")));
    let (to, from) = channel();
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let to = to.clone();
            let path = dir.join("in/victim");
            std::thread::Builder::new()
                .name(format!("reader {i}"))
                .stack_size(8 << 20)
                .spawn(move || to.send(fs::read(path).map(|b| b.len())))
        })
        .collect();
    for t in threads {
        tried(
            "may start threads",
            t.map(|t| t.join().map(drop).unwrap_or_default()),
        );
    }
    tried(
        "may use memory on many threads",
        from.recv().map_err(io::Error::other).and_then(|r| r),
    );
    let big: Vec<u8> = vec![1; 64 << 20];
    say("may allocate", Ok(()));
    drop(big);
    std::thread::sleep(std::time::Duration::from_millis(2));
    say("may sleep", Ok(()));
    tried("may write to standard output", writeln!(io::stdout(), "x"));
    tried("may write to standard error", writeln!(io::stderr(), "x"));
    say(
        "may panic and catch it",
        match std::panic::catch_unwind(|| panic!("on purpose")) {
            Ok(()) => Err("no panic".into()),
            Err(_) => Ok(()),
        },
    );
}

fn files(dir: &Path, inherited: &File) {
    let at = |n: &str| dir.join(n);
    tried("read outside", fs::read("/etc/passwd"));
    tried("read beside the folder", fs::read(at("out/secret")));
    tried(
        "read through a link that was not planned",
        fs::read(at("in/to-secret")),
    );
    tried("read its own memory", File::open("/proc/self/mem"));
    tried("list outside", fs::read_dir("/").map(Iterator::count));
    tried(
        "open to write",
        OpenOptions::new().write(true).open(at("in/victim")),
    );
    tried(
        "open to append",
        OpenOptions::new().append(true).open(at("in/victim")),
    );
    tried(
        "open to read and write",
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(at("in/victim")),
    );
    tried("create", File::create(at("in/new")));
    tried("create elsewhere", tempfile::tempfile());
    tried(
        "truncate",
        nix::unistd::truncate(&at("in/victim"), 0).map_err(io::Error::from),
    );
    tried("unlink", fs::remove_file(at("in/victim")));
    tried("remove a folder", fs::remove_dir(at("in/deep")));
    tried("rename", fs::rename(at("in/victim"), at("in/renamed")));
    tried("hard link", fs::hard_link(at("in/victim"), at("in/hard")));
    tried("symbolic link", symlink("/etc/passwd", at("in/soft")));
    tried("make a folder", fs::create_dir(at("in/made")));
    tried(
        "chmod",
        fs::set_permissions(at("in/victim"), fs::Permissions::from_mode(0o777)),
    );
    tried(
        "chmod of an open file",
        File::open(at("in/victim"))
            .unwrap()
            .set_permissions(fs::Permissions::from_mode(0o777)),
    );
    tried(
        "set an attribute",
        rustix::fs::setxattr(
            at("in/victim"),
            "user.x",
            b"x",
            rustix::fs::XattrFlags::empty(),
        )
        .map_err(io::Error::from),
    );
    tried(
        "set times",
        File::open(at("in/victim"))
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH),
    );
    nix_tried(
        "make a pipe in the file system",
        nix::unistd::mkfifo(&at("in/fifo"), nix::sys::stat::Mode::S_IRWXU),
    );
    tried(
        "write to a file left open",
        (&mut &*inherited).write_all(b"x"),
    );
    tried("shorten a file left open", inherited.set_len(0));
    tried(
        "copy in the kernel",
        rustix::fs::copy_file_range(
            File::open(at("in/victim")).unwrap(),
            None,
            inherited,
            None,
            1,
        )
        .map_err(io::Error::from),
    );
}

fn network(dir: &Path, port: u16) {
    tried("connect", TcpStream::connect(("127.0.0.1", port)));
    tried("listen", TcpListener::bind("127.0.0.1:0"));
    tried("send a datagram", UdpSocket::bind("127.0.0.1:0"));
    tried(
        "connect to a unix socket",
        UnixStream::connect(dir.join("in/socket")),
    );
    tried("make a pair of sockets", UnixStream::pair());
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    nix_tried(
        "open a raw socket",
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), None),
    );
    nix_tried(
        "open a netlink socket",
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::empty(),
            None,
        ),
    );
}

fn processes(parent: Pid) {
    tried("execute a program", Command::new("/bin/true").status());
    tried(
        "execute in its own place",
        Err::<(), _>(std::os::unix::process::CommandExt::exec(&mut Command::new(
            "/bin/true",
        ))),
    );
    nix_tried(
        "kill its parent",
        nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGTERM),
    );
    nix_tried(
        "ask whether its parent lives",
        nix::sys::signal::kill(parent, None),
    );
    nix_tried("be traced", nix::sys::ptrace::traceme());
    nix_tried("trace its parent", nix::sys::ptrace::attach(parent));
    tried(
        "make memory executable",
        memmap2::MmapMut::map_anon(4096).and_then(memmap2::MmapMut::make_exec),
    );
    tried("make a pipe", rustix::pipe::pipe().map_err(io::Error::from));
    tried(
        "make a file in memory",
        rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).map_err(io::Error::from),
    );
}
