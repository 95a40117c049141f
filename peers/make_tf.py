"""Small files of TensorFlow in every form that we read, and what they hold as TensorFlow reads it.

    python make_tf.py FOLDER

Writes them and `expected.tsv` (file, tensor, dtype, dimensions, sha256 of the values: texts as their
length in eight bytes and then their bytes). Needs tensorflow; the data in
`crates/weighbridge/tests/data/tensorflow` was made with 2.21; `snappy.*` there are its `dtypes.*`
with every block of the table compressed afterwards.
"""

import hashlib
import os
import pathlib
import struct
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", TF_ENABLE_ONEDNN_OPTS="0")

import ml_dtypes
import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(7)
EXPECTED = {}

NUMBERS = """float32 float64 int32 uint8 int16 int8 complex64 int64 bool bfloat16 uint16 complex128
float16 uint32 uint64 float8_e5m2 float8_e4m3fn float8_e4m3fnuz float8_e4m3b11fnuz float8_e5m2fnuz
int4 uint4 int2 uint2 float4_e2m1fn""".split()


def digest(values):
    values = np.asarray(values)
    if values.dtype == object:
        raw = b"".join(struct.pack("<Q", len(x)) + x for x in values.ravel())
    else:
        raw = np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(raw).hexdigest()


def expect(file, name, dtype, values):
    if isinstance(values, bytes):
        values = np.array(values, dtype=object)
    row = (dtype, list(np.shape(values)), digest(values))
    EXPECTED.setdefault(file, {})[name] = row


def as_read(prefix):
    reader = tf.train.load_checkpoint(prefix)
    for name, dtype in reader.get_variable_to_dtype_map().items():
        expect(prefix, name, dtype.name, reader.get_tensor(name))


def floats(*shape):
    return RNG.normal(size=shape).astype("f4")


def save(prefix, entries):
    """entries: (name, slice, values)"""
    names, slices, values = zip(*entries)
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=[tf.constant(v) if not tf.is_tensor(v) else v for v in values]
    )


def dtypes():
    entries = []
    for name in NUMBERS:
        dtype = getattr(tf.dtypes, name, None) or getattr(tf.dtypes.experimental, name)
        for tag, shape in (("m", (3, 5)), ("s", ()), ("e", (0, 4))):
            values = RNG.integers(0, 2, size=shape)
            if name not in ("bool", "int2", "uint2"):
                values = RNG.integers(-3 if "int4" == name else 0, 4, size=shape)
            values = np.asarray(values).astype(dtype.as_numpy_dtype)
            entries.append((f"{name}_{tag}", "", tf.constant(values, dtype=dtype)))
    for name in ("qint8", "quint8", "qint32", "qint16", "quint16"):
        values = tf.quantization.quantize(tf.constant([0.0, 0.5, 1.0]), -1.0, 1.0, getattr(tf, name))
        entries.append((name, "", values.output))
    texts = [[b"a", b""], [b"\xff\0x", b"y" * 300]]
    entries.append(("texts", "", tf.constant(texts)))
    entries.append(("text", "", tf.constant(b"only")))
    entries.append(("no_texts", "", tf.constant(np.zeros((0, 2), dtype=object), dtype=tf.string)))
    save("dtypes", entries)
    as_read("dtypes")


def shards():
    for i in range(3):
        save(f"part{i}", [(f"w{i}", "", floats(4, 3 + i)), (f"x{i}", "", [b"s%d" % i])])
    parts = [f"part{i}" for i in range(3)]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix="three")
    as_read("three")


def slices():
    cube = floats(6, 4, 5)
    words = np.array([[b"%d-%d" % (i, j) for j in range(4)] for i in range(6)], dtype=object)
    rows = RNG.integers(-5, 5, size=(80, 2)).astype("i8")
    entries = []
    for a, n in ((0, 2), (2, 4)):
        for b, m in ((0, 3), (3, 2)):
            part = cube[a : a + n, :, b : b + m]
            entries.append(("cube", f"6 4 5 {a},{n}:-:{b},{m}", part))
    for a, n in ((0, 1), (1, 5)):
        entries.append(("words", f"6 4 {a},{n}:-", words[a : a + n]))
    for a, n in ((0, 70), (70, 10)):
        entries.append(("rows", f"80 2 {a},{n}:-", rows[a : a + n]))
    entries.append(("whole", "3 -", np.array([1, 2, 3], "f4")))
    save("slices", entries)
    for name, values in (("cube", cube), ("words", words), ("rows", rows)):
        expect("slices", name, "string" if values.dtype == object else values.dtype.name, values)
    expect("slices", "whole", "float32", np.array([1, 2, 3], "f4"))
    return rows


