"""Makes files that are small and want to become large, for the scanner's benchmark.

    python peers/make_bombs.py FOLDER

Nothing but Python itself is needed; nothing in the files does harm but by its size.
"""

import bz2
import gzip
import io
import lzma
import os
import struct
import sys
import zipfile

MIB = 1 << 20


def zeros(n):
    block = bytes(MIB)
    for _ in range(n):
        yield block


def deflate(path):
    """A checkpoint whose pickle inflates to 2 GiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        with z.open("archive/data.pkl", "w", force_zip64=True) as f:
            f.write(b"\x80\x02")
            for block in zeros(2048):
                f.write(block)
        z.writestr("archive/version", "3\n")


def stream(path):
    """A pickle compressed as a whole, of 1 GiB."""
    kind = {"gz": gzip, "bz2": bz2, "xz": lzma}[path.rsplit(".", 1)[1]]
    with kind.open(path, "wb") as f:
        f.write(b"\x80\x02")
        for block in zeros(1024):
            f.write(block)


def idle(path):
    """A gzip stream of a pickle of a thousand million opcodes that do nothing."""
    block = b"N0" * (MIB // 2)
    with gzip.open(path, "wb") as f:
        f.write(b"\x80\x02")
        for _ in range(2048):
            f.write(block)
        f.write(b"N.")


def nested(path):
    """Archives of archives, ten in each, six deep: a million files of 1 MiB at the bottom."""
    data, name = bytes(MIB), "zeros.bin"
    for depth in range(6):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
            for i in range(10):
                z.writestr(f"{i}-{name}", data)
        data, name = out.getvalue(), f"{depth}.zip"
    with open(path, "wb") as f:
        f.write(data)


def laughs(path):
    """Tuples of the same tuple twice, a thousand levels: two to the thousandth values."""
    with open(path, "wb") as f:
        f.write(b"\x80\x02)q\x00")
        for i in range(1000):
            at = struct.pack("<I", i)
            f.write(b"j" + at + b"j" + at + b"\x86r" + struct.pack("<I", i + 1))
        f.write(b".")


def opcodes(path):
    """Half a million lists that each hold the one before, and 30 million opcodes that do
    nothing."""
    with open(path, "wb") as f:
        f.write(b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999)
        f.write(b"N0" * 15_000_000 + b".")


def members(path):
    """An archive of 200,000 empty members."""
    with zipfile.ZipFile(path, "w") as z:
        for i in range(200_000):
            z.writestr(f"{i}", b"")


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name, make in [
        ("deflate.pt", deflate),
        ("stream.pkl.gz", stream),
        ("stream.pkl.bz2", stream),
        ("stream.pkl.xz", stream),
        ("idle.pkl.gz", idle),
        ("nested.zip", nested),
        ("laughs.pkl", laughs),
        ("opcodes.pkl", opcodes),
        ("members.zip", members),
    ]:
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            # The extension tells the kind: it stays last.
            part = os.path.join(folder, "part-" + name)
            make(part)
            os.replace(part, path)


main()
