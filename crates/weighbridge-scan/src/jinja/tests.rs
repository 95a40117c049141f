use super::*;

fn clean(text: &str) -> Tree {
    let t = parse(text);
    assert_eq!(t.errors, [], "{text}");
    t
}

/// The first error of `text`: where, and what kind.
fn broken(text: &str) -> (usize, SyntaxFault) {
    let t = parse(text);
    let e = t.errors.first().unwrap_or_else(|| panic!("{text}"));
    (e.at, e.fault)
}

/// The outermost expression of `{{ text }}`.
fn one(text: &str) -> ExprKind {
    let whole = format!("{{{{ {text} }}}}");
    clean(&whole).exprs.pop().unwrap().kind
}

#[test]
fn statements_of_every_kind_parse() {
    for text in [
        "{% for a, b in c if d recursive %}{% break %}{% else %}{% endfor %}",
        "{% for a in b: %}{% continue %}{% endfor %}",
        "{%- if a -%}b{%- elif c +%}{% else %}d{%+ endif -%}",
        "{% for in in b %}{% endfor %}",
        "{% set a = 1, 2 %}{% set ns.b = 3 %}{% set a, b = c %}{% set (a, b) = c %}",
        "{% set a | upper | trim %}b{% endset %}",
        "{% macro f(a, b=1) %}{{ caller() }}{% endmacro %}{% call(x) f(1) %}{{ x }}{% endcall %}",
        "{% filter upper | replace('a', 'b') %}a{% endfilter %}",
        "{% include 'a' ignore missing with context %}{% include ['a', b] without context %}",
        "{% import 'a' as b with context %}{% from 'a' import b as c, d with context %}",
        "{% extends 'a' %}{% block b scoped required %} {% endblock b %}",
        "{% with a = 1, b = 2 %}{% endwith %}{% with %}{% endwith %}",
        "{% autoescape true %}a{% endautoescape %}{% do a.append(1) %}{% print a, b %}",
        "{% generation %}{{ a }}{% endgeneration %}",
        "{% trans n=a|length, b %}x {{ n }}{% pluralize %}y{% endtrans %}",
        "{% raw %}{{ not parsed {% either %}{% endraw %}{#- a comment {{ -#}",
        "{{ '{{' }}{{ {'a': {'b': 1}} }}",
        "# not a line statement\n## not a comment\n}} %} #} { { { %",
    ] {
        clean(text);
    }
}

#[test]
fn expressions_bind_as_in_jinja() {
    let ExprKind::Binary(_, Binary::Or, _) = one("a or b and not c == d") else {
        panic!()
    };
    let ExprKind::Binary(_, Binary::Add, _) = one("a ~ b + c") else {
        panic!()
    };
    // Powers associate to the left here, unlike in Python.
    let t = clean("{{ 2 ** 3 ** 4 }}");
    let ExprKind::Binary(left, Binary::Pow, _) = &t.exprs[4].kind else {
        panic!()
    };
    assert!(matches!(
        t.expr(*left).unwrap().kind,
        ExprKind::Binary(_, Binary::Pow, _)
    ));
    let ExprKind::Cond {
        otherwise: Some(_), ..
    } = one("a if b else c if d else e")
    else {
        panic!()
    };
    let ExprKind::Compare(_, rest) = one("1 < a <= b not in c") else {
        panic!()
    };
    let ops: Vec<Compare> = rest.iter().map(|r| r.0).collect();
    assert_eq!(ops, [Compare::Lt, Compare::Le, Compare::NotIn]);
    let ExprKind::Filter(Some(_), name, args) = one("a.b[c](d)|e.f(1, *g, **h)") else {
        panic!()
    };
    assert_eq!(
        (name.as_str(), args.positional.len(), args.all().count()),
        ("e.f", 1, 3)
    );
    let ExprKind::Test(_, name, args, true) = one("a is not divisibleby 3") else {
        panic!()
    };
    assert_eq!((name.as_str(), args.positional.len()), ("divisibleby", 1));
    let ExprKind::Item(..) = one("a[::-1]") else {
        panic!()
    };
    let ExprKind::Item(..) = one("a.0.1") else {
        panic!()
    };
}

