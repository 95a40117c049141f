//! Strings that a template puts together: the methods, filters and operators by which a name can
//! be built, worked out on constants as Python and `jinja2/filters.py` do.

use std::rc::Rc;

use super::value::{Kind, MOST_ITEMS, MOST_STRING, Taint, Value, taints};

/// The arguments of a call, worked out.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Given {
    pub(super) fn at(&self, n: usize) -> Option<&Value> {
        self.positional.get(n)
    }

    /// By position or by name.
    pub(super) fn get(&self, n: usize, name: &str) -> Option<&Value> {
        let named = self.named.iter().find(|(k, _)| k == name).map(|(_, v)| v);
        named.or_else(|| self.at(n))
    }

    pub(super) fn str(&self, n: usize) -> Option<&str> {
        self.at(n).and_then(Value::as_str)
    }

    pub(super) fn taint(&self) -> Taint {
        let named = self.named.iter().fold(Taint::NONE, |t, (_, v)| t | v.taint);
        taints(&self.positional) | named
    }
}

/// `a + b`, of strings, numbers and lists.
pub(super) fn add(a: &Value, b: &Value) -> Option<Value> {
    Some(match (&a.kind, &b.kind) {
        (Kind::Str(x), Kind::Str(y)) => joined(&[x, y])?,
        (Kind::Int(x), Kind::Int(y)) => Value::new(Kind::Int(x.saturating_add(*y))),
        (Kind::List(x), Kind::List(y)) => Value::list(x.iter().chain(y.iter()).cloned().collect()),
        _ => return None,
    })
}

fn joined(parts: &[&str]) -> Option<Value> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    (len <= MOST_STRING).then(|| Value::str(parts.concat()))
}

/// `a * b`, where neither is too large.
pub(super) fn multiply(a: &Value, b: &Value) -> Option<Value> {
    let (value, n) = match (a.as_int(), b.as_int()) {
        (Some(x), Some(y)) => return Some(Value::new(Kind::Int(x.saturating_mul(y)))),
        (None, Some(n)) => (a, n),
        (Some(n), None) => (b, n),
        _ => return None,
    };
    let n = usize::try_from(n.max(0)).ok()?;
    match &value.kind {
        Kind::Str(s) if s.len().checked_mul(n)? <= MOST_STRING => Some(Value::str(s.repeat(n))),
        Kind::List(v) if v.len().checked_mul(n)? <= MOST_ITEMS => {
            let all = std::iter::repeat_n(v.iter(), n).flatten().cloned();
            Some(Value::list(all.collect()))
        }
        _ => None,
    }
}

/// `value[index]`.
pub(super) fn item(value: &Value, index: &Value) -> Option<Value> {
    match &value.kind {
        Kind::Dict(pairs) => {
            let hit = pairs.iter().find(|(k, _)| equal(k, index) == Some(true));
            hit.map(|(_, v)| v.clone())
        }
        Kind::Str(_) | Kind::List(_) => {
            let items = value.items()?;
            let n = index.as_int()?;
            let n = if n < 0 {
                n.checked_add(items.len() as i128)?
            } else {
                n
            };
            items.get(usize::try_from(n).ok()?).cloned()
        }
        _ => None,
    }
}

