//! The filters as the kernel runs them, by an interpreter of the few instructions they are made of.

#![allow(clippy::unnecessary_cast)] // constants are wider or narrower by C library

use super::*;

/// What a filter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Errno(i32),
    Kill,
}

/// `struct seccomp_data` of `<linux/seccomp.h>`: number, architecture, instruction pointer and six
/// arguments.
fn data(arch: u32, call: i64, args: &[u64]) -> [u8; 64] {
    let mut d = [0; 64];
    d[..4].copy_from_slice(&(call as u32).to_le_bytes());
    d[4..8].copy_from_slice(&arch.to_le_bytes());
    for (i, a) in args.iter().enumerate() {
        d[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_le_bytes());
    }
    d
}

/// Classic BPF, as far as seccomp filters use it (`bpf_check_classic` in the kernel's
/// `net/core/filter.c` has the codes).
fn run(program: &BpfProgram, data: &[u8; 64]) -> Answer {
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let i = &program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            0x20 => a = u32::from_le_bytes(data[i.k as usize..][..4].try_into().unwrap()),
            0x54 => a &= i.k,
            0x05 => at += i.k as usize,
            0x15 => jump(a == i.k),
            0x25 => jump(a > i.k),
            0x35 => jump(a >= i.k),
            0x06 => {
                return match i.k & 0xffff_0000 {
                    0x7fff_0000 => Answer::Allow,
                    0x0005_0000 => Answer::Errno((i.k & 0xffff) as i32),
                    0x8000_0000 | 0 => Answer::Kill,
                    other => panic!("an action nobody asked for: {other:x}"),
                };
            }
            other => panic!("an instruction the interpreter lacks: {other:x}"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Both filters together: the stricter answer stands.
fn ask(call: i64, args: &[u64]) -> Answer {
    let d = data(ARCH, call, args);
    match run(&without_clone3().unwrap(), &d) {
        Answer::Allow => run(&allowed(&[]).unwrap(), &d),
        other => other,
    }
}

const DENIED: Answer = Answer::Errno(libc::EPERM);

#[test]
fn what_breaks_out_is_denied_whatever_its_arguments() {
    let calls = [
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendfile,
        libc::SYS_splice,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_truncate,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_fsetxattr,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_copy_file_range,
        libc::SYS_memfd_create,
        libc::SYS_pkey_mprotect,
        libc::SYS_remap_file_pages,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_personality,
        libc::SYS_seccomp,
        libc::SYS_prlimit64,
        libc::SYS_setuid,
        libc::SYS_init_module,
        libc::SYS_dup3,
    ];
    for call in calls {
        for args in [[0; 6], [1; 6], [u64::MAX; 6]] {
            assert_eq!(ask(call, &args), DENIED, "{call} {args:x?}");
        }
    }
    #[cfg(target_arch = "x86_64")]
    for call in [
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_creat,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_chmod,
        libc::SYS_symlink,
        libc::SYS_link,
        libc::SYS_mkdir,
        libc::SYS_dup2,
    ] {
        assert_eq!(ask(call, &[0; 6]), DENIED, "{call}");
    }
}

/// Numbers that no list has thought of, of today's kernels and of later ones.
#[test]
fn what_is_not_listed_is_denied() {
    let listed: Rules = PLAIN
        .iter()
        .map(|&c| (c, Vec::new()))
        .chain(looked_at(&[]).unwrap())
        .collect();
    let mut denied = 0;
    for call in 0..1024 {
        if !listed.contains_key(&call) {
            assert_eq!(ask(call, &[0; 6]), DENIED, "{call}");
            denied += 1;
        }
    }
    assert!(denied > 900, "{denied}");
    // The x32 numbers of x86-64 are the same calls under another name.
    assert_eq!(ask(0x4000_0000 | libc::SYS_read, &[0; 6]), DENIED);
}

#[test]
fn calls_in_the_way_of_another_architecture_end_the_process() {
    let i386 = data(0x4000_0003, 4, &[1, 0, 0]);
    assert_eq!(run(&allowed(&[]).unwrap(), &i386), Answer::Kill);
}

#[test]
fn files_open_for_reading_only() {
    let open = |flags: i32| ask(libc::SYS_openat, &[0, 0, flags as u32 as u64, 0o600]);
    for flags in [
        libc::O_RDONLY,
        libc::O_RDONLY | libc::O_CLOEXEC,
        libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK,
    ] {
        assert_eq!(open(flags), Answer::Allow, "{flags:o}");
    }
    for flags in [
        libc::O_WRONLY,
        libc::O_RDWR | libc::O_CLOEXEC,
        3,
        libc::O_RDONLY | libc::O_CREAT,
        libc::O_RDONLY | libc::O_TRUNC,
        libc::O_TMPFILE,
        libc::O_TMPFILE | libc::O_RDWR,
    ] {
        assert_eq!(open(flags), DENIED, "{flags:o}");
    }
    // The kernel looks at 32 bits only, and so has the filter to.
    let high = 0xffff_ffff_0000_0000;
    assert_eq!(ask(libc::SYS_openat, &[0, 0, high]), Answer::Allow);
    assert_eq!(ask(libc::SYS_openat, &[0, 0, high | 1]), DENIED);
}

#[test]
fn only_the_two_outputs_are_written_to() {
    for call in [libc::SYS_write, libc::SYS_writev] {
        assert_eq!(ask(call, &[1]), Answer::Allow);
        assert_eq!(ask(call, &[2]), Answer::Allow);
        for fd in [0, 3, 9, u64::MAX, 1 << 16 | 1] {
            assert_eq!(ask(call, &[fd]), DENIED, "{fd}");
        }
    }
    let with = |call, fd: u64| run(&allowed(&[7]).unwrap(), &data(ARCH, call, &[fd]));
    for call in [libc::SYS_write, libc::SYS_ftruncate] {
        assert_eq!(with(call, 7), Answer::Allow);
        assert_eq!(with(call, 8), DENIED);
    }
    assert_eq!(with(libc::SYS_write, 1), Answer::Allow);
    assert_eq!(with(libc::SYS_ftruncate, 1), DENIED);
}

#[test]
fn memory_is_never_executable_nor_another_files() {
    let (r, w, x) = (
        libc::PROT_READ as u64,
        libc::PROT_WRITE as u64,
        libc::PROT_EXEC as u64,
    );
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let map = |prot, flags| ask(libc::SYS_mmap, &[0, 4096, prot, flags, u64::MAX, 0]);
    assert_eq!(map(r | w, private), Answer::Allow);
    assert_eq!(map(0, private | libc::MAP_STACK as u64), Answer::Allow);
    assert_eq!(map(r | x, private), DENIED);
    assert_eq!(map(r | w | x, private), DENIED);
    assert_eq!(map(r | w, libc::MAP_SHARED as u64), DENIED);
    assert_eq!(map(r | w, libc::MAP_SHARED_VALIDATE as u64), DENIED);
    assert_eq!(ask(libc::SYS_mprotect, &[0, 4096, r | w]), Answer::Allow);
    assert_eq!(ask(libc::SYS_mprotect, &[0, 4096, r | x]), DENIED);
}

#[test]
fn threads_are_made_and_processes_are_not() {
    let clone = |flags: i32| ask(libc::SYS_clone, &[flags as u32 as u64]);
    // As glibc and musl make a thread.
    let thread = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    assert_eq!(clone(thread), Answer::Allow);
    assert_eq!(clone(thread | libc::CLONE_NEWUSER), DENIED);
    // fork, vfork, posix_spawn.
    assert_eq!(clone(libc::SIGCHLD), DENIED);
    assert_eq!(
        clone(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD),
        DENIED
    );
    assert_eq!(
        ask(libc::SYS_clone3, &[0; 6]),
        Answer::Errno(libc::ENOSYS),
        "libraries fall back to clone only when told that there is no clone3"
    );
}

#[test]
fn signals_go_to_itself() {
    let own = u64::from(std::process::id());
    assert_eq!(ask(libc::SYS_tgkill, &[own, own, 6]), Answer::Allow);
    assert_eq!(ask(libc::SYS_tgkill, &[1, 1, 9]), DENIED);
}

#[test]
fn terminals_are_asked_and_not_typed_into() {
    let ioctl = |request: u64| ask(libc::SYS_ioctl, &[1, request]);
    assert_eq!(ioctl(libc::TIOCGWINSZ as u64), Answer::Allow);
    assert_eq!(ioctl(libc::TCGETS as u64), Answer::Allow);
    assert_eq!(ioctl(libc::TIOCSTI as u64), DENIED);
    assert_eq!(ioctl(libc::TIOCSCTTY as u64), DENIED);
    let prctl = |option: i32| ask(libc::SYS_prctl, &[option as u64]);
    assert_eq!(prctl(libc::PR_SET_NAME), Answer::Allow);
    assert_eq!(prctl(libc::PR_SET_DUMPABLE), DENIED);
    let fcntl = |command: i32| ask(libc::SYS_fcntl, &[0, command as u64]);
    assert_eq!(fcntl(libc::F_GETFD), Answer::Allow);
    assert_eq!(fcntl(libc::F_SETFL), DENIED);
    assert_eq!(fcntl(libc::F_SETOWN), DENIED);
}
