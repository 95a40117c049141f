//! Which type each tensor gets.
//!
//! The rules are those of `src/llama-quant.cpp` of llama.cpp 0c1e570, in the order in which that
//! file asks them: `tensor_allows_quantization`, `tensor_get_category`, `llama_tensor_get_type`,
//! `llama_tensor_get_type_impl`, `tensor_type_fallback`, `tensor_requires_imatrix`. Tensors are
//! to be visited in the order in which they are written, because some rules count.

use regex::Regex;
use weighbridge_core::model::DType;

use super::arch::{self, Arch};
use super::ftype::FileType;

/// What a tensor does in a model, as far as the rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the parts' usual names
pub enum Category {
    TokenEmbd,
    AttentionQ,
    AttentionV,
    AttentionK,
    AttentionQkv,
    AttentionKvB,
    AttentionOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Output,
    Other,
}

impl Category {
    /// Whether it is like the value projection, which suffers most.
    fn is_value(self) -> bool {
        matches!(
            self,
            Self::AttentionV | Self::AttentionQkv | Self::AttentionKvB
        )
    }
}

/// Parts of GGUF's own names, the first that fits counts.
const PARTS: [(&str, Category); 9] = [
    ("attn_qkv.weight", Category::AttentionQkv),
    ("attn_kv_b.weight", Category::AttentionKvB),
    ("attn_v.weight", Category::AttentionV),
    ("attn_k.weight", Category::AttentionK),
    ("attn_q.weight", Category::AttentionQ),
    ("attn_output.weight", Category::AttentionOutput),
    ("ffn_up", Category::FfnUp),
    ("ffn_gate", Category::FfnGate),
    ("ffn_down", Category::FfnDown),
];

/// What the same tensors are called in checkpoints of the transformers library.
const OTHER_PARTS: [(&str, Category); 15] = [
    (".qkv_proj.weight", Category::AttentionQkv),
    (".query_key_value.weight", Category::AttentionQkv),
    (".c_attn.weight", Category::AttentionQkv),
    (".kv_b_proj.weight", Category::AttentionKvB),
    (".v_proj.weight", Category::AttentionV),
    (".k_proj.weight", Category::AttentionK),
    (".q_proj.weight", Category::AttentionQ),
    (".o_proj.weight", Category::AttentionOutput),
    (".out_proj.weight", Category::AttentionOutput),
    (".up_proj", Category::FfnUp),
    (".gate_up_proj", Category::FfnUp),
    (".gate_proj", Category::FfnGate),
    (".down_proj", Category::FfnDown),
    (".fc1.weight", Category::FfnUp),
    (".fc2.weight", Category::FfnDown),
];

/// What the tensor called `name` does; `generic` takes names of other libraries too.
pub fn category(name: &str, generic: bool) -> Category {
    match name {
        "output.weight" => return Category::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => return Category::TokenEmbd,
        "lm_head.weight" if generic => return Category::Output,
        _ if generic && is_other_embedding(name) => return Category::TokenEmbd,
        _ => {}
    }
    let more = if generic { &OTHER_PARTS[..] } else { &[] };
    let found = PARTS
        .iter()
        .chain(more)
        .find(|(part, _)| name.contains(part));
    found.map_or(Category::Other, |(_, c)| *c)
}

fn is_other_embedding(name: &str) -> bool {
    name == "embed_tokens.weight"
        || name.ends_with(".embed_tokens.weight")
        || matches!(name, "wte.weight" | "transformer.wte.weight")
}

/// Small or fragile tensors that stay as they are, by a part of their name.
const KEPT: [&str; 35] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// What the same are called elsewhere.
const KEPT_ELSEWHERE: [&str; 7] = [
    "norm.weight",
    "layernorm",
    ".mlp.gate.weight",
    ".conv1d.weight",
    "position_embeddings",
    "token_type_embeddings",
    "wpe.weight",
];

/// What stays as it is in `glm5-next` besides.
const KEPT_GLM5_NEXT: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// A tensor as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name in the output.
    pub name: &'a str,
    /// Its type now.
    pub dtype: DType,
    /// Its shape, outermost dimension first.
    pub shape: &'a [u64],
}

