"""Answers of ONNX's own library, and models of our own with every way of storing a tensor.

    python make.py CORPUS

Writes `storage.onnx`, `external.onnx` with `external.bin`, and two answers: `expected.tsv`, of each
tensor of these its model, kind, name, type, shape and the SHA-256 of its values as the library
reads them, row-major and little-endian; and `corpus.tsv`, of every model of the corpus the number
of such rows and the SHA-256 of them all, sorted. Needs onnx 1.23 and numpy.
"""

import hashlib
import os
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = dict(zip(TensorProto.DataType.values(), TensorProto.DataType.keys()))


def packed_bits(array, bits):
    """Values of less than a byte as they lie in `raw_data`."""
    flat = array.reshape(-1).view(numpy.uint8) & ((1 << bits) - 1)
    per = 8 // bits
    flat = numpy.pad(flat, (0, -len(flat) % per)).reshape(-1, per)
    out = numpy.zeros(len(flat), numpy.uint8)
    for i in range(per):
        out |= flat[:, i] << (bits * i)
    return out.tobytes()


BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def digest(t, folder):
    name = NAMES[t.data_type]
    if name == "STRING":
        return "-"
    array = numpy_helper.to_array(t, folder)
    data = packed_bits(array, BITS[name]) if name in BITS else numpy.ascontiguousarray(array).tobytes()
    return hashlib.sha256(data).hexdigest()


def walk(graph, constants):
    """Initializers of a graph and of the graphs in it, and tensors of its constants."""
    found = [("initializer", t.name, t) for t in graph.initializer]
    for node in graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                found += walk(a.g, constants)
            if node.op_type == "Constant" and a.name == "value" and constants:
                found.append(("constant", node.output[0], a.t))
    return found


def rows(path, label):
    model = onnx.load(path, load_external_data=False)
    out = []
    for kind, name, t in walk(model.graph, True):
        dims = ",".join(str(d) for d in t.dims)
        try:
            value = digest(t, os.path.dirname(path))
        except Exception as e:  # external data that the corpus does not have
            print(label, name, e, file=sys.stderr)
            value = "unreadable"
        out.append((label, kind, name, NAMES[t.data_type], dims, value))
    return out


def typed(name, data_type, field, values, dims):
    t = TensorProto(name=name, data_type=data_type, dims=dims)
    getattr(t, field).extend(values)
    return t


def raw(name, data_type, data, dims):
    return TensorProto(name=name, data_type=data_type, dims=dims, raw_data=data)


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def field(number, wire, payload):
    return varint(number << 3 | wire) + payload


def unpacked():
    """Tensors whose typed values stand one by one, and in several runs; the library never writes
    them and reads them."""
    import struct

    name = lambda s: field(8, 2, varint(len(s)) + s.encode())
    kind = lambda n: field(2, 0, varint(n))
    dims = lambda *all: b"".join(field(1, 0, varint(d)) for d in all)
    floats = b"".join(field(4, 5, struct.pack("<f", x)) for x in (1.5, -2.0, 3e9))
    ints = b"".join(field(5, 0, varint(n)) for n in (-3, 0, 7, -(2**31)))
    mixed = field(7, 0, varint(-1)) + field(7, 2, varint(3) + b"\x05\x80\x01") + field(7, 0, varint(9))
    doubles = b"".join(field(10, 1, struct.pack("<d", x)) for x in (0.1, -1e300))
    yield dims(3) + kind(1) + floats + name("unpacked.f32")
    yield dims(2, 2) + kind(6) + ints + name("unpacked.i32")
    yield field(1, 2, varint(2) + b"\x02\x02") + kind(7) + mixed + name("mixed.i64")
    yield dims(2) + doubles + kind(11) + name("unpacked.f64")


