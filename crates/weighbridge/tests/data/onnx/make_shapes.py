"""One operator each, with outputs of the shapes that the reference infers and of others.

    python make_shapes.py > shapes.tsv

Needs the `onnx` package (1.23). Columns: name, what `check` says (`-` or the rule), what
onnx.checker.check_model says with full_check (`ok` or `bad`), the model in hexadecimal. Where the
two differ, the definition of the operator asks for what the reference does not look at.
"""

from make_broken import verdict
from onnx import TensorProto, helper, shape_inference

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model(op, inputs, constants=(), opset=21, outputs=1, said=None, kind=F, **attributes):
    """A graph of one node; `constants` are lists of integers behind the inputs."""
    names = [f"x{i}" for i in range(len(inputs))]
    given = [
        helper.make_tensor_value_info(n, *(s if isinstance(s, tuple) else (F, s)))
        for n, s in zip(names, inputs)
    ]
    lists = []
    for i, c in enumerate(constants):
        names.append(f"c{i}" if c is not None else "")
        if c is not None:
            lists.append(helper.make_tensor(f"c{i}", I64, [len(c)], c))
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, made, **attributes)
    kinds = kind if isinstance(kind, list) else [kind] * outputs
    shapes = said or [None] * outputs
    results = [helper.make_tensor_value_info(n, k, s) for n, k, s in zip(made, kinds, shapes)]
    graph = helper.make_graph([node], "g", given, results, lists)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


