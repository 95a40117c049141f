"""Has h5py and Keras read what Weighbridge writes for them: every file has to give equal values, and
every model the same answer.

    python peers/keras_check.py target/release/weighbridge

Needs keras with a backend, h5py and safetensors. Writes to a temporary folder only.
"""

import os
import subprocess
import sys
import tempfile
import warnings
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
warnings.filterwarnings("ignore")

import h5py
import keras
import numpy as np
from keras import layers
from safetensors.numpy import save_file

FAILED = []


def say(what, ok):
    print(("ok     " if ok else "FAILED ") + what)
    if not ok:
        FAILED.append(what)


class Tool:
    def __init__(self, binary):
        self.binary = os.path.abspath(binary)

    def convert(self, *args):
        done = subprocess.run(
            [self.binary, "convert", "--no-sync", *args], capture_output=True, text=True
        )
        if done.returncode:
            say(f"convert {' '.join(args)}: {done.stderr.strip()}", False)
        return done.returncode


def model():
    i = keras.Input((6, 8))
    x = layers.Conv1D(4, 2, name="c")(i)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="bi")(x)
    x = layers.MultiHeadAttention(2, 3, name="att")(x, x)
    x = keras.Sequential([keras.Input((5, 6)), layers.Dense(5, name="in1")], name="seq")(x)
    x = layers.GlobalAveragePooling1D()(x)
    m = keras.Model(i, layers.Dense(2, name="out")(x), name="peer")
    m.compile("adam", "mean_squared_error")
    m.optimizer.build(m.trainable_variables)
    return m


def fill(m, seed):
    rng = np.random.default_rng(seed)
    m.set_weights(
        [(rng.normal(size=w.shape) * 0.5 + 1).astype(w.dtype) for w in m.get_weights()]
    )


def arrays(tool):
    """Every dtype, many datasets, deep groups, a long attribute: as h5py has them."""
    rng = np.random.default_rng(0)
    kinds = "float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 complex64"
    all_ = {f"kinds/{k}": (rng.normal(size=(3, 5)) * 50).astype(k) for k in kinds.split()}
    all_["flags"] = np.array([True, False, True])
    all_["scalar"] = np.array(3.5, np.float32)
    all_["none"] = np.zeros((0, 4), np.float32)
    for i in range(20000):
        all_[f"g{i % 7}/s{i % 3}/t{i:05}"] = np.full((2,), i, np.float32)
    for i in range(300):
        all_["/".join(f"d{j}" for j in range(i + 1)) + "/v"] = np.full((1,), i, np.int64)
    save_file(all_, "arrays.safetensors", metadata={"note": "é" * 100000})
    tool.convert("arrays.safetensors", "arrays.hdf5")
    with h5py.File("arrays.hdf5") as f:
        names = []
        f.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
        same = sorted(names) == sorted(all_)
        for name, want in all_.items():
            got = f[name][()]
            same &= got.dtype == want.dtype and got.shape == want.shape
            same &= np.array_equal(got, want, equal_nan=True)
        say(f"{len(names)} datasets in h5py", bool(same))
        say("a long attribute in h5py", f.attrs["note"] == "é" * 100000)
    with h5py.File("arrays.hdf5", "r+") as f:
        for i in range(500):
            f[f"g1/s1/more{i}"] = i
        say("h5py adds to it", f["g1/s1/more77"][()] == 77 and len(f["g1/s1"]) > 500)


def check_weights(tool):
    m = model()
    fill(m, 1)
    m.save("a.keras")
    m.save("a.h5")
    m.save_weights("a.weights.h5")
    x = np.random.default_rng(3).random((3, 6, 8)).astype("float32")
    want = m.predict(x, verbose=0)
    fill(m, 2)
    m.save("base.keras")
    m.save("base.h5")
    m.save_weights("base.weights.h5")

    def answers(loaded):
        return np.allclose(loaded.predict(x, verbose=0), want, atol=1e-6)

    def whole(path):
        return answers(keras.models.load_model(path, compile=False))

    def weights(path, **how):
        fresh = model()
        fresh.load_weights(path, **how)
        return answers(fresh)

    tool.convert("a.keras", "stored.safetensors")
    label = ["--names", "label", "--drop", "^optimizer"]
    tool.convert("a.keras", "label.safetensors", *label)
    tool.convert("a.h5", "old.safetensors")
    for source in ["stored", "label"]:
        out = f"{source}.keras"
        tool.convert(f"{source}.safetensors", out, "--graph", "base.keras")
        say(f"{source} names into a .keras", whole(out))
        with zipfile.ZipFile("base.keras") as a, zipfile.ZipFile(out) as b:
            others = [n for n in a.namelist() if n != "model.weights.h5"]
            same = a.namelist() == b.namelist() and b.testzip() is None
            say(f"{out}: its other members", same and all(a.read(n) == b.read(n) for n in others))
    tool.convert("stored.safetensors", "tree.weights.h5")
    say("stored names as .weights.h5", weights("tree.weights.h5"))
    tool.convert("label.safetensors", "into.weights.h5", "--graph", "base.weights.h5", "--partial")
    say("labels into a .weights.h5", weights("into.weights.h5"))
    tool.convert("old.safetensors", "old.h5")
    say("the older file and back: the model", whole("old.h5"))
    say("the older file and back: weights", weights("old.h5"))
    tool.convert("label.safetensors", "byname.h5")
    say("labels as the older file, by name", weights("byname.h5", by_name=True))
    tool.convert("a.keras", "order.h5")
    say(".keras as the older file, by order", weights("order.h5"))
    tool.convert("label.safetensors", "into.h5", "--graph", "base.h5")
    say("labels into the older file", whole("into.h5"))
    with zipfile.ZipFile("base.keras") as old:
        with zipfile.ZipFile("packed.keras", "w", zipfile.ZIP_DEFLATED) as new:
            for name in reversed(old.namelist()):
                new.writestr(name, old.read(name))
    tool.convert("label.safetensors", "unpacked.keras", "--graph", "packed.keras")
    say("labels into a deflated .keras", whole("unpacked.keras"))
    with h5py.File("base.weights.h5") as old, h5py.File("chunked.weights.h5", "w") as new:

        def copy(name, o):
            if isinstance(o, h5py.Dataset):
                packed = {"compression": "gzip", "chunks": True} if o.shape else {}
                new.create_dataset(name, data=o[()], **packed)
            else:
                new.require_group(name)
            for key, value in o.attrs.items():
                new[name].attrs[key] = value

        old.visititems(copy)
    tool.convert("stored.safetensors", "flat.weights.h5", "--graph", "chunked.weights.h5")
    say("into a compressed .weights.h5", weights("flat.weights.h5"))
    i = keras.Input((4,))
    half = keras.Model(i, layers.Dense(3, dtype="bfloat16")(i))
    half.save("half.keras")
    tool.convert("half.keras", "half.safetensors")
    tool.convert("half.safetensors", "half.weights.h5")
    before = [np.asarray(w, "float32") for w in half.get_weights()]
    half.set_weights([w * 0 + 3 for w in half.get_weights()])
    half.load_weights("half.weights.h5")
    after = [np.asarray(w, "float32") for w in half.get_weights()]
    say("bfloat16", all(map(np.array_equal, before, after)))


def main():
    tool = Tool(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        arrays(tool)
        check_weights(tool)
        os.chdir("/")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
