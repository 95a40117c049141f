//! Expressions.

use std::ops::Range;
use std::rc::Rc;

use super::exec::namespaced;
use super::fold::{self, Given};
use super::judge::{Machine, Spelling};
use super::trigger::trigger;
use super::value::{Kind, Taint, Value, taints};
use crate::jinja::{Binary, Compare, ExprId, ExprKind};

/// Longest path of names that is remembered.
pub(super) const MOST_PATH: usize = 120;

/// Most combinations of several possible values.
const MOST_COMBINED: usize = 8;

/// Methods that keep what a text says.
pub(super) const KEEPS: [&str; 26] = [
    "lower",
    "upper",
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "replace",
    "title",
    "capitalize",
    "casefold",
    "splitlines",
    "removeprefix",
    "removesuffix",
    "encode",
    "join",
    "format",
    "partition",
    "rpartition",
    "swapcase",
    "items",
    "values",
    "get",
    "pop",
    "copy",
    "append",
];

/// Methods that look for a text in another.
pub(super) const SEEKS: [&str; 10] = [
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "match",
    "search",
    "fullmatch",
];

impl<'t> Machine<'t> {
    /// The value of the expression `id`.
    pub(super) fn eval(&mut self, id: ExprId) -> Value {
        // A chain is gone through from its root: `a.b(c)[d]|e + f` has any length.
        let mut chain = Vec::new();
        let mut root = id;
        while let Some(kind) = self.kind(root) {
            let inner = match kind {
                ExprKind::Attr(v, _)
                | ExprKind::Item(v, _)
                | ExprKind::Call(v, _)
                | ExprKind::Filter(Some(v), ..)
                | ExprKind::Test(v, ..)
                | ExprKind::Binary(v, ..)
                | ExprKind::Compare(v, _) => *v,
                _ => break,
            };
            chain.push(root);
            root = inner;
        }
        if !self.enter() {
            return Value::unknown(Taint::NONE);
        }
        let mut value = self.leaf(root);
        while let Some(link) = chain.pop() {
            self.visit(link);
            value = self.link(value, link, chain.last().copied());
            value = self.keep(value);
        }
        self.leave();
        value
    }

    pub(super) fn visit(&mut self, id: ExprId) {
        if let Some(v) = self.visited.get_mut(id.index()) {
            *v = true;
        }
    }

    pub(super) fn quietly<T>(&mut self, part: impl FnOnce(&mut Self) -> T) -> T {
        self.quiet += 1;
        let out = part(self);
        self.quiet -= 1;
        out
    }

    fn leaf(&mut self, id: ExprId) -> Value {
        self.visit(id);
        let Some(kind) = self.kind(id) else {
            return Value::unknown(Taint::NONE);
        };
        match kind {
            ExprKind::Str(s) => {
                self.say(s, Taint::NONE, self.span(id));
                Value::str(s.as_str())
            }
            ExprKind::Int(n) => Value::new(Kind::Int(*n)),
            ExprKind::Float(n) => Value::new(Kind::Float(*n)),
            ExprKind::Bool(b) => Value::new(Kind::Bool(*b)),
            ExprKind::None => Value::new(Kind::None),
            ExprKind::Name(n) => {
                let value = self.variable(n);
                if !self.vars.contains_key(n.as_str()) {
                    self.touch(&value, n, Spelling::Plain, self.span(id), false);
                }
                value
            }
            ExprKind::List(items) | ExprKind::Tuple(items) => {
                let items = items.iter().map(|i| self.eval(*i)).collect();
                self.keep(Value::list(items))
            }
            ExprKind::Dict(pairs) => {
                let mut out = Vec::new();
                let mut taint = Taint::NONE;
                for (k, v) in pairs {
                    let key = self.quietly(|m| m.eval(*k));
                    let value = self.eval(*v);
                    taint = taint | key.taint | value.taint;
                    out.push((key, value));
                }
                self.keep(Value::new(Kind::Dict(out.into())).with(taint))
            }
            ExprKind::Slice(bounds) => {
                for b in bounds.iter().flatten() {
                    self.quietly(|m| m.eval(*b));
                }
                Value::unknown(Taint::NONE)
            }
            ExprKind::Not(v) => {
                let v = self.quietly(|m| m.eval(*v));
                let taint = v.taint.negated();
                match v.truth() {
                    Some(b) => Value::new(Kind::Bool(!b)).with(taint),
                    None => Value::unknown(taint),
                }
            }
            ExprKind::Sign(v, negative) => {
                let v = self.eval(*v);
                match (v.as_int(), negative) {
                    (Some(n), true) => Value::new(Kind::Int(n.saturating_neg())),
                    (Some(_), false) => v,
                    (None, _) => Value::unknown(v.taint),
                }
            }
            ExprKind::Concat(parts) => self.concat(parts),
            ExprKind::Cond {
                test,
                then,
                otherwise,
            } => self.conditional(*test, *then, *otherwise),
            ExprKind::Filter(None, ..) => self.filter_chain(id, Value::unknown(Taint::NONE)),
            // The others are links of a chain.
            _ => Value::unknown(Taint::NONE),
        }
    }