def version_1(rows):
    entries = []
    for name in NUMBERS[:9] + ["uint16", "complex128", "float16"]:
        dtype = getattr(tf, name).as_numpy_dtype
        values = (RNG.normal(size=(4, 3)) * 50).astype(dtype)
        entries.append((name, "", values))
        expect("v1.ckpt", name, name, values)
    texts = np.array([b"x", b"", b"zz"], dtype=object)
    entries.append(("texts", "", texts))
    expect("v1.ckpt", "texts", "string", texts)
    entries.append(("scalar", "", np.float32(3.5)))
    expect("v1.ckpt", "scalar", "float32", np.float32(3.5))
    for a, n in ((0, 70), (70, 10)):
        entries.append(("rows", f"80 2 {a},{n}:-", rows[a : a + n]))
    expect("v1.ckpt", "rows", "int64", rows)
    grid = floats(5, 3)
    for a, n in ((0, 2), (2, 3)):
        entries.append(("grid", f"5 3 {a},{n}:-", grid[a : a + n]))
    expect("v1.ckpt", "grid", "float32", grid)
    several = (
        ("v1s.ckpt-00000-of-00002", [("a", "", floats(2)), ("rows", "80 2 0,70:-", rows[:70])]),
        ("v1s.ckpt-00001-of-00002", [("b", "", floats(2)), ("rows", "80 2 70,10:-", rows[70:])]),
    )
    for file, held in (("v1.ckpt", entries), *several):
        names, parts, values = zip(*held)
        tf.raw_ops.SaveSlices(filename=file, tensor_names=names, shapes_and_slices=parts, data=values)
        if file != "v1.ckpt":
            expect("v1s.ckpt", *names[:1], "float32", values[0])
    expect("v1s.ckpt", "rows", "int64", rows)


class Module(tf.Module):
    def __init__(self):
        super().__init__(name="m")
        self.layers = [tf.Variable(floats(2, 3), name=f"k{i}") for i in range(3)]
        self.named = {"x": tf.Variable(1.0, name="x"), "y": tf.Variable([True, False], name="y")}


def objects():
    model = tf.keras.Sequential(
        [tf.keras.layers.Input((4,)), tf.keras.layers.Dense(3, name="first"), tf.keras.layers.Dense(2, name="second")],
        name="net",
    )
    model.compile(tf.keras.optimizers.Adam(0.1), "mse")
    model.fit(floats(8, 4), floats(8, 2), verbose=0)
    checkpoint = tf.train.Checkpoint(model=model, module=Module(), optimizer=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, "managed", max_to_keep=1)
    for _ in range(2):
        path = manager.save()
    as_read(path)
    return model


def slots():
    """An optimizer of TensorFlow 1 on a variable in three parts."""
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        with v1.variable_scope("net", partitioner=v1.fixed_size_partitioner(3, axis=0)):
            weights = v1.get_variable("w", shape=(7, 2))
        x = v1.placeholder(tf.float32, (None, 7))
        y = tf.matmul(x, tf.convert_to_tensor(weights))
        train = v1.train.AdamOptimizer().minimize(tf.reduce_mean(y * y))
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run(train, {x: floats(5, 7)})
            saver = v1.train.Saver()
            saver.save(session, "slots.ckpt", write_state=False, write_meta_graph=False)
    as_read("slots.ckpt")


class Saved(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(floats(4, 2))
        lines = tf.lookup.TextFileInitializer(
            "vocab.txt", tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(lines, -1)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def apply(self, x):
        return {"out": tf.matmul(x, self.w)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="x")])
    def look(self, x):
        return self.table.lookup(x)


