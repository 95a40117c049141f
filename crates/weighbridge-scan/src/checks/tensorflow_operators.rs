//! `WB-TFG-…`: the operators of TensorFlow's graphs, and the constants that reach them.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::Result;

use super::references::escape;
use crate::engine::Check;
use crate::finding::Findings;
use crate::rule::parse;
use crate::subject::{GraphKind, Operator, Subject};

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "tensorflow.toml",
    include_str!(concat!(env!("OUT_DIR"), "/tensorflow.json")),
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    code: HashSet<String>,
    files: HashSet<String>,
    reaching: HashSet<String>,
    given: HashSet<String>,
    companions: Vec<String>,
    operators: String,
}

struct Known {
    lists: Lists,
    operators: HashSet<String>,
}

fn known() -> Result<&'static Known> {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    if let Some(k) = KNOWN.get() {
        return Ok(k);
    }
    let lists: Lists = parse(DATA)?;
    let operators = lists
        .operators
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Ok(KNOWN.get_or_init(|| Known { lists, operators }))
}

/// How an operator stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It calls Python or loads code.
    Code,
    /// It reads, writes or lists files.
    Files,
    /// It can reach files or the network.
    Reaching,
    /// It may be given the name of a file.
    Given,
    /// It is an ordinary one.
    Ordinary,
    /// It belongs to a companion library.
    Companion,
    /// Nobody knows it.
    Unknown,
}

/// How the operator called `name` stands.
///
/// # Errors
/// `Parameter` when the compiled-in lists do not parse.
pub(crate) fn standing(name: &str) -> Result<Standing> {
    let k = known()?;
    // Placed before an operator of another package: `Package>Name`.
    Ok(if k.lists.code.contains(name) {
        Standing::Code
    } else if k.lists.files.contains(name) {
        Standing::Files
    } else if k.lists.reaching.contains(name) {
        Standing::Reaching
    } else if k.lists.given.contains(name) {
        Standing::Given
    } else if k.operators.contains(name) {
        Standing::Ordinary
    } else if k.lists.companions.iter().any(|c| name.starts_with(c)) {
        Standing::Companion
    } else {
        Standing::Unknown
    })
}

/// Judges every operator of a TensorFlow graph.
#[derive(Debug)]
pub struct TensorFlowOperators;

impl Check for TensorFlowOperators {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-TFG-001",
            "WB-TFG-002",
            "WB-TFG-003",
            "WB-TFG-004",
            "WB-TFG-005",
            "WB-TFG-007",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let defined: HashSet<&str> = subject
            .functions
            .iter()
            .filter(|f| f.graph == GraphKind::TensorFlow)
            .map(|f| f.name.as_str())
            .collect();
        for o in &subject.operators {
            if o.graph == GraphKind::TensorFlow {
                judge(o, &defined, out)?;
            }
        }
        Ok(())
    }
}

fn judge(o: &Operator, defined: &HashSet<&str>, out: &mut Findings) -> Result<()> {
    let evidence = if o.constants.is_empty() {
        o.name.clone()
    } else {
        format!("{}({})", o.name, quoted(&o.constants))
    };
    let name = &o.name;
    let (rule, message) = match standing(name)? {
        Standing::Code => ("WB-TFG-001", format!("{name} calls Python or loads code")),
        Standing::Files => ("WB-TFG-002", format!("{name} reaches files by name")),
        Standing::Reaching => match leading_out(&o.constants) {
            Some((path, how)) => (
                "WB-TFG-003",
                format!("{name} is given {path:?}, which {how}"),
            ),
            None => (
                "WB-TFG-004",
                format!("{name} can reach files or the network"),
            ),
        },
        Standing::Given => match leading_out(&o.constants) {
            // A saver's own file name is replaced by the loader, a vocabulary's may be a trace of
            // the machine that made the model.
            Some((path, how)) if replaced(name) => (
                "WB-TFG-004",
                format!("{name} is given {path:?}, which {how}"),
            ),
            Some((path, how)) => (
                "WB-TFG-003",
                format!("{name} is given {path:?}, which {how}"),
            ),
            None => return Ok(()),
        },
        Standing::Ordinary => return Ok(()),
        _ if defined.contains(name.as_str()) => return Ok(()),
        Standing::Companion => (
            "WB-TFG-007",
            format!("{name} belongs to a library beside TensorFlow"),
        ),
        Standing::Unknown => (
            "WB-TFG-005",
            format!("{name} is no operator of TensorFlow or of the model"),
        ),
    };
    out.add(rule, &o.place, o.offset, message, evidence)
}