    fn conditional(&mut self, test: ExprId, then: ExprId, otherwise: Option<ExprId>) -> Value {
        let test = self.quietly(|m| m.eval(test));
        self.guards.push(test.taint);
        let a = self.eval(then);
        self.guards.pop();
        self.guards.push(test.taint.negated());
        let b = otherwise.map(|o| self.eval(o));
        self.guards.pop();
        match test.truth() {
            Some(true) => a,
            Some(false) => b.unwrap_or_else(|| Value::unknown(Taint::NONE)),
            None => {
                let b = b.unwrap_or_else(|| Value::str(""));
                Value::either(vec![a, b])
            }
        }
    }

    fn concat(&mut self, parts: &'t [ExprId]) -> Value {
        let mut sum = Value::str("");
        for p in parts {
            let part = self.eval(*p);
            sum = combine(&sum, &part, |a, b| {
                fold::add(&Value::str(a.text()?), &Value::str(b.text()?))
            });
        }
        self.keep(sum)
    }

    /// The value of `link`, whose inner value is `value`; `next` is the link around it.
    fn link(&mut self, value: Value, link: ExprId, next: Option<ExprId>) -> Value {
        let span = self.span(link);
        match self.kind(link) {
            Some(ExprKind::Attr(_, name)) => {
                // `x.__class__.__name__` asks for no more than a name.
                let named = name == "__class__"
                    && next
                        .and_then(|n| self.kind(n))
                        .is_some_and(|k| matches!(k, ExprKind::Attr(_, n) if n == "__name__"));
                self.attribute(&value, name, Spelling::Plain, span, named)
            }
            Some(ExprKind::Item(_, index)) => self.item(&value, *index, span),
            Some(ExprKind::Call(_, args)) => self.call(&value, args, span),
            Some(ExprKind::Filter(_, name, args)) => self.filter(value, name, args, span),
            Some(ExprKind::Test(_, name, args, negated)) => self.test(&value, name, args, *negated),
            Some(ExprKind::Binary(_, op, right)) => self.binary(value, *op, *right, span),
            Some(ExprKind::Compare(_, rest)) => self.compare(value, rest),
            _ => value,
        }
    }

    pub(super) fn attribute(
        &mut self,
        base: &Value,
        name: &str,
        spelling: Spelling,
        span: Range<usize>,
        named: bool,
    ) -> Value {
        self.touch(base, name, spelling, span.clone(), named);
        if let Kind::Namespace(n) = base.kind {
            let key = namespaced(n, name);
            return match self.vars.get(key.as_str()) {
                Some(v) => v.clone(),
                None => Value::unknown(Taint::NONE),
            };
        }
        if let Kind::Dict(_) = base.kind
            && let Some(v) = fold::item(base, &Value::str(name))
        {
            return v;
        }
        match &base.kind {
            Kind::Unknown(path) => self.member(path.as_deref(), base.taint, name, span),
            Kind::Str(_) | Kind::List(_) | Kind::Dict(_) | Kind::Either(_) => {
                if name.starts_with("__") && !matches!(name, "__getitem__" | "__add__" | "__mul__")
                {
                    return Value::unknown(Taint::INTERNAL);
                }
                Value::new(Kind::Method(Rc::new((base.clone(), name.into())))).with(base.taint)
            }
            _ => Value::unknown(base.taint),
        }
    }

    /// `name` of something unknown.
    fn member(
        &mut self,
        path: Option<&str>,
        taint: Taint,
        name: &str,
        span: Range<usize>,
    ) -> Value {
        let mut kept = taint;
        if self.lists.content.contains(name) {
            kept = kept | Taint::CONTENT;
        } else if !KEEPS.contains(&name) && !SEEKS.contains(&name) {
            kept = kept.without(Taint::CONTENT);
        }
        if name.starts_with("__") {
            kept = kept | Taint::INTERNAL;
        }
        let whole = format!("{}.{name}", path.unwrap_or("?"));
        self.read_path(&whole, span);
        if whole.len() > MOST_PATH {
            let short = format!("?.{name}");
            return Value::named(short, kept);
        }
        Value::named(whole, kept)
    }

