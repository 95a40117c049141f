//! The catalogue of globals as sorted tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Result, parse};

/// The files that hold nothing but profiles, most of them generated, in the order of the documents.
const PROFILES: [&str; 5] = [
    "torch_weights_only",
    "sklearn",
    "arrays",
    "boosting",
    "trainers",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowFile {
    applies: Vec<Applies>,
    by_arguments: Vec<ArgumentRule>,
    by_state: Vec<StateRule>,
    no_attributes: Vec<String>,
    wrappers: Vec<String>,
    encodings: Vec<String>,
    profile: Vec<Profile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    profile: Vec<Profile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    name: String,
    about: String,
    source: String,
    globals: Vec<AllowedModule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowedModule {
    module: String,
    /// May be imported, built and called.
    #[serde(default)]
    call: Vec<String>,
    /// May be imported, and built without calling it (`NEWOBJ`).
    #[serde(default)]
    construct: Vec<String>,
    /// May be imported.
    #[serde(default)]
    import: Vec<String>,
    /// First and last version of the package whose list has these names, where not all have.
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    until: Option<String>,
}

/// Classes that execute an attribute of their state.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateRule {
    modules: Vec<String>,
    suffix: String,
    names: Vec<String>,
    signatures: String,
}

/// Functions that are judged by their constant arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArgumentRule {
    rule: String,
    functions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Applies {
    function: String,
    arguments: Vec<usize>,
    #[serde(default)]
    construct: bool,
    #[serde(default)]
    but_for: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownFile {
    stdlib: BTreeSet<String>,
    installed: BTreeSet<String>,
    code_objects: Vec<CodeObjects>,
    dangerous: Vec<Dangerous>,
    advisories: BTreeMap<String, Vec<String>>,
    modules: BTreeMap<String, String>,
    names: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeObjects {
    module: String,
    #[serde(default)]
    types: Vec<String>,
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dangerous {
    why: String,
    globals: Vec<String>,
}

/// What may be done with a global, as the scanner spells it, least first.
const USES: [&str; 3] = ["Use::Import", "Use::Construct", "Use::Call"];

/// Writes `catalogue.rs`, an expression of the type `Data` of `src/globals/data.rs`.
///
/// # Errors
/// When a file is not there or has another shape.
pub(super) fn write(folder: &Path, out: &Path) -> Result<()> {
    let mut allow: AllowFile = parse(folder, "pickle_allow.toml")?;
    for name in PROFILES {
        let file: ProfileFile = parse(folder, &format!("profiles/{name}.toml"))?;
        allow.profile.extend(file.profile);
    }
    let known: KnownFile = parse(folder, "pickle_known.toml")?;
    let mut text = String::from("Data {\n");
    profiles(&mut text, &allow.profile)?;
    let mut by_arguments = BTreeMap::new();
    for rule in &allow.by_arguments {
        let variant = camel(&rule.rule);
        for f in &rule.functions {
            by_arguments.insert(f.clone(), format!("ByArguments::{variant}"));
        }
    }
    table(&mut text, "by_arguments", &by_arguments)?;
    let mut applies = BTreeMap::new();
    for a in &allow.applies {
        let how = if a.construct { USES[1] } else { USES[2] };
        let (arguments, but_for) = (&a.arguments, &a.but_for);
        let literal =
            format!("Applied {{ arguments: &{arguments:?}, how: {how}, but_for: &{but_for:?} }}");
        applies.insert(a.function.clone(), literal);
    }
    table(&mut text, "applies", &applies)?;
    text.push_str("by_state: &[");
    for r in &allow.by_state {
        let (modules, suffix, names, signatures) = (&r.modules, &r.suffix, &r.names, &r.signatures);
        write!(
            text,
            "StateRule {{ modules: &{modules:?}, suffix: {suffix:?}, names: &{names:?}, signatures: {signatures:?} }}, "
        )?;
    }
    text.push_str("],\n");
    set(&mut text, "no_attributes", allow.no_attributes)?;
    set(&mut text, "wrappers", allow.wrappers)?;
    set(&mut text, "encodings", allow.encodings)?;
    set(&mut text, "stdlib", known.stdlib)?;
    set(&mut text, "installed", known.installed)?;
    let full = |c: &CodeObjects, names: &[String]| -> Vec<String> {
        names.iter().map(|n| format!("{}.{n}", c.module)).collect()
    };
    let types = known.code_objects.iter().flat_map(|c| full(c, &c.types));
    let types: Vec<String> = types.collect();
    let names = known.code_objects.iter().flat_map(|c| full(c, &c.names));
    set(
        &mut text,
        "code_objects",
        names.chain(types.iter().cloned()),
    )?;
    set(&mut text, "type_builders", types)?;
    let mut dangerous = BTreeMap::new();
    for d in &known.dangerous {
        for g in &d.globals {
            dangerous.insert(g.clone(), format!("{:?}", d.why));
        }
    }
    table(&mut text, "dangerous", &dangerous)?;
    // Only the first advisory on something is ever shown.
    let first = |list: &Vec<String>| list.first().map(|a| format!("{a:?}"));
    let advisories = known.advisories.iter();
    let advisories = advisories.filter_map(|(name, list)| Some((name.clone(), first(list)?)));
    table(&mut text, "advisories", &advisories.collect())?;
    let quoted = |map: BTreeMap<String, String>| {
        map.into_iter()
            .map(|(k, v)| (k, format!("{v:?}")))
            .collect()
    };
    table(&mut text, "modules", &quoted(known.modules))?;
    table(&mut text, "names", &quoted(known.names))?;
    text.push('}');
    Ok(fs::write(out.join("catalogue.rs"), text)?)
}

/// The profiles in their order, and what any of them allows, which is allowed.
fn profiles(text: &mut String, profiles: &[Profile]) -> Result<()> {
    let mut allowed: BTreeMap<String, usize> = BTreeMap::new();
    text.push_str("profiles: &[\n");
    for p in profiles {
        let (name, about, source) = (&p.name, &p.about, &p.source);
        write!(
            text,
            "Profile {{ name: {name:?}, about: {about:?}, source: {source:?}, globals: &["
        )?;
        for g in &p.globals {
            for (names, most) in [(&g.call, 2), (&g.construct, 1), (&g.import, 0)] {
                for n in names {
                    let full = format!("{}.{n}", g.module);
                    let (how, since, until) = (USES[most], &g.since, &g.until);
                    write!(
                        text,
                        "Allowed {{ name: {full:?}, most: {how}, since: {since:?}, until: {until:?} }}, "
                    )?;
                    let known = allowed.entry(full).or_insert(most);
                    *known = most.max(*known);
                }
            }
        }
        text.push_str("] },\n");
    }
    text.push_str("],\n");
    let allowed = allowed.into_iter().map(|(n, most)| (n, USES[most].into()));
    table(text, "allowed", &allowed.collect())
}

/// A field that is a sorted table from name to a literal.
fn table(text: &mut String, field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    write!(text, "{field}: Table(&[")?;
    for (key, literal) in map {
        write!(text, "({key:?}, {literal}), ")?;
    }
    text.push_str("]),\n");
    Ok(())
}

/// A field that is a sorted set of names.
fn set(
    text: &mut String,
    field: &str,
    names: impl IntoIterator<Item = impl Into<String> + Debug>,
) -> Result<()> {
    let names: BTreeSet<String> = names.into_iter().map(Into::into).collect();
    let map = names.into_iter().map(|n| (n, "()".to_owned())).collect();
    table(text, field, &map)
}

/// `loads-pickle` as the variant `LoadsPickle`.
fn camel(name: &str) -> String {
    name.split('-')
        .map(|part| {
            let mut chars = part.chars();
            let first = chars.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(chars).collect::<String>()
        })
        .collect()
}
