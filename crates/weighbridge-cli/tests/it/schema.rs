//! The documents' schemas (docs/schema) and SARIF's, and a validator of the part of JSON Schema
//! (2020-12, and draft 4 where SARIF needs it) that they use: a full one would bring dozens of
//! crates. A keyword it does not know fails the test.

use std::path::Path;

use regex::Regex;
use serde_json::Value as Json;

/// Panics with every way in which `document` departs from the schema called `name`.
#[track_caller]
pub fn assert_valid(name: &str, document: &Json) {
    let errors = validate(&load(name), document);
    assert!(errors.is_empty(), "{name}: {errors:#?}\nin {document:#}");
}

/// The schema called `name`.
pub fn load(name: &str) -> Json {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    let text = std::fs::read_to_string(folder.join(format!("{name}.schema.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Panics with every way in which `document` departs from OASIS's schema of SARIF 2.1.0.
#[track_caller]
pub fn assert_sarif(document: &Json) {
    let errors = validate(&sarif(), document);
    assert!(errors.is_empty(), "{errors:#?}\nin {document:#}");
}

/// OASIS's schema of SARIF 2.1.0.
pub fn sarif() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sarif-schema-2.1.0.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with `document`.
pub fn validate(schema: &Json, document: &Json) -> Vec<String> {
    let mut errors = Vec::new();
    Validator { root: schema }.check(schema, document, "$", &mut errors);
    errors
}

struct Validator<'a> {
    root: &'a Json,
}

impl Validator<'_> {
    fn check(&self, schema: &Json, value: &Json, at: &str, out: &mut Vec<String>) {
        if let Some(all) = schema.as_bool() {
            if !all {
                out.push(format!("{at}: must not be there"));
            }
            return;
        }
        for (keyword, rule) in schema.as_object().expect("a schema is an object") {
            let mut fail = |text: String| out.push(format!("{at}: {text}"));
            match keyword.as_str() {
                "$schema" | "$id" | "title" | "description" | "$defs" | "then" | "else" => {}
                "id" | "definitions" | "default" => {}
                "$ref" => self.check(self.resolve(rule), value, at, out),
                "const" if value != rule => fail(format!("{value} is not {rule}")),
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    fail(format!("{value} is none of {rule}"));
                }
                "const" | "enum" => {}
                "type" => {
                    let allowed: Vec<&Json> = match rule {
                        Json::Array(a) => a.iter().collect(),
                        one => vec![one],
                    };
                    if !allowed.iter().any(|t| is(value, t.as_str().unwrap())) {
                        fail(format!("{value} is no {rule}"));
                    }
                }
                "anyOf" => {
                    let tries: Vec<Vec<String>> = rule
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|s| self.errors(s, value, at))
                        .collect();
                    if tries.iter().all(|t| !t.is_empty()) {
                        fail(format!("fits none of the alternatives: {tries:?}"));
                    }
                }
                "oneOf" => {
                    let fits = |s: &&Json| self.errors(s, value, at).is_empty();
                    let n = rule.as_array().unwrap().iter().filter(fits).count();
                    if n != 1 {
                        fail(format!("fits {n} of the alternatives, not one"));
                    }
                }
                "uniqueItems" => {
                    let items = value.as_array().map_or(&[][..], Vec::as_slice);
                    let twice = |(n, item): (usize, &Json)| items[..n].contains(item);
                    if rule == true && items.iter().enumerate().any(twice) {
                        fail("an item stands twice".into());
                    }
                }
                "format" => {
                    if value.as_str().is_some_and(|s| !has_format(s, rule)) {
                        fail(format!("{value} is no {rule}"));
                    }
                }
                "if" => {
                    let holds = self.errors(rule, value, at).is_empty();
                    if let Some(s) = schema.get(if holds { "then" } else { "else" }) {
                        self.check(s, value, at, out);
                    }
                }
                "required" | "properties" | "additionalProperties" => {
                    if let Some(map) = value.as_object() {
                        self.object(keyword, rule, schema, map, at, out);
                    }
                }
                "items" => {
                    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{i}]"), out);
                    }
                }
                "minItems" | "maxItems" => {
                    let n = value.as_array().map_or(0, Vec::len) as u64;
                    let bound = rule.as_u64().unwrap();
                    let good = if keyword == "minItems" {
                        n >= bound
                    } else {
                        n <= bound
                    };
                    if value.is_array() && !good {
                        fail(format!("{n} items, {keyword} is {bound}"));
                    }
                }
                "minimum" => {
                    if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) {
                        fail(format!("{value} is under {rule}"));
                    }
                }
                "maximum" => {
                    if value.as_f64().is_some_and(|v| v > rule.as_f64().unwrap()) {
                        fail(format!("{value} is over {rule}"));
                    }
                }
                "minLength" => {
                    let n = value.as_str().map(|s| s.chars().count() as u64);
                    if n.is_some_and(|n| n < rule.as_u64().unwrap()) {
                        fail("too short".into());
                    }
                }
                "pattern" => {
                    let regex = Regex::new(rule.as_str().unwrap()).unwrap();
                    if value.as_str().is_some_and(|s| !regex.is_match(s)) {
                        fail(format!("{value} does not match {rule}"));
                    }
                }
                other => panic!("{at}: the validator does not know `{other}`"),
            }
        }
    }

    fn object(
        &self,
        keyword: &str,
        rule: &Json,
        schema: &Json,
        map: &serde_json::Map<String, Json>,
        at: &str,
        out: &mut Vec<String>,
    ) {
        match keyword {
            "required" => {
                for name in rule.as_array().unwrap().iter().map(|n| n.as_str().unwrap()) {
                    if !map.contains_key(name) {
                        out.push(format!("{at}: `{name}` is missing"));
                    }
                }
            }
            "properties" => {
                for (name, s) in rule.as_object().unwrap() {
                    if let Some(v) = map.get(name) {
                        self.check(s, v, &format!("{at}.{name}"), out);
                    }
                }
            }
            _ => {
                let named = schema.get("properties").and_then(Json::as_object);
                for (name, v) in map {
                    if named.is_none_or(|n| !n.contains_key(name)) {
                        self.check(rule, v, &format!("{at}.{name}"), out);
                    }
                }
            }
        }
    }

    fn errors(&self, schema: &Json, value: &Json, at: &str) -> Vec<String> {
        let mut out = Vec::new();
        self.check(schema, value, at, &mut out);
        out
    }

    fn resolve(&self, reference: &Json) -> &Json {
        let pointer = reference
            .as_str()
            .unwrap()
            .strip_prefix('#')
            .expect("a local reference");
        self.root
            .pointer(pointer)
            .expect("the reference leads somewhere")
    }
}

