//! `weighbridge recipe`.

use weighbridge::Result;
use weighbridge::quantize::recipe::Recipe as Types;

use crate::args::Recipe;
use crate::cmd::open_options;
use crate::exit::Exit;
use crate::output::{Output, versioned};
use crate::text::safe;

pub(crate) fn run(args: &Recipe, out: &mut Output) -> Result<Exit> {
    let model = open_options(&args.open, None).open(&args.path)?;
    let recipe = Types::of(&model);
    if out.json {
        out.document(&versioned(recipe.to_json()))?;
    } else {
        for line in recipe.to_text().lines() {
            out.line(safe(line))?;
        }
    }
    Ok(Exit::Done)
}
