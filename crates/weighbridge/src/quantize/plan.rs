//! Everything that is known before the first value is read.

use std::path::{Path, PathBuf};

use weighbridge_core::model::{Coding, DType, FormatId, Layout, Model, Tensor, Warning};
use weighbridge_core::{Error, Result};

use super::arch::Arch;
use super::ftype::{FileType, writable};
use super::imatrix::Matrix;
use super::mix::{Category, Mix, Subject, Wishes, category};
use super::order::{self, MatrixKeys, Order, Visit};
use super::{QuantizeOptions, note, pattern, warn};
use crate::convert::{blocks::block_of, state};
use crate::format::gguf::split;
use crate::format::gguf::write::{Head, refusal};
use crate::format::{self, Note};

/// One tensor of the output.
#[derive(Debug)]
pub(super) struct Item {
    /// Where the values come from.
    pub(super) from: Tensor,
    /// Its name in the output.
    pub(super) name: String,
    /// Its type in the output.
    pub(super) to: DType,
    /// The file it goes to, and where in it.
    pub(super) file: usize,
    pub(super) at: u64,
    /// Bytes there.
    pub(super) bytes: u64,
    /// The entry of the matrix that weighs it.
    pub(super) weights: Option<String>,
}

/// One file of the output.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) header: Vec<u8>,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) file: FileType,
    pub(super) items: Vec<Item>,
    pub(super) files: Vec<File>,
    pub(super) changed: Vec<Note>,
    pub(super) lost: Vec<Note>,
    pub(super) warnings: Vec<Warning>,
}

/// A tensor with its type chosen.
struct Chosen {
    visit: Visit,
    to: DType,
    needs_matrix: bool,
}

impl Plan {
    pub(super) fn make(mut model: Model, path: &Path, options: &QuantizeOptions) -> Result<Self> {
        let file = file_type(options)?;
        let mut plan = Self {
            file,
            items: Vec::new(),
            files: Vec::new(),
            changed: Vec::new(),
            lost: Vec::new(),
            warnings: std::mem::take(&mut model.warnings),
        };
        let arch = Arch::of(&model);
        if !arch.known && file.is_blocks() {
            plan.say_generic(&arch);
        }
        plan.fit(&mut model);
        let order = order::order(&model, &options.prune, options.keep_split)?;
        if let Some((_, m)) = &options.matrix {
            check_names(&model, m, &order, options, &mut plan.warnings)?;
        }
        let chosen = plan.choose(&model, &arch, &order, options)?;
        plan.lay_out(model, &order, chosen, path, options)?;
        if plan.items.is_empty() {
            return Err(match plan.lost.first() {
                Some(n) => {
                    let message = format!("no tensor fits: {}: {}", n.what, n.why);
                    Error::unsupported("quantize.nothing-fits", message)
                }
                None => Error::unsupported("quantize.no-tensors", "the model has no tensors"),
            });
        }
        Ok(plan)
    }

    fn say_generic(&mut self, arch: &Arch) {
        let what = match &arch.name {
            Some(name) => format!("the architecture {name:?} is not known"),
            None => "the model does not say its architecture".to_owned(),
        };
        let message = format!(
            "{what}: the generic mix is used, with {} layers, {} experts and groups of {} query \
             heads as names and shapes tell",
            arch.layers, arch.experts, arch.gqa
        );
        warn(&mut self.warnings, "quantize.generic-mix", message);
    }

    /// Fits what is no GGUF file: its state becomes text, and what GGUF has no type for is lost.
    fn fit(&mut self, model: &mut Model) {
        if model.format == FormatId::Gguf {
            return;
        }
        for (what, why) in std::mem::take(&mut model.omitted) {
            note(&mut self.lost, &what, why);
        }
        if model.graph.take().is_some() {
            note(&mut self.lost, "graph", "gguf holds no computation graph");
        }
        let plain = crate::convert::ConvertOptions::default();
        state::settle(model, &plain, FormatId::Gguf, &mut self.lost);
    }

