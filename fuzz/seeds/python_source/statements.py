# -*- coding: utf-8 -*-
import os.path as p, sys
from . import (a as b, c,)
from m import *

X: int = 0xFF + 1_000.5e-3j if not a else ~b ** -2
type T[K] = dict[K, int]
global y


@deco(1)
async def f(a, /, b=1, *args: int, k, **kw) -> T[int]:
    async with x as y, (z):
        return [await i async for i in g() if (n := i) > 0]
    yield from y


class A[K](B, metaclass=M):
    def __init__(self): self.x = lambda *, q=2, **r: (q, *r)


for i, *j in {**d, 'k': [1, 2][::-1]}: continue
else: pass
while x: break
try:
    raise E from None
except* (V, W) as e:
    del e.a, e[0]
finally:
    assert x, f'{a!r:>{w}} {{}} {d["k"]=} {f"{b}"}'
match v:
    case {'a': [1, *_], **rest} | A(x=-1) as z if z: pass
    case _: pass
with (open(n) as fh, open(m)): x @= y >> 1
print 'two', 2
exec 'x = 1'
