"""What people run today on ONNX files, for the benchmarks.

    python peers/onnx_work.py WHAT IN [OUT]

WHAT is `list`, `check`, `dynamic` (ONNX Runtime's int8), `nbits` (its 4-bit blocks of 32, round
to nearest) or `safetensors`. Prints `work SECONDS`, the time without the imports.
"""

import logging
import sys
import time


def listing(path, _):
    import onnx

    began = time.perf_counter()
    model = onnx.load(path)
    rows = [(t.name, t.data_type, tuple(t.dims)) for t in model.graph.initializer]
    return began, rows


def listing_without_data(path, _):
    import onnx

    began = time.perf_counter()
    model = onnx.load(path, load_external_data=False)
    rows = [(t.name, t.data_type, tuple(t.dims)) for t in model.graph.initializer]
    return began, rows


def check(path, _):
    import onnx

    began = time.perf_counter()
    # A path is what its users give it for models of any size.
    onnx.checker.check_model(path, full_check=True)
    return began, []


def dynamic(path, out):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    began = time.perf_counter()
    quantize_dynamic(path, out, weight_type=QuantType.QInt8)
    return began, []


def nbits(path, out):
    from onnxruntime.quantization import matmul_nbits_quantizer as q

    began = time.perf_counter()
    config = q.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=4)
    quantizer = q.MatMulNBitsQuantizer(path, block_size=32, is_symmetric=True, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(out, False)
    return began, []


def safetensors(path, out):
    import onnx
    import onnx_safetensors

    began = time.perf_counter()
    onnx_safetensors.save_file(onnx.load(path), out)
    return began, []


WORK = {
    "list": listing,
    "list-without-data": listing_without_data,
    "check": check,
    "dynamic": dynamic,
    "nbits": nbits,
    "safetensors": safetensors,
}


def main():
    logging.disable(logging.WARNING)
    what, path = sys.argv[1:3]
    out = sys.argv[3] if len(sys.argv) > 3 else None
    began, rows = WORK[what](path, out)
    print("work", time.perf_counter() - began)
    for row in rows:
        print(*row)


if __name__ == "__main__":
    main()
