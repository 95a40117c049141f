//! `WB-FMT-…`: what is wrong with the container or the format itself.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::subject::Subject;

/// Reports the faults the readers met, and members that hide what they hold.
#[derive(Debug)]
pub struct Format;

impl Check for Format {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-FMT-001", "WB-FMT-002"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for f in &subject.faults {
            out.add("WB-FMT-001", &f.place, f.offset, &f.message, &f.rule)?;
        }
        for member in &subject.encrypted {
            out.add(
                "WB-FMT-002",
                member,
                None,
                "the member is encrypted",
                member,
            )?;
        }
        Ok(())
    }
}
