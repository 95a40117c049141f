//! How a global stands: in a profile, known to be dangerous, or outside everything.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::Result;

use crate::rule::parse;
use crate::subject::Use;

/// How a global stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// A profile allows this use of it.
    Allowed,
    /// It is on the list of what an attack needs.
    Dangerous {
        /// The module or full name on the list.
        through: &'a str,
        /// What that can do, as a verb: `run commands`.
        why: &'a str,
    },
    /// It builds code objects or functions.
    CodeObject,
    /// It belongs to the standard library.
    Stdlib,
    /// It belongs to a package that lies beside most model loaders.
    Installed,
    /// It belongs to the program that loads the file.
    Main,
    /// Nothing is known of it.
    Unknown,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowFile {
    applies: Vec<Applies>,
    profile: Vec<ProfileData>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Applies {
    function: String,
    arguments: Vec<usize>,
    #[serde(default)]
    construct: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileData {
    name: String,
    about: String,
    source: String,
    globals: Vec<AllowedModule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowedModule {
    module: String,
    #[serde(default)]
    call: Vec<String>,
    #[serde(default)]
    import: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownFile {
    stdlib: Vec<String>,
    installed: Vec<String>,
    code_objects: Vec<CodeObjects>,
    dangerous: Vec<Dangerous>,
    modules: HashMap<String, String>,
    names: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeObjects {
    module: String,
    #[serde(default)]
    types: Vec<String>,
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dangerous {
    why: String,
    globals: Vec<String>,
}

/// A profile of allowed globals.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name, as policies spell it.
    pub name: String,
    /// What it covers.
    pub about: String,
    /// Where the list comes from.
    pub source: String,
}

/// What is known of globals: the profiles and the lists behind them.
#[derive(Debug)]
pub struct Catalogue {
    /// Full name to whether it may be called.
    allowed: HashMap<String, bool>,
    profiles: Vec<Profile>,
    /// Function to the arguments it calls, and how.
    applies: HashMap<String, (Vec<usize>, Use)>,
    stdlib: HashSet<String>,
    installed: HashSet<String>,
    code_objects: HashSet<String>,
    type_builders: HashSet<String>,
    /// Module or full name to why.
    dangerous: HashMap<String, String>,
    modules: HashMap<String, String>,
    names: HashMap<String, String>,
}

impl Catalogue {
    /// The catalogue compiled into this build.
    ///
    /// # Errors
    /// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
    pub fn builtin() -> Result<&'static Self> {
        static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
        if let Some(c) = CATALOGUE.get() {
            return Ok(c);
        }
        let built = Self::restricted(None)?;
        Ok(CATALOGUE.get_or_init(|| built))
    }

    /// A catalogue in which only the profiles called `only` allow anything; `None` is all.
    ///
    /// # Errors
    /// As [`Catalogue::builtin`].
    pub fn restricted(only: Option<&[&str]>) -> Result<Self> {
        let mut allow: AllowFile = parse(
            "pickle_allow.toml",
            include_str!("../rules/pickle_allow.toml"),
        )?;
        let known = parse(
            "pickle_known.toml",
            include_str!("../rules/pickle_known.toml"),
        )?;
        if let Some(only) = only {
            allow.profile.retain(|p| only.contains(&p.name.as_str()));
        }
        Ok(Self::build(allow, known))
    }

    fn build(allow: AllowFile, known: KnownFile) -> Self {
        let mut allowed = HashMap::new();
        let mut profiles = Vec::new();
        for p in allow.profile {
            for g in p.globals {
                for (names, callable) in [(&g.call, true), (&g.import, false)] {
                    for n in names {
                        // Allowed to be called by any profile wins over reference only.
                        *allowed
                            .entry(format!("{}.{n}", g.module))
                            .or_insert(callable) |= callable;
                    }
                }
            }
            profiles.push(Profile {
                name: p.name,
                about: p.about,
                source: p.source,
            });
        }
        let full = |c: &CodeObjects, n: &String| format!("{}.{n}", c.module);
        let types = || {
            known
                .code_objects
                .iter()
                .flat_map(|c| c.types.iter().map(move |n| full(c, n)))
        };
        Self {
            allowed,
            profiles,
            applies: allow
                .applies
                .into_iter()
                .map(|a| {
                    let how = if a.construct {
                        Use::Construct
                    } else {
                        Use::Call
                    };
                    (a.function, (a.arguments, how))
                })
                .collect(),
            stdlib: known.stdlib.into_iter().collect(),
            installed: known.installed.into_iter().collect(),
            code_objects: known
                .code_objects
                .iter()
                .flat_map(|c| c.names.iter().map(move |n| full(c, n)))
                .chain(types())
                .collect(),
            type_builders: types().collect(),
            dangerous: known
                .dangerous
                .iter()
                .flat_map(|d| d.globals.iter().map(|g| (g.clone(), d.why.clone())))
                .collect(),
            modules: known.modules,
            names: known.names,
        }
    }

    /// The profiles, in the order of the data.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// How `module.name` stands when a pickle uses it as `how`. Names of Python 2 are judged as
    /// what Python 3 makes of them.
    pub fn judge(&self, module: &str, name: &str, how: Use) -> Standing<'_> {
        let full = self.canonical(module, name);
        if let Some(&callable) = self.allowed.get(&full)
            && (callable || how == Use::Import)
        {
            return Standing::Allowed;
        }
        if self.code_objects.contains(&full) {
            return Standing::CodeObject;
        }
        if let Some((through, why)) = self.danger(&full, name) {
            return Standing::Dangerous { through, why };
        }
        let top = full.split('.').next().unwrap_or_default();
        if top == "__main__" {
            Standing::Main
        } else if self.stdlib.contains(top) {
            Standing::Stdlib
        } else if self.installed.contains(top) {
            Standing::Installed
        } else {
            Standing::Unknown
        }
    }

    /// Which arguments the allowed function `module.name` calls by itself, and how.
    pub fn applies(&self, module: &str, name: &str) -> Option<(&[usize], Use)> {
        let (arguments, how) = self.applies.get(&self.canonical(module, name))?;
        Some((arguments, *how))
    }

    /// Whether a dotted name belongs to a package that lies beside most model loaders.
    pub(crate) fn is_installed(&self, full: &str) -> bool {
        let top = full.split('.').next().unwrap_or_default();
        self.installed.contains(top) && !self.stdlib.contains(top)
    }

    /// Whether what `module.name` gives is a type, so that calling it builds something.
    pub fn gives_type(&self, module: &str, name: &str) -> bool {
        self.type_builders.contains(&self.canonical(module, name))
    }

    /// The full name in Python 3 (CPython's `Unpickler.find_class` with `fix_imports`).
    pub(crate) fn canonical(&self, module: &str, name: &str) -> String {
        let full = format!("{module}.{name}");
        match (self.names.get(&full), self.modules.get(module)) {
            (Some(mapped), _) => mapped.clone(),
            (None, Some(m)) => format!("{m}.{name}"),
            (None, None) => full,
        }
    }

    fn danger(&self, full: &str, name: &str) -> Option<(&str, &str)> {
        let listed = |key: &str| self.dangerous.get_key_value(key);
        // The full name and every module above it.
        let mut prefix = full;
        loop {
            if let Some((through, why)) = listed(prefix) {
                return Some((through, why));
            }
            match prefix.rfind('.') {
                Some(dot) => prefix = prefix.get(..dot).unwrap_or_default(),
                None => break,
            }
        }
        // A dotted name walks attributes: `module.os.system` reaches `os` through whatever module
        // imported it.
        let mut steps = name.split('.');
        steps.next_back();
        let (through, why) = steps.find_map(listed)?;
        Some((through, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_parses_and_every_profile_says_where_it_comes_from() {
        let c = Catalogue::builtin().unwrap();
        let names: Vec<&str> = c.profiles().iter().map(|p| p.name.as_str()).collect();
        assert!(
            names.starts_with(&["torch-weights-only", "torch-distributed"]),
            "{names:?}"
        );
        for p in c.profiles() {
            assert!(!p.about.is_empty() && !p.source.is_empty(), "{}", p.name);
        }
        assert!(c.stdlib.len() > 300 && c.installed.len() > 50);
        assert!(c.stdlib.is_disjoint(&c.installed) || c.installed.contains("ensurepip"));
    }

    #[test]
    fn nothing_that_evaluates_or_imports_is_allowed() {
        let c = Catalogue::builtin().unwrap();
        for n in [
            "eval",
            "exec",
            "compile",
            "open",
            "getattr",
            "setattr",
            "__import__",
            "apply",
        ] {
            assert!(!c.allowed.contains_key(&format!("builtins.{n}")), "{n}");
        }
        for full in c.allowed.keys() {
            for bad in [
                "os.",
                "posix.",
                "nt.",
                "sys.",
                "subprocess.",
                "importlib.",
                "pickle.",
                "io.",
            ] {
                assert!(!full.starts_with(bad), "{full}");
            }
        }
        // What loads further pickles stays out even though torch itself writes one of them.
        assert!(!c.allowed.contains_key("torch.storage._load_from_bytes"));
    }

    #[test]
    fn a_restricted_catalogue_allows_by_its_profiles_only() {
        let few = Catalogue::restricted(Some(&["torch-weights-only"])).unwrap();
        assert_eq!(few.profiles().len(), 1);
        let ordered = few.judge("collections", "OrderedDict", Use::Call);
        assert_eq!(ordered, Standing::Allowed);
        let linear = |c: &Catalogue| {
            c.judge("torch.nn.modules.linear", "Linear", Use::Construct) == Standing::Allowed
        };
        assert!(linear(Catalogue::builtin().unwrap()) && !linear(&few));
    }

    #[test]
    fn python_2_names_are_judged_as_python_3_reads_them() {
        let c = Catalogue::builtin().unwrap();
        assert_eq!(c.canonical("__builtin__", "xrange"), "builtins.range");
        assert_eq!(
            c.canonical("copy_reg", "_reconstructor"),
            "copyreg._reconstructor"
        );
        assert_eq!(c.canonical("cPickle", "loads"), "pickle.loads");
        assert!(matches!(
            c.judge("__builtin__", "reduce", Use::Call),
            Standing::Dangerous { .. }
        ));
        assert_eq!(c.judge("__builtin__", "set", Use::Call), Standing::Allowed);
    }
}
