"""Small ONNX models, and what ONNX Runtime's quantizers make of them.

    python make.py

Needs onnx, onnx_ir and onnxruntime (written with 1.23.2, 1.0.0 and 1.32.0). Writes the models and
answers.json beside this file. An answer is a digest of the nodes (operator, domain, name, inputs,
outputs) and one of the constants that nodes read (name, dtype, dimensions, SHA-256 of the bytes).
"""

import hashlib
import itertools
import json
import logging
import pathlib
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

logging.disable(logging.CRITICAL)
HERE = pathlib.Path(__file__).parent
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
NAMES = {
    TensorProto.FLOAT: "F32",
    TensorProto.UINT8: "U8",
    TensorProto.INT8: "I8",
    TensorProto.INT32: "I32",
    TensorProto.INT64: "I64",
}


def values(seed, *shape, scale=0.3):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def model(nodes, inputs, outputs, constants):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(n, t, s) for n, t, s in inputs],
        [value(n, t, s) for n, t, s in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def dense():
    n = helper.make_node
    return model(
        [
            n("Gemm", ["x", "w1", "b1"], ["h1"], name="fc1"),
            n("Relu", ["h1"], ["r1"], name="relu"),
            n("Gemm", ["r1", "w2", "b2"], ["h2"], name="fc2", transB=1),
            n("Tanh", ["h2"], ["r2"]),
            n("MatMul", ["r2", "w3"], ["m"], name="fc3"),
            n("MatMul", ["m", "w4"], ["y"]),
        ],
        [("x", 1, ["n", 19])],
        [("y", 1, ["n", 6])],
        {
            "w1": values(1, 19, 24),
            "b1": values(2, 24),
            "w2": values(3, 20, 24),
            "b2": values(4, 20),
            "w3": values(5, 20, 34),
            "w4": values(6, 34, 6),
        },
    )


def image():
    n = helper.make_node
    pads = [1, 1, 1, 1]
    return model(
        [
            n("Conv", ["x", "c1", "d1"], ["y1"], name="conv1", pads=pads),
            n("Relu", ["y1"], ["z1"], name="r1"),
            n("MaxPool", ["z1"], ["p1"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            n("Conv", ["p1", "c2"], ["y2"], name="conv2", pads=pads),
            n("Relu", ["y2"], ["z2"], name="r2"),
            n("Conv", ["z2", "c3", "d3"], ["y3"], name="deep", group=6, pads=pads),
            n("Add", ["y3", "z2"], ["a"], name="skip"),
            n("GlobalAveragePool", ["a"], ["g"], name="mean"),
            n("Flatten", ["g"], ["f"], name="flat"),
            n("Gemm", ["f", "w", "b"], ["y"], name="fc", transB=1),
        ],
        [("x", 1, ["n", 3, 8, 8])],
        [("y", 1, ["n", 5])],
        {
            "c1": values(7, 4, 3, 3, 3),
            "d1": values(8, 4),
            "c2": values(9, 6, 4, 3, 3),
            "c3": values(10, 6, 1, 3, 3),
            "d3": values(11, 6),
            "w": values(12, 5, 6),
            "b": values(13, 5),
        },
    )


def words():
    n = helper.make_node
    return model(
        [
            n("Gather", ["table", "ids"], ["e"], name="embed"),
            n("LSTM", ["e", "W", "R", "B"], ["h"], name="lstm", direction="bidirectional", hidden_size=5),
            n("Transpose", ["h"], ["t"], name="turn", perm=[0, 2, 1, 3]),
            n("Reshape", ["t", "s"], ["r"], name="flat"),
            n("MatMul", ["r", "w"], ["y"], name="out"),
            n("Gather", ["table", "ids"], ["e2"], name="again"),
            n("Transpose", ["e2"], ["e3"], name="turned", perm=[1, 0, 2]),
            n("MatMul", ["e3", "w2"], ["z"], name="out2"),
        ],
        [("ids", 7, ["t", "b"])],
        [("y", 1, ["m", 3]), ("z", 1, ["b", "t", 4])],
        {
            "table": values(14, 30, 7),
            "W": values(15, 2, 20, 7),
            "R": values(16, 2, 20, 5),
            "B": values(17, 2, 40),
            "w": values(18, 10, 3),
            "w2": values(19, 7, 4),
            "s": np.array([0, 0, -1], np.int64),
        },
    )


def formula(rows, columns):
    """Values that a test can compute too."""
    i = np.arange(rows * columns, dtype=np.int64)
    return (((i * 7919) % 10007 - 5003).astype(np.float32) / 8192).reshape(rows, columns)


def large():
    """Matrices that are done in several parts."""
    n = helper.make_node
    return model(
        [
            n("MatMul", ["x", "a"], ["h"], name="first"),
            n("Gemm", ["h", "b"], ["y"], name="second", transB=1),
        ],
        [("x", 1, ["n", 1250])],
        [("y", 1, ["n", 1300])],
        {"a": formula(1250, 1100), "b": formula(1300, 1100)},
    )


def large_products():
    """The same as products only, which is what the reference makes blocks of."""
    n = helper.make_node
    return model(
        [
            n("MatMul", ["x", "a"], ["h"], name="first"),
            n("MatMul", ["h", "b_T"], ["y"], name="second"),
        ],
        [("x", 1, ["n", 1250])],
        [("y", 1, ["n", 1300])],
        {"a": formula(1250, 1100), "b_T": np.ascontiguousarray(formula(1300, 1100).T)},
    )


def digest(made, names=None):
    g = made.graph
    nodes = sorted(
        "|".join([n.op_type, n.domain, n.name, ",".join(n.input), ",".join(n.output)]) for n in g.node
    )
    read = {i for n in g.node for i in n.input}
    constants = []
    for t in g.initializer:
        if t.name in read and (names is None or t.name.endswith(names)):
            data = numpy_helper.to_array(t).tobytes()
            dims = ",".join(map(str, t.dims))
            constants.append(f"{t.name}|{NAMES[t.data_type]}|{dims}|{hashlib.sha256(data).hexdigest()}")
    sha = lambda lines: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return {"nodes": sha(nodes), "constants": sha(constants), "count": [len(nodes), len(constants)]}


def dynamic(source, folder, kind, channels, symmetric, reduced):
    out = folder / "out.onnx"
    extra = {} if symmetric is None else {"WeightSymmetric": symmetric}
    quantize_dynamic(
        source,
        out,
        per_channel=channels,
        reduce_range=reduced,
        weight_type=TYPES[kind],
        extra_options=extra,
    )
    return onnx.load(out)


def blocks(source, bits, block, symmetric):
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits)
    q = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    q.process()
    return q.model.model


class Batches(CalibrationDataReader):
    def __init__(self, made):
        shape = [d.dim_value or 2 for d in made.graph.input[0].type.tensor_type.shape.dim]
        name = made.graph.input[0].name
        self.all = iter([{name: values(100 + i, *shape, scale=1.0)} for i in range(3)])

    def get_next(self):
        return next(self.all, None)


def ranges(source, made, folder):
    kinds = sorted({n.op_type for n in made.graph.node})
    found = create_calibrator(
        source,
        kinds,
        augmented_model_path=folder / "augmented.onnx",
        calibrate_method=CalibrationMethod.MinMax,
    )
    found.collect_data(Batches(made))
    data = found.compute_data().data
    return {k: [float(x.item()) for x in v.range_value] for k, v in data.items()}


def static(source, made, folder, activations, kind, channels):
    out = folder / "out.onnx"
    quantize_static(
        source,
        out,
        Batches(made),
        quant_format=QuantFormat.QDQ,
        activation_type=TYPES[activations],
        weight_type=TYPES[kind],
        per_channel=channels,
    )
    return onnx.load(out)


def main():
    answers = {"dynamic": [], "blocks": [], "static": [], "ranges": {}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        nets = {"dense": dense(), "image": image(), "words": words(), "large": large()}
        for name, made in nets.items():
            source = folder / f"{name}.onnx"
            onnx.save(made, source)
            if name != "large":
                onnx.save(made, HERE / f"{name}.onnx")
            few = name == "large"
            cases = itertools.product(TYPES, [False, True], [None, True, False], [False, True])
            for case in cases:
                kind, channels, symmetric, reduced = case
                if few and (symmetric is not None or reduced):
                    continue
                # The reference makes operators of these that it then refuses to run.
                if name == "words" and symmetric is False:
                    continue
                got = digest(dynamic(source, folder, *case))
                answers["dynamic"].append([name, *case, got])
            if few:
                onnx.save(large_products(), source)
            if name in ("dense", "large"):
                for bits, block, symmetric in itertools.product(
                    [4, 8], [32, 128] if few else [16, 32, 64, 128, 256], [True, False]
                ):
                    ends = ("_Q4", "_Q8", "_scales", "_zero_points")
                    got = digest(blocks(source, bits, block, symmetric), ends)
                    answers["blocks"].append([name, bits, block, symmetric, got])
            if name in ("dense", "image"):
                answers["ranges"][name] = ranges(source, made, folder)
                for case in itertools.product(TYPES, TYPES, [False, True]):
                    if case[:2] == ("int8", "uint8"):
                        continue
                    got = digest(static(source, made, folder, *case))
                    answers["static"].append([name, *case, got])
    text = json.dumps(answers, separators=(",", ":"))
    (HERE / "answers.json").write_text(text.replace("],[\"", "],\n[\"") + "\n")


if __name__ == "__main__":
    sys.exit(main())
