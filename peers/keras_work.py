"""What people run today on Keras and TensorFlow weights, for the benchmarks.

    python peers/keras_work.py WHAT IN [OUT]

WHAT is `list-h5`, `list-checkpoint`, or `convert-h5` and `convert-checkpoint`, which write a
synced safetensors file. Prints `work SECONDS`, the time without the imports.
"""

import os
import sys
import time


def list_h5(path, _):
    import h5py

    began = time.perf_counter()
    rows = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            rows.append((name, item.dtype, item.shape))

    with h5py.File(path, "r") as f:
        f.visititems(visit)
    return began, rows


def list_checkpoint(path, _):
    import tensorflow as tf

    began = time.perf_counter()
    reader = tf.train.load_checkpoint(path)
    types = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return began, [(n, types[n].name, tuple(shapes[n])) for n in sorted(types)]


def synced(tensors, out):
    from safetensors.numpy import save_file

    save_file(tensors, out)
    fd = os.open(out, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def convert_h5(path, out):
    import h5py

    began = time.perf_counter()
    tensors = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            tensors[name] = item[()]

    with h5py.File(path, "r") as f:
        f.visititems(visit)
    synced(tensors, out)
    return began, []


def convert_checkpoint(path, out):
    import tensorflow as tf

    began = time.perf_counter()
    reader = tf.train.load_checkpoint(path)
    names = reader.get_variable_to_dtype_map()
    synced({n: reader.get_tensor(n) for n in names}, out)
    return began, []


WORK = {
    "list-h5": list_h5,
    "list-checkpoint": list_checkpoint,
    "convert-h5": convert_h5,
    "convert-checkpoint": convert_checkpoint,
}


def main():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    what, path = sys.argv[1:3]
    out = sys.argv[3] if len(sys.argv) > 3 else None
    began, rows = WORK[what](path, out)
    print("work", time.perf_counter() - began)
    for row in rows:
        print(*row)


if __name__ == "__main__":
    main()
