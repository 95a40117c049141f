"""What we write of ONNX, opened by onnx and ONNX Runtime; what onnx writes, opened by us.

    python peers/onnx_models.py --tool WEIGHBRIDGE --scratch DIR [--corpus DIR] [--only WORD]
                                [--report docs/peers-onnx.md]

`cargo xtask peers onnx` runs it in an environment of its own. Exits 1 when a case fails.
"""

import argparse
import collections
import datetime
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

onnxruntime.set_default_logger_severity(4)


class Wrong(Exception):
    """A case that is not as it should be."""


class Tool:
    """Our command line tool."""

    def __init__(self, path):
        self.path = path

    def ask(self, *words):
        """Runs it; gives exit code and document."""
        done = subprocess.run(
            [self.path, *map(str, words), "--json"], capture_output=True, text=True, timeout=600
        )
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            raise Wrong(f"exit {done.returncode}: {done.stderr.strip()[:300]}") from None

    def run(self, *words):
        """Runs it; anything but exit code 0 is wrong."""
        code, document = self.ask(*words)
        if code != 0:
            raise Wrong(f"{words[0]} exits {code}: {json.dumps(document)[:300]}")
        return document


def checked(path):
    """What onnx's checker says; None where it accepts."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as e:  # Its errors have no common base.
        return str(e).splitlines()[0][:160]
    return None


def loaded(path):
    """What ONNX Runtime says; None where it makes a session."""
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as e:  # Likewise.
        return str(e).splitlines()[0][:160]
    return None


def contents(path):
    """The model with all data in it, as onnx understands it: names, shapes and bytes of every
    tensor that is no text, and the rest with their bytes taken out."""
    model = onnx.load(str(path), load_external_data=False)
    load_external_data_for_model(model, str(path.parent))
    found = []
    for tensor in tensors(model):
        if tensor.data_type == TensorProto.STRING:
            continue
        array = numpy_helper.to_array(tensor)
        digest = hashlib.sha256(numpy.ascontiguousarray(array).tobytes()).hexdigest()
        found.append((tensor.name, tensor.data_type, tuple(tensor.dims), digest))
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data",
                      "uint64_data", "external_data", "data_location"):
            tensor.ClearField(field)
    return found, model.SerializeToString(deterministic=True)


def tensors(message):
    """Every TensorProto inside a message."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in value if field.is_repeated else [value]:
            if isinstance(one, TensorProto):
                yield one
            else:
                yield from tensors(one)


class Case:
    """A model, and what peers say of it as it is."""

    def __init__(self, tool, path, folder):
        self.tool, self.path, self.folder = tool, path, folder
        self.check, self.load = checked(path), loaded(path)

    def new(self, name):
        """A path in a fresh folder of that name."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder / "model.onnx"

    def as_before(self, path):
        """The peers accept it where they accept the original, and it is the same model."""
        say = checked(path)
        if say and not self.check:
            raise Wrong(f"onnx.checker: {say}")
        say = loaded(path)
        if say and not self.load:
            raise Wrong(f"ONNX Runtime: {say}")

    def same(self, path):
        """It is the same model, by our own eyes and by onnx's."""
        self.as_before(path)
        self.tool.run("diff", "--metadata", self.path, path)
        if contents(self.path) != contents(path):
            raise Wrong("onnx reads another model")


def keys(case):
    """A key set and removed again leaves the file as it was."""
    path = case.new("keys")
    shutil.copyfile(case.path, path)
    beside = external(case.path)
    for name in beside:
        shutil.copyfile(case.path.parent / name, path.parent / name)
    path.chmod(0o644)
    case.tool.run("edit", path, "--no-sync", "--set", "weighbridge.test=a \u00fc key")
    case.as_before(path)
    model = onnx.load(str(path), load_external_data=False)
    if not any(p.key == "weighbridge.test" and p.value == "a \u00fc key" for p in model.metadata_props):
        raise Wrong("onnx does not find the key")
    case.tool.run("edit", path, "--no-sync", "--unset", "weighbridge.test")
    if path.read_bytes() != case.path.read_bytes():
        raise Wrong("the file is not what it was")


