//! Every operator against what ONNX Runtime makes of it (`tests/operators/make.py`).

use std::sync::Arc;

use serde_json::Value as Json;
use weighbridge_core::model::AttributeValue;

use super::value::{Data, Kind, Tensor, Value};
use super::{Attributes, Call, Halt, Meter, Op, call, named};

const CASES: &str = include_str!("../../../tests/operators/operators.json");

fn kind(name: &str) -> Kind {
    let all = [
        Kind::F32,
        Kind::F64,
        Kind::I64,
        Kind::I32,
        Kind::U8,
        Kind::I8,
        Kind::Bool,
        Kind::U32,
    ];
    all.into_iter().find(|k| k.as_str() == name).unwrap()
}

fn number(v: &Json) -> f64 {
    match v {
        Json::Bool(b) => f64::from(u8::from(*b)),
        Json::String(s) => s.parse().unwrap(),
        v => v.as_f64().unwrap(),
    }
}

fn tensor(v: &Json) -> Option<Value> {
    let kind = kind(v["kind"].as_str()?);
    let dims = v["dims"]
        .as_array()?
        .iter()
        .map(|d| d.as_u64().unwrap() as usize)
        .collect();
    let data = v["data"].as_array()?.iter().map(number).collect();
    Some(Arc::new(Tensor::numbers(kind, dims, data)))
}

fn attribute(v: &Json) -> AttributeValue {
    match v {
        Json::String(s) => AttributeValue::Str(s.clone().into_bytes()),
        Json::Array(all) => AttributeValue::Ints(all.iter().map(|n| n.as_i64().unwrap()).collect()),
        v if v.is_i64() => AttributeValue::Int(v.as_i64().unwrap()),
        v => AttributeValue::Float(v.as_f64().unwrap() as f32),
    }
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    let near = |x: &f64, y: &f64| {
        x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 2e-5 * x.abs().max(1.0)
    };
    a.dims == b.dims
        && a.kind == b.kind
        && match (&a.data, &b.data) {
            (Data::Int(x), Data::Int(y)) => x == y,
            _ => {
                let (x, y) = (a.to_floats().unwrap(), b.to_floats().unwrap());
                x.len() == y.len() && x.iter().zip(&y).all(|(x, y)| near(x, y))
            }
        }
}

/// Calls `check` with the name of each case, its call and what is expected.
fn each(mut check: impl FnMut(&str, &Call<'_, '_>, &[Value])) -> usize {
    let mut count = 0;
    for line in CASES.lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        let op = case["op"].as_str().unwrap();
        let given: Vec<(String, AttributeValue)> = case["attributes"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k.clone(), attribute(v)))
            .collect();
        let attributes = Attributes(given.iter().map(|(k, v)| (k.as_str(), v)).collect());
        let inputs: Vec<Option<Value>> = case["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(tensor)
            .collect();
        let outputs: Vec<Value> = case["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(tensor)
            .collect();
        let c = Call {
            op: named(op),
            attributes: &attributes,
            opset: 18,
            inputs: &inputs,
            outputs: outputs.len(),
        };
        check(line, &c, &outputs);
        count += 1;
    }
    count
}

#[test]
fn operators_give_what_onnx_runtime_gives() {
    let count = each(|name, c, expected| {
        let got = call(c, &mut Meter::new(1 << 20));
        let got = got.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(got.len() >= expected.len(), "{name}");
        for (g, e) in got.iter().zip(expected) {
            assert!(same(g, e), "{name}\n{g:?}\n{e:?}");
        }
    });
    assert!(count > 150, "{count} cases");
}

#[test]
fn shapes_alone_give_the_same_shapes() {
    each(|name, c, expected| {
        let hidden: Vec<Option<Value>> = c
            .inputs
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let v = v.as_ref()?;
                let hide = i == 0 && !matches!(c.op, Op::Range | Op::ConstantOfShape);
                Some(match hide {
                    true => Arc::new(Tensor::unknown(v.kind, v.dims.clone())),
                    false => v.clone(),
                })
            })
            .collect();
        let mut meter = Meter::new(1 << 20);
        meter.shapes = true;
        let c = Call {
            op: c.op,
            attributes: c.attributes,
            opset: c.opset,
            inputs: &hidden,
            outputs: c.outputs,
        };
        match call(&c, &mut meter) {
            Ok(got) => {
                for (g, e) in got.iter().zip(expected) {
                    assert_eq!((&g.dims, g.kind), (&e.dims, e.kind), "{name}");
                }
            }
            // How many there are depends on what they are.
            Err(e) => assert!(e == Halt::Unknown && c.op == Op::NonZero, "{name}: {e:?}"),
        }
    });
}

#[test]
fn a_spent_meter_and_a_large_value_end_it() {
    each(|_, c, _| {
        assert_eq!(call(c, &mut Meter::new(4)).err(), Some(Halt::Budget));
    });
    let attributes = Attributes::default();
    let one = Arc::new(Tensor::float(Kind::F32, vec![1], vec![1.0]));
    let large = Arc::new(Tensor::ints(vec![1 << 20, 1 << 20]));
    let c = Call {
        op: named("Expand"),
        attributes: &attributes,
        opset: 18,
        inputs: &[Some(one), Some(large)],
        outputs: 1,
    };
    assert_eq!(
        call(&c, &mut Meter::new(u64::MAX)).err(),
        Some(Halt::Budget)
    );
}
