//! The memo and its opcodes.

use std::collections::HashMap;

use super::super::number;
use super::super::opcode::Op;
use super::super::value::NodeId;
use super::{Machine, bad};
use crate::error::{Error, Result};

/// Memo indices below this one lie in a vector, as do those that continue it; the opcodes may name
/// any number, and a hostile one must not allocate.
const DENSE: u64 = 1 << 16;

/// Greatest index of a stream with fewer bytes: an array with twice as many places is what the C
/// unpickler makes of it (Modules/_pickle.c, `_Unpickler_MemoPut`). Picklers count from zero.
const MOST_SPARSE: u64 = 1 << 24;

/// A place of the vector that nothing was put into.
const VACANT: NodeId = NodeId::MAX;

#[derive(Default)]
pub(super) struct Memo {
    dense: Vec<NodeId>,
    sparse: HashMap<u64, NodeId>,
    /// How many indices are set: the one that `MEMOIZE` sets next.
    len: u64,
}

impl Memo {
    fn get(&self, index: u64) -> Option<NodeId> {
        let dense = usize::try_from(index).ok().and_then(|i| self.dense.get(i));
        match dense {
            Some(&id) => (id != VACANT).then_some(id),
            None => self.sparse.get(&index).copied(),
        }
    }

    /// Gives whether the index is new.
    fn put(&mut self, index: u64, id: NodeId) -> bool {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(place) = self.dense.get_mut(at) {
            return std::mem::replace(place, id) == VACANT;
        }
        if index < DENSE {
            self.dense.resize(at, VACANT);
            self.dense.push(id);
            return true;
        }
        if at == self.dense.len() {
            self.dense.push(id);
            return self.sparse.remove(&index).is_none();
        }
        self.sparse.insert(index, id).is_none()
    }
}

impl Machine<'_> {
    pub(super) fn memo(&mut self, op: Op) -> Result<()> {
        let index = match op {
            Op::BINGET | Op::BINPUT => u64::from(self.input.u8()?),
            Op::LONG_BINGET | Op::LONG_BINPUT => u64::from(self.input.u32()?),
            Op::MEMOIZE => self.memo.len,
            _ => {
                let (_, line) = self.line()?;
                match number::memo_line(line) {
                    Some(v) => v,
                    None => return bad("pickle.bad-number", "no memo index"),
                }
            }
        };
        if matches!(op, Op::GET | Op::BINGET | Op::LONG_BINGET) {
            return match self.memo.get(index) {
                Some(id) => {
                    self.stack.push(id);
                    Ok(())
                }
                None => bad("pickle.memo-miss", format!("memo {index} is not set")),
            };
        }
        let top = self.top()?;
        if index > MOST_SPARSE.max(self.trace.data.len() as u64) {
            self.soften(Error::limit(
                "pickle.memo-index",
                format!("memo {index}: readers allocate every place below it"),
            ));
        }
        if self.memo.put(index, top) {
            self.memo.len += 1;
            self.took(1, if index < DENSE { 4 } else { 32 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_readers_would_allocate_for_is_a_fault_and_no_end() {
        use crate::{ErrorKind, Limits, pickle};
        let run = |index: u32| {
            let mut data = b"\x80\x02Nr".to_vec();
            data.extend(index.to_le_bytes());
            data.extend(b"0cm\nf\n)R.");
            let t = pickle::run(&data, &Limits::default());
            (t.error.as_ref().map(crate::Error::kind), t.globals.len())
        };
        assert_eq!(run(i32::MAX as u32), (Some(ErrorKind::Limit), 1));
        assert_eq!(run(1000), (None, 1));
    }

    #[test]
    fn sparse_places_become_dense_ones_without_being_lost() {
        let mut m = Memo::default();
        assert!(m.put(DENSE + 1, 7));
        for i in 0..DENSE {
            assert!(m.put(i, 1));
        }
        assert!(m.put(DENSE, 2));
        assert_eq!(m.get(DENSE + 1), Some(7));
        assert!(!m.put(DENSE + 1, 8));
        assert_eq!(m.get(DENSE + 1), Some(8));
        assert_eq!(m.get(u64::MAX), None);
        assert!(m.put(u64::MAX, 9));
        assert_eq!(m.get(u64::MAX), Some(9));
    }
}