/// `value[a:b:c]`.
pub(super) fn slice(value: &Value, bounds: [Option<i128>; 3]) -> Option<Value> {
    let items = value.items()?;
    let len = items.len() as i128;
    let step = bounds[2].unwrap_or(1);
    if step == 0 || matches!(value.kind, Kind::Dict(_)) {
        return None;
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |n: Option<i128>, default: i128| match n {
        None => default,
        Some(n) if n < 0 => n.saturating_add(len).clamp(low, high),
        Some(n) => n.clamp(low, high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let end = clamp(bounds[1], last);
    let mut at = clamp(bounds[0], first);
    let mut out = Vec::new();
    while if step > 0 { at < end } else { at > end } {
        let here = usize::try_from(at).ok().and_then(|n| items.get(n));
        out.push(here?.clone());
        at = at.saturating_add(step);
    }
    Some(rebuilt(value, out))
}

/// `items` as a string if `like` is one.
fn rebuilt(like: &Value, items: Vec<Value>) -> Value {
    if matches!(like.kind, Kind::Str(_)) {
        return Value::str(items.iter().filter_map(Value::as_str).collect::<String>());
    }
    Value::list(items)
}

/// Whether two known scalars are equal.
pub(super) fn equal(a: &Value, b: &Value) -> Option<bool> {
    Some(match (&a.kind, &b.kind) {
        (Kind::Str(x), Kind::Str(y)) => x == y,
        (Kind::None, Kind::None) => true,
        (Kind::Int(_) | Kind::Bool(_), Kind::Int(_) | Kind::Bool(_)) => a.as_int() == b.as_int(),
        (Kind::Str(_), Kind::Int(_) | Kind::None) | (Kind::Int(_) | Kind::None, Kind::Str(_)) => {
            false
        }
        _ => return None,
    })
}

/// A method of a known string, list or dict.
pub(super) fn method(value: &Value, name: &str, given: &Given) -> Option<Value> {
    match &value.kind {
        Kind::Str(s) => str_method(value, s, name, given),
        Kind::List(v) => match name {
            "pop" => match given.at(0) {
                None => v.last().cloned(),
                Some(i) => item(value, i),
            },
            "copy" => Some(value.clone()),
            "index" | "count" => None,
            "__getitem__" => item(value, given.at(0)?),
            _ => None,
        },
        Kind::Dict(pairs) => match name {
            "keys" => Some(Value::list(pairs.iter().map(|(k, _)| k.clone()).collect())),
            "values" => Some(Value::list(pairs.iter().map(|(_, v)| v.clone()).collect())),
            "items" => Some(pair_list(pairs)),
            "get" | "pop" => item(value, given.at(0)?).or_else(|| given.at(1).cloned()),
            "popitem" => {
                let (k, v) = pairs.last()?;
                Some(Value::list(vec![k.clone(), v.clone()]))
            }
            "__getitem__" => item(value, given.at(0)?),
            _ => None,
        },
        _ => None,
    }
}

fn pair_list(pairs: &[(Value, Value)]) -> Value {
    let pair = |(k, v): &(Value, Value)| Value::list(vec![k.clone(), v.clone()]);
    Value::list(pairs.iter().map(pair).collect())
}

fn str_method(value: &Value, s: &str, name: &str, given: &Given) -> Option<Value> {
    let chars = |set: Option<&str>| -> Vec<char> { set.unwrap_or(" \t\r\n").chars().collect() };
    Some(match name {
        "upper" => Value::str(s.to_uppercase()),
        "lower" | "casefold" => Value::str(s.to_lowercase()),
        "swapcase" => Value::str(swapped(s)),
        "capitalize" => Value::str(capitalized(s)),
        "title" => Value::str(titled(s)),
        "strip" => Value::str(s.trim_matches(&chars(given.str(0))[..])),
        "lstrip" => Value::str(s.trim_start_matches(&chars(given.str(0))[..])),
        "rstrip" => Value::str(s.trim_end_matches(&chars(given.str(0))[..])),
        "removeprefix" => Value::str(s.strip_prefix(given.str(0)?).unwrap_or(s)),
        "removesuffix" => Value::str(s.strip_suffix(given.str(0)?).unwrap_or(s)),
        "replace" => replaced(s, given)?,
        "join" => join(&given.at(0)?.items()?, s)?,
        "__add__" | "concat" => joined(&[s, given.str(0)?])?,
        "__mul__" | "__rmul__" => multiply(value, given.at(0)?)?,
        "__getitem__" => item(value, given.at(0)?)?,
        "format" => format(s, given)?,
        "format_map" => match &given.at(0)?.kind {
            Kind::Dict(pairs) => {
                let named = pairs
                    .iter()
                    .filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v.clone())))
                    .collect();
                format(
                    s,
                    &Given {
                        positional: Vec::new(),
                        named,
                    },
                )?
            }
            _ => return None,
        },
        "split" | "rsplit" => match given.str(0) {
            Some("") => return None,
            Some(by) => strs(s.split(by)),
            None => strs(s.split_whitespace()),
        },
        "partition" => {
            let (a, b) = s.split_once(given.str(0)?)?;
            strs([a, given.str(0)?, b].into_iter())
        }
        "splitlines" => strs(s.lines()),
        "decode" => match given.str(0) {
            Some("base64" | "base_64") => Value::str(base64(s)?),
            Some("hex") => Value::str(hex(s)?),
            Some("rot13" | "rot_13") => Value::str(rot13(s)),
            _ => value.clone(),
        },
        "encode" => match given.str(0) {
            Some("rot13" | "rot_13") => Value::str(rot13(s)),
            _ => value.clone(),
        },
        "zfill" | "center" | "ljust" | "rjust" | "expandtabs" => return None,
        "startswith" => Value::new(Kind::Bool(s.starts_with(given.str(0)?))),
        "endswith" => Value::new(Kind::Bool(s.ends_with(given.str(0)?))),
        "find" | "index" => {
            let at = s
                .find(given.str(0)?)
                .map(|n| s.get(..n).unwrap_or_default());
            let n = at.map_or(-1, |before| before.chars().count() as i128);
            Value::new(Kind::Int(n))
        }
        _ => return None,
    })
}

