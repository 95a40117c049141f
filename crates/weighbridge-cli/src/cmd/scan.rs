//! placeholder
use crate::{args::Scan, exit::Exit, output::Output};
use weighbridge::{Error, Result};
pub(crate) fn run(_: &Scan, _: &mut Output) -> Result<Exit> {
    Err(Error::unsupported("x.x", "x"))
}
