//! Links (IV.A.2.g), and the group forms that hold them.

use super::fields::{Fields, text_of};
use crate::error::{Error, Result};

const RULE: &str = "hdf5.link";

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The object at an address.
    Hard(u64),
    /// A path in this file.
    Soft(String),
    /// A path in another file. Never followed.
    External {
        /// The other file.
        file: String,
        /// The path in it.
        path: String,
    },
    /// Something of a user's own making.
    User(u8),
}

/// One link of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name, as the file has it.
    pub name: String,
    /// What it leads to.
    pub target: Target,
    /// Where it is said.
    pub at: u64,
}

impl Link {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        let at = f.place();
        f.version(1..=1, RULE)?;
        let flags = f.u8()?;
        let kind = if flags & 8 != 0 { f.u8()? } else { 0 };
        f.skip(if flags & 4 != 0 { 8 } else { 0 })?;
        f.skip(if flags & 16 != 0 { 1 } else { 0 })?;
        let len = f.uint(1 << (flags & 3))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let name = text_of(f.take(len)?);
        let target = match kind {
            0 => Target::Hard(f.address()?.ok_or_else(|| {
                Error::malformed(RULE, format!("the link {name} leads nowhere")).at(at)
            })?),
            1 => {
                let len = f.u16()?.into();
                Target::Soft(text_of(f.take(len)?))
            }
            64 => {
                let len = f.u16()?.into();
                external(f.take(len)?)
            }
            kind => Target::User(kind),
        };
        Ok(Self { name, target, at })
    }
}

/// The value of an external link: flags, the file, the path.
fn external(value: &[u8]) -> Target {
    let mut texts = value.get(1..).unwrap_or_default().split(|&b| b == 0);
    Target::External {
        file: text_of(texts.next().unwrap_or_default()),
        path: text_of(texts.next().unwrap_or_default()),
    }
}
