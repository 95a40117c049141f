//! Globals, calls and states.

use super::super::opcode::Op;
use super::super::value::{Build, Call, CallOp, Event, Global, Node, NodeId};
use super::{Machine, NONE, bad, is_plain};
use crate::error::{Error, Result};

impl Machine<'_> {
    pub(super) fn import(&mut self, op: Op) -> Result<()> {
        let code = match op {
            Op::GLOBAL => {
                let (module, name) = self.global_lines()?;
                self.push_global(module, name);
                return Ok(());
            }
            Op::STACK_GLOBAL => return self.stack_global(),
            Op::EXT1 => u32::from(self.input.u8()?),
            Op::EXT2 => u32::from(self.input.u16()?),
            _ => self.input.u32()?,
        };
        if code == 0 || code > i32::MAX as u32 {
            return bad("pickle.extension", "an extension code is not positive");
        }
        let id = self.push(Node::Extension(code));
        self.event(Event::Import(id));
        Ok(())
    }

    fn global_lines(&mut self) -> Result<(String, String)> {
        Ok((self.line_text()?, self.line_text()?))
    }

    fn line_text(&mut self) -> Result<String> {
        let (_, line) = self.line()?;
        match std::str::from_utf8(line) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => bad("pickle.bad-utf8", "the name of a global is not UTF-8"),
        }
    }

    fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        let bytes = self.text_len(module).saturating_add(self.text_len(name));
        self.names_left = self.names_left.checked_sub(bytes).ok_or_else(|| {
            Error::limit(
                "pickle.too-long-names",
                "the names of the globals are far longer than the pickle",
            )
        })?;
        match (self.owned_text(module), self.owned_text(name)) {
            (Some(m), Some(n)) => {
                self.push_global(m, n);
                return Ok(());
            }
            (m, n) => {
                let plain =
                    |text: &Option<String>, id| text.is_none() && is_plain(self.trace.node(id));
                if plain(&m, module) || plain(&n, name) {
                    return bad("pickle.no-name", "STACK_GLOBAL of what is no text");
                }
            }
        }
        let id = self.push(Node::DynamicGlobal(module, name));
        self.event(Event::Import(id));
        Ok(())
    }

    fn text_len(&self, id: NodeId) -> usize {
        match self.trace.node(id) {
            Node::Str(b) | Node::ByteStr(b) => self.trace.blob(b).len(),
            _ => 0,
        }
    }

    /// The text of a name. Python 2 strings are decoded with what the loader chose: UTF-8 if they
    /// are that, else Latin-1.
    fn owned_text(&self, id: NodeId) -> Option<String> {
        match self.trace.node(id) {
            Node::Str(b) => Some(String::from_utf8_lossy(self.trace.blob(b)).into_owned()),
            Node::ByteStr(b) => {
                let bytes = self.trace.blob(b);
                Some(match std::str::from_utf8(bytes) {
                    Ok(text) => text.to_owned(),
                    Err(_) => bytes.iter().copied().map(char::from).collect(),
                })
            }
            _ => None,
        }
    }

    fn push_global(&mut self, module: String, name: String) {
        if module.is_empty() || name.is_empty() {
            // Python itself finds nothing under it, but a loader with a `find_class` of its own
            // may; and a module is imported before a name is missed in it.
            self.soften(Error::malformed(
                "pickle.no-name",
                "a global without a name",
            ));
        }
        self.took(1, size_of::<Global>() + module.len() + name.len());
        let index = self.trace.globals.len() as u32;
        self.trace.globals.push(Global {
            module,
            name,
            offset: self.at,
            protocol: self.protocol,
        });
        let id = self.push(Node::Global(index));
        self.event(Event::Import(id));
    }

    pub(super) fn call(&mut self, op: Op) -> Result<()> {
        let (kind, callee, args, kwargs) = match op {
            Op::REDUCE => {
                let args = self.pop()?;
                (CallOp::Reduce, self.pop()?, args, None)
            }
            Op::NEWOBJ => {
                let args = self.pop()?;
                (CallOp::NewObj, self.pop()?, args, None)
            }
            Op::NEWOBJ_EX => {
                let kwargs = self.pop()?;
                let args = self.pop()?;
                (CallOp::NewObjEx, self.pop()?, args, Some(kwargs))
            }
            Op::INST => {
                let (module, name) = self.inst_lines()?;
                // The unpickler written in Python imports the class before it misses the mark.
                let items = self.pop_mark();
                self.push_global(module, name);
                let callee = self.pop()?;
                (CallOp::Inst, callee, self.args(items?), None)
            }
            _ => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return bad("pickle.stack-underflow", "OBJ has no class");
                }
                let rest = items.split_off(1);
                let callee = items.first().copied().unwrap_or(NONE);
                (CallOp::Obj, callee, self.args(rest), None)
            }
        };
        self.check_call(callee, args, kwargs)?;
        self.took(1, size_of::<Call>());
        let id = self.push(Node::Call(Box::new(Call {
            op: kind,
            offset: self.at,
            callee,
            args,
            kwargs,
            states: Vec::new(),
            items: Vec::new(),
            pairs: Vec::new(),
        })));
        self.event(Event::Call(id));
        Ok(())
    }

    fn inst_lines(&mut self) -> Result<(String, String)> {
        let (module, name) = self.global_lines()?;
        if module.is_ascii() && name.is_ascii() {
            Ok((module, name))
        } else {
            bad("pickle.bad-utf8", "the name of a class is not ASCII")
        }
    }

    fn args(&mut self, items: Vec<NodeId>) -> NodeId {
        self.took(items.len(), size_of::<NodeId>());
        self.add(Node::Tuple(items.into()))
    }

    /// Stops at a call that no unpickler makes.
    fn check_call(&mut self, callee: NodeId, args: NodeId, kwargs: Option<NodeId>) -> Result<()> {
        if is_plain(self.trace.node(callee)) {
            return bad("pickle.not-callable", "what is called is a plain value");
        }
        if let Some(kwargs) = kwargs {
            let node = self.trace.node(kwargs);
            if is_plain(node) && !matches!(node, Node::Dict(_)) {
                return bad("pickle.no-arguments", "keyword arguments are no dict");
            }
        }
        match self.trace.node(args) {
            Node::Tuple(_) => Ok(()),
            // The C unpickler wants a tuple; the one in Python (joblib's) takes whatever it can
            // iterate over.
            Node::List(_)
            | Node::Dict(_)
            | Node::Set(_)
            | Node::FrozenSet(_)
            | Node::Str(_)
            | Node::ByteStr(_)
            | Node::Bytes(_)
            | Node::ByteArray(_) => {
                self.soften(Error::malformed(
                    "pickle.no-arguments",
                    "the arguments of a call are no tuple",
                ));
                Ok(())
            }
            node if is_plain(node) => bad(
                "pickle.no-arguments",
                "the arguments of a call are no tuple",
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        if is_plain(self.trace.node(target)) && !self.is_no_state(state) {
            self.soften(Error::malformed(
                "pickle.no-object",
                "state is set on a plain value, which takes none",
            ));
        }
        self.took(1, size_of::<Build>());
        self.event(Event::Build(self.trace.builds.len() as u32));
        self.trace.builds.push(Build {
            target,
            state,
            offset: self.at,
        });
        if let Some(Node::Call(c)) = self.trace.nodes.get_mut(target as usize) {
            c.states.push(state);
        }
        Ok(())
    }

    /// Whether `BUILD` leaves any value alone: `None`, or a pair of `None` and an empty dict.
    fn is_no_state(&self, state: NodeId) -> bool {
        match self.trace.node(state) {
            Node::None => true,
            Node::Tuple(t) => match t.as_ref() {
                [dict, slots] => {
                    *dict == NONE && self.trace.dict(*slots).is_some_and(<[_]>::is_empty)
                }
                _ => false,
            },
            _ => false,
        }
    }
}
