"""Makes the small files of crates/weighbridge/tests/data/arrays and what their writers say of them.

    python peers/make_arrays.py crates/weighbridge/tests/data/arrays

Needs numpy, ml_dtypes, joblib, flax and scikit-learn. `expected.json` has, for every file, each
tensor with its dtype, its shape and the sha256 of its values: row-major little-endian bytes, or for
texts each as its length in eight bytes and its UTF-8.
"""

import hashlib
import json
import os
import pickle
import struct
import sys

import joblib
import ml_dtypes
import numpy as np
from flax import serialization

OUT = sys.argv[1]
os.makedirs(OUT, exist_ok=True)
rng = np.random.default_rng(7)
expected = {}
NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "int16": "I16",
    "int32": "I32", "int64": "I64", "uint8": "U8", "uint16": "U16", "uint32": "U32",
    "uint64": "U64", "bool": "BOOL", "complex64": "C64", "complex128": "C128", "bfloat16": "BF16",
}


def texts(a):
    out = b""
    for x in np.ravel(a, order="C"):
        t = x.encode("utf-8", "surrogatepass") if isinstance(x, str) else bytes(x)
        out += struct.pack("<Q", len(t)) + t
    return hashlib.sha256(out).hexdigest()


def described(a):
    a = np.asarray(a)
    shape = list(a.shape)
    if a.dtype.names or a.dtype.char in "gG":
        return ["COMPOUND", shape, None]
    if a.dtype.kind in "UO":
        return ["STR", shape, texts(a)]
    if a.dtype.kind == "S":
        return [f"BYTES{a.dtype.itemsize}", shape, texts(a)]
    if a.dtype.kind in "mM":
        a = a.view("i8")
    little = a.dtype.newbyteorder("<") if a.dtype.byteorder == ">" else a.dtype
    data = np.ascontiguousarray(a).astype(little).tobytes()
    return [NAMES[little.name], shape, hashlib.sha256(data).hexdigest()]


def put(name, save, tensors):
    save(os.path.join(OUT, name))
    expected[name] = {k: described(v) for k, v in tensors.items()}


def w(*shape):
    return rng.normal(size=shape).astype("f4")


def arrays():
    out = {}
    kinds = ["f8", "f4", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16"]
    for d in kinds + [">f8", ">f4", ">i2", ">c8", ">u8"]:
        a = rng.normal(size=(2, 3, 2)) * 50
        if np.dtype(d).kind == "c":
            a = a + 1j * rng.normal(size=(2, 3, 2))
        elif np.dtype(d).kind == "u":
            a = np.abs(a)
        out["a_" + d.replace(">", "big_")] = a.astype(d)
    out["bool"] = np.array([True, False, True])
    out["bytes"] = np.array([b"ab", b"c\0d", b"", b"abcd"])
    out["texts"] = np.array([["ab", "\u00fc\u20ac\U0001f600"], ["", "x\0y"]])
    out["texts_big"] = out["texts"].astype(">U3")
    out["empty"] = np.zeros((0, 3), "f4")
    out["scalar"] = np.float32(3.5)
    out["dates"] = np.array(["2020-01-01", "1999-12-31"], dtype="M8[D]")
    turned = {k + "_f": np.asfortranarray(v) for k, v in out.items() if np.ndim(v) > 1}
    return {**out, **turned}


def numpy_files():
    all_ = arrays()
    put("stored.npz", lambda p: np.savez(p, **all_), all_)
    put("deflated.npz", lambda p: np.savez_compressed(p, **all_), all_)
    for name in ["a_f8", "a_big_c8_f", "texts_f", "bytes", "scalar", "empty"]:
        put(f"{name}.npy", lambda p: np.save(p, all_[name]), {"tensor": all_[name]})
    bf = w(3, 2).astype(ml_dtypes.bfloat16)
    named = {"params/dense/kernel": bf, "arr_0": np.asfortranarray(bf)}
    put("bfloat16.npz", lambda p: np.savez(p, **named), named)
    for v in [(2, 0), (3, 0)]:
        def save(p):
            with open(p, "wb") as f:
                np.lib.format.write_array(f, all_["a_f4"], version=v)
        put(f"version{v[0]}.npy", save, {"tensor": all_["a_f4"]})
    records = np.zeros(3, dtype=[("a", "<f4"), ("b", ">i2", (2,)), ("c", "S3")])
    put("records.npy", lambda p: np.save(p, records), {"tensor": records})
    long = np.arange(3, dtype="g")
    put("long.npy", lambda p: np.save(p, long), {"tensor": long})
    net = {"conv": [w(3, 3), w(3)], "fc": {"w": np.asfortranarray(w(4, 2))}, "n": 3}
    put("dict.npy", lambda p: np.save(p, net, allow_pickle=True),
        {"conv.0": net["conv"][0], "conv.1": net["conv"][1], "fc.w": net["fc"]["w"]})
    words = np.array(["a", "bcd", "\u00e9"], dtype=object)
    config = np.array({"lr": 0.1, "m": np.ones(3)}, dtype=object)
    mixed = np.array([1, None, "x"], dtype=object)
    put("objects.npz",
        lambda p: np.savez(p, words=words, config=config, mixed=mixed, x=np.arange(4)),
        {"words": words, "config.m": np.ones(3), "x": np.arange(4)})


def joblib_files():
    records = np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8")])
    obj = {
        "a": w(40, 30), "b": [np.asfortranarray(w(5, 7)), np.arange(5, dtype=">i4")],
        "s": np.array(["x", "yy"], dtype=object), "records": records, "k": {"n": 1},
        "u": np.array(["one", "three"]), "o": np.array({"q": np.ones(2)}, dtype=object),
    }
    want = {"a": obj["a"], "b.0": obj["b"][0], "b.1": obj["b"][1], "s": obj["s"],
            "records": records, "u": obj["u"], "o.q": np.ones(2)}
    put("plain.joblib", lambda p: joblib.dump(obj, p), want)
    put("protocol2.joblib", lambda p: joblib.dump(obj, p, protocol=2), want)
    for how in ["zlib", "gzip", "bz2", "xz", "lzma"]:
        put(f"{how}.joblib", lambda p: joblib.dump(obj, p, compress=(how, 3)), want)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    x = rng.normal(size=(60, 4))
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, (x[:, 0] > 0).astype(int))
    scale, model = pipe.steps[0][1], pipe.steps[1][1]
    want = {f"steps.0.1.{n}": getattr(scale, n) for n in ["mean_", "var_", "scale_"]}
    want |= {f"steps.1.1.{n}": getattr(model, n)
             for n in ["coef_", "intercept_", "classes_", "n_iter_"]}
    put("pipeline.joblib", lambda p: joblib.dump(pipe, p), want)
    put("pipeline.pkl", lambda p: pickle.dump(pipe, open(p, "wb")), want)