def external(path):
    """The files that a model lies in beside its own."""
    model = onnx.load(str(path), load_external_data=False)
    entries = (e for t in tensors(model) for e in t.external_data)
    return sorted({e.value for e in entries if e.key == "location"})


def out_and_in(case):
    """Weights out of the file and back."""
    out, back = case.new("out"), case.new("back")
    case.tool.run("split", case.path, out.with_suffix(""), "--external-threshold", 0, "--no-sync")
    case.same(out)
    if external(out):
        case.tool.run("merge", out, back, "--no-sync")
        if external(back):
            raise Wrong("data is still beside the merged file")
        case.same(back)


def by_edit(case):
    """The same in place, with a bound of two tensors a file in between."""
    path, parts = case.new("edit"), case.new("parts")
    case.tool.run("edit", case.path, "--output", path, "--external=w.bin", "--external-threshold",
                  0, "--no-sync")
    case.same(path)
    case.tool.run("split", path, parts.with_suffix(""), "--external-threshold", 0, "--max-tensors",
                  2, "--no-sync")
    case.same(parts)
    case.tool.run("edit", path, "--inline", "--no-sync")
    case.same(path)


def theirs(case):
    """What onnx writes with external data, by us."""
    path = case.new("theirs")
    model = onnx.load(str(case.path))
    try:
        onnx.save(model, str(path), save_as_external_data=True, location="theirs.bin",
                  size_threshold=0, convert_attribute=True)
    except Exception as e:  # The reference does not write all that it reads.
        return f"onnx does not write it: {str(e).splitlines()[0][:80]}"
    if checked(path) and not case.check:
        return "onnx's checker refuses what onnx writes"
    case.tool.run("diff", "--metadata", case.path, path)
    case.tool.run("edit", path, "--inline", "--no-sync")
    case.same(path)
    return None


def renamed(case):
    """An input renamed, by the name that onnx then finds."""
    model = onnx.load(str(case.path), load_external_data=False)
    names = [v.name for v in model.graph.input if v.name]
    if not names:
        return "it has no input"
    path = case.new("renamed")
    case.tool.run("edit", case.path, "--output", path, "--no-sync", "--strip-docs",
                  "--rename", f"{names[0]}=weighbridge_input")
    case.as_before(path)
    model = onnx.load(str(path), load_external_data=False)
    if names[0] in [v.name for v in model.graph.input]:
        raise Wrong("the old name is still an input")
    if model.doc_string or any(n.doc_string for n in model.graph.node):
        raise Wrong("there is documentation left")
    case.tool.run("edit", path, "--no-sync", "--rename", f"weighbridge_input={names[0]}")
    stripped = case.new("stripped")
    case.tool.run("edit", case.path, "--output", stripped, "--no-sync", "--strip-docs")
    if path.read_bytes() != stripped.read_bytes():
        raise Wrong("renaming forth and back is not the same file")
    return None