#[test]
fn literals_have_pythons_values() {
    for (text, value) in [
        (r#"'a' 'b' "c""#, "abc"),
        (r"'\x5f\u005f\U0000005f\137\N{LOW LINE}'", "_____"),
        (r"'\N{LATIN SMALL LETTER A}\q\\\''", "a\\q\\'"),
        ("'a\\\nb\r\nc'", "ab\nc"),
    ] {
        assert_eq!(one(text), ExprKind::Str(value.into()), "{text}");
    }
    assert_eq!(one("0x_fF"), ExprKind::Int(255));
    assert_eq!(one("1_000"), ExprKind::Int(1000));
    assert_eq!(one("0b11"), ExprKind::Int(3));
    assert_eq!(one("1_0.5e-1"), ExprKind::Float(1.05));
    assert_eq!(one("1e3"), ExprKind::Float(1000.0));
    assert_eq!(one("9".repeat(60).as_str()), ExprKind::Int(i128::MAX));
}

#[test]
fn spans_are_those_of_the_source() {
    let text = "ab {{ x.y('z') | f }} cd";
    let t = clean(text);
    let shown: Vec<&str> = t.exprs.iter().map(|e| &text[e.span.clone()]).collect();
    assert_eq!(shown, ["x", "x.y", "'z'", "x.y('z')", "x.y('z') | f"]);
    assert_eq!(t.tags, 1);
}

#[test]
fn what_jinja_refuses_is_reported_where_it_breaks() {
    for (text, at) in [
        ("{{ unclosed_bracket", 19),
        ("{% if a %}b", 11),
        ("{% endif %}", 3),
        ("{{ a b }}", 5),
        ("{{ a..b }}", 5),
        ("{{ 'a }}", 3),
        ("{# a", 0),
        ("{% raw %}a", 0),
        ("{{ (a] }}", 5),
        ("{{ $a }}", 3),
        ("{{ }}", 0),
        ("{% for a b %}{% endfor %}", 9),
        ("{% set 1 = 2 %}", 7),
        ("{% for a, in b %}{% endfor %}", 13),
        ("{% from 'a' import b, %}", 21),
        ("{% macro none() %}{% endmacro %}", 9),
        ("{{ a is b is c }}", 10),
        ("{{ f(a=1, 2) }}", 10),
        ("{{ '\\x5' }}", 3),
        ("{% if a %}{% for b in c %}{% endif %}{% endfor %}", 29),
    ] {
        assert_eq!(broken(text), (at, SyntaxFault::Syntax), "{text}");
    }
    assert_eq!(broken("{% load x %}"), (3, SyntaxFault::UnknownTag));
}

#[test]
fn what_is_around_an_error_is_kept() {
    let t = parse("{{ a ! }}{{ b.c }}{% if d ! %}{{ e }}{% endif %}{{ f");
    let names: Vec<&str> = t
        .exprs
        .iter()
        .filter_map(|e| match &e.kind {
            ExprKind::Name(n) => Some(n.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["a", "b", "d", "e", "f"]);
    assert!(t.errors.len() >= 3);
}

#[test]
fn depth_is_bounded_and_length_is_not() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{1:", "}"),
        ("-", ""),
        ("not ", ""),
    ] {
        let text = format!("{{{{ {}a{} }}}}", open.repeat(1000), close.repeat(1000));
        assert_eq!(broken(&text).1, SyntaxFault::Limit, "{open}");
    }
    let ifs = "{% if a %}".repeat(1000) + &"{% endif %}".repeat(1000);
    assert_eq!(broken(&ifs).1, SyntaxFault::Limit);
    let many = 20_000;
    for (start, more) in [
        ("a", ".b"),
        ("a", "|b"),
        ("a", "()"),
        ("a", "[0]"),
        ("a", " + b"),
        ("a", " ~ b"),
        ("a", " or b"),
    ] {
        clean(&format!("{{{{ {start}{} }}}}", more.repeat(many)));
    }
    clean(&format!(
        "{{% if a %}}{}{{% endif %}}",
        "{% elif b %}".repeat(many)
    ));
}

#[test]
fn unclosed_things_without_number_take_linear_time() {
    for piece in [
        "{{",
        "{%",
        "{#",
        "{{'",
        "{% raw %}",
        "{{ a ! ",
        "{% if ",
        "{{\"\\",
        "{{ (",
    ] {
        let t = parse(&piece.repeat(20_000));
        assert!(!t.errors.is_empty(), "{piece}");
    }
}

#[test]
fn only_braces_look_like_a_template() {
    for text in ["{{ a }}", "{% a", "{{{", "x{{"] {
        assert!(looks_like_template(text), "{text}");
    }
    for text in ["", "{", "{ {", "}}", "%}", "{#a#}", "{\"a\": {}}"] {
        assert!(!looks_like_template(text), "{text}");
    }
}
