"""Makes the starting inputs of the fuzz targets, fuzz/seeds/<target>/: small valid files of each
kind. With the corpus there, `cargo xtask fuzz` adds it.

    python fuzz/make_seeds.py

Needs torch, for the files that only it writes. What lies in jinja_template is written by hand.
"""

import collections
import datetime
import io
import json
import pathlib
import pickle
import struct
import tarfile
import zipfile

import numpy
import torch

SEEDS = pathlib.Path(__file__).with_name("seeds")
STAMP = (2026, 1, 1, 0, 0, 0)


def put(target, name, data):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def zipped(method):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in {"a/data.pkl": pickle.dumps({"x": 1}, 2), "a/data/0": b"\0" * 64}.items():
            z.writestr(zipfile.ZipInfo(name, STAMP), data, method)
        z.comment = b"a comment"
    return out.getvalue()


def tarred(kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as t:
        for name, data in {"storages": b"one", "d" * 60 + "/" + "x" * 60: b"two", "pickle": b"\x80\x02N."}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    # One block of zeros ends a seed as well as twenty.
    return out.getvalue().rstrip(b"\0").ljust(4096, b"\0")


def safetensors(tensors, metadata=None):
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return text, len(text).to_bytes(8, "little") + text + bytes(range(at))


def gguf(version, order):
    """Two tensors and a key of every kind, in the byte order `order` (`<` or `>`)."""
    n = lambda v, kind: struct.pack(order + kind, v)
    count = lambda v: n(v, "I" if version == 1 else "Q")
    text = lambda s: count(len(s.encode())) + s.encode()
    keys = [text("general.architecture") + n(8, "I") + text("llama")]
    keys += [text("general.alignment") + n(4, "I") + n(32, "I")]
    keys += [text("tokenizer.chat_template") + n(8, "I") + text("{{ x }}")]
    words = b"".join(map(text, ["a", "bc"]))
    keys += [text("tokenizer.ggml.tokens") + n(9, "I") + n(8, "I") + count(2) + words]
    keys += [text("x.scores") + n(9, "I") + n(6, "I") + count(2) + n(1.5, "f") * 2]
    keys += [text("x.flag") + n(7, "I") + b"\x01", text("x.wide") + n(12, "I") + n(2.5, "d")]
    dims = lambda *ds: n(len(ds), "I") + b"".join(count(d) for d in ds)
    out = b"GGUF" + n(version, "I") + count(2) + count(len(keys)) + b"".join(keys)
    out += text("a.weight") + dims(32, 2) + n(2, "i") + n(0, "Q")
    out += text("b.weight") + dims(3) + n(0, "i") + n(64, "Q")
    pad = lambda b: b + b"\0" * (-len(b) % 32)
    return pad(pad(pad(out) + bytes(36)) + bytes(12))


def npy(array):
    out = io.BytesIO()
    numpy.save(out, array, allow_pickle=True)
    return out.getvalue()


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*fields):
    return b"".join(field(number, value) for number, value in fields)


def onnx():
    """An ONNX model by hand: an If whose graphs see the weight around them, documentation, an
    annotation, fields of no specification."""

    def value(name):
        shape = message((1, message((1, 4))))
        return message((1, name), (2, message((1, message((1, 1), (2, shape))))), (3, "doc"))

    def branch(operator, out):
        node = message((1, "x"), (1, "w"), (2, out), (4, operator))
        return message((1, node), (2, operator), (12, value(out)))

    branches = [("then_branch", branch("Mul", "t")), ("else_branch", branch("Add", "e"))]
    node = message((1, "c"), (2, "y"), (3, "pick"), (4, "If"), (6, "doc"))
    for name, graph in branches:
        node += message((5, message((1, name), (6, graph), (20, 5))))
    weight = message((1, 4), (2, 1), (8, "w"), (9, bytes(range(16))), (99, "?"))
    typed = message((1, 2), (2, 7), (8, "s"), (7, b"\x01\x02"))
    annotation = message((1, "w"), (2, message((1, "SCALE_TENSOR"), (2, "s"))))
    graph = message((1, node), (2, "g"), (5, weight), (5, typed), (11, value("x")),
                    (11, value("c")), (12, value("y")), (14, annotation), (98, "?"))
    return message((1, 8), (2, "seed"), (7, graph), (8, message((2, 17))),
                   (14, message((1, "key"), (2, "value"))), (97, 1))


def tensor(name, kind, dims, raw):
    """A `TensorProto`."""
    return message(*[(1, d) for d in dims], (2, kind), (8, name), (9, raw))


