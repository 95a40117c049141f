"""Writes onnx_external/: a model as onnx saves it in one file, and as it saves it with external data.

    python make_onnx_external.py    (with onnx 1.23 and numpy)

Sizes are multiples of 64 bytes, so that what is aligned to that lies where onnx puts it; and the
constant comes last, since onnx puts all of those behind the weights of all graphs.
"""

import pathlib

import numpy
import onnx
from onnx import helper, numpy_helper


def model():
    count = numpy.arange(512)
    weights = [
        numpy_helper.from_array(count.astype(numpy.float32).reshape(64, 8), "w"),
        numpy_helper.from_array((count % 251).astype(numpy.uint8).repeat(2), "bytes"),
        numpy_helper.from_array(numpy.float32(0.5), "half"),
        numpy_helper.from_array(numpy.linspace(0, 1, 512).astype(numpy.float16), "f16"),
    ]
    table = numpy_helper.from_array(count.astype(numpy.float64), "")
    inner = helper.make_graph(
        [helper.make_node("Mul", ["x", "w2"], ["t"])], "inner", [],
        [helper.make_tensor_value_info("t", 1, [64, 8])],
        [numpy_helper.from_array(count.astype(numpy.float32).reshape(64, 8) / 2, "w2")])
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "other", [],
        [helper.make_tensor_value_info("e", 1, [64, 8])])
    nodes = [
        helper.make_node("Add", ["x", "w"], ["s"]),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
        helper.make_node("Constant", [], ["table"], value=table),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, [64, 8]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, [64, 8])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    folder = pathlib.Path(__file__).parent / "onnx_external"
    folder.mkdir(exist_ok=True)
    onnx.save(model(), str(folder / "inline.onnx"))
    (folder / "external.onnx.data").unlink(missing_ok=True)
    onnx.save(model(), str(folder / "external.onnx"), save_as_external_data=True,
              location="external.onnx.data", convert_attribute=True)


if __name__ == "__main__":
    main()