    fn item(&mut self, base: &Value, index: ExprId, span: Range<usize>) -> Value {
        if let Some(ExprKind::Slice(bounds)) = self.kind(index) {
            self.visit(index);
            let known = bounds.map(|b| {
                b.map(|b| self.quietly(|m| m.eval(b)))
                    .map(|v| v.as_int().ok_or(()))
                    .transpose()
            });
            if let [Ok(a), Ok(b), Ok(c)] = known
                && let Some(v) = fold::slice(base, [a, b, c])
            {
                return v.with(base.taint);
            }
            return Value::unknown(base.taint);
        }
        let key = self.quietly(|m| m.eval(index));
        let mut out = Vec::new();
        for one in key.alternatives() {
            let value = match one.as_str() {
                Some(name) => {
                    let known = matches!(base.kind, Kind::Dict(_) | Kind::Namespace(_));
                    match fold::item(base, one).filter(|_| known) {
                        Some(v) => v,
                        None => {
                            let name = name.to_owned();
                            let spelling = self.spelling(index, &name);
                            self.attribute(base, &name, spelling, span.clone(), false)
                        }
                    }
                }
                None => self.numbered(base, one, &span),
            };
            out.push(value);
        }
        Value::either(out)
    }

    /// `base[key]`, where the key is no known string.
    pub(super) fn numbered(&mut self, base: &Value, key: &Value, span: &Range<usize>) -> Value {
        if key.taint.has(Taint::PIECE) && self.is_template() {
            let message =
                "takes an item whose name is built around a Python internal's underscores";
            self.report("WB-TPL-005", span.clone(), false, message);
        }
        let asked = key.path().is_some_and(|p| p.starts_with("request."));
        if asked && self.is_template() {
            let message = "takes an item that a request names";
            self.report("WB-TPL-005", span.clone(), false, message);
        }
        if let (Kind::Dict(pairs), true) = (&base.kind, key.taint.has(Taint::CONTENT)) {
            // A dict of answers by what somebody wrote is a chain of conditions.
            let pairs = pairs.clone();
            for (_, v) in pairs.iter() {
                if let Some(t) = v.as_str() {
                    self.say(t, Taint::HIT, span.clone());
                }
            }
        }
        if let Some(v) = fold::item(base, key) {
            return v.with(base.taint);
        }
        match &base.kind {
            // `messages[0]` is one of the messages.
            Kind::Unknown(path) => {
                let path = path.as_deref().filter(|p| p.len() < MOST_PATH);
                match path {
                    Some(p) => Value::named(format!("{p}[]"), base.taint),
                    None => Value::unknown(base.taint),
                }
            }
            Kind::Str(_) => Value::unknown(base.taint),
            Kind::List(items) => Value::either(items.iter().take(8).cloned().collect()),
            _ => Value::unknown(base.taint),
        }
    }

    /// Whether `name` stands in the template as it is.
    pub(super) fn spelling(&self, id: ExprId, name: &str) -> Spelling {
        let written = self.text.get(self.span(id)).unwrap_or_default();
        if written.contains(name) {
            Spelling::Plain
        } else {
            Spelling::Built
        }
    }

    /// `base|attr(name)`, where the name is a value.
    pub(super) fn named_attribute(
        &mut self,
        base: &Value,
        name: &Value,
        at: Option<ExprId>,
        span: Range<usize>,
    ) -> Value {
        let mut out = Vec::new();
        for one in name.alternatives() {
            match one.as_str() {
                Some(n) => {
                    let n = n.to_owned();
                    let spelling = at.map_or(Spelling::Built, |id| self.spelling(id, &n));
                    out.push(self.attribute(base, &n, spelling, span.clone(), false));
                }
                None if one.as_int().is_some() => out.push(Value::unknown(base.taint)),
                None => {
                    if self.is_template() {
                        let message = "takes an attribute whose name is not known before rendering";
                        self.report("WB-TPL-005", span.clone(), false, message);
                    }
                    out.push(Value::unknown(base.taint));
                }
            }
        }
        Value::either(out)
    }

