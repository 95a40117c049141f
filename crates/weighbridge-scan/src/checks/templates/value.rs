//! What is known of a value when a template is rendered with unknown input.

use std::ops::BitOr;
use std::rc::Rc;

/// Longest string that is worked out, in bytes.
pub(super) const MOST_STRING: usize = 4096;

/// Longest list or dict that is worked out.
pub(super) const MOST_ITEMS: usize = 1024;

/// Most values that a variable is taken to have at once, after branches.
const MOST_EITHER: usize = 4;

/// Deepest nesting of worked out values.
const MOST_DEPTH: u8 = 16;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taint(u8);

impl Taint {
    pub(super) const NONE: Self = Self(0);
    /// What somebody wrote in a message.
    pub(super) const CONTENT: Self = Self(1);
    /// The day or the time.
    pub(super) const CLOCK: Self = Self(2);
    /// True when a constant was found in the above.
    pub(super) const HIT: Self = Self(4);
    /// True when a constant was not found in the above.
    pub(super) const MISS: Self = Self(8);
    /// A name that was put together from a known piece with a Python internal's underscores.
    pub(super) const PIECE: Self = Self(16);
    /// What a Python internal gave.
    pub(super) const INTERNAL: Self = Self(32);

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What the opposite condition says.
    pub(super) fn negated(self) -> Self {
        let mut out = self.without(Self::HIT | Self::MISS);
        if self.has(Self::HIT) {
            out = out | Self::MISS;
        }
        if self.has(Self::MISS) {
            out = out | Self::HIT;
        }
        out
    }
}

impl BitOr for Taint {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Unknown; with the names by which it is reached, such as `os.environ`.
    Unknown(Option<Rc<str>>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    List(Rc<[Value]>),
    Dict(Rc<[(Value, Value)]>),
    /// A namespace object, by number.
    Namespace(usize),
    /// A macro, by number.
    Macro(usize),
    /// A method of a known value.
    Method(Rc<(Value, Rc<str>)>),
    /// One of several, as the branches went.
    Either(Rc<[Value]>),
}

/// A value.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) kind: Kind,
    pub(super) taint: Taint,
    depth: u8,
}

impl Value {
    pub(super) fn new(kind: Kind) -> Self {
        let depth = match &kind {
            Kind::List(items) | Kind::Either(items) => deepest(items.iter()),
            Kind::Dict(pairs) => deepest(pairs.iter().flat_map(|(k, v)| [k, v])),
            Kind::Method(m) => m.0.depth.saturating_add(1),
            _ => 0,
        };
        if depth > MOST_DEPTH {
            return Self::unknown(Taint::NONE);
        }
        Self {
            kind,
            taint: Taint::NONE,
            depth,
        }
    }

    pub(super) fn with(mut self, taint: Taint) -> Self {
        self.taint = self.taint | taint;
        self
    }

    pub(super) fn unknown(taint: Taint) -> Self {
        Self {
            kind: Kind::Unknown(None),
            taint,
            depth: 0,
        }
    }

    /// An unknown value that is reached by `path`.
    pub(super) fn named(path: impl Into<Rc<str>>, taint: Taint) -> Self {
        Self {
            kind: Kind::Unknown(Some(path.into())),
            taint,
            depth: 0,
        }
    }

    pub(super) fn str(s: impl Into<Rc<str>>) -> Self {
        let s = s.into();
        if s.len() > MOST_STRING {
            return Self::unknown(Taint::NONE);
        }
        Self::new(Kind::Str(s))
    }

    pub(super) fn list(items: Vec<Value>) -> Self {
        if items.len() > MOST_ITEMS {
            return Self::unknown(taints(&items));
        }
        let taint = taints(&items);
        Self::new(Kind::List(items.into())).with(taint)
    }

    /// One of `values`.
    pub(super) fn either(values: Vec<Value>) -> Self {
        let taint = taints(&values);
        let mut flat: Vec<Value> = Vec::new();
        for v in values {
            let several = v.alternatives().to_vec();
            for v in several {
                if !flat.iter().any(|f| f.same(&v)) {
                    flat.push(v);
                }
            }
        }
        match flat.len() {
            1 => flat
                .pop()
                .unwrap_or_else(|| Self::unknown(taint))
                .with(taint),
            2..=MOST_EITHER => Self::new(Kind::Either(flat.into())).with(taint),
            _ => Self::unknown(taint),
        }
    }

