//! The rules of the mixes as tables.

use weighbridge_core::model::DType;

use super::arch::Arch;
use super::ftype::FileType;
use super::mix::{Category, Mix, Subject, Wishes, category};

fn wishes(file: &str) -> Wishes {
    Wishes {
        file: FileType::parse(file).unwrap(),
        pure: false,
        leave_output: false,
        output: None,
        embedding: None,
        by_name: Vec::new(),
        exclude: Vec::new(),
        matrix: false,
    }
}

fn arch(layers: i64, gqa: i64, experts: i64) -> Arch {
    Arch {
        name: Some("llama".into()),
        known: true,
        layers,
        experts,
        gqa,
        seventy: false,
    }
}

/// The tensors of a model in the order in which they are written.
fn names(layers: i64, tied: bool) -> Vec<String> {
    let mut out = vec!["token_embd.weight".to_owned()];
    if !tied {
        out.insert(0, "output.weight".into());
    }
    for i in 0..layers {
        for part in [
            "attn_k",
            "attn_norm",
            "attn_output",
            "attn_q",
            "attn_v",
            "ffn_down",
            "ffn_gate",
            "ffn_up",
        ] {
            out.push(format!("blk.{i}.{part}.weight"));
        }
    }
    out
}

/// The types of a model whose matrices are `columns` wide.
fn types(w: &Wishes, a: &Arch, tied: bool, columns: u64) -> Vec<(String, DType)> {
    let names = names(a.layers, tied);
    let mut mix = Mix::new(w, a, names.iter().map(String::as_str));
    names
        .iter()
        .map(|name| {
            let subject = Subject {
                name,
                dtype: DType::F16,
                shape: &[columns, columns],
            };
            (name.clone(), mix.next(&subject).to)
        })
        .collect()
}

/// The type of each layer's tensor called `part`, as one word.
fn row(all: &[(String, DType)], part: &str) -> String {
    let suffix = format!(".{part}.weight");
    let types = all.iter().filter(|(n, _)| n.ends_with(&suffix));
    let types: Vec<&str> = types.map(|(_, d)| d.as_str()).collect();
    types.join(" ")
}

fn one(all: &[(String, DType)], name: &str) -> DType {
    all.iter().find(|(n, _)| n == name).unwrap().1
}

#[test]
fn more_bits_go_to_the_ends_and_every_third() {
    let (w, a) = (wishes("Q4_K_M"), arch(16, 1, 0));
    let all = types(&w, &a, false, 256);
    // n/8 = 2 and 7n/8 = 14; between them where (i - 2) % 3 is 2.
    let want = "Q6_K Q6_K Q4_K Q4_K Q6_K Q4_K Q4_K Q6_K Q4_K Q4_K Q6_K Q4_K Q4_K Q6_K Q6_K Q6_K";
    assert_eq!(row(&all, "attn_v"), want);
    assert_eq!(row(&all, "ffn_down"), want);
    assert!(row(&all, "ffn_up").split(' ').all(|d| d == "Q4_K"));
    assert!(row(&all, "attn_norm").split(' ').all(|d| d == "F16"));
    assert_eq!(one(&all, "output.weight"), DType::Q6_K);
    assert_eq!(one(&all, "token_embd.weight"), DType::Q4_K);
}

