//! Files that are a prepared header and the tensors' data behind it, in order: safetensors, GGUF.

use weighbridge_core::model::{Chunks, Model, Tensor};
use weighbridge_core::{Error, Result};

use super::gguf::swap;
use super::{Plan, PlannedFile};
use crate::output::{Run, Sink, raw_bytes};

/// Writes file number `file` of `plan`; `progress` is told the payload bytes written since its
/// last call.
///
/// # Errors
/// `Parameter` when the plan is of another model, and what reading and writing gives.
pub(super) fn write(
    model: &Model,
    plan: &Plan,
    file: usize,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let file = planned(plan, file)?;
    write_file(model, file, &file.tensors, out, progress)
}

/// File number `file` of `plan`.
///
/// # Errors
/// `Parameter` when there is none.
pub(super) fn planned(plan: &Plan, file: usize) -> Result<&PlannedFile> {
    plan.files.get(file).ok_or_else(|| {
        Error::parameter(
            "plan.no-such-file",
            format!("the plan has no file number {file}"),
        )
    })
}

/// Writes `file`, of whose tensors those numbered `chosen` have their data behind the header.
///
/// # Errors
/// As [`write()`].
pub(super) fn write_file(
    model: &Model,
    file: &PlannedFile,
    chosen: &[usize],
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let start = out.position();
    out.put(&file.prepared)?;
    tensors(model, file, chosen, out, progress)?;
    let written = out.position() - start;
    if written != file.bytes {
        let planned = file.bytes;
        let message = format!("wrote {written} bytes instead of the planned {planned}");
        return Err(Error::parameter("plan.other-model", message));
    }
    Ok(())
}

/// Streams the tensors numbered `chosen` of `file`, each with its padding; what lies in a file as it is to be
/// written is copied from there, neighbours as one.
fn tensors(
    model: &Model,
    file: &PlannedFile,
    chosen: &[usize],
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut chunks = Chunks::new();
    let mut run = Run::default();
    for &i in chosen {
        let t = model.tensors.get(i).ok_or_else(|| {
            Error::parameter("plan.other-model", "the plan was made for another model")
        })?;
        let len = t.byte_len();
        if len == 0 {
            continue;
        }
        let turned = file.big_endian && !swap::is_same(t.dtype);
        match raw_bytes(t).filter(|_| !turned) {
            Some((source, at)) => {
                if !run.join(source, at, len) {
                    run.flush(out, progress)?;
                    run = Run::new(source, at, len);
                }
            }
            None => {
                run.flush(out, progress)?;
                stream(t, turned, &mut chunks, out, progress)?;
            }
        }
        let pad = len.next_multiple_of(file.alignment.max(1)) - len;
        if pad > 0 {
            run.flush(out, progress)?;
            // Less than an alignment, which is at most a MiB.
            out.put(&vec![0u8; usize::try_from(pad).unwrap_or(0)])?;
        }
    }
    run.flush(out, progress)
}

/// Streams one tensor, turned round where that is asked for.
fn stream(
    t: &Tensor,
    turned: bool,
    chunks: &mut Chunks,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (mut done, len) = (0u64, t.byte_len());
    let mut put = |part: &[u8]| {
        out.put(part)?;
        done += part.len() as u64;
        progress(part.len() as u64);
        Ok(())
    };
    match turned {
        true => swap::stream(t, chunks, &mut put)?,
        false => t.stream(chunks, &mut put)?,
    }
    if done != len {
        let message = format!("tensor {:?} gave {done} bytes instead of {len}", t.name);
        return Err(Error::malformed("tensor.wrong-length", message));
    }
    Ok(())
}
