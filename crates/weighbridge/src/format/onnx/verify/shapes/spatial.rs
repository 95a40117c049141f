//! Convolutions and pools over images and their like: batch, channels, then space.

use super::dims::{Dim, Dims, equal, shown};
use super::{Call, Contradiction, Inferred};

/// The numbers of a window, one for each dimension of space.
struct Window {
    kernel: Vec<Dim>,
    strides: Vec<u64>,
    dilations: Vec<u64>,
    /// Before and behind; `None` where `auto_pad` says it.
    pads: Option<Vec<(u64, u64)>>,
    /// Whether `auto_pad` keeps the extent (`SAME_…`).
    same: bool,
}

/// The attribute `name`, `n` numbers of at least `least`, which stands for one that is left out.
fn numbers(call: &Call<'_>, name: &str, n: usize, least: u64) -> Result<Vec<u64>, Contradiction> {
    let Some(all) = call.list(name) else {
        return Ok(vec![least; n]);
    };
    if all.len() != n {
        let message = format!("{name} has {} numbers, not {n}", all.len());
        return Err(message.into());
    }
    let one = |&v: &i64| u64::try_from(v).ok().filter(|&v| v >= least);
    let all: Option<Vec<u64>> = all.iter().map(one).collect();
    all.ok_or_else(|| format!("{name} holds a number below {least}").into())
}

impl Window {
    /// The window of the node over `n` dimensions of space.
    fn of(call: &Call<'_>, kernel: Vec<Dim>, n: usize) -> Result<Self, Contradiction> {
        let strides = numbers(call, "strides", n, 1)?;
        let dilations = numbers(call, "dilations", n, 1)?;
        let pads = numbers(call, "pads", 2 * n, 0)?;
        let auto = call.attribute("auto_pad").and_then(|a| a.s);
        // The lengths tell the four words apart: NOTSET, VALID, SAME_UPPER and SAME_LOWER.
        let (explicit, same) = match auto.map(|s| s.len()) {
            None | Some(0 | 6) => (true, false),
            Some(10) => (false, true),
            _ => (false, false),
        };
        let (before, behind) = pads.split_at(n);
        let pads = before.iter().copied().zip(behind.iter().copied()).collect();
        Ok(Self {
            kernel,
            strides,
            dilations,
            pads: explicit.then_some(pads),
            same,
        })
    }

    /// What dimension `i` of extent `x` becomes.
    fn extent(&self, i: usize, x: Dim) -> Dim {
        let x = x?;
        let stride = *self.strides.get(i)?;
        if self.same {
            return Some(x.div_ceil(stride));
        }
        let kernel = (*self.kernel.get(i)?)?;
        let reach = kernel
            .checked_sub(1)?
            .checked_mul(*self.dilations.get(i)?)?;
        let (before, behind) = match &self.pads {
            Some(pads) => *pads.get(i)?,
            None => (0, 0),
        };
        let room = x.checked_add(before)?.checked_add(behind)?;
        Some(room.checked_sub(reach.checked_add(1)?)? / stride + 1)
    }

    fn over(&self, space: &[Dim]) -> Vec<Dim> {
        let all = space.iter().enumerate();
        all.map(|(i, &x)| self.extent(i, x)).collect()
    }
}

/// The kernel that the attribute says; nothing is known of one that is left out.
fn kernel_said(call: &Call<'_>, n: usize) -> Result<Vec<Dim>, Contradiction> {
    match call.list("kernel_shape") {
        None => Ok(vec![None; n]),
        Some(_) => Ok(numbers(call, "kernel_shape", n, 1)?
            .into_iter()
            .map(Some)
            .collect()),
    }
}

/// The kernel of a convolution: what the weights have, against what the attribute says.
fn kernel(call: &Call<'_>, space: &[Dim]) -> Result<Vec<Dim>, Contradiction> {
    let said = kernel_said(call, space.len())?;
    let mut out = Vec::with_capacity(space.len());
    for (&w, &s) in space.iter().zip(&said) {
        if !equal(w, s) {
            let message = format!(
                "kernel_shape is {}, the weights' {}",
                shown(&said),
                shown(space)
            );
            return Err(message.into());
        }
        out.push(w.or(s));
    }
    Ok(out)
}

/// Batch and channels (or, of weights, what they make and what they take), and the dimensions of
/// space.
type Image<'x> = (Dim, Dim, &'x [Dim]);

/// The parts of a shape that has at least one dimension of space.
fn image(x: &[Dim]) -> Option<Image<'_>> {
    match x {
        [n, c, space @ ..] if !space.is_empty() => Some((*n, *c, space)),
        _ => None,
    }
}

fn groups(call: &Call<'_>) -> Option<u64> {
    u64::try_from(call.int("group", 1)).ok().filter(|&g| g > 0)
}

fn times(a: Dim, b: Dim) -> Dim {
    a?.checked_mul(b?)
}

/// What the weights' first two dimensions say, and those of space.
fn weights<'c>(
    call: &'c Call<'_>,
    x: &Dims,
    input: usize,
) -> Result<Option<Image<'c>>, Contradiction> {
    let Some(w) = call.shape(input) else {
        return Ok(None);
    };
    if w.len() != x.len() {
        let message = format!("{} is convolved with {}", shown(x), shown(w));
        return Err(message.into());
    }
    Ok(image(w))
}

fn bias(call: &Call<'_>, input: usize, channels: Dim) -> Result<(), Contradiction> {
    match call.shape(input).filter(|_| call.has(input)) {
        Some(b) if b.len() != 1 || !equal(b.first().copied().flatten(), channels) => {
            let message = format!("the bias is {}, not {}", shown(b), shown(&[channels]));
            Err(message.into())
        }
        _ => Ok(()),
    }
}