#[test]
fn what_each_file_type_gives_the_sensitive_tensors() {
    // file type, matrix, gqa, then for 8 layers: value, down, output, query, gate
    for (file, matrix, gqa, v, down, o, q, gate) in [
        ("Q2_K", false, 1, "Q3_K", "Q3_K", "Q3_K", "Q2_K", "Q2_K"),
        ("Q2_K", false, 4, "Q4_K", "Q3_K", "Q3_K", "Q2_K", "Q2_K"),
        (
            "Q2_K_S",
            true,
            4,
            "Q4_K",
            "Q4_K Q2_K",
            "Q2_K",
            "Q2_K",
            "Q2_K",
        ),
        ("Q3_K_S", false, 1, "Q3_K", "Q3_K", "Q3_K", "Q3_K", "Q3_K"),
        (
            "Q3_K_M",
            false,
            1,
            "Q5_K Q5_K Q4_K",
            "Q4_K",
            "Q4_K",
            "Q3_K",
            "Q3_K",
        ),
        ("Q3_K_L", false, 1, "Q5_K", "Q5_K", "Q5_K", "Q3_K", "Q3_K"),
        (
            "Q4_K_S",
            false,
            1,
            "Q5_K Q5_K Q5_K Q5_K Q4_K",
            "Q5_K Q4_K",
            "Q4_K",
            "Q4_K",
            "Q4_K",
        ),
        (
            "IQ4_XS",
            false,
            1,
            "IQ4_XS",
            "Q5_K IQ4_XS",
            "IQ4_XS",
            "IQ4_XS",
            "IQ4_XS",
        ),
        (
            "IQ4_XS", true, 4, "Q5_K", "IQ4_XS", "IQ4_XS", "IQ4_XS", "IQ4_XS",
        ),
        (
            "IQ4_NL",
            false,
            4,
            "Q5_K",
            "Q5_K IQ4_NL",
            "IQ4_NL",
            "IQ4_NL",
            "IQ4_NL",
        ),
        (
            "IQ3_XXS",
            false,
            1,
            "IQ3_S",
            "Q4_K Q3_K",
            "IQ3_S",
            "IQ2_S",
            "IQ3_XXS",
        ),
        (
            "IQ3_XXS", true, 1, "IQ3_XXS", "IQ3_XXS", "IQ3_S", "IQ2_S", "IQ3_XXS",
        ),
        (
            "IQ3_M",
            true,
            1,
            "Q4_K",
            "Q4_K IQ3_S",
            "Q4_K",
            "IQ3_S",
            "IQ3_S",
        ),
        ("IQ3_S", true, 4, "Q4_K", "IQ3_S", "IQ3_S", "IQ3_S", "IQ3_S"),
        (
            "IQ3_XS",
            true,
            1,
            "IQ3_S",
            "IQ3_S",
            "IQ3_S",
            "IQ3_XXS",
            "IQ3_S IQ3_XXS IQ3_XXS IQ3_XXS IQ3_XXS IQ3_XXS IQ3_XXS IQ3_S",
        ),
        (
            "IQ2_XXS",
            true,
            1,
            "Q2_K",
            "Q2_K IQ2_XXS",
            "IQ2_XXS",
            "IQ2_XXS",
            "IQ2_XXS",
        ),
        (
            "IQ2_M",
            true,
            1,
            "IQ3_S",
            "IQ3_S IQ2_S",
            "IQ3_S",
            "IQ2_S",
            "IQ2_S",
        ),
        (
            "IQ1_S",
            true,
            4,
            "Q4_K",
            "Q2_K IQ1_S",
            "IQ2_XXS",
            "IQ1_S",
            "IQ1_S",
        ),
        ("Q4_0", false, 1, "Q4_0", "Q4_0", "Q4_0", "Q4_0", "Q4_0"),
        ("Q4_0", true, 1, "Q4_0", "Q4_1 Q4_0", "Q4_0", "Q4_0", "Q4_0"),
        ("Q5_0", true, 1, "Q5_0", "Q5_1 Q5_0", "Q5_0", "Q5_0", "Q5_0"),
        ("F16", false, 1, "F16", "F16", "F16", "F16", "F16"),
    ] {
        let w = Wishes {
            matrix,
            ..wishes(file)
        };
        let all = types(&w, &arch(8, gqa, 0), false, 256);
        for (part, want) in [
            ("attn_v", v),
            ("ffn_down", down),
            ("attn_output", o),
            ("attn_q", q),
            ("ffn_gate", gate),
            ("ffn_up", gate),
        ] {
            // The last word stands for the layers that follow.
            let mut words: Vec<&str> = want.split(' ').collect();
            words.resize(8, words.last().copied().unwrap());
            assert_eq!(
                row(&all, part),
                words.join(" "),
                "{file} {matrix} {gqa} {part}"
            );
        }
    }
}