impl Subject<'_> {
    /// Values in a row.
    pub fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Matrices: experts.
    fn matrices(&self) -> u64 {
        self.shape.iter().rev().nth(2).copied().unwrap_or(1)
    }

    /// Dimensions, those of extent 1 at the outside not counted.
    fn dimensions(&self) -> usize {
        let ones = self.shape.iter().take_while(|&&d| d == 1).count();
        (self.shape.len() - ones).max(1)
    }
}

/// What a whole model is quantized to, and by which wishes.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// The file type.
    pub file: FileType,
    /// One type for all, no mix.
    pub pure: bool,
    /// Leave `output.weight` as it is.
    pub leave_output: bool,
    /// The type of `output.weight`.
    pub output: Option<DType>,
    /// The type of the token embeddings.
    pub embedding: Option<DType>,
    /// Types by name; the first that is found in a name counts.
    pub by_name: Vec<(Regex, DType)>,
    /// Names that stay as they are.
    pub exclude: Vec<Regex>,
    /// Whether there is an importance matrix.
    pub matrix: bool,
}

/// The type a tensor gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub to: DType,
    /// What it would have been, had its rows the length for it.
    pub instead_of: Option<DType>,
    /// Whether a matrix must have weights for it.
    pub needs_matrix: bool,
}

/// Chooses types; see the [module](self).
#[derive(Debug)]
pub struct Mix<'a> {
    wishes: &'a Wishes,
    arch: &'a Arch,
    /// Tensors that are like the value projection.
    values: i64,
    /// How many of each were met.
    value: i64,
    down: i64,
    gate: i64,
    up: i64,
    /// Whether the token embeddings are the output's matrix too.
    tied: bool,
}

