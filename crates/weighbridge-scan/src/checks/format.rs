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
        &[
            "WB-FMT-001",
            "WB-FMT-002",
            "WB-FMT-003",
            "WB-FMT-004",
            "WB-FMT-005",
        ]
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
        for member in subject.members.iter().filter(|m| escapes(m)) {
            let message = "the member's name leads out of the folder it is unpacked to";
            out.add("WB-FMT-003", member, None, message, member)?;
        }
        if let Some((promised, is)) = &subject.misnamed {
            let harmless = !matches!(promised.as_str(), "pickle" | "pytorch" | "numpy");
            let rule = if harmless && matches!(is.as_str(), "pickle" | "pytorch") {
                "WB-FMT-004"
            } else {
                "WB-FMT-005"
            };
            let message = format!("the name says {promised}, the content is {is}");
            out.add(rule, "", Some(0), message, is.as_str())?;
        }
        Ok(())
    }
}

/// Whether unpacking a member of this name by simply joining paths leaves the folder, on any
/// system: `/x`, `C:\\x`, `\\\\host\\x`, `a/../../x`.
pub(crate) fn escapes(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':')
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    if drive || name.starts_with(['/', '\\']) {
        return true;
    }
    let mut depth = 0i64;
    name.split(['/', '\\']).any(|step| {
        match step {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_told_from_those_that_do_not() {
        for name in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "..\\x",
            "C:\\x",
            "c:x",
            "\\\\host\\x",
            "./../x",
        ] {
            assert!(escapes(name), "{name}");
        }
        for name in [
            "a/b",
            "a/../b",
            "..x",
            "a..b/c",
            "archive/data/0",
            ".data/x",
            "",
            "a//b",
        ] {
            assert!(!escapes(name), "{name}");
        }
    }
}
