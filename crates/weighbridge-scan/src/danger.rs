//! What of a Python program does harm: its calls, judged by the lists of `rules/code.toml`.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::Result;

use crate::python::{Argument, CallSite, Program};
use crate::rule::parse;

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "code.toml",
    include_str!(concat!(env!("OUT_DIR"), "/code.json")),
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    danger: Vec<Listed>,
    modules: HashSet<String>,
    quiet: HashSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    why: String,
    #[serde(default)]
    source: bool,
    names: Vec<String>,
}

/// The lists.
#[derive(Debug)]
pub(crate) struct Dangers {
    /// Name to why, and whether it counts in source files.
    names: HashMap<String, (String, bool)>,
    modules: HashSet<String>,
    quiet: HashSet<String>,
}

/// A call that does harm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Harm<'a> {
    /// What is called, or handed to what calls it.
    pub(crate) name: &'a str,
    /// What that does: `runs commands`.
    pub(crate) why: &'a str,
    /// Whether it counts in source files too.
    pub(crate) source: bool,
}

/// What takes a function as an argument without calling it.
const LOOKS_ONLY: [&str; 8] = [
    "builtins.isinstance",
    "builtins.issubclass",
    "builtins.callable",
    "builtins.help",
    "builtins.type",
    "builtins.print",
    "builtins.repr",
    "builtins.hasattr",
];

/// Names that are harmless without an argument: writing about them looks the same.
fn needs_argument(name: &str) -> bool {
    !name.starts_with("__") && !matches!(name, "os.fork" | "os.abort" | "socket.socket")
}

