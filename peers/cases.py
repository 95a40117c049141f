"""The round trips: what goes in, which way it goes, and what must come out equal."""

import collections
import json
import random

import numpy
import safetensors
import safetensors.torch as st
import torch

from compare import Differs, flatten, same, same_sharing, same_tensor, same_tensors


class Cannot(Exception):
    """A peer or the target format cannot do this; our tool must say so by name."""


def all_cases(tool):
    """Every case as (group, name, action)."""
    for make in (dtypes, shapes, checkpoints, aliases, containers, sharded, foreign, big, corpus):
        yield from make(tool)


def load(path):
    """torch's own safe reading."""
    return torch.load(path, weights_only=True)


def there(tool, path, *flags):
    """PyTorch file -> ours -> what safetensors reads."""
    out = tool.new("out.safetensors")
    document = tool.convert(path, out, *flags)
    return out, document, st.load_file(out)


def back(tool, path, *flags):
    """safetensors file -> ours -> what torch reads."""
    out = tool.new("out.pt")
    tool.convert(path, out, *flags)
    return load(out)


def save(tool, value, name="in.pt", **options):
    path = tool.new(name)
    torch.save(value, path, **options)
    return path


# ---------------------------------------------------------------- dtypes

def torch_dtypes():
    found = {}
    for name in sorted(dir(torch)):
        dtype = getattr(torch, name)
        if isinstance(dtype, torch.dtype):
            found.setdefault(dtype, str(dtype).removeprefix("torch."))
    return [(name, dtype) for dtype, name in found.items()]


def sample(dtype, shape=(6, 4)):
    """Random bits of a dtype, NaNs and all; bools that are bools."""
    n = 1
    for d in shape:
        n *= d
    raw = torch.randint(0, 256, (n * dtype.itemsize,), dtype=torch.uint8)
    if dtype is torch.bool:
        raw &= 1
    return raw.view(dtype).reshape(shape)


def peer_holds(dtype, tool):
    """Whether safetensors itself writes and reads this dtype."""
    path = tool.new("probe.safetensors")
    try:
        t = sample(dtype)
        st.save_file({"t": t}, path)
        same_tensor(t, st.load_file(path)["t"], "t")
        return True
    except Exception:
        return False


def peer_writes(dtype, tool, **options):
    """Whether torch writes this dtype. (It cannot read back all that it writes so.)"""
    try:
        save(tool, sample(dtype), **options)
        return True
    except Exception:
        return False


def peer_saves(dtype, tool, **options):
    """Whether torch itself writes and reads this dtype."""
    try:
        t = sample(dtype)
        same(t, load(save(tool, t, **options)))
        return True
    except Differs:
        raise
    except Exception:
        return False


def dtypes(tool):
    """Only what a peer itself writes and reads: `unwritten` lists the dtypes torch does not."""
    legacy = {"_use_new_zipfile_serialization": False}
    for name, dtype in torch_dtypes():
        if dtype in QUANTIZED or not peer_saves(dtype, tool):
            continue
        yield "dtype: torch.save -> ours -> safetensors", name, lambda d=dtype: dtype_there(tool, d)
        yield "dtype: torch -> ours (.pt) -> torch", name, lambda d=dtype: dtype_same(tool, d)
        if peer_writes(dtype, tool, **legacy):
            yield (
                "dtype: legacy torch.save -> ours -> safetensors",
                name,
                lambda d=dtype: dtype_there(tool, d, **legacy),
            )
        if not peer_holds(dtype, tool):
            continue
        yield "dtype: safetensors -> ours -> torch.load", name, lambda d=dtype: dtype_back(tool, d)
        yield "dtype: torch -> ours -> ours -> torch", name, lambda d=dtype: dtype_round(tool, d)
        yield (
            "dtype: safetensors -> ours -> ours -> safetensors",
            name,
            lambda d=dtype: dtype_round_st(tool, d),
        )
    for name in QUANTIZED_CASES:
        yield "dtype: torch -> ours (.pt) -> torch", name, lambda n=name: quantized_same(tool, n)
    for name in ("complex64", "complex128", "complex32"):
        yield "flags", f"--complex-as-real {name}", lambda n=name: complex_as_real(tool, n)
    for name in QUANTIZED_CASES:
        yield "flags", f"--dequantize {name}", lambda n=name: dequantize(tool, n)
    for name in ("coo", "csr", "csc", "bsr", "bsc"):
        yield "flags", f"--densify {name}", lambda n=name: densify(tool, n)
    for name in ("float32", "bfloat16", "float16"):
        yield "flags", f"--dtype {name}", lambda n=name: cast(tool, n)


