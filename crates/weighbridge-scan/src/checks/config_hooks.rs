//! `WB-CFG-001` to `WB-CFG-005` and `WB-CFG-010`: what makes loaders import and call.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;
use weighbridge_core::Result;

use crate::danger::Dangers;
use crate::engine::Check;
use crate::finding::{Findings, Global};
use crate::globals::{Catalogue, Standing};
use crate::leaves;
use crate::rule::parse;
use crate::subject::{Config, Subject, Use};

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "config.toml",
    include_str!(concat!(env!("OUT_DIR"), "/config.json")),
);

/// The lists on configurations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lists {
    known: HashSet<String>,
    harmless: HashSet<String>,
    targets: HashSet<String>,
    pub(super) drops: HashSet<String>,
    pub(super) trusted: HashSet<String>,
}

pub(super) fn lists() -> Result<&'static Lists> {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    if let Some(l) = LISTS.get() {
        return Ok(l);
    }
    let parsed = parse(DATA)?;
    Ok(LISTS.get_or_init(|| parsed))
}

/// Judges the keys of configurations that make loaders import and call something.
#[derive(Debug)]
pub struct ConfigHooks;

impl Check for ConfigHooks {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-CFG-001",
            "WB-CFG-002",
            "WB-CFG-003",
            "WB-CFG-004",
            "WB-CFG-005",
            "WB-CFG-010",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        if subject.configs.is_empty() {
            return Ok(());
        }
        let judge = Judge {
            lists: lists()?,
            catalogue: out.catalogue()?,
            dangers: Dangers::builtin()?,
        };
        for c in &subject.configs {
            let mut result = Ok(());
            leaves::nodes(&c.value, &mut |path, key, value| {
                if result.is_ok() {
                    result = judge.node(c, path, key, value, out);
                }
                result.is_ok()
            });
            result?;
        }
        Ok(())
    }
}

struct Judge<'c> {
    lists: &'static Lists,
    catalogue: &'c Catalogue,
    dangers: &'static Dangers,
}

/// How a dotted name stands that a loader is told to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Dangerous,
    Known,
    Unknown,
}

