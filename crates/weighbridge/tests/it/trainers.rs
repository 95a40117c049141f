//! DeepSpeed and Megatron folders.

use std::path::Path;

use weighbridge::{DType, Model};
use weighbridge_core::model::{TensorSource, Value};

use crate::directories::{
    Saved, count, dcp_ranks, dict, floats, names, open, rule, text, violations, warned,
};

fn size(dims: &[i64]) -> Value {
    Value::Size(dims.to_vec())
}

fn int(i: i64) -> Value {
    Value::Int(i)
}

/// The model states of two groups: `a` [2, 3] and `b` [5]; `c` [4].
fn model_states(path: &Path, tied: &[(&str, Value)]) {
    let mut s = Saved::new();
    let half = |v: f32| half_bits(v).to_le_bytes();
    let run = s.bytes(DType::F16, &[2], [half(1.5), half(-2.0)].concat());
    // The placeholders of `a` and `before` are one tensor: a tie that only the module shows.
    let first = s.f32(&[1], &[0.0]);
    let module: Vec<(&str, Value)> = ["a", "run", "b", "c", "tied", "old", "before"]
        .into_iter()
        .map(|n| match n {
            "run" => (n, run.clone()),
            "a" | "before" => (n, first.clone()),
            _ => (n, s.f32(&[1], &[0.0])),
        })
        .collect();
    let all = [
        ("module", dict(&module)),
        ("buffer_names", Value::List(vec![text("run")])),
        (
            "param_shapes",
            Value::List(vec![
                dict(&[("a", size(&[2, 3])), ("b", size(&[5]))]),
                dict(&[("c", size(&[4]))]),
            ]),
        ),
        ("shared_params", dict(tied)),
        ("ds_version", text("0.14.0")),
        ("global_steps", int(5)),
    ];
    s.write(path, dict(&all));
}

fn half_bits(v: f32) -> u16 {
    // Exact for the values used here.
    let b = v.to_bits();
    let exponent = ((b >> 23) & 0xff) as i32 - 112;
    ((b >> 16) & 0x8000) as u16 | (exponent as u16) << 10 | ((b >> 13) & 0x3ff) as u16
}