GOOD = {
    "relu": ("Relu", [[2, "n"]], {}),
    "softmax": ("Softmax", [[2, 3]], {"axis": -2}),
    "add": ("Add", [[2, 1, 4], [3, 1]], {}),
    "where": ("Where", [(BOOL, [2, 1]), [3], [1, 1]], {}),
    "max": ("Max", [[2, 1], [1, 3], [1]], {}),
    "matmul": ("MatMul", [[5, 1, 2, 3], [4, 3, 6]], {}),
    "matmul_vector": ("MatMul", [[3], [4, 3, 6]], {}),
    "matmul_column": ("MatMul", [[4, 2, 3], [3]], {}),
    "gemm": ("Gemm", [[3, 2], [4, 3], [4]], {"transA": 1, "transB": 1}),
    "conv": ("Conv", [[1, 4, 9, 8], [6, 2, 3, 2], [6]], {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "conv_dilated": ("Conv", [[1, 1, 10], [1, 1, 3]], {"dilations": [3]}),
    "conv_same": ("Conv", [[1, 1, 10], [1, 1, 3]], {"strides": [3], "auto_pad": "SAME_UPPER"}),
    "conv_valid": ("Conv", [[1, 1, 10], [1, 1, 3]], {"strides": [3], "auto_pad": "VALID"}),
    "max_pool": ("MaxPool", [[1, 3, 10, 9]], {"kernel_shape": [3, 2], "strides": [2, 2], "outputs": 2, "kind": [F, I64]}),
    "average_pool": ("AveragePool", [[1, 3, 10]], {"kernel_shape": [3], "pads": [1, 1]}),
    "global_pool": ("GlobalAveragePool", [[2, 3, 4, 5]], {}),
    "batch_normalization": ("BatchNormalization", [[2, 3, 4], [3], [3], [3], [3]], {}),
    "transpose": ("Transpose", [[2, 3, 4]], {"perm": [2, 0, 1]}),
    "transpose_all": ("Transpose", [[2, 3, 4]], {}),
    "concat": ("Concat", [[2, 3], [2, "n"], [2, 1]], {"axis": -1}),
    "concat_known": ("Concat", [[2, 3], ["m", 4]], {"axis": 1}),
    "flatten": ("Flatten", [[2, 3, 4]], {"axis": 2}),
    "flatten_end": ("Flatten", [[2, 3]], {"axis": 2}),
    "reshape": ("Reshape", [[2, 3, 4]], {"constants": [[0, -1, 2]]}),
    "reshape_whole": ("Reshape", [[2, 3, 4]], {"constants": [[6, 4]]}),
    "expand": ("Expand", [[3, 1]], {"constants": [[2, 1, 6]]}),
    "squeeze": ("Squeeze", [[1, 3, 1]], {"constants": [[0, -1]]}),
    "squeeze_all": ("Squeeze", [[1, 3, 1]], {}),
    "squeeze_early": ("Squeeze", [[1, 3]], {"axes": [0], "opset": 11}),
    "unsqueeze": ("Unsqueeze", [[3, 4]], {"constants": [[0, 3]]}),
    "gather": ("Gather", [[5, 6, 7], (I64, [2, 3])], {"axis": 1}),
    "gather_scalar": ("Gather", [[5, 6], (I64, [])], {}),
    "gather_elements": ("GatherElements", [[5, 6], (I64, [2, 6])], {}),
    "gather_nd": ("GatherND", [[2, 3, 4], (I64, [2, 5, 1])], {"batch_dims": 1}),
    "split": ("Split", [[2, 6]], {"constants": [[1, 2, 3]], "axis": 1, "outputs": 3}),
    "split_early": ("Split", [[6]], {"split": [2, 4], "outputs": 2, "opset": 11}),
    "shape": ("Shape", [[2, 3, 4]], {"kind": I64}),
    "size": ("Size", [[2, 3, 4]], {"kind": I64}),
    "constant_of_shape": ("ConstantOfShape", [], {"constants": [[2, 3]]}),
    "slice": ("Slice", [[10, 7]], {"constants": [[-3, 6], [99, -99], [0, 1], [2, -2]]}),
    "slice_early": ("Slice", [[10, 7]], {"starts": [1], "ends": [-1], "axes": [1], "opset": 9}),
    "pad": ("Pad", [[3, 4]], {"constants": [[1, 0, 2, -1]]}),
    "tile": ("Tile", [[3, 4]], {"constants": [[2, 3]]}),
    "top_k": ("TopK", [[3, 9]], {"constants": [[4]], "outputs": 2, "kind": [F, I64]}),
    "non_zero": ("NonZero", [[3, 9]], {"kind": I64}),
    "depth_to_space": ("DepthToSpace", [[1, 12, 2, 3]], {"blocksize": 2}),
    "space_to_depth": ("SpaceToDepth", [[1, 3, 4, 6]], {"blocksize": 2}),
    "grid_sample": ("GridSample", [[1, 3, 4, 6], [1, 5, 7, 2]], {}),
    "lstm": ("LSTM", [[7, 2, 3], [2, 20, 3], [2, 20, 5]], {"hidden_size": 5, "direction": "bidirectional", "outputs": 3}),
    "gru": ("GRU", [[7, 2, 3], [1, 15, 3], [1, 15, 5]], {"hidden_size": 5, "outputs": 2}),
    "reduce_sum": ("ReduceSum", [[2, 3, 4]], {"constants": [[-1]], "keepdims": 0}),
    "reduce_sum_all": ("ReduceSum", [[2, 3, 4]], {}),
    "reduce_mean_early": ("ReduceMean", [[2, 3, 4]], {"axes": [0, 2], "opset": 13}),
    "arg_max": ("ArgMax", [[2, 3, 4]], {"axis": 1, "keepdims": 0, "kind": I64}),
}

RULE = "onnx.shape"
BAD = {
    "add_apart": (RULE, "Add", [[2, 3], [2, 4]], {}),
    "matmul_apart": (RULE, "MatMul", [[2, 3], [4, 5]], {}),
    "matmul_batches": (RULE, "MatMul", [[2, 2, 3], [3, 3, 5]], {}),
    "matmul_scalar": (RULE, "MatMul", [[], [3]], {}),
    "gemm_rank": (RULE, "Gemm", [[1, 2, 3], [3, 4]], {}),
    "gemm_apart": (RULE, "Gemm", [[2, 3], [4, 5]], {}),
    "gemm_bias": (RULE, "Gemm", [[2, 3], [3, 5], [4]], {}),
    "conv_rank": (RULE, "Conv", [[1, 1, 5, 5], [1, 1, 3]], {}),
    "conv_channels": (RULE, "Conv", [[1, 4, 5], [1, 3, 3]], {}),
    "conv_bias": (RULE, "Conv", [[1, 4, 5], [2, 4, 3], [3]], {}),
    "conv_strides": (RULE, "Conv", [[1, 4, 5], [2, 4, 3]], {"strides": [1, 1]}),
    "conv_stride_zero": (RULE, "Conv", [[1, 4, 5], [2, 4, 3]], {"strides": [0]}),
    "conv_kernel": (RULE, "Conv", [[1, 4, 5], [2, 4, 3]], {"kernel_shape": [2]}),
    "normalization_channels": (RULE, "BatchNormalization", [[2, 3, 4], [3], [4], [3], [3]], {}),
    "transpose_order": (RULE, "Transpose", [[2, 3]], {"perm": [0, 0]}),
    "transpose_long": (RULE, "Transpose", [[2, 3]], {"perm": [0, 1, 2]}),
    "concat_apart": (RULE, "Concat", [[2, 3], [4, 3]], {"axis": 1}),
    "concat_axis": (RULE, "Concat", [[2, 3], [2, 3]], {"axis": 2}),
    "concat_ranks": (RULE, "Concat", [[2, 3], [2]], {"axis": 0}),
    "reshape_rest": (RULE, "Reshape", [[2, 3]], {"constants": [[4, -1]]}),
    "reshape_other": (RULE, "Reshape", [[2, 3]], {"constants": [[2, 2]]}),
    "reshape_kept": (RULE, "Reshape", [[2, 3]], {"constants": [[2, 3, 0]]}),
    "squeeze_two": (RULE, "Squeeze", [[2, 3]], {"constants": [[0]]}),
    "unsqueeze_twice": (RULE, "Unsqueeze", [[2]], {"constants": [[0, 0]]}),
    "unsqueeze_far": (RULE, "Unsqueeze", [[2]], {"constants": [[4]]}),
    "gather_axis": (RULE, "Gather", [[2], (I64, [1])], {"axis": 1}),
    "split_sum": (RULE, "Split", [[6]], {"constants": [[1, 2]], "outputs": 2}),
    "softmax_axis": (RULE, "Softmax", [[2, 3]], {"axis": 2}),
    "reduce_axis": (RULE, "ReduceMax", [[2, 3]], {"axes": [2], "opset": 13}),
    "pad_short": (RULE, "Pad", [[2, 3]], {"constants": [[1, 1]]}),
    "depth_rank": (RULE, "DepthToSpace", [[12, 2, 3]], {"blocksize": 2}),
    "lstm_rank": (RULE, "LSTM", [[7, 2], [1, 20, 3], [1, 20, 5]], {"hidden_size": 5}),
}


def row(name, ours, m):
    data = m.SerializeToString(deterministic=True)
    print("\t".join((name, ours, verdict(data, True), data.hex())))


def main():
    print("name\trule\tfull\tmodel")
    for name, (op, inputs, more) in GOOD.items():
        made = shape_inference.infer_shapes(model(op, inputs, **more), strict_mode=True)
        said = []
        for v in made.graph.output:
            dims = v.type.tensor_type.shape.dim
            said.append([d.dim_value or d.dim_param or None for d in dims])
        row(name, "-", model(op, inputs, said=said, **more))
        row(f"{name}, rank", RULE, model(op, inputs, said=[said[0] + [1], *said[1:]], **more))
        for i, d in enumerate(said[0]):
            if isinstance(d, int):
                other = [said[0][:i] + [d + 1] + said[0][i + 1 :], *said[1:]]
                row(f"{name}, {i}", RULE, model(op, inputs, said=other, **more))
    for name, (rule, op, inputs, more) in BAD.items():
        made = shape_inference.infer_shapes(model(op, inputs, **more))
        ranks = [len(v.type.tensor_type.shape.dim) or 1 for v in made.graph.output]
        said = [[f"d{i}{j}" for j in range(n)] for i, n in enumerate(ranks)]
        row(name, rule, model(op, inputs, said=said, **more))


if __name__ == "__main__":
    main()
