//! State that turns an instance against the program: functions in the place of the methods that a
//! later opcode calls on it, and containers that pass changes on to what they wrap.

use std::collections::{HashMap, HashSet};

use weighbridge_core::pickle::{Change, Node, NodeId};

use super::{ARGS_CHARS, Collector, REPEATS, render_change};
use crate::globals::Standing;
use crate::subject::Use;

/// Most values that are followed from the states of instances.
const FOLLOWED: usize = 10_000;

impl<'t> Collector<'t, '_> {
    /// Picklers set the state of an instance last. A stream that goes on to append to it, to set
    /// items on it or to set another state has the unpickler call methods of the instance that it
    /// made itself: `__setstate__`, `append`, `extend` and `add` are looked up on the instance
    /// (Modules/_pickle.c, `load_build`, `do_append`), and what they call in turn too. Whatever
    /// function such a state holds is taken for called.
    pub(super) fn replaced_methods(&mut self) {
        let trace = self.trace;
        let mut first: HashMap<NodeId, usize> = HashMap::new();
        let mut after: Vec<(NodeId, usize)> = Vec::new();
        for b in &trace.builds {
            match first.get(&b.target) {
                Some(_) => after.push((b.target, b.offset)),
                None => {
                    first.insert(b.target, b.offset);
                }
            }
        }
        for c in &trace.changes {
            if first.get(&c.target).is_some_and(|&at| at < c.offset) {
                after.push((c.target, c.offset));
            }
        }
        let mut left = FOLLOWED;
        // What an instance holds is told once: a stream may set a million states on one of them.
        let mut seen: HashSet<NodeId> = HashSet::new();
        for (target, offset) in after {
            let mut work = vec![target];
            while let Some(id) = work.pop() {
                if !seen.insert(id) {
                    continue;
                }
                let Node::Call(object) = trace.node(id) else {
                    continue;
                };
                let Some(rest) = left.checked_sub(1) else {
                    return;
                };
                left = rest;
                for value in self.held(&object.states) {
                    if id == value || left == 0 {
                        continue;
                    }
                    left -= 1;
                    match trace.node(value) {
                        Node::Global(_) => self.taken_for_called(value, target, offset),
                        Node::Call(_) => work.push(value),
                        _ => {}
                    }
                }
            }
        }
    }

    fn taken_for_called(&mut self, function: NodeId, target: NodeId, offset: usize) {
        let trace = self.trace;
        let Some(g) = trace.global(function) else {
            return;
        };
        if self.catalogue.judge(&g.module, &g.name, Use::Import) != Standing::Allowed {
            self.used.insert(function);
            let args = || trace.render(target, ARGS_CHARS);
            self.add(Some(&g.module), Some(&g.name), offset, Use::Call, args);
        }
    }

    /// The values of the attributes that states set. A pair holds those of `__dict__` and those of
    /// slots.
    fn held(&self, states: &'t [NodeId]) -> impl Iterator<Item = NodeId> + use<'t> {
        let trace = self.trace;
        let values = move |id: NodeId| {
            let pairs = trace.dict(id).unwrap_or_default();
            pairs.iter().map(|&(_, value)| value)
        };
        states.iter().flat_map(move |&s| {
            let parts = trace.items(s).unwrap_or_default();
            values(s).chain(parts.iter().flat_map(move |&part| values(part)))
        })
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
        let arguments = trace.items(built.args).unwrap_or_default().iter().copied();
        let wrapped: Vec<NodeId> = arguments
            .chain(self.held(&built.states))
            .filter(|&id| matches!(trace.node(id), Node::Global(_)))
            .take(REPEATS as usize)
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
        // Nothing calls it.
        let found = built("append\ncposix\nsystem\nsb.");
        assert!(found.contains(&"Import posix.system".into()), "{found:?}");
        // Methods call others, which a state replaces as well.
        let dict = b"\x80\x02ctorch.nn.modules.container\nModuleDict\n)\x81}Vadd_module\ncbuiltins\nexec\nsbVpass\n}s.";
        let found = uses(dict);
        assert!(found.contains(&"Call builtins.exec".into()), "{found:?}");
        let list = b"\x80\x02ccollections\nUserList\n)\x81}Vdata\ncargparse\nNamespace\n)\x81}Vappend\ncposix\nsystem\nsbsbVid\na.";
        let found = uses(list);
        assert!(found.contains(&"Call posix.system".into()), "{found:?}");
        // Items before the state are what picklers write.
        let honest = b"\x80\x02cm\nList\n)\x81Vx\na}Vkey\ncm\nfunction\nsb.";
        assert_eq!(uses(honest), ["Construct m.List", "Import m.function"]);
        assert_eq!(
            built("add\nVplain\nsb}b."),
            ["Construct argparse.Namespace"]
        );
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

    /// Each state was walked again for every state after it: a file of 4 MB took minutes.
    #[test]
    fn many_states_of_one_instance_are_walked_once() {
        let mut stream = b"\x80\x02(ccollections\nOrderedDict\nq\0)R".to_vec();
        stream.extend(b"}b".repeat(300_000));
        stream.push(b'.');
        let limits = weighbridge_core::Limits::default();
        let trace = weighbridge_core::pickle::run(&stream, &limits);
        assert!(crate::PickleTrace::of("x", None, &trace).is_ok());
    }
}
