//! From the abstract machine's trace to the uses of globals that the checks judge.

mod arguments;
mod instances;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use weighbridge_core::Result;
use weighbridge_core::pickle::{Call, CallOp, Change, Event, Node, NodeId, Op, Trace};

use crate::globals::Catalogue;
use crate::subject::{ComputedCall, GlobalUse, PickleTrace, Use};

/// How often one global used in one way is listed; a checkpoint rebuilds a hundred thousand
/// tensors with the same function.
const REPEATS: u32 = 8;

/// Longest rendering of arguments, in characters.
const ARGS_CHARS: usize = 300;

/// How many calls are followed from a computed callee to the global at its root.
const CHAIN: usize = 64;

impl PickleTrace {
    /// Takes from `trace` what the checks judge. `place` and `base` are the fields of the same
    /// name.
    ///
    /// # Errors
    /// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
    pub fn of(place: impl Into<String>, base: Option<u64>, trace: &Trace<'_>) -> Result<Self> {
        let mut out = Self {
            place: place.into(),
            base,
            ..Self::default()
        };
        // Readers that part at a frame execute one reading or the other: all of them count.
        for reading in std::iter::once(trace).chain(&trace.readings) {
            let read = Collector::new(reading, Catalogue::builtin()?).collect();
            merge(&mut out.globals, read.globals);
            merge(&mut out.computed, read.computed);
            out.broken |= reading.root.is_none();
        }
        out.globals.sort_by_key(|g| g.offset);
        out.computed.sort_by_key(|c| c.offset);
        Ok(out)
    }
}

/// Adds to `all` what it does not have yet. Both are short: equal uses are listed a few times.
fn merge<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    if all.is_empty() {
        *all = more;
        return;
    }
    let known = all.len().min(MERGED);
    for m in more {
        if !all.iter().take(known).any(|a| *a == m) {
            all.push(m);
        }
    }
}

/// How many uses a further reading is compared with; beyond that, equal ones are listed twice.
const MERGED: usize = 256;

/// A module or a name, where the stream spells it out.
type Name<'t> = Option<Cow<'t, str>>;

/// Module and name, and what is done.
type UseOf<'t> = (Name<'t>, Name<'t>, Use);

struct Collector<'t, 'd> {
    trace: &'t Trace<'d>,
    catalogue: &'static Catalogue,
    /// Nodes that are called or changed, so that naming them is no bare import.
    used: HashSet<NodeId>,
    counts: HashMap<UseOf<'t>, u32>,
    computed: u32,
    out: PickleTrace,
}

impl<'t, 'd> Collector<'t, 'd> {
    fn new(trace: &'t Trace<'d>, catalogue: &'static Catalogue) -> Self {
        Self {
            trace,
            catalogue,
            used: HashSet::new(),
            counts: HashMap::new(),
            computed: 0,
            out: PickleTrace::default(),
        }
    }

    fn collect(mut self) -> PickleTrace {
        let trace = self.trace;
        for node in &trace.nodes {
            if let Node::Call(call) = node {
                self.call(call);
            }
        }
        for b in &trace.builds {
            self.changed(b.target, b.offset, || trace.render(b.state, ARGS_CHARS));
        }
        // The first change of an object tells what the others reach too.
        let mut told = std::collections::HashSet::new();
        for c in &trace.changes {
            self.changed(c.target, c.offset, || render_change(trace, c));
            if told.insert(c.target) {
                self.passed_on(c);
            }
        }
        self.replaced_methods();
        self.imports();
        self.out
    }

    /// State, items or keys are set on `target`, which is a change of the program itself when the
    /// stream only names it.
    fn changed(&mut self, target: NodeId, offset: usize, args: impl FnOnce() -> String) {
        match self.trace.node(target) {
            Node::Global(_) => {
                self.used.insert(target);
                if let Some(g) = self.trace.global(target) {
                    self.add(Some(&g.module), Some(&g.name), offset, Use::Change, args);
                }
            }
            Node::DynamicGlobal(..) | Node::Extension(_) => {
                self.used.insert(target);
                self.hidden(target, offset, Use::Change);
            }
            _ => {}
        }
    }

