"""Reads the list of torch.load(weights_only=True) out of the sources of several versions of torch.

    python torch_lists.py FOLDER REAL.json > lists.json

FOLDER/<version>/torch/ holds _weights_only_unpickler.py, storage.py and __init__.py of a version;
REAL.json is what _get_allowed_globals() of the newest one gave, for the classes that only a running
torch knows.
"""

import ast
import json
import os
import sys

FOLDER = sys.argv[1]
ALIAS = {'double':'float64','float':'float32','half':'float16','cfloat':'complex64','cdouble':'complex128','chalf':'complex32','long':'int64','int':'int32','short':'int16'}
real = json.load(open(sys.argv[2]))
TENSORS = [n for n in real if n.endswith('Tensor') and n != 'torch.Tensor']
def dtypes(node):
    return {ALIAS.get(n.attr, n.attr) for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == 'torch'}
def func(tree, name):
    for n in ast.walk(tree):
        if isinstance(n, ast.FunctionDef) and n.name == name: return n
def classes(init):
    # storage classes and their modules
    out = set()
    t = ast.parse(open(init).read())
    for n in ast.walk(t):
        tg = None
        if isinstance(n, ast.Assign): tg = n.targets[0]
        elif isinstance(n, ast.AnnAssign): tg = n.target
        if tg is not None and isinstance(tg, ast.Name) and tg.id == '_storage_classes' and n.value is not None:
            for e in ast.walk(n.value):
                if isinstance(e, ast.Name) and e.id.endswith('Storage'): out.add(e.id)
    return out
res = {}
for v in sorted(os.listdir(FOLDER)):
    d = os.path.join(FOLDER, v, 'torch')
    if not os.path.isdir(d): continue
    t = ast.parse(open(d + '/_weights_only_unpickler.py').read())
    st = ast.parse(open(d + '/storage.py').read())
    f = func(t, '_get_allowed_globals')
    names = set()
    cuda = {n.rsplit('.',1)[1] for n in real if n.startswith('torch.cuda.') and n.endswith('Storage')}
    for n in f.body:
        if isinstance(n, (ast.Assign, ast.AnnAssign)) and isinstance(n.value, ast.Dict):
            names |= {k.value for k in n.value.keys}
        elif isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Subscript):
            names.add(n.targets[0].slice.value)
        elif isinstance(n, ast.For):
            src = ast.unparse(n.iter)
            if '_dtype_to_storage_type_map' in src: names |= {'torch.' + x for x in dtypes(func(st, '_dtype_to_storage_type_map')) if not x.endswith('Storage') and x not in ('cuda','_C')}
            elif '_new_dtypes' in src: names |= {'torch.' + x for x in dtypes(func(st, '_new_dtypes'))}
            elif "f'uint" in src: names |= {f'torch.uint{x}' for x in range(1, 8)}
            elif "f'int" in src: names |= {f'torch.int{x}' for x in range(1, 8)}
            elif '_tensor_classes' in src: names |= set(TENSORS)
            elif '_storage_classes' in src:
                for s in classes(d + '/__init__.py'):
                    if s in ('TypedStorage', 'UntypedStorage'): names.add('torch.storage.' + s)
                    else: names.add('torch.' + s)
                names |= {'torch.cuda.' + s for s in cuda}
            elif '_tensor_rebuild_functions' in src: names |= {'torch._utils.' + x for x in [a.attr for a in ast.walk(func(t, '_tensor_rebuild_functions')) if isinstance(a, ast.Attribute)] if x != '_utils'}
            elif isinstance(n.iter, ast.List):
                xs = {e.attr: e for e in n.iter.elts if isinstance(e, ast.Attribute)}
                for x, e in xs.items():
                    full = ast.unparse(e)
                    if full.startswith('torch._utils.') : names.add(full)
                    else: names.add('torch.' + ALIAS.get(x, x))
            else: sys.exit(f'{v}: {src} is not understood')
        elif isinstance(n, ast.If): 
            pass
            for a in ast.walk(n):
                if isinstance(a, ast.Constant) and isinstance(a.value, str) and a.value.startswith('torch'): names.add(a.value)
        elif not isinstance(n, (ast.Return, ast.Expr)): sys.exit(f'{v}: {ast.unparse(n)[:200]} is not understood')
    res[v] = names
key = lambda v: [int(x) for x in v.split('.')]
vs = sorted(res, key=key)
json.dump({v: sorted(res[v]) for v in vs}, sys.stdout)
