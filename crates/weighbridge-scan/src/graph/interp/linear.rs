//! Operators that are linear in their first operand: sums of elements times weights.

use super::elementwise::{broadcast, stretch};
use super::value::{Dims, Kind, Tensor, count, strides};
use super::{Call, Halt, Meter, Op};

/// Which elements go into one result, and with which weights.
pub(crate) type Taps = Vec<(usize, f64)>;

pub(crate) fn mat_mul(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    product(a, b, a.kind, meter).map(|t| vec![t])
}

/// The product of two matrices, or of stacks of them.
pub(crate) fn product(
    a: &Tensor,
    b: &Tensor,
    kind: Kind,
    meter: &mut Meter,
) -> Result<Tensor, Halt> {
    let bad = Halt::Wrong("matrices that do not fit");
    let mut left = a.dims.clone();
    let mut right = b.dims.clone();
    if left.is_empty() || right.is_empty() {
        return Err(bad);
    }
    let (row, column) = (left.len() == 1, right.len() == 1);
    if row {
        left.insert(0, 1);
    }
    if column {
        right.push(1);
    }
    let ([ls @ .., m, k], [rs @ .., k2, n]) = (left.as_slice(), right.as_slice()) else {
        return Err(bad);
    };
    if k != k2 {
        return Err(bad);
    }
    let stack = broadcast(&[ls, rs])?;
    let mut dims: Dims = stack.clone();
    if !row {
        dims.push(*m);
    }
    if !column {
        dims.push(*n);
    }
    let total = meter.value(&dims)?;
    meter.spend(total.saturating_mul(*k))?;
    if !(a.is_known() && b.is_known()) {
        return Ok(Tensor::unknown(kind, dims));
    }
    let (x, y) = (a.to_floats()?, b.to_floats()?);
    let (i, j) = (stretch(ls, &stack), stretch(rs, &stack));
    let mut out = Vec::with_capacity(total);
    for (i, j) in i.iter().zip(&j) {
        let x = x.get(i * m * k..(i + 1) * m * k).unwrap_or_default();
        let y = y.get(j * k * n..(j + 1) * k * n).unwrap_or_default();
        for r in 0..*m {
            let row = x.get(r * k..(r + 1) * k).unwrap_or_default();
            let start = out.len();
            out.resize(start + n, 0.0);
            for (&a, w) in row.iter().zip(y.chunks((*n).max(1))) {
                if a != 0.0 {
                    let into = out.iter_mut().skip(start);
                    into.zip(w).for_each(|(o, w)| *o += a * w);
                }
            }
        }
    }
    Ok(Tensor::numbers(kind, dims, out))
}

pub(crate) fn gemm(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let flat = |t: &Tensor, turn: bool| -> Result<Tensor, Halt> {
        let [r, k] = *t.dims.as_slice() else {
            return Err(Halt::Wrong("no matrix"));
        };
        if !turn {
            return Ok(t.clone());
        }
        let order: Vec<usize> = match t.is_known() {
            true => (0..r * k)
                .map(|i| i % r.max(1) * k + i / r.max(1))
                .collect(),
            false => Vec::new(),
        };
        Ok(t.picked(vec![k, r], &order))
    };
    let a = flat(c.input(0)?, c.attributes.int_or("transA", 0) != 0)?;
    let b = flat(c.input(1)?, c.attributes.int_or("transB", 0) != 0)?;
    let (alpha, beta) = (
        c.attributes.float_or("alpha", 1.0),
        c.attributes.float_or("beta", 1.0),
    );
    let out = product(&a, &b, a.kind, meter)?;
    let bias = c.optional(2);
    if !out.is_known() || bias.is_some_and(|b| !b.is_known()) {
        return Ok(vec![Tensor::unknown(out.kind, out.dims)]);
    }
    let mut v = out.to_floats()?;
    v.iter_mut().for_each(|x| *x *= alpha);
    if let Some(bias) = bias {
        broadcast(&[&bias.dims, &out.dims])
            .ok()
            .filter(|d| *d == out.dims)
            .ok_or(Halt::Wrong("a bias that does not fit"))?;
        let w = bias.to_floats()?;
        for (x, i) in v.iter_mut().zip(stretch(&bias.dims, &out.dims)) {
            *x += beta * w.get(i).copied().unwrap_or_default();
        }
    }
    Ok(vec![Tensor::numbers(out.kind, out.dims, v)])
}

