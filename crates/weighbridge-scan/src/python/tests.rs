use super::*;

fn calls(text: &str) -> Vec<String> {
    read(text)
        .unwrap_or_else(|e| panic!("{text:?} stops to be Python at {}", e.at))
        .calls
        .into_iter()
        .map(|c| c.name)
        .collect()
}

fn parses(text: &str) -> bool {
    read(text).is_ok()
}

#[test]
fn statements_of_every_kind_parse() {
    for text in [
        "",
        "\n\n# only a comment",
        "x = 1; y = 2;\n",
        "a, *b = c = 1, 2,\n",
        "x: int = 3\nx: 'T'\nx.y[0] += 1\nx **= 2\nx //= y\nx @= z\n",
        "if x: pass\nelif y: pass\nelse:\n  pass\n",
        "while (n := f()) > 1:\n\tbreak\nelse:\n\tcontinue\n",
        "for i, (j, k) in enumerate(x): pass\nelse: pass\n",
        "try:\n a\nexcept (A, B) as e:\n b\nexcept* C:\n c\nelse:\n d\nfinally:\n e\n",
        "try: a\nfinally: b\n",
        "with a as b, c() as (d, e): pass\n",
        "with (open(x) as f, open(y)): pass\n",
        "with (a, b) as c: pass\n",
        "with (yield): pass\n",
        "with (a).b() as c: pass\n",
        "@d.e(1)\n@f\nasync def g(a, /, b: int = 1, *args: int, c, d=2, **kw) -> T: await x\n",
        "def f(*, a): return\n",
        "def f[T: int, *U, **P](x: T = 1): yield from y\n",
        "class A(B, metaclass=C, **kw):\n    x = 1\n\n    def f(self): return self\n",
        "class A: pass\n",
        "type X[T] = list[T]\ntype = 3\ntype(x)\n",
        "import a.b as c, d\nfrom . import x\nfrom ...a.b import (c as d, e,)\nfrom m import *\n",
        "global a, b\nnonlocal c\ndel a, b[0]\nassert x, 'y'\nraise E from f\nraise\n",
        "async def f():\n async for x in y: pass\n async with z: pass\n return [i async for i in x]\n",
        "match x:\n  case 1 | -2: pass\n  case {'a': b, **rest} if c: pass\n  case A(x=0) as y:\n    z\n  case [a, *_]: pass\n  case _: pass\ny = 1\n",
        "match (x, y):\n  case (1, 2): pass\n",
        "match = 1\nmatch(x)\nmatch[0]\nmatch.x\nmatch: int\nmatch * 2\nprint(match)\n",
        "x = a if b else c or d and not e in f is not g < h != i not in j | k ^ l & m << 1 >> 2\n",
        "x = -a ** -b % ~c // d @ e\n",
        "x = lambda: 0, lambda a, *b, c=1, **d: (yield), lambda *, a: a\n",
        "x = [a for b in c if d for e in f], {a: b for c in d}, {a for b in c}, (a for b in c)\n",
        "x = {**a, 'b': c}, {*a, b}, {}, [*a], (), (a,), f(*a, **b, c=d, *e)\n",
        "x = a[1:2, ::3, ...][:][::-1][a:=1]\n",
        "x = 0xFF + 0o17 + 0b1 + 1_000.5e-3j + .5 + 1. + 1if a else 2\n",
        "x = 'a' \"b\" '''c\nd''' r'\\d' rb\"x\" u'x' b'y'\n",
        "x = f'{a}{b!r:>{width}} {{}} {c=} {d[\"k\"]} {f\"{e}\"}' rf'\\d{x}'\n",
        "x = f\"{x:%Y-%m}\" f'{ {1: 2}[1] }' f'{(lambda: 1)()}'\n",
        "x = f'''{\n a\n}'''\n",
        "x = (1 +\n  # note\n  2)\ny = a \\\n  + b\n",
        "if True:\n    x = 1\n    # odd comment\n  # another\n    y = 2\n",
        "def f(): pass\nx = 1",
        "    x = 1\n    if x:\n        y\n",
        "\u{feff}x = 1\r\ny = 2\rz = 3\n",
        "print 'hello', 1\nexec \"x = 1\" \n",
        "except_ = 1\nℯx = 2\n",
        "return_value = (yield)\n",
        "x = yield a, b\n",
        "for x in *a, b: pass\n",
        "x = not a == b\n",
        "async = 1\n".get(9..).unwrap(),
    ] {
        assert!(parses(text), "{text:?} {:?}", read(text).err());
    }
}