/// One rank's optimizer states.
fn optim_states(dir: &Path, rank: usize, stage: i64, ranks: i64, groups: &[&[f32]]) {
    let mut s = Saved::new();
    let flats: Vec<Value> = groups.iter().map(|g| s.f32(&[g.len() as u64], g)).collect();
    let key = if stage == 3 {
        "fp32_flat_groups"
    } else {
        "single_partition_of_fp32_groups"
    };
    let state = dict(&[
        ("zero_stage", int(stage)),
        ("partition_count", Value::List(vec![int(ranks), int(ranks)])),
        (key, Value::List(flats)),
    ]);
    let file = format!("bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    s.write(&dir.join(file), dict(&[("optimizer_state_dict", state)]));
}

/// Stage 2 over two ranks: group 0 has 11 values and one of padding, group 1 has 4.
fn zero2(dir: &Path) {
    let states = dir.join("mp_rank_00_model_states.pt");
    model_states(&states, &[("tied", text("c"))]);
    let v = count(11);
    optim_states(dir, 0, 2, 2, &[&v[..6], &[20.0, 21.0]]);
    optim_states(
        dir,
        1,
        2,
        2,
        &[&[&v[6..], &[-1.0][..]].concat(), &[22.0, 23.0]],
    );
}

#[test]
fn zero2_gives_the_masters_in_the_modules_order() {
    let dir = tempfile::tempdir().unwrap();
    zero2(&dir.path().join("global_step5"));
    std::fs::write(dir.path().join("latest"), "global_step5\n").unwrap();
    for path in [dir.path().to_owned(), dir.path().join("global_step5")] {
        let m = open(&path).unwrap();
        assert_eq!(m.container, Some("deepspeed"));
        assert_eq!(m.version.as_deref(), Some("0.14.0"));
        assert_eq!(names(&m), ["a", "run", "b", "c", "tied", "before"]);
        assert_eq!(floats(&m, "before"), count(6));
        assert_eq!(m.parts.len(), 3);
        assert_eq!(floats(&m, "a"), count(6));
        // Lies whole in rank 1 and in rank 0: borrowed, not put together.
        assert!(matches!(
            m.tensor("a").unwrap().source,
            TensorSource::View(_)
        ));
        assert_eq!(floats(&m, "b"), [6.0, 7.0, 8.0, 9.0, 10.0]);
        // Cut over both ranks.
        assert!(matches!(
            m.tensor("c").unwrap().source,
            TensorSource::Assembled(_)
        ));
        assert_eq!(floats(&m, "c"), [20.0, 21.0, 22.0, 23.0]);
        assert_eq!(floats(&m, "tied"), floats(&m, "c"));
        assert_eq!(floats(&m, "run"), [1.5, -2.0]);
        assert!(warned(&m, "deepspeed.buffers-cast"));
        // Lying in one vector is no tie; `a` and `before` are one.
        let groups = m.alias_groups();
        assert_eq!((groups.len(), groups[0].len()), (1, 2));
        let omitted: Vec<&str> = m.omitted.iter().map(|o| o.0.as_str()).collect();
        assert_eq!(omitted, ["old", "optimizer_state_dict"]);
        let steps = m
            .metadata
            .iter()
            .find(|(k, _)| k == "deepspeed.global_steps");
        assert_eq!(steps.unwrap().1.as_str(), Some("5"));
        assert!(violations(&path).is_empty());
    }
    // A rank file opens alone, as itself.
    let rank = dir
        .path()
        .join("global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt");
    let m = open(&rank).unwrap();
    assert!(
        names(&m)[0].starts_with("optimizer_state_dict."),
        "{:?}",
        names(&m)
    );
}

#[test]
fn ties_inside_one_rank_share_storage() {
    let dir = tempfile::tempdir().unwrap();
    model_states(
        &dir.path().join("mp_rank_00_model_states.pt"),
        &[("tied", text("b"))],
    );
    let v = count(11);
    optim_states(dir.path(), 0, 1, 1, &[&v, &[1.0; 4]]);
    let m = open(dir.path()).unwrap();
    assert_eq!(floats(&m, "tied"), floats(&m, "b"));
    let groups = m.alias_groups();
    let of =
        |g: &Vec<usize>| -> Vec<&str> { g.iter().map(|&i| m.tensors[i].name.as_str()).collect() };
    let groups: Vec<Vec<&str>> = groups.iter().map(of).collect();
    assert_eq!(groups, [vec!["a", "before"], vec!["b", "tied"]]);
}

#[test]
fn zero3_joins_the_parts_of_every_parameter() {
    let dir = tempfile::tempdir().unwrap();
    let frozen = |part: &[f32]| {
        let mut s = Saved::new();
        let f = s.f32(&[part.len() as u64], part);
        (s, f)
    };
    for (rank, part) in [(0, [50.0f32, 51.0]), (1, [52.0, -1.0])] {
        let path = format!("zero_pp_rank_{rank}_mp_rank_00_model_states.pt");
        let (s, fragment) = frozen(&part);
        let state = dict(&[
            ("module", dict(&[])),
            ("buffer_names", Value::List(vec![])),
            (
                "param_shapes",
                Value::List(vec![dict(&[
                    ("a", size(&[2, 3])),
                    ("b", size(&[5])),
                    ("s", size(&[])),
                ])]),
            ),
            ("frozen_param_shapes", dict(&[("f", size(&[3]))])),
            ("frozen_param_fragments", dict(&[("f", fragment)])),
        ]);
        s.write(&dir.path().join(path), state);
    }
    // Rank 0: a 0..3, b 0..3, s. Rank 1: a 3..6, b 3..5 and padding, padding. Two groups a rank.
    optim_states(
        dir.path(),
        0,
        3,
        2,
        &[&[0.0, 1.0, 2.0, 10.0], &[11.0, 12.0, 30.0]],
    );
    optim_states(
        dir.path(),
        1,
        3,
        2,
        &[&[3.0, 4.0, 5.0, 13.0], &[14.0, -1.0, -1.0]],
    );
    let m = open(dir.path()).unwrap();
    assert_eq!(names(&m), ["f", "a", "b", "s"]);
    assert_eq!(floats(&m, "a"), count(6));
    assert_eq!(floats(&m, "b"), [10.0, 11.0, 12.0, 13.0, 14.0]);
    assert_eq!(floats(&m, "s"), [30.0]);
    assert_eq!(floats(&m, "f"), [50.0, 51.0, 52.0]);
    assert!(m.tensor("s").unwrap().shape.is_empty());
}

#[test]
fn deepspeed_folders_that_cannot_be_merged_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let step = dir.path().join("global_step5");
    zero2(&step);
    let latest = dir.path().join("latest");
    for (tag, want) in [
        ("global_step6", "deepspeed.missing-tag"),
        ("../x", "deepspeed.unsafe-tag"),
        ("/etc", "deepspeed.unsafe-tag"),
    ] {
        std::fs::write(&latest, tag).unwrap();
        assert_eq!(rule(dir.path()), want);
    }
    // A rank that is gone, one file that is not of this save, and two tensor-parallel ranks.
    let optim = |r: usize| step.join(format!("bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt"));
    let kept = std::fs::read(optim(0)).unwrap();
    std::fs::remove_file(optim(0)).unwrap();
    let e = open(&step).unwrap_err();
    assert_eq!(e.rule(), "deepspeed.missing-rank");
    assert!(e.message().contains("zero_pp_rank_0"), "{e}");
    assert_eq!(violations(&step), ["deepspeed.missing-rank"]);
    std::fs::write(optim(0), &kept).unwrap();
    std::fs::remove_file(optim(1)).unwrap();
    assert_eq!(rule(&step), "deepspeed.missing-rank");
    optim_states(&step, 1, 2, 2, &[&[1.0; 20], &[1.0; 2]]);
    assert_eq!(rule(&step), "deepspeed.numel-mismatch");
    optim_states(&step, 1, 2, 2, &[&[1.0; 2], &[1.0; 2]]);
    assert_eq!(rule(&step), "deepspeed.numel-mismatch");
    std::fs::copy(
        optim(0),
        step.join("zero_pp_rank_0_mp_rank_01_optim_states.pt"),
    )
    .unwrap();
    assert_eq!(rule(&step), "deepspeed.tensor-parallel");
    std::fs::copy(optim(0), step.join("expert_0_mp_rank_00_model_states.pt")).unwrap();
    assert_eq!(rule(&step), "deepspeed.experts");
}

