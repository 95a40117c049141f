//! `WB-KER-…`: what the configuration of a Keras model makes its loader do.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};
use weighbridge_core::Result;

use super::keras_code::{Named, bytecode, source};
use super::references::escape;
use super::tensorflow_operators;
use crate::engine::Check;
use crate::finding::{Findings, Global};
use crate::globals::{Catalogue, Standing};
use crate::rule::parse;
use crate::subject::{Config, Subject, Use};

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "keras.toml",
    include_str!(concat!(env!("OUT_DIR"), "/keras.json")),
);

/// Deepest nesting that is looked at; parsers of JSON stop before.
const MOST_DEEP: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keras: Vec<String>,
    companions: Vec<String>,
    packages: HashSet<String>,
    gadgets: HashSet<String>,
    outside_modelling: HashSet<String>,
    tensorflow_gadgets: HashSet<String>,
    builtins: HashSet<String>,
    path_keys: HashSet<String>,
    code_words: String,
    classes: String,
    functions: String,
}

fn file() -> Result<&'static File> {
    static FILE: OnceLock<File> = OnceLock::new();
    if let Some(f) = FILE.get() {
        return Ok(f);
    }
    let parsed = parse(DATA)?;
    Ok(FILE.get_or_init(|| parsed))
}

struct Lists {
    file: &'static File,
    words: HashSet<&'static str>,
    classes: HashSet<&'static str>,
    functions: HashSet<&'static str>,
}

fn lists() -> Result<&'static Lists> {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    if let Some(l) = LISTS.get() {
        return Ok(l);
    }
    let file = file()?;
    Ok(LISTS.get_or_init(|| Lists {
        file,
        words: file.code_words.split_whitespace().collect(),
        classes: file.classes.split_whitespace().collect(),
        functions: file.functions.split_whitespace().collect(),
    }))
}

/// Judges every object that a Keras configuration names.
#[derive(Debug)]
pub struct KerasConfig;

impl Check for KerasConfig {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-KER-001",
            "WB-KER-002",
            "WB-KER-003",
            "WB-KER-004",
            "WB-KER-005",
            "WB-KER-006",
            "WB-KER-007",
            "WB-KER-008",
            "WB-KER-009",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let catalogue = out.catalogue()?;
        for config in &subject.configs {
            if is_keras(subject, config) {
                let mut walk = Walk {
                    lists: lists()?,
                    catalogue,
                    place: &config.place,
                    revived: config.name == "keras_metadata",
                    out,
                };
                walk.value(&config.value, "", 0)?;
            }
        }
        Ok(())
    }
}

/// Whether Keras would read `config`: by where it comes from, or by its outermost object.
fn is_keras(subject: &Subject<'_>, config: &Config) -> bool {
    if matches!(
        config.name.as_str(),
        "model_config" | "training_config" | "keras_metadata" | "layer_config"
    ) {
        return true;
    }
    let archive =
        config.name == "config.json" && subject.members.iter().any(|m| m.ends_with(".weights.h5"));
    archive
        || config.value.as_object().is_some_and(|o| {
            o.get("class_name").is_some_and(Value::is_string)
                && (o.contains_key("config") || o.contains_key("registered_name"))
        })
}

/// What a loader does with an object that a configuration names: a function is looked up to be
/// called with what the network computes, a class is built.
pub(super) fn used(is_function: bool) -> Use {
    if is_function {
        Use::Call
    } else {
        Use::Construct
    }
}

/// The object that a loader imports for a node of a configuration: module, name, whether it is a
/// function.
pub(super) fn imported(object: &Map<String, Value>) -> Option<(&str, &str, bool)> {
    let module = object.get("module")?.as_str()?;
    match object.get("class_name")?.as_str()? {
        "function" => Some((module, object.get("config")?.as_str()?, true)),
        class => Some((module, class, false)),
    }
}

/// How a module stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Keras,
    TensorFlow,
    Companion,
    Dangerous,
    Unknown,
}

struct Walk<'w, 'o, 'f> {
    lists: &'static Lists,
    catalogue: &'w Catalogue,
    place: &'w str,
    /// Whether classes are rebuilt from a graph beside the configuration, so that unknown ones
    /// are ordinary.
    revived: bool,
    out: &'o mut Findings<'f>,
}