impl Judge<'_> {
    fn node(
        &self,
        c: &Config,
        path: &str,
        key: &str,
        value: &Value,
        out: &mut Findings,
    ) -> Result<()> {
        match key {
            // A list under the key is visited item by item; only the first visit is for all.
            "auto_map" | "custom_pipelines" if !matches!(value, Value::Array(_)) => {
                hooks(c, path, value, out)
            }
            "trust_remote_code"
            | "allow_remote_code"
            | "trust_repo"
            | "enable_unsafe_deserialization" => {
                let on = match value {
                    Value::Bool(b) => *b,
                    Value::String(s) => matches!(
                        s.trim().to_ascii_lowercase().as_str(),
                        "true" | "yes" | "on" | "1"
                    ),
                    _ => false,
                };
                if on && !is_training(&c.value) {
                    let message = format!("`{path}` asks for code of the repository to be run");
                    out.add(
                        "WB-CFG-003",
                        &c.place,
                        None,
                        message,
                        format!("{path}: true"),
                    )?;
                }
                Ok(())
            }
            "_target_" | "target" | "class_path" | "__target__" | "object_type"
            | "_recursive_target_" => match value {
                Value::String(name) => self.target(c, path, key, name, out),
                _ => Ok(()),
            },
            "loader_module" | "parent_library" | "python_module" => match value {
                Value::String(name) => self.module(c, path, name, out),
                _ => Ok(()),
            },
            // A repository whose code generates (transformers, GenerationMixin.load_custom_generate).
            "custom_generate" => match value {
                Value::String(repository) if repository.contains('/') => {
                    let message = format!("`{path}` loads code of the repository {repository}");
                    out.add("WB-CFG-001", &c.place, None, message, repository.as_str())
                }
                _ => Ok(()),
            },
            "type" if c.name == "modules.json" => match value {
                Value::String(name) => self.module(c, path, name, out),
                _ => Ok(()),
            },
            _ => self.callable(c, path, key, value, out),
        }
    }

    fn target(
        &self,
        c: &Config,
        path: &str,
        key: &str,
        name: &str,
        out: &mut Findings,
    ) -> Result<()> {
        let name = name.trim();
        if !is_dotted(name) {
            return Ok(());
        }
        let global = target(name).and_then(|(m, n)| Global::of(m, n, Use::Call));
        match self.standing(name) {
            Target::Dangerous => {
                let message = format!("`{path}` makes a loader call {name}");
                out.add_global(
                    "WB-CFG-004",
                    &c.place,
                    None,
                    global,
                    message,
                    format!("{path}: {name}"),
                )
            }
            // `target` is a word of many meanings, and `class_path` names the author's own class.
            Target::Unknown if key == "_target_" || key == "__target__" => {
                let message =
                    format!("`{path}` makes a loader build {name}, of an unknown package");
                out.add_global(
                    "WB-CFG-005",
                    &c.place,
                    None,
                    global,
                    message,
                    format!("{path}: {name}"),
                )
            }
            _ => Ok(()),
        }
    }

    fn module(&self, c: &Config, path: &str, name: &str, out: &mut Findings) -> Result<()> {
        let name = name.trim();
        if name.is_empty() || name.contains([' ', '/']) {
            return Ok(());
        }
        let dangerous = self.standing(name) == Target::Dangerous || self.dangers.imports(name);
        if dangerous || self.standing(name) == Target::Unknown {
            let message = format!("`{path}` makes a loader import {name}");
            return out.add(
                "WB-CFG-010",
                &c.place,
                None,
                message,
                format!("{path}: {name}"),
            );
        }
        Ok(())
    }

    /// A value that is nothing but the name of a function that runs commands, under a key that
    /// says what is to be called.
    fn callable(
        &self,
        c: &Config,
        path: &str,
        key: &str,
        value: &Value,
        out: &mut Findings,
    ) -> Result<()> {
        let Value::String(name) = value else {
            return Ok(());
        };
        let lower = key.to_ascii_lowercase();
        let calls = [
            "func",
            "callable",
            "callback",
            "handler",
            "hook",
            "entry_point",
            "entrypoint",
            "factory",
            "constructor",
            "initializer",
            "method",
            "cls",
        ]
        .iter()
        .any(|k| lower.contains(k));
        if !calls || !is_dotted(name) {
            return Ok(());
        }
        match self.dangers.listed(name) {
            Some((why, _)) => {
                let message = format!("`{path}` names {name}, which {why}");
                out.add(
                    "WB-CFG-010",
                    &c.place,
                    None,
                    message,
                    format!("{path}: {name}"),
                )
            }
            None => Ok(()),
        }
    }

    fn standing(&self, name: &str) -> Target {
        let listed = |set: &HashSet<String>| {
            let mut prefix = name;
            loop {
                if set.contains(prefix) {
                    return true;
                }
                match prefix.rfind('.') {
                    Some(dot) => prefix = prefix.get(..dot).unwrap_or_default(),
                    None => return false,
                }
            }
        };
        if self.dangers.listed(name).is_some() || listed(&self.lists.targets) {
            return Target::Dangerous;
        }
        if listed(&self.lists.harmless) || listed(&self.lists.known) {
            return Target::Known;
        }
        let (module, object) = name.rsplit_once('.').unwrap_or((name, ""));
        match self.catalogue.judge(module, object, Use::Call) {
            Standing::Allowed | Standing::Installed => Target::Known,
            // What lies in the standard library and is a danger in a pickle is one here. Of
            // installed packages the lists above name what is.
            Standing::Dangerous { .. } if self.catalogue.is_installed(name) => Target::Known,
            Standing::Dangerous { .. } => Target::Dangerous,
            _ => Target::Unknown,
        }
    }
}

/// The module and the name in it that a dotted name stands for.
pub(super) fn target(name: &str) -> Option<(&str, &str)> {
    let name = name.trim();
    is_dotted(name).then(|| name.rsplit_once('.')).flatten()
}

/// Whether a tree is the recipe of a training run, which says how its author loaded the base
/// model; no loader of the result reads it.
fn is_training(value: &Value) -> bool {
    let has = |k: &str| value.get(k).is_some();
    (has("base_model") || has("model_name_or_path"))
        && [
            "learning_rate",
            "num_epochs",
            "num_train_epochs",
            "micro_batch_size",
            "lora_r",
            "datasets",
        ]
        .iter()
        .any(|k| has(k))
}

