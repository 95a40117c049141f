//! Names of members that lead out of the folder an archive is unpacked into.

/// How a name leads out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Escape {
    /// It begins at the root: `/etc/passwd`, `\\server\share`.
    Absolute,
    /// It begins with a drive: `C:\Windows`, `c:x`.
    Drive,
    /// It climbs above the folder by `..`.
    Parent,
}

impl Escape {
    /// A stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::Drive => "drive",
            Self::Parent => "parent",
        }
    }
}

/// How `name` leads out of the folder that it is relative to, on any system: slashes and
/// backslashes separate, a drive counts everywhere. `a/../b` stays inside.
pub fn escape(name: &str) -> Option<Escape> {
    climb(name, 0)
}

/// How a link at `name` that points to `target` leads out of the archive's folder. A symbolic link
/// is relative to the folder it lies in, a hard link to the archive's.
pub fn link_escape(name: &str, target: &str, symbolic: bool) -> Option<Escape> {
    let depth = if symbolic { folders(name) } else { 0 };
    climb(target, depth)
}

fn is_separator(c: char) -> bool {
    c == '/' || c == '\\'
}

fn climb(name: &str, mut depth: usize) -> Option<Escape> {
    let name = name.split('\0').next().unwrap_or_default();
    if name.starts_with(is_separator) {
        return Some(Escape::Absolute);
    }
    if let [drive, b':', ..] = name.as_bytes()
        && drive.is_ascii_alphabetic()
    {
        return Some(Escape::Drive);
    }
    for part in name.split(is_separator) {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(d) => depth = d,
                None => return Some(Escape::Parent),
            },
            _ => depth = depth.saturating_add(1),
        }
    }
    None
}

/// How many folders `name` lies in, `..` taken into account.
fn folders(name: &str) -> usize {
    let mut depth = 0usize;
    let trimmed = name.trim_end_matches(is_separator);
    for part in trimmed.split(is_separator) {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth = depth.saturating_add(1),
        }
    }
    depth.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_told_from_those_that_do_not() {
        for (name, want) in [
            ("a/b", None),
            ("", None),
            ("./a", None),
            ("a/../b", None),
            ("a/..", None),
            ("..a/b..", None),
            ("...", None),
            ("a:b", Some(Escape::Drive)),
            ("ab:c", None),
            ("../a", Some(Escape::Parent)),
            ("a/../../b", Some(Escape::Parent)),
            ("a\\..\\..\\b", Some(Escape::Parent)),
            ("/a", Some(Escape::Absolute)),
            ("\\\\server\\x", Some(Escape::Absolute)),
            ("C:\\x", Some(Escape::Drive)),
            ("a\0/../../x", None),
        ] {
            assert_eq!(escape(name), want, "{name:?}");
        }
    }

    #[test]
    fn links_are_relative_to_where_they_lie() {
        assert_eq!(link_escape("a/b/link", "../../c", true), None);
        assert_eq!(
            link_escape("a/b/link", "../../../c", true),
            Some(Escape::Parent)
        );
        assert_eq!(link_escape("link", "../c", true), Some(Escape::Parent));
        assert_eq!(link_escape("a/link", "../c", false), Some(Escape::Parent));
        assert_eq!(link_escape("a/link", "b/c", false), None);
        assert_eq!(link_escape("a/b/", "../c", true), None);
        assert_eq!(link_escape("a/../link", "../c", true), Some(Escape::Parent));
        assert_eq!(
            link_escape("l", "/etc/passwd", true),
            Some(Escape::Absolute)
        );
    }
}