/// How a window slides: of a convolution or a pool.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) kernel: Dims,
    pub(crate) steps: Dims,
    pub(crate) gaps: Dims,
    pub(crate) before: Vec<i64>,
    /// The extents of the result.
    pub(crate) out: Dims,
}

impl Window {
    /// The window of `c` over `space`.
    pub(crate) fn of(c: &Call<'_, '_>, space: &[usize], kernel: Dims) -> Result<Self, Halt> {
        let bad = Halt::Wrong("a window that does not fit");
        let rank = space.len();
        let sizes = |name: &str| -> Result<Dims, Halt> {
            let given = c.attributes.ints(name).map(<[i64]>::to_vec);
            let all = given.unwrap_or_else(|| vec![1; rank]);
            let one = |&n: &i64| usize::try_from(n).ok().filter(|&n| n > 0 && n < 1 << 20);
            let all: Option<Dims> = all.iter().map(one).collect();
            all.filter(|a| a.len() == rank).ok_or(bad)
        };
        if rank > 3 {
            return Err(Halt::Unsupported);
        }
        if kernel.len() != rank || kernel.contains(&0) || kernel.iter().any(|&k| k > 1 << 16) {
            return Err(bad);
        }
        let (steps, gaps) = (sizes("strides")?, sizes("dilations")?);
        let given = c.attributes.ints("pads").map(<[i64]>::to_vec);
        let pads = given.unwrap_or_else(|| vec![0; rank * 2]);
        if pads.len() != rank * 2 || pads.iter().any(|&p| !(0..1 << 20).contains(&p)) {
            return Err(bad);
        }
        let auto = c.attributes.text("auto_pad").unwrap_or("NOTSET");
        let ceil = c.attributes.int_or("ceil_mode", 0) != 0;
        let (mut before, mut out) = (Vec::new(), Vec::new());
        for a in 0..rank {
            let get = |v: &Dims| v.get(a).copied().unwrap_or(1) as i64;
            let d = space.get(a).map_or(0, |&d| d.min(1 << 40) as i64);
            let reach = (get(&kernel) - 1) * get(&gaps) + 1;
            let step = get(&steps);
            let (b, e) = match auto {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let n = (d + step - 1) / step;
                    let need = ((n - 1) * step + reach - d).max(0);
                    let less = need / 2;
                    match auto == "SAME_UPPER" {
                        true => (less, need - less),
                        false => (need - less, less),
                    }
                }
                "VALID" => (0, 0),
                _ => {
                    let get = |i: usize| pads.get(i).copied().unwrap_or(0);
                    (get(a), get(a + rank))
                }
            };
            let room = d + b + e - reach;
            if room < 0 {
                return Err(bad);
            }
            let n = if ceil {
                (room + step - 1) / step
            } else {
                room / step
            } + 1;
            before.push(b);
            out.push(n as usize);
        }
        Ok(Self {
            kernel,
            steps,
            gaps,
            before,
            out,
        })
    }

    /// Calls `each` with the positions in a space of shape `space`, and in the kernel, that the
    /// window at result `at` covers.
    pub(crate) fn cover(&self, space: &[usize], at: usize, mut each: impl FnMut(usize, usize)) {
        // Three axes always; those that are missing in front have one place.
        let [d0, d1, d2] = three(space, 1);
        let [k0, k1, k2] = three(&self.kernel, 1);
        let [s0, s1, s2] = three(&self.steps, 1);
        let [g0, g1, g2] = three(&self.gaps, 1);
        let [b0, b1, b2] = three(&self.before, 0);
        let [_, n1, n2] = three(&self.out, 1);
        let (o2, rest) = (at % n2.max(1), at / n2.max(1));
        let (o1, o0) = (rest % n1.max(1), rest / n1.max(1));
        // What lies before the first place wraps round and is beyond the last.
        let start = |o: usize, step: usize, before: i64| (o * step).wrapping_sub(before as usize);
        let (p0, p1, p2) = (start(o0, s0, b0), start(o1, s1, b1), start(o2, s2, b2));
        for i in 0..k0 {
            let y0 = p0.wrapping_add(i * g0);
            if y0 >= d0 {
                continue;
            }
            for j in 0..k1 {
                let y1 = p1.wrapping_add(j * g1);
                if y1 >= d1 {
                    continue;
                }
                let (row, tap) = ((y0 * d1 + y1) * d2, (i * k1 + j) * k2);
                for l in 0..k2 {
                    let y2 = p2.wrapping_add(l * g2);
                    if y2 < d2 {
                        each(row + y2, tap + l);
                    }
                }
            }
        }
    }
}

