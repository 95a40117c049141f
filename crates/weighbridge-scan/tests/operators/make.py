"""Records what ONNX Runtime makes of small operators: python3 make.py > operators.json

Needs onnx, onnxruntime and numpy. Each line is one case: the operator, its version, its attributes,
operands and results. Operands are drawn from a fixed seed.
"""

import json

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

ort.set_default_logger_severity(4)
rng = np.random.default_rng(5)
KINDS = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8",
         "int8": "I8", "bool": "BOOL", "uint32": "U32"}


def f(*shape):
    return (rng.normal(size=shape) * 2).astype(np.float32)


def i(low, high, *shape):
    return rng.integers(low, high, shape).astype(np.int64)


def c(values, kind=np.int64):
    return np.asarray(values, kind)


def unary():
    for op in ("Abs Neg Sign Ceil Floor Round Exp Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid "
               "HardSwish Tanh Softplus Softsign Erf Sin Cos Tan Atan Sinh Cosh Asinh Reciprocal "
               "ThresholdedRelu Mish Shrink IsNaN").split():
        yield op, [f(2, 5)], {}
    for op in "Sqrt Log Acosh".split():
        yield op, [np.abs(f(6)) + np.float32(1)], {}
    for op in "Asin Acos Atanh".split():
        yield op, [np.clip(f(6), -0.9, 0.9).astype(np.float32)], {}
    yield "Round", [c([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)], {}
    yield "IsInf", [c([1, np.inf, -np.inf], np.float32)], {}
    yield "Not", [c([True, False], bool)], {}
    yield "LeakyRelu", [f(5)], {"alpha": 0.3}
    yield "Clip", [f(7), c(-0.5, np.float32), c(1, np.float32)], {}
    yield "Cast", [f(6)], {"to": TensorProto.INT32}
    yield "Cast", [f(6)], {"to": TensorProto.BOOL}
    yield "Cast", [c([0, 3, -1])], {"to": TensorProto.FLOAT}


def binary():
    for op in "Add Sub Mul Div".split():
        yield op, [f(2, 3), f(3)], {}
        yield op, [i(-9, 9, 2, 3), i(1, 5, 2, 1)], {}
    for op in "Equal Greater Less GreaterOrEqual LessOrEqual".split():
        yield op, [i(0, 3, 8), i(0, 3, 8)], {}
    for op in "And Or Xor".split():
        yield op, [c([1, 1, 0, 0], bool), c([1, 0, 1, 0], bool)], {}
    yield "Pow", [np.abs(f(5)), f(5)], {}
    yield "Mod", [i(-9, 9, 8), c([3, -3, 4, -4, 5, -5, 2, 7])], {}
    yield "Mod", [f(5), f(5)], {"fmod": 1}
    yield "PRelu", [f(2, 3), f(3)], {}
    yield "BitwiseXor", [i(0, 99, 5), i(0, 99, 5)], {}
    yield "BitwiseAnd", [i(0, 99, 5), i(0, 99, 5)], {}
    yield "BitShift", [c([1, 2, 200], np.uint8), c([1, 3, 1], np.uint8)], {"direction": "LEFT"}
    yield "BitShift", [c([1, 32, 200], np.uint8), c([1, 3, 1], np.uint8)], {"direction": "RIGHT"}
    for op in "Min Max Sum Mean".split():
        yield op, [f(2, 3), f(3), f(1)], {}
    yield "Where", [c([[1], [0]], bool), f(2, 3), f(3)], {}


def movement():
    x = f(2, 3, 4)
    yield "Reshape", [x, c([4, -1])], {}
    yield "Reshape", [x, c([0, 2, 6])], {}
    yield "Flatten", [x], {"axis": 2}
    yield "Squeeze", [f(1, 3, 1), c([0])], {}
    yield "Unsqueeze", [x, c([0, -1])], {}
    yield "Transpose", [x], {"perm": [2, 0, 1]}
    yield "Transpose", [x], {}
    yield "Slice", [x, c([1, 0]), c([9, 3]), c([1, 2]), c([1, 2])], {}
    yield "Slice", [x, c([-1]), c([-9]), c([2]), c([-2])], {}
    yield "Concat", [f(2, 3), f(2, 1)], {"axis": -1}
    yield "Split", [f(5, 2), c([2, 3])], {"axis": 0}
    yield "Expand", [f(3, 1), c([2, 1, 4])], {}
    yield "Tile", [f(2, 3), c([2, 2])], {}
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield "Pad", [f(3, 4), c([1, 2, 0, 1]), c(7, np.float32)], {"mode": mode}
    yield "DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2}
    yield "DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}
    yield "SpaceToDepth", [f(1, 2, 4, 6)], {"blocksize": 2}
    yield "ReverseSequence", [f(4, 3), c([1, 4, 2])], {"time_axis": 0, "batch_axis": 1}
    yield "Trilu", [f(3, 4), c(1)], {"upper": 1}
    yield "Trilu", [f(3, 4), c(-1)], {"upper": 0}
    yield "Resize", [f(1, 1, 2, 3), c([], np.float32), c([1, 1, 2, 2], np.float32)], {}
    yield "Resize", [f(1, 1, 4, 4), c([], np.float32), c([1, 1, 1.5, 2], np.float32)], {
        "mode": "linear"}
    yield "Resize", [f(1, 1, 3, 3), c([], np.float32), c([1, 1, 2, 2], np.float32)], {
        "mode": "linear", "coordinate_transformation_mode": "align_corners"}
    yield "Resize", [f(1, 1, 2, 2), c([], np.float32), c([1, 1, 3, 3], np.float32)], {
        "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def indexing():
    x = f(3, 4)
    yield "Gather", [x, c([[0, -1]])], {"axis": 1}
    yield "GatherElements", [x, c([[1, 0], [3, -1]])], {"axis": 1}
    yield "GatherND", [x, c([[0, 1], [2, 3]])], {}
    yield "GatherND", [f(2, 3, 2), c([[1], [2]])], {"batch_dims": 1}
    yield "ScatterElements", [x, c([[1], [2], [0]]), f(3, 1)], {"axis": 1}
    yield "ScatterND", [x, c([[2], [0]]), f(2, 4)], {}
    yield "ScatterND", [x, c([[2, 1], [0, 0]]), f(2)], {"reduction": "add"}
    yield "Compress", [x, c([0, 1, 1], bool)], {"axis": 0}
    yield "Compress", [x, c([0, 1, 1, 0, 1], bool)], {}
    yield "OneHot", [c([1, -1, 7]), c(4), c([0, 5])], {}
    yield "OneHot", [c([[1, 2]]), c(3), c([0, 1])], {"axis": 1}
    yield "NonZero", [c([[1, 0], [2, 3]])], {}
    yield "TopK", [f(2, 6), c([3])], {}
    yield "TopK", [f(5, 2), c([2])], {"axis": 0, "largest": 0}
    yield "ArgMax", [f(3, 4)], {"axis": 1, "keepdims": 0}
    yield "ArgMin", [f(3, 4)], {"axis": 0}
    yield "ArgMax", [c([[1, 3, 3]], np.float32)], {"axis": 1, "select_last_index": 1}
    yield "CumSum", [f(2, 4), c(1)], {}
    yield "CumSum", [f(2, 4), c(0)], {"exclusive": 1, "reverse": 1}


def reduction():
    for op in "Sum Mean Max Min Prod L1 L2 SumSquare LogSumExp".split():
        yield "Reduce" + op, [f(2, 3, 2), c([0, -1])], {"keepdims": 0}
        yield "Reduce" + op, [f(2, 3)], {}
    yield "ReduceLogSum", [np.abs(f(2, 3)), c([1])], {}
    yield "ReduceSum", [f(2, 2), c([])], {"noop_with_empty_axes": 1}
    yield "ReduceMax", [i(-9, 9, 3, 3), c([1])], {}
    for op in "Softmax LogSoftmax Hardmax".split():
        yield op, [f(2, 3, 4)], {"axis": 1}
    yield "LayerNormalization", [f(2, 6), f(6), f(6)], {}
    yield "BatchNormalization", [f(2, 3, 2), f(3), f(3), f(3), np.abs(f(3))], {}
    yield "InstanceNormalization", [f(2, 3, 4), f(3), f(3)], {}


def linear():
    yield "MatMul", [f(2, 3, 4), f(4, 5)], {}
    yield "MatMul", [f(4), f(2, 4, 3)], {}
    yield "MatMul", [f(2, 1, 2, 3), f(3, 3, 2)], {}
    yield "Gemm", [f(3, 2), f(4, 3), f(4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    yield "Conv", [f(2, 3, 5, 4), f(4, 3, 3, 2), f(4)], {"pads": [1, 0, 1, 1], "strides": [2, 1]}
    yield "Conv", [f(1, 4, 7), f(4, 2, 3)], {"group": 2, "dilations": [2]}
    yield "Conv", [f(1, 1, 5, 5), f(1, 1, 2, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    yield "Einsum", [f(2, 3), f(3, 4)], {"equation": "ij,jk->ik"}
    yield "Einsum", [f(2, 3, 4), f(2, 4)], {"equation": "bij,bj->bi"}
    for op in ("AveragePool", "MaxPool"):
        yield op, [f(1, 2, 5, 5)], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
        yield op, [f(1, 1, 6)], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}
    yield "AveragePool", [f(1, 1, 4)], {"kernel_shape": [2], "pads": [1, 1], "count_include_pad": 1}
    yield "GlobalAveragePool", [f(2, 3, 4, 2)], {}
    yield "GlobalMaxPool", [f(2, 3, 4, 2)], {}
    q = [c([[1, 200], [3, 4]], np.uint8), c([[5, -6], [7, 8]], np.int8)]
    yield "MatMulInteger", q + [c(3, np.uint8), c(-1, np.int8)], {}
    yield "QuantizeLinear", [f(3, 4), c(0.05, np.float32), c(100, np.uint8)], {}
    yield "QuantizeLinear", [f(2, 3), c([0.1, 0.2, 0.3], np.float32), c([0, 1, 2], np.int8)], {}
    yield "DequantizeLinear", [c([0, 7, 255], np.uint8), c(0.5, np.float32), c(7, np.uint8)], {}
    yield "DynamicQuantizeLinear", [f(3, 4)], {}


def shapes():
    yield "Shape", [f(2, 3, 4)], {"start": 1, "end": -1}
    yield "Size", [f(2, 3)], {}
    yield "Range", [c(2), c(11), c(3)], {}
    yield "Range", [c(1, np.float32), c(-1, np.float32), c(-0.5, np.float32)], {}
    yield "EyeLike", [f(2, 3)], {"k": 1}
    yield "ConstantOfShape", [c([2, 1])], {}


def packed(a):
    a = np.asarray(a)
    short = lambda x: float(f"{x:.9g}") if np.isfinite(x) else str(x)  # noqa: E731
    data = [short(x) if isinstance(x, float) else x for x in a.ravel().tolist()]
    return {"kind": KINDS[str(a.dtype)], "dims": list(a.shape), "data": data}


for family in (unary, binary, movement, indexing, reduction, linear, shapes):
    for op, inputs, attributes in family():
        outputs = {"Split": 2, "TopK": 2, "DynamicQuantizeLinear": 3}.get(op, 1)
        names = [f"i{k}" if a.size or op != "Resize" else "" for k, a in enumerate(inputs)]
        node = helper.make_node(op, names, [f"o{k}" for k in range(outputs)], **attributes)
        ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                 for n, a in zip(names, inputs) if n]
        outs = [helper.make_empty_tensor_value_info(f"o{k}") for k in range(outputs)]
        model = helper.make_model(helper.make_graph([node], op, ports, outs), ir_version=8,
                                  opset_imports=[helper.make_opsetid("", 18)])
        try:
            session = ort.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
            got = session.run(None, {n: a for n, a in zip(names, inputs) if n})
        except Exception as e:
            raise SystemExit(f"{op}: {e}")
        print(json.dumps({"op": op, "attributes": attributes,
                          "inputs": [packed(a) if n else None for n, a in zip(names, inputs)],
                          "outputs": [packed(a) for a in got]}))
