"""Equal outputs in ONNX Runtime: MODEL PUT SHARED SAFETENSORS, four paths a model.

MODEL is the original, PUT the same with its weights put into it again, SHARED the same with its
weights in SAFETENSORS. Prints how many models ran.
"""

import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from safetensors import safe_open

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def inputs(session):
    """Inputs of the declared shapes, free dimensions 1."""
    rng = np.random.default_rng(0)
    out = {}
    for i in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in i.shape]
        kind = TYPES[i.type]
        if np.issubdtype(kind, np.floating):
            out[i.name] = rng.random(shape).astype(kind)
        else:
            out[i.name] = rng.integers(0, 2, shape).astype(kind)
    return out


def outputs(path):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs(session))


def same(a, b):
    if isinstance(a, np.ndarray) and a.dtype != object:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return str(a) == str(b)


def initializers(graph, out):
    """All initializers by name, those of graphs in graphs too."""
    for t in graph.initializer:
        out[t.name] = t
    for node in graph.node:
        for a in node.attribute:
            for g in [a.g, *a.graphs]:
                initializers(g, out)
    return out


def check_file(model, shared, path):
    """The library reads the shared file, with the bits that the graph has."""
    want = initializers(onnx.load(model).graph, {})
    have = initializers(onnx.load(shared).graph, {})
    with safe_open(path, "np") as f:
        # What numpy has no dtype for is left to the library's own check of the header.
        for name in f.keys():
            a, b = want[name], have[name]
            assert a.data_type == b.data_type and list(a.dims) == list(b.dims), name
            if a.data_type in (16, 17, 18, 19, 20, 23, 24):
                continue
            bits = f.get_tensor(name).tobytes()
            assert numpy_helper.to_array(a).tobytes() == bits, f"{model}: {name}"
            assert numpy_helper.to_array(b).tobytes() == bits, f"{shared}: {name}"
    with open(path, "rb") as f:
        assert (int.from_bytes(f.read(8), "little") + 8) % 4096 == 0, path


def main(paths):
    ort.set_default_logger_severity(4)
    ran = 0
    for model, put, shared, path in zip(*[iter(paths)] * 4):
        check_file(model, shared, path)
        try:
            want = outputs(model)
        except Exception:
            # Operators and types that this runtime does not have; inputs of odd shapes.
            continue
        for other in (put, shared):
            have = outputs(other)
            assert len(have) == len(want), other
            assert all(map(same, want, have)), f"{model}: {other} gives other outputs"
        ran += 1
    print("ran", ran)


main(sys.argv[1:])