#[test]
fn deepspeed_without_masters_and_pipelines() {
    let dir = tempfile::tempdir().unwrap();
    model_states(&dir.path().join("mp_rank_00_model_states.pt"), &[]);
    let m = open(dir.path()).unwrap();
    assert_eq!(names(&m), ["a", "run", "b", "c", "tied", "old", "before"]);
    assert_eq!(m.tensor("run").unwrap().dtype, DType::F16);
    assert!(warned(&m, "deepspeed.no-masters"));
    let dir = tempfile::tempdir().unwrap();
    for (layer, part) in [(0, ""), (12, "-model_00")] {
        let mut s = Saved::new();
        let w = s.f32(&[1], &[layer as f32]);
        let file = format!("layer_{layer:02}{part}-model_states.pt");
        s.write(&dir.path().join(file), dict(&[("w", w)]));
    }
    let m = open(dir.path()).unwrap();
    assert_eq!(
        (names(&m), floats(&m, "12.w")),
        (vec!["0.w", "12.w"], vec![12.0])
    );
}

/// One rank file of Megatron: the layers' tensors and the run's arguments.
fn rank(dir: &Path, place: &str, args: &[(&str, Value)], tensors: &[(&str, &[u64], Vec<f32>)]) {
    let mut s = Saved::new();
    let entries: Vec<(&str, Value)> = tensors
        .iter()
        .map(|(n, shape, v)| (*n, s.f32(shape, v)))
        .collect();
    let moment = s.f32(&[1], &[0.0]);
    let state = dict(&[
        ("args", dict(args)),
        ("checkpoint_version", Value::Float(3.0)),
        ("iteration", int(7)),
        ("model", dict(&entries)),
        ("optimizer", dict(&[("exp_avg", moment)])),
    ]);
    s.write(&dir.join(place).join("model_optim_rng.pt"), state);
}

fn two_by(pipeline: i64) -> Vec<(&'static str, Value)> {
    vec![
        ("tensor_model_parallel_size", int(2)),
        ("pipeline_model_parallel_size", int(pipeline)),
        ("num_layers", int(pipeline)),
        ("swiglu", Value::Bool(true)),
    ]
}

fn metadata(m: &Model, key: &str) -> String {
    let found = m.metadata.iter().find(|(k, _)| k == key);
    found.unwrap().1.as_str().unwrap().to_owned()
}