def saved():
    pathlib.Path("vocab.txt").write_text("a\nb\n")
    module = Saved()
    signatures = {"serving_default": module.apply, "look": module.look}
    tf.saved_model.save(module, "saved", signatures=signatures)
    os.remove("vocab.txt")
    as_read("saved/variables/variables")
    EXPECTED["saved"] = EXPECTED.pop("saved/variables/variables")


def constants():
    """Every way in which a graph stores the values of a constant."""
    values = {
        "splat": np.full((100, 3), 2.5, "f4"),
        "ends_alike": np.array([1, 2, 2, 2, 2], "i4"),
        "half": np.full(6, 1.5, "f2"),
        "halves": RNG.normal(size=6).astype("f2"),
        "bf16": RNG.normal(size=5).astype(ml_dtypes.bfloat16),
        "bools": np.array([True, False, True]),
        "all_true": np.full(5, True),
        "complex": np.array([1 + 2j, 3j, 3j], "c8"),
        "complex128": np.array([1 + 2j, 3j], "c16"),
        "u64": np.array([2**63 + 5, 7], "u8"),
        "u32": np.array([2**31 + 5, 7], "u4"),
        "i64": np.array([-3, -3, -3], "i8"),
        "f64": np.array([1.5, 2.5]),
        "many": floats(8, 8),
        "u8": np.array([255, 3], "u1"),
        "i8": np.array([-128, 3], "i1"),
        "f8": np.array([1, 2, 3]).astype(ml_dtypes.float8_e4m3fn),
        "i4": np.array([1, -2, 3]).astype(ml_dtypes.int4),
        "zeros": np.zeros((3, 3), "f4"),
        "empty": np.zeros((0, 3), "f4"),
        "texts": np.array([b"q", b"w"], dtype=object),
    }
    with tf.Graph().as_default() as graph:
        for name, v in values.items():
            tf.constant(v, name=name)
            expect("constants.pb", name, tf.as_dtype(v.dtype).name, v)
        tf.constant("x", shape=(3,), name="text_splat")
    expect("constants.pb", "text_splat", "string", np.array([b"x"] * 3, dtype=object))
    pathlib.Path("constants.pb").write_bytes(graph.as_graph_def().SerializeToString())


def stored_in(file):
    """The names of the tensors whose values the model holds; the interpreter has a buffer for what
    is computed, too."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(pathlib.Path(file).read_bytes())
    out = set()
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            buffer = model.Buffers(tensor.Buffer())
            if buffer.DataLength() or buffer.Size() > 1:
                out.add(tensor.Name().decode())
    return out


def lite():
    net = tf.keras.Sequential(
        [tf.keras.layers.Input((6, 6, 2)), tf.keras.layers.Conv2D(4, 3, name="c"), tf.keras.layers.Flatten(), tf.keras.layers.Dense(3, name="d")]
    )

    def convert(file, **options):
        converter = tf.lite.TFLiteConverter.from_keras_model(net)
        for key, value in options.items():
            if key == "types":
                converter.target_spec.supported_types = value
            elif key == "ops":
                converter.target_spec.supported_ops = value
            else:
                setattr(converter, key, value)
        pathlib.Path(file).write_bytes(converter.convert())
        resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = tf.lite.Interpreter(file, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        stored = stored_in(file)
        for t in interpreter.get_tensor_details():
            if t["name"] in stored:
                expect(file, t["name"], np.dtype(t["dtype"]).name, interpreter.get_tensor(t["index"]))

    dynamic = [tf.lite.Optimize.DEFAULT]
    convert("float.tflite")
    convert("offset.tflite", _experimental_use_buffer_offset=True)
    convert("half.tflite", optimizations=dynamic, types=[tf.float16])
    convert(
        "int8.tflite",
        optimizations=dynamic,
        representative_dataset=lambda: ([floats(1, 6, 6, 2)] for _ in range(20)),
        ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    dtypes()
    shards()
    version_1(slices())
    objects()
    slots()
    saved()
    constants()
    lite()
    with open("expected.tsv", "w") as out:
        for file in sorted(EXPECTED):
            for name, (dtype, dims, sha) in sorted(EXPECTED[file].items()):
                out.write("\t".join([file, name, dtype, ",".join(map(str, dims)), sha]) + "\n")


if __name__ == "__main__":
    main()
