//! The machine that runs a template on unknown input, and what it notices.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use super::value::{Kind, Taint, Value};
use super::{Context, Lists};
use crate::jinja::{Expr, ExprId, ExprKind, Param, Stmt, Tree};

/// Most expressions that are worked out before loops and macros are followed no more.
const MOST_STEPS: u32 = 50_000;

/// Most bytes of strings that are put together.
const MOST_BYTES: usize = 8 << 20;

/// Deepest nesting that is followed. The parser allows less for a template without macros.
const MOST_DEPTH: u32 = 220;

/// Most findings of one template.
const MOST_FOUND: usize = 200;

/// Rounds of nested loops that no prompt needs.
pub(super) const MOST_ROUNDS: i128 = 10_000_000;

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The rule.
    pub rule: &'static str,
    /// What it concerns, in bytes of the template.
    pub span: Range<usize>,
    /// What was found, for people.
    pub message: String,
    /// Whether it is proof wherever the text stands.
    pub(super) decisive: bool,
}

/// How an attribute's name is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As it is, in the template's text.
    Plain,
    /// As a value that the template builds.
    Built,
}

/// A macro, as it is defined.
#[derive(Debug, Clone)]
pub(super) struct Macro<'t> {
    pub(super) params: &'t [Param],
    pub(super) body: &'t [Stmt],
    /// What it writes when nothing is known of its arguments.
    pub(super) writes: Value,
    /// How often it is being run, one inside the other.
    pub(super) active: u32,
}

/// What a body writes, while somebody collects it.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) text: String,
    pub(super) known: bool,
    pub(super) taint: Taint,
}

/// Runs one template.
pub(super) struct Machine<'t> {
    pub(super) text: &'t str,
    pub(super) tree: &'t Tree,
    pub(super) context: Context,
    pub(super) lists: &'static Lists,
    pub(super) vars: HashMap<Rc<str>, Value>,
    /// Former values of variables, so that a branch can be undone.
    pub(super) journal: Vec<(Rc<str>, Option<Value>)>,
    pub(super) macros: Vec<Macro<'t>>,
    pub(super) namespaces: usize,
    pub(super) visited: Vec<bool>,
    steps: u32,
    bytes: usize,
    pub(super) depth: u32,
    /// Deepest point of macros in macros.
    pub(super) calls: u32,
    /// What the branches stand under that are being run.
    pub(super) guards: Vec<Taint>,
    /// Above zero where strings are not written and not kept: conditions, error texts, keys.
    pub(super) quiet: u32,
    pub(super) captures: Vec<Capture>,
    /// How often the innermost body is run, as far as loops over known numbers tell.
    pub(super) rounds: i128,
    /// The text written last ends inside an address.
    pub(super) in_address: bool,
    pub(super) found: Vec<Found>,
    seen: HashSet<(&'static str, usize, usize)>,
}

impl<'t> Machine<'t> {
    pub(super) fn new(
        text: &'t str,
        tree: &'t Tree,
        context: Context,
        lists: &'static Lists,
    ) -> Self {
        Self {
            text,
            tree,
            context,
            lists,
            vars: HashMap::new(),
            journal: Vec::new(),
            macros: Vec::new(),
            namespaces: 0,
            visited: vec![false; tree.exprs.len()],
            steps: 0,
            bytes: 0,
            depth: 0,
            calls: 0,
            guards: Vec::new(),
            quiet: 0,
            captures: Vec::new(),
            rounds: 1,
            in_address: false,
            found: Vec::new(),
            seen: HashSet::new(),
        }
    }

    /// Runs the template, and then looks at every expression that was not reached: of tags that
    /// did not parse, and below what is followed.
    pub(super) fn run(&mut self) {
        let tree = self.tree;
        self.body(&tree.body);
        self.quiet += 1;
        for n in (0..tree.exprs.len()).rev() {
            if !self.visited.get(n).copied().unwrap_or(true) {
                self.unreached(n);
            }
        }
    }

    fn unreached(&mut self, n: usize) {
        self.depth = 0;
        if let Some(id) = self.tree.id(n) {
            self.eval(id);
        }
    }

