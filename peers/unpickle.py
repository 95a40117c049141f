"""What the real unpicklers do with the pickles of the oracle test.

Reads one pickle a line in hexadecimal, writes one answer a line: the readings of the C unpickler
(from memory, from a file without and with a buffer of 4096 bytes) and of the one written in Python,
separated by `;`, `=` for one that equals the first. An answer is
`status,end,root,count,events`: `ok` or why it failed, where the file stood, the value, how many
events there were, and all of them. With `--verbose` the events are spelled out.

No pickle of these can do anything: `find_class` gives a stand-in that writes down what is done to it
and imports nothing.
"""

import _pickle
import io
import pickle
import struct
import sys
import warnings

warnings.simplefilter("ignore")
# Old unpicklers complain about a bytearray that they did not fill.
sys.unraisablehook = lambda _: None

try:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
except ImportError:
    pass

if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)


class Log:
    def __init__(self):
        self.events = []
        self.made = 0

    def stand_in(self, kind, *what):
        """A new stand-in, made by an event."""
        self.events.append((kind, *what))
        thing = Meta(f"S{self.made}", (), {"__new__": Meta.made})
        type.__setattr__(thing, "number", self.made)
        type.__setattr__(thing, "log", self)
        self.made += 1
        return thing


class Meta(type):
    """The type of stand-ins, which are classes so that every opcode takes them."""

    def made(cls, *args, **kwargs):
        return cls.log.stand_in("C", cls, args, kwargs)

    def __call__(cls, *args, **kwargs):
        return cls.log.stand_in("C", cls, args, kwargs)

    def __setstate__(cls, state):
        cls.log.events.append(("B", cls, state))

    def extend(cls, items):
        for item in items:
            cls.append(item)

    def append(cls, item):
        cls.log.events.append(("I", cls, item))

    def add(cls, item):
        cls.log.events.append(("I", cls, item))

    def __setitem__(cls, key, value):
        cls.log.events.append(("S", cls, key, value))


def text(value, depth=0):
    """A value as the Rust side spells it."""
    if depth > 5:
        return "~"
    down = depth + 1
    kind = type(value)
    if value is None:
        return "N"
    if kind is bool:
        return "T" if value else "F"
    if kind is int:
        return str(value)
    if kind is float:
        return "nan" if value != value else "f" + struct.pack(">d", value).hex()
    if kind is str:
        return "s" + value.encode("utf-8", "surrogatepass").hex()
    if kind is bytes:
        return "b" + value.hex()
    if kind is bytearray:
        return "y" + value.hex()
    if kind is memoryview:
        return "b" + bytes(value).hex()
    if kind is tuple:
        return "(" + ",".join(text(v, down) for v in value) + ")"
    if kind is list:
        return "[" + ",".join(text(v, down) for v in value) + "]"
    if kind is dict:
        return "{" + ",".join(text(k, down) + ":" + text(v, down) for k, v in value.items()) + "}"
    if kind in (set, frozenset):
        return "<" + ",".join(sorted(text(v, down) for v in value)) + ">"
    if isinstance(value, Meta):
        return f"#{value.number}"
    return "?" + kind.__name__


def shown(event):
    """An event as text."""
    kind, *what = event
    return kind + " " + " ".join(text(v) for v in what)


def outline(event):
    """An event without the values in it."""
    kind, *what = event
    if kind == "G":
        return shown(event)
    if kind == "P":
        return kind
    return kind + " " + text(what[0])


def fnv(parts):
    """FNV-1a of 32 bits, each part ended by a NUL."""
    h = 0x811C9DC5
    for part in parts:
        for b in part.encode() + b"\0":
            h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return f"{h:08x}"


class InMemory(io.BytesIO):
    """A file that shows all it has, so that it is read in order like a bytes object."""

    def peek(self, _n):
        return self.getvalue()[self.tell() :]


def unpickler(base, file, log):
    class Recorder(base):
        def find_class(self, module, name):
            return log.stand_in("G", module, name)

        def persistent_load(self, pid):
            return log.stand_in("P", pid)

    return Recorder(file, encoding="latin-1")


REASONS = [
    ("unregistered extension", "extension"),
    ("out-of-band", "buffers"),
    ("Exceeds the limit", "digits"),
    ("keywords must be strings", "keywords"),
    ("required str keys", "keywords"),
    ("bytes-like object is required", "type"),
    ("cannot be interpreted as an integer", "type"),
    ("indices must be integers", "type"),
    ("must be a tuple", "type"),
    ("STACK_GLOBAL requires str", "type"),
    ("expected an arg tuple", "type"),
    ("isn't a type object", "type"),
    ("must be a type", "type"),
    ("must be a dict", "type"),
]


def reading(base, file, spell):
    log = Log()
    root = "-"
    try:
        value = unpickler(base, file, log).load()
        status, root = "ok", fnv([text(value)])
    except MemoryError:
        status = "memory"
    except RecursionError:
        status = "recursion"
    except Exception as e:  # whatever it is, the unpickler has stopped
        message = str(e)
        status = next((code for part, code in REASONS if part in message), "error")
        if spell == "verbose":
            print(f"  {type(e).__name__}: {message}"[:300])
    events = log.events
    if spell == "verbose":
        for event in events:
            print("  " + shown(event))
        if status == "ok":
            print("  = " + text(value))
    form = outline if spell == "outline" else shown
    hashes = [fnv([form(e)]) for e in events]
    return f"{status},{file.tell()},{root},{len(events)},{fnv(hashes)}"


def main():
    verbose = "--verbose" in sys.argv
    for line in sys.stdin:
        data = bytes.fromhex(line)
        spell = "verbose" if verbose else "full"
        answers = [
            reading(_pickle.Unpickler, InMemory(data), spell),
            reading(_pickle.Unpickler, io.BytesIO(data), spell),
            reading(_pickle.Unpickler, io.BufferedReader(io.BytesIO(data), 4096), spell),
            reading(pickle._Unpickler, io.BytesIO(data), "verbose" if verbose else "outline"),
        ]
        print(";".join("=" if i and a == answers[0] else a for i, a in enumerate(answers)))


main()
