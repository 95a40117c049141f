//! Networks that run along a sequence.

use super::dims::{Dim, shown};
use super::{Call, Inferred};

/// `RNN`, `GRU`, `LSTM`: the outputs of every step, and the last states.
pub(super) fn recurrent(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let &[first, second, _] = &x[..] else {
        let message = format!("{} is no sequence of batches", shown(x));
        return Err(message.into());
    };
    let hidden: Dim = call
        .attribute("hidden_size")
        .and_then(|a| a.i)
        .and_then(|n| n.try_into().ok());
    // The lengths tell `bidirectional` from `forward` and `reverse`.
    let directions = match call
        .attribute("direction")
        .and_then(|a| a.s)
        .map(|s| s.len())
    {
        None | Some(7) => Some(1),
        Some(13) => Some(2),
        _ => None,
    };
    let batch_first = call.int("layout", 0) != 0;
    let (steps, last) = match batch_first {
        true => (
            [first, second, directions, hidden],
            [first, directions, hidden],
        ),
        false => (
            [first, directions, second, hidden],
            [directions, second, hidden],
        ),
    };
    let last = Some(last.into());
    Ok(vec![Some(steps.into()), last.clone(), last])
}
