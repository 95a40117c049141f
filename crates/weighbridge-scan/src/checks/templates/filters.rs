//! Filters and tests.

use std::ops::Range;

use super::eval::widest;
use super::fold::{self, Given};
use super::judge::Machine;
use super::trigger::hit;
use super::value::{Kind, Taint, Value};
use crate::jinja::{Args, ExprId, ExprKind};

impl<'t> Machine<'t> {
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

    pub(super) fn filter(
        &mut self,
        value: Value,
        name: &str,
        args: &'t Args,
        span: Range<usize>,
    ) -> Value {
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

    pub(super) fn test(
        &mut self,
        value: &Value,
        name: &str,
        args: &'t Args,
        negated: bool,
    ) -> Value {
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
