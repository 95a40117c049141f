"""Writes the table of ONNX operators that `weighbridge check` goes by.

    python peers/onnx_operators.py > crates/weighbridge/src/format/onnx/operators.tsv

Facts only, from the schemas that the `onnx` package registers (every operator of every operator set
since the first). What the package does not show to Python, the counts of outputs that an operator
has and those that take any attribute, is from `onnx/defs/nn/{defs,old}.cc`.
"""

import re

import onnx
from onnx.defs import OpSchema

FORM = {
    OpSchema.FormalParameterOption.Single: "",
    OpSchema.FormalParameterOption.Optional: "?",
    OpSchema.FormalParameterOption.Variadic: "*",
}
# Counts of outputs between the least and the most that the operator does not have.
OUTPUTS = {
    ("BatchNormalization", 1): "1,5",
    ("BatchNormalization", 6): "1,5",
    ("BatchNormalization", 7): "1,5",
    ("BatchNormalization", 9): "1,5",
    ("BatchNormalization", 14): "1,3",
    ("BatchNormalization", 15): "1,3",
}
ANY_ATTRIBUTE = {("LayerNormalization", 17)}
MOST = 2147483647


def number(n):
    return "" if n >= MOST else str(n)


def short(name):
    """`seq(tensor(float))` as `seq(float)`."""
    return re.sub(r"\btensor\((\w+)\)", r"\1", name).replace(" ", "")


def main():
    schemas = sorted(
        onnx.defs.get_all_schemas_with_history(),
        key=lambda s: ((s.domain or "ai.onnx").encode(), s.name.encode(), s.since_version),
    )
    sets = {}

    def set_of(types):
        key = " ".join(sorted(short(t) for t in types))
        return sets.setdefault(key, f"@{len(sets)}")

    rows = []
    for s in schemas:
        constraints = {c.type_param_str: set_of(c.allowed_type_strs) for c in s.type_constraints}

        def formal(p):
            mark = FORM[p.option]
            if mark == "*" and not p.is_homogeneous:
                mark = "**"
            return (short(p.type_str) or "-") + mark

        attributes = [
            f"{a.name}:{int(a.type.value)}{'!' if a.required else ''}"
            for _, a in sorted(s.attributes.items())
        ]
        flags = "d" if s.deprecated else ""
        flags += "a" if (s.name, s.since_version) in ANY_ATTRIBUTE else ""
        rows.append(
            [
                s.domain or "ai.onnx",
                s.name,
                str(s.since_version),
                flags or "-",
                f"{s.min_input}-{number(s.max_input)}",
                OUTPUTS.get((s.name, s.since_version))
                or f"{s.min_output}-{number(s.max_output)}",
                " ".join(formal(p) for p in s.inputs) or "-",
                " ".join(formal(p) for p in s.outputs) or "-",
                " ".join(attributes) or "-",
                " ".join(f"{k}={v}" for k, v in constraints.items()) or "-",
            ]
        )
    print(f"# onnx {onnx.__version__}; made by peers/onnx_operators.py")
    for key, name in sets.items():
        print(f"{name}\t{key}")
    for row in rows:
        print("\t".join(row))


if __name__ == "__main__":
    main()
