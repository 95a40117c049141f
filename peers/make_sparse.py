"""Makes a large file whose weights are holes: a torch checkpoint or a safetensors file.

    python peers/make_sparse.py OUT GIGABYTES

Nothing but Python itself is needed. The checkpoint is laid out as torch.save does it: stored
records on boundaries of 64 bytes, the pickle first, true checksums.
"""

import json
import os
import struct
import sys
import zlib

TENSORS = 64
HOLE = bytes(1 << 20)


def crc_of_zeros(n):
    crc = 0
    while n:
        part = min(n, len(HOLE))
        crc = zlib.crc32(HOLE[:part] if part < len(HOLE) else HOLE, crc)
        n -= part
    return crc


def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def integer(n):
    return b"J" + struct.pack("<i", n)


def state_pickle(elements):
    """An OrderedDict of float tensors, each with a storage of its own (protocol 2)."""
    out = b"\x80\x02ccollections\nOrderedDict\n)R("
    for i in range(TENSORS):
        out += text(f"layers.{i}.weight") + b"ctorch._utils\n_rebuild_tensor_v2\n("
        out += b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(i)) + text("cpu")
        out += integer(elements) + b"tQ"
        out += integer(0) + b"(" + integer(elements) + b"t(" + integer(1) + b"t\x89"
        out += b"ccollections\nOrderedDict\n)RtR"
    return out + b"u."


class Zip:
    def __init__(self, file):
        self.file, self.central, self.count = file, b"", 0

    def add(self, name, size, crc, data=None):
        name = name.encode()
        at = self.file.tell()
        large = size > 0xFFFFFFFE
        sizes = struct.pack("<QQ", size, size) if large else b""
        extra = struct.pack("<HH", 1, 16) + sizes if large else b""
        start = at + 30 + len(name) + len(extra)
        pad = -(start + 4) % 64
        extra += b"FB" + struct.pack("<H", pad) + b"Z" * pad
        short = 0xFFFFFFFF if large else size
        version = 45 if large else 20
        head = struct.pack("<HHHHHIII", version, 0, 0, 0, 0x21, crc, short, short)
        self.file.write(b"PK\x03\x04" + head + struct.pack("<HH", len(name), len(extra)))
        self.file.write(name + extra)
        if data is None:
            self.file.seek(size, os.SEEK_CUR)
        else:
            self.file.write(data)
        far = at > 0xFFFFFFFE
        wide = sizes + (struct.pack("<Q", at) if far else b"")
        field = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
        self.central += b"PK\x01\x02" + struct.pack("<H", 45) + head
        self.central += struct.pack("<HHHHHI", len(name), len(field), 0, 0, 0, 0)
        self.central += struct.pack("<I", 0xFFFFFFFF if far else at) + name + field
        self.count += 1

    def finish(self):
        at, size, n = self.file.tell(), len(self.central), self.count
        self.file.write(self.central)
        end = self.file.tell()
        self.file.write(
            b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, n, n, size, at)
        )
        self.file.write(b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1))
        least = 0xFFFFFFFF
        self.file.write(
            b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, n, n, size, least, 0)
        )


def checkpoint(file, total):
    elements = total // TENSORS // 4
    crc = crc_of_zeros(elements * 4)
    out = Zip(file)
    for name, data in [
        ("data.pkl", state_pickle(elements)),
        (".format_version", b"1"),
        (".storage_alignment", b"64"),
        ("byteorder", b"little"),
    ]:
        out.add(f"archive/{name}", len(data), zlib.crc32(data), data)
    for i in range(TENSORS):
        out.add(f"archive/data/{i}", elements * 4, crc)
    out.add("archive/version", 2, zlib.crc32(b"3\n"), b"3\n")
    ident = b"0" * 40
    out.add("archive/.data/serialization_id", len(ident), zlib.crc32(ident), ident)
    out.finish()


def safetensors(file, total):
    elements = total // TENSORS // 4
    size = elements * 4
    header = json.dumps(
        {
            f"layers.{i}.weight": {
                "dtype": "F32",
                "shape": [elements],
                "data_offsets": [i * size, (i + 1) * size],
            }
            for i in range(TENSORS)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    file.write(struct.pack("<Q", len(header)) + header)
    file.truncate(8 + len(header) + TENSORS * size)


def main():
    out, gigabytes = sys.argv[1], float(sys.argv[2])
    total = int(gigabytes * 1e9)
    with open(out + ".part", "wb") as file:
        (safetensors if out.endswith(".safetensors") else checkpoint)(file, total)
    os.replace(out + ".part", out)


main()
