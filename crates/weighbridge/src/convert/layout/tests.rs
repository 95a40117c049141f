use std::sync::Arc;

use weighbridge_core::model::{DType, Storage, StorageData, TensorSource, Value, View};
use weighbridge_core::source::SliceSource;

use super::*;

/// A tensor of bytes that count up from 0.
fn tensor(name: &str, shape: &[u64], class: Option<&str>) -> Tensor {
    let n = shape.iter().product::<u64>();
    let data = StorageData::Raw {
        source: Arc::new(SliceSource::new((0..n as u8).collect::<Vec<u8>>(), "s")),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new("s", n, false, data).unwrap());
    let source = TensorSource::View(View { storage, offset: 0 });
    let mut t = Tensor::new(name, DType::U8, shape, source);
    if let Some(class) = class {
        let attribute = ("layer_class".to_owned(), Value::Str(class.to_owned()));
        t.extra_mut().attributes.push(attribute);
    }
    t
}

fn turned(direction: Layout, tensors: Vec<Tensor>) -> (Model, Vec<Note>) {
    let mut model = Model::new(FormatId::Keras);
    model.tensors = tensors;
    let mut turner = Turner::new(Some(direction), &model);
    turner.follow(&HashMap::new(), &mut model);
    let mut changed = Vec::new();
    turner.apply(&mut model, false, &mut changed).unwrap();
    turner.apply(&mut model, true, &mut changed).unwrap();
    (model, changed)
}

/// Index of an element in row-major order.
fn at(shape: &[u64], index: &[u64]) -> usize {
    shape.iter().zip(index).fold(0, |n, (&d, &i)| n * d + i) as usize
}

/// Checks that element `from(index)` of the old tensor is element `index` of the new one.
fn maps(t: &Tensor, old: &[u64], from: impl Fn(&[u64]) -> Vec<u64>) {
    let shape = t.shape.to_vec();
    let bytes = t.read_vec().unwrap();
    for (n, &byte) in bytes.iter().enumerate() {
        let mut rest = n as u64;
        let mut index = vec![0; shape.len()];
        for (i, &d) in index.iter_mut().zip(&shape).rev() {
            *i = rest % d;
            rest /= d;
        }
        assert_eq!(
            usize::from(byte),
            at(old, &from(&index)),
            "{} {index:?}",
            t.name
        );
    }
}

#[test]
fn kernels_of_keras_become_weights() {
    let (model, changed) = turned(
        Layout::KerasToTorch,
        vec![
            tensor("dense/kernel:0", &[3, 4], None),
            tensor("conv1d/kernel", &[3, 2, 5], None),
            tensor("conv2d/kernel", &[3, 2, 4, 5], None),
            tensor("conv3d/kernel", &[2, 3, 2, 2, 3], None),
            tensor("sep/depthwise_kernel", &[3, 2, 4, 5], None),
            tensor("sep/pointwise_kernel", &[1, 1, 20, 3], None),
            tensor("depthwise_conv2d/kernel", &[3, 2, 4, 1], None),
            tensor("emb/embeddings", &[3, 4], None),
            tensor("bn/gamma", &[4], None),
        ],
    );
    let shapes: Vec<Vec<u64>> = model.tensors.iter().map(|t| t.shape.to_vec()).collect();
    let want: [&[u64]; 9] = [
        &[4, 3],
        &[5, 2, 3],
        &[5, 4, 3, 2],
        &[3, 2, 2, 3, 2],
        &[20, 1, 3, 2],
        &[3, 20, 1, 1],
        &[4, 1, 3, 2],
        &[3, 4],
        &[4],
    ];
    assert_eq!(shapes, want);
    assert_eq!(changed.len(), 7);
    assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    maps(&model.tensors[0], &[3, 4], |i| vec![i[1], i[0]]);
    maps(&model.tensors[1], &[3, 2, 5], |i| vec![i[2], i[1], i[0]]);
    maps(&model.tensors[2], &[3, 2, 4, 5], |i| {
        vec![i[2], i[3], i[1], i[0]]
    });
    // torch's groups: output channel c·M + m belongs to input channel c.
    maps(&model.tensors[4], &[3, 2, 4, 5], |i| {
        vec![i[2], i[3], i[0] / 5, i[0] % 5]
    });
}

