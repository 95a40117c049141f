//! Calls and methods.

use std::ops::Range;

use super::eval::{KEEPS, MOST_PATH, SEEKS};
use super::exec::namespaced;
use super::fold::{self, Given};
use super::judge::{Machine, Spelling};
use super::prose;
use super::trigger::{hit, sought};
use super::value::{Kind, MOST_ITEMS, Taint, Value};
use crate::jinja::Args;

impl<'t> Machine<'t> {
    pub(super) fn given(&mut self, args: &'t Args) -> Given {
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

    pub(super) fn call(&mut self, callee: &Value, args: &'t Args, span: Range<usize>) -> Value {
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
    pub(super) fn replacement(&mut self, given: &Given, span: Range<usize>) {
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
        if count <= MOST_ITEMS as i128 {
            let at = |n: i128| Value::new(Kind::Int(start.saturating_add(n.saturating_mul(step))));
            return Value::list((0..count).map(at).collect());
        }
        Value::named(format!("range:{count}"), Taint::NONE)
    }
}
