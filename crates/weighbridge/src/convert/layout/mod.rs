//! Layout differences between frameworks, on request (`--layout`): the same weight lies in other
//! orders in Keras and in PyTorch. `rules` is the table, `docs/layout.md` its text for users.
//!
//! Values are put in another order and never computed with. Which rule applies is told by the class
//! of the layer, where the file says it, else by the last part of the name and the number of
//! dimensions; whatever that leaves open stays as it is and is listed in the warnings.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{FormatId, Layout as Form, Model, Tensor, Warning};
use weighbridge_core::{Error, Result};

use super::permute::{Order, computed, strided};
use super::state;
use crate::format::Note;
use rules::{Rule, Verdict};

/// From which framework's layout to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Keras' (and Flax's) kernels become PyTorch's weights.
    KerasToTorch,
    /// PyTorch's weights become Keras' kernels.
    TorchToKeras,
}

impl Layout {
    /// The spelling of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KerasToTorch => "keras-to-torch",
            Self::TorchToKeras => "torch-to-keras",
        }
    }
}

/// A tensor as the rules see it.
#[derive(Debug, Clone)]
struct Seen {
    /// The parts of its path, without the endings that frameworks put behind variables.
    parts: Vec<String>,
    shape: Vec<u64>,
    class: Option<String>,
}

impl Seen {
    fn of(t: &Tensor) -> Self {
        let path = t.label().unwrap_or(&t.name);
        let path = path
            .strip_suffix("/.ATTRIBUTES/VARIABLE_VALUE")
            .unwrap_or(path);
        let path = path.split_once(':').map_or(path, |(p, rest)| match rest {
            "0" => p,
            _ => path,
        });
        let parts = path.split(['/', '.']).filter(|p| !p.is_empty());
        let attributes = t.extra.as_ref().map(|e| e.attributes.as_slice());
        let class = attributes.unwrap_or_default().iter().find_map(|(k, v)| {
            let name = v.as_str().filter(|_| k == "layer_class")?;
            // `Custom>Name`, `keras.layers.Dense`.
            name.rsplit(['.', '>']).next().map(str::to_owned)
        });
        Self {
            parts: parts.map(str::to_owned).collect(),
            shape: t.shape.to_vec(),
            class,
        }
    }

    fn leaf(&self) -> &str {
        self.parts.last().map_or("", String::as_str)
    }

    /// The path of what the tensor belongs to.
    fn parent(&self) -> String {
        let n = self.parts.len().saturating_sub(1);
        self.parts.get(..n).unwrap_or_default().join("/")
    }

    /// Whether a part of the path before the last holds one of `words`, in any case.
    fn is_in(&self, words: &[&str]) -> bool {
        let n = self.parts.len().saturating_sub(1);
        self.parts.get(..n).unwrap_or_default().iter().any(|p| {
            let p = p.to_ascii_lowercase();
            words.iter().any(|w| p.contains(w))
        })
    }
}

/// The tensors beside each other: shapes by parent and last part.
#[derive(Debug, Default)]
struct Beside(HashMap<(String, String), Vec<u64>>);

impl Beside {
    fn of(tensors: &[Tensor]) -> Self {
        let mut all = HashMap::new();
        for t in tensors {
            let seen = Seen::of(t);
            all.insert((seen.parent(), seen.leaf().to_owned()), seen.shape);
        }
        Self(all)
    }

    /// The shape of the tensor called `leaf` beside `seen`.
    fn get(&self, seen: &Seen, leaf: &str) -> Option<&[u64]> {
        self.0
            .get(&(seen.parent(), leaf.to_owned()))
            .map(Vec::as_slice)
    }
}