/// The last three of `all`, with `missing` for those that are not there.
fn three<T: Copy>(all: &[T], missing: T) -> [T; 3] {
    let mut out = [missing; 3];
    for (o, v) in out.iter_mut().rev().zip(all.iter().rev()) {
        *o = *v;
    }
    out
}

/// The parts of a convolution's shapes.
pub(crate) struct Conv {
    pub(crate) window: Window,
    /// Channels in, channels out, channels in of a group.
    pub(crate) channels: (usize, usize, usize),
    pub(crate) space: Dims,
    pub(crate) dims: Dims,
}

impl Conv {
    pub(crate) fn of(c: &Call<'_, '_>) -> Result<Self, Halt> {
        let (x, w) = (c.input(0)?, c.input(1)?);
        let bad = Halt::Wrong("a kernel that does not fit");
        let ([n, ch, space @ ..], [out, each, kernel @ ..]) =
            (x.dims.as_slice(), w.dims.as_slice())
        else {
            return Err(bad);
        };
        let groups = usize::try_from(c.attributes.int_or("group", 1)).unwrap_or(0);
        if groups == 0 || each.checked_mul(groups) != Some(*ch) || out % groups != 0 || *out == 0 {
            return Err(bad);
        }
        let window = Window::of(c, space, kernel.to_vec())?;
        let dims = [&[*n, *out], window.out.as_slice()].concat();
        Ok(Self {
            window,
            channels: (*ch, *out, *each),
            space: space.to_vec(),
            dims,
        })
    }

    /// What goes into result `at`, as positions in the operand and in the kernel.
    pub(crate) fn taps(&self, at: usize, mut each: impl FnMut(usize, usize)) {
        let (ch, out, per) = self.channels;
        let area = count(&self.window.out).unwrap_or(1).max(1);
        let space = count(&self.space).unwrap_or(1);
        let kernel = count(&self.window.kernel).unwrap_or(1);
        let (place, rest) = (at % area, at / area);
        let (o, image) = (rest % out, rest / out);
        let groups = ch / per.max(1);
        let group = o / (out / groups.max(1)).max(1);
        self.window.cover(&self.space, place, |p, k| {
            for i in 0..per {
                let from = (image * ch + group * per + i) * space + p;
                each(from, (o * per + i) * kernel + k);
            }
        });
    }
}

pub(crate) fn conv(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, w, bias) = (c.input(0)?, c.input(1)?, c.optional(2));
    let plan = Conv::of(c)?;
    let n = meter.value(&plan.dims)?;
    let kernel = count(&plan.window.kernel).unwrap_or(1);
    meter.spend(
        n.saturating_mul(kernel.saturating_mul(plan.channels.2))
            .saturating_mul(2),
    )?;
    if !(x.is_known() && w.is_known() && bias.is_none_or(Tensor::is_known)) {
        return Ok(vec![Tensor::unknown(x.kind, plan.dims)]);
    }
    let (v, w) = (x.to_floats()?, w.to_floats()?);
    let b = bias.map(Tensor::to_floats).transpose()?;
    let area = count(&plan.window.out).unwrap_or(1).max(1);
    let one = |at: usize| {
        let channel = at / area % plan.channels.1;
        let bias = b.as_ref().and_then(|b| b.get(channel).copied());
        let mut sum = bias.unwrap_or(0.0);
        plan.taps(at, |i, k| {
            let (x, w) = (v.get(i).copied(), w.get(k).copied());
            sum += x.unwrap_or_default() * w.unwrap_or_default();
        });
        sum
    };
    let all: Vec<f64> = (0..n).map(one).collect();
    Ok(vec![Tensor::numbers(x.kind, plan.dims, all)])
}

