use super::*;
use crate::format::onnx::encode::Fields;
use std::sync::Arc;
use weighbridge_core::source::SliceSource;

fn text(s: &str) -> Vec<Piece> {
    vec![Piece::Fields(Fields::new().bytes(2, s))]
}

fn written(data: &[u8], edits: &Edits) -> Vec<u8> {
    let source = SliceSource::new(data.to_vec(), "m");
    let spliced = splice(&source, edits).unwrap();
    let mut out = Vec::new();
    spliced.write(&source, &mut out, &mut |_| {}).unwrap();
    assert_eq!(out.len() as u64, spliced.len());
    out
}

/// Field 1 a number, field 7 a message with a text 2, a message 3 with a text 2, unknown 99.
fn sample() -> (Vec<u8>, Span, Span) {
    let inner = Fields::new().bytes(2, "deep");
    let outer = Fields::new().bytes(2, "name").bytes(3, &inner).int(99, -1);
    let all = Fields::new().int(1, 9).bytes(7, &outer).int(5, 3);
    let start = 4;
    let outer = Span {
        start,
        end: start + outer.0.len() as u64,
    };
    let deep = start + 6 + 2;
    let inner = Span {
        start: deep,
        end: deep + 6,
    };
    assert_eq!(&all.0[outer.start as usize + 2..][..4], b"name");
    assert_eq!(&all.0[inner.start as usize + 2..][..4], b"deep");
    (all.0, outer, inner)
}

#[test]
fn nothing_changed_is_the_same_file() {
    let (data, ..) = sample();
    assert_eq!(written(&data, &Edits::new()), data);
}

#[test]
fn lengths_around_a_change_follow() {
    let (data, outer, inner) = sample();
    let mut edits = Edits::new();
    let long = "x".repeat(300);
    edits.set(inner, 2, text(&long));
    edits.append(outer, vec![Piece::Fields(Fields::new().int(4, 1))]);
    let inner = Fields::new().bytes(2, &long);
    let outer = Fields::new().bytes(2, "name").bytes(3, &inner);
    let outer = outer.int(99, -1).int(4, 1);
    let wanted = Fields::new().int(1, 9).bytes(7, outer).int(5, 3);
    assert_eq!(written(&data, &edits), wanted.0);
}

#[test]
fn fields_are_removed_replaced_and_put_beside() {
    let (data, outer, inner) = sample();
    let mut edits = Edits::new();
    edits.remove(outer, inner);
    edits.before(outer, inner, text("before"));
    edits.after(outer, inner, text("after"));
    let whole = Span {
        start: 0,
        end: data.len() as u64,
    };
    edits.set(whole, 5, Vec::new());
    edits.set(whole, 6, text("new"));
    let outer = Fields::new().bytes(2, "name").bytes(2, "before");
    let outer = outer.bytes(2, "after").int(99, -1);
    let wanted = Fields::new().int(1, 9).bytes(7, outer).bytes(2, "new");
    assert_eq!(written(&data, &edits), wanted.0);
}

#[test]
fn a_length_that_stays_keeps_its_spelling() {
    // The length 2 in three bytes, which protobuf allows.
    let data = [0x3a, 0x82, 0x80, 0x00, 0x08, 0x05];
    let message = Span { start: 4, end: 6 };
    let mut edits = Edits::new();
    edits.set(message, 1, vec![Piece::Fields(Fields::new().int(1, 7))]);
    assert_eq!(written(&data, &edits), [0x3a, 0x82, 0x80, 0, 0x08, 0x07]);
}

#[test]
fn a_message_that_is_none_is_refused() {
    let (data, ..) = sample();
    let mut edits = Edits::new();
    edits.append(Span { start: 2, end: 3 }, text("x"));
    let source = SliceSource::new(data, "m");
    assert_eq!(splice(&source, &edits).unwrap_err().rule(), "onnx.splice");
}

#[test]
fn tensors_are_streamed_into_messages() {
    use weighbridge_core::model::{DType, Storage, StorageData, TensorSource, View};
    let bytes = SliceSource::new(vec![1, 2, 3, 4], "t");
    let data = StorageData::Raw {
        source: Arc::new(bytes),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new("t", 4, false, data).unwrap());
    let view = TensorSource::View(View { storage, offset: 0 });
    let t = Arc::new(Tensor::new("t", DType::U8, &[4], view));
    let (data, outer, _) = sample();
    let mut edits = Edits::new();
    let name = Piece::Fields(Fields::new().bytes(8, "t"));
    edits.append(
        outer,
        vec![Piece::Message(5, vec![name, Piece::Tensor(9, t)])],
    );
    let tensor = Fields::new().bytes(8, "t").bytes(9, [1, 2, 3, 4]);
    let old = Fields(data[outer.start as usize..outer.end as usize].to_vec());
    let wanted = Fields::new()
        .int(1, 9)
        .bytes(7, old.bytes(5, tensor))
        .int(5, 3);
    assert_eq!(written(&data, &edits), wanted.0);
}