fn strs<'a>(parts: impl Iterator<Item = &'a str>) -> Value {
    Value::list(parts.take(MOST_ITEMS + 1).map(Value::str).collect())
}

fn swapped(s: &str) -> String {
    let swap = |c: char| {
        if c.is_uppercase() {
            c.to_lowercase().next().unwrap_or(c)
        } else {
            c.to_uppercase().next().unwrap_or(c)
        }
    };
    s.chars().map(swap).collect()
}

fn capitalized(s: &str) -> String {
    let mut chars = s.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + &chars.as_str().to_lowercase()
}

fn titled(s: &str) -> String {
    let mut after_letter = false;
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if after_letter {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        after_letter = c.is_alphabetic();
    }
    out
}

fn replaced(s: &str, given: &Given) -> Option<Value> {
    let (from, to) = (given.str(0)?, given.str(1)?);
    let hits = if from.is_empty() {
        s.chars().count() + 1
    } else {
        s.matches(from).count()
    };
    if s.len() + hits.saturating_mul(to.len()) > MOST_STRING {
        return None;
    }
    Some(Value::str(s.replace(from, to)))
}

fn join(items: &[Value], by: &str) -> Option<Value> {
    let parts: Option<Vec<String>> = items.iter().map(Value::text).collect();
    let parts = parts?;
    let len: usize = parts.iter().map(|p| p.len() + by.len()).sum();
    (len <= MOST_STRING + by.len()).then(|| Value::str(parts.join(by)))
}

/// A filter on a known value.
pub(super) fn filter(value: &Value, name: &str, given: &Given) -> Option<Value> {
    Some(match name {
        "lower" | "upper" | "capitalize" | "title" | "replace" => {
            str_method(value, value.as_str()?, name, given)?
        }
        "trim" => Value::str(match given.get(0, "chars").and_then(Value::as_str) {
            Some(set) => value
                .as_str()?
                .trim_matches(&set.chars().collect::<Vec<_>>()[..]),
            None => value.as_str()?.trim(),
        }),
        "string" | "safe" | "escape" | "e" | "forceescape" | "striptags" => {
            Value::str(value.text()?)
        }
        "reverse" => {
            let mut items = value.items()?;
            items.reverse();
            rebuilt(value, items)
        }
        "join" => {
            let by = given.get(0, "d").map_or(Some(String::new()), Value::text)?;
            join(&value.items()?, &by)?
        }
        "list" | "unique" => Value::list(value.items().or_else(|| {
            let printed = Value::str(value.text()?);
            value.path().filter(|p| !p.starts_with('|'))?;
            printed.items()
        })?),
        "sort" => {
            let mut items = value.items()?;
            items.sort_by(|a, b| (a.as_int(), a.as_str()).cmp(&(b.as_int(), b.as_str())));
            Value::list(items)
        }
        "first" => value.items()?.first()?.clone(),
        "last" => value.items()?.last()?.clone(),
        "random" => match value.items()?.as_slice() {
            [one] => one.clone(),
            items => Value::either(items.to_vec()),
        },
        "sum" => {
            let mut items = value.items()?.into_iter();
            let start = given.get(1, "start").cloned().or_else(|| items.next())?;
            items.try_fold(start, |a, b| add(&a, &b))?
        }
        "items" => method(value, "items", given)?,
        "dictsort" => pair_list(match &value.kind {
            Kind::Dict(p) => p,
            _ => return None,
        }),
        "default" | "d" => match &value.kind {
            Kind::None => given.at(0)?.clone(),
            _ => value.clone(),
        },
        "format" => percent(value.as_str()?, given)?,
        "truncate" => {
            let s = value.as_str()?;
            let length = given.get(0, "length").map_or(Some(255), Value::as_int)?;
            let end = given.get(2, "end").map_or(Some("..."), Value::as_str)?;
            let keep = usize::try_from(length).ok()?.checked_sub(end.len())?;
            if s.chars().count() <= keep + end.len() {
                value.clone()
            } else {
                Value::str(s.chars().take(keep).chain(end.chars()).collect::<String>())
            }
        }
        "int" => Value::new(Kind::Int(match &value.kind {
            Kind::Str(s) => {
                let base = given.get(1, "base").and_then(Value::as_int).unwrap_or(10);
                let base = u32::try_from(base).ok().filter(|b| (2..=36).contains(b))?;
                i128::from_str_radix(s.trim().trim_start_matches("0x"), base).ok()?
            }
            _ => value.as_int()?,
        })),
        "length" | "count" => Value::new(Kind::Int(value.items()?.len() as i128)),
        "b64decode" => Value::str(base64(value.as_str()?)?),
        "urlencode" => {
            let s = value.as_str()?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-~/".contains(&b);
            s.bytes().all(plain).then(|| value.clone())?
        }
        _ => return None,
    })
}

