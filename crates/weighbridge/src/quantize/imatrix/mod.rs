//! Importance matrices: how much each column of a matrix mattered for some text.
//!
//! Two forms are read and written: GGUF files of `general.type` `imatrix`, and the older one
//! without a magic number (`.dat`). Facts: `common/imatrix-loader.cpp`, `load_imatrix` of
//! `tools/quantize/quantize.cpp` and `tools/imatrix/imatrix.cpp` of llama.cpp 0c1e570.

mod gguf;
mod legacy;
mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, Result};

pub use merge::merge;

/// Tokens of a chunk where a file does not tell: the default context of the reference.
pub const CHUNK_SIZE: u32 = 512;

/// The forms that a matrix is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// GGUF.
    Gguf,
    /// The older one.
    Legacy,
}

impl Form {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Legacy => "legacy",
        }
    }
}

/// What is known of one tensor.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entry {
    /// Sums of squared activations, a run of columns for each expert. In the older form they are
    /// divided by the count of tokens and multiplied by that of chunks.
    pub sums: Vec<f32>,
    /// How many tokens each expert saw; in the older form one count of chunks.
    pub counts: Vec<i64>,
}

/// An importance matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// How it was stored: the meaning of the sums differs.
    pub form: Form,
    /// The names of the texts it comes from: paths, which need not be UTF-8.
    pub datasets: Vec<Vec<u8>>,
    /// How many chunks of text were read.
    pub chunk_count: i32,
    /// Tokens of a chunk; 0 in the older form, which does not tell.
    pub chunk_size: u32,
    /// The entries by name.
    pub entries: BTreeMap<String, Entry>,
}

/// Reads the matrix at `path`, in either form.
///
/// # Errors
/// `Malformed` for what is neither, `Io` when it cannot be read.
pub fn read(path: &Path) -> Result<Matrix> {
    let file = source::open_file(path, Backend::Pread)?;
    let mut magic = [0; 4];
    let whole = file.len() >= 4;
    if whole {
        file.read_at(0, &mut magic)?;
    }
    let named = |e: Error| e.in_file(path.display().to_string());
    let matrix = if whole && &magic == b"GGUF" {
        gguf::read(path)
    } else {
        legacy::read(file.as_ref())
    };
    let matrix = matrix.map_err(named)?;
    matrix.check().map_err(named)?;
    Ok(matrix)
}

/// Writes `matrix` in `form` to `path`.
///
/// # Errors
/// `Parameter` where a number does not fit the form, and what writing gives.
pub fn write(matrix: &Matrix, form: Form, path: &Path, sync: bool) -> Result<()> {
    match form {
        Form::Gguf => {
            let raw = matrix.raw(CHUNK_SIZE);
            // Finite numbers times the tokens of a chunk may not be.
            raw.check()?;
            gguf::write(&raw, path, sync)
        }
        Form::Legacy => legacy::write(matrix, path, sync),
    }
}

impl Matrix {
    fn check(&self) -> Result<()> {
        for (name, e) in &self.entries {
            let n = e.counts.len();
            if n == 0 || e.sums.is_empty() || !e.sums.len().is_multiple_of(n) {
                let message = format!("{} sums for {n} counts", e.sums.len());
                return Err(Error::malformed("imatrix.counts", message).within(name.as_str()));
            }
            if let Some(i) = e.sums.iter().position(|x| !x.is_finite()) {
                let message = format!("value {i} is {}", e.sums.get(i).copied().unwrap_or(0.0));
                let e = Error::malformed("imatrix.not-finite", message).within(name.as_str());
                return Err(e.help("the matrix was computed with an overflow; compute it again"));
            }
            if let Some(c) = e.counts.iter().find(|c| **c < 0) {
                let message = format!("a count of {c}");
                return Err(Error::malformed("imatrix.counts", message).within(name.as_str()));
            }
        }
        Ok(())
    }

    /// Keeps the entries that `keep` says yes to.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| keep(name));
    }

    /// The weights of the tensor called `name`, as many as its columns for each expert; `None`
    /// where there is no entry.
    pub fn weights(&self, name: &str) -> Option<Vec<f32>> {
        let e = self.entries.get(name)?;
        let mut out = Vec::with_capacity(e.sums.len());
        if self.form == Form::Legacy {
            let calls = e.counts.first().copied().unwrap_or(0);
            let divide = |x: &f32| if calls > 0 { x / calls as f32 } else { *x };
            out.extend(e.sums.iter().map(divide));
            return Some(out);
        }
        let columns = (e.sums.len() / e.counts.len().max(1)).max(1);
        for (sums, count) in e.sums.chunks(columns).zip(&e.counts) {
            // An expert that saw nothing: all of its columns are alike.
            let weigh = |x: &f32| if *count > 0 { x / *count as f32 } else { 1.0 };
            out.extend(sums.iter().map(weigh));
        }
        Some(out)
    }

    /// As sums and counts of tokens, which add up. The older form does not tell how many tokens
    /// were in a chunk: `chunk_size` says it, and any gives the same weights.
    #[must_use]
    pub fn raw(&self, chunk_size: u32) -> Self {
        if self.form == Form::Gguf {
            return self.clone();
        }
        let times = |x: &f32| x * chunk_size as f32;
        let entries = self.entries.iter().map(|(name, e)| {
            let counts = e.counts.iter();
            let entry = Entry {
                sums: e.sums.iter().map(times).collect(),
                counts: counts
                    .map(|c| c.saturating_mul(i64::from(chunk_size)))
                    .collect(),
            };
            (name.clone(), entry)
        });
        Self {
            form: Form::Gguf,
            datasets: self.datasets.clone(),
            chunk_count: self.chunk_count,
            chunk_size,
            entries: entries.collect(),
        }
    }

    /// The document of `imatrix inspect`.
    pub fn to_json(&self) -> Json {
        let entries: Vec<Json> = self
            .entries
            .iter()
            .map(|(name, e)| {
                let n = e.sums.len();
                let mean = e.sums.iter().map(|x| f64::from(*x)).sum::<f64>() / n.max(1) as f64;
                json!({
                    "name": name,
                    "columns": n / e.counts.len().max(1),
                    "experts": e.counts.len(),
                    "experts_without_data": e.counts.iter().filter(|c| **c == 0).count(),
                    "least_count": e.counts.iter().min(),
                    "greatest_count": e.counts.iter().max(),
                    "mean": mean,
                    "greatest": e.sums.iter().copied().fold(f32::MIN, f32::max),
                })
            })
            .collect();
        let datasets: Vec<Json> = self
            .datasets
            .iter()
            .map(|name| match std::str::from_utf8(name) {
                Ok(text) => text.into(),
                Err(_) => json!({"$bytes": hex::encode(name)}),
            })
            .collect();
        json!({
            "form": self.form.as_str(),
            "datasets": datasets,
            "chunk_count": self.chunk_count,
            "chunk_size": (self.chunk_size > 0).then_some(self.chunk_size),
            "entries": entries,
        })
    }
}
