//! placeholder
use crate::{args::Diff, exit::Exit, output::Output};
use weighbridge::{Error, Result};
pub(crate) fn run(_: &Diff, _: &mut Output) -> Result<Exit> {
    Err(Error::unsupported("x.x", "x"))
}
