//! Values of datasets that do not lie in the file as they are: chunks, texts, and what was never
//! written.

use std::sync::Arc;

use weighbridge_core::model::{CHUNK, Compute};
use weighbridge_core::wire::hdf5::{Dataset, File};
use weighbridge_core::{Error, Result};

use super::attributes::{trimmed, until_nul};
use super::types::Form;

/// The values of a dataset, decoded while they are read.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) file: Arc<File>,
    pub(super) dataset: Arc<Dataset>,
    /// Where the dataset's header lies.
    pub(super) at: u64,
    pub(super) form: Form,
    /// How many bytes are turned round together.
    pub(super) swap: usize,
}

impl Compute for Stored {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.form {
            Form::Numbers { big_endian } => {
                let swap = if big_endian { self.swap } else { 1 };
                self.file.values(&self.dataset, self.at, &mut |band| {
                    if swap > 1 {
                        band.chunks_exact_mut(swap).for_each(<[u8]>::reverse);
                    }
                    band.chunks(CHUNK).try_for_each(&mut *sink)
                })
            }
            Form::Fixed(padding) => self.texts(sink, &mut |element, out| {
                out.put(trimmed(element, padding));
                Ok(())
            }),
            Form::Variable => self.texts(sink, &mut |element, out| {
                out.put(until_nul(&self.file.variable_text(element, self.at)?));
                Ok(())
            }),
            Form::Other => Err(Error::unsupported(
                "hdf5.datatype",
                "the dataset's type is none that values are read of",
            )
            .at(self.at)),
        }
    }
}

/// Texts with their lengths before them.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
}

impl Texts {
    fn put(&mut self, text: &[u8]) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text);
    }
}

impl Stored {
    fn texts(
        &self,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
        one: &mut dyn FnMut(&[u8], &mut Texts) -> Result<()>,
    ) -> Result<()> {
        // Many elements may name one long text of the heap.
        let cap = self.file.limits().expand_cap(self.file.source().len());
        let width = self.dataset.datatype.size.max(1) as usize;
        let mut out = Texts::default();
        let mut total = 0u64;
        self.file.values(&self.dataset, self.at, &mut |band| {
            for element in band.chunks_exact(width) {
                let before = out.bytes.len();
                one(element, &mut out)?;
                total = total.saturating_add((out.bytes.len() - before) as u64);
                if total > cap {
                    let message = "the texts of the dataset come to far more than the file";
                    return Err(Error::limit("hdf5.expand", message).at(self.at));
                }
                if out.bytes.len() >= CHUNK {
                    sink(&out.bytes)?;
                    out.bytes.clear();
                }
            }
            Ok(())
        })?;
        if out.bytes.is_empty() {
            return Ok(());
        }
        sink(&out.bytes)
    }
}