/// `text % values` (the `format` filter).
pub(super) fn percent(text: &str, given: &Given) -> Option<Value> {
    let mut out = String::new();
    let mut next = given.positional.iter();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(rest.get(..at)?);
        let mut spec = rest.get(at + 1..)?;
        let mut named = None;
        if let Some(body) = spec.strip_prefix('(') {
            let (name, after) = body.split_once(')')?;
            named = Some(name);
            spec = after;
        }
        let width = spec.find(|c: char| !"#0- +.123456789".contains(c))?;
        let code = spec.get(width..)?.chars().next()?;
        rest = spec.get(width + code.len_utf8()..)?;
        if code == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(n) => given.named.iter().find(|(k, _)| k == n).map(|(_, v)| v)?,
            None => next.next()?,
        };
        out.push_str(&converted(value, code)?);
        if out.len() > MOST_STRING {
            return None;
        }
    }
    out.push_str(rest);
    Some(Value::str(out))
}

fn converted(value: &Value, code: char) -> Option<String> {
    Some(match code {
        'c' => match value.as_int() {
            Some(n) => char::from_u32(u32::try_from(n).ok()?)?.to_string(),
            None => value.as_str()?.to_owned(),
        },
        'd' | 'i' | 'u' => value.as_int()?.to_string(),
        'x' => format!("{:x}", value.as_int()?),
        'X' => format!("{:X}", value.as_int()?),
        'o' => format!("{:o}", value.as_int()?),
        'r' | 'a' => match &value.kind {
            Kind::Str(s) => format!("'{s}'"),
            _ => value.text()?,
        },
        's' => value.text()?,
        _ => return None,
    })
}

/// One replacement field of `str.format`: its name with attributes, and its specification.
pub(super) fn fields(text: &str) -> Vec<(&str, &str)> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            continue;
        }
        // A specification may hold a field of its own, which is found next.
        let end = rest.find(['}', '{']).unwrap_or(rest.len());
        let field = rest.get(..end).unwrap_or_default();
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let name = name.split('!').next().unwrap_or_default();
        out.push((name, spec));
    }
    out
}

/// `str.format` of fields without attributes.
fn format(text: &str, given: &Given) -> Option<Value> {
    let mut out = String::new();
    let mut rest = text;
    let mut auto = 0usize;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(rest.get(..at)?);
        let brace = rest.get(at..at + 1)?;
        let after = rest.get(at + 1..)?;
        if let Some(more) = after.strip_prefix(brace) {
            out.push_str(brace);
            rest = more;
            continue;
        }
        let (field, more) = after.split_once('}')?;
        rest = more;
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let name = name.split('!').next()?;
        let value = if name.is_empty() {
            auto += 1;
            given.at(auto - 1)?
        } else if let Ok(n) = name.parse::<usize>() {
            given.at(n)?
        } else {
            given
                .named
                .iter()
                .find(|(k, _)| k == name)
                .map(|(_, v)| v)?
        };
        out.push_str(&match spec {
            "" => value.text()?,
            one => converted(value, one.chars().last()?)?,
        });
        if out.len() > MOST_STRING {
            return None;
        }
    }
    out.push_str(rest);
    Some(Value::str(out))
}

/// Base64 text that decodes to UTF-8.
pub(super) fn base64(s: &str) -> Option<Rc<str>> {
    let mut out = Vec::new();
    let (mut bits, mut n) = (0u32, 0);
    for b in s.bytes().filter(|b| !b.is_ascii_whitespace()) {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
            bits &= (1 << n) - 1;
        }
    }
    String::from_utf8(out).ok().map(Into::into)
}

fn hex(s: &str) -> Option<Rc<str>> {
    let digits: Option<Vec<u8>> = s.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let bytes = digits?
        .chunks_exact(2)
        .filter_map(|p| Some(p.first()? << 4 | p.get(1)?))
        .collect();
    String::from_utf8(bytes).ok().map(Into::into)
}

fn rot13(s: &str) -> String {
    let turn = |c: char, a: u8| char::from((c as u8 - a + 13) % 26 + a);
    s.chars()
        .map(|c| match c {
            'a'..='z' => turn(c, b'a'),
            'A'..='Z' => turn(c, b'A'),
            _ => c,
        })
        .collect()
}