def storage():
    T = TensorProto
    f16 = [0x3C00, 0xC000, 0x7BFF, 0x0001]
    all = [
        typed("typed.f32", T.FLOAT, "float_data", [1, -2.5, 3e-40], [3]),
        typed("typed.f64", T.DOUBLE, "double_data", [1, -2.5, 1e-310, 7], [2, 2]),
        typed("typed.i64", T.INT64, "int64_data", [-1, 2**62, 0], [3]),
        typed("typed.i32", T.INT32, "int32_data", [-(2**31), 5], [2]),
        typed("typed.i16", T.INT16, "int32_data", [-7, 300], [2]),
        typed("typed.i8", T.INT8, "int32_data", [-128, 127], [2]),
        typed("typed.u16", T.UINT16, "int32_data", [65535, 0], [2]),
        typed("typed.u8", T.UINT8, "int32_data", [255, 1, 2], [3]),
        typed("typed.bool", T.BOOL, "int32_data", [1, 0, 1], [3]),
        typed("typed.f16", T.FLOAT16, "int32_data", f16, [2, 2]),
        typed("typed.bf16", T.BFLOAT16, "int32_data", [0x3F80, 0xC020], [2]),
        typed("typed.u32", T.UINT32, "uint64_data", [2**32 - 1, 3], [2]),
        typed("typed.u64", T.UINT64, "uint64_data", [2**64 - 1, 3], [2]),
        typed("typed.c64", T.COMPLEX64, "float_data", [1, 2, 3, 4], [2]),
        typed("typed.c128", T.COMPLEX128, "double_data", [1, 2], [1]),
        typed("typed.f8e4m3", T.FLOAT8E4M3FN, "int32_data", [0x38, 0xB8, 0x7F], [3]),
        typed("typed.f8e5m2", T.FLOAT8E5M2, "int32_data", [0x3C, 0xBC], [2]),
        typed("typed.i4", T.INT4, "int32_data", [0x21, 0x0F], [3]),
        typed("typed.u4", T.UINT4, "int32_data", [0xFE], [2]),
        typed("typed.f4", T.FLOAT4E2M1, "int32_data", [0x7F, 0x02], [3]),
        raw("raw.f32", T.FLOAT, numpy.arange(6, dtype="<f4").tobytes(), [2, 3]),
        raw("raw.i4", T.INT4, b"\x21\x0f", [3]),
        raw("raw.f8e8m0", T.FLOAT8E8M0, b"\x7f\x80", [2]),
        raw("raw.c64", T.COMPLEX64, numpy.array([1 + 2j], "<c8").tobytes(), [1]),
        raw("scalar", T.FLOAT, numpy.float32(4).tobytes(), []),
        raw("empty", T.FLOAT, b"", [0, 4]),
        TensorProto(name="nothing", data_type=T.INT64, dims=[0]),
        typed("texts", T.STRING, "string_data", [b"one", b"\xff\xfe", b""], [3]),
    ]
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "inside"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", T.FLOAT, [None])],
        [raw("inside", T.FLOAT, numpy.float32([8]).tobytes(), [1])],
    )
    other = helper.make_graph(
        [helper.make_node("Mul", ["x", "inside"], ["c"])],
        "branch",
        [],
        [helper.make_tensor_value_info("c", T.FLOAT, [None])],
        [raw("inside", T.FLOAT, numpy.float32([9]).tobytes(), [1])],
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], value=raw("", T.FLOAT, b"\0\0\x80\x3f" * 2, [2])),
        helper.make_node("Constant", [], ["kf"], value_float=0.5),
        helper.make_node("Constant", [], ["ki"], value_ints=[3, -4]),
        helper.make_node("If", ["cond"], ["y"], "choose", then_branch=inner, else_branch=other),
    ]
    graph = helper.make_graph(
        nodes,
        "storage",
        [
            helper.make_tensor_value_info("x", T.FLOAT, ["batch"]),
            helper.make_tensor_value_info("cond", T.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", T.FLOAT, None)],
        all,
    )
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(raw("sparse.linear", T.FLOAT, numpy.float32([1, 2]).tobytes(), [2]))
    sparse.indices.CopyFrom(raw("", T.INT64, numpy.int64([1, 5]).tobytes(), [2]))
    sparse.dims.extend([2, 3])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(raw("sparse.rows", T.FLOAT, numpy.float32([3, 4]).tobytes(), [2]))
    sparse.indices.CopyFrom(raw("", T.INT64, numpy.int64([0, 1, 1, 2]).tobytes(), [2, 2]))
    sparse.dims.extend([2, 3])
    data = graph.SerializeToString()
    data += b"".join(field(5, 2, varint(len(t)) + t) for t in unpacked())
    model = helper.make_model(
        onnx.GraphProto.FromString(data),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)],
        ir_version=11,
        producer_name="make.py",
    )
    model.metadata_props.add(key="colour", value="blue")
    # Parsed and written again, what is unpacked would be packed: put it in by hand.
    body = model.SerializeToString()
    head = onnx.ModelProto.FromString(body)
    head.ClearField("graph")
    return head.SerializeToString() + field(7, 2, varint(len(data)) + data)


def external():
    T = TensorProto
    data = numpy.arange(16, dtype="<f4").tobytes()

    def at(name, dims, **entries):
        t = TensorProto(name=name, data_type=T.FLOAT, dims=dims, data_location=T.EXTERNAL)
        for k, v in entries.items():
            t.external_data.add(key=k, value=str(v))
        return t

    tensors = [
        at("whole", [16], location="external.bin"),
        at("part", [2, 2], location="external.bin", offset=16, length=16),
        at("no-length", [4], location="./external.bin", offset=48),
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["part"], ["y"])],
        "external",
        [],
        [helper.make_tensor_value_info("y", T.FLOAT, [2, 2])],
        tensors,
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString(), data


def main():
    corpus = sys.argv[1]
    with open(os.path.join(HERE, "storage.onnx"), "wb") as f:
        f.write(storage())
    model, data = external()
    for name, content in (("external.onnx", model), ("external.bin", data)):
        with open(os.path.join(HERE, name), "wb") as f:
            f.write(content)
    found = []
    for name in ("storage.onnx", "external.onnx"):
        found += rows(os.path.join(HERE, name), name)
    save("expected.tsv", found)
    models = []
    for folder in ("onnx/conformance", "onnx/backdoor", "onnx/clean_control", "real/onnx"):
        for name in sorted(os.listdir(os.path.join(corpus, folder))):
            if name.endswith(".onnx"):
                label = f"{folder}/{name}"
                of = sorted("\t".join(r[1:]) for r in rows(os.path.join(corpus, label), label))
                text = "".join(r + "\n" for r in of)
                models.append((label, len(of), hashlib.sha256(text.encode()).hexdigest()))
    save("corpus.tsv", models)


def save(name, rows):
    with open(os.path.join(HERE, name), "w") as f:
        for row in rows:
            print(*row, sep="\t", file=f)


if __name__ == "__main__":
    main()
