//! How Megatron-LM cuts each weight over its tensor-parallel ranks, as data.
//!
//! Reference: the `ColumnParallelLinear`, `RowParallelLinear` and `VocabParallelEmbedding` layers
//! of `megatron/core` (and `megatron/legacy/model`) and the axes their `sharded_state_dict` names.

/// How the ranks' parts of a weight make the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Every rank has the same values.
    Replicated,
    /// The parts follow each other along `axis`.
    Along {
        axis: usize,
        /// Each part is this many blocks, of which all ranks' first follow each other, then all
        /// ranks' second: the gate and up halves of a gated layer, the three of old QKV weights.
        blocks: u64,
    },
}

/// What blocks a column-parallel weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    One,
    /// Two when the model is gated (SwiGLU and its like).
    Gated,
    /// This many in checkpoints of version 0.
    Old(u64),
}

/// One rule: the last steps of a name before `weight` or `bias`.
struct Rule {
    layer: &'static str,
    /// Text that a step before it must hold, or empty.
    inside: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Weight and bias along dimension 0.
    Column(Blocks),
    /// Weight along dimension 1, bias replicated.
    Row,
    /// Weight and bias along dimension 0, one row a token.
    Vocabulary,
}

const fn rule(layer: &'static str, inside: &'static str, kind: Kind) -> Rule {
    Rule {
        layer,
        inside,
        kind,
    }
}

use Kind::{Column, Row, Vocabulary};

/// Names of both generations of Megatron's models. What no rule names must be replicated.
const RULES: &[Rule] = &[
    // Embeddings and heads.
    rule("word_embeddings", "", Vocabulary),
    rule("word_embeddings_for_head", "", Vocabulary),
    rule("output_layer", "", Vocabulary),
    rule("lm_head", "", Vocabulary),
    // Attention.
    rule("query_key_value", "", Column(Blocks::Old(3))),
    rule("key_value", "", Column(Blocks::Old(2))),
    rule("query", "", Column(Blocks::One)),
    rule("linear_qkv", "", Column(Blocks::One)),
    rule("linear_q", "", Column(Blocks::One)),
    rule("linear_kv", "", Column(Blocks::One)),
    rule("linear_q_proj", "", Column(Blocks::One)),
    rule("linear_q_up_proj", "", Column(Blocks::One)),
    rule("linear_kv_up_proj", "", Column(Blocks::One)),
    rule("dense", "attention", Row),
    rule("linear_proj", "", Row),
    // Feed-forward layers, of experts too.
    rule("dense_h_to_4h", "", Column(Blocks::Gated)),
    rule("linear_fc1", "", Column(Blocks::Gated)),
    rule("dense_4h_to_h", "", Row),
    rule("linear_fc2", "", Row),
];

/// What of the checkpoint the rules depend on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    /// Gated feed-forward layers: `swiglu`, `gated_linear_unit` or `glu_activation`.
    pub gated: bool,
    /// Checkpoint version 0, whose QKV weights are in blocks.
    pub blocked_qkv: bool,
}

/// How the weight called `name` is cut.
pub(super) fn cut(name: &str, facts: Facts) -> Cut {
    let mut steps = name.rsplit('.');
    let (Some(parameter), Some(layer)) = (steps.next(), steps.next()) else {
        return Cut::Replicated;
    };
    // Grouped experts number their weights: `linear_fc1.weight0`.
    let parameter = parameter.trim_end_matches(|c: char| c.is_ascii_digit());
    let bias = match parameter {
        "weight" => false,
        "bias" => true,
        _ => return Cut::Replicated,
    };
    let inside = |r: &Rule| r.inside.is_empty() || steps.clone().any(|s| s.contains(r.inside));
    let Some(rule) = RULES.iter().find(|r| r.layer == layer && inside(r)) else {
        return Cut::Replicated;
    };
    match rule.kind {
        Column(blocks) => Cut::Along {
            axis: 0,
            blocks: match blocks {
                Blocks::Gated if facts.gated => 2,
                Blocks::Old(n) if facts.blocked_qkv => n,
                _ => 1,
            },
        },
        Vocabulary => Cut::Along { axis: 0, blocks: 1 },
        Row if bias => Cut::Replicated,
        Row => Cut::Along { axis: 1, blocks: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_names() {
        let plain = Facts::default();
        let gated = Facts {
            gated: true,
            blocked_qkv: true,
        };
        let along = |axis, blocks| Cut::Along { axis, blocks };
        let layer = "model.language_model.encoder.layers.0.";
        for (name, facts, want) in [
            ("self_attention.dense.weight", plain, along(1, 1)),
            ("self_attention.dense.bias", plain, Cut::Replicated),
            ("attention.query_key_value.bias", plain, along(0, 1)),
            ("attention.query_key_value.weight", gated, along(0, 3)),
            ("mlp.dense_h_to_4h.weight", gated, along(0, 2)),
            ("mlp.linear_fc1.layer_norm_weight", gated, Cut::Replicated),
            ("mlp.experts.linear_fc1.weight12", gated, along(0, 2)),
            ("mlp.linear_fc2.weight", plain, along(1, 1)),
            ("mlp.router.weight", plain, Cut::Replicated),
            ("input_layernorm.weight", plain, Cut::Replicated),
        ] {
            assert_eq!(cut(&format!("{layer}{name}"), facts), want, "{name}");
        }
        assert_eq!(cut("model.pooler.dense.weight", plain), Cut::Replicated);
        assert_eq!(cut("model.lm_head.dense.weight", plain), Cut::Replicated);
        assert_eq!(cut("model.lm_head.bias", plain), along(0, 1));
        assert_eq!(cut("weight", plain), Cut::Replicated);
    }
}