#[test]
fn gates_of_recurrent_layers() {
    let (model, changed) = turned(
        Layout::KerasToTorch,
        vec![
            tensor("lstm/lstm_cell/kernel", &[3, 8], None),
            tensor("lstm/lstm_cell/recurrent_kernel", &[2, 8], None),
            tensor("lstm/lstm_cell/bias", &[8], None),
            tensor("gru/gru_cell/kernel", &[5, 6], None),
            tensor("gru/gru_cell/recurrent_kernel", &[2, 6], None),
            tensor("gru/gru_cell/bias", &[2, 6], None),
            tensor("old/gru_cell/kernel", &[5, 6], None),
            tensor("old/gru_cell/recurrent_kernel", &[2, 6], None),
            tensor("old/gru_cell/bias", &[6], None),
            tensor("rnn/cell/kernel", &[5, 2], None),
            tensor("rnn/cell/recurrent_kernel", &[2, 2], None),
        ],
    );
    maps(&model.tensors[0], &[3, 8], |i| vec![i[1], i[0]]);
    let swap = |gate: u64| [1, 0, 2][(gate / 2) as usize] * 2 + gate % 2;
    maps(&model.tensors[3], &[5, 6], |i| vec![i[1], swap(i[0])]);
    maps(&model.tensors[4], &[2, 6], |i| vec![i[1], swap(i[0])]);
    maps(&model.tensors[5], &[2, 6], |i| vec![i[0], swap(i[1])]);
    maps(&model.tensors[9], &[5, 2], |i| vec![i[1], i[0]]);
    assert_eq!(changed.len(), 7);
    let left: Vec<&str> = model.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].starts_with("old/gru_cell/kernel"));
    assert_eq!(model.tensors[6].shape.as_slice(), [5, 6]);
}

#[test]
fn the_class_of_the_layer_tells_before_the_name() {
    let (model, _) = turned(
        Layout::KerasToTorch,
        vec![
            tensor("a/kernel", &[3, 2, 4, 1], Some("DepthwiseConv2D")),
            tensor("b/kernel", &[3, 2, 4, 1], Some("Conv2D")),
            tensor("c/kernel", &[3, 2, 4], Some("Conv1D")),
            tensor("d/kernel", &[3, 2, 4], Some("EinsumDense")),
            tensor("e/kernel", &[3, 4], Some("Custom>Mine")),
            tensor(
                "f/kernel",
                &[3, 2, 4, 5],
                Some("keras.layers.Conv2DTranspose"),
            ),
            tensor("g/kernel", &[3, 2, 4], None),
            tensor("h/kernel", &[3, 2, 4, 1], None),
        ],
    );
    let shapes: Vec<Vec<u64>> = model.tensors.iter().map(|t| t.shape.to_vec()).collect();
    let want: [&[u64]; 8] = [
        &[4, 1, 3, 2],
        &[1, 4, 3, 2],
        &[4, 2, 3],
        &[3, 2, 4],
        &[3, 4],
        &[5, 4, 3, 2],
        &[3, 2, 4],
        &[3, 2, 4, 1],
    ];
    assert_eq!(shapes, want);
    assert_eq!(model.warnings.len(), 4, "{:?}", model.warnings);
}

