"""Quantized ONNX models side by side with ONNX Runtime's quantizers.

    python peers/onnx_quantize.py WEIGHBRIDGE MODEL.onnx [MODEL.onnx ...]

Needs numpy, onnx, onnx_ir and onnxruntime (written with 1.32.0). For each model: what
`quantize_dynamic`, `MatMulNBitsQuantizer` and `quantize_static` make of it and what ours makes, as
nodes and constants that differ, whether ONNX Runtime gives the same bits for both, and how far the
outputs are from those of the model itself (relative root mean square over eight inputs). With the
default search for steps the answer is another than the reference's, and should be a better one.
Models with weights in `Constant` nodes are given to the reference with initializers instead, as it
does not look at the former.
"""

import collections
import itertools
import json
import logging
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

logging.disable(logging.CRITICAL)
ort.set_default_logger_severity(4)
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}


def with_initializers(made):
    kept = []
    for node in made.graph.node:
        value = [a for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and value and value[0].t.data_type == 1:
            tensor = made.graph.initializer.add()
            tensor.CopyFrom(value[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


def inputs(made, seed):
    rng = np.random.default_rng(seed)
    constants = {t.name for t in made.graph.initializer}
    out = {}
    for value in made.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type.elem_type
        shape = [d.dim_value if d.dim_value > 0 else 3 for d in value.type.tensor_type.shape.dim]
        if kind in (1, 10):
            dtype = np.float32 if kind == 1 else np.float16
            out[value.name] = rng.standard_normal(shape).astype(dtype)
        elif kind in (6, 7):
            dtype = np.int32 if kind == 6 else np.int64
            out[value.name] = rng.integers(0, 20, shape).astype(dtype)
        else:
            return None
    return out


def outputs(path, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(None, f) for f in feeds]


def error(base, got):
    lost = [(a.astype(np.float64) - b).ravel() for x, y in zip(base, got) for a, b in zip(x, y)]
    there = [a.astype(np.float64).ravel() for x in base for a in x]
    lost, there = np.concatenate(lost), np.concatenate(there)
    return float(np.sqrt((lost**2).mean()) / max(np.sqrt((there**2).mean()), 1e-30))


def parts(made):
    read = {i for n in made.graph.node for i in n.input}
    nodes = collections.Counter(
        (n.op_type, n.domain, n.name, tuple(n.input), tuple(n.output), len(n.attribute))
        for n in made.graph.node
    )
    arrays = ((t.name, numpy_helper.to_array(t)) for t in made.graph.initializer if t.name in read)
    return nodes, {n: (str(a.dtype), a.shape, a.tobytes()) for n, a in arrays}


class Bench:
    def __init__(self, tool, path, folder):
        self.tool, self.path, self.folder = tool, path, folder
        made = with_initializers(onnx.load(path))
        self.source = folder / "source.onnx"
        onnx.save(made, self.source)
        self.made = made
        self.feeds = [inputs(made, 40 + i) for i in range(8)]
        self.base = outputs(self.source, self.feeds)

    def ours(self, *flags):
        out = self.folder / "ours.onnx"
        command = [self.tool, "quantize", self.path, out, "--no-sync", "--quiet", *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        return out if done.returncode == 0 else done.stderr.strip().splitlines()[0]

    def row(self, what, ours, theirs):
        """Nodes and constants that differ, equality of outputs, both errors."""
        if isinstance(ours, str):
            return print(f"| {self.path.name} | {what} | {ours} |")
        onnx.checker.check_model(onnx.load(ours))
        got = outputs(ours, self.feeds)
        if theirs is None:
            return print(f"| {self.path.name} | {what} | | | | {error(self.base, got):.4g} | |")
        (n1, c1), (n2, c2) = parts(onnx.load(ours)), parts(onnx.load(theirs))
        nodes = sum(((n1 - n2) + (n2 - n1)).values())
        constants = sum(c1.get(k) != c2.get(k) for k in set(c1) | set(c2))
        want = outputs(theirs, self.feeds)
        same = all(np.array_equal(a, b, equal_nan=True) for x, y in zip(got, want) for a, b in zip(x, y))
        print(
            f"| {self.path.name} | {what} | {nodes}/{sum(n1.values())} | {constants}/{len(c1)} "
            f"| {'equal' if same else 'differ'} "
            f"| {error(self.base, got):.4g} | {error(self.base, want):.4g} |"
        )

    def dynamic(self):
        theirs = self.folder / "theirs.onnx"
        for kind, channels, reduced in itertools.product(TYPES, [False, True], [False, True]):
            quantize_dynamic(
                self.source,
                theirs,
                per_channel=channels,
                reduce_range=reduced,
                weight_type=TYPES[kind],
            )
            flags = ["--type", kind]
            flags += ["--per-channel"] * channels + ["--reduce-range"] * reduced
            self.row("dynamic " + " ".join(flags[1:]), self.ours(*flags), theirs)

    def blocks(self):
        theirs = self.folder / "theirs.onnx"
        # Gemm is left alone by the reference.
        gemm = [f"--exclude=^{n.name}$" for n in self.made.graph.node if n.op_type == "Gemm"]
        for bits, block, symmetric in itertools.product([4, 8], [16, 32, 128], [True, False]):
            config = DefaultWeightOnlyQuantConfig(
                block_size=block, is_symmetric=symmetric, bits=bits
            )
            made = MatMulNBitsQuantizer(onnx.load(self.source), algo_config=config)
            made.process()
            onnx.save(made.model.model, theirs)
            kind = ("int" if symmetric else "uint") + str(bits)
            for more in (["--rtn"], []):
                flags = ["--type", kind, "--block-size", str(block), *more]
                self.row("blocks " + " ".join(flags[1:]), self.ours(*flags, *gemm), theirs)

    def static(self):
        class Batches(CalibrationDataReader):
            def __init__(self, feeds):
                self.all = iter(feeds)

            def get_next(self):
                return next(self.all, None)

        theirs, known = self.folder / "theirs.onnx", self.folder / "ranges.json"
        kinds = sorted({n.op_type for n in self.made.graph.node})
        found = create_calibrator(
            self.source,
            kinds,
            augmented_model_path=self.folder / "augmented.onnx",
            calibrate_method=CalibrationMethod.MinMax,
        )
        found.collect_data(Batches(self.feeds))
        data = found.compute_data().data
        known.write_text(json.dumps({k: [float(x.item()) for x in v.range_value] for k, v in data.items()}))
        for channels in (False, True):
            quantize_static(
                self.source,
                theirs,
                Batches(self.feeds),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=channels,
            )
            flags = ["--type", "int8", "--activations", "uint8", *["--per-channel"] * channels]
            what = "static " + " ".join(flags[1:])
            self.row(what, self.ours(*flags, "--ranges", known), theirs)

    def others(self):
        for flags in (
            ["--type", "int8", "--qdq"],
            ["--type", "int8", "--qdq", "--per-channel"],
            ["--type", "int4", "--qdq", "--block-size", "32"],
            ["--type", "f16"],
        ):
            self.row(" ".join(flags[1:]), self.ours(*flags), None)


def main():
    tool, *paths = sys.argv[1:]
    print("| model | quantization | nodes differ | constants differ | outputs | our error | theirs |")
    print("|---|---|--:|--:|---|--:|--:|")
    for path in map(pathlib.Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(tool, path.resolve(), pathlib.Path(folder))
            for what in (bench.dynamic, bench.blocks, bench.static, bench.others):
                try:
                    what()
                except Exception as e:
                    print(f"| {path.name} | {what.__name__} | {str(e).splitlines()[0][:120]} |")


if __name__ == "__main__":
    sys.exit(main())