/// Whether loading a model feeds the operator another file name than the constant.
fn replaced(name: &str) -> bool {
    ["Save", "Restore", "Merge", "Sharded", "InitializeTable"]
        .iter()
        .any(|s| name.starts_with(s))
}

/// The first constant that leads out of the model's folder.
fn leading_out(constants: &[String]) -> Option<(&str, &'static str)> {
    constants.iter().find_map(|c| {
        // A word, a format string or the name of a variable is no path.
        let like = c.contains(['/', '\\']) && !c.contains('\n') && c.trim().len() > 1;
        let how = if like { escape(c) } else { None };
        how.map(|how| (c.as_str(), how))
    })
}

fn quoted(strings: &[String]) -> String {
    let quoted: Vec<String> = strings.iter().map(|s| format!("{s:?}")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;
    use crate::subject::Function;

    fn rules_of(name: &str, constants: &[&str]) -> Vec<String> {
        let source = SliceSource::new(Vec::new(), "saved_model.pb");
        let mut s = Subject::new("saved_model.pb", &source);
        s.functions.push(Function {
            graph: GraphKind::TensorFlow,
            offset: None,
            domain: String::new(),
            name: "__inference_f_1".into(),
        });
        s.operators.push(Operator {
            graph: GraphKind::TensorFlow,
            place: String::new(),
            offset: None,
            domain: String::new(),
            name: name.into(),
            node: String::new(),
            constants: constants.iter().map(|&c| c.into()).collect(),
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        TensorFlowOperators.run(&s, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.rule).collect()
    }

    #[test]
    fn ordinary_graphs_give_nothing() {
        for (name, constants) in [
            ("MatMul", &[][..]),
            ("__inference_f_1", &[]),
            (
                "SaveV2",
                &["model", "_CHECKPOINTABLE_OBJECT_GRAPH", "dense/kernel"],
            ),
            ("StringJoin", &["/home/user/vocab.txt"]),
            ("PrintV2", &["stderr"]),
            ("PrintV2", &["log(info)", "loss / step: {}"]),
            ("MergeV2Checkpoints", &[]),
            ("InitializeTableFromTextFileV2", &["vocab.txt"]),
            ("CacheDatasetV2", &[""]),
        ] {
            assert!(rules_of(name, constants).is_empty(), "{name}");
        }
    }

    #[test]
    fn operators_are_judged_by_what_they_reach() {
        for (name, constants, rule) in [
            ("EagerPyFunc", &[][..], "WB-TFG-001"),
            ("ReadFile", &["vocab.txt"], "WB-TFG-002"),
            ("TextLineDataset", &[], "WB-TFG-004"),
            ("TextLineDataset", &["/etc/passwd"], "WB-TFG-003"),
            ("PrintV2", &["file:///home/user/.bashrc"], "WB-TFG-003"),
            ("DebugIdentityV3", &["grpc://1.2.3.4:80"], "WB-TFG-003"),
            (
                "InitializeTableFromTextFileV2",
                &["/etc/passwd"],
                "WB-TFG-004",
            ),
            ("MyOp", &[], "WB-TFG-005"),
            ("Addons>ResamplerGrad", &[], "WB-TFG-007"),
        ] {
            assert_eq!(rules_of(name, constants), [rule], "{name} {constants:?}");
        }
    }
}
