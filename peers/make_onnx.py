"""Makes a large ONNX model for the benchmarks: a chain of matrix products of 1024 × 1024 floats.

    python peers/make_onnx.py OUT MATRICES [DATA]

With DATA, the name of a file beside OUT, the weights lie in it; without, in OUT. The values are
random, of a fixed seed, so that no file system can compress or share them.
"""

import os
import sys

import numpy
import onnx
from onnx import TensorProto, helper

WIDTH = 1024


def tensor(name, values, data, at):
    """A tensor of `values`, or of the place in the file `data` where they are."""
    t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
    if data is None:
        t.raw_data = values.tobytes()
        return t
    data.write(values.tobytes())
    t.data_location = TensorProto.EXTERNAL
    entries = (("location", os.path.basename(data.name)), ("offset", at), ("length", values.nbytes))
    for key, value in entries:
        t.external_data.add(key=key, value=str(value))
    return t


def main():
    out, matrices = sys.argv[1], int(sys.argv[2])
    name = sys.argv[3] if len(sys.argv) > 3 else None
    data = open(os.path.join(os.path.dirname(out), name), "wb") if name else None
    random = numpy.random.default_rng(5)
    nodes, weights, value = [], [], "x"
    for i in range(matrices):
        shape = (WIDTH, WIDTH)
        values = random.standard_normal(shape, dtype=numpy.float32) / numpy.float32(WIDTH**0.5)
        weights.append(tensor(f"layers.{i}.weight", values, data, i * values.nbytes))
        nodes.append(helper.make_node("MatMul", [value, f"layers.{i}.weight"], [f"y{i}"], f"layer{i}"))
        value = f"y{i}"
    io = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", value)]
    graph = helper.make_graph(nodes, "chain", io[:1], io[1:], weights)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10, producer_name="make_onnx")
    if data:
        data.close()
    with open(out + ".part", "wb") as f:
        f.write(model.SerializeToString())
    os.replace(out + ".part", out)
    print(f"{out}: {len(weights)} tensors, {os.path.getsize(out)} bytes")


if __name__ == "__main__":
    main()
