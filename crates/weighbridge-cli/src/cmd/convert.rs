//! placeholder
use crate::{args::Convert, exit::Exit, output::Output};
use weighbridge::{Error, Result};
pub(crate) fn run(_: &Convert, _: &mut Output) -> Result<Exit> {
    Err(Error::unsupported("x.x", "x"))
}
