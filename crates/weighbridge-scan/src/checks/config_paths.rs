//! `WB-CFG-008` and `WB-CFG-009`: files that configurations make loaders open.

use serde_json::Value;
use weighbridge_core::Result;

use crate::danger;
use crate::engine::Check;
use crate::finding::Findings;
use crate::leaves;
use crate::subject::{Config, Subject};

/// Judges the paths in configurations.
#[derive(Debug)]
pub struct ConfigPaths;

impl Check for ConfigPaths {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-CFG-008", "WB-CFG-009"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for c in &subject.configs {
            weight_map(c, out)?;
            modules(c, out)?;
            let mut result = Ok(());
            leaves::strings(&c.value, &mut |leaf| {
                if result.is_ok() && is_private(leaf.text) {
                    let message = format!("`{}` is the path of a private file", leaf.path);
                    result = out.add("WB-CFG-009", &c.place, None, message, leaf.text);
                }
            });
            result?;
        }
        Ok(())
    }
}

/// The shards of an index (`model.safetensors.index.json`, `pytorch_model.bin.index.json`).
fn weight_map(c: &Config, out: &mut Findings) -> Result<()> {
    let Some(Value::Object(map)) = c.value.get("weight_map") else {
        return Ok(());
    };
    for (tensor, shard) in map {
        if let Value::String(path) = shard
            && leads_out(path)
        {
            let message = format!("the shard of {tensor} lies outside the model's folder");
            out.add("WB-CFG-008", &c.place, None, message, path.as_str())?;
        }
    }
    Ok(())
}

/// The folders of the modules of a sentence transformer (`modules.json`).
fn modules(c: &Config, out: &mut Findings) -> Result<()> {
    let Some(items) = c.value.as_array().filter(|_| c.name == "modules.json") else {
        return Ok(());
    };
    for item in items {
        let Some(path) = item.get("path").and_then(Value::as_str) else {
            continue;
        };
        if leads_out(path) {
            let message = "the folder of a module lies outside the model's folder";
            out.add("WB-CFG-008", &c.place, None, message, path)?;
        }
    }
    Ok(())
}

/// Whether joining a path to the model's folder leaves it, on any system; an address does too.
fn leads_out(path: &str) -> bool {
    let bytes = path.as_bytes();
    let drive = bytes.get(1) == Some(&b':') && bytes.first().is_some_and(u8::is_ascii_alphabetic);
    if drive || path.starts_with(['/', '\\', '~']) || path.contains("://") || path.contains('\0') {
        return true;
    }
    let mut depth = 0i64;
    path.split(['/', '\\']).any(|step| {
        match step {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

/// Whether a value as a whole is the path of what no model needs.
fn is_private(text: &str) -> bool {
    let text = text.trim();
    let path = text.strip_prefix("file://").unwrap_or(text);
    text.len() < 512
        && !text.contains(char::is_whitespace)
        && (path.starts_with(['/', '~', '.', '$', '%']) || path.contains("../"))
        && danger::is_private_path(path)
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;

    #[test]
    fn modules_outside_are_told_from_modules_inside() {
        let found = |path: &str| {
            let source = SliceSource::new(Vec::new(), "modules.json");
            let mut subject = Subject::new("modules.json", &source);
            subject.configs.push(Config {
                name: "modules.json".into(),
                value: serde_json::json!([{"idx": 0, "path": path, "type": "x.Y"}]),
                ..Config::default()
            });
            let mut out = Findings::new(Rules::builtin().unwrap());
            ConfigPaths.run(&subject, &mut out).unwrap();
            out.into_sorted().0.len()
        };
        assert_eq!((found("../x"), found("/etc")), (1, 1));
        assert_eq!((found(""), found("1_Pooling")), (0, 0));
    }

    #[test]
    fn shards_outside_are_told_from_shards_inside() {
        for p in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "C:\\x",
            "\\\\h\\x",
            "http://h/x",
            "~/x",
            "a\0b",
        ] {
            assert!(leads_out(p), "{p}");
        }
        for p in [
            "model-00001-of-00002.safetensors",
            "unet/a.bin",
            "a/../b",
            "..x",
        ] {
            assert!(!leads_out(p), "{p}");
        }
    }

    #[test]
    fn private_files_are_told_from_ordinary_paths() {
        for p in [
            "/etc/passwd",
            "../../../../etc/shadow",
            "~/.ssh/id_rsa",
            "/proc/self/environ",
            "file:///etc/passwd",
        ] {
            assert!(is_private(p), "{p}");
        }
        for p in [
            "/home/user/.cache/huggingface/hub/x",
            "/home/user/models/llama",
            "reads /etc/passwd and writes",
            "tokenizer.json",
            "a/proc/b",
        ] {
            assert!(!is_private(p), "{p}");
        }
    }
}
