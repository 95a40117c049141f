"""Round trips with the real torch and safetensors: theirs -> ours -> theirs, equal in bits.

    python peers/roundtrip.py --tool WEIGHBRIDGE --scratch DIR [--corpus DIR] [--only WORD]
                              [--report docs/peers.md]

`cargo xtask peers` runs it in an environment of its own. Exits 1 when a case is not equal.
"""

import argparse
import collections
import datetime
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import time
import warnings

import numpy
import safetensors
import safetensors.torch as st
import torch

import cases
from compare import Differs

warnings.filterwarnings("ignore")


class Tool:
    """Our command line tool, and a directory to work in."""

    def __init__(self, path, scratch, corpus):
        self.path, self.scratch, self.corpus = path, scratch, corpus
        self.calls = 0

    def new(self, name):
        """A fresh path in the scratch directory."""
        self.calls += 1
        folder = self.scratch / f"{self.calls:05}"
        folder.mkdir(parents=True)
        return folder / name

    def run(self, *words):
        """Runs the tool with `--json`; gives its exit code and document."""
        done = subprocess.run(
            [self.path, *map(str, words), "--json"], capture_output=True, text=True, timeout=600
        )
        try:
            document = json.loads(done.stdout)
        except ValueError:
            raise Differs(
                f"exit {done.returncode}, no JSON on standard output: {done.stderr.strip()[:300]}"
            ) from None
        return done.returncode, document

    def convert(self, source, target, *flags):
        """Converts; a refusal is a difference."""
        code, document = self.run("convert", source, target, *flags)
        if code != 0:
            e = document.get("error", {})
            raise Differs(f"convert exits {code}: {e.get('rule')}: {e.get('message')}")
        return document

    def refusal(self, source, target, *flags):
        """The message of a conversion that is refused; None of one that is not."""
        code, document = self.run("convert", source, target, *flags)
        return document["error"]["message"] if code == 2 else None


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tool", required=True, type=pathlib.Path)
    p.add_argument("--scratch", required=True, type=pathlib.Path)
    p.add_argument("--corpus", type=pathlib.Path)
    p.add_argument("--only", action="append", default=[])
    p.add_argument("--report", type=pathlib.Path)
    return p.parse_args()


def run_all(tool, only):
    """Runs every case; gives rows of (group, name, outcome, note)."""
    rows = []
    for group, name, action in cases.all_cases(tool):
        label = f"{group}: {name}"
        if only and not any(word in label for word in only):
            continue
        try:
            note = action() or ""
            outcome = "equal"
        except cases.Cannot as e:
            outcome, note = "cannot", str(e)
        except Exception as e:  # a crash of either side is a failed case, never a lost one
            outcome, note = "FAILED", f"{type(e).__name__}: {e}"
        # Paths of this machine are nobody's business in a written report.
        note = note.replace(str(tool.scratch), "…").replace(str(tool.corpus), "corpus")
        rows.append((group, name, outcome, note))
        if outcome != "equal":
            print(f"{outcome:7} {label}: {note[:400]}", flush=True)
    return rows


def summary(rows):
    groups = collections.OrderedDict()
    for group, _, outcome, _ in rows:
        groups.setdefault(group, collections.Counter())[outcome] += 1
    lines = ["| round trip | cases | equal | not carried | failed |", "|---|--:|--:|--:|--:|"]
    for group, counts in groups.items():
        n = sum(counts.values())
        lines.append(
            f"| {group} | {n} | {counts['equal']} | {counts['cannot']} | {counts['FAILED']} |"
        )
    return "\n".join(lines)


def reasons(rows, outcome):
    """What did not come out equal: each reason once, with the cases it holds for."""
    found = collections.OrderedDict()
    for group, name, result, note in rows:
        if result == outcome:
            found.setdefault(note, []).append(f"{group}: {name}")
    return "".join(f"- {note} ({'; '.join(names)})\n" for note, names in found.items())


def report(rows, seconds, unwritten):
    cannot = [r for r in rows if r[2] == "cannot"]
    failed = [r for r in rows if r[2] == "FAILED"]
    text = f"""# Round trips with the real libraries

Written by `cargo xtask peers` ({datetime.date.today()}); do not edit.

Peers: torch {torch.__version__}, safetensors {safetensors.__version__}, numpy \
{numpy.__version__}, Python {platform.python_version()}, from PyPI. {len(rows)} cases in \
{seconds:.0f} s: {sum(r[2] == "equal" for r in rows)} equal, {len(cannot)} not carried and named \
so by our tool, {len(failed)} failed.

Equal means: the same names, dtypes and shapes, and the same bits in every tensor; where a whole
checkpoint is compared, also the same types, order and values of everything else in it; where
sharing is compared, the same tensors over one storage at the same distances and strides. Files
are written by the peer, converted by our tool, and read back by the peer; PyTorch files are always
read with `weights_only=True`.

{summary(rows)}
"""
    if cannot:
        text += "\nNot carried, with the reason our tool gives:\n\n"
        text += reasons(rows, "cannot")
    if failed:
        text += "\nFailed:\n\n" + reasons(rows, "FAILED")
    text += "\nNot tried, since torch itself does not save and load them: "
    return text + ", ".join(unwritten) + ".\n"


def main():
    options = parse()
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    torch.set_num_threads(1)
    torch.manual_seed(7)
    began = time.perf_counter()
    tool = Tool(options.tool, options.scratch, options.corpus)
    rows = run_all(tool, options.only)
    seconds = time.perf_counter() - began
    print(summary(rows))
    if options.corpus is None:
        print("skipped: the corpus, WEIGHBRIDGE_CORPUS is not set")
    failed = sum(r[2] == "FAILED" for r in rows)
    print(f"peers: {len(rows)} cases, {failed} failed, {seconds:.1f} s")
    if options.report:
        options.report.write_text(report(rows, seconds, cases.unwritten(tool)))
        print(f"written to {options.report}")
    shutil.rmtree(options.scratch, ignore_errors=True)
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