#[test]
fn outputs_and_embeddings() {
    for (file, output, embedding) in [
        ("Q8_0", "Q8_0", "Q8_0"),
        ("Q4_0", "Q6_K", "Q4_0"),
        ("IQ2_XS", "Q5_K", "Q2_K"),
        ("IQ2_S", "Q5_K", "IQ3_S"),
        ("IQ3_XXS", "Q5_K", "IQ3_S"),
        ("IQ1_M", "Q5_K", "Q2_K"),
        ("TQ1_0", "Q6_K", "Q4_K"),
        ("Q2_0", "Q6_K", "Q4_K"),
        ("MXFP4_MOE", "Q8_0", "Q8_0"),
        ("BF16", "BF16", "BF16"),
    ] {
        let w = wishes(file);
        let all = types(&w, &arch(1, 1, 0), false, 256);
        assert_eq!(one(&all, "output.weight").as_str(), output, "{file}");
        assert_eq!(one(&all, "token_embd.weight").as_str(), embedding, "{file}");
        // Tied: the table is the output's matrix.
        let tied = types(&w, &arch(1, 1, 0), true, 256);
        assert_eq!(one(&tied, "token_embd.weight").as_str(), output, "{file}");
    }
    let w = Wishes {
        embedding: Some(DType::Q8_0),
        output: Some(DType::F16),
        ..wishes("Q4_K_M")
    };
    let all = types(&w, &arch(1, 1, 0), false, 256);
    assert_eq!(one(&all, "output.weight"), DType::F16);
    assert_eq!(one(&all, "token_embd.weight"), DType::Q8_0);
    let tied = types(&w, &arch(1, 1, 0), true, 256);
    assert_eq!(one(&tied, "token_embd.weight"), DType::Q8_0);
    let w = Wishes {
        leave_output: true,
        ..wishes("Q4_K_M")
    };
    let all = types(&w, &arch(1, 1, 0), false, 256);
    assert_eq!(one(&all, "output.weight"), DType::F16);
}

#[test]
fn large_and_mixed_models() {
    // Seventy: the value projection is small.
    let mut a = arch(80, 8, 0);
    a.seventy = true;
    let all = types(&wishes("Q3_K_M"), &a, false, 256);
    assert!(row(&all, "attn_v").split(' ').all(|d| d == "Q5_K"));
    let all = types(&wishes("Q4_K_M"), &a, false, 256);
    assert!(
        row(&all, "attn_v").starts_with("Q6_K Q6_K Q6_K Q6_K Q6_K Q6_K Q6_K Q6_K Q6_K Q6_K Q5_K")
    );
    // Eight experts.
    let all = types(&wishes("Q4_K_M"), &arch(4, 4, 8), false, 256);
    assert!(row(&all, "attn_v").split(' ').all(|d| d == "Q8_0"));
    assert!(row(&all, "attn_k").split(' ').all(|d| d == "Q8_0"));
    assert!(row(&all, "attn_output").split(' ').all(|d| d == "Q5_K"));
    let all = types(&wishes("IQ2_XS"), &arch(4, 1, 8), false, 256);
    assert!(row(&all, "attn_k").split(' ').all(|d| d == "Q4_K"));
    assert!(row(&all, "attn_output").split(' ').all(|d| d == "Q5_K"));
    // Falcon.
    let mut a = arch(16, 1, 0);
    a.name = Some("falcon".into());
    let all = types(&wishes("Q4_K_M"), &a, false, 256);
    assert_eq!(one(&all, "output.weight"), DType::Q8_0);
    assert!(row(&all, "ffn_down").starts_with("Q6_K Q5_K Q4_K Q4_K Q5_K"));
    let all = types(&wishes("Q3_K_L"), &a, false, 256);
    assert!(row(&all, "attn_output").split(' ').all(|d| d == "Q4_K"));
}

#[test]
fn experts_in_mxfp4() {
    let (w, a) = (wishes("MXFP4_MOE"), arch(2, 1, 4));
    let mut mix = Mix::new(&w, &a, ["output.weight"]);
    let mut next = |name: &str, shape: &[u64]| {
        let dtype = DType::BF16;
        mix.next(&Subject { name, dtype, shape }).to
    };
    assert_eq!(next("blk.0.ffn_up_exps.weight", &[4, 64, 64]), DType::MXFP4);
    assert_eq!(next("blk.0.ffn_gate_inp.weight", &[4, 64]), DType::BF16);
    assert_eq!(next("blk.0.attn_k.weight", &[64, 64]), DType::Q8_0);
    assert_eq!(next("blk.0.ffn_norm.weight", &[64]), DType::BF16);
}