    fn choose(
        &mut self,
        model: &Model,
        arch: &Arch,
        order: &Order,
        options: &QuantizeOptions,
    ) -> Result<Vec<Chosen>> {
        let wishes = wishes(self.file, options)?;
        self.say_unmet(&wishes, order);
        let names = order.visits.iter().map(|v| v.name.as_str());
        let mut mix = Mix::new(&wishes, arch, names);
        let (mut out, mut met) = (Vec::with_capacity(order.visits.len()), 0);
        for visit in &order.visits {
            let Some(t) = model.tensors.get(visit.index) else {
                continue;
            };
            let subject = Subject {
                name: &visit.name,
                dtype: t.dtype,
                shape: &t.shape,
            };
            let mut choice = mix.next(&subject);
            let told = options.recipe.as_ref().and_then(|r| r.get(&visit.name));
            if let Some(to) = told {
                met += 1;
                choice = mix.told(&subject, to);
            } else if options.recipe.is_some() && options.file.is_none() {
                choice.to = t.dtype;
                choice.needs_matrix = false;
            }
            if let Some(meant) = choice.instead_of {
                let columns = subject.columns();
                let why = format!("{} instead of {meant}: rows of {columns} values", choice.to);
                note(&mut self.changed, &visit.name, why);
            }
            let to = self.settle(model, t, &visit.name, choice.to, options)?;
            out.push(Chosen {
                visit: visit.clone(),
                to,
                needs_matrix: choice.needs_matrix && to == choice.to,
            });
        }
        self.say_recipe(options, met, out.len())?;
        Ok(out)
    }

    /// Tells of patterns and layers that mean nothing of the model: a slip of the pen, mostly.
    fn say_unmet(&mut self, wishes: &Wishes, order: &Order) {
        let told = wishes.by_name.iter().map(|(r, _)| r);
        for r in told.chain(&wishes.exclude) {
            if !order.visits.iter().any(|v| r.is_match(&v.name)) {
                let message = format!("no tensor has {:?} in its name", r.as_str());
                warn(&mut self.warnings, "quantize.pattern", message);
            }
        }
        if !wishes.by_name.is_empty() && !self.file.is_blocks() {
            let message = format!("types by name do not count for {}", self.file.name());
            warn(&mut self.warnings, "quantize.pattern", message);
        }
        for layer in &order.absent {
            let message = format!("the model has no layer {layer} to leave out");
            warn(&mut self.warnings, "quantize.layer", message);
        }
    }

    fn say_recipe(&mut self, options: &QuantizeOptions, met: usize, all: usize) -> Result<()> {
        let Some(r) = &options.recipe else {
            return Ok(());
        };
        if met == 0 {
            let message = "the recipe names no tensor of the model";
            let e = Error::parameter("quantize.recipe", message);
            return Err(e.help("a recipe fits models with the same tensor names"));
        }
        let others = [
            (
                r.len().saturating_sub(met),
                "of the recipe are not in the model",
            ),
            (
                all.saturating_sub(met),
                "of the model are not in the recipe",
            ),
        ];
        for (n, what) in others {
            if n > 0 {
                let message = format!("{n} tensors {what}");
                warn(&mut self.warnings, "quantize.recipe", message);
            }
        }
        Ok(())
    }