#[test]
fn prose_and_broken_programs_do_not_parse() {
    for text in [
        "never call os.system('rm') or eval(x); import subprocess",
        "A model that writes code such as os.system('ls') or eval(x)",
        "trained with import tricks; see eval() docs",
        "eval(",
        "x = ",
        "f(x) = 3",
        "3rd place",
        "if x:\n",
        "if x:\npass",
        "  x\n y\n",
        "x = 'abc",
        "(a]",
        "a b",
        "import os os.system('x')",
        "def f(: pass",
        "use `eval(x)`",
        "$HOME",
        "what?",
        "f'{a'",
        "f'}'",
        "a == not b",
        "import",
        "os.system('id') # fine\n and more",
        "exec summary",
        "case x:\n  pass\n",
    ] {
        assert!(!parses(text), "{text:?}");
    }
}

#[test]
fn calls_are_resolved_through_imports_and_aliases() {
    for (text, want) in [
        ("os.system('x')", "os.system"),
        ("import os; os.system('whoami')", "os.system"),
        ("import os as o\no.system('x')", "os.system"),
        ("import os.path\nos.system('x')", "os.system"),
        ("from os import system as f; f('x')", "os.system"),
        ("from os import *\nsystem('x')", "os.system"),
        (
            "from subprocess import Popen\nPopen(['x'])",
            "subprocess.Popen",
        ),
        ("e = eval\ne('1')", "builtins.eval"),
        ("(e := exec)('1')", "builtins.exec"),
        ("a = b = exec\nb('1')", "builtins.exec"),
        ("a, b = 1, exec\nb('1')", "builtins.exec"),
        ("__builtins__.eval('x')", "builtins.eval"),
        ("__builtins__['eval']('x')", "builtins.eval"),
        ("import builtins as b; b.exec('x')", "builtins.exec"),
        ("globals()['__builtins__'].eval('x')", "builtins.eval"),
        ("ｅｖａｌ('x')", "builtins.eval"),
        ("𝓮𝔁𝓮𝓬('x')", "builtins.exec"),
        ("def f(s=exec):\n  s('x')\nf()", "builtins.exec"),
        ("def f():\n  import os as p\n  p.system('x')\n", "os.system"),
        (
            "try:\n import subprocess as s\nexcept ImportError:\n s = None\ns.run('x')",
            "subprocess.run",
        ),
    ] {
        assert!(
            calls(text).contains(&want.to_owned()),
            "{text}: {:?}",
            calls(text)
        );
    }
}