#[test]
fn tensor_and_pipeline_ranks_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let step = dir.path().join("iter_0000007");
    for (p, last) in [(0, false), (1, true)] {
        for t in 0..2 {
            let f = (100 * p + 10 * t) as f32;
            let mut tensors = vec![
                // Gate and up, one row each of this rank.
                (
                    "decoder.layers.0.mlp.linear_fc1.weight",
                    &[2u64, 2][..],
                    vec![f, f + 1.0, f + 2.0, f + 3.0],
                ),
                (
                    "decoder.layers.0.mlp.linear_fc2.weight",
                    &[2, 1],
                    vec![f, f + 1.0],
                ),
                ("decoder.layers.0.mlp.linear_fc2.bias", &[2], vec![5.0, 6.0]),
            ];
            if last {
                tensors.push(("decoder.final_layernorm.weight", &[1], vec![9.0]));
            } else {
                tensors.push((
                    "embedding.word_embeddings.weight",
                    &[1, 2],
                    vec![f, f + 1.0],
                ));
            }
            rank(
                &step,
                &format!("mp_rank_{t:02}_{p:03}"),
                &two_by(2),
                &tensors,
            );
        }
    }
    std::fs::write(dir.path().join("latest_checkpointed_iteration.txt"), "7").unwrap();
    for path in [dir.path(), &step] {
        let m = open(path).unwrap();
        assert_eq!(
            (m.container, m.version.as_deref()),
            (Some("megatron"), Some("3"))
        );
        assert_eq!(m.parts.len(), 4);
        let layer = |n: usize, w: &str| floats(&m, &format!("model.decoder.layers.{n}.mlp.{w}"));
        // All ranks' gates, then all ranks' ups.
        assert_eq!(
            layer(0, "linear_fc1.weight"),
            [0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 12.0, 13.0]
        );
        assert_eq!(
            layer(1, "linear_fc1.weight")[..4],
            [100.0, 101.0, 110.0, 111.0]
        );
        assert_eq!(layer(1, "linear_fc2.weight"), [100.0, 110.0, 101.0, 111.0]);
        assert_eq!(layer(1, "linear_fc2.bias"), [5.0, 6.0]);
        assert_eq!(
            floats(&m, "model.embedding.word_embeddings.weight"),
            [0.0, 1.0, 10.0, 11.0]
        );
        assert_eq!(m.tensors.len(), 8);
        assert!(!warned(&m, "megatron.layer-count"));
        assert_eq!(metadata(&m, "megatron.iteration"), "7");
        assert!(metadata(&m, "megatron.args").contains("swiglu"));
        assert!(m.omitted.iter().any(|(what, _)| what == "optimizer"));
        assert!(violations(path).is_empty());
    }
    std::fs::remove_dir_all(step.join("mp_rank_01_001")).unwrap();
    let e = open(dir.path()).unwrap_err();
    assert_eq!(e.rule(), "megatron.missing-rank");
    assert!(e.message().contains("mp_rank_01_001"), "{e}");
    std::fs::write(dir.path().join("latest_checkpointed_iteration.txt"), "8").unwrap();
    assert_eq!(rule(dir.path()), "megatron.missing-step");
    assert_eq!(violations(dir.path()), ["megatron.missing-step"]);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let merge = |name: &str, a: (&[u64], &[f32]), b: (&[u64], &[f32])| {
        let dir = tempfile::tempdir().unwrap();
        for (t, (shape, v)) in [a, b].into_iter().enumerate() {
            let place = format!("mp_rank_{t:02}");
            rank(dir.path(), &place, &two_by(1), &[(name, shape, v.to_vec())]);
        }
        open(dir.path())
            .err()
            .map(|e| (e.rule(), e.message().contains(name)))
    };
    // Replicated, and not equal.
    let e = merge("x.norm.weight", (&[2], &[1.0, 2.0]), (&[2], &[1.0, 3.0]));
    assert_eq!(e, Some(("megatron.unknown-cut", true)));
    let e = merge("x.norm.weight", (&[2], &[1.0, 2.0]), (&[2], &[1.0, 2.0]));
    assert_eq!(e, None);
    // Other widths beside the cut dimension, a gated part that has no halves, a rank less.
    let e = merge(
        "x.output_layer.weight",
        (&[1, 2], &[1.0, 2.0]),
        (&[1, 1], &[1.0]),
    );
    assert_eq!(e, Some(("megatron.part-mismatch", true)));
    let e = merge("x.linear_fc1.weight", (&[1, 1], &[1.0]), (&[1, 1], &[1.0]));
    assert_eq!(e, Some(("megatron.part-mismatch", true)));
    let dir = tempfile::tempdir().unwrap();
    rank(
        dir.path(),
        "mp_rank_00",
        &two_by(1),
        &[("a", &[1], vec![1.0])],
    );
    assert_eq!(rule(dir.path()), "megatron.missing-rank");
    rank(
        dir.path(),
        "mp_rank_01",
        &two_by(1),
        &[("b", &[1], vec![1.0])],
    );
    assert_eq!(rule(dir.path()), "megatron.missing-tensor");
    rank(
        dir.path(),
        "mp_rank_00_000",
        &two_by(1),
        &[("a", &[1], vec![1.0])],
    );
    assert_eq!(rule(dir.path()), "megatron.expert-parallel");
}

#[test]
fn a_step_in_the_distributed_format_opens_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let step = dir.path().join("iter_0000012");
    std::fs::create_dir(&step).unwrap();
    for entry in std::fs::read_dir(dcp_ranks()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), step.join(entry.file_name())).unwrap();
    }
    let tracker = dir.path().join("latest_checkpointed_iteration.txt");
    std::fs::write(&tracker, "12\n").unwrap();
    for path in [dir.path(), &tracker] {
        let m = open(path).unwrap();
        assert_eq!((m.container, floats(&m, "grid")), (Some("dcp"), count(15)));
        assert!(violations(path).is_empty());
    }
}