    fn add(
        &mut self,
        module: Option<&'t str>,
        name: Option<&'t str>,
        offset: usize,
        how: Use,
        args: impl FnOnce() -> String,
    ) {
        let owned = |s: Option<&'t str>| s.map(Cow::Borrowed);
        self.add_named((owned(module), owned(name)), offset, how, args);
    }

    fn add_named(
        &mut self,
        (module, name): (Name<'t>, Name<'t>),
        offset: usize,
        how: Use,
        args: impl FnOnce() -> String,
    ) {
        let key = (module.clone(), name.clone(), how);
        let count = self.counts.entry(key).or_default();
        *count += 1;
        if *count <= REPEATS {
            self.out.globals.push(GlobalUse {
                module: module.map(Cow::into_owned),
                name: name.map(Cow::into_owned),
                offset: offset as u64,
                how,
                args: args(),
            });
        }
    }

    fn call(&mut self, call: &'t Call) {
        let how = match call.op {
            CallOp::NewObj | CallOp::NewObjEx => Use::Construct,
            CallOp::Reduce | CallOp::Inst | CallOp::Obj => Use::Call,
        };
        if self.is_harmless(call, how) {
            return;
        }
        self.applied(call.callee, call, how);
        let Some(g) = self.trace.global(call.callee) else {
            return;
        };
        let Some(applied) = self.catalogue.applies(&g.module, &g.name) else {
            return;
        };
        let items = self.trace.items(call.args).unwrap_or_default();
        for &id in applied.arguments.iter().filter_map(|&i| items.get(i)) {
            let excepted = self
                .trace
                .global(id)
                .is_some_and(|g| self.catalogue.excepted(applied, &g.module, &g.name));
            if excepted {
                self.used.insert(id);
            } else {
                self.applied(id, call, applied.how);
            }
        }
    }

    /// `callee` is called or constructed by `call`, itself or through an allowed function.
    fn applied(&mut self, callee: NodeId, call: &'t Call, how: Use) {
        let trace = self.trace;
        if how == Use::Construct && self.by_state(callee, call).is_some() {
            return;
        }
        match trace.node(callee) {
            Node::Global(_) => {
                self.used.insert(callee);
                if let Some(g) = trace.global(callee) {
                    let args = || rendered(trace, call);
                    self.add(Some(&g.module), Some(&g.name), call.offset, how, args);
                }
            }
            Node::DynamicGlobal(..) | Node::Extension(_) => {
                self.used.insert(callee);
                self.hidden(callee, call.offset, how);
            }
            // What a persistent id or a buffer gives is the loader's, and nobody calls it.
            node @ (Node::Call(_) | Node::Persistent(_) | Node::Buffer)
                if callee == call.callee || how == Use::Call =>
            {
                if self.reached_and_applied(callee, call, how) {
                    // The class of a persistent id is used with it, and no bare import.
                    if let Node::Persistent(pid) = node {
                        let parts = trace.items(*pid).unwrap_or_default();
                        self.used.extend(parts.get(1));
                    }
                    return;
                }
                self.computed += 1;
                if self.computed <= REPEATS {
                    let root = match node {
                        Node::Call(inner) => self.root(inner),
                        _ => None,
                    };
                    let direct = matches!(node, Node::Call(inner)
                        if trace.global(inner.callee).is_some());
                    self.out.computed.push(ComputedCall {
                        offset: call.offset as u64,
                        how,
                        root,
                        direct,
                        text: format!(
                            "{}({})",
                            trace.render(callee, ARGS_CHARS),
                            rendered(trace, call)
                        ),
                    });
                }
            }
            _ => {}
        }
    }

    /// A global whose name the stream does not spell out.
    fn hidden(&mut self, id: NodeId, offset: usize, how: Use) {
        let text = self.trace.render(id, ARGS_CHARS);
        self.add(None, None, offset, how, || text);
    }

