"""Equality of what torch gives back, down to types and bits."""

import collections
import struct

import torch


class Differs(Exception):
    """Two values are not the same; the message says where."""


def bits(tensor):
    """The contiguous little-endian bytes of a dense tensor, as a uint8 tensor."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8) if plain.numel() else plain.new_empty(0).byte()


def same_tensor(a, b, where):
    """`a` and `b` are equal in dtype, shape and bits."""
    if not isinstance(b, torch.Tensor):
        raise Differs(f"{where}: a tensor became {type(b).__name__}")
    if a.dtype != b.dtype or a.shape != b.shape or a.layout != b.layout:
        raise Differs(
            f"{where}: {a.dtype} {tuple(a.shape)} {a.layout} became "
            f"{b.dtype} {tuple(b.shape)} {b.layout}"
        )
    if a.layout is not torch.strided:
        if a.layout is torch.sparse_coo:
            parts = lambda t: (t._indices(), t._values())
        elif a.layout in (torch.sparse_csr, torch.sparse_bsr):
            parts = lambda t: (t.crow_indices(), t.col_indices(), t.values())
        else:
            parts = lambda t: (t.ccol_indices(), t.row_indices(), t.values())
        for i, (x, y) in enumerate(zip(parts(a), parts(b))):
            same_tensor(x, y, f"{where} part {i}")
        return
    if a.is_meta:
        if not b.is_meta:
            raise Differs(f"{where}: a meta tensor became a real one")
        return
    if a.is_quantized:
        if a.qscheme() != b.qscheme():
            raise Differs(f"{where}: {a.qscheme()} became {b.qscheme()}")
        same_tensor(a.int_repr(), b.int_repr(), where)
        same_tensor(a.dequantize(), b.dequantize(), where)
        return
    if not torch.equal(bits(a), bits(b)):
        raise Differs(f"{where}: the bytes differ")


def same(a, b, where="root"):
    """`a` and `b` are equal in structure, types, order, values and bits."""
    if isinstance(a, torch.Tensor):
        same_tensor(a, b, where)
        if isinstance(a, torch.nn.Parameter) != isinstance(b, torch.nn.Parameter):
            raise Differs(f"{where}: {type(a).__name__} became {type(b).__name__}")
        return
    if type(a) is not type(b):
        raise Differs(f"{where}: {type(a).__name__} became {type(b).__name__}")
    if isinstance(a, dict):
        names, others = list(map(typed, a)), list(map(typed, b))
        if where == "root" and type(a) is dict and all(map(torch.is_tensor, a.values())):
            # A plain dict of tensors needs no structure beside a safetensors file, whose own
            # order it then takes; Python's dicts compare without regard to it.
            names, others = sorted(names), sorted(others)
        if names != others:
            raise Differs(f"{where}: keys {list(a)[:9]} became {list(b)[:9]}")
        for key in a:
            same(a[key], b[key], f"{where}[{key!r}]")
        if isinstance(a, collections.defaultdict) and a.default_factory != b.default_factory:
            raise Differs(f"{where}: another default")
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            raise Differs(f"{where}: {len(a)} items became {len(b)}")
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(a, float):
        if struct.pack("<d", a) != struct.pack("<d", b):
            raise Differs(f"{where}: {a!r} became {b!r}")
    elif a != b:
        raise Differs(f"{where}: {a!r} became {b!r}")


def typed(key):
    """A key that `1`, `1.0` and `True` do not share."""
    return type(key).__name__, key


def flatten(value, name=""):
    """The tensors of a nested container by their dotted names."""
    if isinstance(value, torch.Tensor):
        yield name or "tensor", value
        return
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return
    for key, inner in items:
        yield from flatten(inner, f"{name}.{key}" if name else str(key))


def same_tensors(expected, got):
    """Two name-to-tensor dicts hold equal tensors."""
    if set(expected) != set(got):
        missing, more = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
        raise Differs(f"missing {missing[:5]}, unexpected {more[:5]}")
    for name, tensor in expected.items():
        same_tensor(tensor, got[name], name)


def sharing(value):
    """Which named tensors lie in one storage, and where in it: ties and views."""
    groups = {}
    for name, t in flatten(value):
        if t.layout is torch.strided and not t.is_meta and t.numel():
            key = t.untyped_storage().data_ptr()
            groups.setdefault(key, []).append((name, t.data_ptr() - key, t.stride()))
    together = [sorted(g) for g in groups.values() if len(g) > 1]
    # Where a group starts in its storage may change: what no name views need not be kept.
    for group in together:
        first = min(offset for _, offset, _ in group)
        group[:] = [(name, offset - first, stride) for name, offset, stride in group]
    return sorted(together)


def same_sharing(a, b):
    """The same names share storage, with the same strides, at the same distances."""
    if sharing(a) != sharing(b):
        raise Differs(f"shared storage {sharing(a)} became {sharing(b)}")