def unwritten(tool):
    """Names of the dtypes that torch cannot save and load itself."""
    return [n for n, d in torch_dtypes() if d not in QUANTIZED and not peer_saves(d, tool)]


QUANTIZED_CASES = [
    "per tensor quint8",
    "per tensor qint8",
    "per tensor qint32",
    "per channel qint8",
]
QUANTIZED = {torch.qint8, torch.quint8, torch.qint32, torch.quint2x4, torch.quint4x2}


def dtype_there(tool, dtype, **options):
    t, witness = sample(dtype), torch.arange(5.0)
    path = save(tool, {"t": t, "witness": witness}, **options)
    if not peer_holds(dtype, tool):
        refused = tool.refusal(path, tool.new("out.safetensors"))
        if refused:
            if str(dtype) not in refused:
                raise Differs(f"refused without naming {dtype}: {refused}")
            raise Cannot("the file is refused: " + refused.rsplit("→ ", 1)[-1])
        out, document, got = there(tool, path)
        same_tensor(witness, got["witness"], "witness")
        named = [n for n in document["lost"] if "t" == n["what"] or n["what"].startswith("t ")]
        if not named:
            raise Differs(f"the tensor is not named as lost: {document['lost']}")
        raise Cannot(named[0]["why"])
    _, _, got = there(tool, path, "--strict")
    same_tensors({"t": t, "witness": witness}, got)


def dtype_same(tool, dtype):
    state = {"t": sample(dtype), "epoch": 3}
    if dtype is not torch.float4_e2m1fn_x2:  # packed pairs cannot be strided over
        state["view"] = sample(dtype, (4, 6)).t()
    path, out = save(tool, state), tool.new("out.pt")
    refused = tool.refusal(path, out)
    if refused and str(dtype) in refused:
        raise Cannot("the file is refused: " + refused.rsplit("→ ", 1)[-1])
    tool.convert(path, out, "--strict")
    same(state, load(out))


def quantized_same(tool, name):
    state = {"t": quantized(name), "epoch": 3}
    out = tool.new("out.pt")
    tool.convert(save(tool, state), out, "--strict")
    same(state, load(out))


def dtype_back(tool, dtype):
    state = {"a.weight": sample(dtype), "b": sample(dtype, (3, 0, 2)), "c": sample(dtype, (2,))}
    path = tool.new("in.safetensors")
    st.save_file(state, path)
    same_tensors(state, back(tool, path, "--strict"))


def dtype_round(tool, dtype):
    state = {"model": collections.OrderedDict(w=sample(dtype), b=sample(dtype, (4,))), "epoch": 3}
    middle, _, _ = there(tool, save(tool, state), "--strict")
    same(state, back(tool, middle, "--strict"))


def dtype_round_st(tool, dtype):
    state = {"w": sample(dtype), "b": sample(dtype, (4,))}
    path = tool.new("in.safetensors")
    st.save_file(state, path)
    middle = tool.new("middle.pt")
    tool.convert(path, middle, "--strict")
    out, _, got = there(tool, middle, "--strict")
    same_tensors(state, got)


def complex_as_real(tool, name):
    t = sample(getattr(torch, name))
    _, _, got = there(tool, save(tool, {"t": t}), "--complex-as-real")
    expected = torch.view_as_real(t)
    if name == "complex64" and got["t"].dtype is torch.complex64:
        expected = t  # safetensors holds this one; the flag need not touch it
    same_tensor(expected, got["t"], "t")


def quantized(name):
    values = torch.linspace(-3, 3, 24).reshape(4, 6)
    if name == "per channel qint8":
        scales, zeros = torch.tensor([0.1, 0.2, 0.05, 0.3]).double(), torch.tensor([0, 3, -2, 5])
        return torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8)
    return torch.quantize_per_tensor(values, 0.1, 3, getattr(torch, name.split()[-1]))


