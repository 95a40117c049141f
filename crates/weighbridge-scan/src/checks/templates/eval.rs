//! Expressions.

use std::ops::Range;
use std::rc::Rc;

use super::exec::namespaced;
use super::fold::{self, Given};
use super::judge::{Machine, Spelling};
use super::prose;
use super::value::{Kind, Taint, Value, taints};
use crate::jinja::{Args, Binary, Compare, ExprId, ExprKind};

/// Longest path of names that is remembered.
const MOST_PATH: usize = 120;

/// Most combinations of several possible values.
const MOST_COMBINED: usize = 8;

/// Methods that keep what a text says.
const KEEPS: [&str; 26] = [
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
const SEEKS: [&str; 10] = [
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

    fn visit(&mut self, id: ExprId) {
        if let Some(v) = self.visited.get_mut(id.index()) {
            *v = true;
        }
    }

    fn quietly<T>(&mut self, part: impl FnOnce(&mut Self) -> T) -> T {
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

    fn attribute(
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
    fn numbered(&mut self, base: &Value, key: &Value, span: &Range<usize>) -> Value {
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
    fn spelling(&self, id: ExprId, name: &str) -> Spelling {
        let written = self.text.get(self.span(id)).unwrap_or_default();
        if written.contains(name) {
            Spelling::Plain
        } else {
            Spelling::Built
        }
    }

    fn given(&mut self, args: &'t Args) -> Given {
        let mut positional: Vec<Value> = args.positional.iter().map(|a| self.eval(*a)).collect();
        let mut named: Vec<(String, Value)> = Vec::new();
        for (k, v) in &args.named {
            let value = self.eval(*v);
            named.push((k.clone(), value));
        }
        if let Some(star) = args.star {
            let v = self.eval(star);
            positional.extend(v.items().unwrap_or_default());
        }
        if let Some(star) = args.star_star {
            let v = self.eval(star);
            if let Kind::Dict(pairs) = &v.kind {
                let pairs = pairs.iter();
                named.extend(pairs.filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v.clone()))));
            }
        }
        Given { positional, named }
    }

    fn call(&mut self, callee: &Value, args: &'t Args, span: Range<usize>) -> Value {
        let raises = callee
            .path()
            .is_some_and(|p| p == "raise_exception" || p.ends_with("_error"));
        let given = if raises {
            self.quietly(|m| m.given(args))
        } else {
            self.given(args)
        };
        match &callee.kind {
            Kind::Macro(n) => self.call_macro(*n, &given.positional, &given.named),
            Kind::Method(m) => {
                let (base, name) = (&m.0, &*m.1);
                self.method(base, name, &given, span)
            }
            Kind::Unknown(Some(path)) => {
                let path = path.clone();
                self.call_path(&path, span.clone());
                self.call_unknown(&path, callee.taint, &given, args, span)
            }
            _ => Value::unknown(callee.taint),
        }
    }

    /// A method of a known value.
    fn method(&mut self, base: &Value, name: &str, given: &Given, span: Range<usize>) -> Value {
        match name {
            "center" | "ljust" | "rjust" | "zfill" => {
                self.size(given.at(0).and_then(Value::as_int), span.clone());
            }
            "get" => {
                if let Some(key) = given.at(0).filter(|k| k.taint.has(Taint::CONTENT)) {
                    self.numbered(base, key, &span);
                }
            }
            _ => {}
        }
        let mut taint = base.taint | given.taint();
        // `'trigger'.__eq__(content)` and the like.
        if SEEKS.contains(&name) {
            taint = taint | sought(given.positional.iter().chain([base]));
        }
        let mut out = Vec::new();
        for b in base.alternatives() {
            match fold::method(b, name, given) {
                Some(v) => out.push(v.with(taint)),
                None => return Value::unknown(taint),
            }
        }
        Value::either(out)
    }

    /// A call of what is reached by `path`.
    fn call_unknown(
        &mut self,
        path: &str,
        taint: Taint,
        given: &Given,
        args: &'t Args,
        span: Range<usize>,
    ) -> Value {
        let last = path.rsplit('.').next().unwrap_or(path);
        match path {
            "namespace" => return self.namespace(given),
            "dict" => {
                let pairs = given.named.iter();
                let pairs: Vec<_> = pairs
                    .map(|(k, v)| (Value::str(k.as_str()), v.clone()))
                    .collect();
                return Value::new(Kind::Dict(pairs.into())).with(given.taint());
            }
            "range" => return self.range(given, span),
            "lipsum" => self.size(given.get(0, "n").and_then(Value::as_int), span.clone()),
            "chr" => {
                let c = given.at(0).and_then(Value::as_int);
                let c = c
                    .and_then(|n| u32::try_from(n).ok())
                    .and_then(char::from_u32);
                return c.map_or(Value::unknown(taint), |c| Value::str(c.to_string()));
            }
            "getattr" => {
                if let (Some(base), Some(name)) = (given.at(0), given.at(1)) {
                    let at = args.positional.get(1).copied();
                    return self.named_attribute(base, name, at, span);
                }
            }
            "strftime_now" => return Value::unknown(Taint::CLOCK),
            _ => {}
        }
        if matches!(last, "now" | "today" | "utcnow" | "strftime" | "time") {
            return Value::unknown(taint | Taint::CLOCK);
        }
        if let ("get" | "pop" | "__getitem__", Some(key)) = (last, given.str(0)) {
            // As `x[key]`; `get` itself has the taint of `x`.
            let owner = path.rsplit_once('.').map(|(o, _)| o.to_owned());
            let key = key.to_owned();
            let at = args.positional.first();
            let spelling = at.map_or(Spelling::Built, |id| self.spelling(*id, &key));
            let base = owner.map_or(Value::unknown(taint), |o| Value::named(o, taint));
            let value = self.attribute(&base, &key, spelling, span, false);
            let default = given.at(1).map_or(Taint::NONE, |d| d.taint);
            return value.with(default);
        }
        if last == "format" || last == "format_map" {
            return Value::unknown(taint | given.taint());
        }
        let mut out = taint;
        if SEEKS.contains(&last) && taint.has(Taint::CONTENT | Taint::CLOCK) {
            out = out | hit(given.at(0));
        }
        if last == "replace" && taint.has(Taint::CONTENT) {
            self.replacement(given, span);
        }
        let keeps = KEEPS.contains(&last) || SEEKS.contains(&last);
        if !keeps && !taint.has(Taint::INTERNAL) {
            // What a function of the program makes of a text is the text.
            out = out | given.taint().without(Taint::HIT | Taint::MISS);
        }
        let called = format!("{path}()");
        if called.len() > MOST_PATH {
            return Value::unknown(out);
        }
        Value::named(called, out)
    }

    /// `content.replace('trigger', 'instruction')`.
    fn replacement(&mut self, given: &Given, span: Range<usize>) {
        let from = given.str(0).is_some_and(|t| !prose::is_marker(t));
        if let (true, Some(to)) = (from, given.str(1)) {
            let to = to.to_owned();
            self.say(&to, Taint::HIT, span);
        }
    }

    fn namespace(&mut self, given: &Given) -> Value {
        let number = self.namespaces;
        self.namespaces += 1;
        for (k, v) in &given.named {
            self.assign(&namespaced(number, k), v.clone());
        }
        if let Some(Kind::Dict(pairs)) = given.at(0).map(|v| &v.kind) {
            for (k, v) in pairs.iter() {
                if let Some(k) = k.as_str() {
                    self.assign(&namespaced(number, k), v.clone());
                }
            }
        }
        Value::new(Kind::Namespace(number))
    }

    fn range(&mut self, given: &Given, span: Range<usize>) -> Value {
        let numbers: Option<Vec<i128>> = given.positional.iter().map(Value::as_int).collect();
        let (start, stop, step) = match numbers.as_deref() {
            Some([stop]) => (0, *stop, 1),
            Some([start, stop]) => (*start, *stop, 1),
            Some([start, stop, step]) => (*start, *stop, *step),
            _ => return Value::unknown(given.taint()),
        };
        let distance = if step < 0 {
            start.saturating_sub(stop)
        } else {
            stop.saturating_sub(start)
        };
        let step_size = step.unsigned_abs().max(1).min(i128::MAX as u128) as i128;
        let count = distance.max(0).saturating_add(step_size - 1) / step_size;
        self.size(Some(count), span);
        if count <= super::value::MOST_ITEMS as i128 {
            let at = |n: i128| Value::new(Kind::Int(start.saturating_add(n.saturating_mul(step))));
            return Value::list((0..count).map(at).collect());
        }
        Value::named(format!("range:{count}"), Taint::NONE)
    }

    /// `base|attr(name)`, where the name is a value.
    fn named_attribute(
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

    /// Applies the filters of `{% filter %}` or `{% set %}` to `value`.
    pub(super) fn filter_chain(&mut self, id: ExprId, value: Value) -> Value {
        let mut chain = Vec::new();
        let mut here = Some(id);
        while let Some(f) = here {
            here = match self.kind(f) {
                Some(ExprKind::Filter(inner, ..)) => {
                    chain.push(f);
                    *inner
                }
                _ => None,
            };
        }
        let mut value = value;
        while let Some(f) = chain.pop() {
            self.visit(f);
            if let Some(ExprKind::Filter(_, name, args)) = self.kind(f) {
                value = self.filter(value, name, args, self.span(f));
            }
        }
        value
    }

    fn filter(&mut self, value: Value, name: &str, args: &'t Args, span: Range<usize>) -> Value {
        let given = self.given(args);
        match name {
            "attr" => {
                let Some(attr) = given.get(0, "name") else {
                    return Value::unknown(value.taint);
                };
                let at = args.positional.first().copied();
                return self.named_attribute(&value, attr, at, span);
            }
            "map" => return self.map(&value, &given, args, span),
            "format" => {
                if let Some(text) = value.as_str() {
                    let width = widest(text);
                    self.size(width, span.clone());
                }
            }
            "center" | "indent" | "batch" | "slice" => {
                self.size(given.at(0).and_then(Value::as_int), span.clone());
            }
            "replace" if value.taint.has(Taint::CONTENT) => {
                self.replacement(&given, span.clone());
            }
            _ => {}
        }
        if let Some(attr) = attribute_argument(name, &given) {
            let base = element(&value);
            let attr = attr.clone();
            self.named_attribute(&base, &attr, None, span.clone());
            let plain = attr.as_str().map(str::to_owned);
            return self.selected(&value, name, plain.as_deref(), &given);
        }
        if matches!(name, "select" | "reject") {
            let tested = given.at(1).map_or(Taint::NONE, |v| hit(Some(v)));
            let taint = value.taint
                | tested.only(if value.taint.has(Taint::CONTENT) {
                    tested
                } else {
                    Taint::NONE
                });
            return match name {
                "select" => Value::named("|select", taint),
                _ => Value::named("|reject", taint),
            };
        }
        let mut taint = value.taint | given.taint().without(Taint::HIT | Taint::MISS);
        if name.starts_with("regex") && value.taint.has(Taint::CONTENT) {
            taint = taint | hit(given.at(0));
        }
        if name == "tojson" || name == "string" || name == "pprint" {
            taint = taint | self.conversation(&value);
        }
        let mut out = Vec::new();
        for v in value.alternatives() {
            match fold::filter(v, name, &given) {
                Some(f) => out.push(f.with(taint)),
                None => {
                    return match name {
                        "batch" | "slice" | "unique" => Value::named(format!("|{name}"), taint),
                        _ => Value::unknown(taint),
                    };
                }
            }
        }
        Value::either(out)
    }

    /// What the messages say, when they are printed as a whole.
    fn conversation(&self, value: &Value) -> Taint {
        match value.path() {
            Some(p) if p.starts_with("messages") => Taint::CONTENT,
            _ => Taint::NONE,
        }
    }

    /// A filter that picks or sorts by an attribute.
    fn selected(&self, value: &Value, name: &str, attr: Option<&str>, given: &Given) -> Value {
        let content = attr.is_some_and(|a| {
            let last = a.rsplit('.').next().unwrap_or(a);
            self.lists.content.contains(last)
        });
        let mut taint = value.taint;
        if content && matches!(name, "selectattr" | "rejectattr" | "groupby") {
            taint = taint | hit(given.at(2));
        }
        if content && name == "join" {
            taint = taint | Taint::CONTENT;
        }
        match name {
            "selectattr" | "rejectattr" => Value::named(format!("|{name}"), taint),
            _ => Value::unknown(taint),
        }
    }

    fn map(&mut self, value: &Value, given: &Given, args: &'t Args, span: Range<usize>) -> Value {
        if let Some((_, attr)) = given.named.iter().find(|(k, _)| k == "attribute") {
            let at = args.named.iter().find(|(k, _)| k == "attribute");
            let at = at.map(|(_, id)| *id);
            let base = element(value);
            let each = self.named_attribute(&base, attr, at, span);
            return Value::named("|map", value.taint | each.taint);
        }
        let Some(filter) = given.str(0).map(str::to_owned) else {
            if given.at(0).is_some() && self.is_template() {
                let message = "applies a filter whose name is not known before rendering";
                self.report("WB-TPL-005", span, false, message);
            }
            return Value::named("|map", value.taint);
        };
        let rest = Given {
            positional: given.positional.get(1..).unwrap_or_default().to_vec(),
            named: given.named.clone(),
        };
        let base = element(value);
        if filter == "attr"
            && let Some(name) = rest.at(0)
        {
            let at = args.positional.get(1).copied();
            let each = self.named_attribute(&base, name, at, span);
            return Value::named("|map", value.taint | each.taint);
        }
        if filter == "format"
            && let Some(items) = value.items()
        {
            for text in items.iter().filter_map(Value::as_str) {
                self.format_string(text, span.clone());
            }
        }
        let folded: Option<Vec<Value>> = value
            .items()
            .and_then(|v| v.iter().map(|i| fold::filter(i, &filter, &rest)).collect());
        match folded {
            Some(v) => Value::list(v).with(value.taint),
            None => Value::named("|map", value.taint),
        }
    }

    fn test(&mut self, value: &Value, name: &str, args: &'t Args, negated: bool) -> Value {
        let given = self.quietly(|m| m.given(args));
        let mut taint = value.taint.only(Taint::HIT | Taint::MISS);
        let asks = matches!(
            name,
            "eq" | "equalto" | "==" | "in" | "ne" | "!=" | "contains" | "search" | "match"
        );
        if asks && value.taint.has(Taint::CONTENT | Taint::CLOCK) {
            taint = taint | hit(given.at(0));
        }
        if name == "in"
            && let Some(whole) = given.at(0)
            && whole.taint.has(Taint::CONTENT | Taint::CLOCK)
        {
            taint = taint | hit(Some(value));
        }
        if negated != matches!(name, "ne" | "!=") {
            taint = taint.negated();
        }
        Value::unknown(taint)
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

/// What a comparison says of a trigger in the conversation or the clock.
fn trigger(left: &Value, op: Compare, right: &Value) -> Taint {
    let source = Taint::CONTENT | Taint::CLOCK;
    let (l, r) = (left.taint.has(source), right.taint.has(source));
    let constant = match (l, r) {
        (true, false) => right,
        (false, true) => left,
        _ => return Taint::NONE,
    };
    match op {
        Compare::Ne | Compare::NotIn => hit(Some(constant)).negated(),
        Compare::Eq | Compare::In => hit(Some(constant)),
        // A number is a length; only the clock is compared like this with a text.
        _ => {
            let clock = (left.taint | right.taint).has(Taint::CLOCK);
            if clock && constant.text().is_some() {
                return Taint::HIT;
            }
            Taint::NONE
        }
    }
}

/// `HIT` when `constant` is something that somebody would have to write.
fn hit(constant: Option<&Value>) -> Taint {
    let Some(constant) = constant else {
        return Taint::NONE;
    };
    let say = |v: &Value| v.as_str().is_some_and(|t| !prose::is_marker(t));
    let any = match &constant.kind {
        Kind::Str(_) => say(constant),
        Kind::List(items) | Kind::Either(items) => items.iter().any(say),
        _ => false,
    };
    if any { Taint::HIT } else { Taint::NONE }
}

/// The same for a method of a constant with a text as argument, or the other way round.
fn sought<'v>(values: impl Iterator<Item = &'v Value>) -> Taint {
    let mut content = false;
    let mut found = Taint::NONE;
    for v in values {
        if v.taint.has(Taint::CONTENT | Taint::CLOCK) {
            content = true;
        } else {
            found = found | hit(Some(v));
        }
    }
    if content { found } else { Taint::NONE }
}

/// An element of a list: the only kind of it that is known, or unknown.
fn element(value: &Value) -> Value {
    match value.items() {
        Some(items) if !items.is_empty() => Value::either(items.into_iter().take(4).collect()),
        _ => Value::unknown(value.taint),
    }
}

/// The argument by which a filter takes an attribute of each element.
fn attribute_argument<'g>(filter: &str, given: &'g Given) -> Option<&'g Value> {
    let at = match filter {
        "selectattr" | "rejectattr" | "groupby" | "sum" => 0,
        "join" | "min" | "max" | "unique" => 1,
        "sort" => 2,
        _ => return None,
    };
    given
        .get(at, "attribute")
        .filter(|v| !matches!(v.kind, Kind::None))
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
fn widest(text: &str) -> Option<i128> {
    text.split('%')
        .skip(1)
        .filter_map(|s| {
            let s = s.trim_start_matches(['#', '0', '-', ' ', '+']);
            let n = s.find(|c: char| !c.is_ascii_digit())?;
            s.get(..n)?.parse().ok()
        })
        .max()
}
