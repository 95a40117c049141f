//! Calls that their constant arguments make harmless: an attribute taken of something allowed, a
//! function wrapped for later, text encoded.

use std::borrow::Cow;

use weighbridge_core::pickle::{Call, Node, NodeId};

use super::{CHAIN, Collector};
use crate::globals::{ByArguments, Standing};
use crate::subject::Use;

/// A global, perhaps reached through attributes.
type Named<'t> = (Cow<'t, str>, Cow<'t, str>);

impl<'t> Collector<'t, '_> {
    /// Whether `call` is of a function that its arguments judge, and they make it harmless. What
    /// it imports on the way is recorded.
    pub(super) fn is_harmless(&mut self, call: &'t Call, how: Use) -> bool {
        let Some(rule) = self.rule(call).filter(|_| how == Use::Call) else {
            return false;
        };
        let trace = self.trace;
        let args = trace.items(call.args).unwrap_or_default();
        let harmless = match (rule, args) {
            (ByArguments::Attribute, [target, name] | [target, name, _]) => {
                self.attribute(*target, *name)
            }
            (ByArguments::Wraps, [wrapped, ..]) => self.reached(*wrapped).is_some_and(|(m, n)| {
                self.catalogue.judge(&m, &n, Use::Import) == Standing::Allowed
            }),
            (ByArguments::TypeOfConstant, [value]) => self.is_only_one(*value),
            (ByArguments::Subscript, [form, _]) => trace.global(*form).is_some_and(|g| {
                g.module == "typing"
                    && self.catalogue.judge(&g.module, &g.name, Use::Import) == Standing::Allowed
            }),
            (ByArguments::Encoding, [_]) => true,
            (ByArguments::Encoding, [_, coding]) => trace
                .text(*coding)
                .is_some_and(|c| self.catalogue.is_encoding(&c)),
            (ByArguments::Names, [module, name]) => {
                match (trace.text(*module), trace.text(*name)) {
                    (Some(m), Some(n)) => {
                        let names = (Some(m), Some(n));
                        self.add_named(names, call.offset, Use::Import, String::new);
                        true
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        if harmless {
            self.used.insert(call.callee);
        }
        harmless
    }

    /// Whether a value is the only one of its type, which pickles name by it (Lib/pickle.py,
    /// `save_type`).
    fn is_only_one(&self, id: NodeId) -> bool {
        matches!(self.trace.node(id), Node::None)
            || self.trace.global(id).is_some_and(|g| {
                matches!(g.module.as_str(), "builtins" | "__builtin__")
                    && matches!(g.name.as_str(), "Ellipsis" | "NotImplemented")
            })
    }

    /// How an instance of a class that executes an attribute of its state is judged: not at all
    /// when the attribute holds signatures or is not there, as a call when it holds anything else,
    /// and `None` for all other classes.
    pub(super) fn by_state(&mut self, class: NodeId, call: &'t Call) -> Option<()> {
        let g = self.trace.global(class)?;
        let attribute = self.catalogue.executes(&g.module, &g.name)?;
        self.used.insert(class);
        let harmless = call
            .states
            .iter()
            .all(|&s| self.holds_signatures(s, attribute));
        if !harmless {
            let args = || self.trace.render(call.args, super::ARGS_CHARS);
            let args = args();
            self.add(
                Some(&g.module),
                Some(&g.name),
                call.offset,
                Use::Call,
                || args,
            );
        }
        Some(())
    }

    /// Whether `state` is a dict with constant keys, of which `attribute` holds signatures.
    fn holds_signatures(&self, state: NodeId, attribute: &str) -> bool {
        let trace = self.trace;
        // Before SciPy 1.6 the state was the arguments of the constructor and a random state.
        let dict = match trace.items(state) {
            Some([arguments, _]) => *arguments,
            _ => state,
        };
        trace.dict(dict).is_some_and(|pairs| {
            pairs.iter().all(|&(key, value)| match trace.text(key) {
                Some(key) if key == attribute => {
                    trace.text(value).is_some_and(|t| are_signatures(&t))
                }
                Some(_) => true,
                None => false,
            })
        })
    }

    fn rule(&self, call: &Call) -> Option<ByArguments> {
        let g = self.trace.global(call.callee)?;
        self.catalogue.by_arguments(&g.module, &g.name)
    }

    /// Whether the attribute `name` of `target` is one of something allowed that leads nowhere: of
    /// a global, or of an object that was built of one.
    fn attribute(&self, target: NodeId, name: NodeId) -> bool {
        let Some(name) = self.trace.text(name) else {
            return false;
        };
        if !self.catalogue.leads_nowhere(&name) {
            return false;
        }
        if let Some((module, base)) = self.reached(target) {
            let full = format!("{base}.{name}");
            return self.catalogue.judge(&module, &full, Use::Import) == Standing::Allowed;
        }
        let Node::Call(built) = self.trace.node(target) else {
            return false;
        };
        let class = match self.trace.global(built.callee) {
            Some(g) if self.catalogue.applies(&g.module, &g.name).is_some() => {
                let args = self.trace.items(built.args).unwrap_or_default();
                args.first().and_then(|&c| self.trace.global(c))
            }
            class => class,
        };
        // What executes its state is judged by it where it is built.
        class.is_some_and(|g| {
            self.catalogue.executes(&g.module, &g.name).is_some()
                || self.catalogue.judge(&g.module, &g.name, Use::Construct) == Standing::Allowed
        })
    }

    /// The global that a node is, or the attribute of one that it takes.
    fn reached(&self, id: NodeId) -> Option<Named<'t>> {
        let trace = self.trace;
        let mut names = Vec::new();
        let mut at = id;
        for _ in 0..CHAIN {
            match trace.node(at) {
                Node::Global(_) => {
                    let g = trace.global(at)?;
                    if names.is_empty() {
                        return Some((Cow::Borrowed(&g.module), Cow::Borrowed(&g.name)));
                    }
                    names.push(Cow::Borrowed(g.name.as_str()));
                    names.reverse();
                    return Some((Cow::Borrowed(&g.module), Cow::Owned(names.join("."))));
                }
                // torch's legacy files name a module's class with its source; loading gives the
                // class (torch/serialization.py, _legacy_load, persistent_load).
                Node::Persistent(pid) if names.is_empty() => match trace.items(*pid)? {
                    [kind, class, ..] if trace.is_text(*kind, "module") => at = *class,
                    _ => return None,
                },
                Node::Call(call) if self.rule(call) == Some(ByArguments::Attribute) => {
                    let (target, name) = match trace.items(call.args)? {
                        [target, name] | [target, name, _] => (*target, *name),
                        _ => return None,
                    };
                    names.push(trace.text(name)?);
                    at = target;
                }
                _ => return None,
            }
        }
        None
    }

    /// What a wrapper calls. A state set on it replaces that, and its pickles set the same again.
    fn wrapped(&self, wrapper: &Call) -> Option<NodeId> {
        let trace = self.trace;
        let first = *trace.items(wrapper.args)?.first()?;
        let same = |id: NodeId| {
            id == first || (self.reached(id).is_some() && self.reached(id) == self.reached(first))
        };
        let mut states = wrapper.states.iter();
        states
            .all(|&s| {
                trace
                    .items(s)
                    .and_then(|s| s.first())
                    .is_some_and(|&id| same(id))
            })
            .then_some(first)
    }

    /// `callee`, which a call gave, is called by `call`: where it is an attribute of a global, or
    /// wraps one, that is what is called. Says whether it was recorded.
    pub(super) fn reached_and_applied(&mut self, callee: NodeId, call: &'t Call, how: Use) -> bool {
        let trace = self.trace;
        let mut at = callee;
        for _ in 0..CHAIN {
            if let Some((module, name)) = self.reached(at) {
                let names = (Some(module), Some(name));
                let args = || trace.render_args(call, super::ARGS_CHARS);
                self.add_named(names, call.offset, how, args);
                return true;
            }
            match trace.node(at) {
                Node::Call(inner) if self.rule(inner) == Some(ByArguments::Wraps) => {
                    match self.wrapped(inner) {
                        Some(wrapped) => at = wrapped,
                        None => return false,
                    }
                }
                _ => return false,
            }
        }
        false
    }
}

/// Whether `text` defines functions that only pass their parameters on: what stands behind an
/// equals sign is a number, `None` or a word in quotes, and nothing is called but a method of
/// `self`.
fn are_signatures(text: &str) -> bool {
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let value = |s: &str| {
        let quoted = s.strip_prefix('\'').and_then(|s| s.strip_suffix('\''));
        word(quoted.unwrap_or(s)) || s.parse::<f64>().is_ok()
    };
    let list = |s: &str| {
        s.split(',')
            .map(str::trim)
            .all(|part| match part.split_once('=') {
                Some((name, default)) => word(name.trim()) && value(default.trim()),
                None => part.is_empty() || word(part),
            })
    };
    text.lines().filter(|l| !l.trim().is_empty()).all(|line| {
        if let Some(rest) = line.strip_prefix("def ") {
            let Some((name, rest)) = rest.split_once('(') else {
                return false;
            };
            return word(name) && rest.trim_end().strip_suffix("):").is_some_and(list);
        }
        let Some(rest) = line.strip_prefix("    return ") else {
            return false;
        };
        let rest = rest.trim();
        if let Some(call) = rest.strip_prefix("self.") {
            let args = call
                .split_once('(')
                .map(|(name, rest)| (name, rest.strip_suffix(')')));
            return args.is_some_and(|(name, args)| word(name) && args.is_some_and(list));
        }
        // A pair of a tuple in parentheses and more names.
        match rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            Some((tuple, more)) => list(tuple) && list(more),
            None => list(rest),
        }
    })
}

#[cfg(test)]
mod tests {
    use weighbridge_core::{Limits, pickle};

    use crate::subject::PickleTrace;

    /// Uses as `how name`, in stream order; computed calls as `computed`.
    fn uses(data: &[u8]) -> Vec<String> {
        let t = pickle::run(data, &Limits::default());
        let p = PickleTrace::of("", None, &t).unwrap();
        let name = |s: &Option<String>| s.clone().unwrap_or_default();
        let mut out: Vec<String> = p
            .globals
            .iter()
            .map(|g| format!("{:?} {}.{}", g.how, name(&g.module), name(&g.name)))
            .collect();
        out.extend(p.computed.iter().map(|_| "computed".to_owned()));
        out
    }

    const PARTIAL: &str = "cfunctools\npartial\n(ccollections\nOrderedDict\ntR";

    #[test]
    fn an_attribute_of_something_allowed_is_an_import() {
        let class = "cbuiltins\ngetattr\n(cnumpy\nndarray\nVmean\ntR";
        assert_eq!(
            uses(format!("{class}.").as_bytes()),
            ["Import numpy.ndarray"]
        );
        let object = "cbuiltins\ngetattr\n(cpathlib\nPurePath\n(Va\ntRVname\ntR.";
        assert_eq!(uses(object.as_bytes()), ["Call pathlib.PurePath"]);
        // Called, it is judged as what it names.
        assert_eq!(
            uses(format!("{class}(Vx\ntR.").as_bytes()),
            ["Import numpy.ndarray", "Call numpy.ndarray.mean"]
        );
    }

    #[test]
    fn an_attribute_that_leads_elsewhere_is_a_call_of_getattr() {
        for (target, name) in [
            ("cnumpy\nndarray\n", "__class__"),
            ("cnumpy\nndarray\n", "__init__"),
            ("cnumpy\nndarray\n", "func_globals"),
            ("cnumpy\nndarray\n", "a.b"),
            ("cnumpy\nndarray\n", ""),
            ("cos\nenviron\n", "get"),
            ("cm\nC\n", "x"),
            ("cm\nC\n)R", "x"),
            ("]", "append"),
        ] {
            let data = format!("cbuiltins\ngetattr\n({target}V{name}\ntR.");
            assert!(
                uses(data.as_bytes()).contains(&"Call builtins.getattr".to_owned()),
                "{data}"
            );
        }
        let computed = b"cbuiltins\ngetattr\n(cnumpy\nndarray\ncm\nf\n)RtR.";
        assert!(uses(computed).contains(&"Call builtins.getattr".to_owned()));
    }

    #[test]
    fn a_wrapped_function_is_imported_and_called_when_it_is_called() {
        assert_eq!(
            uses(format!("{PARTIAL}.").as_bytes()),
            ["Import collections.OrderedDict"]
        );
        assert!(
            uses(format!("{PARTIAL})R.").as_bytes())
                .contains(&"Call collections.OrderedDict".to_owned())
        );
        // Wrapping what no profile allows is a call outside the profiles.
        let evil = b"cfunctools\npartial\n(cposix\nsystem\ntR(Vid\ntR.";
        let found = uses(evil);
        assert!(
            found.contains(&"Call functools.partial".to_owned()),
            "{found:?}"
        );
        assert!(found.contains(&"Call posix.system".to_owned()), "{found:?}");
        // Its pickles set the function again, as a state.
        let again = "cfunctools\npartial\n(ccollections\nOrderedDict\ntR(ccollections\nOrderedDict\n(t}NtbccollectionsX";
        let again = again.replace("ccollectionsX", ")R.");
        assert_eq!(
            uses(again.as_bytes()).last().unwrap(),
            "Call collections.OrderedDict"
        );
        // Its state may wrap something else.
        let state = format!("{PARTIAL}(cposix\nsystem\n(t}}NtbR.").replace("tbR", "tb)R");
        let found = uses(state.as_bytes());
        assert!(found.contains(&"computed".to_owned()), "{found:?}");
        assert!(
            found.contains(&"Import posix.system".to_owned()),
            "{found:?}"
        );
    }

    #[test]
    fn the_type_of_a_constant_is_a_name_and_that_of_anything_else_a_call() {
        for value in [
            "N",
            "cbuiltins\nEllipsis\n",
            "c__builtin__\nNotImplemented\n",
        ] {
            let data = format!("cbuiltins\ntype\n({value}tR.");
            let found = uses(data.as_bytes());
            assert!(
                !found.contains(&"Call builtins.type".to_owned()),
                "{found:?}"
            );
        }
        for args in ["cos\nenviron\n", "Va\n", "Va\n)}", "NN"] {
            let data = format!("cbuiltins\ntype\n({args}tR.");
            let found = uses(data.as_bytes());
            assert!(found.contains(&"Call builtins.type".to_owned()), "{args}");
        }
    }

    #[test]
    fn forms_of_typing_are_filled_in() {
        let of = |form: &str| {
            uses(format!("c_operator\ngetitem\n({form}cbuiltins\nint\ntR.").as_bytes())
        };
        let listed = of("ctyping\nList\n");
        assert!(listed.iter().all(|u| u.starts_with("Import")), "{listed:?}");
        for form in ["csys\nmodules\n", "ctyping\nsys.modules\n", "}"] {
            assert!(
                of(form).contains(&"Call _operator.getitem".to_owned()),
                "{form}"
            );
        }
    }

    #[test]
    fn what_builders_of_classes_are_handed_is_called() {
        let found = uses(b"cdill._dill\n_create_type\n(cposix\nsystem\nVid\ntR.");
        assert!(found.contains(&"Call posix.system".to_owned()), "{found:?}");
        let honest = uses(b"cdill._dill\n_create_type\n(cbuiltins\ntype\nVC\n)}tR.");
        assert_eq!(honest, ["Call dill._dill._create_type"]);
    }

    #[test]
    fn text_encodings_are_harmless_and_other_codecs_are_not() {
        for coding in ["latin1", "latin-1", "UTF-8", "utf_8", "ascii"] {
            let data = format!("c_codecs\nencode\n(Va\nV{coding}\ntR.");
            assert_eq!(uses(data.as_bytes()), [""; 0], "{coding}");
        }
        for coding in ["zlib", "rot13", "mbcs_x", "../x", "idna"] {
            let data = format!("c_codecs\nencode\n(Va\nV{coding}\ntR.");
            assert_eq!(uses(data.as_bytes()), ["Call _codecs.encode"], "{coding}");
        }
    }

    const TEMPLATE: &str = "\ndef _parse_args(self, a, b, loc=0, scale=1):\n    return (a, b,), loc, scale\n\n\
        def _parse_args_rvs(self, a, b, loc=0, scale=1, size=None):\n    return self._argcheck_rvs(a, b, loc, scale, size=size)\n\n\
        def _parse_args_stats(self, a, b, loc=0, scale=1, moments='mv'):\n    return (a, b,), loc, scale, moments\n";

    #[test]
    fn signatures_are_told_from_code() {
        assert!(super::are_signatures(TEMPLATE));
        for text in [
            "import os",
            "def f(self, a=g()):\n    return a",
            "def f(self, a=[g() for g in h]):\n    return a",
            "def f(self): g()",
            "def f(self):\n    return g()",
            "def f(self):\n    return (a), g()",
            "def f(self):\n    return self.f(g())",
            "def f(self) -> g():\n    return a",
            "@g\ndef f(self):\n    return a",
            "def f(self):\n    return a; g()",
        ] {
            assert!(!super::are_signatures(text), "{text}");
        }
    }

    #[test]
    fn a_class_that_executes_its_state_is_judged_by_it() {
        let built = |state: &str| {
            let mut data = b"\x80\x02cscipy.stats._continuous_distns\nnorm_gen\n)\x81}".to_vec();
            data.extend(b"V_parse_arg_template\n");
            let escaped = state.replace('\n', "\\u000a");
            data.extend(format!("V{escaped}\nsb.").into_bytes());
            uses(&data)
        };
        assert_eq!(built(TEMPLATE), [""; 0]);
        let base = b"\x80\x02cscipy.stats._distn_infrastructure\nrv_continuous\n)\x81}V_parse_arg_template\nVopen('x','w')\nsb.";
        assert_eq!(
            uses(base),
            ["Call scipy.stats._distn_infrastructure.rv_continuous"]
        );
        let found = built("__import__('os').system('id')");
        assert_eq!(found, ["Call scipy.stats._continuous_distns.norm_gen"]);
        let hidden = b"\x80\x02cscipy.stats._continuous_distns\nnorm_gen\n)\x81}cm\nf\n)RVx\nsb.";
        assert!(uses(hidden)[0].starts_with("Call scipy.stats"));
    }

    #[test]
    fn torchs_persistent_module_is_its_class() {
        let id = "(Vmodule\ncm\nNet\nVnet.py\nVclass Net\ntQ";
        let found = uses(format!("{id})R.").as_bytes());
        assert!(found.contains(&"Call m.Net".into()), "{found:?}");
        assert!(!found.contains(&"computed".into()), "{found:?}");
        // Any other persistent id is the loader's affair, and nobody calls it.
        assert_eq!(
            uses(b"(Vstorage\ncm\nNet\ntQ)R."),
            ["Import m.Net", "computed"]
        );
    }

    #[test]
    fn a_function_that_imports_names_imports_them() {
        let data = b"cnumpy.core\n_ufunc_reconstruct\n(Vos\nVsystem\ntR.";
        assert_eq!(uses(data), ["Import os.system"]);
    }
}