def dequantize(tool, name):
    t = quantized(name)
    path = save(tool, {"t": t, "witness": torch.arange(3)})
    _, document, got = there(tool, path)
    if "t" in got or not document["lost"]:
        raise Differs(f"without the flag it must be lost by name: {document['lost']}")
    _, _, got = there(tool, path, "--dequantize")
    same_tensor(t.dequantize(), got["t"], "t")


def densify(tool, name):
    dense = torch.zeros(6, 8)
    dense[1, 2], dense[4, 7], dense[5, 0] = 1.5, -2.0, 3.25
    t = {
        "coo": lambda: dense.to_sparse_coo(),
        "csr": lambda: dense.to_sparse_csr(),
        "csc": lambda: dense.to_sparse_csc(),
        "bsr": lambda: dense.to_sparse_bsr((2, 4)),
        "bsc": lambda: dense.to_sparse_bsc((2, 4)),
    }[name]()
    path = save(tool, {"t": t, "witness": torch.arange(3)})
    _, document, got = there(tool, path)
    if "t" in got or not document["lost"]:
        raise Differs(f"without the flag it must be lost by name: {document['lost']}")
    _, _, got = there(tool, path, "--densify")
    same_tensor(dense, got["t"], "t")


def cast(tool, name):
    target = getattr(torch, name)
    # Halfway cases, subnormals, overflow to infinity, NaN: rounding must be torch's own.
    hard = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 65504.0, 65520.0, 1e-8, 6e-8, 3e38, -1e38]
    state = {"f32": torch.cat([torch.tensor(hard + [float("inf")]), torch.randn(500) * 100])}
    state["f64"] = state["f32"].double()
    state["f16"], state["bf16"] = state["f32"].half(), state["f32"].bfloat16()
    short = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[name]
    _, _, got = there(tool, save(tool, state), "--dtype", short)
    same_tensors({k: v.to(target) for k, v in state.items()}, got)


# ---------------------------------------------------------------- shapes and layouts

def shapes(tool):
    plain = torch.arange(360, dtype=torch.float32).reshape(6, 5, 4, 3)
    layouts = {
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0),
        "zero extent": torch.empty(3, 0, 2),
        "one": torch.ones(1, 1, 1, 1, 1),
        "transpose": plain[0, 0].t(),
        "permute": plain.permute(2, 0, 3, 1),
        "channels last": plain.contiguous(memory_format=torch.channels_last),
        "step": plain[::2, 1::3, :, ::2],
        "offset": plain[3:, 2:, 1:, 1:],
        "expand": torch.arange(4.0).expand(3, 4),
        "diagonal": torch.diagonal(plain[:5, :, 0, 0]),
        "unfold": torch.arange(10.0).unfold(0, 4, 2),
        "conj": torch.view_as_complex(torch.randn(4, 3, 2)).conj(),
        "conj transpose": torch.view_as_complex(torch.randn(4, 3, 2)).mH,
        "neg": torch.view_as_complex(torch.randn(4, 2)).conj().imag,
        "real part": torch.view_as_complex(torch.randn(4, 2)).real,
        "bf16 step": torch.randn(40).bfloat16()[1::3],
        "u8 of a f32 storage": torch.randn(4).view(torch.uint8)[3:9],
        "many dimensions": torch.randn([1, 2] * 6),
    }
    for name, t in layouts.items():
        for legacy in (False, True):
            if legacy and name == "u8 of a f32 storage":
                continue  # torch's legacy writer takes one dtype per storage
            kind = "legacy" if legacy else "zip"
            yield (
                "layout: torch.save -> ours -> safetensors",
                f"{name}, {kind}",
                lambda t=t, legacy=legacy: layout(tool, t, legacy),
            )


def layout(tool, t, legacy):
    path = save(tool, {"t": t}, _use_new_zipfile_serialization=not legacy)
    _, _, got = there(tool, path)
    same_tensor(t.resolve_conj().resolve_neg().contiguous(), got["t"], "t")
    middle = tool.new("again.safetensors")
    tool.convert(path, middle)
    same_tensor(t.resolve_conj().resolve_neg(), back(tool, middle)["t"], "t")


# ---------------------------------------------------------------- whole checkpoints

