"""Makes the files of Keras in crates/weighbridge/tests/data/keras, each with what Keras itself calls
its weights. Needs keras and h5py (made with keras 3.15.1 on tensorflow-cpu 2.21).

    python peers/make_keras_data.py crates/weighbridge/tests/data/keras
"""

import json
import os
import shutil
import sys
import tempfile
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
from keras import layers
from keras.src.backend.common.variables import Variable
from keras.src.saving import saving_lib


class Recorder(saving_lib.H5IOStore):
    """Notes which variable is stored under which path."""

    def __init__(self, path):
        super().__init__(path, mode="w")
        self.paths = {}

    def __setitem__(self, key, value):
        if isinstance(value, Variable):
            at = self._h5_entry_path
            self.paths[f"{at}/vars/{key}" if at else f"vars/{key}"] = value.path
        super().__setitem__(key, value)


def paths(model, folder):
    store = Recorder(os.path.join(folder, "recorded.h5"))
    saving_lib._save_state(model, store, None, "", set())
    store.close()
    return store.paths


def fill(model, seed):
    """Other values in every variable, so that no two are equal."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        if "float" in v.dtype and "seed" not in v.path:
            v.assign(rng.normal(size=v.shape))


def deflate(path):
    """Packs an archive again, deflated: Keras reads it as well, and the file is small."""
    with zipfile.ZipFile(path) as old:
        members = [(n, old.read(n)) for n in old.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members:
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)


def functional():
    i = keras.Input((6, 4), name="in")
    x = layers.Conv1D(3, 2, name="conv")(i)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="inner"), name="bi")(x)
    x = layers.RNN([layers.GRUCell(2), layers.SimpleRNNCell(2)], return_sequences=True)(x)
    x = layers.MultiHeadAttention(1, 2, name="att")(x, x)
    x = layers.TimeDistributed(layers.Dense(3, name="each"), name="td")(x)
    x = keras.Sequential([keras.Input((5, 3)), layers.Dense(2), layers.PReLU()], name="seq")(x)
    j = keras.Input((5, 2))
    nested = keras.Model(j, layers.LayerNormalization(name="ln")(layers.Dense(2)(j)), name="nested")
    x = layers.GlobalAveragePooling1D()(nested(x) * 2.0)
    model = keras.Model(i, layers.Dense(2, use_bias=False, name="out")(x), name="all")
    model.compile(keras.optimizers.SGD(momentum=0.9), "mean_squared_error")
    model.optimizer.build(model.trainable_variables)
    return model


def sequential():
    m = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="a"), layers.BatchNormalization(center=False)],
        name="stack",
    )
    m.compile("adam", "mean_squared_error")
    m.optimizer.build(m.trainable_variables)
    return m


class Own(layers.Layer):
    """A layer that nobody else has."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(2)

    def call(self, x):
        return self.inner(x)


def unknown():
    """Weights whose names the configuration does not tell."""
    i = keras.Input((3,))
    return keras.Model(i, layers.Dense(2, name="last")(Own(name="own")(i)))


def main(out):
    os.makedirs(out, exist_ok=True)
    names = {}
    with tempfile.TemporaryDirectory() as tmp:
        for name, make in [("functional", functional), ("sequential", sequential), ("unknown", unknown)]:
            keras.utils.clear_session()
            model = make()
            fill(model, 1)
            path = os.path.join(out, f"{name}.keras")
            model.save(path)
            names[f"{name}.keras"] = paths(model, tmp)
            if name == "functional":
                deflate(path)
            if name == "sequential":
                model.save(os.path.join(out, "sequential.h5"))
                model.save_weights(os.path.join(out, "sequential.weights.h5"))
                model.save_weights(os.path.join(out, "parts.weights.json"), max_shard_size=8e-8)
        keras.utils.clear_session()
        i = keras.Input((3,))
        half = keras.Model(i, layers.Dense(2, dtype="bfloat16", name="half")(i))
        fill(half, 2)
        half.save_weights(os.path.join(out, "bf16.weights.h5"))
    with open(os.path.join(out, "variables.json"), "w") as f:
        json.dump(names, f, indent=1, sort_keys=True)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
