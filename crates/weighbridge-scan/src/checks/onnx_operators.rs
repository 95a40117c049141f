//! `WB-ONX-…`: the operators of an ONNX graph and who runs them.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::rule::parse;
use crate::subject::{GraphKind, Operator, Subject};

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "onnx.toml",
    include_str!(concat!(env!("OUT_DIR"), "/onnx.json")),
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    python_operators: HashSet<String>,
    runtime_domains: Vec<String>,
    vendor_domains: Vec<String>,
    standard: HashMap<String, String>,
}

struct Lists {
    file: File,
    standard: HashSet<(&'static str, String)>,
}

fn lists() -> Result<&'static Lists> {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    if let Some(l) = LISTS.get() {
        return Ok(l);
    }
    let file: File = parse(DATA)?;
    let mut standard = HashSet::new();
    for (domain, names) in &file.standard {
        let domain = canonical(domain);
        standard.extend(names.split_whitespace().map(|n| (domain, n.to_owned())));
    }
    Ok(LISTS.get_or_init(|| Lists { file, standard }))
}

/// The standard domains under one spelling each; anything else is `?`.
fn canonical(domain: &str) -> &'static str {
    match domain {
        "" | "ai.onnx" => "",
        "ai.onnx.ml" => "ai.onnx.ml",
        "ai.onnx.preview" => "ai.onnx.preview",
        "ai.onnx.training" | "ai.onnx.preview.training" => "ai.onnx.preview.training",
        _ => "?",
    }
}

/// Judges every operator and every function of an ONNX graph.
#[derive(Debug)]
pub struct OnnxOperators;

impl Check for OnnxOperators {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-ONX-004", "WB-ONX-005", "WB-ONX-006", "WB-ONX-007"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let of_onnx = |o: &&Operator| o.graph == GraphKind::Onnx;
        if !subject.operators.iter().any(|o| o.graph == GraphKind::Onnx)
            && subject.functions.is_empty()
        {
            return Ok(());
        }
        let lists = lists()?;
        let mut defined = HashSet::new();
        for f in &subject.functions {
            if f.graph != GraphKind::Onnx {
                continue;
            }
            defined.insert((f.domain.as_str(), f.name.as_str()));
            let standard = (canonical(&f.domain), f.name.clone());
            if lists.standard.contains(&standard) {
                let name = full(&f.domain, &f.name);
                let message = format!("the model defines {name}, which is a standard operator");
                out.add("WB-ONX-006", "", f.offset, message, name)?;
            }
        }
        for o in subject.operators.iter().filter(of_onnx) {
            judge(lists, o, &defined, out)?;
        }
        Ok(())
    }
}

fn judge(
    lists: &Lists,
    o: &Operator,
    defined: &HashSet<(&str, &str)>,
    out: &mut Findings,
) -> Result<()> {
    let name = full(&o.domain, &o.name);
    if lists.file.python_operators.contains(&o.name) {
        let message = format!("the operator {name} calls Python");
        return out.add("WB-ONX-004", &o.place, o.offset, message, name);
    }
    let standard = match canonical(&o.domain) {
        "?" => false,
        // Their operators come and go.
        "ai.onnx.preview" | "ai.onnx.preview.training" => true,
        domain => lists.standard.contains(&(domain, o.name.clone())),
    };
    let known = standard
        || defined.contains(&(o.domain.as_str(), o.name.as_str()))
        || any(&lists.file.runtime_domains, &o.domain);
    if known {
        return Ok(());
    }
    if any(&lists.file.vendor_domains, &o.domain) {
        let message = format!("the operator {name} needs its vendor's runtime");
        return out.add("WB-ONX-007", &o.place, o.offset, message, name);
    }
    let message = format!("the operator {name} is defined neither by ONNX nor by the model");
    out.add("WB-ONX-005", &o.place, o.offset, message, name)
}

fn full(domain: &str, name: &str) -> String {
    let domain = if domain.is_empty() { "ai.onnx" } else { domain };
    format!("{domain}::{name}")
}

fn any(patterns: &[String], domain: &str) -> bool {
    patterns.iter().any(|p| match p.strip_suffix('*') {
        Some(start) => domain.starts_with(start),
        None => p == domain,
    })
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;
    use crate::subject::Function;

    fn rules_of(functions: &[(&str, &str)], operators: &[(&str, &str)]) -> Vec<String> {
        let source = SliceSource::new(Vec::new(), "m.onnx");
        let mut s = Subject::new("m.onnx", &source);
        for (domain, name) in functions {
            s.functions.push(Function {
                graph: GraphKind::Onnx,
                offset: None,
                domain: (*domain).into(),
                name: (*name).into(),
            });
        }
        for (domain, name) in operators {
            s.operators.push(Operator {
                graph: GraphKind::Onnx,
                place: String::new(),
                offset: None,
                domain: (*domain).into(),
                name: (*name).into(),
                node: String::new(),
                constants: Vec::new(),
            });
        }
        let mut out = Findings::new(Rules::builtin().unwrap());
        OnnxOperators.run(&s, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.rule).collect()
    }

    #[test]
    fn operators_are_judged_by_who_runs_them() {
        let none: [&str; 0] = [];
        for known in [
            ("", "Conv"),
            ("ai.onnx", "ImageScaler"),
            ("ai.onnx.preview.training", "Adam"),
            ("com.microsoft", "MatMulNBits"),
            ("ai.onnx.contrib", "SentencepieceTokenizer"),
            ("org.pytorch.aten", "ATen"),
            ("pkg.onnxscript.torch_lib", "aten_view"),
        ] {
            assert_eq!(rules_of(&[], &[known]), none, "{known:?}");
        }
        assert_eq!(
            rules_of(&[], &[("ai.onnx.contrib", "PyOp")]),
            ["WB-ONX-004"]
        );
        assert_eq!(rules_of(&[], &[("x", "PyOp")]), ["WB-ONX-004"]);
        assert_eq!(rules_of(&[], &[("trt.plugins", "NMS")]), ["WB-ONX-007"]);
        assert_eq!(rules_of(&[], &[("local", "F")]), ["WB-ONX-005"]);
        assert_eq!(rules_of(&[], &[("", "Evil")]), ["WB-ONX-005"]);
        assert_eq!(
            rules_of(&[("local", "G")], &[("local", "F")]),
            ["WB-ONX-005"]
        );
        assert_eq!(rules_of(&[("local", "F")], &[("local", "F")]), none);
    }

    #[test]
    fn functions_in_place_of_operators_are_found() {
        assert_eq!(rules_of(&[("", "Relu")], &[]), ["WB-ONX-006"]);
        assert_eq!(rules_of(&[("ai.onnx", "Softmax")], &[]), ["WB-ONX-006"]);
        assert!(rules_of(&[("", "MyOwn"), ("my", "Relu")], &[]).is_empty());
    }
}