impl Dangers {
    pub(crate) fn builtin() -> Result<&'static Self> {
        static DANGERS: OnceLock<Dangers> = OnceLock::new();
        if let Some(d) = DANGERS.get() {
            return Ok(d);
        }
        let lists: Lists = parse(DATA)?;
        let mut names = HashMap::new();
        for l in lists.danger {
            for n in l.names {
                names.insert(n, (l.why.clone(), l.source));
            }
        }
        Ok(DANGERS.get_or_init(|| Self {
            names,
            modules: lists.modules,
            quiet: lists.quiet,
        }))
    }

    /// Why a dotted name is listed, and whether that counts in source files. What the operating
    /// system's own modules hold is what `os` shows of them.
    pub(crate) fn listed(&self, name: &str) -> Option<(&str, bool)> {
        let renamed = ["posix.", "nt.", "os.os."]
            .iter()
            .find_map(|p| name.strip_prefix(p))
            .map(|rest| format!("os.{rest}"));
        let mut prefix = renamed.as_deref().unwrap_or(name);
        if let Some(rest) = prefix.strip_prefix("__builtin__.") {
            return self.listed(&format!("builtins.{rest}"));
        }
        loop {
            if self.quiet.contains(prefix) {
                return None;
            }
            if let Some((why, source)) = self.names.get(prefix) {
                return Some((why, *source));
            }
            prefix = prefix.get(..prefix.rfind('.')?)?;
        }
    }

    /// Whether importing a module by its text is worth a finding.
    pub(crate) fn imports(&self, module: &str) -> bool {
        let top = module.split('.').next().unwrap_or_default();
        self.modules.contains(top)
    }

    /// The harm one call does, if any.
    pub(crate) fn of<'a>(&'a self, call: &'a CallSite) -> Option<Harm<'a>> {
        if let Some((why, source)) = self.listed(&call.name)
            && (!call.args.is_empty() || !needs_argument(&call.name))
            && !(why.starts_with("imports") && self.imports_harmless(call))
        {
            let name = call.name.as_str();
            return Some(Harm { name, why, source });
        }
        if call.name == "builtins.open"
            && let Some(private) = opens_badly(call)
        {
            return Some(Harm {
                name: "open",
                why: if private {
                    "opens private files"
                } else {
                    "writes files"
                },
                source: private,
            });
        }
        if LOOKS_ONLY.contains(&call.name.as_str()) {
            return None;
        }
        // A function handed to what calls it: `map(os.system, …)`, `Thread(target=…)`.
        call.args.iter().find_map(|(_, a)| match a {
            Argument::Name(name) => match self.listed(name) {
                Some((why, source)) if why.starts_with("runs") => Some(Harm { name, why, source }),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether a call imports a module that harms nobody.
    fn imports_harmless(&self, call: &CallSite) -> bool {
        match call.args.first() {
            Some((_, Argument::Text(t))) => {
                let top = t
                    .split(|b| matches!(b, b'.' | b':'))
                    .next()
                    .unwrap_or_default();
                !std::str::from_utf8(top).is_ok_and(|m| self.modules.contains(m))
            }
            _ => false,
        }
    }

    /// The first call of a program that does harm, wherever it stands; one that runs commands
    /// before one that merely imports.
    pub(crate) fn worst<'a>(&'a self, program: &'a Program) -> Option<(&'a CallSite, Harm<'a>)> {
        program
            .calls
            .iter()
            .filter_map(|c| Some((c, self.of(c)?)))
            .min_by_key(|(_, h)| u8::from(!h.why.starts_with("runs")) + u8::from(!h.source))
    }
}

/// Files whose reading is worth a finding.
const PRIVATE: [&str; 10] = [
    "/etc/passwd",
    "/etc/shadow",
    "/proc/",
    "/.ssh/",
    "/.aws/",
    "/.kube/",
    "/.netrc",
    "/.git-credentials",
    "/.bash_history",
    "/var/run/secrets/",
];

/// Whether a path leads to what no model needs: passwords, keys, the system's state.
pub(crate) fn is_private_path(path: &str) -> bool {
    PRIVATE.iter().any(|p| path.contains(p))
}

/// Whether `open` is called for what is private; `None` when it merely reads.
fn opens_badly(call: &CallSite) -> Option<bool> {
    let text = |a: Option<&(Option<String>, Argument)>| match a {
        Some((_, Argument::Text(t))) => String::from_utf8_lossy(t).into_owned(),
        _ => String::new(),
    };
    let named = call.args.iter().find(|(k, _)| k.as_deref() == Some("mode"));
    let mode = text(named.or_else(|| call.args.get(1).filter(|(k, _)| k.is_none())));
    let writes = mode.len() <= 4
        && mode.bytes().all(|b| b"rwaxbtU+".contains(&b))
        && mode.contains(['w', 'a', 'x', '+']);
    let path = text(call.args.first());
    let startup = [
        ".bashrc",
        ".profile",
        ".zshrc",
        "/etc/cron",
        ".bash_profile",
    ];
    if is_private_path(&path) || writes && startup.iter().any(|s| path.contains(s)) {
        return Some(true);
    }
    writes.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python;

    fn harm(text: &str) -> Option<String> {
        let p = python::read(text).unwrap();
        let d = Dangers::builtin().unwrap();
        d.worst(&p).map(|(_, h)| h.name.to_owned())
    }

    #[test]
    fn what_does_harm_is_told_from_what_does_not() {
        for (text, want) in [
            ("os.system('x')", "os.system"),
            ("import posix; posix.system('x')", "posix.system"),
            ("subprocess.check_output(['x'])", "subprocess.check_output"),
            ("map(os.system, ['x'])", "os.system"),
            (
                "threading.Thread(target=exec, args=('x',)).start()",
                "builtins.exec",
            ),
            ("getattr(os, x)('y')", "os.?"),
            ("__import__('os')", "builtins.__import__"),
            ("importlib.import_module('pty').spawn('sh')", "pty.spawn"),
            ("open('/etc/passwd').read()", "open"),
            ("open('x', 'wb').write(b'')", "open"),
            ("open(os.path.expanduser('~/.ssh/id_rsa'))", "open"),
            (
                "import ctypes; ctypes.CDLL(None).system(b'id')",
                "ctypes.cdll.system",
            ),
            ("import socket; s = socket.socket()", "socket.socket"),
            ("requests.post('http://x', data=y)", "requests.post"),
            ("import shutil; shutil.rmtree('/')", "shutil.rmtree"),
            (
                "().__class__.__bases__[0].__subclasses__()[7]('x')",
                "__subclasses__.item",
            ),
        ] {
            assert_eq!(harm(text).as_deref(), Some(want), "{text}");
        }
        for text in [
            "eval()",
            "os.system()",
            "os.path.join('a', 'b')",
            "os.getenv('HOME')",
            "model.eval()",
            "eval",
            "os.system",
            "print('x')",
            "__import__('numpy').zeros(3)",
            "open('x').read()",
            "open(x, encoding='a')",
            "torch.load('x')",
            "isinstance(x, subprocess.Popen)",
            "subprocess.CalledProcessError('x')",
            "code.split(',')",
            "relu(x)",
            "re.compile('x')",
        ] {
            assert_eq!(harm(text), None, "{text}");
        }
    }
}