#[test]
fn rows_that_fit_no_block() {
    for (file, columns, want) in [
        ("Q4_K_S", 96, DType::Q5_0),
        ("Q5_K_S", 96, DType::Q5_1),
        ("Q6_K", 96, DType::Q8_0),
        ("Q3_K_S", 96, DType::Q4_0),
        ("Q2_K", 96, DType::Q4_0),
        ("TQ2_0", 96, DType::Q4_0),
        ("IQ4_XS", 96, DType::IQ4_NL),
        ("IQ3_S", 96, DType::IQ4_NL),
        ("Q8_0", 48, DType::F16),
        ("Q4_K_S", 48, DType::F16),
        ("Q1_0", 96, DType::Q4_0),
    ] {
        let w = wishes(file);
        let a = arch(64, 1, 0);
        let mut mix = Mix::new(&w, &a, ["output.weight"]);
        let choice = mix.next(&Subject {
            name: "blk.20.attn_q.weight",
            dtype: DType::F32,
            shape: &[8, columns],
        });
        assert_eq!(choice.to, want, "{file} {columns}");
        assert_eq!(choice.instead_of, Some(w.file.base()));
    }
    // The output does not fall back by table: it is Q8_0 at once.
    let all = types(&wishes("Q4_K_M"), &arch(1, 1, 0), false, 96);
    assert_eq!(one(&all, "output.weight"), DType::Q8_0);
}

#[test]
fn names_before_rules() {
    let pattern = |text: &str| super::pattern(text).unwrap();
    let w = Wishes {
        by_name: vec![
            (pattern("ATTN_Q"), DType::Q8_0),
            (pattern(r"blk\.1\."), DType::F16),
            (pattern("attn_q"), DType::Q2_K),
        ],
        exclude: vec![pattern("ffn_up")],
        ..wishes("Q4_K_M")
    };
    let all = types(&w, &arch(2, 1, 0), false, 256);
    assert_eq!(row(&all, "attn_q"), "Q8_0 Q8_0");
    assert_eq!(row(&all, "attn_k"), "Q4_K F16");
    assert_eq!(row(&all, "ffn_up"), "F16 F16");
    let w = Wishes {
        pure: true,
        ..wishes("Q4_K_M")
    };
    let all = types(&w, &arch(2, 1, 0), false, 256);
    let blocks: Vec<_> = all.iter().filter(|(n, _)| !n.contains("norm")).collect();
    assert!(blocks.iter().all(|(_, d)| *d == DType::Q4_K));
    assert_eq!(super::pattern("(").unwrap_err().rule(), "quantize.regex");
}

#[test]
fn small_and_odd_tensors_stay() {
    let (w, a) = (wishes("Q8_0"), arch(2, 1, 0));
    let mut mix = Mix::new(&w, &a, ["output.weight"]);
    for (name, shape) in [
        ("blk.0.attn_norm.weight", &[256, 256][..]),
        ("blk.0.attn_q.bias", &[256, 256]),
        ("blk.0.attn_q.weight", &[256]),
        ("blk.0.attn_q.weight", &[1, 256]),
        ("blk.0.ssm_conv1d.weight", &[4, 256]),
        ("blk.0.time_mix_w1.weight", &[4, 256]),
        ("position_embd.weight", &[4, 256]),
        ("token_types.weight", &[4, 256]),
        ("v.patch_embd.weight", &[4, 256]),
        ("blk.0.altup_proj.weight", &[4, 256]),
        ("blk.0.attn_rel_b.weight", &[4, 256]),
    ] {
        let dtype = DType::F32;
        let choice = mix.next(&Subject { name, dtype, shape });
        assert_eq!(choice.to, DType::F32, "{name}");
        assert!(!choice.needs_matrix);
    }
}

#[test]
fn names_of_five_letters_count_as_weights() {
    let (w, known) = (wishes("Q8_0"), arch(2, 1, 0));
    let other = Arch {
        known: false,
        ..known.clone()
    };
    for (a, name, to) in [
        (&known, "alpha", DType::Q8_0),
        (&known, "alphas", DType::F32),
        (&known, "beta", DType::F32),
        (&known, "weight", DType::Q8_0),
        (&other, "alpha", DType::F32),
    ] {
        let mut mix = Mix::new(&w, a, ["output.weight"]);
        let (dtype, shape) = (DType::F32, &[4, 256][..]);
        let choice = mix.next(&Subject { name, dtype, shape });
        assert_eq!(choice.to, to, "{name}");
    }
}