    fn root(&self, call: &Call) -> Option<(String, String)> {
        let mut at = call.callee;
        for _ in 0..CHAIN {
            match self.trace.node(at) {
                Node::Call(inner) => at = inner.callee,
                _ => break,
            }
        }
        self.trace
            .global(at)
            .map(|g| (g.module.clone(), g.name.clone()))
    }

    fn imports(&mut self) {
        let trace = self.trace;
        for &(offset, event) in &trace.events {
            let Event::Import(id) = event else { continue };
            if self.used.contains(&id) {
                continue;
            }
            match trace.global(id) {
                Some(g) => {
                    let (module, name) = (Some(g.module.as_str()), Some(g.name.as_str()));
                    self.add(module, name, offset, Use::Import, String::new);
                }
                None => self.hidden(id, offset, Use::Import),
            }
        }
    }
}

fn rendered(trace: &Trace<'_>, call: &Call) -> String {
    trace.render_args(call, ARGS_CHARS)
}

/// The items of a change as an argument list; keys and values as a dict would show them.
fn render_change(trace: &Trace<'_>, change: &Change) -> String {
    let keyed = matches!(change.op, Op::SETITEM | Op::SETITEMS);
    let mut out = String::new();
    for pair in change.items.chunks(if keyed { 2 } else { 1 }) {
        if !out.is_empty() {
            out.push_str(", ");
        }
        if out.len() >= ARGS_CHARS {
            out.push('…');
            break;
        }
        let room = ARGS_CHARS.saturating_sub(out.len());
        let mut parts = pair.iter().map(|id| trace.render(*id, room));
        out.push_str(&parts.next().unwrap_or_default());
        if let Some(value) = parts.next() {
            out.push_str(": ");
            out.push_str(&value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use weighbridge_core::{Limits, pickle};

    use super::*;

    fn trace(data: &[u8]) -> PickleTrace {
        let t = pickle::run(data, &Limits::default());
        PickleTrace::of("p", None, &t).unwrap()
    }

    fn uses(t: &PickleTrace) -> Vec<(String, Use)> {
        t.globals
            .iter()
            .map(|g| {
                let part = |s: &Option<String>| s.clone().unwrap_or_else(|| "?".into());
                (
                    format!("{}.{}({})", part(&g.module), part(&g.name), g.args),
                    g.how,
                )
            })
            .collect()
    }

    #[test]
    fn a_reduce_is_a_call_with_its_arguments_and_offset() {
        let t = trace(b"cposix\nsystem\n(Vid\ntR.");
        assert_eq!(uses(&t), [("posix.system(\"id\")".into(), Use::Call)]);
        assert_eq!(t.globals[0].offset, 20);
    }

    #[test]
    fn newobj_constructs_and_a_bare_global_imports() {
        let t = trace(b"\x80\x02(cm\nC\n)\x81cm\nD\nt.");
        assert_eq!(
            uses(&t),
            [
                ("m.C()".into(), Use::Construct),
                ("m.D()".into(), Use::Import)
            ]
        );
    }

    #[test]
    fn state_set_on_a_global_is_a_change() {
        let t = trace(b"\x80\x02csys\nmodules\n}b.");
        assert_eq!(uses(&t), [("sys.modules({})".into(), Use::Change)]);
    }

    #[test]
    fn items_set_on_a_global_are_a_change() {
        let t = trace(b"csys\nmodules\nVos\ncmine\nos\ns.");
        assert_eq!(
            uses(&t),
            [
                ("mine.os()".into(), Use::Import),
                ("sys.modules(\"os\": mine.os)".into(), Use::Change)
            ]
        );
        let t = trace(b"csys\npath\nVx\na.");
        assert_eq!(uses(&t), [("sys.path(\"x\")".into(), Use::Change)]);
    }

    #[test]
    fn every_reading_of_a_frame_counts() {
        // Read in order, the call is the data of a BINBYTES; a reader that drops the rest of the
        // frame executes it.
        let mut d = b"\x80\x05(\x95\x02\0\0\0\0\0\0\0B\x30\x01\0\0\0".to_vec();
        d.extend_from_slice(b"xcposix\nsystem\n(Vid\ntR(");
        d.resize(d.len() + 0x130, b'N');
        d.extend_from_slice(b"1N.");
        let t = trace(&d);
        assert_eq!(uses(&t), [("posix.system(\"id\")".into(), Use::Call)]);
        // What is in both is listed once.
        let mut both = b"\x80\x05cm\nD\n0".to_vec();
        both.extend_from_slice(&d[2..]);
        let t = trace(&both);
        assert_eq!(t.globals.iter().filter(|g| g.how == Use::Import).count(), 1);
    }

    #[test]
    fn a_frame_past_the_end_leaves_a_whole_stream() {
        let t = trace(b"\x80\x04\x95\x14\0\0\0\0\0\0\0\x8c\x02nt\x8c\x06system\x93.");
        assert_eq!(uses(&t), [("nt.system()".into(), Use::Import)]);
        assert!(!t.broken);
    }

    #[test]
    fn calling_what_the_loader_gives_is_computed() {
        let t = trace(b"Pid\n(Vid\ntR.");
        assert_eq!(t.computed.len(), 1);
        assert_eq!(t.computed[0].text, "persistent(\"id\")(\"id\")");
    }

    #[test]
    fn a_class_with_its_source_is_the_class() {
        let t = trace(b"((Vmodule\ncposix\nsystem\nVf\nVs\ntQVid\no.");
        let called = ("posix.system(\"id\")".into(), Use::Call);
        assert!(uses(&t).contains(&called), "{:?}", uses(&t));
        assert!(t.computed.is_empty());
    }

    #[test]
    fn what_an_allowed_function_calls_is_called() {
        // numpy's __generator_ctor calls its second argument with its first.
        let t = trace(b"cnumpy.random._pickle\n__generator_ctor\n(Vid\ncposix\nsystem\ntR.");
        assert!(
            uses(&t).contains(&("posix.system(\"id\", posix.system)".into(), Use::Call)),
            "{:?}",
            uses(&t)
        );
        assert!(!t.globals.iter().any(|g| g.how == Use::Import));
    }

    #[test]
    fn calling_a_result_is_computed_and_knows_its_root() {
        let t = trace(b"cm\nmake\n(cposix\nsystem\ntR(Vid\ntR.");
        assert_eq!(t.computed.len(), 1);
        assert_eq!(t.computed[0].root, Some(("m".into(), "make".into())));
        assert_eq!(t.computed[0].text, "m.make(posix.system)(\"id\")");
    }

    #[test]
    fn names_that_are_no_constants_are_hidden() {
        // The module of a STACK_GLOBAL is the result of a call.
        let t = trace(b"\x80\x04cbuiltins\nstr\n(Vos\ntRVsystem\n\x93(Vid\ntR.");
        let hidden = t.globals.iter().find(|g| g.module.is_none()).unwrap();
        assert_eq!(hidden.how, Use::Call);
        // An extension code names whatever the loading process registered.
        let t = trace(b"\x80\x02\x82\x05)R.");
        assert!(
            t.globals
                .iter()
                .any(|g| g.module.is_none() && g.how == Use::Call)
        );
    }

    #[test]
    fn a_stream_that_breaks_is_told_from_one_that_ends() {
        assert!(trace(b"cbuiltins\nexec\n(X\xff\xff\xff\xff").broken);
        assert!(!trace(b"N.").broken);
    }

    #[test]
    fn a_hundred_thousand_equal_calls_are_listed_a_few_times() {
        let mut data = b"(".to_vec();
        for _ in 0..100_000 {
            data.extend_from_slice(b"cm\nf\n)R");
        }
        data.extend_from_slice(b"t.");
        assert_eq!(trace(&data).globals.len(), REPEATS as usize);
    }
}
