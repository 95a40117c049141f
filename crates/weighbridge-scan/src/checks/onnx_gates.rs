//! Gates built into graphs that hand the result over when an input holds a trigger, and constants
//! that nothing reads.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::graph::{Level, examine, unread};
use crate::subject::Subject;

/// Looks for both in every graph.
#[derive(Debug)]
pub struct OnnxGates;

impl Check for OnnxGates {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-ONX-008", "WB-ONX-009", "WB-ONX-010", "WB-ONX-011"]
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
            let idle = unread(graph);
            if let Some(first) = idle.first() {
                let bytes = idle.iter().fold(0u64, |n, u| n.saturating_add(u.bytes));
                let message = match idle.len() {
                    1 => format!("no operator reads {bytes} bytes of constants"),
                    n => format!("no operator reads {bytes} bytes of constants, in {n} tensors"),
                };
                let name: String = first.name.chars().take(200).collect();
                out.add("WB-ONX-011", &g.place, None, message, name)?;
            }
        }
        Ok(())
    }
}
