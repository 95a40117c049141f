#!/bin/sh
# Makes mix.tsv: the types that the reference quantizer chooses, from its own source.
# Usage: make.sh LLAMA_CPP_FOLDER > mix.tsv   (llama.cpp 0c1e570; needs a C++17 compiler)
#
# Cuts the rules out of src/llama-quant.cpp and compiles them against stubs of what they ask.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ref=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n '/^\/\/ tensor categorization - used to avoid/,/^static const size_t LLAMA_QUANT_MAX_BUF_SIZE/p' "$ref/src/llama-quant.cpp" | sed '$d' > "$work/rules.inc"
sed -n '/^\/\/ helper functions for tensor name matching/,/^\/\/ dequantization/p' "$ref/src/llama-quant.cpp" | sed '$d' >> "$work/rules.inc"
sed -n '/^static bool tensor_allows_quantization/,/^\/\/ quantization implementation/p' "$ref/src/llama-quant.cpp" | sed '$d' | sed '$d' >> "$work/rules.inc"
sed -n '/^static bool tensor_requires_imatrix/,/^\/\/ main quantization driver/p' "$ref/src/llama-quant.cpp" | sed '$d' | sed '$d' >> "$work/rules.inc"
c++ -std=c++17 -O1 -w -I"$ref/include" -I"$ref/ggml/include" -I"$work" -o "$work/mix" "$here/mix.cpp"
"$work/mix"
