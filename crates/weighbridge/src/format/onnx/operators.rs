//! The signatures of the standard operators, in every version of every operator set.
//!
//! `operators.tsv` holds facts of the schemas that ONNX registers, sorted by domain, name and
//! version; `peers/onnx_operators.py` makes it. A line is found by halving, and nothing of the table
//! is read before the first is asked for. Columns: domain, name, since which version, flags (`d`
//! deprecated, `a` takes any attribute), least and most inputs, outputs, types of the inputs (`?`
//! optional, `*` as many as one likes, `**` of any types), of the outputs, attributes with their
//! kinds (`!` required), and the sets of types that a letter may stand for.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

const TABLE: &str = include_str!("operators.tsv");

/// The newest published version of each standard operator set (`OpSchemaRegistry::
/// DomainToVersionRange` of `onnx/defs/schema.h`).
const NEWEST: [(&str, i64); 5] = [
    ("ai.onnx", 28),
    ("ai.onnx.ml", 5),
    ("ai.onnx.preview", 1),
    ("ai.onnx.preview.training", 1),
    ("ai.onnx.training", 1),
];

/// The newest version of the operator set `domain`, if it is a standard one.
pub fn newest(domain: &str) -> Option<i64> {
    let domain = spelled(domain);
    NEWEST.iter().find(|n| n.0 == domain).map(|n| n.1)
}

/// The standard domain has two names, of which the table has the longer.
fn spelled(domain: &str) -> &str {
    match domain {
        "" => "ai.onnx",
        d => d,
    }
}

/// How an input or output may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Exactly once.
    Single,
    /// Once or not.
    Optional,
    /// As often as one likes, all of one type.
    Variadic,
    /// As often as one likes, of any types.
    Mixed,
}

/// An input or an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formal {
    /// A type, or the letter that stands for one.
    pub kind: &'static str,
    /// How it may be given.
    pub form: Form,
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formed {
    /// The name.
    pub name: &'static str,
    /// The kind (`AttributeProto.AttributeType`).
    pub kind: i64,
    /// Whether it has to be given.
    pub required: bool,
}

/// How many inputs or outputs there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counts {
    /// From so many to so many.
    Range(RangeInclusive<usize>),
    /// One of these.
    Either(Vec<usize>),
}

impl Counts {
    /// Whether `n` is one of them.
    pub fn contains(&self, n: usize) -> bool {
        match self {
            Self::Range(r) => r.contains(&n),
            Self::Either(all) => all.contains(&n),
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range(r) if r.start() == r.end() => write!(f, "{}", r.start()),
            Self::Range(r) if *r.end() == usize::MAX => write!(f, "at least {}", r.start()),
            Self::Range(r) => write!(f, "{} to {}", r.start(), r.end()),
            Self::Either(all) => {
                let all: Vec<String> = all.iter().map(usize::to_string).collect();
                f.write_str(&all.join(" or "))
            }
        }
    }
}

/// The signature of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The version of the operator set that it is from.
    pub since: i64,
    /// Whether it is no longer to be used.
    pub deprecated: bool,
    /// Whether attributes that it does not name may stand.
    pub any_attribute: bool,
    /// How many inputs.
    pub input_counts: Counts,
    /// How many outputs.
    pub output_counts: Counts,
    /// The inputs.
    pub inputs: Vec<Formal>,
    /// The outputs.
    pub outputs: Vec<Formal>,
    /// The attributes.
    pub attributes: Vec<Formed>,
    /// For every letter, the types that it may stand for.
    constraints: Vec<(&'static str, &'static str)>,
}

impl Operator {
    /// What the operator says of an input or output number `i`: the last counts for all that follow
    /// where it may be repeated.
    pub fn formal(all: &[Formal], i: usize) -> Option<Formal> {
        let repeated = |f: &&Formal| matches!(f.form, Form::Variadic | Form::Mixed);
        all.get(i).or_else(|| all.last().filter(repeated)).copied()
    }

    /// The attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&Formed> {
        self.attributes.iter().find(|a| a.name == name)
    }

    /// Whether `kind` of an input or output is a letter.
    pub fn is_letter(&self, kind: &str) -> bool {
        self.constraints.iter().any(|(k, _)| *k == kind)
    }

    /// Whether `kind` may be an input or output that is said to be `formal`.
    pub fn allows(&self, formal: &str, kind: &str) -> bool {
        match self.constraints.iter().find(|(k, _)| *k == formal) {
            Some((_, set)) => set.split(' ').any(|t| t == kind),
            None => formal == kind,
        }
    }
}

/// What the table says of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This.
    Operator(Operator),
    /// It came with this later version.
    Later(i64),
    /// There is none of this name.
    Nothing,
}

/// The operator `name` as version `version` of the operator set `domain` has it.
pub fn find(domain: &str, name: &str, version: i64) -> Found {
    let key = (spelled(domain), name);
    let mut found = Found::Nothing;
    for line in lines_from(key) {
        let mut cells = line.split('\t');
        if (cells.next(), cells.next()) != (Some(key.0), Some(key.1)) {
            break;
        }
        let Some(since) = cells.next().and_then(|s| s.parse::<i64>().ok()) else {
            break;
        };
        if since > version {
            if found == Found::Nothing {
                found = Found::Later(since);
            }
            break;
        }
        if let Some(o) = parsed(since, cells) {
            found = Found::Operator(o);
        }
    }
    found
}