/// `Conv` and its like, whose weights and bias are the given inputs.
pub(super) fn conv(call: &Call<'_>, weights_at: usize, bias_at: Option<usize>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let Some((batch, channels, space)) = image(x) else {
        let message = format!("{} has no dimension of space", shown(x));
        return Err(message.into());
    };
    let Some((made, taken, of)) = weights(call, x, weights_at)? else {
        return Ok(Vec::new());
    };
    let groups = groups(call);
    if !equal(channels, times(taken, groups)) {
        let message = format!(
            "{} has other channels than the weights {} take in {} groups",
            shown(x),
            shown(&[made, taken]),
            groups.unwrap_or(0)
        );
        return Err(message.into());
    }
    if let Some(at) = bias_at {
        bias(call, at, made)?;
    }
    let kernel = kernel(call, of)?;
    let mut out = vec![batch, made];
    out.extend(Window::of(call, kernel, space.len())?.over(space));
    Ok(vec![Some(out.into())])
}

/// `ConvTranspose`; its extents have too many sources to be reckoned here.
pub(super) fn conv_transpose(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let (Some((batch, channels, space)), Some((taken, made, of))) =
        (image(x), weights(call, x, 1)?)
    else {
        return Ok(Vec::new());
    };
    if !equal(channels, taken) {
        let message = format!("{} has other channels than the weights take", shown(x));
        return Err(message.into());
    }
    let made = times(made, groups(call));
    bias(call, 2, made)?;
    kernel(call, of)?;
    Window::of(call, Vec::new(), space.len())?;
    let out: Dims = [batch, made]
        .into_iter()
        .chain(space.iter().map(|_| None))
        .collect();
    Ok(vec![Some(out)])
}

/// `MaxPool`, `AveragePool`, `LpPool`.
pub(super) fn pool(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let Some((batch, channels, space)) = image(x) else {
        let message = format!("{} has no dimension of space", shown(x));
        return Err(message.into());
    };
    let kernel = kernel_said(call, space.len())?;
    let mut out = vec![batch, channels];
    let window = Window::of(call, kernel, space.len())?;
    match call.int("ceil_mode", 0) == 0 {
        true => out.extend(window.over(space)),
        false => out.extend(space.iter().map(|_| None)),
    }
    let out: Dims = out.into();
    // The places of the maxima have the shape of the maxima.
    Ok(vec![Some(out.clone()), Some(out)])
}

/// `GlobalAveragePool` and its like.
pub(super) fn global_pool(call: &Call<'_>) -> Inferred {
    let Some((batch, channels, space)) = call.shape(0).and_then(|x| image(x)) else {
        return Ok(Vec::new());
    };
    let out: Dims = [batch, channels]
        .into_iter()
        .chain(space.iter().map(|_| Some(1)))
        .collect();
    Ok(vec![Some(out)])
}

/// `BatchNormalization`: a number of each kind for every channel.
pub(super) fn batch_normalization(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    // Before version 9 it could be reckoned for every place apart.
    let channels = x.get(1).copied().flatten();
    for i in 1..5 {
        let Some(p) = call.shape(i).filter(|_| call.version >= 9) else {
            continue;
        };
        if p.len() != 1 || !equal(p.first().copied().flatten(), channels) {
            let message = format!("input {i} is {} for {}", shown(p), shown(x));
            return Err(message.into());
        }
    }
    Ok(vec![call.shape(0).cloned()])
}

/// The edge of the blocks that channels are cut into or put together from.
fn block(call: &Call<'_>) -> Result<u64, Contradiction> {
    let n = call.int("blocksize", 0);
    let edge = u64::try_from(n).ok().filter(|&n| n > 0 && n < 1 << 20);
    edge.ok_or_else(|| format!("blocks of {n} by {n}").into())
}

/// The four dimensions of an image.
fn flat(x: &[Dim]) -> Result<[Dim; 4], Contradiction> {
    x.try_into()
        .map_err(|_| format!("{} is no batch of images", shown(x)).into())
}

/// `a / b`, which has to go without a rest.
fn over(a: Dim, b: u64, x: &[Dim]) -> Result<Dim, Contradiction> {
    match a {
        Some(a) if !a.is_multiple_of(b) => {
            Err(format!("{a} of {} is no multiple of {b}", shown(x)).into())
        }
        Some(a) => Ok(Some(a / b)),
        None => Ok(None),
    }
}

/// `DepthToSpace`.
pub(super) fn depth_to_space(call: &Call<'_>) -> Inferred {
    let (Some(x), edge) = (call.shape(0), block(call)?) else {
        return Ok(Vec::new());
    };
    let [n, c, h, w] = flat(x)?;
    let edge_of = |d| times(d, Some(edge));
    let out = [n, over(c, edge * edge, x)?, edge_of(h), edge_of(w)];
    Ok(vec![Some(out.into())])
}

/// `SpaceToDepth`.
pub(super) fn space_to_depth(call: &Call<'_>) -> Inferred {
    let (Some(x), edge) = (call.shape(0), block(call)?) else {
        return Ok(Vec::new());
    };
    let [n, c, h, w] = flat(x)?;
    let deep = times(c, Some(edge * edge));
    Ok(vec![Some(
        [n, deep, over(h, edge, x)?, over(w, edge, x)?].into(),
    )])
}

/// `GridSample`: the channels of the first input at the places of the second.
pub(super) fn grid_sample(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(grid)) = (call.shape(0), call.shape(1)) else {
        return Ok(Vec::new());
    };
    if x.len() != grid.len() || x.len() < 3 {
        let message = format!("{} is sampled at {}", shown(x), shown(grid));
        return Err(message.into());
    }
    let space = grid.iter().skip(1).take(x.len() - 2);
    Ok(vec![Some(x.iter().take(2).chain(space).copied().collect())])
}
