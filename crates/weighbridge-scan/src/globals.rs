//! How a global stands: in a profile, known to be dangerous, or outside everything.

mod data;

use std::borrow::Cow;
use std::collections::BTreeMap;

use weighbridge_core::Result;

use crate::subject::Use;
use data::{DATA, Data, StateRule, find};

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

/// What of a call's constant arguments says whether it is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByArguments {
    /// The second names an attribute of the first: the call is an import of that.
    Attribute,
    /// The first is wrapped and called later: the call is an import of it.
    Wraps,
    /// The second names a text encoding.
    Encoding,
    /// Module and name of something that the function imports.
    Names,
    /// The only one is `None` or another constant of which there is one: its type is given.
    TypeOfConstant,
    /// The first is a form of `typing`, which is filled in.
    Subscript,
    /// Bytes that are read as a pickle.
    LoadsPickle,
    /// Bytes that are read as a file of torch.
    LoadsTorch,
}

/// What a function that is handed bytes takes them for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loads {
    /// A pickle.
    Pickle,
    /// A file of torch, in any of its containers.
    Torch,
}

/// A profile of allowed globals.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Its name, as policies spell it.
    pub name: &'static str,
    /// What it covers.
    pub about: &'static str,
    /// Where the list comes from.
    pub source: &'static str,
    /// What it allows.
    pub globals: &'static [Allowed],
}

/// A global that a profile allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Module and name, joined by a dot.
    pub name: &'static str,
    /// The most that may be done with it: `Import`, `Construct` or `Call`.
    pub most: Use,
    /// The first version of the package whose own list has it, where not all have.
    pub since: Option<&'static str>,
    /// The last one.
    pub until: Option<&'static str>,
}

/// What a function calls by itself.
#[derive(Debug)]
pub struct Applied {
    /// Which of its arguments.
    pub arguments: &'static [usize],
    /// Called, or built without calling.
    pub how: Use,
    /// What it is handed by the library itself, which is no call of anything else.
    but_for: &'static [&'static str],
}

/// What is known of globals: the profiles and the lists behind them.
#[derive(Debug)]
pub struct Catalogue {
    /// Full name to the most that may be done with it, sorted.
    allowed: Cow<'static, [(&'static str, Use)]>,
    profiles: Cow<'static, [Profile]>,
    data: &'static Data,
}