/// Whether text is a dotted name and nothing else.
fn is_dotted(name: &str) -> bool {
    name.len() < 256
        && name.contains('.')
        && name.split('.').all(|p| {
            p.chars()
                .next()
                .is_some_and(|c| c.is_alphabetic() || c == '_')
                && p.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
}

/// The classes under `auto_map` and `custom_pipelines`: of another repository or of this one.
fn hooks(c: &Config, path: &str, value: &Value, out: &mut Findings) -> Result<()> {
    let mut result = Ok(());
    leaves::nodes(value, &mut |_, _, v| {
        let Value::String(name) = v else { return true };
        if result.is_err() {
            return false;
        }
        // `trust_remote_code` splits at the first `--` (transformers,
        // dynamic_module_utils.get_class_from_dynamic_module).
        result = match name.split_once("--") {
            Some((repository, _)) if !repository.is_empty() => {
                let message = format!("`{path}` loads code of the repository {repository}");
                out.add("WB-CFG-001", &c.place, None, message, name.as_str())
            }
            _ if name.contains('.') || path.contains("custom_pipelines") => {
                let message = format!("`{path}` names {name}, which lies with the model");
                out.add("WB-CFG-002", &c.place, None, message, name.as_str())
            }
            _ => Ok(()),
        };
        true
    });
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;

    fn rules(name: &str, value: Value) -> Vec<String> {
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        subject.configs.push(Config {
            name: name.into(),
            value,
            ..Config::default()
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        ConfigHooks.run(&subject, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.rule).collect()
    }

    fn config(value: Value) -> Vec<String> {
        rules("config.json", value)
    }

    #[test]
    fn hooks_of_other_repositories_are_told_from_local_ones() {
        assert_eq!(
            config(json!({"auto_map": {"AutoModel": "other-user/repo--modeling.Net"}})),
            ["WB-CFG-001"]
        );
        assert_eq!(
            config(json!({"auto_map": {"AutoTokenizer": ["a/b--t.Slow", null]}})),
            ["WB-CFG-001"]
        );
        assert_eq!(
            config(json!({"auto_map": {"AutoModel": "modeling.Net"}})),
            ["WB-CFG-002"]
        );
        assert_eq!(
            config(
                json!({"custom_pipelines": {"p": {"impl": "a/b--pipe.P", "pt": ["AutoModel"]}}})
            )[0],
            "WB-CFG-001"
        );
        assert_eq!(config(json!({"custom_generate": "a/b"})), ["WB-CFG-001"]);
        assert_eq!(config(json!({"trust_remote_code": true})), ["WB-CFG-003"]);
        assert_eq!(
            config(json!({"a": [{"trust_remote_code": "True"}]})),
            ["WB-CFG-003"]
        );
        assert!(config(json!({"trust_remote_code": false})).is_empty());
        assert!(
            config(json!({"base_model": "a/b", "learning_rate": 0.1, "trust_remote_code": true}))
                .is_empty()
        );
    }

    #[test]
    fn targets_are_judged_by_what_they_name() {
        let target = |name: &str| config(json!({"model": {"_target_": name, "x": 1}}));
        for bad in [
            "os.system",
            "builtins.eval",
            "builtins.exec",
            "subprocess.Popen",
            "subprocess.run",
            "posix.system",
            "pickle.load",
            "pickle.loads",
            "torch.load",
            "shutil.rmtree",
            "importlib.import_module",
            "runpy.run_path",
            "pty.spawn",
            "builtins.open",
            "hydra.utils.get_method",
            "sys.exit",
            "ctypes.CDLL",
            "urllib.request.urlopen",
            "idlelib.run.Executive",
            "multiprocessing.Process",
        ] {
            assert_eq!(target(bad), ["WB-CFG-004"], "{bad}");
        }
        for unknown in ["evil.payload.Run", "my_project.Model", "__main__.Net"] {
            assert_eq!(target(unknown), ["WB-CFG-005"], "{unknown}");
        }
        for known in [
            "torch.optim.AdamW",
            "torch.nn.Linear",
            "nemo.collections.asr.models.EncDecCTCModel",
            "transformers.AutoModel.from_pretrained",
            "pytorch_lightning.Trainer",
            "lightning.pytorch.callbacks.ModelCheckpoint",
            "functools.partial",
            "pathlib.Path",
            "collections.OrderedDict",
            "torchvision.transforms.Compose",
            "sklearn.linear_model.LogisticRegression",
            "torch.utils.data.DataLoader",
            "torch.nn.functional.relu",
            "numpy.array",
            "builtins.len",
            "datetime.timedelta",
            "ldm.models.diffusion.ddpm.LatentDiffusion",
            "torch.distributed.fsdp.FullyShardedDataParallel",
            "pandas.DataFrame",
            "torch.jit.script",
        ] {
            assert_eq!(target(known), Vec::<String>::new(), "{known}");
        }
        assert_eq!(config(json!({"target": "os.system"})), ["WB-CFG-004"]);
        assert!(config(json!({"target": "my.thing.Model"})).is_empty());
        assert!(config(json!({"target": "en.de"})).is_empty());
        assert_eq!(
            config(json!({"class_path": "subprocess.Popen"})),
            ["WB-CFG-004"]
        );
    }

    #[test]
    fn modules_that_loaders_import_are_known_ones() {
        assert!(
            config(json!({"flavors": {"python_function": {"loader_module": "mlflow.sklearn"}}}))
                .is_empty()
        );
        assert_eq!(config(json!({"loader_module": "evil"})), ["WB-CFG-010"]);
        assert_eq!(
            config(json!({"auto_mapping": {"parent_library": "os"}})),
            ["WB-CFG-010"]
        );
        let st = |t: &str| rules("modules.json", json!([{"idx": 0, "type": t}]));
        assert!(st("sentence_transformers.models.Transformer").is_empty());
        assert_eq!(st("custom.Evil"), ["WB-CFG-010"]);
        assert_eq!(config(json!({"on_load_hook": "os.system"})), ["WB-CFG-010"]);
        assert!(config(json!({"type": "custom.x", "hook": "my.thing"})).is_empty());
    }
}