    pub(super) fn expr(&self, id: ExprId) -> Option<&'t Expr> {
        self.tree.expr(id)
    }

    pub(super) fn kind(&self, id: ExprId) -> Option<&'t ExprKind> {
        self.tree.expr(id).map(|e| &e.kind)
    }

    pub(super) fn span(&self, id: ExprId) -> Range<usize> {
        self.expr(id).map_or(0..0, |e| e.span.clone())
    }

    /// Whether no more may be worked out than one pass over the template.
    pub(super) fn steps_are_spent(&self) -> bool {
        self.steps >= MOST_STEPS
    }

    /// One step deeper, if the stack allows.
    pub(super) fn enter(&mut self) -> bool {
        self.steps = self.steps.saturating_add(1);
        if self.depth >= MOST_DEPTH {
            return false;
        }
        self.depth += 1;
        true
    }

    pub(super) fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// `value`, if there is room for it.
    pub(super) fn keep(&mut self, value: Value) -> Value {
        let size = match &value.kind {
            Kind::Str(s) => s.len(),
            Kind::List(v) | Kind::Either(v) => v.len() * 64,
            Kind::Dict(v) => v.len() * 128,
            _ => return value,
        };
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_BYTES {
            return Value::unknown(value.taint);
        }
        value
    }

    pub(super) fn report(
        &mut self,
        rule: &'static str,
        span: Range<usize>,
        decisive: bool,
        message: impl Into<String>,
    ) {
        if self.found.len() < MOST_FOUND && self.seen.insert((rule, span.start, span.end)) {
            self.found.push(Found {
                rule,
                span,
                message: message.into(),
                decisive,
            });
        }
    }

    pub(super) fn is_template(&self) -> bool {
        self.context != Context::Text
    }

    /// The variable `name`; unknown input under its own name when nothing was assigned.
    pub(super) fn variable(&self, name: &str) -> Value {
        if let Some(v) = self.vars.get(name) {
            return v.clone();
        }
        let taint = if self.lists.content.contains(name) {
            Taint::CONTENT
        } else {
            Taint::NONE
        };
        Value::named(name, taint)
    }

    pub(super) fn assign(&mut self, name: &str, mut value: Value) {
        // What is assigned under a trigger tells of it: `{% set found = true %}`.
        if let Some(guard) = self.guard() {
            value = value.with(guard);
        }
        let name: Rc<str> = name.into();
        let former = self.vars.insert(name.clone(), value);
        self.journal.push((name, former));
    }

    /// The trigger of the branches that are being run.
    pub(super) fn guard(&self) -> Option<Taint> {
        self.guards
            .iter()
            .any(|g| g.has(Taint::HIT))
            .then_some(Taint::HIT)
    }

    /// Looks at an attribute that is taken: `name` of `base`, written at `span`. `named` says
    /// that nothing is done with it but ask for its name.
    pub(super) fn touch(
        &mut self,
        base: &Value,
        name: &str,
        spelling: Spelling,
        span: Range<usize>,
        named: bool,
    ) {
        for part in name.split('.') {
            self.touch_one(base, part, spelling, span.clone(), named);
        }
    }

    fn touch_one(
        &mut self,
        base: &Value,
        name: &str,
        spelling: Spelling,
        span: Range<usize>,
        named: bool,
    ) {
        if let (Kind::Str(format), "format" | "format_map" | "vformat") = (&base.kind, name) {
            let format = format.clone();
            self.format_string(&format, span);
            return;
        }
        let decisive = self.lists.decisive.contains(name);
        if decisive || (self.lists.internal.contains(name) && !named) {
            // `mro` and `_module` are names like others until something internal has them.
            if !name.starts_with("__") && !decisive && !base.taint.has(Taint::INTERNAL) {
                return;
            }
            match spelling {
                Spelling::Plain => {
                    let message = format!("takes the attribute {name}");
                    self.report("WB-TPL-001", span, decisive, message);
                }
                Spelling::Built => {
                    let message = format!("takes the attribute {name}, whose name it builds");
                    self.report("WB-TPL-002", span, true, message);
                }
            }
        } else if name.starts_with("__")
            && name.ends_with("__")
            && name.len() > 4
            && self.is_template()
        {
            let message = format!("takes the attribute {name}, which is Python's own");
            self.report("WB-TPL-005", span, false, message);
        }
    }

    /// Looks at the fields of a format string.
    pub(super) fn format_string(&mut self, format: &str, span: Range<usize>) {
        for (name, spec) in super::fold::fields(format) {
            let steps: Vec<&str> = name
                .split(['.', '[', ']'])
                .skip(1)
                .filter(|s| !s.is_empty())
                .collect();
            // `{0.__class__.__name__}` asks for no more than a name.
            let steps = match steps.as_slice() {
                [rest @ .., "__class__", "__name__"] => rest,
                all => all,
            };
            let decisive = steps.iter().find(|s| self.lists.decisive.contains(**s));
            let internal = steps.iter().find(|s| self.lists.internal.contains(**s));
            if let Some(name) = decisive.or(internal) {
                let message = format!("takes the attribute {name} by a format string");
                self.report("WB-TPL-002", span.clone(), decisive.is_some(), message);
            }
            let width: String = spec.chars().filter(char::is_ascii_digit).collect();
            self.size(width.parse().ok(), span.clone());
        }
    }

    /// Looks at how long something is made.
    pub(super) fn size(&mut self, n: Option<i128>, span: Range<usize>) {
        if self.is_template() && n.is_some_and(|n| n.saturating_mul(self.rounds) >= MOST_ROUNDS) {
            let message = "makes something of this size";
            self.report("WB-TPL-012", span, false, message);
        }
    }

    /// Looks at a call of what is reached by `path`, where no macro has the name.
    pub(super) fn call_path(&mut self, path: &str, span: Range<usize>) {
        let (root, rest) = path.split_once('.').unwrap_or((path, ""));
        let last = rest.rsplit('.').next().unwrap_or_default();
        let message = if rest.is_empty() && self.lists.functions.contains(root) {
            Some((root == "__import__", format!("calls {root}")))
        } else if !rest.is_empty() && self.lists.modules.contains(root) {
            let program = self.lists.methods.contains(last);
            Some((program, format!("calls {path}")))
        } else if self.lists.methods.contains(last) {
            Some((false, format!("calls {path}")))
        } else {
            None
        };
        if let Some((decisive, message)) = message
            && (decisive || self.is_template())
        {
            self.report("WB-TPL-003", span, decisive, message);
        }
    }

    /// Looks at what is read by `path`.
    pub(super) fn read_path(&mut self, path: &str, span: Range<usize>) {
        if self.is_template() && self.lists.secrets.contains(path) {
            self.report("WB-TPL-004", span, false, format!("reads {path}"));
        }
    }

    /// Looks at a text that is written or kept while the guards hold.
    pub(super) fn say(&mut self, text: &str, taint: Taint, span: Range<usize>) {
        if self.quiet > 0 || !self.is_template() {
            return;
        }
        let guarded = self.guard().is_some() || taint.has(Taint::HIT);
        if guarded && super::prose::is_instruction(text) {
            let message = "adds this text only when the conversation or the day holds a trigger";
            self.report("WB-TPL-008", span, false, message);
        }
    }
}