def trained(optimizer_of=torch.optim.AdamW, scheduler_of=None, **options):
    """A small tied model after three steps."""
    model = torch.nn.Sequential(
        collections.OrderedDict(
            embed=torch.nn.Embedding(12, 6),
            norm=torch.nn.BatchNorm1d(6),
            head=torch.nn.Linear(6, 12, bias=False),
        )
    )
    model.head.weight = model.embed.weight
    optimizer = optimizer_of(model.parameters(), lr=0.01, **options)
    make = scheduler_of or (lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5))
    scheduler = make(optimizer)
    for _ in range(3):
        loss = model(torch.randint(0, 12, (8,))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return {
        "epoch": 7,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": {"torch": torch.get_rng_state(), "python": random.Random(3).getstate()},
        "best": float("-inf"),
        "args": {"lr": 0.01, "name": "run ü \N{SNOWMAN}", "betas": (0.9, 0.95), "none": None},
        "history": [{"loss": loss.item(), "lr": 1e-300}, []],
    }


def odd_values():
    """Every kind of value that weights_only reading allows."""
    return {
        "ints": [0, -1, 2**31, -(2**31) - 1, 2**53 + 1, -(2**63), 2**64, 10**40],
        "floats": [0.0, -0.0, 1.5, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf")],
        "nan": float("nan"),
        "bools": (True, False, None),
        "text": ["", "plain", "quote \" back \\ slash", "new\nline", "\x00\x7f", "é", "\U0001f600"],
        "bytes": b"\x00\xff raw",
        "many bytes": bytes(range(256)) * 40,
        "bytearray": bytearray(b"\x01\x02"),
        "complex": complex(1.5, -0.0),
        "set": {1, 2, 3},
        "keys": {1: "int", "1": "text", (1, "a"): "tuple", None: "none", 2.5: "float", True: "b"},
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "counter": collections.Counter({"x": 2, "y": -1}),
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "device index": torch.device("cuda", 1),
        "empty": [{}, [], (), set(), collections.OrderedDict()],
        "deep": [[[[[[[[(1, [2, (3,)])]]]]]]]],
        "tensor": torch.arange(4),
        "a.b": {"c": torch.ones(2), "": torch.zeros(1)},
    }


def shared_objects():
    """One list under two keys, and a dict that holds itself."""
    inner = [1, 2, torch.arange(3)]
    outer = {"a": inner, "b": inner}
    outer["self"] = outer
    return outer


def same_shared(a, b):
    if b["self"] is not b:
        raise Differs("a dict that held itself holds another one")
    same(a["a"], b["a"])
    same(a["b"], b["b"])


def parameters():
    grown = torch.nn.Parameter(torch.randn(3, 2))
    frozen = torch.nn.Parameter(torch.randn(2), requires_grad=False)
    return {"grown": grown, "frozen": frozen, "buffer": torch.nn.Buffer(torch.ones(2))}


def same_parameters(a, b):
    for name in ("grown", "frozen"):
        same_tensor(a[name], b[name], name)
        if not isinstance(b[name], torch.nn.Parameter):
            raise Differs(f"{name}: a Parameter became {type(b[name]).__name__}")
        if a[name].requires_grad != b[name].requires_grad:
            raise Differs(f"{name}: requires_grad became {b[name].requires_grad}")
    same_tensor(a["buffer"], b["buffer"], "buffer")


def checkpoints(tool):
    group = "checkpoint: torch -> ours (.safetensors) -> ours (.pt) -> torch"
    optim, sched = torch.optim, torch.optim.lr_scheduler
    made = {
        "AdamW, StepLR": lambda: trained(),
        "SGD momentum, cosine": lambda: trained(
            optim.SGD, lambda o: sched.CosineAnnealingLR(o, 10), momentum=0.9
        ),
        "Adam amsgrad, OneCycle": lambda: trained(
            optim.Adam, lambda o: sched.OneCycleLR(o, 0.1, total_steps=9), amsgrad=True
        ),
        "RMSprop, MultiStep": lambda: trained(
            optim.RMSprop, lambda o: sched.MultiStepLR(o, [1, 2]), centered=True
        ),
        "Adagrad, Lambda": lambda: trained(
            optim.Adagrad, lambda o: sched.LambdaLR(o, lambda n: 1 / (n + 1))
        ),
        "every allowed type": odd_values,
        "plain state dict": lambda: trained()["model"],
        "a list at the root": lambda: [torch.ones(2), {"x": torch.zeros(1)}, "text"],
        "a tensor at the root": lambda: torch.arange(6.0).reshape(2, 3),
    }
    for name, make in made.items():
        for kind in ("zip", "legacy"):
            yield group, f"{name}, {kind}", lambda m=make, k=kind: whole(tool, m(), k, same)
    yield group, "shared and recursive", lambda: whole(tool, shared_objects(), "zip", same_shared)
    yield group, "parameters", lambda: whole(tool, parameters(), "zip", same_parameters)
    for name in ("AdamW, StepLR", "every allowed type"):
        yield (
            "checkpoint: torch -> ours (.pt) -> torch",
            name,
            lambda m=made[name]: whole(tool, m(), "zip", same, middle=False),
        )


def whole(tool, value, kind, equal, middle=True):
    path = save(tool, value, _use_new_zipfile_serialization=kind == "zip")
    if middle:
        out = tool.new("middle.safetensors")
        tool.convert(path, out)
        with safetensors.safe_open(out, "pt") as f:  # the peer opens what we wrote
            list(f.keys())
        path = out
    final = tool.new("final.pt")
    tool.convert(path, final)
    equal(value, load(final))


# ---------------------------------------------------------------- ties and views

def aliases(tool):
    base = torch.arange(60.0).reshape(6, 10)
    fused = torch.randn(9, 4)
    made = {
        "a tie": {"a": base, "b": base},
        "a tie in two places": {"x": {"w": base}, "y": [base, base]},
        "whole and parts": {"qkv": fused, "q": fused[:3], "k": fused[3:6], "v": fused[6:]},
        "parts only": {"q": fused[:3], "k": fused[3:6], "v": fused[6:]},
        "overlapping rows": {"a": base[:4], "b": base[2:]},
        "a transpose": {"w": base, "wt": base.t()},
        "steps": {"even": base[:, ::2], "odd": base[:, 1::2]},
        "expanded": {"row": base[0], "rows": base[0].expand(5, 10)},
        "two storages": {"a": base, "b": base[1:], "c": fused, "d": fused.t(), "e": torch.ones(2)},
        "a training checkpoint": trained(),
        "a small view of a large storage": {"a": torch.zeros(5000)[10:20], "b": torch.ones(3)},
    }
    for name, value in made.items():
        yield (
            "sharing: torch -> ours (.safetensors) -> ours (.pt) -> torch",
            name,
            lambda v=value: alias(tool, v),
        )
        yield (
            "sharing with --dedupe",
            name,
            lambda v=value: alias(tool, v, "--dedupe"),
        )


def alias(tool, value, *flags):
    out, _, got = there(tool, save(tool, value), *flags)
    if not flags:
        expected = {k: t.contiguous() for k, t in flatten(value)}
        same_tensors(expected, {k: got[k] for k in expected if k in got})
    again = tool.new("out.pt")
    document = tool.convert(out, again)
    final = load(again)
    same(value, final)
    try:
        same_sharing(value, final)
    except Differs:
        named = [n["why"] for n in document["changed"] if "shar" in n["why"]]
        if not named:
            raise
        raise Cannot(named[0]) from None


# ---------------------------------------------------------------- containers

def containers(tool):
    group = "container: torch.save -> ours -> safetensors"
    for protocol in (2, 3, 4, 5):
        for legacy in (False, True):
            kind = "legacy" if legacy else "zip"
            yield (
                group,
                f"pickle protocol {protocol}, {kind}",
                lambda p=protocol, legacy=legacy: protocol_case(tool, p, legacy),
            )
    yield group, "a whole module", lambda: module(tool)
    yield group, "TorchScript", lambda: script(tool)
    yield group, "torch.export", lambda: exported(tool)
    yield group, "torch.distributed.checkpoint", lambda: dcp(tool)
    yield group, "numpy values beside tensors", lambda: numpy_beside(tool)
    yield group, "deflated members", lambda: deflated(tool)


def protocol_case(tool, protocol, legacy):
    state = trained()
    path = save(
        tool, state, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
    )
    _, _, got = there(tool, path)
    same_tensors({k: t.contiguous() for k, t in flatten(state)}, got)


class Net(torch.nn.Module):
    """A class that our tool has never heard of."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, 2)
        self.head2 = self.head
        self.register_buffer("skip", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def module(tool):
    net = Net()
    _, _, got = there(tool, save(tool, net))
    same_tensors({k: t.detach() for k, t in net.state_dict().items()}, got)


def script(tool):
    net = Net().eval()
    path = tool.new("in.pt")
    torch.jit.save(torch.jit.script(net), path)
    _, _, got = there(tool, path)
    expected = {k: t.detach() for k, t in net.state_dict().items()}
    same_tensors(expected, {k: got[k] for k in expected if k in got})


def exported(tool):
    net = Net().eval()
    path = tool.new("in.pt2")
    torch.export.save(torch.export.export(net, (torch.randn(2, 3, 8, 8),)), path)
    _, _, got = there(tool, path)
    expected = {k: t.detach() for k, t in net.state_dict().items()}
    same_tensors(expected, {k: got[k] for k in expected if k in got})


def dcp(tool):
    import torch.distributed.checkpoint as checkpoint

    state = {"model": {"w": torch.randn(5, 3), "b": torch.arange(4)}, "epoch": 3}
    folder = tool.new("saved")
    checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    _, _, got = there(tool, folder)
    same_tensors(dict(flatten(state)), got)


def numpy_beside(tool):
    value = {"t": torch.arange(3), "a": numpy.arange(4.0), "s": numpy.float32(1.5)}
    _, _, got = there(tool, save(tool, value))
    same_tensor(value["t"], got["t"], "t")


def deflated(tool):
    import zipfile

    state = trained()
    source, packed = save(tool, state), tool.new("packed.pt")
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
    _, _, got = there(tool, packed)
    same_tensors({k: t.contiguous() for k, t in flatten(state)}, got)


# ---------------------------------------------------------------- shards

def sharded(tool):
    yield "shards", "ours, read by safetensors", lambda: shards_out(tool)
    yield "shards", "safetensors with an index, to one file", lambda: shards_in(tool, "safetensors")
    yield "shards", "pytorch_model.bin with an index, to one file", lambda: shards_in(tool, "bin")


def shards_out(tool):
    state = {f"layer.{i}.weight": torch.randn(40, 50) for i in range(12)}
    out = tool.new("model.safetensors")
    tool.convert(save(tool, state), out, "--shard-size", "30KB")
    index = json.loads(next(out.parent.glob("*.index.json")).read_text())
    got = {}
    for part in sorted(set(index["weight_map"].values())):
        tensors = st.load_file(out.parent / part)
        for name in tensors:
            if index["weight_map"][name] != part:
                raise Differs(f"{name} lies in {part}, the index says otherwise")
        got |= tensors
    if len(set(index["weight_map"].values())) < 3:
        raise Differs("the file was not split")
    same_tensors(state, got)


def shards_in(tool, kind):
    state = {f"layer.{i}.weight": torch.randn(8, 5) for i in range(6)}
    stem = "model" if kind == "safetensors" else "pytorch_model"
    folder = tool.new("sharded")
    folder.mkdir()
    names, where = list(state), {}
    for i in range(3):
        part = f"{stem}-{i + 1:05}-of-00003.{kind}"
        held = {n: state[n] for n in names[i * 2 : i * 2 + 2]}
        where |= dict.fromkeys(held, part)
        if kind == "safetensors":
            st.save_file(held, folder / part, metadata={"format": "pt"})
        else:
            torch.save(held, folder / part)
    index = folder / f"{stem}.{kind}.index.json"
    total = sum(t.nbytes for t in state.values())
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}))
    for source in (folder, index, folder / where[names[-1]]):
        _, _, got = there(tool, source)
        same_tensors(state, got)


# ---------------------------------------------------------------- foreign safetensors

def foreign(tool):
    group = "foreign safetensors -> ours -> torch.load"
    made = {
        "odd names": {n: torch.ones(2) * i for i, n in enumerate(ODD_NAMES)},
        "numbers as names": {"0": torch.ones(1), "1.0": torch.ones(2), "model.0.w": torch.ones(3)},
        "a name that is a prefix": {"a": torch.ones(1), "a.b": torch.ones(2)},
        "empty tensors": {"e": torch.empty(0, 3), "f": torch.empty(2, 0, dtype=torch.int8)},
    }
    for name, state in made.items():
        yield group, name, lambda s=state: foreign_case(tool, s)
    yield group, "save_model with ties", lambda: save_model(tool)


ODD_NAMES = ["", "a b", "ü", "\U0001f600", "q\"uote", "back\\slash", "new\nline", "/abs", "../up"]


def foreign_case(tool, state):
    path = tool.new("in.safetensors")
    st.save_file(state, path)
    same_tensors(state, dict(back(tool, path)))


def save_model(tool):
    net = Net()
    path = tool.new("in.safetensors")
    st.save_model(net, str(path))
    got = back(tool, path)
    missing, unexpected = Net().load_state_dict(got, strict=False)
    if unexpected or any(not m.startswith("head") for m in missing):
        raise Differs(f"missing {missing}, unexpected {unexpected}")
    for name, t in got.items():
        same_tensor(net.state_dict()[name], t, name)


# ---------------------------------------------------------------- large

def big(tool):
    yield "large", "5,000 tensors", lambda: many(tool)
    yield "large", "a state dict of 8 MB", lambda: wide(tool)


def many(tool):
    state = collections.OrderedDict(
        (f"layers.{i}.weight", torch.full((3,), float(i))) for i in range(5000)
    )
    out, _, got = there(tool, save(tool, state), "--strict")
    same_tensors(dict(state), got)
    same(state, back(tool, out))


def wide(tool):
    state = {"a": torch.randn(1000, 1000), "b": torch.randn(1000, 2000).bfloat16()}
    state["c"] = state["a"].t()[:, 100:200]
    out, _, got = there(tool, save(tool, state))
    same_tensors({k: t.contiguous() for k, t in state.items()}, got)
    same(state, back(tool, out))


# ---------------------------------------------------------------- corpus

def corpus(tool):
    if tool.corpus is None:
        return
    folder = tool.corpus / "torch"
    for facts in sorted(folder.glob("*.json")):
        told = json.loads(facts.read_text())
        if told["verdict"] not in ("convert", "partial"):
            continue
        source = folder / told["file"]
        expected = facts.with_suffix(".safetensors")
        if source.exists() and expected.exists():
            yield (
                "corpus: ours -> safetensors",
                told["file"],
                lambda s=source, e=expected: fixture(tool, s, e),
            )
    real = tool.corpus / "real" / "torch"
    for expected in sorted(real.glob("*.expected.safetensors")):
        source = expected.with_name(expected.name.removesuffix(".expected.safetensors"))
        yield (
            "corpus: ours -> safetensors",
            source.name,
            lambda s=source, e=expected: fixture(tool, s, e),
        )
    for facts in sorted(folder.glob("*.json")):
        told = json.loads(facts.read_text())
        source = folder / told["file"]
        if told["verdict"] == "convert" and source.is_file() and readable(source):
            yield (
                "corpus: ours (.safetensors) -> ours (.pt) -> torch",
                told["file"],
                lambda s=source: fixture_back(tool, s),
            )


def readable(path):
    """Whether torch itself reads the fixture safely."""
    try:
        load(path)
        return True
    except Exception:
        return False


def fixture(tool, source, expected):
    _, _, got = there(tool, source)
    wanted = st.load_file(expected)
    # Byte strings and arrays of the state that are too long for JSON become tensors of ours.
    got = {k: t for k, t in got.items() if not k.startswith("__state__.")}
    if source.suffix == ".jit":
        # The reference lists state_dict(); attributes and constants of the code are more.
        got = {k: t for k, t in got.items() if k in wanted}
    same_tensors(wanted, got)


def fixture_back(tool, source):
    out = tool.new("middle.safetensors")
    tool.convert(source, out)
    before, after = load(source), back(tool, out)
    expected = {k: t for k, t in flatten_once(before)}
    got = {k: t for k, t in flatten_once(after)}
    if set(expected) != set(got):
        raise Differs(f"names {sorted(set(expected) ^ set(got))[:6]}")
    for name, t in expected.items():
        if t.layout is torch.strided and not t.is_quantized and not t.is_meta:
            same_tensor(torch.Tensor.detach(t).resolve_conj().resolve_neg(), got[name], name)


def flatten_once(value):
    """As `flatten`, for values that may hold themselves."""
    seen = set()

    def walk(value, name):
        if isinstance(value, torch.Tensor):
            yield name or "tensor", getattr(value, "_local_tensor", value)
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in items:
                yield from walk(inner, f"{name}.{key}" if name else str(key))

    yield from walk(value, "")


