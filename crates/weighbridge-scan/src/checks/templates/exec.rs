//! Statements.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::judge::{Capture, MOST_ROUNDS, Machine, Macro};
use super::value::{Kind, MOST_STRING, Taint, Value};
use super::{Context, prose};
use crate::jinja::{ExprId, Param, Stmt, StmtKind, Target};

/// Most rounds of a loop over known values that are followed one by one.
const MOST_FOLLOWED: i128 = 4096;

/// Most macros inside macros that are followed.
const MOST_CALLS: u32 = 6;

/// What a branch changed.
type Changes = HashMap<Rc<str>, Value>;

impl<'t> Machine<'t> {
    pub(super) fn body(&mut self, body: &'t [Stmt]) {
        if !self.enter() {
            return;
        }
        for s in body {
            self.statement(s);
        }
        self.leave();
    }

    fn statement(&mut self, s: &'t Stmt) {
        match &s.kind {
            StmtKind::Text => {
                let text = self.text.get(s.span.clone()).unwrap_or_default();
                self.write(Value::str(text), Some(text), s.span.clone());
            }
            StmtKind::Output(values) => {
                for v in values {
                    let value = self.eval(*v);
                    self.write(value, None, self.span(*v));
                }
            }
            StmtKind::If { arms, otherwise } => self.branch(arms, otherwise),
            StmtKind::For {
                target,
                iter,
                test,
                body,
                otherwise,
            } => {
                self.loop_(target, *iter, *test, body);
                self.undoing(|m| m.body(otherwise));
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(*value);
                self.bind(target, value);
            }
            StmtKind::SetBlock(target, filter, body) => {
                let value = self.captured(body);
                let value = self.filtered(*filter, value);
                self.bind(target, value);
            }
            StmtKind::Macro(name, params, body) => self.define(name, params, body),
            StmtKind::Call(params, call, body) => {
                self.define("caller", params, body);
                let value = self.eval(*call);
                self.write(value, None, self.span(*call));
            }
            StmtKind::Filter(filter, body) => {
                let value = self.captured(body);
                let value = self.filtered(Some(*filter), value);
                self.write(value, None, self.span(*filter));
            }
            StmtKind::Load(tag, template) => self.load(tag, *template),
            StmtKind::With(pairs, body) => {
                for (target, value) in pairs {
                    let value = self.eval(*value);
                    self.bind(target, value);
                }
                self.body(body);
            }
            StmtKind::Body(body) => self.body(body),
            StmtKind::Do(value) => {
                self.eval(*value);
            }
            StmtKind::Jump => {}
        }
    }

    /// What is written: `literal` when it is text of the template itself.
    fn write(&mut self, value: Value, literal: Option<&'t str>, span: Range<usize>) {
        if self.in_address && value.taint.has(Taint::CONTENT) && self.is_template() {
            let message = "sends a piece of the conversation to this address";
            self.report("WB-TPL-010", span.clone(), false, message);
        }
        if value.path() == Some("config") && self.context == Context::Chat {
            let message = "writes the configuration of the program";
            self.report("WB-TPL-004", span.clone(), false, message);
        }
        let known = literal.or(value.as_str());
        match known {
            Some(t) => self.in_address = prose::ends_in_address(t),
            None => self.in_address = value.taint.has(Taint::CONTENT) && self.in_address,
        }
        for v in value.alternatives() {
            if let Some(t) = literal.or(v.as_str()) {
                self.say(t, v.taint, span.clone());
            }
        }
        if let Some(c) = self.captures.last_mut() {
            c.taint = c.taint | value.taint;
            match known.map(str::to_owned).or_else(|| value.text()) {
                Some(t) if c.text.len() + t.len() <= MOST_STRING => c.text.push_str(&t),
                _ => c.known = false,
            }
        }
    }

    /// What `body` writes.
    pub(super) fn captured(&mut self, body: &'t [Stmt]) -> Value {
        self.captures.push(Capture {
            text: String::new(),
            known: true,
            taint: Taint::NONE,
        });
        let address = std::mem::take(&mut self.in_address);
        self.body(body);
        self.in_address = address;
        match self.captures.pop() {
            Some(c) if c.known => self.keep(Value::str(c.text).with(c.taint)),
            Some(c) => Value::unknown(c.taint),
            None => Value::unknown(Taint::NONE),
        }
    }

    fn filtered(&mut self, filter: Option<ExprId>, value: Value) -> Value {
        match filter {
            Some(f) => self.filter_chain(f, value),
            None => value,
        }
    }

