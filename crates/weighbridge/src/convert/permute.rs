//! Values of a tensor in another order, read piece by piece where they lie: dimensions that change
//! places, dimensions that are laid together, blocks along one that change theirs. Every bit of
//! every value stays as it is.

use std::sync::Arc;

use weighbridge_core::model::{
    Assembly, Chunks, Compute, Piece, Shape, Storage, StorageData, Strided, Tensor, TensorSource,
    View,
};
use weighbridge_core::source::{SliceSource, Window};
use weighbridge_core::{Error, Result};

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// Which dimension of the input each of the output is; none for the same.
    pub(super) axes: Vec<usize>,
    /// Lay the first two dimensions together and put one of extent 1 behind them.
    pub(super) fold: bool,
    /// Cut this dimension into as many equal blocks as there are numbers, and take block number so
    /// and so for each place.
    pub(super) blocks: Option<(usize, Vec<usize>)>,
}

impl Order {
    /// Dimensions that change places.
    pub(super) fn axes(axes: impl IntoIterator<Item = usize>) -> Self {
        Self {
            axes: axes.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The last two of `n` dimensions change places.
    pub(super) fn swap_last(n: usize) -> Self {
        let mut axes: Vec<usize> = (0..n).collect();
        if let [.., a, b] = axes.as_mut_slice() {
            std::mem::swap(a, b);
        }
        Self::axes(axes)
    }

    /// The shape that `shape` gets.
    pub(super) fn shape(&self, shape: &[u64]) -> Shape {
        let mut out: Shape = match self.axes.is_empty() {
            true => shape.into(),
            false => (self.axes.iter())
                .map(|&a| shape.get(a).copied().unwrap_or(1))
                .collect(),
        };
        if self.fold && out.len() > 1 {
            let first = out.remove(0);
            if let Some(d) = out.first_mut() {
                *d = d.saturating_mul(first);
            }
            out.insert(1, 1);
        }
        out
    }
}

/// Reads a run in a storage in another order; `false` where that cannot be.
pub(super) fn strided(t: &mut Tensor, order: &Order) -> Result<bool> {
    let Some(width) = t.dtype.bytes() else {
        return Ok(false);
    };
    let view = match &t.source {
        TensorSource::View(v) => {
            let mut strides = t.shape.clone();
            let mut step = 1u64;
            for (s, &d) in strides.iter_mut().zip(&t.shape).rev() {
                *s = step;
                step = step.saturating_mul(d);
            }
            let (mut storage, mut offset) = (Arc::clone(&v.storage), v.offset / width);
            if v.offset % width != 0 {
                // Strides count elements: a storage of its own begins where the first one lies.
                let Some(own) = window(&v.storage, v.offset, t.byte_len())? else {
                    return Ok(false);
                };
                (storage, offset) = (own, 0);
            }
            Strided {
                storage,
                offset,
                strides,
                conj: false,
                neg: false,
            }
        }
        TensorSource::Strided(s) => s.as_ref().clone(),
        _ => return Ok(false),
    };
    let Some(strides) = turned(&view.strides, &t.shape, order) else {
        return Ok(false);
    };
    let shape = order.shape(&t.shape);
    let view = Strided { strides, ..view };
    t.source = match &order.blocks {
        None => TensorSource::Strided(Box::new(view)),
        Some((dim, places)) => match blocks(&view, &shape, *dim, places) {
            Some(assembly) => TensorSource::Assembled(Arc::new(assembly)),
            None => return Ok(false),
        },
    };
    t.shape = shape;
    Ok(true)
}

/// The steps in the new order; `None` where two dimensions that are laid together do not follow
/// each other.
fn turned(strides: &[u64], shape: &[u64], order: &Order) -> Option<Shape> {
    let pick = |all: &[u64]| -> Option<Shape> {
        match order.axes.is_empty() {
            true => Some(all.into()),
            false => order.axes.iter().map(|&a| all.get(a).copied()).collect(),
        }
    };
    let (mut strides, shape) = (pick(strides)?, pick(shape)?);
    if order.fold {
        let (&[outer, inner, ..], &[_, count, ..]) = (strides.as_slice(), shape.as_slice()) else {
            return None;
        };
        let empty = shape.contains(&0);
        if !empty && count != 1 && inner.checked_mul(count)? != outer {
            return None;
        }
        let step = if count == 1 { outer } else { inner };
        strides.remove(0);
        *strides.first_mut()? = step;
        strides.insert(1, 1);
    }
    Some(strides)
}

/// The blocks of a view, each from where it lay.
fn blocks(view: &Strided, shape: &[u64], dim: usize, places: &[usize]) -> Option<Assembly> {
    let extent = *shape.get(dim)?;
    let step = *view.strides.get(dim)?;
    let count = u64::try_from(places.len()).ok()?;
    let len = extent.checked_div(count).filter(|l| l * count == extent)?;
    let mut pieces = Vec::with_capacity(places.len());
    for (to, &from) in places.iter().enumerate() {
        let (mut start, mut size) = (Shape::from_elem(0, shape.len()), Shape::from_slice(shape));
        *start.get_mut(dim)? = u64::try_from(to).ok()?.checked_mul(len)?;
        *size.get_mut(dim)? = len;
        let skip = u64::try_from(from)
            .ok()?
            .checked_mul(len)?
            .checked_mul(step)?;
        let mut view = view.clone();
        view.offset = view.offset.checked_add(skip)?;
        pieces.push(Piece {
            start,
            shape: size,
            source: TensorSource::Strided(Box::new(view)),
        });
    }
    Some(Assembly {
        shape: Shape::from_slice(shape),
        pieces,
    })
}

fn window(storage: &Storage, offset: u64, len: u64) -> Result<Option<Arc<Storage>>> {
    let Some((source, base)) = storage.raw_range() else {
        return Ok(None);
    };
    let start = base.saturating_add(offset);
    let name = source.name().to_owned();
    let source = Window::new(Arc::clone(source), start..start.saturating_add(len), name)?;
    let data = StorageData::Raw {
        source: Arc::new(source),
        offset: 0,
        checksum: None,
    };
    let own = Storage::new(storage.name(), len, storage.is_big_endian(), data)?;
    Ok(Some(Arc::new(own.into_region())))
}

/// Turns values round that are computed first: the whole tensor is in memory meanwhile.
///
/// # Errors
/// `Unsupported` with `rule` for values of which several lie in a byte.
pub(super) fn computed(t: &mut Tensor, order: &Order, rule: &'static str) -> Result<()> {
    if t.dtype.bytes().is_none() {
        let message = format!(
            "{} cannot be transposed: several of its {} values lie in a byte",
            t.name, t.dtype
        );
        return Err(Error::unsupported(rule, message)
            .help("--dequantize or --dtype writes values of whole bytes"));
    }
    let input = t.clone();
    t.shape = order.shape(&t.shape);
    t.source = TensorSource::Computed(Arc::new(Turned {
        input,
        order: order.clone(),
    }));
    Ok(())
}

#[derive(Debug)]
struct Turned {
    input: Tensor,
    order: Order,
}

impl Compute for Turned {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = self.input.read_vec()?;
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, self.input.name.as_str())),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(self.input.name.as_str(), len, false, data)?);
        let view = View { storage, offset: 0 };
        let mut t = Tensor {
            source: TensorSource::View(view),
            ..self.input.clone()
        };
        if !strided(&mut t, &self.order)? {
            let message = "the values cannot be put in this order";
            return Err(Error::unsupported("convert.order", message));
        }
        t.stream(&mut Chunks::new(), sink)
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_core::model::DType;

    use super::*;

    fn tensor(shape: &[u64], from: u64) -> Tensor {
        let n = shape.iter().product::<u64>();
        let bytes: Vec<u8> = (0..from + n).map(|i| i as u8).collect();
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, "s")),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("s", from + n, false, data).unwrap());
        let source = TensorSource::View(View {
            storage,
            offset: from,
        });
        Tensor::new("t", DType::U8, shape, source)
    }

    fn both(shape: &[u64], order: &Order) -> (Vec<u64>, Vec<u8>) {
        let mut a = tensor(shape, 3);
        assert!(strided(&mut a, order).unwrap());
        let mut b = tensor(shape, 3);
        computed(&mut b, order, "x").unwrap();
        assert_eq!(a.shape, b.shape);
        let bytes = a.read_vec().unwrap();
        assert_eq!(bytes, b.read_vec().unwrap());
        (a.shape.to_vec(), bytes)
    }

    #[test]
    fn dimensions_change_places() {
        let (shape, bytes) = both(&[2, 3], &Order::axes([1, 0]));
        assert_eq!(shape, [3, 2]);
        assert_eq!(bytes, [3, 6, 4, 7, 5, 8]);
        assert_eq!(Order::swap_last(3).axes, [0, 2, 1]);
    }

    #[test]
    fn dimensions_are_laid_together() {
        // Height and width of 1 and 2, two channels, multiplied by three.
        let order = Order {
            axes: vec![2, 3, 0, 1],
            fold: true,
            blocks: None,
        };
        let (shape, bytes) = both(&[1, 2, 2, 3], &order);
        assert_eq!(shape, [6, 1, 1, 2]);
        assert_eq!(bytes, [3, 9, 4, 10, 5, 11, 6, 12, 7, 13, 8, 14]);
    }

    #[test]
    fn blocks_change_places() {
        let order = Order {
            axes: vec![1, 0],
            fold: false,
            blocks: Some((0, vec![1, 0, 2])),
        };
        let (shape, bytes) = both(&[2, 3], &order);
        assert_eq!(shape, [3, 2]);
        assert_eq!(bytes, [4, 7, 3, 6, 5, 8]);
        let odd = Order {
            blocks: Some((0, vec![1, 0])),
            ..Order::default()
        };
        assert!(!strided(&mut tensor(&[3, 2], 0), &odd).unwrap());
    }
}
