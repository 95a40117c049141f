//! The older form: 32-bit little-endian numbers and strings, one entry after the other.
//!
//! Count of entries; for each the length of its name, the name, the count of chunks, the count of
//! values, the values. Then, where the writer was not too old: the count of chunks of the whole,
//! the length of the text's name, the name.

use std::collections::BTreeMap;
use std::path::Path;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::{Entry, Form, Matrix};
use crate::output::{Output, Sink};

/// Longest name taken: GGUF's own names have at most 63 bytes.
const LONGEST_NAME: u64 = 4096;

struct At<'a> {
    source: &'a dyn ByteSource,
    at: u64,
}

impl At<'_> {
    fn left(&self) -> u64 {
        self.source.len().saturating_sub(self.at)
    }

    fn take(&mut self, n: u64, what: &str) -> Result<Vec<u8>> {
        if n > self.left() {
            let left = self.left();
            let message = format!("{what} needs {n} bytes, the file has {left} more");
            let e = Error::truncated("imatrix.truncated", message).at(self.at);
            return Err(e.help("this is no importance matrix, or one that was cut short"));
        }
        let bytes = self.source.read_vec(self.at..self.at + n)?;
        self.at += n;
        Ok(bytes)
    }

    fn number(&mut self, what: &str) -> Result<i32> {
        let bytes = self.take(4, what)?;
        let four = bytes.first_chunk::<4>().copied().unwrap_or_default();
        Ok(i32::from_le_bytes(four))
    }

    fn count(&mut self, what: &str, least: i32) -> Result<u64> {
        let at = self.at;
        let n = self.number(what)?;
        if n < least {
            let message = format!("{what} is {n}");
            let e = Error::malformed("imatrix.count", message).at(at);
            return Err(e.help("this is no importance matrix"));
        }
        Ok(u64::from(n.unsigned_abs()))
    }

    /// A name; what stands behind a NUL does not count.
    fn text(&mut self, what: &str) -> Result<String> {
        let at = self.at;
        String::from_utf8(self.string(what)?)
            .map_err(|_| Error::malformed("imatrix.utf8", format!("{what} is no UTF-8")).at(at))
    }

    fn string(&mut self, what: &str) -> Result<Vec<u8>> {
        let at = self.at;
        let n = self.count(what, 0)?;
        if n > LONGEST_NAME {
            let message = format!("{what} has {n} bytes");
            return Err(Error::malformed("imatrix.count", message).at(at));
        }
        let mut bytes = self.take(n, what)?;
        if let Some(end) = bytes.iter().position(|b| *b == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }
}

pub(super) fn read(source: &dyn ByteSource) -> Result<Matrix> {
    let mut at = At { source, at: 0 };
    let n = at.count("the count of entries", 1)?;
    let mut entries = BTreeMap::new();
    for _ in 0..n {
        let start = at.at;
        let name = at.text("the name of an entry")?;
        let calls = at.number("a count of chunks")?;
        let values = at.count("a count of values", 1)?;
        let bytes = at.take(values.saturating_mul(4), "an entry")?;
        let parts = bytes.as_chunks::<4>().0;
        let entry = Entry {
            sums: parts.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            counts: vec![i64::from(calls)],
        };
        if entries.insert(name.clone(), entry).is_some() {
            let message = format!("a second entry for {name}");
            return Err(Error::malformed("imatrix.twice", message).at(start));
        }
    }
    let (mut chunk_count, mut datasets) = (0, Vec::new());
    if at.left() >= 4 {
        chunk_count = at.number("the count of chunks")?;
        if at.left() >= 4 {
            let text = at.string("the name of the text")?;
            datasets.extend(Some(text).filter(|t| !t.is_empty()));
        }
    }
    Ok(Matrix {
        form: Form::Legacy,
        datasets,
        chunk_count,
        chunk_size: 0,
        entries,
    })
}

fn number(n: usize, what: &str) -> Result<[u8; 4]> {
    let n = i32::try_from(n).map_err(|_| {
        Error::parameter(
            "imatrix.too-large",
            format!("{n} {what} do not fit the form"),
        )
        .help("write the GGUF form")
    })?;
    Ok(n.to_le_bytes())
}

pub(super) fn write(matrix: &Matrix, path: &Path, sync: bool) -> Result<()> {
    // An entry that no token reached has nothing to say in this form.
    let told = |e: &&Entry| matrix.form == Form::Legacy || e.counts.iter().any(|c| *c > 0);
    let n = matrix.entries.values().filter(told).count();
    if n == 0 {
        let message = "no token reached an entry, and the older form has no place for such";
        let e = Error::unsupported("imatrix.write", message);
        return Err(e.help("write the GGUF form"));
    }
    let dataset = matrix.datasets.last().map_or(&[][..], Vec::as_slice);
    if dataset.len() as u64 > LONGEST_NAME {
        let message = format!("the name of a text has {} bytes", dataset.len());
        let e = Error::parameter("imatrix.too-large", message);
        return Err(e.help("write the GGUF form"));
    }
    let mut out = Output::create(path, sync)?;
    out.put(&number(n, "entries")?)?;
    for (name, e) in matrix.entries.iter().filter(|(_, e)| told(e)) {
        out.put(&number(name.len(), "bytes of a name")?)?;
        out.put(name.as_bytes())?;
        let (calls, values) = entry(matrix, e);
        out.put(&number(calls, "chunks")?)?;
        out.put(&number(values.len(), "values")?)?;
        for part in values.chunks(1 << 14) {
            let bytes: Vec<u8> = part.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.put(&bytes)?;
        }
    }
    out.put(&matrix.chunk_count.to_le_bytes())?;
    out.put(&number(dataset.len(), "bytes of a name")?)?;
    out.put(dataset)?;
    out.finish()?;
    Ok(())
}

/// The count of chunks and the values of an entry in this form.
fn entry(matrix: &Matrix, e: &Entry) -> (usize, Vec<f32>) {
    if matrix.form == Form::Legacy {
        let calls = e.counts.first().copied().unwrap_or(0);
        return (usize::try_from(calls).unwrap_or(0), e.sums.clone());
    }
    let size = i64::from(matrix.chunk_size.max(1));
    let most = e.counts.iter().copied().max().unwrap_or(0);
    let calls = usize::try_from(most.saturating_add(size - 1) / size).unwrap_or(0);
    let columns = (e.sums.len() / e.counts.len().max(1)).max(1);
    let mut values = Vec::with_capacity(e.sums.len());
    for (sums, count) in e.sums.chunks(columns).zip(&e.counts) {
        let value = |x: &f32| match *count {
            0 => calls as f32,
            n => (x / n as f32) * calls as f32,
        };
        values.extend(sums.iter().map(value));
    }
    (calls, values)
}
