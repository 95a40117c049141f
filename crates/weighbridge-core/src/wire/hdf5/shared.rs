//! Messages that lie elsewhere (IV.A.1.a, the shared message; III.I, the table of shared
//! messages).

use std::borrow::Cow;

use super::fields::Fields;
use super::file::File;
use super::fractal::Heap;
use super::header::{Header, Message, kind};
use crate::error::{Error, Result};

const RULE: &str = "hdf5.shared-message";

/// One index of shared messages: the kinds it holds, and their heap.
#[derive(Debug)]
pub(super) struct SharedIndex {
    kinds: u16,
    heap: Option<u64>,
}

impl File {
    /// The body of a message, wherever it lies, and the address of its first byte.
    pub(super) fn body<'a>(
        &'a self,
        header: &'a Header<'_>,
        m: &Message,
    ) -> Result<(Cow<'a, [u8]>, u64)> {
        let (body, address) = header.body(m);
        if m.is_shared() {
            let mut f = self.fields(body, address);
            self.shared_body(m.kind, &mut f)
        } else {
            Ok((Cow::Borrowed(body), address))
        }
    }

    /// The body that a shared message of `kind` stands for.
    pub(super) fn shared_body(
        &self,
        kind: u16,
        f: &mut Fields<'_>,
    ) -> Result<(Cow<'_, [u8]>, u64)> {
        let version = f.version(1..=3, RULE)?;
        let how = f.u8()?;
        let place = f.place();
        if version == 3 && how == 1 {
            let id = f.take(8)?;
            return self.of_table(kind, id, place);
        }
        f.skip(if version == 1 { 6 } else { 0 })?;
        let address = f
            .address()?
            .ok_or_else(|| Error::malformed(RULE, "a shared message lies nowhere").at(place))?;
        let header = self.header(address)?;
        match header.first(kind) {
            // A message that is shared again would go on for ever in a file made so.
            Some(m) if !m.is_shared() => {
                let (body, at) = header.body(m);
                Ok((Cow::Owned(body.to_vec()), at))
            }
            _ => {
                Err(Error::malformed(RULE, "a shared message is not where it should be").at(place))
            }
        }
    }

    pub(super) fn of_table(&self, kind: u16, id: &[u8], at: u64) -> Result<(Cow<'_, [u8]>, u64)> {
        let none = || Error::malformed(RULE, "there is no table of such shared messages").at(at);
        let index = self
            .shared_indexes()?
            .iter()
            .find(|i| kind < 16 && i.kinds & (1 << kind) != 0);
        let heap = index.and_then(|i| i.heap).ok_or_else(none)?;
        Heap::open(self, heap)?.object(id, at)
    }

    /// The table of shared messages, which the superblock's extension leads to.
    pub(super) fn shared_indexes(&self) -> Result<&[SharedIndex]> {
        if let Some(all) = self.shared.get() {
            return Ok(all);
        }
        let all = self.read_shared()?;
        Ok(self.shared.get_or_init(|| all))
    }

    fn read_shared(&self) -> Result<Vec<SharedIndex>> {
        let Some(extension) = self.superblock().extension else {
            return Ok(Vec::new());
        };
        let header = self.header(extension)?;
        let Some(m) = header.first(kind::SHARED_TABLE) else {
            return Ok(Vec::new());
        };
        let (body, at) = header.body(m);
        let mut f = self.fields(body, at);
        f.version(0..=0, RULE)?;
        let address = f.address()?;
        let count = f.u8()?;
        let Some(address) = address else {
            return Ok(Vec::new());
        };
        let each = 14 + 2 * u64::from(self.sizes().offset);
        let table = self.bytes(address, 8 + u64::from(count) * each)?;
        self.verify(&table, address)?;
        let mut f = self.fields(&table, address);
        f.tag(b"SMTB", RULE)?;
        (0..count)
            .map(|_| {
                f.skip(2)?;
                let kinds = f.u16()?;
                f.skip(10)?;
                let index = f.address()?;
                let heap = f.address()?;
                self.mark_shared(index)?;
                Ok(SharedIndex { kinds, heap })
            })
            .collect()
    }

    /// An index of shared messages is not needed to find them; it is theirs all the same.
    fn mark_shared(&self, index: Option<u64>) -> Result<()> {
        let Some(index) = index else {
            return Ok(());
        };
        let head = self.peek(index, 4)?;
        if head.as_ref() == b"BTHD" {
            self.tree2(index, &mut |_, _| Ok(()))?;
        }
        Ok(())
    }
}