def flax_files():
    tree = {
        "params": {
            "Dense_0": {"kernel": w(3, 4), "bias": w(4)},
            "Embed_0": {"embedding": w(5, 2).astype(ml_dtypes.bfloat16)},
            "i": np.arange(4), "b": np.array([True, False]), "h": w(2).astype("f2"),
            "c": w(2).astype("c8"),
        },
        "step": 3, "name": "x", "z": 1 + 2j, "none": None, "scalar": np.float32(2.5),
        "list": [w(2), w(3)], "zero": np.array(2.0), "texts": np.array(["ab", "c"]),
    }
    want = {f"params.{k}": v for k, v in tree["params"].items() if not isinstance(v, dict)}
    want |= {"params.Dense_0.kernel": tree["params"]["Dense_0"]["kernel"],
             "params.Dense_0.bias": tree["params"]["Dense_0"]["bias"],
             "params.Embed_0.embedding": tree["params"]["Embed_0"]["embedding"],
             "scalar": tree["scalar"], "list.0": tree["list"][0], "list.1": tree["list"][1],
             "zero": tree["zero"], "texts": tree["texts"]}

    def save(tree):
        return lambda p: open(p, "wb").write(serialization.msgpack_serialize(tree))
    put("flax_model.msgpack", save(tree), want)
    put("checkpoint_12", save(tree), want)
    serialization.MAX_CHUNK_SIZE = 1000
    parts = {"a": {"big": w(10, 20, 3)}, "small": w(3)}
    put("chunked.msgpack", save(parts), {"a.big": parts["a"]["big"], "small": parts["small"]})
    serialization.MAX_CHUNK_SIZE = 2**30
    os.makedirs(os.path.join(OUT, "sharded"), exist_ok=True)
    first = {"enc": {"l0": {"kernel": w(3, 3)}}, "tail": w(2)}
    second = {"enc": {"l1": {"kernel": w(4, 3)}}}
    names = [f"flax_model-0000{i}-of-00002.msgpack" for i in (1, 2)]
    for name, tree in zip(names, [first, second]):
        save(tree)(os.path.join(OUT, "sharded", name))
    index = {"metadata": {"total_size": 92}, "weight_map": {
        "enc/l0/kernel": names[0], "tail": names[0], "enc/l1/kernel": names[1]}}
    want = {"enc.l0.kernel": first["enc"]["l0"]["kernel"], "tail": first["tail"],
            "enc.l1.kernel": second["enc"]["l1"]["kernel"]}

    def save_index(p):
        with open(p, "w") as f:
            json.dump(index, f, indent=1)
    put("sharded/flax_model.msgpack.index.json", save_index, want)
    expected["sharded"] = expected["sharded/flax_model.msgpack.index.json"]


numpy_files()
joblib_files()
flax_files()
with open(os.path.join(OUT, "expected.json"), "w") as f:
    json.dump(expected, f, indent=1, sort_keys=True)
    f.write("\n")
