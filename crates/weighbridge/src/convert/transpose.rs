//! Tensors whose last two dimensions change places, where that is asked for.

use std::collections::HashSet;

use regex::Regex;
use weighbridge_core::model::{Layout, Model, Warning};
use weighbridge_core::{Error, Result};

use super::names::compile;
use super::permute::{Order, computed, strided};
use crate::format::Note;

/// What is to be transposed, and what already was.
pub(super) struct Turn {
    patterns: Vec<(Regex, bool)>,
    done: HashSet<String>,
}

impl Turn {
    /// Reads the regular expressions.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        let all = compile(patterns, "--transpose")?;
        Ok(Self {
            patterns: all.into_iter().map(|r| (r, false)).collect(),
            done: HashSet::new(),
        })
    }

    /// Transposes what matches and can be read in the new order piece by piece: a cast or a
    /// dequantization of it is computed from there. With `rest` everything else that matches.
    pub(super) fn apply(
        &mut self,
        model: &mut Model,
        rest: bool,
        changed: &mut Vec<Note>,
    ) -> Result<()> {
        for t in &mut model.tensors {
            let mut wanted = false;
            for (r, used) in &mut self.patterns {
                let fits = r.is_match(&t.name);
                *used |= fits;
                wanted |= fits;
            }
            if !wanted || self.done.contains(&t.name) {
                continue;
            }
            if t.shape.len() < 2 || t.layout != Layout::Strided || !t.has_data() {
                let message = format!(
                    "{} cannot be transposed: it is no dense tensor of two dimensions or more",
                    t.name
                );
                return match rest {
                    true => Err(Error::parameter("convert.transpose", message)
                        .help("narrow the expression of --transpose")),
                    false => continue,
                };
            }
            let n = t.shape.len();
            let order = Order::swap_last(n);
            if !strided(t, &order)? {
                if !rest {
                    continue;
                }
                computed(t, &order, "convert.transpose")?;
            }
            self.done.insert(t.name.clone());
            let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
            let why = match n {
                2 => format!("transposed, to {}", shape.join(" × ")),
                _ => format!(
                    "its last two dimensions transposed, to {}",
                    shape.join(" × ")
                ),
            };
            changed.push(Note::new(t.name.as_str(), why));
        }
        if rest {
            for (r, used) in &self.patterns {
                if !used {
                    let message = format!("--transpose {:?} fits no tensor", r.as_str());
                    let w = Warning::new("convert.unused-transpose", message);
                    model.warnings.push(w);
                }
            }
        }
        Ok(())
    }
}
