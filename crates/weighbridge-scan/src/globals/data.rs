//! The shape of the data files that the catalogue is made of.

use std::collections::HashMap;

use serde::Deserialize;

use super::ByArguments;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowFile {
    pub(super) applies: Vec<Applies>,
    pub(super) by_arguments: Vec<ArgumentRule>,
    pub(super) by_state: Vec<StateRule>,
    pub(super) no_attributes: Vec<String>,
    pub(super) wrappers: Vec<String>,
    pub(super) encodings: Vec<String>,
    pub(super) profile: Vec<ProfileData>,
}

/// A file that holds nothing but profiles, most of them generated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileFile {
    pub(super) profile: Vec<ProfileData>,
}

/// The profile files beside `pickle_allow.toml`.
pub(super) const PROFILES: [(&str, &str); 5] = [
    (
        "profiles/torch_weights_only.toml",
        include_str!("../../rules/profiles/torch_weights_only.toml"),
    ),
    (
        "profiles/sklearn.toml",
        include_str!("../../rules/profiles/sklearn.toml"),
    ),
    (
        "profiles/arrays.toml",
        include_str!("../../rules/profiles/arrays.toml"),
    ),
    (
        "profiles/boosting.toml",
        include_str!("../../rules/profiles/boosting.toml"),
    ),
    (
        "profiles/trainers.toml",
        include_str!("../../rules/profiles/trainers.toml"),
    ),
];

/// Classes that execute an attribute of their state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateRule {
    pub(super) modules: Vec<String>,
    /// What the names of the classes end with.
    pub(super) suffix: String,
    /// Those of them with other names.
    pub(super) names: Vec<String>,
    /// The attribute, which holds signatures of methods.
    pub(super) signatures: String,
}

/// A function that is judged by its constant arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArgumentRule {
    pub(super) rule: ByArguments,
    pub(super) functions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Applies {
    pub(super) function: String,
    pub(super) arguments: Vec<usize>,
    #[serde(default)]
    pub(super) construct: bool,
    /// What it is called with by the library's own pickles, and may be.
    #[serde(default)]
    pub(super) but_for: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileData {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) source: String,
    pub(super) globals: Vec<AllowedModule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowedModule {
    pub(super) module: String,
    /// May be imported, built and called.
    #[serde(default)]
    pub(super) call: Vec<String>,
    /// May be imported, and built without calling it (`NEWOBJ`).
    #[serde(default)]
    pub(super) construct: Vec<String>,
    /// May be imported.
    #[serde(default)]
    pub(super) import: Vec<String>,
    /// First and last version of the package whose list has these names, where not all have.
    #[serde(default)]
    pub(super) since: Option<String>,
    #[serde(default)]
    pub(super) until: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KnownFile {
    pub(super) stdlib: Vec<String>,
    pub(super) installed: Vec<String>,
    pub(super) code_objects: Vec<CodeObjects>,
    pub(super) dangerous: Vec<Dangerous>,
    pub(super) advisories: HashMap<String, Vec<String>>,
    pub(super) modules: HashMap<String, String>,
    pub(super) names: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CodeObjects {
    pub(super) module: String,
    #[serde(default)]
    pub(super) types: Vec<String>,
    pub(super) names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dangerous {
    pub(super) why: String,
    pub(super) globals: Vec<String>,
}