#[test]
fn names_put_together_at_run_time_are_followed() {
    for (text, want) in [
        ("__import__('os').system('x')", "os.system"),
        ("__import__('os.path').system('x')", "os.system"),
        ("__import__('o'+'s').system('x')", "os.system"),
        ("getattr(__import__('os'), 'sys' + 'tem')('x')", "os.system"),
        ("getattr(os, 'metsys'[::-1])('x')", "os.system"),
        (
            "import importlib\nimportlib.import_module('subprocess').run('x')",
            "subprocess.run",
        ),
        ("import sys\nsys.modules['os'].system('x')", "os.system"),
        ("os.__dict__['system']('x')", "os.system"),
        ("vars(os)['system']('x')", "os.system"),
        ("os.__getattribute__('system')('x')", "os.system"),
        ("os.system.__call__('x')", "os.system"),
        (
            "().__class__.__base__.__subclasses__()[40]('x')",
            "__subclasses__.item",
        ),
        ("f.__globals__['os'].system('x')", "os.system"),
        (
            "f.__init__.__globals__['__builtins__']['exec']('x')",
            "builtins.exec",
        ),
        (
            "import base64\n__import__(base64.b64decode('b3M=').decode()).system('x')",
            "os.system",
        ),
        (
            "__import__(bytes.fromhex('6f73').decode()).system('x')",
            "os.system",
        ),
        ("__import__(''.join(['o','s'])).system('x')", "os.system"),
        (
            "__import__(''.join(chr(c) for c in [111, 115])).system('x')",
            "os.system",
        ),
        (
            "__import__(''.join(map(chr, [111, 115]))).system('x')",
            "os.system",
        ),
        (
            "__import__(''.join([chr(ord(c) - 1) for c in 'pt'])).system('x')",
            "os.system",
        ),
        ("__import__(chr(111) + chr(115)).system('x')", "os.system"),
        ("__import__(f'{\"o\"}s').system('x')", "os.system"),
        ("__import__('%s' % 'os').system('x')", "os.system"),
        ("__import__('{}s'.format('o')).system('x')", "os.system"),
        (
            "__import__('oXs'.replace('X', '')).system('x')",
            "os.system",
        ),
        (
            "__import__(bytes([111, 115]).decode()).system('x')",
            "os.system",
        ),
        (
            "import codecs\n__import__(codecs.decode('bf', 'rot13')).system('x')",
            "os.system",
        ),
        ("m = {'a': exec}\nm['a']('x')", "builtins.exec"),
        ("[exec][0]('x')", "builtins.exec"),
        (
            "import functools\nfunctools.partial(exec, 'x')()",
            "builtins.exec",
        ),
        ("class A:\n  f = exec\nA.f('x')", "builtins.exec"),
    ] {
        assert!(
            calls(text).contains(&want.to_owned()),
            "{text}: {:?}",
            calls(text)
        );
    }
}

#[test]
fn a_local_name_is_not_the_function_it_shadows() {
    assert_eq!(calls("def eval(x): pass\neval('x')"), Vec::<String>::new());
    assert_eq!(calls("def f(open):\n  open('x')\n"), Vec::<String>::new());
    assert_eq!(calls("model.eval()"), ["model.eval"]);
    assert_eq!(calls("self.system('x')"), ["self.system"]);
}

#[test]
fn a_long_chain_of_aliases_hides_nothing() {
    let mut text = String::from("import os\na0 = os\n");
    for i in 0..500 {
        text.push_str(&format!("a{} = a{i}\n", i + 1));
    }
    text.push_str("a500.system('x')\n");
    assert_eq!(calls(&text), ["os.system"]);
}

fn when(text: &str) -> When {
    let p = read(text).unwrap();
    let site = p.calls.iter().find(|c| c.name == "os.system");
    site.unwrap_or_else(|| panic!("{text}: {:?}", p.calls))
        .when
        .clone()
}

#[test]
fn what_runs_on_import_is_told_from_what_waits() {
    let called = |name: &str| When::Called(name.into());
    for (text, want) in [
        ("os.system('x')", When::Import),
        ("class A:\n  os.system('x')", When::Import),
        ("if 1:\n  os.system('x')", When::Import),
        ("def f():\n  os.system('x')", called("f")),
        ("def f():\n  os.system('x')\nf()", When::Import),
        (
            "def f():\n  g()\ndef g():\n  os.system('x')\nf()",
            When::Import,
        ),
        ("@f\ndef g(): pass\n", When::Import),
        (
            "class A:\n  def __init__(self):\n    os.system('x')\n",
            called("A.__init__"),
        ),
        (
            "class A:\n  def __init__(self):\n    os.system('x')\nA()",
            When::Import,
        ),
        (
            "class A:\n  def f(self):\n    os.system('x')\nA().f()",
            When::Import,
        ),
        (
            "class A:\n  def f(self):\n    os.system('x')\nA()",
            called("A.f"),
        ),
        ("def f(x=os.system('x')): pass", When::Import),
        ("f = lambda: os.system('x')", called("")),
        ("(lambda: os.system('x'))()", When::Import),
        ("map(lambda x: os.system(x), y)", When::Import),
        ("if __name__ == '__main__':\n  os.system('x')", When::Main),
        ("if __name__ != '__main__':\n  os.system('x')", When::Import),
        (
            "def m():\n  os.system('x')\nif __name__ == '__main__':\n  m()",
            called("m"),
        ),
    ] {
        let text = text.replace("@f\n", "def f(x):\n  os.system('x')\n@f\n");
        assert_eq!(when(&text), want, "{text}");
    }
}

