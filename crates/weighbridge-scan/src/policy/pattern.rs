//! Patterns of a policy: which files and which globals an entry speaks of.

use std::path::Path;

use serde::{Deserialize, Deserializer, de};

/// Whether `text` fits `pattern`, in which `*` stands for any characters and, with `single`, `?`
/// for one. Takes time in proportion to the product of both lengths at most.
fn fits(pattern: &str, text: &str, single: bool) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut i, mut j) = (0, 0);
    // Where to go on after the latest star, when what follows it does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(c) = t.get(j) {
        match p.get(i) {
            Some('*') => {
                retry = Some((i + 1, j));
                i += 1;
            }
            Some('?') if single => (i, j) = (i + 1, j + 1),
            Some(q) if q == c => (i, j) = (i + 1, j + 1),
            _ => match retry {
                Some((after, at)) => {
                    retry = Some((after, at + 1));
                    (i, j) = (after, at + 1);
                }
                None => return false,
            },
        }
    }
    p.iter().skip(i).all(|&c| c == '*')
}

/// One step of a pattern: a folder or file name, a component of a dotted name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Exactly this.
    Literal(String),
    /// With wildcards, within the step.
    Wild(String),
    /// `**`: any number of steps.
    Any,
}

/// Matches `steps` with `parts`. `fits(part number, step)` says whether one step takes one part,
/// `any(part number)` whether `**` may swallow it.
fn walk(
    steps: &[Step],
    parts: usize,
    fits: &dyn Fn(usize, &Step) -> bool,
    any: &dyn Fn(usize) -> bool,
) -> bool {
    // reached[n]: the steps so far take the first n parts.
    let mut reached = vec![false; parts + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for step in steps {
        let mut next = vec![false; parts + 1];
        for n in 0..=parts {
            let here = reached.get(n).copied().unwrap_or_default();
            let before = n.checked_sub(1);
            let taken = match (step, before) {
                (Step::Any, None) => here,
                (Step::Any, Some(b)) => {
                    here || (next.get(b).copied().unwrap_or_default() && any(b))
                }
                (_, None) => false,
                (_, Some(b)) => reached.get(b).copied().unwrap_or_default() && fits(b, step),
            };
            if let Some(slot) = next.get_mut(n) {
                *slot = taken;
            }
        }
        reached = next;
    }
    reached.last().copied().unwrap_or_default()
}

/// The files that an entry speaks of: `*` and `?` stand for characters of one name, `**` for any
/// number of folders. A pattern is relative to the folder of the policy file, unless it begins
/// with `/` (absolute) or `**/` (anywhere). One that ends in `/` means everything beneath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    steps: Vec<Step>,
    relative: bool,
}

impl PathPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let unix = if cfg!(windows) {
            text.replace('\\', "/")
        } else {
            text.to_owned()
        };
        let mut steps = Vec::new();
        for name in unix.split('/').filter(|n| !matches!(*n, "" | ".")) {
            steps.push(match name {
                "**" => Step::Any,
                n if n.contains("**") => {
                    return Err(format!(
                        "`{text}`: `**` stands for whole folders, between slashes"
                    ));
                }
                n if n.contains(['*', '?']) => Step::Wild(n.to_owned()),
                n => Step::Literal(n.to_owned()),
            });
        }
        if steps.is_empty() {
            return Err("a path pattern may not be empty; `**` means every file".into());
        }
        if unix.ends_with('/') {
            steps.push(Step::Any);
        }
        let absolute = unix.starts_with('/') || Path::new(text).is_absolute();
        Ok(Self {
            text: text.to_owned(),
            relative: !absolute && steps.first() != Some(&Step::Any),
            steps,
        })
    }

    /// Whether it means the file at the absolute `path`; `base` is the folder of the policy file.
    pub fn matches(&self, base: &Path, path: &Path) -> bool {
        let names = steps_of(path);
        let steps = if self.relative {
            let mut all: Vec<Step> = steps_of(base).into_iter().map(Step::Literal).collect();
            for s in &self.steps {
                // `..` leads out of the policy's folder.
                if *s == Step::Literal("..".into()) {
                    all.pop();
                } else {
                    all.push(s.clone());
                }
            }
            all
        } else {
            self.steps.clone()
        };
        let one = |n: usize, step: &Step| {
            names.get(n).is_some_and(|name| match step {
                Step::Literal(l) => l == name,
                Step::Wild(w) => fits(w, name, true),
                Step::Any => false,
            })
        };
        walk(&steps, names.len(), &one, &|_| true)
    }
}