    pub(super) fn bind(&mut self, target: &'t Target, value: Value) {
        match target {
            Target::Name(name) => self.assign(name, value),
            Target::Attr(name, attr) => {
                if let Kind::Namespace(n) = self.variable(name).kind {
                    self.assign(&namespaced(n, attr), value);
                }
            }
            Target::Tuple(targets) => {
                let items = value.items();
                for (n, t) in targets.iter().enumerate() {
                    let item = items.as_ref().and_then(|v| v.get(n)).cloned();
                    self.bind(t, item.unwrap_or_else(|| Value::unknown(value.taint)));
                }
            }
        }
    }

    fn define(&mut self, name: &str, params: &'t [Param], body: &'t [Stmt]) {
        let number = self.macros.len();
        self.macros.push(Macro {
            params,
            body,
            writes: Value::unknown(Taint::NONE),
            active: 1,
        });
        self.assign(name, Value::new(Kind::Macro(number)));
        // Once as it is, whoever calls it with what.
        let mark = self.journal.len();
        for (param, default) in params {
            if let Some(d) = default {
                self.eval(*d);
            }
            let value = self.parameter(param);
            self.assign(param, value);
        }
        let writes = self.captured(body);
        self.undo(mark);
        if let Some(m) = self.macros.get_mut(number) {
            m.active = 0;
            m.writes = writes;
        }
    }

    /// An argument of which only the name is known.
    fn parameter(&self, name: &str) -> Value {
        let taint = if self.lists.content.contains(name) {
            Taint::CONTENT
        } else {
            Taint::NONE
        };
        Value::unknown(taint)
    }

    /// Calls the macro `number`.
    pub(super) fn call_macro(
        &mut self,
        number: usize,
        positional: &[Value],
        named: &[(String, Value)],
    ) -> Value {
        let Some(m) = self.macros.get(number).cloned() else {
            return Value::unknown(Taint::NONE);
        };
        let all = || positional.iter().chain(named.iter().map(|(_, v)| v));
        let taint = all().fold(Taint::NONE, |t, v| t | v.taint);
        let nothing_new = taint == Taint::NONE
            && all().all(|v| matches!(v.kind, Kind::Unknown(_)))
            && self.guards.iter().all(|g| *g == Taint::NONE);
        if nothing_new {
            return m.writes;
        }
        if self.calls >= MOST_CALLS || m.active > 0 || self.steps_are_spent() {
            return Value::unknown(taint | m.writes.taint);
        }
        self.active(number, 1);
        self.calls += 1;
        let mark = self.journal.len();
        for (n, (param, default)) in m.params.iter().enumerate() {
            let given = named.iter().find(|(k, _)| k == param).map(|(_, v)| v);
            let value = match (given.or_else(|| positional.get(n)), default) {
                (Some(v), _) => v.clone(),
                (None, Some(d)) => self.eval(*d),
                (None, None) => Value::unknown(Taint::NONE),
            };
            self.assign(param, value);
        }
        let out = self.captured(m.body);
        self.undo(mark);
        self.calls -= 1;
        self.active(number, 0);
        out
    }

    fn active(&mut self, number: usize, active: u32) {
        if let Some(m) = self.macros.get_mut(number) {
            m.active = active;
        }
    }

    /// Takes back what was assigned since `mark`; gives what it was.
    fn undo(&mut self, mark: usize) -> Changes {
        let mut changes = Changes::new();
        while self.journal.len() > mark {
            let Some((name, former)) = self.journal.pop() else {
                break;
            };
            let latest = match former {
                Some(f) => self.vars.insert(name.clone(), f),
                None => self.vars.remove(&name),
            };
            if let Some(v) = latest {
                changes.entry(name).or_insert(v);
            }
        }
        changes
    }

    /// Runs `part`, after which every variable may have its former value too.
    pub(super) fn undoing(&mut self, part: impl FnOnce(&mut Self)) {
        let mark = self.journal.len();
        part(self);
        let changes = self.undo(mark);
        self.merge(vec![changes], false);
    }

    /// Goes on after branches of which one was taken, or none unless `all`.
    fn merge(&mut self, branches: Vec<Changes>, all: bool) {
        let count = branches.len();
        let mut values: HashMap<Rc<str>, Vec<Value>> = HashMap::new();
        for b in branches {
            for (name, v) in b {
                values.entry(name).or_default().push(v);
            }
        }
        for (name, mut list) in values {
            if !all || list.len() < count {
                match self.vars.get(&name) {
                    Some(former) => list.push(former.clone()),
                    None if name.starts_with('\0') => {}
                    None => list.push(self.variable(&name)),
                }
            }
            let former = self.vars.insert(name.clone(), Value::either(list));
            self.journal.push((name, former));
        }
    }

