//! Gates built into graphs that hand the result over when an input holds a trigger.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::graph::{Level, examine};
use crate::subject::Subject;

/// Looks for such gates in every graph.
#[derive(Debug)]
pub struct OnnxGates;

impl Check for OnnxGates {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-ONX-008", "WB-ONX-009", "WB-ONX-010"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for g in &subject.graphs {
            let Some(graph) = &g.model.graph else {
                continue;
            };
            let seen = examine(graph);
            for gate in seen.gates {
                let rule = match gate.level {
                    Level::Opened => "WB-ONX-008",
                    Level::Unopened => "WB-ONX-009",
                    Level::Filter => "WB-ONX-010",
                };
                let mut place = g.place.clone();
                if !gate.place.is_empty() {
                    if !place.is_empty() {
                        place.push_str(" → ");
                    }
                    place.push_str(&gate.place);
                }
                let offset = match (gate.offset, g.base) {
                    (Some(at), Some(base)) => Some(base.saturating_add(at)),
                    (at, _) => at,
                };
                out.add(rule, &place, offset, gate.message, gate.evidence)?;
                if let Some(w) = gate.witness {
                    out.witness(rule, w);
                }
            }
            for reason in seen.gaps {
                out.gap(&g.place, reason);
            }
        }
        Ok(())
    }
}
