//! What the rules of a mix ask of an architecture.
//!
//! Facts: `llama_model_base::load_hparams` and the `load_arch_hparams` of `src/models/*.cpp` in
//! llama.cpp 0c1e570.

use weighbridge_core::model::{Model, Value};

use super::mix::{Category, category};

/// The architectures that the reference quantizer knows (`LLM_ARCH_NAMES`).
const KNOWN: &str = " clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder \
    refact bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert \
    bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 \
    qwen35moe qwen4exp phi2 phi3 phimoe plamo plamo2 plamo3 codeshell orion internlm2 minicpm \
    minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant gemma-embedding starcoder2 mamba \
    mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe \
    muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 \
    glm4moe glm-dsa bitnet t5 t5encoder jais jais2 nemotron nemotron_h nemotron_h_moe exaone \
    exaone4 exaone-moe rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid \
    graniteswitch granite_swa chameleon wavtokenizer-dec plm bailingmoe bailingmoe2 bailingmoe3 \
    dots1 dots3note arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl \
    hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss grovemoe \
    apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1 pangu-embedded mistral3 eagle3 \
    dflash mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder kimi-linear kimi-k3 \
    glm5-next talkie mellum nanbeige qwen3tts pockettts ";

/// What the mix rules ask of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arch {
    /// `general.architecture`, where the model says it.
    pub name: Option<String>,
    /// Whether the reference knows it: the rules are its own then.
    pub known: bool,
    /// Layers, predicting ones included.
    pub layers: i64,
    /// Experts; 0 without.
    pub experts: i64,
    /// How many query heads share a key head.
    pub gqa: i64,
    /// Whether it is one of the models called 70B, whose value projections are small.
    pub seventy: bool,
}

impl Arch {
    /// What `model` says of itself; from names and shapes where that is not enough.
    pub fn of(model: &Model) -> Self {
        let name = find(model, "general.architecture")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let known = name
            .as_ref()
            .is_some_and(|n| !n.contains(' ') && KNOWN.contains(&format!(" {n} ")));
        match name {
            Some(name) if known => Self::told(model, name),
            name => Self::guessed(model, name),
        }
    }

    fn told(model: &Model, name: String) -> Self {
        let key = |k: &str| find(model, &format!("{name}.{k}"));
        let heads = key("attention.head_count").and_then(first).unwrap_or(0);
        let kv = key("attention.head_count_kv").and_then(first);
        let kv = kv.unwrap_or(heads);
        let mut layers = key("block_count").and_then(Value::as_int).unwrap_or(0);
        let next = key("nextn_predict_layers").and_then(Value::as_int);
        let own = layers.saturating_sub(next.unwrap_or(0));
        let seventy = match name.as_str() {
            "llama" | "llama-embed" => own == 80 && heads != kv,
            "qwen2" | "deci" | "olmo" => own == 80,
            "jais2" => own == 68,
            _ => false,
        };
        match name.as_str() {
            // A layer of its own routes between the others.
            "graniteswitch" => layers = own.saturating_add(1),
            "nanbeige" => {
                let loops = key("num_loops").and_then(Value::as_int).unwrap_or(1);
                if loops > 1 {
                    layers = own.saturating_mul(loops);
                }
            }
            _ => {}
        }
        let experts = key("expert_count").and_then(Value::as_int).unwrap_or(0);
        Self {
            name: Some(name),
            known: true,
            layers,
            experts,
            gqa: heads.checked_div(kv).unwrap_or(0),
            seventy,
        }
    }

    /// From the tensors alone.
    fn guessed(model: &Model, name: Option<String>) -> Self {
        let (mut layers, mut experts) = (0i64, 0i64);
        let (mut q, mut k) = (None, None);
        for t in &model.tensors {
            if let Some(n) = layer(&t.name) {
                layers = layers.max(n.saturating_add(1));
            }
            let rows = t.shape.iter().rev().nth(1).copied();
            match category(&t.name, true) {
                Category::AttentionQ => q = q.or(rows),
                Category::AttentionK => k = k.or(rows),
                Category::FfnUp | Category::FfnGate | Category::FfnDown if t.shape.len() == 3 => {
                    let n = t.shape.first().copied().unwrap_or(0);
                    experts = experts.max(i64::try_from(n).unwrap_or(0));
                }
                _ => {}
            }
        }
        let gqa = match (q, k) {
            (Some(q), Some(k)) => q.checked_div(k).unwrap_or(0),
            _ => 0,
        };
        Self {
            name,
            known: false,
            layers,
            experts,
            gqa: i64::try_from(gqa).unwrap_or(0),
            seventy: false,
        }
    }

    /// Whether it is called `name`.
    pub fn is(&self, name: &str) -> bool {
        self.known && self.name.as_deref() == Some(name)
    }
}

fn find<'a>(model: &'a Model, key: &str) -> Option<&'a Value> {
    let found = model.metadata.iter().find(|(k, _)| k == key);
    found.map(|(_, v)| v)
}

/// A number, or the first of an array with one for each layer.
fn first(v: &Value) -> Option<i64> {
    match v {
        Value::Packed(p) => p.values(1).ok()?.first().and_then(Value::as_int),
        v => v.as_int(),
    }
}

/// The layer that a name tells, in GGUF's form or in one of the usual others.
pub(super) fn layer(name: &str) -> Option<i64> {
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let list = matches!(part, "blk" | "layers" | "h" | "layer" | "blocks" | "block");
        if let (true, Some(n)) = (list, parts.peek().and_then(|n| n.parse::<u32>().ok())) {
            return Some(i64::from(n));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_core::model::{DType, Element, FormatId, Number, Packed, Tensor, TensorSource};

    fn model(keys: &[(&str, Value)]) -> Model {
        let mut m = Model::new(FormatId::Gguf);
        m.metadata = keys.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        m
    }

    fn u32s(n: u32) -> Value {
        Value::Number(Number::U32(n))
    }

    #[test]
    fn what_the_keys_say() {
        let mut m = model(&[
            ("general.architecture", Value::Str("llama".into())),
            ("llama.block_count", u32s(80)),
            ("llama.attention.head_count", u32s(64)),
        ]);
        let a = Arch::of(&m);
        assert!(a.known && a.is("llama") && !a.seventy);
        assert_eq!((a.layers, a.gqa, a.experts), (80, 1, 0));
        m.metadata
            .push(("llama.attention.head_count_kv".into(), u32s(8)));
        let a = Arch::of(&m);
        assert!(a.seventy);
        assert_eq!(a.gqa, 8);
        let zeros = Packed::from_bytes(Element::I32, 2, vec![0, 0, 0, 0, 8, 0, 0, 0]);
        m.metadata.pop();
        m.metadata
            .push(("llama.attention.head_count_kv".into(), Value::Packed(zeros)));
        assert_eq!(Arch::of(&m).gqa, 0);
    }

    #[test]
    fn what_names_and_shapes_say() {
        let mut m = model(&[("general.architecture", Value::Str("brandnew".into()))]);
        for (name, shape) in [
            ("model.layers.11.self_attn.q_proj.weight", &[512u64, 64][..]),
            ("model.layers.11.self_attn.k_proj.weight", &[128, 64]),
            ("blk.3.ffn_down_exps.weight", &[8, 64, 64]),
        ] {
            let t = Tensor::new(name, DType::F16, shape, TensorSource::Absent);
            m.tensors.push(t);
        }
        let a = Arch::of(&m);
        assert!(!a.known && !a.is("brandnew"));
        assert_eq!((a.layers, a.gqa, a.experts), (12, 4, 8));
    }
}