    /// What it may be.
    pub(super) fn alternatives(&self) -> &[Value] {
        match &self.kind {
            Kind::Either(v) => v,
            _ => std::slice::from_ref(self),
        }
    }

    /// Equal scalars. Lists are never the same: comparing them costs what they are long.
    fn same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Unknown(a), Kind::Unknown(b)) => a == b,
            (Kind::None, Kind::None) => true,
            (Kind::Bool(a), Kind::Bool(b)) => a == b,
            (Kind::Int(a), Kind::Int(b)) => a == b,
            (Kind::Str(a), Kind::Str(b)) => a == b,
            (Kind::Namespace(a), Kind::Namespace(b)) | (Kind::Macro(a), Kind::Macro(b)) => a == b,
            _ => false,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(s) => Some(s),
            _ => None,
        }
    }

    pub(super) fn as_int(&self) -> Option<i128> {
        match self.kind {
            Kind::Int(n) => Some(n),
            Kind::Bool(b) => Some(i128::from(b)),
            _ => None,
        }
    }

    pub(super) fn path(&self) -> Option<&str> {
        match &self.kind {
            Kind::Unknown(path) => path.as_deref(),
            _ => None,
        }
    }

    /// Whether it is true, where that is known.
    pub(super) fn truth(&self) -> Option<bool> {
        Some(match &self.kind {
            Kind::None => false,
            Kind::Bool(b) => *b,
            Kind::Int(n) => *n != 0,
            Kind::Float(n) => *n != 0.0,
            Kind::Str(s) => !s.is_empty(),
            Kind::List(v) => !v.is_empty(),
            Kind::Dict(v) => !v.is_empty(),
            Kind::Macro(_) | Kind::Namespace(_) => true,
            _ => return None,
        })
    }

    /// How Python prints it, where that is known. The classes and functions that Jinja puts at
    /// every template's disposal print as `jinja2/utils.py` and CPython have them: their letters
    /// are a quarry for names.
    pub(super) fn text(&self) -> Option<String> {
        Some(match &self.kind {
            Kind::None => "None".into(),
            Kind::Bool(b) => if *b { "True" } else { "False" }.into(),
            Kind::Int(n) => n.to_string(),
            Kind::Float(n) => format!("{n:?}"),
            Kind::Str(s) => s.to_string(),
            Kind::List(items) => {
                let parts: Option<Vec<_>> = items.iter().map(Self::repr).collect();
                format!("[{}]", parts?.join(", "))
            }
            Kind::Unknown(Some(path)) => match &**path {
                "lipsum" => "<function generate_lorem_ipsum at 0x7f0000000000>",
                "cycler" => "<class 'jinja2.utils.Cycler'>",
                "joiner" => "<class 'jinja2.utils.Joiner'>",
                "namespace" => "<class 'jinja2.utils.Namespace'>",
                "range" => "<class 'range'>",
                "dict" => "<class 'dict'>",
                "self" => "<TemplateReference None>",
                "|select" | "|reject" | "|selectattr" | "|rejectattr" => {
                    "<generator object select_or_reject at 0x7f0000000000>"
                }
                "|map" => "<generator object sync_do_map at 0x7f0000000000>",
                "|batch" => "<generator object do_batch at 0x7f0000000000>",
                "|slice" => "<generator object sync_do_slice at 0x7f0000000000>",
                "|unique" => "<generator object do_unique at 0x7f0000000000>",
                _ => return None,
            }
            .into(),
            _ => return None,
        })
    }

    fn repr(&self) -> Option<String> {
        match &self.kind {
            Kind::Str(s) => Some(format!("'{s}'")),
            _ => self.text(),
        }
    }

    /// What a loop over it gives, where that is known.
    pub(super) fn items(&self) -> Option<Vec<Value>> {
        Some(match &self.kind {
            Kind::Str(s) => s
                .chars()
                .take(MOST_ITEMS)
                .map(|c| Self::str(c.to_string()))
                .collect(),
            Kind::List(v) => v.to_vec(),
            Kind::Dict(v) => v.iter().map(|(k, _)| k.clone()).collect(),
            _ => return None,
        })
    }
}

fn deepest<'a>(values: impl Iterator<Item = &'a Value>) -> u8 {
    values.map(|v| v.depth).max().map_or(0, |d| d + 1)
}

/// All that any of `values` is tainted with.
pub(super) fn taints(values: &[Value]) -> Taint {
    values.iter().fold(Taint::NONE, |t, v| t | v.taint)
}