def products():
    """ONNX models with what quantization changes: products behind each other, with a bias and a
    constant that is turned; and a convolution, a table of words and what lies between."""

    def floats(n):
        return struct.pack(f"<{n}f", *[(i * 7 % 11 - 5) / 8 for i in range(n)])

    def value(name, *dims):
        shape = message(*[(1, message((1, d))) for d in dims])
        return message((1, name), (2, message((1, message((1, 1), (2, shape))))))

    def attribute(name, kind, number, value):
        return (5, message((1, name), (number, value), (20, kind)))

    def node(operator, inputs, output, *more):
        names = [(1, i) for i in inputs] + [(2, output), (3, output + "_node"), (4, operator)]
        return (1, message(*names, *more))

    def model(opset, *fields):
        graph = message(*fields[:-1], (2, "seed"), *fields[-1])
        return message((1, 8), (7, graph), (8, message((2, opset))))

    yield "products", model(
        17,
        node("MatMul", ["x", "w"], "h"),
        node("Relu", ["h"], "r"),
        node("Transpose", ["v"], "t", attribute("perm", 7, 8, b"\x01\x00")),
        node("MatMul", ["r", "t"], "m"),
        node("Gemm", ["m", "u", "b"], "y", attribute("transB", 2, 3, 1)),
        [(5, tensor("w", 1, [4, 3], floats(12))), (5, tensor("v", 1, [5, 3], floats(15))),
         (5, tensor("u", 1, [2, 5], floats(10))), (5, tensor("b", 1, [2], floats(2))),
         (11, value("x", 1, 4)), (12, value("y", 1, 2))],
    )
    constant = attribute("value", 4, 5, tensor("", 1, [1, 2, 1, 1], floats(2)))
    yield "image", model(
        21,
        node("Constant", [], "k", constant),
        node("Conv", ["x", "k", "b"], "c"),
        node("Clip", ["c"], "d"),
        node("MaxPool", ["d"], "p", attribute("kernel_shape", 7, 8, b"\x01\x01")),
        node("Gather", ["table", "i"], "g"),
        node("Add", ["p", "g"], "y"),
        [(5, tensor("b", 1, [1], floats(1))), (5, tensor("table", 1, [3, 2], floats(6))),
         (5, tensor("i", 7, [1], bytes(8))),
         (11, value("x", 1, 2, 1, 2)), (12, value("y", 1, 1, 1, 2))],
    )


def sound_models():
    """The models of the tests that break no rule."""
    table = SEEDS.parent.parent / "crates/weighbridge/tests/data/onnx/broken.tsv"
    for line in table.read_text().splitlines()[1:]:
        name, rule, _, _, model = line.split("\t")
        if rule == "-":
            yield name, bytes.fromhex(model)


def main():
    tree = {
        "epoch": 3,
        "lr": [0.1, float("inf")],
        1: ("a", None, True, b"raw", 2**70),
        "when": datetime.date(2026, 1, 1),
        "o": collections.OrderedDict(a={1, 2}),
    }
    for protocol in range(6):
        put("pickle_machine", f"protocol{protocol}", pickle.dumps(tree, protocol))
    put("zip_archive", "stored.zip", zipped(zipfile.ZIP_STORED))
    put("zip_archive", "deflated.zip", zipped(zipfile.ZIP_DEFLATED))
    for name in ("USTAR", "GNU", "PAX"):
        put("tar_archive", f"{name.lower()}.tar", tarred(getattr(tarfile, f"{name}_FORMAT")))
    some = {"a": ("F32", [2, 3], 24), "b.c": ("BF16", [4], 8), "e": ("I8", [0, 2], 0)}
    header, file = safetensors(some, {"format": "pt", "weighbridge.structure": '{"$dict":[]}'})
    put("safetensors_header", "small", header)
    put("safetensors_header", "empty", "{}")
    put("detect_open", "small.safetensors", file)
    base = torch.arange(12.0).reshape(3, 4)
    checkpoint = {
        "model": collections.OrderedDict(w=base, t=base.t(), p=torch.nn.Parameter(base[0])),
        "epoch": 3,
    }
    put("pytorch_open", "zip.pt", saved(checkpoint))
    put("pytorch_open", "legacy.pt", saved(checkpoint, _use_new_zipfile_serialization=False))
    put("detect_open", "bare.pkl", pickle.dumps({"a": [1, 2]}, 4))
    put("scan_file", "unsafe.pkl", b"cos\nsystem\n(S'true'\ntR.")
    put("scan_file", "clean.pkl", pickle.dumps({"a": 1}, 2))
    # gguf_edit/room.gguf is v3.gguf after `weighbridge edit --reserve 500` and another edit.
    for version, order, name in ((1, "<", "v1"), (2, "<", "v2"), (3, "<", "v3"), (3, ">", "v3-big")):
        for target in ("gguf_header", "gguf_edit"):
            put(target, f"{name}.gguf", gguf(version, order))
    put("onnx_edit", "if.onnx", onnx())
    # What peers/make_tf.py made.
    data = pathlib.Path(__file__).parent.parent / "crates/weighbridge/tests/data/tensorflow"
    for target, name in (
        ("sstable", "three.index"),
        ("tf_checkpoint", "slices.index"),
        ("tf_checkpoint", "v1s.ckpt-00001-of-00002"),
        ("graphdef", "constants.pb"),
        ("tflite", "int8.tflite"),
    ):
        put(target, name, (data / name).read_bytes())
    for name, model in products():
        put("onnx_quantize", f"{name}.onnx", model)
    for name, model in sound_models():
        put("onnx_read", f"{name}.onnx", model)
    put("npy", "floats.npy", npy(numpy.zeros((2, 3))))
    put("npy", "fields.npy", npy(numpy.zeros(2, [("a", "i4"), ("b", "f4", (2,)), ("c", "U3")])))
    put("npy", "objects.npy", npy(numpy.array([1, None], dtype=object)))
    put("npy", "header", "{'descr': [('a', '<i4'), ('b', '|O')], 'fortran_order': False, 'shape': (3, 4L)}")
    structure = {
        "$dict": [
            ["epoch", 3],
            ["t", {"$tensor": "t"}],
            ["l", {"$list": [{"$tuple": [1, None]}, {"$set": []}]}],
            ["b", {"$bytes": "00ff"}],
            ["i", {"$int": "36893488147419103232"}],
            ["f", {"$float": "nan"}],
        ],
        "$type": "collections.OrderedDict",
    }
    put("structure_json", "small.json", json.dumps(structure))


if __name__ == "__main__":
    main()