/// The formats that SARIF's schema names. URIs by the characters of RFC 3986 and, where they have
/// to be absolute, their scheme.
fn has_format(text: &str, format: &Json) -> bool {
    let uri = Regex::new(r"^([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*$").unwrap();
    let absolute = Regex::new("^[A-Za-z][A-Za-z0-9+.-]*:").unwrap();
    let time = Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$").unwrap();
    match format.as_str().unwrap() {
        "uri" => uri.is_match(text) && absolute.is_match(text),
        "uri-reference" => uri.is_match(text),
        "date-time" => time.is_match(text),
        other => panic!("no format `{other}`"),
    }
}

fn is(value: &Json, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("no type `{other}`"),
    }
}

#[test]
fn the_validator_finds_faults() {
    let schema = load("check");
    let good = serde_json::json!({
        "schema_version": 1, "path": "x", "format": "zip", "ok": false,
        "violations": [{"rule": "a.b", "offset": 1, "length": null, "where": "", "message": "m"}],
    });
    assert_eq!(validate(&schema, &good), Vec::<String>::new());
    assert_eq!(
        validate(&schema, &serde_json::json!([good, good])),
        Vec::<String>::new()
    );
    for (field, bad) in [
        ("schema_version", serde_json::json!(2)),
        ("ok", serde_json::json!(true)),
        ("ok", serde_json::json!("no")),
        ("violations", serde_json::json!([])),
        ("violations", serde_json::json!([{"rule": "a.b"}])),
        ("path", serde_json::json!(null)),
    ] {
        let mut document = good.clone();
        document[field] = bad;
        assert!(!validate(&schema, &document).is_empty(), "{document}");
    }
    let mut missing = good.clone();
    missing.as_object_mut().unwrap().remove("format");
    assert!(!validate(&schema, &missing).is_empty());
}