/// The lines from the first of `key` on.
fn lines_from(key: (&str, &str)) -> std::str::Lines<'static> {
    let (mut low, mut high) = (0, TABLE.len());
    while low < high {
        let middle = line_start(low.midpoint(high));
        let line = TABLE.get(middle..).unwrap_or_default();
        let line = line.split_once('\n').map_or(line, |(l, _)| l);
        if order(line, key) == Ordering::Less {
            low = middle.saturating_add(line.len()).saturating_add(1);
        } else {
            high = middle;
        }
    }
    TABLE.get(low..).unwrap_or_default().lines()
}

/// Where the line that byte `at` belongs to begins.
fn line_start(at: usize) -> usize {
    let before = TABLE.as_bytes().get(..at).unwrap_or_default();
    let end = before.iter().rposition(|&b| b == b'\n');
    end.map_or(0, |i| i.saturating_add(1))
}

/// Sets and comments stand before all operators, and `#` and `@` sort before letters.
fn order(line: &str, key: (&str, &str)) -> Ordering {
    let mut cells = line.split('\t');
    let there = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
    if line.starts_with(['#', '@']) {
        return Ordering::Less;
    }
    there.cmp(&key)
}

fn set_of(name: &str) -> Option<&'static str> {
    let mut lines = TABLE.lines().skip(1).take_while(|l| l.starts_with('@'));
    lines.find_map(|l| {
        l.split_once('\t')
            .filter(|(n, _)| *n == name)
            .map(|(_, s)| s)
    })
}

fn parsed(since: i64, mut cells: std::str::Split<'static, char>) -> Option<Operator> {
    let flags = cells.next()?;
    let (inputs, outputs) = (counts(cells.next()?)?, counts(cells.next()?)?);
    Some(Operator {
        since,
        deprecated: flags.contains('d'),
        any_attribute: flags.contains('a'),
        input_counts: inputs,
        output_counts: outputs,
        inputs: words(cells.next()?).map(formal).collect(),
        outputs: words(cells.next()?).map(formal).collect(),
        attributes: words(cells.next()?).filter_map(attribute).collect(),
        constraints: words(cells.next()?)
            .filter_map(|w| w.split_once('='))
            .filter_map(|(letter, set)| Some((letter, set_of(set)?)))
            .collect(),
    })
}

fn words(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split(' ').filter(|w| !matches!(*w, "-" | ""))
}

fn counts(cell: &str) -> Option<Counts> {
    if let Some((least, most)) = cell.split_once('-') {
        let most = match most {
            "" => usize::MAX,
            n => n.parse().ok()?,
        };
        return Some(Counts::Range(least.parse().ok()?..=most));
    }
    let all = cell.split(',').map(|n| n.parse().ok());
    all.collect::<Option<_>>().map(Counts::Either)
}

fn formal(word: &'static str) -> Formal {
    let kind = word.trim_end_matches(['?', '*']);
    let form = match word.get(kind.len()..) {
        Some("?") => Form::Optional,
        Some("*") => Form::Variadic,
        Some("**") => Form::Mixed,
        _ => Form::Single,
    };
    Formal { kind, form }
}

fn attribute(word: &'static str) -> Option<Formed> {
    let (name, kind) = word.split_once(':')?;
    Some(Formed {
        name,
        kind: kind.trim_end_matches('!').parse().ok()?,
        required: kind.ends_with('!'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line is sorted, found by its key and read whole.
    #[test]
    fn the_table_is_sorted_and_every_operator_is_found() {
        let mut before = ("", "", 0);
        let mut seen = 0;
        for line in TABLE.lines().filter(|l| !l.starts_with(['#', '@'])) {
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells.len(), 10, "{line}");
            let key = (cells[0], cells[1], cells[2].parse::<i64>().unwrap());
            assert!(before < key, "{before:?} {key:?}");
            let Found::Operator(o) = find(key.0, key.1, key.2) else {
                panic!("{key:?}");
            };
            assert_eq!(o.since, key.2);
            let count = |cell: &str| {
                cell.split(' ')
                    .filter(|w| !w.is_empty() && *w != "-")
                    .count()
            };
            assert_eq!(o.inputs.len(), count(cells[6]), "{line}");
            assert_eq!(o.outputs.len(), count(cells[7]), "{line}");
            assert_eq!(o.attributes.len(), count(cells[8]), "{line}");
            assert_eq!(o.constraints.len(), count(cells[9]), "{line}");
            assert!(newest(key.0).unwrap() >= key.2);
            before = key;
            seen += 1;
        }
        assert_eq!(seen, 659);
    }

    #[test]
    fn an_operator_is_of_the_version_that_is_meant() {
        let Found::Operator(o) = find("", "BatchNormalization", 13) else {
            panic!();
        };
        assert_eq!(o.since, 9);
        assert_eq!(o.output_counts, Counts::Either(vec![1, 5]));
        assert_eq!(find("ai.onnx", "Gelu", 19), Found::Later(20));
        assert_eq!(find("", "Gelu2", 19), Found::Nothing);
        assert_eq!(find("com.microsoft", "Gelu", 1), Found::Nothing);
        let Found::Operator(o) = find("", "Loop", 21) else {
            panic!();
        };
        assert_eq!(o.input_counts.to_string(), "at least 2");
        assert_eq!(Operator::formal(&o.inputs, 7).unwrap().form, Form::Mixed);
        let body = o.attribute("body").unwrap();
        assert!(body.required && body.kind == 5);
        assert!(o.allows("B", "bool") && !o.allows("B", "float"));
        assert!(o.allows("V", "seq(float)") && o.allows("I", "int64"));
    }
}