/// The names along an absolute path, `.` and `..` resolved as text: links are not followed.
fn steps_of(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::Normal(n) => out.push(n.to_string_lossy().into_owned()),
            std::path::Component::Prefix(p) => {
                out.push(p.as_os_str().to_string_lossy().into_owned());
            }
            _ => {}
        }
    }
    out
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// The globals that an entry speaks of, such as `mypkg.models.*`: `*` stands for characters of
/// one component, `**` for any number of components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalPattern {
    text: String,
    steps: Vec<Step>,
}

impl GlobalPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let steps: Result<Vec<Step>, String> = text
            .split('.')
            .map(|part| match part {
                "" => Err(format!(
                    "`{text}` is no pattern of dotted names, such as `mypkg.models.*`"
                )),
                "**" => Ok(Step::Any),
                p if p.contains("**") => Err(format!(
                    "`{text}`: `**` stands for whole components, between points"
                )),
                p if p.contains('*') => Ok(Step::Wild(p.to_owned())),
                p => Ok(Step::Literal(p.to_owned())),
            })
            .collect();
        Ok(Self {
            text: text.to_owned(),
            steps: steps?,
        })
    }

    /// Whether its first component is spelled out, so that it speaks of one package.
    pub fn names_a_package(&self) -> bool {
        matches!(self.steps.first(), Some(Step::Literal(_)))
    }

    /// Whether it allows `name` of `module`.
    ///
    /// A name with points walks attributes: `mypkg.models` and `os.system` reach `os` through
    /// whatever imported it. Wildcards therefore never stand for a part of such a name.
    pub fn allows(&self, module: &str, name: &str) -> bool {
        let of_module = module.split('.').count();
        let parts: Vec<&str> = module.split('.').chain(name.split('.')).collect();
        let walked = name.contains('.');
        let free = |n: usize| !walked || n < of_module;
        let one = |n: usize, step: &Step| {
            parts.get(n).is_some_and(|part| match step {
                Step::Literal(l) => l == part,
                Step::Wild(w) => free(n) && fits(w, part, false),
                Step::Any => false,
            })
        };
        walk(&self.steps, parts.len(), &one, &free)
    }

    /// Whether it forbids the dotted name `full`.
    pub fn denies(&self, full: &str) -> bool {
        let parts: Vec<&str> = full.split('.').collect();
        let one = |n: usize, step: &Step| {
            parts.get(n).is_some_and(|part| match step {
                Step::Literal(l) => l == part,
                Step::Wild(w) => fits(w, part, false),
                Step::Any => false,
            })
        };
        walk(&self.steps, parts.len(), &one, &|_| true)
    }
}

impl std::fmt::Display for GlobalPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for GlobalPattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_characters() {
        for (p, t, yes) in [
            ("*.pkl", "a.pkl", true),
            ("*.pkl", ".pkl", true),
            ("*.pkl", "a.pkl.bak", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("*", "", true),
            ("é*", "éa", true),
        ] {
            assert_eq!(fits(p, t, true), yes, "{p} {t}");
        }
        assert!(!fits("a?", "ab", false), "a question mark is a character");
        // No blow-up: a hostile name against many stars.
        let pattern = format!("{}c", "a*".repeat(20));
        assert!(!fits(&pattern, &"a".repeat(5000), false));
    }