#[test]
fn what_needs_a_matrix() {
    for (file, name, needs) in [
        ("IQ2_XXS", "blk.9.ffn_up.weight", true),
        ("IQ3_XXS", "blk.9.ffn_up.weight", true),
        ("IQ1_M", "blk.9.ffn_up.weight", true),
        ("IQ3_S", "blk.9.ffn_up.weight", false),
        ("Q2_K", "blk.9.ffn_up.weight", false),
        ("Q2_K_S", "blk.9.ffn_up.weight", true),
        ("Q2_K_S", "token_embd.weight", false),
        ("Q4_K_M", "blk.9.ffn_up.weight", false),
    ] {
        let (w, a) = (wishes(file), arch(80, 1, 0));
        let mut mix = Mix::new(&w, &a, ["output.weight"]);
        let choice = mix.next(&Subject {
            name,
            dtype: DType::F16,
            shape: &[256, 256],
        });
        assert_eq!(choice.needs_matrix, needs, "{file} {name}");
    }
}

#[test]
fn names_of_checkpoints_count_for_unknown_models_only() {
    let name = "model.layers.3.self_attn.v_proj.weight";
    assert_eq!(category(name, true), Category::AttentionV);
    assert_eq!(category(name, false), Category::Other);
    assert_eq!(category("lm_head.weight", true), Category::Output);
    assert_eq!(
        category("model.embed_tokens.weight", true),
        Category::TokenEmbd
    );
    assert_eq!(
        category("blk.0.attn_kv_b.weight", false),
        Category::AttentionKvB
    );
}

/// The order of a layer's parts in the table.
const DENSE: [&str; 10] = [
    "attn_k",
    "attn_output",
    "attn_q",
    "attn_q_b",
    "attn_qkv",
    "attn_v",
    "ffn_down",
    "ffn_gate",
    "ffn_gate_inp",
    "ffn_up",
];
const EXPERTS: [&str; 10] = [
    "attn_k",
    "attn_output",
    "attn_q",
    "attn_q_b",
    "attn_kv_b",
    "attn_v",
    "ffn_down_exps",
    "ffn_gate_exps",
    "ffn_gate_inp",
    "ffn_up_exps",
];

/// Types of equal names in a row, as the table has them.
fn runs(types: &[String]) -> String {
    let runs: Vec<String> = types
        .chunk_by(|a, b| a == b)
        .map(|run| format!("{}*{}", run[0], run.len()))
        .collect();
    runs.join(",")
}

/// A line of the table as our rules have it.
fn line(cells: &[&str]) -> String {
    let number = |i: usize| cells[i].parse::<i64>().unwrap();
    let (layers, experts, columns) = (number(1), number(2), number(7) as u64);
    let a = Arch {
        name: Some(cells[0].into()),
        known: true,
        layers,
        experts,
        gqa: number(3),
        seventy: cells[0] == "qwen2" && layers == 80,
    };
    let w = Wishes {
        matrix: cells[5] == "1",
        ..wishes(cells[4])
    };
    let mut names = vec!["output_norm".to_owned(), "token_embd".to_owned()];
    if cells[6] == "0" {
        names.insert(0, "output".into());
    }
    let parts = if experts > 1 { EXPERTS } else { DENSE };
    for i in 0..layers {
        names.extend(parts.iter().map(|p| format!("blk.{i}.{p}")));
    }
    let names: Vec<String> = names.iter().map(|n| format!("{n}.weight")).collect();
    let mut mix = Mix::new(&w, &a, names.iter().map(String::as_str));
    let mut order: Vec<(&str, Vec<String>)> = Vec::new();
    for name in &names {
        let shape: &[u64] = match () {
            () if name.contains("norm") => &[columns],
            () if name.contains("exps") => &[experts as u64, columns, columns],
            () => &[columns, columns],
        };
        let dtype = DType::F16;
        let choice = mix.next(&Subject { name, dtype, shape });
        let plus = if choice.needs_matrix { "+" } else { "" };
        let text = format!("{}{plus}", choice.to);
        let part = name.splitn(3, '.').last().unwrap();
        let part = if name.starts_with("blk.") { part } else { name };
        match order.iter_mut().find(|(p, _)| *p == part) {
            Some((_, types)) => types.push(text),
            None => order.push((part, vec![text])),
        }
    }
    let all: Vec<String> = order.iter().map(|(_, types)| runs(types)).collect();
    all.join(" ")
}

#[test]
fn the_table_of_the_reference() {
    let table = include_str!("../../tests/data/quantize/mix.tsv");
    let mut n = 0;
    for text in table.lines().skip(1) {
        let cells: Vec<&str> = text.split('\t').collect();
        // Where the reference gives up we go on.
        if cells[8].contains('-') {
            continue;
        }
        assert_eq!(line(&cells), cells[8].trim_end(), "{:?}", &cells[..8]);
        n += 1;
    }
    assert!(n > 650, "{n}");
}
