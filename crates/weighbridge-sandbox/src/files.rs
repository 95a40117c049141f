//! Files, by Landlock (`Documentation/userspace-api/landlock.rst` of the kernel).

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictSelfAttr,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};

use crate::Layer;

/// The newest version whose rights are asked for; older kernels give what they have.
const NEWEST: ABI = ABI::V7;

/// Which threads give their rights up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// All of them where the kernel can (version 8), else the calling one.
    All,
    /// The calling one.
    This,
}

/// Leaves the process `read` to read. Gives the version in use too.
pub(crate) fn restrict(read: &[PathBuf]) -> (Layer, Option<u32>) {
    outcome(apply(read, Reach::All))
}

/// The same for the calling thread only.
pub(crate) fn restrict_this_thread(read: &[PathBuf]) -> (Layer, Option<u32>) {
    outcome(apply(read, Reach::This))
}

fn apply(read: &[PathBuf], reach: Reach) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        // A file that is refused is in the report; the system's log need not fill with them.
        .log_same_exec(false)?
        .all_threads(reach == Reach::All)?;
    for path in read {
        let Ok(meta) = std::fs::metadata(path) else {
            continue;
        };
        let Ok(fd) = PathFd::new(path) else {
            continue;
        };
        let rights = if meta.is_dir() {
            AccessFs::ReadFile | AccessFs::ReadDir
        } else {
            AccessFs::ReadFile.into()
        };
        rules = rules.add_rule(PathBeneath::new(fd, rights))?;
    }
    rules.restrict_self()
}

fn outcome(done: Result<RestrictionStatus, RulesetError>) -> (Layer, Option<u32>) {
    let status = match done {
        Ok(status) => status,
        Err(e) => {
            return (
                Layer::Off(format!("the kernel refuses Landlock: {e}")),
                None,
            );
        }
    };
    let abi = match status.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => {
            let known = u32::try_from(effective_abi as i32).ok();
            kernel_abi.and_then(|n| u32::try_from(n).ok()).or(known)
        }
        LandlockStatus::NotEnabled => {
            let why = "the kernel has Landlock, but it is not switched on";
            return (Layer::Off(why.into()), None);
        }
        LandlockStatus::NotImplemented => {
            return (Layer::Off("the kernel has no Landlock".into()), None);
        }
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => (Layer::On, abi),
        RulesetStatus::NotEnforced => (Layer::Off("Landlock does not take hold".into()), abi),
    }
}
