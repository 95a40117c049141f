"""Prints the classes that the modules of installed packages define, as JSON, with what matters for
unpickling them: who defines __new__, __setstate__, __reduce__, __setattr__ and __del__.

    python sklearn_classes.py sklearn > classes-1.9.json

Run in an environment of each version that the profile covers; make_profiles.py joins the outputs.
"""
import sys, json, pkgutil, importlib, inspect, warnings, types
warnings.filterwarnings("ignore")
out = {}
pkgs = sys.argv[1:]
SKIP = ('.tests', 'conftest', '.externals', '_testing', '_mocking', '.setup', '.test_', '.experimental', '.__check_build', '._build_utils', 'testing')
def skip(n): return any(s in n for s in SKIP)
for p in pkgs:
    try: pkg = importlib.import_module(p)
    except Exception as e: print(p, e, file=sys.stderr); continue
    names = [p]
    if hasattr(pkg, '__path__'):
        names += [m.name for m in pkgutil.walk_packages(pkg.__path__, p + '.', onerror=lambda n: None) if not skip(m.name)]
    for n in names:
        if skip(n): continue
        try: m = importlib.import_module(n)
        except BaseException as e: print("skip", n, repr(e)[:80], file=sys.stderr); continue
        for k, c in list(vars(m).items()):
            if not isinstance(c, type) or c.__module__ != n: continue
            def owner(attr):
                for b in c.__mro__:
                    if attr in vars(b): return b.__module__ + '.' + b.__qualname__
                return ''
            out[n + ' ' + c.__qualname__] = dict(new=owner('__new__'), set=owner('__setstate__'), red=owner('__reduce__'), rex=owner('__reduce_ex__'), setattr=owner('__setattr__'), delete=owner('__del__'), cy=type(c.__dict__.get('__init__')).__name__ if '__init__' in c.__dict__ else '', base=[b.__module__ + '.' + b.__qualname__ for b in c.__mro__[1:-1]], heap=bool(c.__flags__ & (1 << 9)))
json.dump(out, sys.stdout)