#[test]
fn weights_of_torch_become_kernels_and_back() {
    let torch = vec![
        tensor("fc.weight", &[4, 3], None),
        tensor("fc.bias", &[4], None),
        tensor("conv.weight", &[5, 4, 3, 2], None),
        tensor("depth.weight", &[5, 1, 3, 2], None),
        tensor("q.weight", &[4, 4], None),
        tensor("embed.weight", &[4, 4], None),
        tensor("g.weight_ih_l0", &[6, 5], None),
        tensor("g.weight_hh_l0", &[6, 2], None),
        tensor("g.bias_ih_l0", &[6], None),
        tensor("l.weight_ih_l0", &[8, 5], None),
        tensor("l.weight_hh_l0", &[8, 2], None),
        tensor("l.bias_ih_l0", &[8], None),
    ];
    let (model, changed) = turned(Layout::TorchToKeras, torch);
    maps(&model.tensors[0], &[4, 3], |i| vec![i[1], i[0]]);
    maps(&model.tensors[2], &[5, 4, 3, 2], |i| {
        vec![i[3], i[2], i[0], i[1]]
    });
    let swap = |gate: u64| [1, 0, 2][(gate / 2) as usize] * 2 + gate % 2;
    maps(&model.tensors[6], &[6, 5], |i| vec![swap(i[1]), i[0]]);
    maps(&model.tensors[8], &[6], |i| vec![swap(i[0])]);
    assert_eq!(changed.len(), 7);
    let left: Vec<&str> = model.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].starts_with("depth.weight") && left[1].starts_with("q.weight"));
}

#[test]
fn what_became_of_keras_kernels_goes_back_under_its_names() {
    let keras = || {
        vec![
            tensor("dense/kernel", &[3, 4], None),
            tensor("conv1d/kernel", &[3, 2, 5], None),
            // Of equal dimensions: no shape would tell that it was left as it is.
            tensor("conv1d_transpose/kernel", &[3, 5, 3], None),
            tensor("conv3d/kernel", &[2, 3, 2, 2, 3], None),
            tensor("sep/pointwise_kernel", &[1, 1, 20, 3], None),
            tensor("lstm/cell/kernel", &[3, 8], None),
            tensor("lstm/cell/recurrent_kernel", &[2, 8], None),
            tensor("gru/cell/kernel", &[5, 6], None),
            tensor("gru/cell/recurrent_kernel", &[2, 6], None),
            tensor("gru/cell/bias", &[2, 6], None),
            tensor("rnn/cell/kernel", &[5, 2], None),
            tensor("rnn/cell/recurrent_kernel", &[2, 2], None),
            tensor("old/cell/kernel", &[5, 6], None),
            tensor("old/cell/recurrent_kernel", &[2, 6], None),
            tensor("old/cell/bias", &[6], None),
        ]
    };
    let (torch, changed) = turned(Layout::KerasToTorch, keras());
    assert_eq!(changed.len(), 12);
    let (back, changed) = turned(Layout::TorchToKeras, torch.tensors);
    assert_eq!(changed.len(), 12);
    for (t, was) in back.tensors.iter().zip(keras()) {
        assert_eq!(t.shape, was.shape, "{}", t.name);
        assert_eq!(t.read_vec().unwrap(), was.read_vec().unwrap(), "{}", t.name);
    }
    let left: Vec<&str> = back.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    // What there is no way back for is left, and so is what never was PyTorch's.
    let (model, changed) = turned(
        Layout::TorchToKeras,
        vec![
            tensor("sep/depthwise_kernel", &[20, 1, 3, 2], None),
            tensor("depthwise/kernel", &[4, 1, 3, 2], None),
            tensor("d/kernel", &[3, 4], Some("Dense")),
        ],
    );
    assert_eq!((changed.len(), model.warnings.len()), (0, 3));
}

#[test]
fn a_recurrent_convolution_is_left_whatever_it_is_called() {
    let (model, changed) = turned(
        Layout::KerasToTorch,
        vec![
            tensor("mine/cell/kernel", &[2, 2, 3, 8], None),
            tensor("mine/cell/recurrent_kernel", &[2, 2, 2, 8], None),
        ],
    );
    assert_eq!((changed.len(), model.warnings.len()), (0, 2));
}
