//! Constant nodes as tensors: some exporters keep every weight in one.

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{
    AttributeValue, DType, GraphNode, Storage, StorageData, Tensor, TensorSource, View,
};
use weighbridge_core::source::SliceSource;

/// The tensor that a `Constant` node makes, named as its output; `None` for other nodes, for texts
/// and for what a function's caller decides (operator `Constant` of `docs/Operators.md`).
///
/// # Errors
/// None that a file can cause.
pub fn constant(node: &GraphNode) -> Result<Option<Tensor>> {
    let Some(name) = node.outputs.first().filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    if !node.is("Constant") {
        return Ok(None);
    }
    let all = node.attributes.iter();
    let mut made = all.filter_map(|a| match (a.name.as_str(), &a.value) {
        ("value" | "sparse_value", AttributeValue::Tensor(t)) => Some(Ok(Tensor {
            name: name.clone(),
            ..t.as_ref().clone()
        })),
        ("value_float", AttributeValue::Float(x)) => {
            Some(held(name, DType::F32, &[], x.to_le_bytes().to_vec()))
        }
        ("value_int", AttributeValue::Int(n)) => {
            Some(held(name, DType::I64, &[], n.to_le_bytes().to_vec()))
        }
        ("value_floats", AttributeValue::Floats(all)) => {
            let bytes = all.iter().flat_map(|x| x.to_le_bytes()).collect();
            Some(held(name, DType::F32, &[all.len() as u64], bytes))
        }
        ("value_ints", AttributeValue::Ints(all)) => {
            let bytes = all.iter().flat_map(|n| n.to_le_bytes()).collect();
            Some(held(name, DType::I64, &[all.len() as u64], bytes))
        }
        _ => None,
    });
    made.next().transpose()
}

/// A tensor over `bytes`.
fn held(name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Result<Tensor> {
    let len = bytes.len() as u64;
    let data = StorageData::Raw {
        source: Arc::new(SliceSource::new(bytes, name)),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new(name, len, false, data)?.into_region());
    let source = TensorSource::View(View { storage, offset: 0 });
    Ok(Tensor::new(name, dtype, shape, source))
}