pub(crate) fn einsum(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let bad = Halt::Wrong("an equation that does not fit");
    let text = c.attributes.text("equation").ok_or(bad)?;
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = text.split_once("->").ok_or(Halt::Unsupported)?;
    if text.contains('.') || c.op != Op::Einsum {
        return Err(Halt::Unsupported);
    }
    let terms: Vec<&str> = left.split(',').collect();
    let mut letters: Vec<(char, usize)> = Vec::new();
    let mut all = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let t = c.input(i)?;
        if term.chars().count() != t.dims.len() {
            return Err(bad);
        }
        for (l, &d) in term.chars().zip(&t.dims) {
            match letters.iter().find(|(k, _)| *k == l) {
                Some((_, e)) if *e == d => {}
                Some(_) => return Err(bad),
                None => letters.push((l, d)),
            }
        }
        all.push(t);
    }
    let extent = |l: char| {
        letters
            .iter()
            .find(|(k, _)| *k == l)
            .map(|(_, d)| *d)
            .ok_or(bad)
    };
    let dims = right.chars().map(extent).collect::<Result<Dims, _>>()?;
    let kind = all.first().map_or(Kind::F32, |t| t.kind);
    let n = meter.value(&dims)?;
    let inner: Vec<(char, usize)> = letters
        .iter()
        .copied()
        .filter(|(l, _)| !right.contains(*l))
        .collect();
    let inner_dims: Dims = inner.iter().map(|(_, d)| *d).collect();
    let sums = count(&inner_dims).ok_or(Halt::Budget)?;
    meter.spend(
        n.saturating_mul(sums)
            .saturating_mul(all.len().saturating_mul(4)),
    )?;
    if all.iter().any(|t| !t.is_known()) {
        return Ok(vec![Tensor::unknown(kind, dims)]);
    }
    let values = all
        .iter()
        .map(|t| t.to_floats())
        .collect::<Result<Vec<_>, _>>()?;
    // For each operand, the step that each letter of the result and of the sum takes in it.
    let step = |term: &str, t: &Tensor, l: char| -> usize {
        let own = strides(&t.dims);
        let hits = term.chars().zip(own).filter(|(k, _)| *k == l);
        hits.map(|(_, s)| s).sum()
    };
    let (os, is) = (strides(&dims), strides(&inner_dims));
    let place = |flat: usize, dims: &[usize], own: &[usize], steps: &[usize]| -> usize {
        let parts = dims.iter().zip(own).zip(steps);
        parts
            .map(|((&d, &s), &step)| flat / s.max(1) % d.max(1) * step)
            .sum()
    };
    let outer_steps: Vec<Vec<usize>> = terms
        .iter()
        .zip(&all)
        .map(|(term, t)| right.chars().map(|l| step(term, t, l)).collect())
        .collect();
    let inner_steps: Vec<Vec<usize>> = terms
        .iter()
        .zip(&all)
        .map(|(term, t)| inner.iter().map(|(l, _)| step(term, t, *l)).collect())
        .collect();
    let mut out = Vec::with_capacity(n);
    for o in 0..n {
        let mut sum = 0.0;
        for i in 0..sums {
            let mut part = 1.0;
            for ((v, a), b) in values.iter().zip(&outer_steps).zip(&inner_steps) {
                let at = place(o, &dims, &os, a) + place(i, &inner_dims, &is, b);
                part *= v.get(at).copied().unwrap_or_default();
            }
            sum += part;
        }
        out.push(sum);
    }
    Ok(vec![Tensor::numbers(kind, dims, out)])
}