    #[cfg(unix)]
    #[test]
    fn paths_are_relative_to_the_policy_absolute_or_anywhere() {
        let hit = |pattern: &str, path: &str| {
            let p = PathPattern::parse(pattern).unwrap();
            p.matches(Path::new("/repo/ci"), Path::new(path))
        };
        assert!(hit("a.pkl", "/repo/ci/a.pkl"));
        assert!(!hit("a.pkl", "/repo/ci/sub/a.pkl"));
        assert!(!hit("a.pkl", "/a.pkl"));
        assert!(hit("old/**/*.pkl", "/repo/ci/old/x/y/z.pkl"));
        assert!(hit("old/**/*.pkl", "/repo/ci/old/z.pkl"));
        assert!(hit("old/", "/repo/ci/old/x/y"));
        assert!(!hit("old/", "/repo/ci/older/x"));
        assert!(hit("../models/*", "/repo/models/m.pt"));
        assert!(!hit("../models/*", "/repo/models/x/m.pt"));
        assert!(hit("/srv/*/m.pt", "/srv/a/m.pt"));
        assert!(!hit("/srv/*/m.pt", "/repo/ci/srv/a/m.pt"));
        assert!(hit("**/legacy.pkl", "/anywhere/at/all/legacy.pkl"));
        assert!(hit("**/legacy.pkl", "/legacy.pkl"));
        assert!(hit("**", "/x"));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_cannot_pretend_to_lie_in_an_excepted_folder() {
        let p = PathPattern::parse("old/**").unwrap();
        let base = Path::new("/repo");
        assert!(p.matches(base, Path::new("/repo/old/./x.pkl")));
        assert!(!p.matches(base, Path::new("/repo/old/../new/x.pkl")));
        assert!(p.matches(base, Path::new("/repo/new/../old/x.pkl")));
    }

    #[test]
    fn path_patterns_without_sense_are_refused() {
        for text in ["", "/", "./", "a/b**"] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn globals_are_allowed_component_by_component() {
        let hit =
            |pattern: &str, m: &str, n: &str| GlobalPattern::parse(pattern).unwrap().allows(m, n);
        assert!(hit("mypkg.models.*", "mypkg.models", "Net"));
        assert!(!hit("mypkg.models.*", "mypkg.models.sub", "Net"));
        assert!(!hit("mypkg.models.*", "mypkg.modelsx", "Net"));
        assert!(!hit("mypkg.models.*", "mypkg", "models"));
        assert!(hit("mypkg.**", "mypkg", "Net"));
        assert!(hit("mypkg.**", "mypkg.a.b", "Net"));
        assert!(!hit("mypkg.**", "mypkgs.a", "Net"));
        assert!(hit("mypkg.models.Net", "mypkg.models", "Net"));
        assert!(hit("mypkg.models._rebuild_*", "mypkg.models", "_rebuild_x"));
        assert!(!hit("mypkg.models._rebuild_*", "mypkg.models", "rebuild_x"));
    }

    #[test]
    fn wildcards_do_not_walk_attributes() {
        let hit =
            |pattern: &str, m: &str, n: &str| GlobalPattern::parse(pattern).unwrap().allows(m, n);
        for pattern in [
            "mypkg.models.*",
            "mypkg.**",
            "mypkg.models.*.*",
            "mypkg.*.os.system",
        ] {
            let yes = pattern == "mypkg.*.os.system";
            assert_eq!(hit(pattern, "mypkg.models", "os.system"), yes, "{pattern}");
        }
        assert!(hit("mypkg.models.Net.Inner", "mypkg.models", "Net.Inner"));
        assert!(!hit("mypkg.models.Net.*", "mypkg.models", "Net.Inner"));
    }

    #[test]
    fn denials_reach_everywhere() {
        let hit = |pattern: &str, full: &str| GlobalPattern::parse(pattern).unwrap().denies(full);
        assert!(hit("torch.hub.*", "torch.hub.load"));
        assert!(hit("torch.**", "torch.nn.modules.linear.Linear"));
        assert!(hit("**.system", "a.b.os.system"));
        assert!(!hit("torch.hub.*", "torch.hubs.load"));
    }

    #[test]
    fn global_patterns_without_sense_are_refused() {
        for text in ["", "a..b", ".a", "a.", "a.b**"] {
            assert!(GlobalPattern::parse(text).is_err(), "{text}");
        }
        assert!(!GlobalPattern::parse("*").unwrap().names_a_package());
        assert!(!GlobalPattern::parse("**.Net").unwrap().names_a_package());
        assert!(!GlobalPattern::parse("my*.Net").unwrap().names_a_package());
        assert!(GlobalPattern::parse("mypkg.*").unwrap().names_a_package());
    }
}
