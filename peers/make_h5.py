"""HDF5 files in many variants, and a manifest of what h5py reads from them.

    python make_h5.py DIR [--small] [--seed N]

The manifest names for every file each dataset with its NumPy dtype, its shape and the SHA-256 of
its row-major little-endian bytes (texts: eight bytes of length and the bytes, each; truth values
as one byte). `--small` makes the few files that the project keeps as test data.
"""

import argparse
import ctypes
import glob
import hashlib
import json
import pathlib

import h5py
import numpy as np

LIBVERS = ["earliest", "v108", "v110", "v112", "v114", "latest"]


def digest(dataset):
    """The dtype, shape and hash of a dataset as the manifest has them."""
    if dataset.is_virtual:
        return "unreadable", list(dataset.shape), None
    if dataset.shape is None:
        return "null", None, hashlib.sha256().hexdigest()
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is not None:
        values = dataset[()]
        flat = [values] if dataset.shape == () else values.ravel().tolist()
        h = hashlib.sha256()
        for text in flat:
            text = text.encode() if isinstance(text, str) else bytes(text)
            h.update(len(text).to_bytes(8, "little") + text)
        name = "string" if kind.length is None else f"bytes{8 * kind.length}"
        return name, list(dataset.shape), h.hexdigest()
    odd = dataset.dtype == np.longdouble
    if odd or dataset.dtype.kind in "OV" and dataset.dtype.subdtype is None:
        return "compound:" + str(dataset.dtype), list(dataset.shape), None
    values = np.asarray(dataset[()])
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
    return values.dtype.newbyteorder("=").name, list(values.shape), hashlib.sha256(little.tobytes()).hexdigest()


def entry(path):
    """One file of the manifest: datasets by every name that h5py's visit gives."""
    tensors = []
    attributes = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            try:
                dtype, shape, sha256 = digest(item)
            except OSError:
                dtype, shape, sha256 = "unreadable", list(item.shape), None
            tensors.append({"name": name, "dtype": dtype, "shape": shape, "sha256": sha256})
        elif isinstance(item, h5py.Group):
            attributes.extend(f"{name}@{a}" for a in item.attrs)

    with h5py.File(path, "r") as f:
        attributes.extend(f.attrs)
        f.visititems(visit)
    return {"file": path.name, "tensors": tensors, "attrs": attributes}