impl Walk<'_, '_, '_> {
    fn add(&mut self, rule: &str, message: impl Into<String>, evidence: &str) -> Result<()> {
        self.out.add(rule, self.place, None, message, evidence)
    }

    /// Looks at `value`, which stands under `key`.
    fn value(&mut self, value: &Value, key: &str, depth: usize) -> Result<()> {
        if depth > MOST_DEEP {
            return Ok(());
        }
        match value {
            Value::String(s) => self.string(s, key),
            Value::Array(items) => {
                // The words of a vocabulary are no paths.
                for v in items {
                    self.value(v, "", depth + 1)?;
                }
                Ok(())
            }
            Value::Object(object) => {
                if let Some(Value::String(class)) = object.get("class_name") {
                    self.object(object, class)?;
                }
                for (k, v) in object {
                    self.value(v, k, depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A string anywhere: code, or a path that a layer opens.
    fn string(&mut self, text: &str, key: &str) -> Result<()> {
        if let Some(named) = bytecode(text, &self.lists.words, false) {
            return self.code(&named, "bytecode");
        }
        if self.lists.file.path_keys.contains(key)
            && let Some(how) = escape(text)
        {
            let message = format!("`{key}` {how}");
            return self.add("WB-KER-007", message, text);
        }
        Ok(())
    }

    fn code(&mut self, named: &Named, what: &str) -> Result<()> {
        let note = if named.broken { ", damaged" } else { "" };
        if named.words.is_empty() {
            let message = format!("the model carries {what}{note}");
            return self.add("WB-KER-002", message, &named.shown);
        }
        let message = format!(
            "the model carries {what}{note} that names {}",
            named.words.join(", ")
        );
        self.add("WB-KER-001", message, &named.shown)
    }

    /// An object that the loader builds or a function that it looks up.
    fn object(&mut self, object: &Map<String, Value>, class: &str) -> Result<()> {
        let module = object.get("module").and_then(Value::as_str);
        let registered = object.get("registered_name").and_then(Value::as_str);
        let config = object.get("config");
        let (name, is_function) = match class {
            "function" => (config.and_then(Value::as_str).unwrap_or_default(), true),
            // The name of the class stands elsewhere.
            "__typespec__" => (
                object
                    .get("spec_name")
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
                false,
            ),
            _ => (class, false),
        };
        self.special(class, config)?;
        // Keras looks among what the program registered before it looks into the module.
        let package = registered.and_then(|r| r.split_once('>')).map(|(p, _)| p);
        let own = self.lists.classes.contains(name) || self.lists.functions.contains(name);
        let elsewhere = package.is_some_and(|p| p != "keras" && p != "builtins") && !own;
        match module {
            Some(m) if elsewhere && self.module(m, name)? == Module::Keras => {
                self.unnamed(name, registered, is_function)
            }
            Some(m) => self.named(m, name, is_function),
            None => self.unnamed(name, registered, is_function),
        }
    }

    /// Layers that run code or reach files by their nature.
    fn special(&mut self, class: &str, config: Option<&Value>) -> Result<()> {
        let plain = class.rsplit(['>', '.']).next().unwrap_or_default();
        match plain {
            "Lambda" => self.lambda(config),
            "__lambda__" => self.lambda_code(config),
            "TorchModuleWrapper" => {
                let message = "a layer carries a pickled torch module";
                self.add("WB-KER-006", message, class)
            }
            "TFSMLayer" => {
                let path = config
                    .and_then(|c| c.get("filepath"))
                    .and_then(Value::as_str);
                let path = path.unwrap_or_default();
                if escape(path).is_some() {
                    return Ok(()); // said by the path itself
                }
                self.add("WB-KER-008", "a layer loads a SavedModel of its own", path)
            }
            "TFOpLambda" | "TensorFlowOpLayer" | "SlicingOpLambda" | "ClassMethod" => {
                self.tensorflow_layer(config)
            }
            _ => Ok(()),
        }
    }

    /// A Lambda layer: a function as bytecode, as source, by name, or as an object.
    fn lambda(&mut self, config: Option<&Value>) -> Result<()> {
        let Some(function) = config.and_then(|c| c.get("function")) else {
            return self.add("WB-KER-002", "a Lambda layer", "");
        };
        match function {
            Value::String(s) => self.certain(s),
            Value::Array(parts) => match parts.first().and_then(Value::as_str) {
                Some(s) => self.certain(s),
                None => self.add("WB-KER-002", "a Lambda layer", ""),
            },
            // Judged where it stands, as an object of its own.
            Value::Object(o) if o.get("class_name").is_some_and(Value::is_string) => Ok(()),
            other => self.add("WB-KER-002", "a Lambda layer", &other.to_string()),
        }
    }

    fn lambda_code(&mut self, config: Option<&Value>) -> Result<()> {
        let code = match config {
            Some(Value::Object(o)) => o.get("code").or_else(|| o.get("value")),
            other => other,
        };
        let code = match code {
            Some(Value::Array(parts)) => parts.first(),
            Some(Value::Object(o)) => o.get("code"),
            other => other,
        };
        self.certain(code.and_then(Value::as_str).unwrap_or_default())
    }

    /// Text that stands where only code stands.
    fn certain(&mut self, text: &str) -> Result<()> {
        let words = &self.lists.words;
        // What is bytecode by its look is found wherever it stands.
        if bytecode(text, words, false).is_some() {
            return Ok(());
        }
        let named = bytecode(text, words, true).unwrap_or_else(|| source(text, words));
        self.code(&named, "a Lambda layer")
    }

    /// Keras 2's layers around operators of TensorFlow.
    fn tensorflow_layer(&mut self, config: Option<&Value>) -> Result<()> {
        let Some(Value::Object(config)) = config else {
            return Ok(());
        };
        for key in [
            "function",
            "node_def",
            "symbol",
            "class_symbol",
            "method_name",
        ] {
            let text = match config.get(key) {
                Some(Value::String(s)) => s.clone(),
                Some(Value::Object(o)) => Value::Object(o.clone()).to_string(),
                _ => continue,
            };
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            for word in text.split(|c| !is_word(c)).filter(|w| !w.is_empty()) {
                let bad = self.lists.file.tensorflow_gadgets.contains(word)
                    || matches!(
                        tensorflow_operators::standing(word)?,
                        tensorflow_operators::Standing::Code
                            | tensorflow_operators::Standing::Files
                            | tensorflow_operators::Standing::Reaching
                    );
                if bad {
                    let message = format!("a layer runs {word} of TensorFlow");
                    return self.add("WB-KER-004", message, &text);
                }
            }
        }
        Ok(())
    }

    /// An object with a module: loaders import that.
    fn named(&mut self, module: &str, name: &str, is_function: bool) -> Result<()> {
        let full = format!("{module}.{name}");
        let file = self.lists.file;
        match self.module(module, name)? {
            Module::Keras => {
                let outside = module
                    .split('.')
                    .any(|part| file.outside_modelling.contains(part));
                if file.gadgets.contains(name) {
                    let message = format!("names {full}, which is no part of a network");
                    return self.global("WB-KER-004", (module, name, is_function), message);
                }
                if is_function && outside {
                    let message =
                        format!("names the function {full}, which is no part of a network");
                    return self.global("WB-KER-005", (module, name, is_function), message);
                }
                Ok(())
            }
            Module::TensorFlow => {
                let bad = full
                    .split('.')
                    .any(|part| file.tensorflow_gadgets.contains(part));
                if bad {
                    let message = format!("names {full}, which reaches files or Python");
                    return self.global("WB-KER-004", (module, name, is_function), message);
                }
                Ok(())
            }
            Module::Companion => {
                let message = format!("names {full} of a library beside Keras");
                self.global("WB-KER-009", (module, name, is_function), message)
            }
            Module::Dangerous => {
                let message = format!("names {full}, which is no part of Keras");
                self.global("WB-KER-003", (module, name, is_function), message)
            }
            // Keras itself writes this module for functions whose module it does not know.
            Module::Unknown if module == "builtins" => self.unnamed(name, None, is_function),
            Module::Unknown if self.revived => {
                let object = (module, name, is_function);
                self.global("WB-KER-009", object, format!("names {full}"))
            }
            Module::Unknown => {
                let message = format!("names {full}, which is no part of Keras");
                self.global("WB-KER-005", (module, name, is_function), message)
            }
        }
    }

    /// A finding on an object or a function that the loader looks up in a module.
    fn global(
        &mut self,
        rule: &str,
        (module, name, is_function): (&str, &str, bool),
        message: impl Into<String>,
    ) -> Result<()> {
        let how = used(is_function);
        let (global, full) = (Global::of(module, name, how), format!("{module}.{name}"));
        self.out
            .add_global(rule, self.place, None, global, message, full)
    }

    fn module(&self, module: &str, name: &str) -> Result<Module> {
        let file = self.lists.file;
        let under = |package: &String| {
            module
                .strip_prefix(package.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if file.keras.iter().any(under) {
            // What a module of Keras imports can be reached through it: `keras.….os`.
            let reaches = |(at, _): (usize, &str)| {
                let inner = module.get(at + 1..).unwrap_or_default();
                let standing = self.catalogue.judge(inner, name, Use::Call);
                matches!(standing, Standing::Dangerous { .. })
            };
            let python = module.match_indices('.').any(reaches);
            return Ok(if python {
                Module::Dangerous
            } else {
                Module::Keras
            });
        }
        if file.companions.iter().any(under) {
            return Ok(Module::Companion);
        }
        if module == "tensorflow" || module.starts_with("tensorflow.") {
            return Ok(Module::TensorFlow);
        }
        if module == "builtins" || module == "__builtin__" {
            let keras = self.lists.functions.contains(name) || self.lists.classes.contains(name);
            let python = file.builtins.contains(name) && !keras;
            return Ok(if python {
                Module::Dangerous
            } else {
                Module::Unknown
            });
        }
        Ok(match self.catalogue.judge(module, name, Use::Call) {
            Standing::Allowed | Standing::Main | Standing::Unknown => Module::Unknown,
            Standing::Dangerous { .. }
            | Standing::CodeObject
            | Standing::Stdlib
            | Standing::Installed => Module::Dangerous,
        })
    }

    /// An object without a module: one of Keras' own, or one that is handed to the loader.
    fn unnamed(&mut self, name: &str, registered: Option<&str>, is_function: bool) -> Result<()> {
        let lists = self.lists;
        let plain = name.rsplit('>').next().unwrap_or_default();
        let package = [Some(name), registered]
            .into_iter()
            .flatten()
            .find_map(|n| n.split_once('>').map(|(package, _)| package));
        let keras = lists.classes.contains(plain) || lists.functions.contains(plain);
        if name.is_empty()
            || name == "__lambda__"
            || (keras && package.is_none_or(|p| p == "keras"))
        {
            return Ok(());
        }
        let full = registered.filter(|r| r.contains('>')).unwrap_or(name);
        if is_function || self.revived || package.is_some_and(|p| lists.file.packages.contains(p)) {
            let message = format!("needs {full}, which the file does not hold");
            return self.add("WB-KER-009", message, full);
        }
        let message = format!("names the class {full}, which is no part of Keras");
        self.add("WB-KER-005", message, full)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;

    fn judged(name: &str, value: Value) -> Vec<String> {
        let source = SliceSource::new(Vec::new(), "m.keras");
        let mut s = Subject::new("m.keras", &source);
        s.configs.push(Config {
            place: "config.json".into(),
            name: name.into(),
            value,
            tags: Vec::new(),
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        KerasConfig.run(&s, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.rule).collect()
    }

    fn model(layer: Value) -> Value {
        json!({"module": "keras", "class_name": "Sequential", "registered_name": null,
               "config": {"name": "s", "layers": [layer]}})
    }

    fn layer(module: &str, class: &str, config: Value) -> Vec<String> {
        judged(
            "config.json",
            model(
                json!({"module": module, "class_name": class, "config": config,
                         "registered_name": null}),
            ),
        )
    }

    fn function(module: &str, name: &str) -> Vec<String> {
        let f = json!({"module": module, "class_name": "function", "config": name,
                       "registered_name": name});
        layer("keras.layers", "Activation", json!({"activation": f}))
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn ordinary_models_give_nothing() {
        assert_eq!(
            layer(
                "keras.layers",
                "Dense",
                json!({"units": 4, "activation": "relu"})
            ),
            NONE
        );
        assert_eq!(function("builtins", "relu"), NONE);
        assert_eq!(function("keras.activations", "relu"), NONE);
        assert_eq!(function("keras.src.ops.nn", "leaky_relu"), NONE);
        assert_eq!(function("tensorflow.python.ops.gen_nn_ops", "relu"), NONE);
        let words = json!({"vocabulary": ["eval", "os.system", "/etc/passwd"]});
        assert_eq!(layer("keras.layers", "StringLookup", words), NONE);
        let file = json!({"vocabulary": "vocab.txt"});
        assert_eq!(layer("keras.layers", "TextVectorization", file), NONE);
        let old = json!({"class_name": "Dense", "config": {"kernel_initializer":
                         {"class_name": "GlorotUniform", "config": {}}}});
        assert_eq!(judged("model_config", old), NONE);
    }

    #[test]
    fn other_json_is_none_of_keras_business() {
        let other =
            json!({"model_type": "bert", "layers": [{"class_name": "Evil", "module": "os"}]});
        assert_eq!(judged("config.json", other.clone()), NONE);
        assert_eq!(judged("model_config", other), ["WB-KER-003"]);
    }

    #[test]
    fn functions_outside_a_network_are_found() {
        for module in [
            "os",
            "posix",
            "subprocess",
            "importlib",
            "torch",
            "shutil",
            "numpy.f2py",
        ] {
            assert_eq!(function(module, "run_me"), ["WB-KER-003"], "{module}");
        }
        assert_eq!(function("builtins", "eval"), ["WB-KER-003"]);
        assert_eq!(function("builtins", "my_loss"), ["WB-KER-009"]);
        assert_eq!(function("keras.utils", "get_file"), ["WB-KER-004"]);
        assert_eq!(
            function("keras.config", "enable_unsafe_deserialization"),
            ["WB-KER-004"]
        );
        assert_eq!(
            function("keras.src.utils.file_utils", "anything"),
            ["WB-KER-005"]
        );
        assert_eq!(function("tensorflow.io", "read_file"), ["WB-KER-004"]);
        assert_eq!(function("kerasevil.layers", "f"), ["WB-KER-005"]);
        assert_eq!(layer("my_pkg", "Evil", json!({})), ["WB-KER-005"]);
        assert_eq!(layer("os", "system", json!({})), ["WB-KER-003"]);
        assert_eq!(function("keras.activations.os", "system"), ["WB-KER-003"]);
        assert_eq!(function("keras.random", "shuffle"), NONE);
        assert_eq!(layer("keras_hub.layers", "X", json!({})), ["WB-KER-009"]);
    }

    #[test]
    fn layers_that_reach_files_or_code_are_found() {
        let lookup = |v: &str| layer("keras.layers", "StringLookup", json!({"vocabulary": v}));
        assert_eq!(lookup("/etc/passwd"), ["WB-KER-007"]);
        assert_eq!(lookup("http://169.254.169.254/x"), ["WB-KER-007"]);
        let saved = |p: &str| layer("keras.layers", "TFSMLayer", json!({"filepath": p}));
        assert_eq!(saved("/tmp/m"), ["WB-KER-007"]);
        assert_eq!(saved("m"), ["WB-KER-008"]);
        assert_eq!(
            layer(
                "keras.layers",
                "TorchModuleWrapper",
                json!({"module": "UEsD"})
            ),
            ["WB-KER-006"]
        );
        let op = |f: &str| layer("keras.layers", "TFOpLambda", json!({"function": f}));
        assert_eq!(op("math.multiply"), NONE);
        assert_eq!(op("io.read_file"), ["WB-KER-004"]);
        assert_eq!(op("raw_ops.WriteFile"), ["WB-KER-004"]);
    }

    #[test]
    fn lambdas_are_judged_by_their_code() {
        let lambda = |f: Value| layer("keras.layers", "Lambda", json!({"function": f}));
        assert_eq!(lambda(json!("lambda x: eval('1')")), ["WB-KER-001"]);
        assert_eq!(lambda(json!("my_function")), ["WB-KER-002"]);
        assert_eq!(
            lambda(json!(["no code at all", null, null])),
            ["WB-KER-002"]
        );
        let object = |c: Value| json!({"class_name": "__lambda__", "config": c});
        assert_eq!(lambda(object(json!({"code": "AAAA"}))), ["WB-KER-002"]);
        let of_keras = json!({"class_name": "function", "module": "keras.ops", "config": "abs"});
        assert_eq!(lambda(of_keras), NONE);
    }

    #[test]
    fn classes_without_a_module_are_keras_own_or_handed_in() {
        let of = |name: &str| judged("model_config", json!({"class_name": name, "config": {}}));
        assert_eq!(of("Conv2D"), NONE);
        assert_eq!(of("MaliciousModel"), ["WB-KER-005"]);
        assert_eq!(of("Custom>Dense"), ["WB-KER-005"]);
        assert_eq!(of("Addons>GroupNormalization"), ["WB-KER-009"]);
        let registered = |class: &str, name: &str| {
            let o = json!({"module": "keras.layers", "class_name": class, "config": {},
                           "registered_name": name});
            judged("model_config", o)
        };
        assert_eq!(registered("Evil", "Custom>Evil"), ["WB-KER-005"]);
        assert_eq!(registered("Dense", "Dense"), NONE);
        let revived = json!({"class_name": "MyModel", "config": {}});
        assert_eq!(judged("keras_metadata", revived), ["WB-KER-009"]);
    }
}
