"""Keras', TensorFlow's, NumPy's and Flax's files with the real libraries, in both directions.

    python peers/keras_models.py --tool BINARY --scratch FOLDER --corpus FOLDER [--report FILE]
                                 [--seed N] [--only WORD …]

Reading: files that the libraries make here, with other values for every seed, and those of the
corpus; every tensor's shape and digest against what the libraries read. Writing: what we convert
to, opened by the libraries, value by value.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", TF_ENABLE_ONEDNN_OPTS="0")

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = {}


def note(case, what, ok, why=""):
    right, wrong = RESULTS.setdefault(case, ([], []))
    (right if ok else wrong).append(f"{what}: {why}" if why else what)
    if not ok:
        print(f"FAILED {case}: {what} {why}", flush=True)


class Tool:
    def __init__(self, binary):
        self.binary = str(pathlib.Path(binary).resolve())

    def run(self, *words):
        done = subprocess.run([self.binary, *map(str, words)], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def tensors(self, path):
        code, out, err = self.run("inspect", "--json", "--tensors", "--hash", path)
        if code:
            raise RuntimeError(err or out)
        return {t["name"]: t for t in json.loads(out)["tensors"]}


def held_against(tool, case, path, expected):
    """`expected`: name → (shape, digest); no digest where the library has no plain values."""
    try:
        there = tool.tensors(path)
    except RuntimeError as e:
        note(case, path.name, False, str(e).strip())
        return
    for name, (shape, digest) in expected.items():
        t = there.get(name)
        where = f"{path.name} {name}"
        if t is None:
            note(case, where, False, "is not listed")
        elif t["shape"] != shape:
            note(case, where, False, f"has shape {t['shape']}, not {shape}")
        else:
            note(case, where, digest is None or t.get("sha256") == digest)


def made(script, folder, *more):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, HERE / script, folder, *map(str, more)], check=True)
    return folder


def read_corpus(tool, o):
    base = pathlib.Path(o.corpus) / "keras_tf"
    for f in json.loads((base / "manifest.json").read_text())["files"]:
        expected = {t["name"]: (t["shape"], t["sha256"]) for t in f["tensors"]}
        held_against(tool, "files of the corpus", base / f["file"], expected)


def read_hdf5(tool, o):
    folder = made("make_h5.py", o.scratch / "h5", "--seed", o.seed)
    for f in json.loads((folder / "manifest.json").read_text())["files"]:
        expected = {t["name"]: (t["shape"], t["sha256"]) for t in f["tensors"]}
        held_against(tool, "HDF5 of h5py", folder / f["file"], expected)


def read_tensorflow(tool, o):
    folder = made("make_tf.py", o.scratch / "tf")
    expected = {}
    with open(folder / "expected.tsv", newline="") as f:
        for file, name, _, dims, digest in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE):
            shape = [int(d) for d in dims.split(",") if d]
            expected.setdefault(file, {})[name] = (shape, digest if len(digest) == 64 else None)
    for file, tensors in expected.items():
        held_against(tool, "files of TensorFlow", folder / file, tensors)


def read_arrays(tool, o):
    folder = made("make_arrays.py", o.scratch / "arrays")
    for file, tensors in json.loads((folder / "expected.json").read_text()).items():
        expected = {n: (t[1], t[2]) for n, t in tensors.items()}
        held_against(tool, "files of NumPy, joblib and Flax", folder / file, expected)


def sample(o):
    """Every dtype that safetensors and NumPy share."""
    import numpy as np

    rng = np.random.default_rng(o.seed)
    kinds = """float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8
    complex64""".split()
    out = {f"block/{k}": (rng.normal(size=(5, 3)) * 60).astype(k) for k in kinds}
    out["flags"] = rng.random(7) > 0.5
    out["scalar"] = np.array(2.5, np.float32)
    out["none"] = np.zeros((0, 3), np.float32)
    out["large"] = rng.normal(size=(1000, 700)).astype(np.float32)
    return out


def same(a, b):
    import numpy as np

    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == np.ascontiguousarray(b).tobytes()


def write_each(tool, o):
    import h5py
    import numpy as np
    import tensorflow as tf
    from safetensors.numpy import save_file

    folder = o.scratch / "written"
    folder.mkdir(parents=True, exist_ok=True)
    values = sample(o)
    source = folder / "sample.safetensors"
    save_file(values, source)

    def check(case, out, read, *more):
        code, _, err = tool.run("convert", "--no-sync", source, out, *more)
        if code:
            note(case, out.name, False, err.strip())
            return
        try:
            back = read(out)
        except Exception as e:
            note(case, out.name, False, f"{type(e).__name__}: {e}")
            return
        for name, v in values.items():
            note(case, f"{out.name} {name}", name in back and same(v, np.asarray(back[name])))

    def hdf5(path):
        out = {}
        with h5py.File(path) as f:
            f.visititems(lambda n, d: out.update({n: d[()]}) if isinstance(d, h5py.Dataset) else None)
        return out

    def checkpoint(path):
        reader = tf.train.load_checkpoint(str(path))
        return {n: reader.get_tensor(n) for n in reader.get_variable_to_dtype_map()}

    def npz(path):
        with np.load(path, allow_pickle=False) as f:
            return {n: f[n] for n in f.files}

    check("HDF5 that h5py reads", folder / "sample.hdf5", hdf5)
    check("HDF5 that h5py reads", folder / "sample.weights.h5", hdf5)
    check("checkpoints that TensorFlow reads", folder / "sample.ckpt", checkpoint, "--to", "tf")
    check("archives that NumPy reads", folder / "sample.npz", npz)


def write_keras(tool, o):
    done = subprocess.run(
        [sys.executable, HERE / "keras_check.py", tool.binary], capture_output=True, text=True
    )
    for line in done.stdout.splitlines():
        verdict, _, what = line.partition(" ")
        if verdict in ("ok", "FAILED"):
            note("weights and models that Keras opens", what.strip(), verdict == "ok")
    if done.returncode and "FAILED" not in done.stdout:
        note("weights and models that Keras opens", "the run", False, done.stderr.strip()[-300:])


CASES = {
    "corpus": read_corpus,
    "hdf5": read_hdf5,
    "tensorflow": read_tensorflow,
    "arrays": read_arrays,
    "write": write_each,
    "keras": write_keras,
}


def versions():
    import importlib.metadata as m

    names = "tensorflow-cpu keras h5py numpy safetensors flax msgpack joblib scikit-learn".split()
    return ", ".join(f"{n} {m.version(n)}" for n in names)


def report(o, seconds):
    total = sum(len(r) + len(w) for r, w in RESULTS.values())
    lines = [
        "# Keras, TensorFlow, NumPy and Flax with the real libraries",
        "",
        f"Written by `cargo xtask peers keras` ({datetime.date.today()}); do not edit.",
        "",
        f"Peers: {versions()}. Seed {o.seed}, {total} comparisons in {seconds:.0f} s.",
        "",
        "What the libraries write is read by us: shape and SHA-256 of every tensor against what they",
        "read themselves. What we write is opened by them: dtype, shape and every byte, and for",
        "models of Keras the answers.",
        "",
        "| case | compared | right | failed |",
        "|---|--:|--:|--:|",
    ]
    for case, (right, wrong) in RESULTS.items():
        lines.append(f"| {case} | {len(right) + len(wrong)} | {len(right)} | {len(wrong)} |")
    for case, (_, wrong) in RESULTS.items():
        lines += [f"- {case}: {w}" for w in wrong]
    pathlib.Path(o.report).write_text("\n".join(lines) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tool", required=True)
    p.add_argument("--scratch", required=True, type=pathlib.Path)
    p.add_argument("--corpus", required=True)
    p.add_argument("--report")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", action="append", choices=CASES)
    o = p.parse_args()
    o.scratch = o.scratch.resolve()
    tool = Tool(o.tool)
    began = time.monotonic()
    for name, case in CASES.items():
        if not o.only or name in o.only:
            print(name, flush=True)
            case(tool, o)
    for case, (right, wrong) in RESULTS.items():
        print(f"{case}: {len(right)} right, {len(wrong)} failed")
    if o.report:
        report(o, time.monotonic() - began)
    sys.exit(1 if any(w for _, w in RESULTS.values()) else 0)


if __name__ == "__main__":
    main()
