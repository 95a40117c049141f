//! Tensors whose last two dimensions change places, where that is asked for.

use std::collections::HashSet;
use std::sync::Arc;

use regex::Regex;
use weighbridge_core::model::{
    Chunks, Compute, Layout, Model, Storage, StorageData, Strided, Tensor, TensorSource, View,
    Warning,
};
use weighbridge_core::source::{SliceSource, Window};
use weighbridge_core::{Error, Result};

use super::names::compile;
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
            if !strided(t)? {
                if !rest {
                    continue;
                }
                computed(t)?;
            }
            self.done.insert(t.name.clone());
            let n = t.shape.len();
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

fn swap_last<T>(all: &mut [T]) {
    if let [.., a, b] = all {
        std::mem::swap(a, b);
    }
}

/// Reads a run in a storage with other strides; `false` where that cannot be.
fn strided(t: &mut Tensor) -> Result<bool> {
    let Some(width) = t.dtype.bytes() else {
        return Ok(false);
    };
    let mut to = match &t.source {
        TensorSource::View(v) => {
            let mut strides = t.shape.clone();
            let mut step = 1u64;
            for (s, &d) in strides.iter_mut().zip(&t.shape).rev() {
                *s = step;
                step = step.saturating_mul(d);
            }
            let (mut storage, mut offset) = (Arc::clone(&v.storage), v.offset / width);
            if v.offset % width != 0 {
                // Strides count elements: a storage of its own begins where the first one lies.
                let Some(own) = window(&v.storage, v.offset, t.byte_len())? else {
                    return Ok(false);
                };
                (storage, offset) = (own, 0);
            }
            Strided {
                storage,
                offset,
                strides,
                conj: false,
                neg: false,
            }
        }
        TensorSource::Strided(s) => s.as_ref().clone(),
        _ => return Ok(false),
    };
    swap_last(&mut to.strides);
    swap_last(&mut t.shape);
    t.source = TensorSource::Strided(Box::new(to));
    Ok(true)
}

fn window(storage: &Storage, offset: u64, len: u64) -> Result<Option<Arc<Storage>>> {
    let Some((source, base)) = storage.raw_range() else {
        return Ok(None);
    };
    let start = base.saturating_add(offset);
    let name = source.name().to_owned();
    let source = Window::new(Arc::clone(source), start..start.saturating_add(len), name)?;
    let data = StorageData::Raw {
        source: Arc::new(source),
        offset: 0,
        checksum: None,
    };
    let own = Storage::new(storage.name(), len, storage.is_big_endian(), data)?;
    Ok(Some(Arc::new(own.into_region())))
}

/// Turns values round that are computed first: the whole tensor is in memory meanwhile.
fn computed(t: &mut Tensor) -> Result<()> {
    if t.dtype.bytes().is_none() {
        let message = format!(
            "{} cannot be transposed: several of its {} values lie in a byte",
            t.name, t.dtype
        );
        return Err(Error::unsupported("convert.transpose", message)
            .help("--dequantize or --dtype writes values of whole bytes"));
    }
    let input = t.clone();
    swap_last(&mut t.shape);
    t.source = TensorSource::Computed(Arc::new(Turned { input }));
    Ok(())
}

#[derive(Debug)]
struct Turned {
    input: Tensor,
}

impl Compute for Turned {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = self.input.read_vec()?;
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, self.input.name.as_str())),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(self.input.name.as_str(), len, false, data)?);
        let view = View { storage, offset: 0 };
        let mut t = Tensor {
            source: TensorSource::View(view),
            ..self.input.clone()
        };
        strided(&mut t)?;
        t.stream(&mut Chunks::new(), sink)
    }
}