    fn branch(&mut self, arms: &'t [(Option<ExprId>, Vec<Stmt>)], otherwise: &'t [Stmt]) {
        let mut branches = Vec::new();
        // What is known once the conditions so far were false.
        let mut before = Taint::NONE;
        let mut taken = None;
        for (n, (test, body)) in arms.iter().enumerate() {
            let (truth, taint) = match test {
                Some(t) => {
                    self.quiet += 1;
                    let v = self.eval(*t);
                    self.quiet -= 1;
                    (v.truth(), v.taint)
                }
                None => (None, Taint::NONE),
            };
            branches.push(self.arm(body, taint | before));
            before = before | taint.negated().only(Taint::HIT | Taint::MISS);
            if taken.is_none() && truth != Some(false) {
                taken = Some((n, truth));
            }
        }
        branches.push(self.arm(otherwise, before));
        // Where the conditions are constants, only one branch counts.
        let only = match taken {
            Some((n, Some(true))) => Some(n),
            None => Some(arms.len()),
            Some(_) => None,
        };
        if let Some(chosen) = only.and_then(|n| branches.get_mut(n)) {
            let chosen = std::mem::take(&mut chosen.0);
            let text = only
                .and_then(|n| branches.get_mut(n))
                .and_then(|b| b.1.take());
            self.merge(vec![chosen], true);
            if let (Some(c), Some(t)) = (self.captures.last_mut(), text) {
                c.known = c.known && t.known && c.text.len() + t.text.len() <= MOST_STRING;
                c.taint = c.taint | t.taint;
                c.text.push_str(&t.text);
            }
            return;
        }
        if let Some(c) = self.captures.last_mut() {
            c.known = false;
            for text in branches.iter().filter_map(|b| b.1.as_ref()) {
                c.taint = c.taint | text.taint;
            }
        }
        self.merge(branches.into_iter().map(|b| b.0).collect(), true);
    }

    /// Runs one arm for itself.
    fn arm(&mut self, body: &'t [Stmt], guard: Taint) -> (Changes, Option<Capture>) {
        let mark = self.journal.len();
        let collecting = !self.captures.is_empty();
        if collecting {
            self.captures.push(Capture {
                text: String::new(),
                known: true,
                taint: Taint::NONE,
            });
        }
        self.guards.push(guard);
        self.body(body);
        self.guards.pop();
        let text = if collecting {
            self.captures.pop()
        } else {
            None
        };
        (self.undo(mark), text)
    }

    fn loop_(&mut self, target: &'t Target, iter: ExprId, test: Option<ExprId>, body: &'t [Stmt]) {
        let over = self.eval(iter);
        let count = match &over.kind {
            Kind::Unknown(Some(path)) => path.strip_prefix("range:").and_then(|n| n.parse().ok()),
            _ => None,
        };
        let items = over.items();
        let times = count.or_else(|| items.as_ref().map(|v| v.len() as i128));
        let former = self.rounds;
        self.rounds = former.saturating_mul(times.unwrap_or(1).max(1));
        if self.rounds >= MOST_ROUNDS && self.is_template() {
            let message = "loops this often";
            self.report("WB-TPL-012", self.span(iter), false, message);
        }
        let follow = self.rounds <= MOST_FOLLOWED;
        match items {
            Some(items) if follow && !items.is_empty() => {
                for item in items {
                    if self.steps_are_spent() {
                        break;
                    }
                    self.round(target, item, test, body);
                }
            }
            _ => self.undoing(|m| m.round(target, Value::unknown(over.taint), test, body)),
        }
        self.rounds = former;
    }

    fn round(&mut self, target: &'t Target, item: Value, test: Option<ExprId>, body: &'t [Stmt]) {
        self.bind(target, item);
        let guard = match test {
            Some(t) => {
                self.quiet += 1;
                let v = self.eval(t);
                self.quiet -= 1;
                if v.truth() == Some(false) {
                    return;
                }
                v.taint
            }
            None => Taint::NONE,
        };
        self.guards.push(guard);
        self.body(body);
        self.guards.pop();
    }

    fn load(&mut self, tag: &str, template: ExprId) {
        let value = self.eval(template);
        let span = self.span(template);
        let names: Vec<String> = value
            .alternatives()
            .iter()
            .flat_map(|v| match &v.kind {
                Kind::List(items) => items.to_vec(),
                _ => vec![v.clone()],
            })
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect();
        if let Some(name) = names.iter().find(|n| is_outside(n)) {
            if self.is_template() {
                let message = format!("{tag}s {name}");
                self.report("WB-TPL-006", span, false, message);
            }
        } else if self.context == Context::Chat {
            self.report("WB-TPL-007", span, false, format!("a tag {tag} loads this"));
        }
    }
}

/// The variable behind an attribute of a namespace.
pub(super) fn namespaced(number: usize, attr: &str) -> String {
    format!("\0{number}.{attr}")
}

/// Whether a template's name leads out of the folder of templates.
fn is_outside(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':');
    name.starts_with(['/', '\\', '~'])
        || drive
        || name.contains("://")
        || name.split(['/', '\\']).any(|p| p == "..")
}