    /// What the chosen type comes to with the values that there are.
    fn settle(
        &mut self,
        model: &Model,
        t: &Tensor,
        name: &str,
        to: DType,
        options: &QuantizeOptions,
    ) -> Result<DType> {
        let from = t.dtype;
        let values = from.is_float() || from.block().is_some();
        if to != from && !values {
            return Ok(from);
        }
        if to != from && from.block().is_some() && !options.requantize {
            let message = format!("tensor {name} is {from} already");
            return Err(Error::parameter("quantize.requantize", message).help(
                "quantizing again adds to the error: start from the wide model, or give \
                 --allow-requantize",
            ));
        }
        if to == from && model.format != FormatId::Gguf && from.is_float() {
            // Readers of GGUF want vectors as F32, and GGUF has no narrower floats than 16 bits.
            let vector = t.shape.len() < 2 && matches!(from, DType::F16 | DType::BF16);
            let odd = !matches!(from, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
            if vector || odd {
                note(&mut self.changed, name, format!("cast from {from} to F32"));
                return Ok(DType::F32);
            }
        }
        if to != from && !writable(to) {
            let message = format!("tensor {name} cannot be quantized to {to}");
            return Err(Error::unsupported("quantize.type", message));
        }
        Ok(to)
    }

    fn lay_out(
        &mut self,
        mut model: Model,
        order: &Order,
        chosen: Vec<Chosen>,
        path: &Path,
        options: &QuantizeOptions,
    ) -> Result<()> {
        let matrix = options.matrix.as_ref();
        let keys = matrix.map(|(file, m)| MatrixKeys {
            file: file.clone(),
            dataset: m.datasets.first().cloned(),
            entries: m.entries.len(),
            chunks: m.chunk_count,
        });
        order::metadata(&mut model, self.file, keys.as_ref(), order.layers);
        // Files after the last that still has tensors go, as the reference has it.
        let files = match options.keep_split {
            true => chosen.iter().map(|c| c.visit.part + 1).max().unwrap_or(1),
            false => 1,
        };
        let mut per_file: Vec<(Model, Vec<Item>)> = Vec::new();
        for _ in 0..files {
            per_file.push((Model::new(FormatId::Gguf), Vec::new()));
        }
        let mut total = 0;
        for c in chosen {
            let item = self.item(&model, c, options)?;
            let Some((item, shell)) = item else { continue };
            if let Some((out, items)) = per_file.get_mut(item.file) {
                out.tensors.push(shell);
                items.push(item);
                total += 1;
            }
        }
        for (no, (mut out, mut items)) in per_file.into_iter().enumerate() {
            if no == 0 {
                out.metadata = std::mem::take(&mut model.metadata);
            }
            if files > 1 {
                split::strip(&mut out);
                out.metadata.extend(split::keys(no, files, total)?);
            }
            let mut said = format::Plan::default();
            let head = Head::of(&out.metadata, Coding::CANONICAL, &mut said);
            let all: Vec<usize> = (0..out.tensors.len()).collect();
            let head = head.finish(&out, &all)?;
            self.lost.extend(said.lost);
            for (item, at) in items.iter_mut().zip(&head.positions) {
                item.at = *at;
            }
            self.items.append(&mut items);
            self.files.push(File {
                path: file_path(path, no, files, options.keep_split),
                header: head.bytes,
                bytes: head.total,
            });
        }
        Ok(())
    }

    /// The tensor as it will be, and its description for the header.
    fn item(
        &mut self,
        model: &Model,
        c: Chosen,
        options: &QuantizeOptions,
    ) -> Result<Option<(Item, Tensor)>> {
        let Some(t) = model.tensors.get(c.visit.index) else {
            return Ok(None);
        };
        let name = c.visit.name;
        let mut shell = t.clone();
        shell.name.clone_from(&name);
        shell.dtype = c.to;
        shell.layout = t.layout;
        // As the reference describes it: dimensions of extent 1 at the outside do not count.
        if let Some(shape) = split::trimmed(&shell.shape) {
            shell.shape = shape;
        }
        if let Some(why) = refusal(&shell) {
            let why = why.split(": --").next().unwrap_or_default();
            note(&mut self.lost, &name, why);
            return Ok(None);
        }
        if t.layout != Layout::Strided {
            return Ok(None);
        }
        let weights = match &options.matrix {
            Some((_, m)) if c.to != t.dtype && block_of(c.to).is_some() => {
                self.weights(m, t, &name)?
            }
            _ => None,
        };
        if c.needs_matrix && weights.is_none() && !(options.dry_run && options.matrix.is_none()) {
            return Err(missing(&name, c.to, options.matrix.is_some()));
        }
        if c.needs_matrix && weights.is_none() {
            let message = format!("tensor {name} needs an importance matrix for {}", c.to);
            warn(&mut self.warnings, "quantize.needs-matrix", message);
        }
        let item = Item {
            from: t.clone(),
            name,
            to: c.to,
            file: c.visit.part,
            at: 0,
            bytes: shell.byte_len(),
            weights,
        };
        Ok(Some((item, shell)))
    }

    /// The entry that weighs `t`, when it is of the right size.
    fn weights(&mut self, m: &Matrix, t: &Tensor, name: &str) -> Result<Option<String>> {
        let Some(e) = m.entries.get(&t.name) else {
            return Ok(None);
        };
        let mut dims = t.shape.iter().rev();
        let columns = dims.next().copied().unwrap_or(1);
        let experts = dims.nth(1).copied().unwrap_or(1);
        let want = columns.checked_mul(experts);
        if want == Some(e.sums.len() as u64) {
            return Ok(Some(t.name.clone()));
        }
        let n = e.sums.len();
        if category(name, true) == Category::TokenEmbd {
            // The reference takes no offence: its matrices count other things for this table.
            let message = format!("the matrix has {n} values for {name}: not used");
            warn(&mut self.warnings, "imatrix.size", message);
            return Ok(None);
        }
        let message = format!(
            "the importance matrix has {n} values for tensor {name}, which has {columns} columns \
             and {experts} experts"
        );
        let e = Error::parameter("imatrix.size", message);
        Err(e.help("it was computed with another model; compute one with this model"))
    }
}

fn missing(name: &str, to: DType, matrix: bool) -> Error {
    let (message, help) = if matrix {
        (
            format!("the importance matrix has nothing for tensor {name}, which {to} needs"),
            "compute a matrix with this model, or give the tensor another type with --tensor-type",
        )
    } else {
        (
            format!("tensor {name} cannot become {to} without an importance matrix"),
            "give one with --imatrix FILE, or choose a type of more bits",
        )
    };
    Error::parameter("imatrix.missing", message).help(help)
}

fn file_type(options: &QuantizeOptions) -> Result<FileType> {
    let told = options.recipe.as_ref().and_then(|r| r.file);
    match (options.file, &options.recipe) {
        (Some(file), _) => Ok(file),
        (None, Some(_)) => Ok(told.unwrap_or(FileType::F16)),
        (None, None) => {
            let e = Error::parameter("quantize.type", "no type is given");
            Err(e.help("name one with --type, such as Q4_K_M, or give a --recipe"))
        }
    }
}

fn wishes(file: FileType, options: &QuantizeOptions) -> Result<Wishes> {
    let by_name = options.by_name.iter();
    let exclude = options.exclude.iter().map(|text| pattern(text));
    Ok(Wishes {
        file,
        pure: options.pure,
        leave_output: options.leave_output,
        output: options.output,
        embedding: options.embedding,
        by_name: by_name
            .map(|(text, to)| Ok((pattern(text)?, *to)))
            .collect::<Result<_>>()?,
        exclude: exclude.collect::<Result<_>>()?,
        matrix: options.matrix.is_some(),
    })
}

/// Refuses a matrix with entries for tensors that the model does not have.
fn check_names(
    model: &Model,
    m: &Matrix,
    order: &Order,
    options: &QuantizeOptions,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let names: std::collections::HashSet<&str> =
        model.tensors.iter().map(|t| t.name.as_str()).collect();
    let strangers: Vec<&str> = m
        .entries
        .keys()
        .map(String::as_str)
        .filter(|n| !names.contains(n) && !order.pruned.iter().any(|p| p == n))
        .collect();
    let Some(first) = strangers.first() else {
        return Ok(());
    };
    let n = strangers.len();
    let message = format!(
        "the importance matrix has {first}, which the model does not have ({n} of {} entries)",
        m.entries.len()
    );
    if n == m.entries.len() || !options.partial_matrix {
        let e = Error::parameter("imatrix.names", message);
        return Err(e.help(
            "it was computed with another model; --allow-partial-imatrix uses the entries that fit",
        ));
    }
    warn(warnings, "imatrix.names", message);
    Ok(())
}

/// The path of file `no`: with `keep_split` as the reference names it.
fn file_path(path: &Path, no: usize, files: usize, keep_split: bool) -> PathBuf {
    if !keep_split {
        return path.to_owned();
    }
    let mut name = match path.extension() {
        Some(e) if e == "gguf" => path.with_extension("").into_os_string(),
        _ => path.as_os_str().to_owned(),
    };
    name.push(split::suffix(no, files));
    name.into()
}
