//! `WB-ARC-…`: archives that different readers read differently, or that lead out of their folder.

use weighbridge_core::Result;

use super::format::escapes;
use crate::engine::Check;
use crate::finding::Findings;
use crate::subject::{Link, Subject};

/// Judges what the readers of archives saw.
#[derive(Debug)]
pub struct Archive;

impl Check for Archive {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-ARC-001",
            "WB-ARC-002",
            "WB-ARC-003",
            "WB-ARC-004",
            "WB-ARC-005",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for d in &subject.differences {
            let rule = match d.rule.rsplit('.').next() {
                Some("hidden") => "WB-ARC-004",
                Some("special") => "WB-ARC-005",
                _ => "WB-ARC-001",
            };
            out.add(rule, &d.place, d.offset, &d.message, &d.rule)?;
        }
        for l in subject.links.iter().filter(|l| leaves(l)) {
            let kind = if l.hard { "hard" } else { "symbolic" };
            let message = format!("a {kind} link that leads out of the folder it is unpacked to");
            let evidence = format!("{} → {}", l.member, l.target);
            out.add("WB-ARC-002", &l.member, None, message, evidence)?;
        }
        for (format, at) in &subject.polyglots {
            let message = format!("begins as {} and holds {format} as well", subject.format);
            out.add("WB-ARC-003", "", Some(*at), message, format)?;
        }
        Ok(())
    }
}

/// Whether a link leads out of the folder that the archive is unpacked to. A symbolic link's
/// target counts from the folder it lies in, a hard link's from the top (POSIX, pax and ustar).
fn leaves(link: &Link) -> bool {
    if link.hard {
        return escapes(&link.target);
    }
    let folder = link
        .member
        .rfind(['/', '\\'])
        .map(|at| link.member.get(..at));
    match folder.flatten() {
        Some(folder) if !link.target.starts_with(['/', '\\']) => {
            escapes(&format!("{folder}/{}", link.target)) || has_drive(&link.target)
        }
        _ => escapes(&link.target),
    }
}

fn has_drive(path: &str) -> bool {
    matches!(path.as_bytes(), [d, b':', ..] if d.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_from_where_they_lie() {
        let link = |member: &str, target: &str, hard| {
            leaves(&Link {
                member: member.into(),
                target: target.into(),
                hard,
            })
        };
        for (m, t) in [
            ("a", "../x"),
            ("a/b", "../../x"),
            ("a/b", "/etc/passwd"),
            ("a/b", "C:\\x"),
            ("a", "\\\\host\\x"),
        ] {
            assert!(link(m, t, false), "{m} → {t}");
        }
        for (m, t) in [
            ("a/b", "../x"),
            ("a", "b"),
            ("snapshots/1/m", "../../blobs/2"),
        ] {
            assert!(!link(m, t, false), "{m} → {t}");
        }
        assert!(link("a/b", "../x", true) && !link("a/b", "x", true));
    }
}