impl<'a> Mix<'a> {
    /// Rules for the tensors called `names`.
    pub fn new<'n>(
        wishes: &'a Wishes,
        arch: &'a Arch,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let (mut values, mut tied) = (0, true);
        for name in names {
            let c = category(name, !arch.known);
            values += i64::from(c.is_value());
            tied &= c != Category::Output;
        }
        Self {
            wishes,
            arch,
            values,
            value: 0,
            down: 0,
            gate: 0,
            up: 0,
            tied,
        }
    }

    /// The type of the next tensor.
    pub fn next(&mut self, t: &Subject<'_>) -> Choice {
        let (to, instead_of) = self.choose(t);
        let instead_of = instead_of.filter(|d| *d != to);
        Choice {
            to,
            instead_of,
            needs_matrix: to != t.dtype && self.needs_matrix(t.name, to),
        }
    }

    /// The choice where the type was told.
    pub fn told(&self, t: &Subject<'_>, to: DType) -> Choice {
        let (to, instead_of) = fitting(t, to);
        Choice {
            to,
            instead_of,
            needs_matrix: to != t.dtype && self.needs_matrix(t.name, to),
        }
    }

    fn category(&self, name: &str) -> Category {
        category(name, !self.arch.known)
    }

    fn choose(&mut self, t: &Subject<'_>) -> (DType, Option<DType>) {
        let w = self.wishes;
        if !self.allows(t) || w.exclude.iter().any(|r| r.is_match(t.name)) {
            return (t.dtype, None);
        }
        let c = self.category(t.name);
        let named = || w.by_name.iter().find(|(r, _)| r.is_match(t.name));
        if let (Some(to), Category::TokenEmbd) = (w.embedding, c) {
            // The table for each layer is large and apart: a name may still mean it.
            if t.name != "per_layer_token_embd.weight" || named().is_none() {
                return fitting(t, to);
            }
        }
        if let (Some(to), Category::Output) = (w.output, c) {
            return fitting(t, to);
        }
        let base = w.file.base();
        if base.block().is_none() {
            return (base, None);
        }
        let to = match named() {
            Some((_, to)) => *to,
            None if w.pure => base,
            None => self.mixed(t, base, c),
        };
        fitting(t, to)
    }

    /// Whether a tensor of this type is useless without weights for it.
    fn needs_matrix(&self, name: &str, to: DType) -> bool {
        let block = crate::convert::blocks::block_of(to);
        if block.is_some_and(|b| b.needs_weights()) {
            return true;
        }
        let c = self.category(name);
        if matches!(c, Category::TokenEmbd | Category::Output) {
            return false;
        }
        match to {
            DType::IQ3_XXS | DType::IQ2_S | DType::IQ1_M => true,
            DType::Q2_K => self.wishes.file == FileType::Q2_K_S,
            _ => false,
        }
    }

    /// Names of five letters pass as ones that end in `weight`: the reference compares the position
    /// of the word, which is -1 where it is missing, with the length less six.
    fn takes_by_length(&self, name: &str) -> bool {
        self.arch.known && name.len() == 5
    }

    /// Whether the tensor is quantized at all.
    fn allows(&self, t: &Subject<'_>) -> bool {
        let name = t.name;
        let elsewhere = !self.arch.known && KEPT_ELSEWHERE.iter().any(|p| name.contains(p));
        self.wishes.file != FileType::COPY
            && t.dimensions() >= 2
            && (name.ends_with("weight") || self.takes_by_length(name))
            && !(self.wishes.leave_output && self.category(name) == Category::Output)
            && !KEPT.iter().any(|part| name.contains(part))
            && !elsewhere
            && !matches!(name, "position_embd.weight" | "token_types.weight")
            && !(self.arch.is("glm5-next") && KEPT_GLM5_NEXT.iter().any(|p| name.contains(p)))
    }

    /// The type that the mix has for a tensor of category `c`.
    fn mixed(&mut self, t: &Subject<'_>, base: DType, c: Category) -> DType {
        use FileType as F;
        let file = self.wishes.file;
        let careful = ["attn_q_a", "attn_q_b", "nextn.eh_proj"];
        if self.arch.is("glm5-next") && careful.iter().any(|p| t.name.contains(p)) {
            return DType::Q8_0;
        }
        let low = matches!(
            file,
            F::IQ2_XXS | F::IQ2_XS | F::IQ1_S | F::IQ2_S | F::IQ2_M | F::IQ1_M
        );
        if c == Category::Output || (self.tied && c == Category::TokenEmbd) {
            self.output(t, base)
        } else if file == F::MXFP4_MOE {
            self.mxfp4_moe(t, c)
        } else if c == Category::TokenEmbd {
            self.embedding(base)
        } else if low {
            self.low(base, c)
        } else {
            self.usual(t, base, c)
        }
    }

    fn output(&self, t: &Subject<'_>, base: DType) -> DType {
        use FileType as F;
        if let Some(to) = self.wishes.output {
            return to;
        }
        let file = self.wishes.file;
        let fits = rows_fit(t.columns(), base);
        if file == F::MXFP4_MOE || self.arch.is("falcon") || !fits {
            DType::Q8_0
        } else if matches!(
            file,
            F::IQ2_XXS | F::IQ2_XS | F::IQ3_XXS | F::IQ1_S | F::IQ2_S | F::IQ2_M | F::IQ1_M
        ) {
            DType::Q5_K
        } else if base != DType::Q8_0 {
            DType::Q6_K
        } else {
            base
        }
    }

    fn mxfp4_moe(&self, t: &Subject<'_>, c: Category) -> DType {
        let expert = matches!(c, Category::FfnUp | Category::FfnGate | Category::FfnDown);
        if t.matrices() > 1 && (!self.arch.is("bailingmoe3") || expert) {
            DType::MXFP4
        } else {
            DType::Q8_0
        }
    }

    fn embedding(&self, base: DType) -> DType {
        use FileType as F;
        if let Some(to) = self.wishes.embedding {
            return to;
        }
        match self.wishes.file {
            F::IQ2_XXS | F::IQ2_XS | F::IQ1_S | F::IQ1_M => DType::Q2_K,
            F::IQ2_S | F::IQ2_M | F::IQ3_XXS => DType::IQ3_S,
            F::TQ1_0 | F::TQ2_0 | F::Q2_0 => DType::Q4_K,
            _ => base,
        }
    }

    /// The types of about two bits and less.
    fn low(&mut self, base: DType, c: Category) -> DType {
        use FileType as F;
        let file = self.wishes.file;
        let better = if matches!(file, F::IQ2_S | F::IQ2_M) {
            DType::IQ3_S
        } else {
            DType::Q2_K
        };
        let eight = self.arch.experts == 8;
        if c.is_value() {
            self.value += 1;
            let small = self.arch.gqa >= 4 || self.arch.experts >= 4;
            return if small { DType::Q4_K } else { better };
        }
        match c {
            Category::AttentionK if eight => DType::Q4_K,
            Category::FfnDown => {
                let first = self.down < self.arch.layers / 8;
                self.down += 1;
                if first { better } else { base }
            }
            Category::AttentionOutput if eight => DType::Q5_K,
            Category::AttentionOutput => match file {
                F::IQ1_S | F::IQ1_M => DType::IQ2_XXS,
                F::IQ2_S | F::IQ2_M => DType::IQ3_S,
                _ => base,
            },
            _ => base,
        }
    }

    fn usual(&mut self, t: &Subject<'_>, base: DType, c: Category) -> DType {
        use FileType as F;
        let file = self.wishes.file;
        let eight = self.arch.experts == 8;
        if c.is_value() {
            return self.value(base);
        }
        match c {
            Category::AttentionK if eight => DType::Q8_0,
            Category::AttentionK | Category::AttentionQ => match file {
                F::IQ3_XS => DType::IQ3_XXS,
                F::IQ3_XXS => DType::IQ2_S,
                _ => base,
            },
            Category::FfnDown => {
                let i = self.layer(self.down, t.name);
                self.down += 1;
                self.ffn_down(base, i)
            }
            Category::AttentionOutput => self.attention_output(base),
            Category::FfnGate => {
                let i = self.layer(self.gate, t.name);
                self.gate += 1;
                self.ffn_in(base, i)
            }
            Category::FfnUp => {
                let i = self.layer(self.up, t.name);
                self.up += 1;
                self.ffn_in(base, i)
            }
            _ => base,
        }
    }

    fn value(&mut self, base: DType) -> DType {
        use FileType as F;
        let (i, n) = (self.value, self.values);
        self.value += 1;
        let shared = self.arch.gqa >= 4;
        let mut to = match self.wishes.file {
            F::Q2_K if shared => DType::Q4_K,
            F::Q2_K => DType::Q3_K,
            F::Q2_K_S | F::IQ3_XXS | F::IQ3_XS | F::IQ3_S if shared => DType::Q4_K,
            F::IQ3_XXS if self.wishes.matrix => DType::IQ3_XXS,
            F::IQ3_XXS => DType::IQ3_S,
            F::IQ3_M => DType::Q4_K,
            F::Q3_K_M if i < 2 => DType::Q5_K,
            F::Q3_K_M => DType::Q4_K,
            F::Q3_K_L => DType::Q5_K,
            F::IQ4_NL | F::IQ4_XS if shared => DType::Q5_K,
            F::Q4_K_M | F::Q5_K_M if use_more_bits(i, n) => DType::Q6_K,
            F::Q4_K_S if i < 4 => DType::Q5_K,
            _ => base,
        };
        // Eight heads share it there: it is small, and better types cost little.
        if self.arch.seventy && matches!(to, DType::Q3_K | DType::Q4_K) {
            to = DType::Q5_K;
        }
        if self.arch.experts == 8 {
            to = DType::Q8_0;
        }
        to
    }

    fn ffn_down(&self, base: DType, i: i64) -> DType {
        use FileType as F;
        let n = self.arch.layers;
        let falcon = self.arch.is("falcon");
        let more = use_more_bits(i, n);
        let (eighth, sixteenth) = (i < n / 8, i < n / 16);
        match self.wishes.file {
            F::Q2_K => DType::Q3_K,
            F::Q2_K_S if eighth => DType::Q4_K,
            F::IQ3_XXS if !self.wishes.matrix && eighth => DType::Q4_K,
            F::IQ3_XXS if !self.wishes.matrix => DType::Q3_K,
            F::Q3_K_M if sixteenth => DType::Q5_K,
            F::Q3_K_M if !falcon || more => DType::Q4_K,
            F::Q3_K_M => DType::Q3_K,
            F::IQ3_M if eighth || (self.arch.experts == 8 && more) => DType::Q4_K,
            F::Q3_K_L if falcon => DType::Q4_K,
            F::Q3_K_L => DType::Q5_K,
            F::Q4_K_M if falcon && sixteenth => DType::Q6_K,
            F::Q4_K_M if falcon && more => DType::Q5_K,
            F::Q4_K_M if falcon => DType::Q4_K,
            F::Q4_K_M | F::Q5_K_M if more => DType::Q6_K,
            F::IQ4_NL | F::IQ4_XS if eighth && !self.wishes.matrix => DType::Q5_K,
            F::Q4_K_S if eighth && !falcon => DType::Q5_K,
            // The first of them can go wild with a matrix, and without one the bytes are to stay
            // what they were before there were matrices.
            F::Q4_0 if self.wishes.matrix && eighth => DType::Q4_1,
            F::Q5_0 if self.wishes.matrix && eighth => DType::Q5_1,
            _ => base,
        }
    }

    fn attention_output(&self, base: DType) -> DType {
        use FileType as F;
        let file = self.wishes.file;
        if self.arch.is("falcon") {
            return if file == F::Q3_K_L { DType::Q4_K } else { base };
        }
        if self.arch.experts == 8 {
            return match file {
                F::Q2_K
                | F::IQ3_XS
                | F::IQ3_XXS
                | F::Q3_K_S
                | F::Q3_K_M
                | F::IQ4_NL
                | F::Q4_K_S
                | F::Q4_K_M
                | F::IQ3_S
                | F::IQ3_M
                | F::IQ4_XS => DType::Q5_K,
                _ => base,
            };
        }
        match file {
            F::Q2_K => DType::Q3_K,
            F::IQ3_XXS => DType::IQ3_S,
            F::Q3_K_M | F::IQ3_M => DType::Q4_K,
            F::Q3_K_L => DType::Q5_K,
            _ => base,
        }
    }

    /// Gate and up.
    fn ffn_in(&self, base: DType, i: i64) -> DType {
        let n = self.arch.layers;
        let middle = i >= n / 8 && i < n.saturating_mul(7) / 8;
        if self.wishes.file == FileType::IQ3_XS && middle {
            DType::IQ3_XXS
        } else {
            base
        }
    }

    /// The layer: with experts the name tells it, since their order in a file says nothing.
    fn layer(&self, counted: i64, name: &str) -> i64 {
        if self.arch.experts > 1 {
            arch::layer(name).unwrap_or(counted)
        } else {
            counted
        }
    }
}

/// The first and the last eighth of the layers, and every third between them.
fn use_more_bits(i: i64, n: i64) -> bool {
    i < n / 8 || i >= n.saturating_mul(7) / 8 || (i - n / 8) % 3 == 2
}

fn rows_fit(columns: u64, to: DType) -> bool {
    to.block()
        .is_none_or(|b| columns.is_multiple_of(b.elements))
}

/// The type itself, or the next that takes rows of this length, with what it stands for. Where
/// the type was given for this very tensor the reference fails; we do as with the others.
fn fitting(t: &Subject<'_>, to: DType) -> (DType, Option<DType>) {
    if rows_fit(t.columns(), to) {
        return (to, None);
    }
    let next = match to {
        DType::IQ1_S
        | DType::IQ1_M
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ3_S
        | DType::IQ4_XS => DType::IQ4_NL,
        // For Q1_0 and NVFP4 the reference has none and gives up.
        DType::Q2_0 | DType::Q2_K | DType::Q3_K | DType::TQ1_0 | DType::TQ2_0 | DType::Q1_0 => {
            DType::Q4_0
        }
        DType::NVFP4 => DType::MXFP4,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    let fits = rows_fit(t.columns(), next);
    (if fits { next } else { DType::F16 }, Some(to))
}
