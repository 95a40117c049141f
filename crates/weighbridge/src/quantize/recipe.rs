//! The types of a model's tensors as a file, to be given to another model.
//!
//! Lines of `NAME=TYPE`, as the reference's `--tensor-type-file` has them (there each name is a
//! pattern); a line that begins with `#` is a comment, and the one that begins with `#type` tells
//! the file type. A name that a line would not give back (it begins with `#`, `"` or `{`, begins or
//! ends with white space, or has a character in it that ends lines, is not seen or moves others)
//! stands in quotation marks, as JSON has texts, in ASCII; all others stand as they are. The JSON form has the same:
//! `{"type", "tensors": {NAME: TYPE}}`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use weighbridge_core::model::{DType, Model};
use weighbridge_core::{Error, Result};

use super::ftype::{FileType, tensor_type};

/// Types by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipe {
    /// The file type, where it is told.
    pub file: Option<FileType>,
    /// The architecture of the model it is from, for people.
    pub architecture: Option<String>,
    types: BTreeMap<String, DType>,
    /// The order in which they are written.
    names: Vec<String>,
}

impl Recipe {
    /// The recipe of `model`. Tensors of types that nothing is quantized to are left out.
    pub fn of(model: &Model) -> Self {
        let key = |name: &str| {
            let found = model.metadata.iter().find(|(k, _)| k == name);
            found.map(|(_, v)| v)
        };
        let number = key("general.file_type").and_then(|v| v.as_int());
        let mut out = Self {
            file: number.and_then(|n| FileType::parse(&n.to_string()).ok()),
            architecture: key("general.architecture").and_then(|v| v.as_str().map(str::to_owned)),
            ..Self::default()
        };
        for t in &model.tensors {
            if super::ftype::writable(t.dtype) {
                out.add(&t.name, t.dtype);
            }
        }
        out
    }

    fn add(&mut self, name: &str, to: DType) {
        if self.types.insert(name.to_owned(), to).is_none() {
            self.names.push(name.to_owned());
        }
    }

    /// The type of the tensor called `name`.
    pub fn get(&self, name: &str) -> Option<DType> {
        self.types.get(name).copied()
    }

    /// How many tensors it has.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Names and types in the order of the model.
    pub fn iter(&self) -> impl Iterator<Item = (&str, DType)> {
        let with = |n: &'_ String| Some((self.types.get_key_value(n)?.0.as_str(), self.get(n)?));
        self.names.iter().filter_map(with)
    }

    /// The lines of the file.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        if let Some(file) = self.file {
            out.push_str(&format!("#type={}\n", file.name()));
        }
        for (name, to) in self.iter() {
            let to = to.as_str().to_ascii_lowercase();
            match is_plain(name) {
                true => out.push_str(&format!("{name}={to}\n")),
                false => out.push_str(&format!("{}={to}\n", quoted(name))),
            }
        }
        out
    }

    /// The document.
    pub fn to_json(&self) -> Json {
        let tensors: Map<String, Json> = self
            .iter()
            .map(|(name, to)| (name.to_owned(), to.as_str().into()))
            .collect();
        json!({
            "type": self.file.map(FileType::name),
            "architecture": self.architecture,
            "tensors": tensors,
        })
    }

    /// Reads either form.
    ///
    /// # Errors
    /// `Malformed` with the line, `Parameter` for types that do not exist.
    pub fn parse(text: &str) -> Result<Self> {
        let out = if text.trim_start().starts_with('{') {
            Self::from_json(text)
        } else {
            Self::from_lines(text)
        }?;
        if out.is_empty() {
            return Err(Error::malformed(
                "recipe.empty",
                "the recipe names no tensor",
            ));
        }
        Ok(out)
    }

    fn from_json(text: &str) -> Result<Self> {
        let bad = |m: String| Error::malformed("recipe.json", m);
        let json: Json = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let mut out = Self::default();
        if let Some(name) = json.get("type").and_then(Json::as_str) {
            out.file = Some(FileType::parse(name)?);
        }
        let tensors = json.get("tensors").and_then(Json::as_object);
        let tensors = tensors.ok_or_else(|| bad("\"tensors\" is no object".into()))?;
        for (name, to) in tensors {
            let to = to
                .as_str()
                .ok_or_else(|| bad(format!("{name} has no type")))?;
            out.add(name, tensor_type(to)?);
        }
        Ok(out)
    }

    fn from_lines(text: &str) -> Result<Self> {
        let mut out = Self::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("#type=") {
                out.file = Some(FileType::parse(name.trim())?);
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pair = line.rsplit_once('=').filter(|(n, _)| !n.is_empty());
            let named = pair.and_then(|(name, to)| Some((unquoted(name)?, to)));
            let (name, to) = named.ok_or_else(|| {
                let message = format!("line {}: {line:?} is no NAME=TYPE", i + 1);
                Error::malformed("recipe.line", message)
                    .help("a name that begins with `\"` is a JSON text: \"NAME\"=TYPE")
            })?;
            out.add(&name, tensor_type(to.trim())?);
        }
        Ok(out)
    }
}

