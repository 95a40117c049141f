//! A trace as the program that it amounts to.

use std::collections::HashMap;

use super::opcode::Op;
use super::render::Renderer;
use super::value::{Build, Call, CallOp, Change, Event, Node, NodeId, Trace};

/// One statement of the program that a pickle amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Offset of the opcode that does it; of `STOP` for the result.
    pub offset: usize,
    /// The statement, Python-like: `_var0 = posix.system("id")`. It holds text of the stream.
    pub text: String,
}

/// Longest statement, in characters, about.
const WIDTH: usize = 1000;

/// The program that `trace` amounts to, statement by statement in the order of execution, at most
/// `most` of them: what it imports, calls, asks the loader for and changes, and the result.
///
/// Values are shown as they are at the end: a list that grows after it was an argument is shown
/// grown.
pub fn program<'t>(trace: &'t Trace<'_>, most: usize) -> impl Iterator<Item = Line> + 't {
    let mut writer = Writer {
        trace,
        names: HashMap::new(),
        imported: HashMap::new(),
    };
    let result = trace.root.map(|root| (root, trace.end.saturating_sub(1)));
    let events = trace.events.iter().map(Some).chain([None]);
    events
        .filter_map(move |event| match event {
            Some((offset, event)) => writer.event(*offset, *event),
            None => result.map(|(root, offset)| Line {
                offset,
                text: format!("result = {}", writer.value(root)),
            }),
        })
        .take(most)
}

struct Writer<'t, 'd> {
    trace: &'t Trace<'d>,
    /// Variables, by the node that each holds.
    names: HashMap<NodeId, u32>,
    /// Globals whose import has been written.
    imported: HashMap<(&'t str, &'t str), ()>,
}

impl<'t> Writer<'t, '_> {
    fn value(&self, id: NodeId) -> String {
        Renderer::named(self.trace, &self.names).value(id, WIDTH)
    }

    fn event(&mut self, offset: usize, event: Event) -> Option<Line> {
        let trace = self.trace;
        match event {
            Event::Import(id) => self.import(offset, id),
            Event::Call(id) => {
                let Node::Call(call) = trace.node(id) else {
                    return None;
                };
                let text = self.call(call);
                Some(self.assign(id, offset, &text))
            }
            Event::Persistent(id) => {
                let text = Renderer::named(trace, &self.names).origin(id, WIDTH);
                Some(self.assign(id, offset, &text))
            }
            Event::Build(i) => trace.builds.get(i as usize).map(|b| self.build(b)),
            Event::Change(i) => trace.changes.get(i as usize).map(|c| self.change(c)),
        }
    }

    fn assign(&mut self, id: NodeId, offset: usize, value: &str) -> Line {
        let n = self.names.len() as u32;
        self.names.insert(id, n);
        Line {
            offset,
            text: format!("_var{n} = {value}"),
        }
    }

    fn import(&mut self, offset: usize, id: NodeId) -> Option<Line> {
        let trace = self.trace;
        if let Some(g) = trace.global(id) {
            let new = self.imported.insert((&g.module, &g.name), ()).is_none();
            return new.then(|| Line {
                offset,
                text: format!("from {} import {}", g.module, g.name),
            });
        }
        let text = Renderer::named(trace, &self.names).origin(id, WIDTH);
        Some(self.assign(id, offset, &text))
    }

    fn call(&self, call: &Call) -> String {
        let render = Renderer::named(self.trace, &self.names);
        let callee = render.value(call.callee, WIDTH);
        let args = render.args(call, WIDTH);
        match call.op {
            CallOp::NewObj | CallOp::NewObjEx => {
                let comma = if args.is_empty() { "" } else { ", " };
                format!("{callee}.__new__({callee}{comma}{args})")
            }
            CallOp::Reduce | CallOp::Inst | CallOp::Obj => format!("{callee}({args})"),
        }
    }

    fn build(&self, build: &Build) -> Line {
        Line {
            offset: build.offset,
            text: format!(
                "{}.__setstate__({})",
                self.value(build.target),
                self.value(build.state)
            ),
        }
    }

    fn change(&self, change: &Change) -> Line {
        let target = self.value(change.target);
        let mut text = String::new();
        match change.op {
            Op::SETITEM | Op::SETITEMS => {
                for pair in change.items.chunks_exact(2) {
                    if text.len() > WIDTH {
                        text.push_str("; …");
                        break;
                    }
                    if !text.is_empty() {
                        text.push_str("; ");
                    }
                    let mut parts = pair.iter().map(|id| self.value(*id));
                    let key = parts.next().unwrap_or_default();
                    let value = parts.next().unwrap_or_default();
                    text.push_str(&format!("{target}[{key}] = {value}"));
                }
            }
            op => {
                let method = match op {
                    Op::APPEND => "append",
                    Op::APPENDS => "extend",
                    _ => "update",
                };
                let mut items = String::new();
                for id in &change.items {
                    if items.len() > WIDTH {
                        items.push('…');
                        break;
                    }
                    if !items.is_empty() {
                        items.push_str(", ");
                    }
                    items.push_str(&self.value(*id));
                }
                text = match op {
                    Op::APPEND => format!("{target}.{method}({items})"),
                    _ => format!("{target}.{method}([{items}])"),
                };
            }
        }
        Line {
            offset: change.offset,
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::*;
    use crate::limits::Limits;

    fn lines(data: &[u8]) -> Vec<String> {
        let trace = run(data, &Limits::default());
        program(&trace, 100).map(|l| l.text).collect()
    }

    #[test]
    fn calls_become_variables_in_order() {
        assert_eq!(
            lines(b"\x80\x02cposix\nsystem\n(Vid\ntRq\x00}bcm\nC\n)\x81h\x00\x86."),
            [
                "from posix import system",
                "_var0 = posix.system(\"id\")",
                "_var0.__setstate__({})",
                "from m import C",
                "_var1 = m.C.__new__(m.C)",
                "result = (_var1, _var0)",
            ]
        );
    }

    #[test]
    fn changes_and_computed_names_are_shown() {
        assert_eq!(
            lines(b"csys\nmodules\nVos\nNs(K\x01K\x02e0Pid\n\x80\x04cm\nf\n)RVx\n\x93."),
            [
                "from sys import modules",
                "sys.modules[\"os\"] = None",
                "sys.modules.extend([1, 2])",
                "_var0 = persistent(\"id\")",
                "from m import f",
                "_var1 = m.f()",
                "_var2 = import(_var1, \"x\")",
                "result = _var2",
            ]
        );
    }

    #[test]
    fn a_broken_stream_shows_what_ran() {
        assert_eq!(
            lines(b"cm\nf\n)R\xff"),
            ["from m import f", "_var0 = m.f()"]
        );
        let trace = run(b"cm\nf\n)R)R)R.", &Limits::default());
        assert_eq!(program(&trace, 2).count(), 2);
    }
}
