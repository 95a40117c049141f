//! Texts of tensors, which are read when the file is planned: they lie among the structures.

use weighbridge_core::model::{Chunks, Model, Tensor};
use weighbridge_core::{Error, Result};

/// Texts may take this many bytes at most, and those of a small file fewer: one text can stand in
/// many places.
const MOST: usize = 256 << 20;
const LEAST: usize = 16 << 20;
const PER_BYTE: u64 = 16;

/// What a reference to a text takes.
const REFERENCE: usize = 16;

/// How many bytes of texts may still come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    most: usize,
    used: usize,
}

impl Budget {
    /// What the size of the model's files justifies.
    pub(super) fn of(model: &Model) -> Self {
        let justified = model.file_bytes().saturating_mul(PER_BYTE);
        let justified = usize::try_from(justified).unwrap_or(MOST);
        Self {
            most: justified.clamp(LEAST, MOST),
            used: 0,
        }
    }

    /// Takes the room of `text`.
    ///
    /// # Errors
    /// `Limit` where there is no more.
    pub(super) fn take(&mut self, text: &[u8]) -> Result<()> {
        self.used = self.used.saturating_add(text.len() + REFERENCE);
        if self.used <= self.most {
            return Ok(());
        }
        let message = format!(
            "the texts of the tensors take more than {} bytes",
            self.most
        );
        Err(Error::limit("hdf5.texts", message).help("--drop leaves such tensors out"))
    }
}

/// Whether a text of `t` holds the NUL at which readers of HDF5 end it, whatever its length says.
pub(super) fn holds_nul(t: &Tensor, budget: &mut Budget) -> Result<bool> {
    let mut found = false;
    each_text(t, &mut |text| {
        budget.take(text)?;
        found |= text.contains(&0);
        Ok(())
    })?;
    Ok(found)
}

/// Gives each text of a tensor of texts in turn.
pub(super) fn each_text(t: &Tensor, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut pending: Vec<u8> = Vec::new();
    t.stream(&mut Chunks::new(), &mut |part| {
        pending.extend_from_slice(part);
        let mut used = 0usize;
        while let Some(rest) = pending.get(used..) {
            let Some((head, rest)) = rest.split_first_chunk::<8>() else {
                break;
            };
            let len = usize::try_from(u64::from_le_bytes(*head)).unwrap_or(usize::MAX);
            if len > MOST {
                let message = format!("a text of {len} bytes");
                return Err(Error::limit("hdf5.texts", message));
            }
            let Some(text) = rest.get(..len) else {
                break;
            };
            sink(text)?;
            used += 8 + len;
        }
        pending.drain(..used);
        Ok(())
    })?;
    if pending.is_empty() {
        return Ok(());
    }
    let message = format!("tensor {:?} ends within a text", t.name);
    Err(Error::malformed("tensor.wrong-length", message))
}
