//! A name for a graph, whatever weights are in it.

use std::ops::Range;

use sha2::{Digest, Sha256};
use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::Span;

use super::raw::Model;
use super::splice::{Edits, splice};
use super::walk::{Item, walk};
use crate::output::Sink;

/// Bytes read at a time.
const STEP: u64 = 256 << 10;

/// The SHA-256, in hexadecimal, of the file in `source` without the initializers of its graphs
/// (fields 5 and 15 of every `GraphProto`, with the lengths around them as they are then): equal
/// for one graph with other weights, or with weights that lie elsewhere.
///
/// # Errors
/// What reading gives.
pub fn graph_sha256(source: &dyn ByteSource, model: &Model) -> Result<String> {
    let mut edits = Edits::new();
    walk(model, Span::of(source), &Edits::new(), &mut |item| {
        if let Item::Graph(g) = item
            && !(g.initializers.is_empty() && g.sparse_initializers.is_empty())
        {
            for span in &g.spans {
                edits.set(*span, 5, Vec::new());
                edits.set(*span, 15, Vec::new());
            }
        }
        Ok(())
    })?;
    let mut hash = Hash::default();
    splice(source, &edits)?.write(source, &mut hash, &mut |_| {})?;
    Ok(hex::encode(hash.state.finalize()))
}

/// A sink that keeps only the digest.
#[derive(Default)]
struct Hash {
    state: Sha256,
    at: u64,
}

impl Sink for Hash {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.state.update(bytes);
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn copy(&mut self, source: &dyn ByteSource, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(STEP));
            let part = source.read_vec(at..end)?;
            self.put(&part)?;
            at = end;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::onnx::{encode::Fields, parse};
    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;

    fn digest(graph: Fields) -> String {
        let data = Fields::new().int(1, 8).bytes(7, graph).0;
        let source = SliceSource::new(data, "m.onnx");
        let model = parse::parse(&source, &Limits::default()).unwrap().model;
        graph_sha256(&source, &model).unwrap()
    }

    #[test]
    fn it_is_of_the_graph_and_not_of_its_weights() {
        let node = Fields::new().bytes(1, "w").bytes(2, "y").bytes(4, "Relu");
        let weight = Fields::new().int(1, 1).int(2, 1).bytes(8, "w");
        let bare = Fields::new().bytes(1, &node).bytes(2, "g");
        let one = bare.clone().bytes(5, weight.clone().bytes(9, [0; 4]));
        let other = bare.clone().bytes(5, weight.bytes(4, [1; 4]));
        assert_eq!(digest(one), digest(bare.clone()));
        assert_eq!(digest(other), digest(bare.clone()));
        let data = Fields::new().int(1, 8).bytes(7, &bare).0;
        assert_eq!(digest(bare), hex::encode(Sha256::digest(data)));
        let node = Fields::new().bytes(1, "w").bytes(2, "y").bytes(4, "Sin");
        assert_ne!(
            digest(Fields::new().bytes(1, node).bytes(2, "g")),
            digest(Fields::new())
        );
    }
}
