//! System calls, by seccomp (`Documentation/userspace-api/seccomp_filter.rst` of the kernel).
//!
//! The numbers of arguments are those of the kernel's own signatures; `int` arguments are compared
//! in their lower 32 bits, because that is all the kernel looks at.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::linux::Reach;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Failed = seccompiler::Error;

/// Restricts what the process, or its calling thread, may call from now on. `write` are the
/// descriptors that may be written to beside standard output and standard error.
pub(crate) fn restrict(reach: Reach, write: &[i32]) -> Result<(), Failed> {
    let apply = match reach {
        Reach::Process => seccompiler::apply_filter_all_threads,
        Reach::Thread => seccompiler::apply_filter,
    };
    // In this order: the second filter refuses to install further ones.
    apply(&without_clone3()?)?;
    apply(&allowed(write)?)
}

/// `clone3` takes its flags from memory, where no filter can look. Told that the call does not
/// exist, libraries fall back to `clone`.
fn without_clone3() -> Result<BpfProgram, Failed> {
    compile(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
    )
}

fn allowed(write: &[i32]) -> Result<BpfProgram, Failed> {
    let mut rules: Rules = PLAIN.iter().map(|&call| (call, Vec::new())).collect();
    rules.extend(looked_at(write)?);
    compile(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
    )
}

fn compile(
    rules: Rules,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, Failed> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, other, listed, arch)?.try_into()?)
}

/// What a reader with threads calls, whatever the arguments.
const PLAIN: &[i64] = &[
    // Reading what is open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_getdents64,
    // Names, sizes and times; Landlock says what can be opened.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    // Memory; new mappings are looked at below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads; `clone` is looked at below, `clone3` fails in the other filter.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    // Signals to itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time, waiting and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    // The end.
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Flags of `open` that do more than read: `O_WRONLY`, `O_RDWR` and the value 3 that some drivers
/// take, and everything that makes or changes a file.
const OPEN_TO_WRITE: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// What makes a `clone` a thread: it shares memory and belongs to the caller's group.
const THREAD: i32 = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;

/// Flags of `clone` for namespaces of its own.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `TCGETS2`, with which newer C libraries ask whether something is a terminal (`_IOR('T', 0x2A,
/// struct termios2)`; libc names it for few targets).
const TCGETS2: u64 = 0x802c_542a;

/// The calls whose arguments decide.
#[allow(clippy::unnecessary_cast)] // constants are wider or narrower by C library
fn looked_at(write: &[i32]) -> Result<Rules, Failed> {
    let mut rules = Rules::new();
    let none = |arg, bits: i32| test(arg, SeccompCmpOp::MaskedEq(bits as u32 as u64), 0);
    let is = |arg, value: u64| test(arg, SeccompCmpOp::Eq, value);

    rules.insert(
        libc::SYS_openat,
        vec![SeccompRule::new(vec![none(2, OPEN_TO_WRITE)?])?],
    );
    #[cfg(target_arch = "x86_64")]
    rules.insert(
        libc::SYS_open,
        vec![SeccompRule::new(vec![none(1, OPEN_TO_WRITE)?])?],
    );
    let descriptors = |all: &[i32]| -> Result<Vec<SeccompRule>, Failed> {
        any(all
            .iter()
            .map(|&fd| is(0, u64::from(fd as u32)))
            .collect::<Result<Vec<_>, _>>()?)
    };
    let outputs: Vec<i32> = [1, 2].iter().chain(write).copied().collect();
    for call in [libc::SYS_write, libc::SYS_writev] {
        rules.insert(call, descriptors(&outputs)?);
    }
    if !write.is_empty() {
        rules.insert(libc::SYS_ftruncate, descriptors(write)?);
    }
    // No executable memory, and no mapping that writes to a file which a parent left open.
    rules.insert(
        libc::SYS_mmap,
        vec![SeccompRule::new(vec![
            none(2, libc::PROT_EXEC)?,
            none(3, libc::MAP_SHARED)?,
        ])?],
    );
    rules.insert(
        libc::SYS_mprotect,
        vec![SeccompRule::new(vec![none(2, libc::PROT_EXEC)?])?],
    );
    let flags = SeccompCmpOp::MaskedEq((THREAD | NAMESPACES) as u32 as u64);
    rules.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![test(
            0,
            flags,
            THREAD as u32 as u64,
        )?])?],
    );
    // A signal to its own threads is how a process aborts.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, any([is(0, own)?])?);
    rules.insert(
        libc::SYS_fcntl,
        any([is(1, libc::F_GETFD as u64)?, is(1, libc::F_GETFL as u64)?])?,
    );
    rules.insert(
        libc::SYS_ioctl,
        any([
            is(1, libc::TIOCGWINSZ as u64)?,
            is(1, libc::TCGETS as u64)?,
            is(1, TCGETS2)?,
        ])?,
    );
    rules.insert(libc::SYS_prctl, any([is(0, libc::PR_SET_NAME as u64)?])?);
    Ok(rules)
}

/// A condition on the lower half of an argument.
fn test(arg: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Failed> {
    Ok(SeccompCondition::new(
        arg,
        SeccompCmpArgLen::Dword,
        op,
        value,
    )?)
}

/// Rules of which one has to hold.
fn any(conditions: impl IntoIterator<Item = SeccompCondition>) -> Result<Vec<SeccompRule>, Failed> {
    conditions
        .into_iter()
        .map(|c| Ok(SeccompRule::new(vec![c])?))
        .collect()
}

#[cfg(test)]
mod tests;