#[test]
fn arguments_are_given_where_they_are_constants() {
    let p = read("os.system('a' + 'b', shell=eval, x=y())").unwrap();
    let site = p.calls.iter().find(|c| c.name == "os.system").unwrap();
    assert_eq!(
        site.args,
        [
            (None, Argument::Text(b"ab".to_vec())),
            (Some("shell".into()), Argument::Name("builtins.eval".into())),
            (Some("x".into()), Argument::Other),
        ]
    );
    assert_eq!((site.start, site.end), (0, 39));
}

#[test]
fn depth_and_length_are_bounded() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("f(", ")"),
        ("not ", ""),
        ("lambda: ", ""),
    ] {
        let text = format!("{}x{}", open.repeat(100_000), close.repeat(100_000));
        assert!(read(&text).unwrap_err().limit, "{open}");
    }
    let mut text = String::new();
    for i in 0..200 {
        text.push_str(&" ".repeat(i));
        text.push_str("if x:\n");
    }
    assert!(read(&text).unwrap_err().limit);
    // Chains are long without being deep.
    for link in [".a", "(1)", "[0]", "+a", " or a", "==a", " if a else a"] {
        let _ = read(&format!("a{}", link.repeat(50_000)));
    }
    // Names that lead to each other.
    assert!(parses("a = b\nb = a\na()\na = a\na()"));
    assert!(parses(
        "x = [bytes(x), x]\nbytes(x)()\nclass A:\n  f = A.f\nA.f()\n"
    ));
    assert!(parses(
        "x = {x: x}\nx[x]()\nx = [y(z) for z in x]\nf(''.join(x))\n"
    ));
    let mut text = String::from("a0 = 'xxxxxxxx'\n");
    for i in 0..3000 {
        text.push_str(&format!("a{} = a{i} + a{i}\nf(a{i})\n", i + 1));
    }
    assert!(parses(&text));
}

/// The standard library of an installed Python, where the environment names one: every file of it
/// that Python compiles must parse here.
#[test]
fn a_whole_library_parses() {
    let Some(root) = std::env::var_os("WEIGHBRIDGE_PYTHON_LIB") else {
        println!("skipped: WEIGHBRIDGE_PYTHON_LIB is not set");
        return;
    };
    let mut work = vec![std::path::PathBuf::from(root)];
    let (mut read_ok, mut failed) = (0u32, Vec::new());
    while let Some(p) = work.pop() {
        if p.is_dir() {
            work.extend(std::fs::read_dir(&p).unwrap().map(|e| e.unwrap().path()));
        } else if p.extension().is_some_and(|e| e == "py")
            && let Ok(text) = std::fs::read_to_string(&p)
        {
            match read(&text) {
                Ok(_) => read_ok += 1,
                Err(e) => {
                    let line = text.get(..e.at).map_or(0, |t| t.matches('\n').count() + 1);
                    failed.push(format!("{}:{line} {}", p.display(), e.limit));
                }
            }
        }
    }
    println!(
        "{read_ok} parse, {} do not\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(failed.len() * 200 < read_ok as usize, "{}", failed.len());
}