impl Catalogue {
    /// The catalogue compiled into this build.
    ///
    /// # Errors
    /// None.
    pub fn builtin() -> Result<&'static Self> {
        static CATALOGUE: Catalogue = Catalogue {
            allowed: Cow::Borrowed(DATA.allowed.0),
            profiles: Cow::Borrowed(DATA.profiles),
            data: &DATA,
        };
        Ok(&CATALOGUE)
    }

    /// A catalogue in which only the profiles called `only` allow anything; `None` is all.
    ///
    /// # Errors
    /// None.
    pub fn restricted(only: Option<&[&str]>) -> Result<Self> {
        let taken = |p: &&Profile| only.is_none_or(|only| only.contains(&p.name));
        let profiles: Vec<Profile> = DATA.profiles.iter().filter(taken).copied().collect();
        let mut allowed = BTreeMap::new();
        for a in profiles.iter().flat_map(|p| p.globals) {
            // What any profile allows is allowed.
            let most = allowed.entry(a.name).or_insert(a.most);
            *most = a.most.max(*most);
        }
        Ok(Self {
            allowed: allowed.into_iter().collect(),
            profiles: profiles.into(),
            data: &DATA,
        })
    }

    /// The profiles, in the order of the data.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// How `module.name` stands when a pickle uses it as `how`. Names of Python 2 are judged as
    /// what Python 3 makes of them.
    pub fn judge(&self, module: &str, name: &str, how: Use) -> Standing<'_> {
        let full = self.canonical(module, name);
        if self.allows(&full, how) || (how == Use::Import && self.allows_attribute(&full, name)) {
            return Standing::Allowed;
        }
        if self.data.code_objects.contains(&full) {
            return Standing::CodeObject;
        }
        if let Some((through, why)) = self.danger(&full, name) {
            return Standing::Dangerous { through, why };
        }
        let top = full.split('.').next().unwrap_or_default();
        if top == "__main__" {
            Standing::Main
        } else if self.data.stdlib.contains(top) {
            Standing::Stdlib
        } else if self.data.installed.contains(top) {
            Standing::Installed
        } else {
            Standing::Unknown
        }
    }

    /// Whether a profile allows `how` for the canonical name `full`. What is judged by its
    /// arguments is never allowed as such: a call that was harmless has not come here.
    fn allows(&self, full: &str, how: Use) -> bool {
        let most = find(&self.allowed, full);
        most.is_some_and(|&(_, most)| how <= most)
            && !(how == Use::Call && self.data.by_arguments.contains(full))
    }

    /// Whether `full` is an attribute of something allowed that leads nowhere else: a method, a
    /// nested class. `name` is what it was spelled as.
    fn allows_attribute(&self, full: &str, name: &str) -> bool {
        if !name.contains('.') || self.danger(full, name).is_some() {
            return false;
        }
        let mut base = full;
        for _ in 0..name.matches('.').count() {
            let Some((rest, attribute)) = base.rsplit_once('.') else {
                return false;
            };
            if !self.leads_nowhere(attribute) {
                return false;
            }
            if find(&self.allowed, rest).is_some() {
                return true;
            }
            base = rest;
        }
        false
    }

    /// Whether an attribute of this name is an ordinary one: no way from a function or a class to
    /// the code, the globals or the modules behind it.
    pub(crate) fn leads_nowhere(&self, attribute: &str) -> bool {
        !attribute.is_empty()
            && !attribute.starts_with("__")
            && !attribute.contains('.')
            && !self.data.no_attributes.contains(attribute)
    }

    /// How the function is judged by its arguments, if it is.
    pub(crate) fn by_arguments(&self, module: &str, name: &str) -> Option<ByArguments> {
        self.data
            .by_arguments
            .get(&self.canonical(module, name))
            .copied()
    }

    /// The attribute of its state that an instance of `module.name` executes, if it does: only
    /// signatures of methods are harmless there.
    pub(crate) fn executes(&self, module: &str, name: &str) -> Option<&str> {
        let mut rules = self.data.by_state.iter();
        let named = |r: &StateRule| name.ends_with(r.suffix) || r.names.contains(&name);
        let rule = rules.find(|r| named(r) && r.modules.contains(&module))?;
        Some(rule.signatures)
    }

    /// Whether instances of `module.name` pass changes on to what they were built around.
    pub(crate) fn wraps_argument(&self, module: &str, name: &str) -> bool {
        self.data.wrappers.contains(&self.canonical(module, name))
    }

    /// Whether `name` is a text encoding, spelled as Python takes it.
    pub(crate) fn is_encoding(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase().replace('_', "-");
        self.data.encodings.contains(&name)
    }

    /// What `module.name` takes bytes for that it is handed, if it loads them.
    pub fn loads(&self, module: &str, name: &str) -> Option<Loads> {
        match self.by_arguments(module, name)? {
            ByArguments::LoadsPickle => Some(Loads::Pickle),
            ByArguments::LoadsTorch => Some(Loads::Torch),
            _ => None,
        }
    }

    /// Whether calling `module.name` finds something on the machines that load models: it is
    /// known, or belongs to the standard library or to a package that lies beside most loaders.
    pub fn exists(&self, module: &str, name: &str) -> bool {
        matches!(
            self.judge(module, name, Use::Call),
            Standing::Dangerous { .. }
                | Standing::CodeObject
                | Standing::Stdlib
                | Standing::Installed
        )
    }

    /// The advisory on what `module.name` can do, the first one for its most specific part.
    pub fn advisory(&self, module: &str, name: &str) -> Option<&str> {
        let full = self.canonical(module, name);
        let mut prefix = full.as_str();
        loop {
            if let Some(first) = self.data.advisories.get(prefix) {
                return Some(first);
            }
            prefix = prefix.get(..prefix.rfind('.')?)?;
        }
    }

    /// Which arguments the function `module.name` calls by itself, and how.
    pub fn applies(&self, module: &str, name: &str) -> Option<&'static Applied> {
        self.data.applies.get(&self.canonical(module, name))
    }

    /// Whether `module.name` is one of what `applied` may call without a word.
    pub(crate) fn excepted(&self, applied: &Applied, module: &str, name: &str) -> bool {
        let full = || self.canonical(module, name);
        !applied.but_for.is_empty() && applied.but_for.contains(&&*full())
    }

    /// Whether a dotted name belongs to a package that lies beside most model loaders.
    pub(crate) fn is_installed(&self, full: &str) -> bool {
        let top = full.split('.').next().unwrap_or_default();
        self.data.installed.contains(top) && !self.data.stdlib.contains(top)
    }

    /// Whether what `module.name` gives is a type, so that calling it builds something.
    pub fn gives_type(&self, module: &str, name: &str) -> bool {
        self.data
            .type_builders
            .contains(&self.canonical(module, name))
    }

    /// The full name in Python 3 (CPython's `Unpickler.find_class` with `fix_imports`).
    pub(crate) fn canonical(&self, module: &str, name: &str) -> String {
        let full = format!("{module}.{name}");
        match (self.data.names.get(&full), self.data.modules.get(module)) {
            (Some(mapped), _) => (*mapped).to_owned(),
            (None, Some(m)) => format!("{m}.{name}"),
            (None, None) => full,
        }
    }

    fn danger(&self, full: &str, name: &str) -> Option<(&str, &str)> {
        if let Some(found) = self.listed_above(full) {
            return Some(found);
        }
        // A dotted name walks attributes: `module.os.system` reaches `os` through whatever module
        // imported it, and `module.builtins.eval` what is dangerous of a harmless module.
        let mut rest = name;
        while let Some((_, tail)) = rest.split_once('.') {
            if let Some(found) = self.listed_above(rest) {
                return Some(found);
            }
            rest = tail;
        }
        // The last step is a name like any other, unless it leads on by itself.
        if rest.starts_with("__") && rest.len() < name.len() {
            return self.listed_above(rest);
        }
        None
    }

    /// The dotted name or the first of its beginnings that is on the list.
    fn listed_above(&self, full: &str) -> Option<(&str, &str)> {
        let mut prefix = full;
        loop {
            if let Some((through, why)) = self.data.dangerous.entry(prefix).copied() {
                return Some((through, why));
            }
            prefix = prefix.get(..prefix.rfind('.')?)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_parses_and_every_profile_says_where_it_comes_from() {
        let c = Catalogue::builtin().unwrap();
        let names: Vec<&str> = c.profiles().iter().map(|p| p.name).collect();
        for n in [
            "torch-weights-only",
            "torch-module",
            "stdlib-values",
            "numpy",
            "joblib",
            "sklearn",
            "scipy",
            "pandas",
            "lightning",
            "boosting",
        ] {
            assert!(names.contains(&n), "{n} is not in {names:?}");
        }
        for p in c.profiles() {
            assert!(!p.about.is_empty() && !p.source.is_empty(), "{}", p.name);
        }
        assert!(c.allowed.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(c.data.stdlib.0.len() > 300 && c.data.installed.0.len() > 50);
        assert!(
            c.data
                .installed
                .0
                .iter()
                .all(|(n, ())| !c.data.stdlib.contains(n) || *n == "ensurepip")
        );
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
            assert!(find(&c.allowed, &format!("builtins.{n}")).is_none(), "{n}");
        }
        // By the first parts of the name, and by any part of it.
        const TOPS: [&str; 24] = [
            "os",
            "posix",
            "nt",
            "sys",
            "subprocess",
            "importlib",
            "pickle",
            "_pickle",
            "io",
            "_io",
            "shutil",
            "socket",
            "ctypes",
            "runpy",
            "code",
            "pty",
            "operator",
            "_operator",
            "functools",
            "_functools",
            "multiprocessing",
            "threading",
            "inspect",
            "gc",
        ];
        const PARTS: [&str; 30] = [
            "eval",
            "exec",
            "compile",
            "open",
            "load",
            "loads",
            "system",
            "popen",
            "Popen",
            "spawn",
            "import_module",
            "__import__",
            "getattr",
            "setattr",
            "apply",
            "apply_along_axis",
            "vectorize",
            "frompyfunc",
            "fromfile",
            "tofile",
            "memmap",
            "savetxt",
            "genfromtxt",
            "call",
            "run",
            "map",
            "filter",
            "partial",
            "read_pickle",
            "attrgetter",
        ];
        for &(full, most) in c.allowed.iter() {
            let top = full.split('.').next().unwrap();
            assert!(!TOPS.contains(&top), "{full}");
            let last = full.rsplit('.').next().unwrap();
            // Building a wrapper of a function without calling it calls nothing.
            assert!(
                !PARTS.contains(&last) || full == "numpy.vectorize",
                "{full}"
            );
            let cap = if full == "numpy.vectorize" {
                Use::Construct
            } else {
                Use::Call
            };
            assert!(most <= cap, "{full}");
        }
        // Whatever takes a class or a function and calls it is known to.
        for &(full, most) in c.allowed.iter() {
            let last = full.rsplit('.').next().unwrap();
            let applies = last.ends_with("_ctor")
                || last.starts_with("_new_")
                || last.starts_with("__newobj")
                || ["newObj", "_mareconstruct", "_reconstructor", "defaultdict"].contains(&last)
                || last.starts_with("_rebuild_from_type");
            // NumPy's oldest one takes no class.
            if applies && most == Use::Call && last != "__RandomState_ctor" {
                assert!(
                    c.data.applies.contains(full),
                    "{full} calls what it is given"
                );
            }
        }
        for &(full, _) in c.data.by_arguments.0 {
            let most = match full {
                "_codecs.encode" => Some(Use::Call),
                // A class like any other, where it is only named.
                "builtins.type" => Some(Use::Import),
                _ => None,
            };
            assert_eq!(find(&c.allowed, full).map(|e| e.1), most, "{full}");
        }
        // What loads further pickles stays out even though torch itself writes one of them.
        assert!(find(&c.allowed, "torch.storage._load_from_bytes").is_none());
    }

    /// The list that a real torch gave (`tests/profiles/torch_lists.txt`), by version.
    #[test]
    fn the_weights_only_profile_is_torchs_own_list() {
        let c = Catalogue::builtin().unwrap();
        let profile = c.profiles().iter().find(|p| p.name == "torch-weights-only");
        let number = |v: &str| -> (u32, u32) {
            let (a, b) = v.split_once('.').unwrap();
            (a.parse().unwrap(), b.parse().unwrap())
        };
        let mut versions = 0;
        for line in include_str!("../tests/profiles/torch_lists.txt").lines() {
            let Some((version, names)) = line.split_once(": ").filter(|_| !line.starts_with('#'))
            else {
                continue;
            };
            let at = number(version);
            let mut ours: Vec<&str> = profile
                .unwrap()
                .globals
                .iter()
                .filter(|g| g.since.is_none_or(|v| number(v) <= at))
                .filter(|g| g.until.is_none_or(|v| number(v) >= at))
                .map(|g| g.name)
                .collect();
            ours.sort_unstable();
            assert_eq!(
                ours,
                names.split(' ').collect::<Vec<_>>(),
                "torch {version}"
            );
            versions += 1;
        }
        assert!(versions >= 5, "{versions}");
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
