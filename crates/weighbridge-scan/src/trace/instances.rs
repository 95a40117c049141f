//! State that turns an instance against the program: methods which the unpickler itself calls on
//! it, and containers that pass changes on to what they wrap.

use std::collections::HashMap;

use weighbridge_core::pickle::{Build, Change, Node, NodeId};

use super::{ARGS_CHARS, Collector, render_change};
use crate::globals::Standing;
use crate::subject::{ComputedCall, Use};

/// Methods that the unpickler looks up on an instance and calls, so that an attribute of that name
/// takes their place (Modules/_pickle.c, `load_build`, `do_append`, `load_additems`).
const CALLED: [&str; 4] = ["__setstate__", "append", "extend", "add"];

impl<'t> Collector<'t, '_> {
    /// Records the calls of functions that a state puts in the place of a method which a later
    /// opcode of the stream calls.
    pub(super) fn replaced_methods(&mut self) {
        let trace = self.trace;
        let mut last: Option<HashMap<NodeId, usize>> = None;
        for b in &trace.builds {
            let Some(method) = self.replaces(b) else {
                continue;
            };
            let last = last.get_or_insert_with(|| {
                let builds = trace.builds.iter().map(|b| (b.target, b.offset));
                let changes = trace.changes.iter().map(|c| (c.target, c.offset));
                let mut last = HashMap::new();
                for (target, offset) in builds.chain(changes) {
                    let at = last.entry(target).or_insert(offset);
                    *at = offset.max(*at);
                }
                last
            });
            let Some(&at) = last.get(&b.target).filter(|&&at| at > b.offset) else {
                continue;
            };
            match trace.node(method) {
                Node::Global(_) => {
                    self.used.insert(method);
                    if let Some(g) = trace.global(method) {
                        let args = || trace.render(b.target, ARGS_CHARS);
                        self.add(Some(&g.module), Some(&g.name), at, Use::Call, args);
                    }
                }
                Node::DynamicGlobal(..) | Node::Extension(_) => {
                    self.used.insert(method);
                    self.hidden(method, at, Use::Call);
                }
                Node::Call(inner) => {
                    self.computed += 1;
                    if self.computed <= super::REPEATS {
                        self.out.computed.push(ComputedCall {
                            offset: at as u64,
                            how: Use::Call,
                            root: self.root(inner),
                            direct: false,
                            text: format!("{}(…)", trace.render(method, ARGS_CHARS)),
                        });
                    }
                }
                _ => {}
            }
        }
    }

    /// What `build` puts in the place of a method that the unpickler calls.
    fn replaces(&self, build: &Build) -> Option<NodeId> {
        let trace = self.trace;
        let of = |dict: NodeId| {
            let mut pairs = trace.dict(dict)?.iter();
            let pair = pairs.find(|&&(key, _)| {
                trace
                    .text(key)
                    .is_some_and(|key| CALLED.contains(&key.as_ref()))
            });
            pair.map(|&(_, value)| value)
        };
        // A pair holds the attributes of `__dict__` and those of slots.
        match trace.items(build.state) {
            Some([dict, slots]) => of(*dict).or_else(|| of(*slots)),
            _ => of(build.state),
        }
    }

    /// Items are set on an object that was built around something imported, as a `ChainMap` is
    /// around its maps: what changes is that.
    pub(super) fn passed_on(&mut self, change: &Change) {
        let trace = self.trace;
        let Node::Call(built) = trace.node(change.target) else {
            return;
        };
        // `copyreg._reconstructor` is handed the class first.
        let first = trace.items(built.args).and_then(|a| a.first().copied());
        let classes = [Some(built.callee), first];
        let mut classes = classes.iter().flatten().filter_map(|&id| trace.global(id));
        if !classes.any(|g| self.catalogue.wraps_argument(&g.module, &g.name)) {
            return;
        }
        let values = |id: NodeId| {
            let pairs = trace.dict(id).unwrap_or_default();
            pairs.iter().map(|&(_, value)| value)
        };
        let arguments = trace.items(built.args).unwrap_or_default().iter().copied();
        let states = built.states.iter().flat_map(|&s| {
            let parts = trace.items(s).unwrap_or_default();
            values(s).chain(parts.iter().flat_map(|&part| values(part)))
        });
        let wrapped: Vec<NodeId> = arguments
            .chain(states)
            .filter(|&id| matches!(trace.node(id), Node::Global(_)))
            .take(super::REPEATS as usize)
            .collect();
        for id in wrapped {
            let Some(g) = trace.global(id) else { continue };
            let standing = self.catalogue.judge(&g.module, &g.name, Use::Import);
            if standing != Standing::Allowed {
                self.used.insert(id);
                let args = || render_change(trace, change);
                let (module, name) = (Some(g.module.as_str()), Some(g.name.as_str()));
                self.add(module, name, change.offset, Use::Change, args);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_core::{Limits, pickle};

    use crate::subject::PickleTrace;

    fn uses(data: &[u8]) -> Vec<String> {
        let t = pickle::run(data, &Limits::default());
        let p = PickleTrace::of("", None, &t).unwrap();
        let name = |s: &Option<String>| s.clone().unwrap_or_default();
        let globals = p.globals.iter();
        let mut out: Vec<String> = globals
            .map(|g| format!("{:?} {}.{}", g.how, name(&g.module), name(&g.name)))
            .collect();
        out.extend(p.computed.iter().map(|c| format!("computed {}", c.text)));
        out
    }

    const SPACE: &str = "\u{80}\u{2}cargparse\nNamespace\n)\u{81}}V";

    fn built(rest: &str) -> Vec<String> {
        let text = format!("{SPACE}{rest}");
        let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
        uses(&bytes)
    }

    #[test]
    fn a_method_that_a_state_replaces_is_called_by_the_next_opcode_that_needs_it() {
        for (name, op) in [
            ("__setstate__", "Vid\nb."),
            ("append", "Vid\na."),
            ("extend", "(Vid\ne."),
            ("add", "(Vid\n\u{90}."),
        ] {
            let found = built(&format!("{name}\ncposix\nsystem\nsb{op}"));
            assert!(found.contains(&"Call posix.system".into()), "{found:?}");
        }
        // Nothing calls it, or the name is one that nobody looks up.
        for rest in [
            "append\ncposix\nsystem\nsb.",
            "loss\ncposix\nsystem\nsbVid\nb.",
        ] {
            let found = built(rest);
            assert!(found.contains(&"Import posix.system".into()), "{found:?}");
        }
        // Text under such a name is no method.
        assert_eq!(
            built("add\nVplain\nsb}b."),
            ["Construct argparse.Namespace"]
        );
        let wrapped = built("append\ncfunctools\npartial\n(cposix\nsystem\ntRsbVid\na.");
        assert!(wrapped.iter().any(|u| u.starts_with("computed functools")));
    }

    #[test]
    fn what_a_container_wraps_is_changed_through_it() {
        let map = b"ccollections\nChainMap\n(csys\nmodules\ntRVjson\nNs.";
        assert!(uses(map).contains(&"Change sys.modules".into()));
        let list = b"\x80\x02ccollections\nUserList\n)\x81}Vdata\ncsys\npath\nsbV/tmp\na.";
        assert!(uses(list).contains(&"Change sys.path".into()));
        // A factory that makes the missing values is no part of the dict.
        let plain = b"ccollections\ndefaultdict\n(cm\nC\ntRVa\n]s.";
        assert!(!uses(plain).iter().any(|u| u.starts_with("Change")));
    }
}