def names_of_all_kinds(tool, folder):
    """A value that sub-graphs capture, renamed: the model still computes the same."""
    ones = numpy.arange(4, dtype=numpy.float32)
    then = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["t"])], "then", [],
        [helper.make_tensor_value_info("t", 1, [4])])
    other = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["e"])], "else", [],
        [helper.make_tensor_value_info("e", 1, [4])])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], name="pick", then_branch=then, else_branch=other)],
        "g",
        [helper.make_tensor_value_info("x", 1, [4]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, [4])],
        [numpy_helper.from_array(ones, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "if.onnx"
    onnx.save(model, str(path))
    tool.run("edit", path, "--rename", "x=image", "--rename", "w=weight", "--rename", "y=out",
             "--rename-node", "pick=branch", "--external", "--external-threshold", 0)
    if checked(path):
        raise Wrong(checked(path))
    session = onnxruntime.InferenceSession(str(path))
    for c in (True, False):
        got = session.run(["out"], {"image": ones, "c": numpy.array(c)})[0]
        if not numpy.array_equal(got, ones * ones if c else ones + ones):
            raise Wrong("it computes something else")


GROUPS = {
    "a key set and removed: the same bytes": keys,
    "weights out (split) and back (merge)": out_and_in,
    "weights out and in with edit, in files of two tensors": by_edit,
    "written by onnx with external data, read and merged by us": theirs,
    "an input renamed and back, documentation stripped": renamed,
}


def report(rows, seconds):
    """The page."""
    lines = [
        "# ONNX models with the real libraries",
        "",
        f"Written by `cargo xtask peers onnx` ({datetime.date.today()}); do not edit.",
        "",
        f"Peers: onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}. "
        f"{len(rows)} cases in {seconds:.0f} s.",
        "",
        "Every file that we write has to be accepted by `onnx.checker` and make a session in ONNX",
        "Runtime wherever the original does, and to hold the same model: by our own `diff`, and by",
        "onnx, message by message and byte by byte of every tensor.",
        "",
        "| case | models | right | not tried | failed |",
        "|---|--:|--:|--:|--:|",
    ]
    count = collections.Counter((group, outcome) for group, _, outcome, _ in rows)
    for group in dict.fromkeys(r[0] for r in rows):
        n = {o: count[group, o] for o in ("right", "not tried", "failed")}
        lines.append(f"| {group} | {sum(n.values())} | {n['right']} | {n['not tried']} | {n['failed']} |")
    why = collections.Counter(why for _, _, outcome, why in rows if outcome == "not tried")
    lines += ["", "Not tried, with the reason:", ""]
    lines += [f"- {text} ({n})" for text, n in sorted(why.items())]
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tool", required=True, type=pathlib.Path)
    p.add_argument("--scratch", required=True, type=pathlib.Path)
    p.add_argument("--corpus", type=pathlib.Path)
    p.add_argument("--only", action="append", default=[])
    p.add_argument("--report", type=pathlib.Path)
    args = p.parse_args()
    tool, started, rows = Tool(args.tool.resolve()), time.monotonic(), []
    shutil.rmtree(args.scratch, ignore_errors=True)
    args.scratch.mkdir(parents=True)

    def run(group, name, f):
        try:
            why = f()
            rows.append((group, name, "not tried" if why else "right", why))
        except Exception as e:  # One case must not hide the others.
            rows.append((group, name, "failed", f"{type(e).__name__}: {e}"))
            print(f"FAILED {group}: {name}: {rows[-1][3]}", flush=True)

    run("a captured value renamed, run in ONNX Runtime", "if",
        lambda: names_of_all_kinds(tool, args.scratch))
    models = []
    for folder in ("onnx/conformance", "onnx/clean_control", "real/onnx"):
        models += sorted((args.corpus / folder).glob("*.onnx")) if args.corpus else []
    for path in models:
        missing = [n for n in external(path) if not (path.parent / n).is_file()]
        for name in missing:
            # The corpus flattens folders: what a model calls its data has the model's prefix there.
            prefixed = [p for p in path.parent.glob(f"*{name}") if p.is_file()]
            if len(prefixed) == 1:
                home = args.scratch / path.stem
                home.mkdir()
                shutil.copyfile(prefixed[0], home / name)
                path = pathlib.Path(shutil.copyfile(path, home / path.name))
        if args.only and not any(word in path.name for word in args.only):
            continue
        folder = args.scratch / "case"
        case = Case(tool, path, folder)
        for group, f in GROUPS.items():
            run(group, path.name, lambda f=f: f(case))
        shutil.rmtree(folder, ignore_errors=True)
    failed = sum(r[2] == "failed" for r in rows)
    print(f"{len(rows)} cases, {failed} failed")
    if args.report:
        args.report.write_text(report(rows, time.monotonic() - started))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
