//! The syntax tree.
//!
//! Expressions lie in one arena ([`Tree::exprs`]) and refer to each other by number, so that a
//! chain of any length (`a + b + c …`, `x.y.z …`) is no deep structure to drop or to walk. A
//! child always has a smaller number than its parent.

use std::ops::Range;

/// The number of an expression in [`Tree::exprs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExprId(pub(super) u32);

impl ExprId {
    /// Its place in [`Tree::exprs`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An expression and where it is written, in bytes of the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// Where.
    pub span: Range<usize>,
    /// What.
    pub kind: ExprKind,
}

/// What an expression is (`jinja2/nodes.py`).
#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// A string, escapes resolved, adjacent literals joined.
    Str(String),
    /// An integer; one beyond 128 bits is the largest.
    Int(i128),
    /// A float.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// `none`.
    None,
    /// A variable.
    Name(String),
    /// `[a, b]`.
    List(Vec<ExprId>),
    /// `a, b` or `(a, b)`.
    Tuple(Vec<ExprId>),
    /// `{a: b}`.
    Dict(Vec<(ExprId, ExprId)>),
    /// `a.b`.
    Attr(ExprId, String),
    /// `a[b]`, and `a.0`.
    Item(ExprId, ExprId),
    /// `a:b:c` inside brackets.
    Slice([Option<ExprId>; 3]),
    /// `a(…)`.
    Call(ExprId, Args),
    /// `a|name(…)`; no `a` in `{% filter %}` and `{% set x | name %}`.
    Filter(Option<ExprId>, String, Args),
    /// `a is name …`; the flag says `is not`.
    Test(ExprId, String, Args, bool),
    /// `not a`.
    Not(ExprId),
    /// `-a` or `+a`.
    Sign(ExprId, bool),
    /// `a op b`.
    Binary(ExprId, Binary, ExprId),
    /// `a ~ b ~ c`.
    Concat(Vec<ExprId>),
    /// `a < b == c …`.
    Compare(ExprId, Vec<(Compare, ExprId)>),
    /// `a if test else b`.
    Cond {
        /// The condition.
        test: ExprId,
        /// Its value when true.
        then: ExprId,
        /// Its value otherwise; undefined when absent.
        otherwise: Option<ExprId>,
    },
}

/// Arithmetic and logic of two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Or,
    And,
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// The arguments of a call, filter or test.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Args {
    /// By position.
    pub positional: Vec<ExprId>,
    /// By name.
    pub named: Vec<(String, ExprId)>,
    /// `*args`.
    pub star: Option<ExprId>,
    /// `**kwargs`.
    pub star_star: Option<ExprId>,
}

impl Args {
    /// All expressions of it.
    pub fn all(&self) -> impl Iterator<Item = ExprId> {
        let named = self.named.iter().map(|(_, v)| *v);
        let rest = self.star.into_iter().chain(self.star_star);
        self.positional.iter().copied().chain(named).chain(rest)
    }
}

/// What is assigned to.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A variable.
    Name(String),
    /// An attribute of a namespace.
    Attr(String, String),
    /// Several at once.
    Tuple(Vec<Target>),
}

/// A statement and where its opening tag or text is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Stmt {
    /// Where, in bytes of the template.
    pub span: Range<usize>,
    /// What.
    pub kind: StmtKind,
}

/// A parameter of a macro and its default.
pub type Param = (String, Option<ExprId>);

/// What a statement is.
#[derive(Debug, Clone, PartialEq)]
pub enum StmtKind {
    /// Text between tags, given by the span.
    Text,
    /// `{{ … }}` and `{% print %}`.
    Output(Vec<ExprId>),
    /// `{% if %}` with its `elif`s.
    If {
        /// Conditions (absent where one did not parse) and what they guard.
        arms: Vec<(Option<ExprId>, Vec<Stmt>)>,
        /// `{% else %}`.
        otherwise: Vec<Stmt>,
    },
    /// `{% for %}`.
    For {
        /// The loop variables.
        target: Target,
        /// What is looped over.
        iter: ExprId,
        /// The filter after `if`.
        test: Option<ExprId>,
        /// The body.
        body: Vec<Stmt>,
        /// `{% else %}`.
        otherwise: Vec<Stmt>,
    },
    /// `{% set a = b %}`.
    Set(Target, ExprId),
    /// `{% set a %}…{% endset %}`, with filters.
    SetBlock(Target, Option<ExprId>, Vec<Stmt>),
    /// `{% macro %}`.
    Macro(String, Vec<Param>, Vec<Stmt>),
    /// `{% call %}`.
    Call(Vec<Param>, ExprId, Vec<Stmt>),
    /// `{% filter %}`.
    Filter(ExprId, Vec<Stmt>),
    /// `{% include %}`, `{% import %}`, `{% from %}`, `{% extends %}`: the tag and the template.
    Load(&'static str, ExprId),
    /// `{% with %}`.
    With(Vec<(Target, ExprId)>, Vec<Stmt>),
    /// A body that is simply run: `block`, `autoescape`, `generation`, `trans`, and the body of
    /// a tag whose head did not parse.
    Body(Vec<Stmt>),
    /// `{% do %}`.
    Do(ExprId),
    /// `{% break %}` and `{% continue %}`.
    Jump,
}

/// Why a template does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where, in bytes of the template.
    pub at: usize,
    /// What is wrong.
    pub message: String,
    /// What kind of trouble it is.
    pub fault: SyntaxFault,
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxFault {
    /// Jinja refuses it.
    Syntax,
    /// A tag that neither Jinja nor its known extensions have.
    UnknownTag,
    /// It is nested more deeply than this parser (and Python's) follows, or too long.
    Limit,
}

/// A parsed template: all of it, or all that could be made sense of.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Every expression, children before parents; also of statements that did not parse.
    pub exprs: Vec<Expr>,
    /// The statements.
    pub body: Vec<Stmt>,
    /// What Jinja would refuse, the first few in file order.
    pub errors: Vec<SyntaxError>,
    /// How many `{{ … }}` and `{% … %}` there are.
    pub tags: usize,
}

impl Tree {
    /// The number of the expression at `index` of [`Tree::exprs`].
    pub fn id(&self, index: usize) -> Option<ExprId> {
        let here = u32::try_from(index).ok()?;
        (index < self.exprs.len()).then_some(ExprId(here))
    }

    /// The expression `id`.
    pub fn expr(&self, id: ExprId) -> Option<&Expr> {
        self.exprs.get(id.index())
    }
}