/// What is to be put in another order, and what already was.
pub(super) struct Turner {
    /// The rules by tensor name.
    rules: HashMap<String, Rule>,
    /// What is left as it is, and why.
    open: Vec<(String, &'static str)>,
    direction: Option<Layout>,
    done: HashSet<String>,
}

impl Turner {
    /// Finds the rule of every tensor of `model`, by the names that its file has.
    pub(super) fn new(direction: Option<Layout>, model: &Model) -> Self {
        let (mut rules, mut open) = (HashMap::new(), Vec::new());
        if let Some(direction) = direction {
            let beside = Beside::of(&model.tensors);
            let flax = model.format == FormatId::Flax;
            for t in &model.tensors {
                match rules::find(direction, &Seen::of(t), &beside, flax) {
                    Verdict::Same => {}
                    Verdict::Turn(rule) => {
                        rules.insert(t.name.clone(), rule);
                    }
                    Verdict::Open(why) => open.push((t.name.clone(), why)),
                }
            }
        }
        Self {
            rules,
            open,
            direction,
            done: HashSet::new(),
        }
    }

    /// Goes by the new names of the tensors that were taken; what is left open of them goes to the
    /// warnings, and the names of those that more than one rule may be meant for are given.
    pub(super) fn follow(
        &mut self,
        renamed: &HashMap<String, String>,
        model: &mut Model,
    ) -> Vec<String> {
        let new = |old: String| renamed.get(&old).cloned().unwrap_or(old);
        let rules = std::mem::take(&mut self.rules).into_iter();
        self.rules = rules.map(|(name, rule)| (new(name), rule)).collect();
        let there: HashSet<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
        let (mut warnings, mut left) = (Vec::new(), Vec::new());
        for (name, why) in std::mem::take(&mut self.open) {
            let name = new(name);
            if there.contains(name.as_str()) {
                let message = format!("{name}: left in its layout: {why}");
                let w = Warning::new("convert.layout-left", message);
                warnings.push(w);
                // Weights of names without a rule (an optimizer's) are as they come on both ways.
                if why != rules::NO_RULE {
                    left.push(name);
                }
            }
        }
        model.warnings.extend(warnings);
        left
    }

    /// Turns what can be read in the new order piece by piece: a cast of it is computed from there.
    /// With `rest` everything else.
    ///
    /// # Errors
    /// `Unsupported` for values of which several lie in a byte.
    pub(super) fn apply(
        &mut self,
        model: &mut Model,
        rest: bool,
        changed: &mut Vec<Note>,
    ) -> Result<()> {
        let Some(direction) = self.direction else {
            return Ok(());
        };
        for t in &mut model.tensors {
            let Some(rule) = self.rules.get(&t.name) else {
                continue;
            };
            if self.done.contains(&t.name) {
                continue;
            }
            let was = dims(&t.shape);
            match turn(t, &rule.order, rest)? {
                true => {}
                false => continue,
            }
            self.done.insert(t.name.clone());
            let why = format!(
                "layout {}: {}, {was} to {}",
                direction.as_str(),
                rule.what,
                dims(&t.shape)
            );
            changed.push(Note::new(t.name.as_str(), why));
        }
        if rest {
            state::forget_aliases(model, &self.done);
        }
        Ok(())
    }
}

fn turn(t: &mut Tensor, order: &Order, rest: bool) -> Result<bool> {
    if t.layout != Form::Strided || !t.has_data() {
        return Ok(false);
    }
    if strided(t, order)? {
        return Ok(true);
    }
    if rest {
        computed(t, order, "convert.layout")?;
    }
    Ok(rest)
}

fn dims(shape: &[u64]) -> String {
    let all: Vec<String> = shape.iter().map(u64::to_string).collect();
    all.join(" × ")
}

/// The direction that `name` spells.
///
/// # Errors
/// `Parameter` for any other name.
pub fn parse_layout(name: &str) -> Result<Layout> {
    match name {
        "keras-to-torch" => Ok(Layout::KerasToTorch),
        "torch-to-keras" => Ok(Layout::TorchToKeras),
        _ => Err(
            Error::parameter("convert.layout", format!("there is no layout {name:?}"))
                .help("use keras-to-torch or torch-to-keras"),
        ),
    }
}