/// Whether a line gives `name` back as it stands.
fn is_plain(name: &str) -> bool {
    // Beyond ASCII only letters and digits: among the others are those that terminals obey, and
    // that are therefore shown as something else.
    let odd = |c: char| c.is_control() || !(c.is_ascii() || c.is_alphanumeric());
    !name.is_empty()
        && !name.starts_with(['#', '"', '{', '\u{feff}'])
        && name.trim() == name
        && !name.contains(odd)
}

/// `name` as a JSON text that every terminal and every reader of lines leaves as it is.
fn quoted(name: &str) -> String {
    let json = Json::from(name).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

/// The name that a line has before its `=`.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    match text.starts_with('"') {
        true => serde_json::from_str::<String>(text.trim_end())
            .ok()
            .filter(|name| !name.is_empty())
            .map(Cow::Owned),
        false => Some(Cow::Borrowed(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let text = "#type=Q4_K_M\n# mine\nb.weight=q4_k\n\na=b.weight=f32\n";
        let r = Recipe::parse(text).unwrap();
        assert_eq!(r.file, Some(FileType::Q4_K_M));
        assert_eq!(r.get("a=b.weight"), Some(DType::F32));
        assert_eq!(r.get("b.weight"), Some(DType::Q4_K));
        assert_eq!(Recipe::parse(&r.to_text()).unwrap(), r);
        assert_eq!(Recipe::parse(&r.to_json().to_string()).unwrap(), r);
    }

    #[test]
    fn every_name_comes_back() {
        let mut r = Recipe::default();
        let names = [
            "blk.0.attn_q.weight",
            "with space=and more",
            "middle # and \"quotes\" {",
            "#type=Q4_K_M",
            "# comment",
            "\"quoted\"",
            "{",
            " led",
            "followed\t",
            "two\nlines=f32",
            "two\r\nlines",
            "\u{85}",
            "a\u{85}b",
            "a\u{2028}b",
            "\u{feff}marked",
            "back\\slash",
            "é",
            "\u{1}",
            "\u{7f}",
            "a\u{202e}b",
            "a\u{200b}\u{e0041}",
            "é😀",
        ];
        for (i, name) in names.iter().enumerate() {
            r.add(name, [DType::Q4_K, DType::F32][i % 2]);
        }
        assert_eq!(Recipe::parse(&r.to_text()).unwrap(), r);
        for name in names {
            // Whatever stands first.
            let mut one = Recipe::default();
            one.add(name, DType::Q8_0);
            assert_eq!(Recipe::parse(&one.to_text()).unwrap(), one, "{name:?}");
        }
        let lines = r.to_text();
        assert!(lines.starts_with("blk.0.attn_q.weight=q4_k\nwith space=and more=f32\n"));
        assert!(lines.contains("\n\"# comment\"=q4_k\n"), "{lines}");
        assert!(lines.contains("\n\"two\\nlines=f32\"=f32\n"), "{lines}");
        assert!(lines.contains("\nback\\slash=f32\n"), "{lines}");
        assert!(lines.contains("\n\"a\\u202eb\"="), "{lines}");
        assert!(lines.contains("\n\"\\u00e9\\ud83d\\ude00\"="), "{lines}");
        // What a terminal is not shown as it is, is not there.
        let shown = |c: char| c == '\n' || !c.is_control() && (c.is_ascii() || c.is_alphanumeric());
        assert!(lines.chars().all(shown), "{lines}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, rule) in [
            ("", "recipe.empty"),
            ("x\n", "recipe.line"),
            ("=q4_k\n", "recipe.line"),
            ("x=q9\n", "quantize.tensor-type"),
            ("\"x=q4_k\n", "recipe.line"),
            ("\"\"=q4_k\n", "recipe.line"),
            ("\"x\"y=q4_k\n", "recipe.line"),
            ("#type=zzz\nx=f32", "quantize.type"),
            ("{", "recipe.json"),
            ("{\"tensors\": {\"a\": 1}}", "recipe.json"),
        ] {
            assert_eq!(Recipe::parse(text).unwrap_err().rule(), rule, "{text}");
        }
    }
}
