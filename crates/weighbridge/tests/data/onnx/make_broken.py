"""Small ONNX models that break one rule each, with the verdicts of onnx.checker.

    python make_broken.py > broken.tsv

Needs the `onnx` package (1.23). Columns: name, the rule that `check` names first (`-` where none is
broken), what onnx.checker.check_model says (`ok` or `bad`), what it says with full_check, the model
in hexadecimal. Nothing is taken from elsewhere: every model is put together here.
"""

import contextlib
import io

from onnx import AttributeProto, TensorProto, checker, helper, numpy_helper

F, I64 = TensorProto.FLOAT, TensorProto.INT64
CASES = []


def value(name, kind=F, shape=(2,)):
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name="w", kind=F, dims=(2,), values=(1, 2)):
    return helper.make_tensor(name, kind, dims, values)


def base():
    """x → LeakyRelu → a, then Add and an If on it, whose results are joined to y."""
    then = helper.make_graph([helper.make_node("Neg", ["a"], ["t"])], "then", [], [value("t")])
    other = helper.make_graph([helper.make_node("Abs", ["a"], ["e"])], "else", [], [value("e")])
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["a"], name="first", alpha=0.5),
        helper.make_node("Add", ["a", "w"], ["b"], name="second"),
        helper.make_node("If", ["c"], ["d"], name="third", then_branch=then, else_branch=other),
        helper.make_node("Concat", ["b", "d"], ["y"], name="fourth", axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x"), value("c", TensorProto.BOOL, ())],
        [value("y", F, (4,))],
        [tensor()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def with_function():
    m = base()
    f = helper.make_function(
        "loc",
        "Twice",
        ["p"],
        ["q"],
        [helper.make_node("Add", ["p", "p"], ["q"])],
        [helper.make_opsetid("", 17)],
    )
    m.functions.append(f)
    m.opset_import.append(helper.make_opsetid("loc", 1))
    m.graph.node[0].op_type = "Twice"
    m.graph.node[0].domain = "loc"
    del m.graph.node[0].attribute[:]
    return m


def case(rule, of=base):
    def add(f):
        m = of()
        f(m)
        CASES.append((f.__name__, rule, m))
        return f

    return add


def branch(m):
    return m.graph.node[2].attribute[0].g


case("-")(lambda m: None).__name__ = "lambda"
CASES[-1] = ("plain", *CASES[-1][1:])
case("-", with_function)(lambda m: None)
CASES[-1] = ("function", *CASES[-1][1:])


@case("onnx.ir-version")
def ir_missing(m):
    m.ClearField("ir_version")


@case("onnx.ir-version")
def ir_of_the_future(m):
    m.ir_version = 99


@case("onnx.opset-import")
def opsets_missing(m):
    del m.opset_import[:]


@case("onnx.opset-import")
def opsets_too_early(m):
    m.ir_version = 2


@case("onnx.opset-duplicate")
def opset_twice(m):
    m.opset_import.append(helper.make_opsetid("", 16))


@case("onnx.opset-version")
def opset_of_the_future(m):
    m.opset_import[0].version = 999


@case("onnx.opset-version")
def opset_none(m):
    m.opset_import[0].version = 0


@case("onnx.opset-missing")
def domain_not_imported(m):
    m.graph.node[0].domain = "com.example"


@case("-")
def domain_of_ones_own(m):
    m.graph.node[0].domain = "com.example"
    m.opset_import.append(helper.make_opsetid("com.example", 1))


@case("onnx.graph-name")
def graph_without_name(m):
    m.graph.name = ""


@case("onnx.graph-name")
def branch_without_name(m):
    branch(m).name = ""


@case("onnx.no-graph")
def no_graph(m):
    m.ClearField("graph")


@case("onnx.value-name")
def output_without_name(m):
    branch(m).output[0].name = ""


@case("onnx.value-type")
def input_without_type(m):
    m.graph.input[0].ClearField("type")


@case("onnx.value-type")
def input_without_shape(m):
    m.graph.input[0].type.tensor_type.ClearField("shape")


@case("-")
def branch_output_without_type(m):
    branch(m).output[0].ClearField("type")


@case("onnx.duplicate-input")
def input_twice(m):
    m.graph.input.append(value("x"))


@case("onnx.duplicate-value")
def value_made_twice(m):
    m.graph.node[1].output[0] = "a"
    m.graph.node[3].input[0] = "a"


@case("onnx.duplicate-value")
def value_hidden_in_branch(m):
    branch(m).node[0].output[0] = "x"
    branch(m).output[0].name = "x"


@case("onnx.shadowed-value")
def initializer_hidden_in_branch(m):
    branch(m).initializer.append(tensor("w"))


@case("onnx.undefined-value")
def value_from_nowhere(m):
    m.graph.node[1].input[1] = "nowhere"


@case("onnx.undefined-value")
def value_of_the_other_branch(m):
    m.graph.node[3].input[1] = "t"


@case("onnx.order")
def nodes_out_of_order(m):
    m.graph.node[0].input[0] = "b"


@case("onnx.output-undefined")
def output_from_nowhere(m):
    m.graph.output[0].name = "nowhere"


@case("onnx.output-undefined")
def branch_gives_outer_value(m):
    branch(m).output[0].name = "a"


@case("onnx.initializer-name")
def initializer_without_name(m):
    m.graph.initializer.append(tensor(""))


@case("onnx.duplicate-initializer")
def initializer_twice(m):
    m.graph.initializer.append(tensor())


@case("onnx.initializer-input")
def initializer_is_no_input(m):
    m.ir_version = 3


@case("onnx.shape")
def default_of_other_shape(m):
    m.graph.input.append(value("w", F, (3,)))


@case("onnx.type")
def default_of_other_type(m):
    m.graph.input.append(value("w", I64))


@case("onnx.duplicate-node-name")
def node_name_twice(m):
    m.graph.node[1].name = "first"


@case("onnx.node-empty")
def node_without_values(m):
    m.graph.node.append(helper.make_node("Foo", [], [], domain="com.example"))
    m.opset_import.append(helper.make_opsetid("com.example", 1))


@case("onnx.operator")
def operator_unknown(m):
    m.graph.node[1].op_type = "Plus"


@case("onnx.operator")
def operator_too_new(m):
    m.graph.node[0].op_type = "Gelu"
    del m.graph.node[0].attribute[:]


@case("onnx.operator")
def operator_unnamed(m):
    m.graph.node[1].op_type = ""


@case("onnx.operator")
def domain_by_its_other_name(m):
    m.graph.node[1].domain = "ai.onnx"
    m.opset_import[0].domain = "ai.onnx"


@case("onnx.operator-deprecated")
def operator_deprecated(m):
    m.graph.node[1].op_type = "Scatter"


@case("onnx.input-count")
def one_input_too_few(m):
    del m.graph.node[1].input[1]


@case("onnx.input-count")
def one_input_too_many(m):
    m.graph.node[1].input.append("x")


@case("onnx.output-count")
def one_output_too_many(m):
    m.graph.node[1].output.append("more")


@case("onnx.input-missing")
def input_left_out(m):
    m.graph.node[1].input[0] = ""


@case("onnx.output-missing")
def output_left_out(m):
    m.graph.node.append(helper.make_node("Relu", ["x"], [""]))


@case("onnx.attribute-unknown")
def attribute_unknown(m):
    m.graph.node[1].attribute.append(helper.make_attribute("beta", 1.0))


@case("-")
def attribute_internal(m):
    m.graph.node[1].attribute.append(helper.make_attribute("__beta", 1.0))


@case("onnx.attribute-missing")
def attribute_missing(m):
    del m.graph.node[3].attribute[:]


@case("onnx.duplicate-attribute")
def attribute_twice(m):
    m.graph.node[3].attribute.append(helper.make_attribute("axis", 0))


@case("onnx.attribute-kind")
def attribute_of_other_kind(m):
    m.graph.node[3].attribute[0].CopyFrom(helper.make_attribute("axis", 0.0))


@case("onnx.attribute-kind")
def attribute_without_kind(m):
    m.graph.node[3].attribute[0].ClearField("type")


@case("onnx.attribute-value")
def attribute_with_two_values(m):
    m.graph.node[3].attribute[0].f = 1.0


@case("onnx.attribute-value")
def attribute_with_anothers_value(m):
    a = m.graph.node[3].attribute[0]
    a.ClearField("i")
    a.f = 1.0


@case("onnx.attribute-value")
def attribute_without_graph(m):
    m.graph.node[2].attribute[0].ClearField("g")


@case("onnx.attribute-name")
def attribute_without_name(m):
    m.graph.node[3].attribute.append(AttributeProto(type=AttributeProto.INT, i=1))


@case("onnx.attribute-reference")
def reference_outside_a_function(m):
    a = m.graph.node[0].attribute[0]
    a.ClearField("f")
    a.ref_attr_name = "alpha"


@case("onnx.data-type")
def tensor_without_type(m):
    m.graph.initializer[0].ClearField("data_type")


@case("onnx.data-type")
def tensor_of_unknown_type(m):
    m.graph.initializer[0].data_type = 77


@case("onnx.dimensions")
def tensor_with_negative_dimension(m):
    m.graph.initializer[0].dims[0] = -2


@case("onnx.dimensions")
def tensor_too_large(m):
    m.graph.initializer[0].dims.extend([2**40, 2**40])


@case("onnx.tensor-size")
def tensor_too_short(m):
    m.graph.initializer[0].dims[0] = 3


@case("onnx.tensor-size")
def tensor_too_long(m):
    m.graph.initializer[0].dims[0] = 1


@case("onnx.tensor-size")
def raw_too_short(m):
    t = m.graph.initializer[0]
    t.ClearField("float_data")
    t.raw_data = bytes(7)


@case("onnx.tensor-size")
def raw_too_long(m):
    t = m.graph.initializer[0]
    t.ClearField("float_data")
    t.raw_data = bytes(9)


@case("onnx.tensor-size")
def data_without_elements(m):
    m.graph.initializer[0].dims[0] = 0


@case("onnx.tensor-data")
def tensor_without_data(m):
    m.graph.initializer[0].ClearField("float_data")


@case("onnx.tensor-data")
def tensor_in_two_fields(m):
    m.graph.initializer[0].raw_data = bytes(8)


@case("onnx.tensor-field")
def tensor_in_anothers_field(m):
    t = m.graph.initializer[0]
    t.ClearField("float_data")
    t.double_data.extend([1, 2])


@case("onnx.tensor-field")
def texts_as_raw_bytes(m):
    t = m.graph.initializer.add(name="s", data_type=TensorProto.STRING, raw_data=b"ab")
    t.dims.append(2)


@case("onnx.typed-value")
def integer_that_does_not_fit(m):
    t = m.graph.initializer.add(name="s", data_type=TensorProto.INT8, int32_data=[1, 200])
    t.dims.append(2)


@case("-")
def packed_nibbles(m):
    t = m.graph.initializer.add(name="s", data_type=TensorProto.INT4, int32_data=[1, 200])
    t.dims.append(3)


@case("onnx.tensor-size")
def packed_nibbles_too_few(m):
    t = m.graph.initializer.add(name="s", data_type=TensorProto.INT4, int32_data=[1, 200])
    t.dims.append(17)


@case("onnx.typed-value")
def six_bits_with_padding(m):
    t = m.graph.initializer.add(name="s", data_type=TensorProto.FLOAT6E2M3, raw_data=b"\xff")
    t.dims.append(1)


@case("-")
def six_bits_twice(m):
    """The same values in a field of their own and as the stream of bits that numpy_helper reads."""
    values = [1, 2, 63, 4, 5]
    t = m.graph.initializer.add(name="s", data_type=TensorProto.FLOAT6E3M2, int32_data=values)
    stream = sum(v << 6 * i for i, v in enumerate(values)).to_bytes(4, "little")
    r = m.graph.initializer.add(name="r", data_type=TensorProto.FLOAT6E3M2, raw_data=stream)
    t.dims.append(5)
    r.dims.append(5)
    assert (numpy_helper.to_array(t) == numpy_helper.to_array(r)).all()


@case("onnx.external-location")
def external_without_location(m):
    t = m.graph.initializer[0]
    t.ClearField("float_data")
    t.data_location = TensorProto.EXTERNAL


@case("onnx.tensor-data")
def external_with_data(m):
    t = m.graph.initializer[0]
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value="w.bin")


def sparse(m, indices, dims=(4,), count=2, shape=None):
    s = m.graph.sparse_initializer.add()
    s.values.CopyFrom(tensor("sp", F, (count,), [1] * count))
    s.indices.CopyFrom(helper.make_tensor("", I64, shape or (len(indices),), indices))
    s.dims.extend(dims)


@case("-")
def sparse_sound(m):
    sparse(m, [0, 3])


@case("-")
def sparse_by_coordinates(m):
    sparse(m, [0, 1, 1, 0], (2, 2), 2, (2, 2))


@case("onnx.sparse-index")
def sparse_out_of_order(m):
    sparse(m, [3, 0])


@case("onnx.sparse-index")
def sparse_twice(m):
    sparse(m, [1, 0, 1, 0], (2, 2), 2, (2, 2))


@case("onnx.sparse-index")
def sparse_out_of_range(m):
    sparse(m, [0, 4])


@case("onnx.sparse")
def sparse_with_too_few_indices(m):
    sparse(m, [0])


@case("onnx.sparse")
def sparse_without_dimensions(m):
    sparse(m, [0, 1], ())


@case("onnx.metadata-duplicate")
def metadata_twice(m):
    for v in "ab":
        m.metadata_props.add(key="k", value=v)


@case("onnx.type")
def bool_added_to_float(m):
    m.graph.node[1].input[1] = "c"


@case("onnx.type")
def operator_does_not_take_the_type(m):
    m.graph.node[0].op_type = "Not"
    del m.graph.node[0].attribute[:]


@case("onnx.type")
def output_of_other_type(m):
    m.graph.output.append(value("b", I64))


@case("onnx.function-name", with_function)
def function_without_name(m):
    m.functions[0].name = ""


@case("onnx.function-domain", with_function)
def function_without_domain(m):
    m.functions[0].ClearField("domain")


@case("onnx.duplicate-function", with_function)
def function_twice(m):
    m.functions.add().CopyFrom(m.functions[0])


@case("-", with_function)
def function_overloaded(m):
    m.functions.add().CopyFrom(m.functions[0])
    m.functions[1].overload = "other"


@case("onnx.duplicate-input", with_function)
def parameter_twice(m):
    m.functions[0].input.append("p")
    m.graph.node[0].input.append("x")


@case("onnx.duplicate-output", with_function)
def result_twice(m):
    m.functions[0].output.append("q")


@case("onnx.output-undefined", with_function)
def result_from_nowhere(m):
    m.functions[0].output[0] = "nowhere"


@case("onnx.undefined-value", with_function)
def function_reads_the_graph(m):
    m.functions[0].node[0].input[1] = "w"


@case("onnx.function-recursion", with_function)
def function_calls_itself(m):
    n = m.functions[0].node[0]
    n.op_type, n.domain = "Twice", "loc"
    del n.input[1]
    m.functions[0].opset_import.append(helper.make_opsetid("loc", 1))


@case("onnx.opset-missing", with_function)
def function_without_opset(m):
    del m.functions[0].opset_import[:]


@case("onnx.opset-function", with_function)
def function_of_another_opset(m):
    m.functions[0].opset_import[0].version = 6


@case("onnx.input-count", with_function)
def function_with_too_many_inputs(m):
    m.graph.node[0].input.append("w")


@case("onnx.attribute-reference", with_function)
def reference_to_nothing(m):
    n = m.functions[0].node[0]
    n.op_type = "LeakyRelu"
    del n.input[1]
    a = n.attribute.add(name="alpha", type=AttributeProto.FLOAT)
    a.ref_attr_name = "slope"


@case("-", with_function)
def reference_to_the_caller(m):
    reference_to_nothing(m)
    m.functions[0].attribute.append("slope")


@case("onnx.training-binding")
def training_sets_no_initializer(m):
    t = m.training_info.add()
    t.algorithm.name = "step"
    t.algorithm.node.append(helper.make_node("Neg", ["w"], ["v"]))
    t.algorithm.output.append(value("v"))
    t.update_binding.add(key="a", value="v")


def rich():
    """Symbolic dimensions, names with steps, constants in nodes and in a loop's body."""
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["half"], name="/loop/Half", value_float=0.5),
            helper.make_node("Mul", ["state", "half"], ["next"]),
            helper.make_node("Identity", ["again"], ["on"]),
        ],
        "body",
        [value("i", I64, ()), value("again", TensorProto.BOOL, ()), value("state", F, None)],
        [value("on", TensorProto.BOOL, ()), value("next", F, None)],
    )
    big = tensor("", F, (2, 3), (1, 2, 3, 4, 5, 6))
    nodes = [
        helper.make_node("Constant", [], ["big"], name="/decoder/head/Constant", value=big),
        helper.make_node("Constant", [], ["axes"], value_ints=[0, 1]),
        helper.make_node("MatMul", ["x", "encoder.layer.0.weight"], ["a"], name="/encoder/MatMul"),
        helper.make_node("MatMul", ["a", "onnx::MatMul_7"], ["b"], name="/encoder/out/MatMul"),
        helper.make_node("Scale2", ["b", "big", "axes"], ["c"], domain="com.example"),
        helper.make_node("Loop", ["", "", "c"], ["y"], name="repeat", body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "rich",
        [value("x", F, ("batch", None, 2))],
        [value("y", F, ("batch", None, 3))],
        [
            tensor("encoder.layer.0.weight", F, (2, 2), (1, 2, 3, 4)),
            tensor("onnx::MatMul_7", F, (2, 3), (1, 2, 3, 4, 5, 6)),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


case("-", rich)(lambda m: None)
CASES[-1] = ("rich", *CASES[-1][1:])


def verdict(data, full):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            checker.check_model(data, full_check=full)
    except Exception:
        return "bad"
    return "ok"


def main():
    print("name\trule\tchecker\tfull\tmodel")
    for name, rule, model in CASES:
        data = model.SerializeToString(deterministic=True)
        cells = (name, rule, verdict(data, False), verdict(data, True), data.hex())
        print("\t".join(cells))


if __name__ == "__main__":
    main()