class Maker:
    """Makes files in one folder."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.made = []
        self.extents = (37, 23)

    def file(self, name, **options):
        path = self.folder / f"{name}.h5"
        self.made.append(path)
        return h5py.File(path, "w", **options)

    def floats(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def ints(self, *shape, low=-1000, high=100000):
        return self.rng.integers(low, high, shape).astype(np.int32)


def plain(m, name, **options):
    """Every type, contiguous."""
    with m.file(name, **options) as f:
        x = m.floats(7, 5)
        for kind in ["i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8"]:
            f[f"ints/{kind.strip('<>')}{'be' if '>' in kind else ''}"] = m.ints(3, 4, low=0, high=120).astype(kind)
        for kind in ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<c16", ">c16"]:
            f[f"floats/{kind[1:]}{'be' if '>' in kind else ''}"] = x.astype(kind)
        f["bool"] = np.array([[True, False], [False, True]])
        f["one"] = np.array([3.5])
        f["scalar"] = np.float64(2.25)
        f["zero"] = np.zeros((0, 3), "f4")
        f["zero3"] = np.zeros((4, 0, 2), "i8")
        f["null"] = h5py.Empty("f4")
        f["fixed"] = np.array([b"ab", b"", b"a\0b", b"abcd"], "S4")
        f["texts"] = np.array(["x", "", "gr\u00fc\u00dfe", "l" * 300], h5py.string_dtype())
        f["text"] = "one text"
        f.create_dataset("ascii", data=np.array([b"q", b"rs"], object), dtype=h5py.string_dtype("ascii"))
        f.create_dataset("array", (5,), dtype=np.dtype((">i2", (3,))))[:] = m.ints(5, 3, low=0, high=99)
        f["compound"] = np.zeros(2, [("a", "<i4"), ("b", ">f8", (2,)), ("c", "S3")])
        f["opaque"] = np.zeros(2, "V5")
        f["enum"] = np.zeros(3, h5py.enum_dtype({"RED": 0, "GREEN": 1, "FAR": 300}, basetype="<i2"))
        f.create_dataset("ragged", (2,), dtype=h5py.vlen_dtype("<i4"))[0] = [1, 2, 3]
        f["reference"] = np.array([f["one"].ref], h5py.ref_dtype)
        f["type"] = np.dtype("<f4")
        f.create_dataset("typed", data=x, dtype=f["type"])
        f["longdouble"] = np.zeros(2, np.longdouble)
        f["hard/again"] = f["one"]
        f["soft"] = h5py.SoftLink("/floats/f4")
        f["dangling"] = h5py.SoftLink("/nowhere")
        f.create_dataset("unwritten", (6, 2), "<f8", fillvalue=1.5)
        attributes(f)
        attributes(f["ints"])
        f["one"].attrs["unit"] = "m"


def attributes(g):
    """Attributes of every kind."""
    g.attrs["text"] = "word"
    g.attrs["bytes"] = np.bytes_(b"word")
    g.attrs["texts"] = ["a", "bc", ""]
    g.attrs["fixed"] = np.array([b"a", b"bc"])
    g.attrs["int"] = 7
    g.attrs["big"] = np.array([1, 2], ">i8")
    g.attrs["huge"] = np.uint64(2**63 + 5)
    g.attrs["float"] = 0.5
    g.attrs["half"] = np.float16(1.5)
    g.attrs["bool"] = True
    g.attrs["matrix"] = np.arange(6).reshape(2, 3)
    g.attrs["complex"] = 1 + 2j
    g.attrs["empty"] = h5py.Empty("f4")
    g.attrs["none"] = np.zeros(0)
    g.attrs["record"] = np.zeros(1, [("a", "i4"), ("b", "S2")])
    g.attrs["long"] = np.arange(5000, dtype="<i2")


def chunks(m, name, **options):
    """Chunks and filters of every kind."""
    with m.file(name, **options) as f:
        h, w = m.extents
        x, i = m.floats(h, w), m.ints(h, w)

        def put(key, data, **how):
            f.create_dataset(key, data=data, **how)

        put("plain", x, chunks=(10, 7))
        put("single", x, chunks=(h, w))
        put("single_gzip", x, chunks=(h, w), compression="gzip")
        put("larger", x, chunks=(h + 3, w + 7), maxshape=(h + 3, w + 7))
        for level in (1, 9):
            put(f"gzip{level}", i, chunks=(10, 7), compression="gzip", compression_opts=level)
        put("shuffle", x, chunks=(9, 8), shuffle=True)
        put("gzip_shuffle", x, chunks=(9, 8), shuffle=True, compression="gzip")
        put("fletcher", x, chunks=(9, 8), fletcher32=True)
        put("odd_fletcher", np.arange(15, dtype="u1"), chunks=(5,), fletcher32=True)
        put("all", i, chunks=(9, 8), shuffle=True, compression="gzip", fletcher32=True)
        put("lzf", np.tile(x[:2], (20, 1)), chunks=(9, 8), compression="lzf", shuffle=True)
        put("lzf_zeros", np.zeros((300, 40), "f8"), chunks=(100, 40), compression="lzf")
        put("lzf_random", i, chunks=(9, 8), compression="lzf", fletcher32=True)
        put("scale", i, chunks=(9, 8), scaleoffset=0)
        put("scale_fixed", i % 8, chunks=(9, 8), scaleoffset=4)
        put("scale_same", i * 0 + 5, chunks=(9, 8), scaleoffset=0)
        put("scale_unsigned", (i % 999).astype("u2"), chunks=(9, 8), scaleoffset=0, fillvalue=3)
        put("scale_signed8", (i % 99 - 50).astype("i1"), chunks=(9, 8), scaleoffset=0)
        put("scale_long", i.astype("i8") * 10**9, chunks=(9, 8), scaleoffset=0)
        put("scale_be", i.astype(">i4"), chunks=(9, 8), scaleoffset=0)
        put("scale_f4", x, chunks=(9, 8), scaleoffset=3)
        put("scale_f8", x.astype("f8"), chunks=(9, 8), scaleoffset=5, compression="gzip", shuffle=True)
        put("scale_f8be", x.astype(">f8"), chunks=(9, 8), scaleoffset=2)
        put("be", x.astype(">f8"), chunks=(9, 8), compression="gzip", shuffle=True)
        put("bool", i > 5000, chunks=(9, 8), compression="gzip")
        put("complex", (x + 1j * x).astype("c8"), chunks=(9, 8), compression="gzip")
        put("fixed", np.array([b"a", b"bcd", b""] * 5, "S3"), chunks=(4,), compression="gzip")
        put("texts", np.array(["a", "bcd", ""] * 5, object), chunks=(4,), dtype=h5py.string_dtype())
        put("three", m.floats(9, 11, 13), chunks=(4, 3, 5), compression="gzip")
        put("four", m.floats(3, 5, 2, 7), chunks=(2, 2, 2, 3))
        put("flat", m.floats(1000), chunks=(64,), compression="gzip")
        f.create_dataset("arrays", (6,), np.dtype((">f4", (2,))), chunks=(4,))[:5] = m.floats(5, 2)
        for dims in range(3):
            most = tuple(None if d < dims else n for d, n in enumerate((h, w)))
            put(f"grow{dims}", x, chunks=(9, 8), maxshape=most)
            put(f"grow{dims}_gzip", x, chunks=(9, 8), maxshape=most, compression="gzip")
        put("grow_last", x, chunks=(9, 8), maxshape=(h, None))
        put("grow_middle", m.floats(6, 7, 8), chunks=(4, 2, 3), maxshape=(12, None, 8), compression="gzip")
        for how in ("grown", "shrunk"):
            d = f.create_dataset(how, data=x, chunks=(9, 8), maxshape=(None, None), fillvalue=7)
            d.resize((50, 30) if how == "grown" else (15, 10))
        d = f.create_dataset("sparse", (100, 90), "<i4", chunks=(10, 9), fillvalue=-3, compression="gzip")
        d[35:47, 20:33] = 9
        d = f.create_dataset("sparse_grow", (100, 90), "<i4", chunks=(10, 9), maxshape=(None, 90))
        d[35:47, 20:33] = 9
        f.create_dataset("unwritten", (10, 10), ">f4", chunks=(3, 3), fillvalue=2.5)
        f.create_dataset("unwritten_texts", (4,), h5py.string_dtype(), chunks=(3,))
        put("empty", np.zeros((0, 4), "f4"), chunks=(2, 2), maxshape=(None, 4))
        early(f, "early", x, (9, 8))
        early(f, "early_most", x, (9, 8), (h + 30, w))


def early(f, name, data, chunk, most=None):
    """A dataset whose chunks were all given their places at once."""
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_chunk(chunk)
    dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(data.shape, most or data.shape)
    kind = h5py.h5t.py_create(data.dtype)
    d = h5py.Dataset(h5py.h5d.create(f.id, name.encode(), kind, space, dcpl))
    d[...] = data


def deep(m, name, **options):
    """Indexes of many chunks, so that trees have levels and arrays have pages."""
    with m.file(name, **options) as f:
        bytes_ = m.ints(40000, low=0, high=255).astype("u1")
        f.create_dataset("fixed", data=bytes_[:5001], chunks=(2,))
        f.create_dataset("fixed_gzip", data=bytes_[:2100], chunks=(1,), compression="gzip")
        f.create_dataset("grow", data=bytes_, chunks=(1,), maxshape=(None,))
        f.create_dataset("grow_gzip", data=bytes_[:3000], chunks=(1,), maxshape=(None,), fletcher32=True)
        f.create_dataset("grow2", data=bytes_[:3600].reshape(60, 60), chunks=(1, 1), maxshape=(None, None))
        d = f.create_dataset("holes", (100000,), "u1", chunks=(1,), maxshape=(None,))
        for at in (0, 70, 5000, 33333, 99999):
            d[at] = 200
        d = f.create_dataset("fixed_holes", (9000,), "u1", chunks=(1,))
        for at in (0, 70, 5000, 8999):
            d[at] = 200


def many(m, name, count, long, **options):
    """Groups of many links, objects of many attributes."""
    with m.file(name, **options) as f:
        base = f.create_dataset("base", data=m.floats(3))
        g = f.create_group("links")
        for i in range(count):
            g[f"link_{i:06d}" + "x" * long] = base
        for i in range(count // 10):
            f[f"sets/{i % 7}/d{i}"] = m.floats(2, 2)
        a = f.create_group("attributes")
        for i in range(max(count // 20, 20)):
            a.attrs[f"attribute {i}"] = i
            base.attrs[f"attribute {i}"] = "v" * (i % 50)


def long_attributes(m, name, **options):
    """Attributes beyond 64 KiB, which need the newer forms."""
    with m.file(name, **options) as f:
        f.attrs["config"] = "{" + "c" * 200000 + "}"
        f.attrs["fixed"] = np.bytes_(b"f" * 100000)
        f.attrs["numbers"] = np.arange(40000, dtype="<f8")
        g = f.create_group("g", track_order=True)
        for i in range(12):
            g.attrs[f"a{i}"] = np.bytes_(b"z" * (10000 * (i + 1)))
        f["x"] = m.floats(3)


def links_out(m, name, **options):
    """What points out of the file."""
    with m.file(name, **options) as f:
        f["x"] = m.floats(4)
        f["out"] = h5py.ExternalLink("other.h5", "/there")
        f.create_dataset("stored", (4,), "f4", external=[("other.bin", 0, 16)])
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "there", (4,))
        if options.get("libver") != "earliest":
            f.create_virtual_dataset("virtual", layout, fillvalue=0)


def removed(m, name, **options):
    """Space that was given back."""
    with m.file(name, **options) as f:
        for i in range(30):
            f[f"d{i}"] = m.floats(10)
            f[f"d{i}"].attrs["a"] = "b" * 50
        for i in range(0, 30, 2):
            del f[f"d{i}"]
        for i in range(1, 30, 4):
            f[f"d{i}"].attrs["a"] = "c" * 900


def library():
    """The library h5py runs on, for what h5py has no name for."""
    root = pathlib.Path(h5py.__file__).parent.parent / "h5py.libs"
    return ctypes.CDLL(glob.glob(str(root / "libhdf5-*.so*"))[0])


def shared(m, name, cutoff, **options):
    """Messages that many objects share."""
    lib = library()
    fcpl = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    lib.H5Pset_shared_mesg_nindexes(ctypes.c_int64(fcpl.id), 1)
    lib.H5Pset_shared_mesg_index(ctypes.c_int64(fcpl.id), 0, 0x1F, 1)
    lib.H5Pset_shared_mesg_phase_change(ctypes.c_int64(fcpl.id), cutoff, cutoff)
    path = m.folder / f"{name}.h5"
    m.made.append(path)
    fapl = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    fapl.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    with h5py.File(h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, fcpl, fapl)) as f:
        for i in range(20):
            d = f.create_dataset(f"d{i}", data=m.floats(4, 3), chunks=(2, 2), compression="gzip")
            for j in range(12):
                d.attrs[f"a{j}"] = "the same everywhere"


def filtered_group(m, name):
    """A group whose heap of links is compressed."""
    lib = library()
    with m.file(name, libver="latest") as f:
        gcpl = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        lib.H5Pset_deflate(ctypes.c_int64(gcpl.id), 6)
        g = h5py.Group(h5py.h5g.create(f.id, b"g", gcpl=gcpl))
        f["x"] = m.floats(3)
        for i in range(300):
            g[f"a link with a long name that repeats {i}"] = f["x"]


def sized(m, name, offset, length):
    """Addresses and lengths of other widths, nodes of other sizes."""
    fcpl = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    fcpl.set_sizes(offset, length)
    lib = library()
    lib.H5Pset_sym_k(ctypes.c_int64(fcpl.id), 3, 2)
    lib.H5Pset_istore_k(ctypes.c_int64(fcpl.id), 2)
    path = m.folder / f"{name}.h5"
    m.made.append(path)
    with h5py.File(h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, fcpl)) as f:
        for i in range(40):
            f[f"g{i % 3}/d{i}"] = m.floats(3)
        f.create_dataset("c", data=m.floats(30, 20), chunks=(4, 3), compression="gzip")
        f.attrs["texts"] = ["a", "b"]


def loop(m, name, **options):
    """Groups that contain themselves, by themselves and in turn."""
    with m.file(name, **options) as f:
        f["a/x"] = m.floats(2)
        f["a/self"] = f["a"]
        f["a/root"] = f["/"]
        f["b"] = f["a"]
        f["c/d"] = f.create_group("d")
        f["d/c"] = f["c"]


def bombs(m):
    """Small files that claim what no memory holds; h5py is not asked to read them."""
    with h5py.File(m.folder / "bomb_extent.h5", "w", libver="latest") as f:
        f.create_dataset("x", (2**40,), "<f4", chunks=(1024,), compression="gzip")
    with h5py.File(m.folder / "bomb_chunk.h5", "w") as f:
        d = f.create_dataset("x", (2**29,), "u1", chunks=(2**29,), compression="gzip")
        d.id.write_direct_chunk((0,), b"\x78\x9c\x03\x00\x00\x00\x00\x01")


def small(m):
    """The files that the project keeps."""
    m.extents = (17, 13)
    plain(m, "plain_old", libver="earliest")
    plain(m, "plain_new", libver="latest", track_order=True)
    chunks(m, "chunks_old", libver="earliest")
    chunks(m, "chunks_new", libver="latest")
    many(m, "many_new", 300, 4, libver="latest")
    shared(m, "shared", 0)
    filtered_group(m, "filtered_group")
    sized(m, "sized", 4, 4)
    links_out(m, "links_out", libver="latest")
    removed(m, "removed", libver="earliest", userblock_size=1024)
    loop(m, "loop", libver="latest")
    bombs(m)


def everything(m):
    """Every variant."""
    for v in LIBVERS:
        for order in (False, True):
            tag = f"{v}{'_order' if order else ''}"
            plain(m, f"plain_{tag}", libver=v, track_order=order)
            chunks(m, f"chunks_{tag}", libver=v, track_order=order)
            many(m, f"many_{tag}", 400, 10, libver=v, track_order=order)
        removed(m, f"removed_{v}", libver=v)
        links_out(m, f"links_out_{v}", libver=v)
        if v != "earliest":
            long_attributes(m, f"long_attributes_{v}", libver=v)
    for v in ("earliest", "latest"):
        deep(m, f"deep_{v}", libver=v)
        many(m, f"very_many_{v}", 20000, 60, libver=v)
        plain(m, f"block_{v}", libver=v, userblock_size=2048)
        chunks(m, f"paged_{v}", libver=v, fs_strategy="page", fs_page_size=4096)
        removed(m, f"persist_{v}", libver=v, fs_strategy="fsm", fs_persist=True)
        removed(m, f"persist_page_{v}", libver=v, fs_strategy="page", fs_persist=True)
        removed(m, f"aggregate_{v}", libver=v, fs_strategy="aggregate")
    for n, cutoff in enumerate((0, 5, 50)):
        shared(m, f"shared_{n}", cutoff)
    filtered_group(m, "filtered_group")
    loop(m, "loop")
    sized(m, "sized_4", 4, 4)
    sized(m, "sized_4_8", 4, 8)
    sized(m, "sized_8_4", 8, 4)
    sized(m, "sized_8", 8, 8)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    m = Maker(args.folder, args.seed)
    (small if args.small else everything)(m)
    manifest = {"h5py": h5py.version.version, "hdf5": h5py.version.hdf5_version, "files": [entry(p) for p in m.made]}
    (args.folder / "manifest.json").write_text(json.dumps(manifest, indent=0) + "\n")


main()