    fn binary(&mut self, left: Value, op: Binary, right: ExprId, span: Range<usize>) -> Value {
        match op {
            Binary::And | Binary::Or => {
                let guard = if op == Binary::And {
                    left.taint
                } else {
                    left.taint.negated()
                };
                self.guards.push(guard);
                let right = self.eval(right);
                self.guards.pop();
                let taint = left.taint | right.taint;
                match (op, left.truth()) {
                    (Binary::And, Some(true)) | (Binary::Or, Some(false)) => right,
                    (_, Some(_)) => left,
                    _ => Value::either(vec![left, right]).with(taint),
                }
            }
            Binary::Add => {
                let right = self.eval(right);
                combine(&left, &right, fold::add)
            }
            Binary::Mul => {
                let right = self.eval(right);
                let (n, what) = match (left.as_int(), right.as_int()) {
                    (Some(n), None) => (Some(n), &right),
                    (None, Some(n)) => (Some(n), &left),
                    _ => (None, &left),
                };
                let unit = what.items().map_or(1, |v| v.len().max(1) as i128);
                self.size(n.map(|n| n.saturating_mul(unit)), span);
                combine(&left, &right, fold::multiply)
            }
            Binary::Mod => {
                let right = self.eval(right);
                let Some(text) = left.as_str() else {
                    return Value::unknown(left.taint | right.taint);
                };
                self.size(widest(text), span);
                let given = operands(&right);
                let taint = left.taint | right.taint;
                match fold::percent(text, &given) {
                    Some(v) => v.with(taint),
                    None => Value::unknown(taint),
                }
            }
            Binary::Pow => {
                let right = self.eval(right);
                if left.as_int().is_some_and(|n| n.unsigned_abs() > 1) {
                    let bits = right.as_int().map(|n| n.saturating_mul(100));
                    self.size(bits, span);
                }
                let n = left.as_int().zip(right.as_int());
                let n = n.and_then(|(a, b)| a.checked_pow(u32::try_from(b).ok()?));
                // Too large for us to hold, and for the next power to be small.
                let n = n.or_else(|| left.as_int().and(right.as_int()).map(|_| i128::MAX));
                n.map_or(Value::unknown(Taint::NONE), |n| Value::new(Kind::Int(n)))
            }
            Binary::Sub | Binary::Div | Binary::FloorDiv => {
                let right = self.eval(right);
                let n = left.as_int().zip(right.as_int());
                let n = n.and_then(|(a, b)| match op {
                    Binary::Sub => a.checked_sub(b),
                    Binary::FloorDiv => a.checked_div_euclid(b),
                    _ => None,
                });
                n.map_or(Value::unknown(left.taint | right.taint), |n| {
                    Value::new(Kind::Int(n))
                })
            }
        }
    }

    fn compare(&mut self, first: Value, rest: &'t [(Compare, ExprId)]) -> Value {
        let mut taint = first.taint.only(Taint::HIT | Taint::MISS);
        let mut left = first;
        let mut truth = Some(true);
        for (op, right) in rest {
            let right = self.quietly(|m| m.eval(*right));
            taint = taint | right.taint.only(Taint::HIT | Taint::MISS);
            taint = taint | trigger(&left, *op, &right);
            let this = match op {
                Compare::Eq => fold::equal(&left, &right),
                Compare::Ne => fold::equal(&left, &right).map(|b| !b),
                _ => ordered(&left, *op, &right),
            };
            truth = match (truth, this) {
                (Some(a), Some(b)) => Some(a && b),
                _ => None,
            };
            left = right;
        }
        match truth {
            Some(b) if !taint.has(Taint::HIT | Taint::MISS) => {
                Value::new(Kind::Bool(b)).with(taint)
            }
            _ => Value::unknown(taint),
        }
    }
}

fn ordered(a: &Value, op: Compare, b: &Value) -> Option<bool> {
    let (a, b) = (a.as_int()?, b.as_int()?);
    Some(match op {
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
        _ => return None,
    })
}

/// `a` and `b` put together by `with`, for each of their possible values.
fn combine(a: &Value, b: &Value, with: impl Fn(&Value, &Value) -> Option<Value>) -> Value {
    let taint = taints(&[a.clone(), b.clone()]);
    let (xs, ys) = (a.alternatives(), b.alternatives());
    let mut out = Vec::new();
    if xs.len() * ys.len() <= MOST_COMBINED {
        for x in xs {
            for y in ys {
                match with(x, y) {
                    Some(v) => out.push(v),
                    None => return Value::unknown(taint | piece(x) | piece(y)),
                }
            }
        }
        return Value::either(out).with(taint);
    }
    Value::unknown(taint)
}

fn piece(v: &Value) -> Taint {
    let underscores = v
        .as_str()
        .is_some_and(|s| s.starts_with("__") && s.len() <= 24 && !s.contains(' '));
    if underscores {
        Taint::PIECE
    } else {
        v.taint.only(Taint::PIECE)
    }
}

/// What stands on the right of `%`.
fn operands(value: &Value) -> Given {
    match &value.kind {
        Kind::List(items) => Given {
            positional: items.to_vec(),
            named: Vec::new(),
        },
        Kind::Dict(pairs) => Given {
            positional: Vec::new(),
            named: pairs
                .iter()
                .filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v.clone())))
                .collect(),
        },
        _ => Given {
            positional: vec![value.clone()],
            named: Vec::new(),
        },
    }
}

/// The widest field of a `%` format.
pub(super) fn widest(text: &str) -> Option<i128> {
    text.split('%')
        .skip(1)
        .filter_map(|s| {
            let s = s.trim_start_matches(['#', '0', '-', ' ', '+']);
            let n = s.find(|c: char| !c.is_ascii_digit())?;
            s.get(..n)?.parse().ok()
        })
        .max()
}
