"""Makes large weights for the benchmarks: a file of Keras' older form, or a TensorFlow checkpoint.

    python peers/make_keras.py OUT.h5 LAYERS
    python peers/make_keras.py PREFIX LAYERS

Dense layers of 1024 × 1024 floats with biases; the values are random, of a fixed seed, so that no
file system can compress or share them.
"""

import os
import sys

import numpy

WIDTH = 1024


def layers(count):
    """The names of the layers, each with its kernel and bias."""
    random = numpy.random.default_rng(6)
    for i in range(count):
        kernel = random.standard_normal((WIDTH, WIDTH), dtype=numpy.float32)
        bias = random.standard_normal(WIDTH, dtype=numpy.float32)
        yield f"dense_{i}", kernel, bias


def hdf5(out, count):
    import h5py

    with h5py.File(out + ".part", "w") as f:
        f.attrs["backend"] = b"tensorflow"
        f.attrs["keras_version"] = b"3.15.1"
        f.attrs["layer_names"] = [f"dense_{i}".encode() for i in range(count)]
        for name, kernel, bias in layers(count):
            g = f.create_group(name)
            g.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            g[f"{name}/kernel:0"] = kernel
            g[f"{name}/bias:0"] = bias
    os.replace(out + ".part", out)


def checkpoint(prefix, count):
    import tensorflow as tf

    names, values = [], []
    for name, kernel, bias in layers(count):
        names += [f"{name}/kernel", f"{name}/bias"]
        values += [kernel, bias]
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
    )


def main():
    out, count = sys.argv[1], int(sys.argv[2])
    make = hdf5 if out.endswith(".h5") else checkpoint
    make(out, count)


if __name__ == "__main__":
    main()
