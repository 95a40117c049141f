//! Native programs, by their first bytes.

use weighbridge_scan::native;
use weighbridge_scan::{Program, ProgramKind};

use super::examine::{Examiner, Item};

/// Takes an executable or a library of machine code; says whether it is one. Nothing of it is
/// looked into.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> bool {
    let Some(kind) = native::detect(&item.head) else {
        return false;
    };
    cx.named(item, "program");
    cx.subject.programs.push(Program {
        place: item.place.text(),
        base: item.place.base,
        kind: ProgramKind::Native(kind.as_str()),
        text: None,
        beside_model: false,
    });
    cx.gap(&item.place, None, "machine code, which is not looked into");
    true
}
