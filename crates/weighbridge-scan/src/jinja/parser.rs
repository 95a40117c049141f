//! Statements (`jinja2/parser.py`, `parse_statement` and below), and the parser's state.

use super::ast::{
    Expr, ExprId, ExprKind, Param, Stmt, StmtKind, SyntaxError, SyntaxFault, Target, Tree,
};
use super::lexer::{Chunk, Lexer, TagKind, Token, TokenKind};

/// Deepest nesting of statements and expressions together that is followed. Jinja's own parser
/// spends a dozen Python frames on a bracket and gives up below this.
pub(super) const MOST_DEPTH: usize = 100;

/// Most errors kept: the first says why the template does not compile.
pub(super) const MOST_ERRORS: usize = 20;

/// Names that are constants.
const CONSTANTS: [&str; 6] = ["true", "false", "none", "True", "False", "None"];

/// An error was recorded.
#[derive(Debug)]
pub(super) struct Failed;

type Parsed<T> = Result<T, Failed>;

pub(super) struct Parser<'s> {
    len: usize,
    lexer: Lexer<'s>,
    tokens: Vec<Token<'s>>,
    pos: usize,
    /// The tag the tokens belong to.
    tag: std::ops::Range<usize>,
    /// The loaded tag broke before it was parsed: what follows from that is not reported.
    mute: bool,
    /// The loaded tag is to be looked at again, by an enclosing body.
    replay: bool,
    /// The end tags that enclosing bodies wait for.
    open: Vec<&'static [&'static str]>,
    pub(super) depth: usize,
    tree: Tree,
}

pub(super) fn parse(text: &str) -> Tree {
    let mut p = Parser {
        len: text.len(),
        lexer: Lexer::new(text),
        tokens: Vec::new(),
        pos: 0,
        tag: 0..0,
        mute: false,
        replay: false,
        open: Vec::new(),
        depth: 0,
        tree: Tree::default(),
    };
    p.tree.body = p.body(&[]).0;
    let mut tree = p.tree;
    tree.errors.append(&mut p.lexer.errors);
    tree.errors.sort_by_key(|e| e.at);
    tree.errors.truncate(MOST_ERRORS);
    tree
}

// What the expressions need.
impl<'s> Parser<'s> {
    pub(super) fn peek(&self) -> Option<&TokenKind<'s>> {
        self.tokens.get(self.pos).map(|t| &t.kind)
    }

    pub(super) fn peek_is_name(&self, ahead: usize, name: &str) -> bool {
        let token = self.tokens.get(self.pos + ahead).map(|t| &t.kind);
        matches!(token, Some(TokenKind::Name(n)) if *n == name)
    }

    pub(super) fn peek_is_op(&self, ahead: usize, op: &str) -> bool {
        let token = self.tokens.get(self.pos + ahead).map(|t| &t.kind);
        matches!(token, Some(TokenKind::Op(o)) if *o == op)
    }

    pub(super) fn skip(&mut self) {
        self.pos += 1;
    }

    pub(super) fn back(&mut self) {
        self.pos = self.pos.saturating_sub(1).min(self.tokens.len());
    }

    pub(super) fn take(&mut self) -> Option<TokenKind<'s>> {
        let token = self.tokens.get(self.pos).map(|t| t.kind.clone());
        self.pos += 1;
        token
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let is = self.peek_is_name(0, name);
        self.pos += usize::from(is);
        is
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let is = self.peek_is_op(0, op);
        self.pos += usize::from(is);
        is
    }

    pub(super) fn expect_op(&mut self, op: &'static str) -> Parsed<()> {
        if self.skip_op(op) {
            return Ok(());
        }
        Err(self.fail(format!("expected '{op}'")))
    }

    pub(super) fn expect_any_name(&mut self) -> Parsed<&'s str> {
        if let Some(TokenKind::Name(n)) = self.peek() {
            let name = *n;
            self.skip();
            return Ok(name);
        }
        Err(self.fail("a name is missing"))
    }

    /// Where the next token begins; the end of the last one behind it.
    pub(super) fn here(&self) -> usize {
        match self.tokens.get(self.pos) {
            Some(t) => t.span.start,
            None => self.tokens.last().map_or(self.tag.start, |t| t.span.end),
        }
    }

    /// Puts an expression that began at `start` and ends before the next token into the arena.
    pub(super) fn add(&mut self, start: usize, kind: ExprKind) -> ExprId {
        let last = self.pos.min(self.tokens.len()).checked_sub(1);
        let end = last
            .and_then(|n| self.tokens.get(n))
            .map_or(start, |t| t.span.end);
        let id = ExprId(u32::try_from(self.tree.exprs.len()).unwrap_or(u32::MAX));
        let span = start..end.max(start);
        self.tree.exprs.push(Expr { span, kind });
        id
    }

    pub(super) fn fail(&mut self, message: impl Into<String>) -> Failed {
        self.refuse(message, SyntaxFault::Syntax)
    }

    pub(super) fn refuse(&mut self, message: impl Into<String>, fault: SyntaxFault) -> Failed {
        let at = self.here();
        if !self.mute && self.tree.errors.len() < MOST_ERRORS {
            self.tree.errors.push(SyntaxError {
                at,
                message: message.into(),
                fault,
            });
        }
        Failed
    }
}

/// How a body ended: with which of the tags it waited for.
type End = Option<&'static str>;

impl<'s> Parser<'s> {
    /// Statements up to a tag of `ends`, whose tokens are then loaded and its name skipped.
    fn body(&mut self, ends: &'static [&'static str]) -> (Vec<Stmt>, End) {
        self.open.push(ends);
        let out = self.body_open(ends);
        self.open.pop();
        out
    }

    fn body_open(&mut self, ends: &'static [&'static str]) -> (Vec<Stmt>, End) {
        let mut body = Vec::new();
        loop {
            if !std::mem::take(&mut self.replay) {
                let known = self.lexer.failures;
                let chunk = self.lexer.next(&mut self.tokens);
                self.mute = self.lexer.failures > known;
                match chunk {
                    None => {
                        self.mute = false;
                        if let Some(first) = ends.last() {
                            self.tokens.clear();
                            self.tag = self.len..self.len;
                            self.fail(format!("the template ends before '{first}'"));
                        }
                        return (body, None);
                    }
                    Some(Chunk::Text(span)) => {
                        let kind = StmtKind::Text;
                        body.push(Stmt { span, kind });
                        continue;
                    }
                    Some(Chunk::Tag(kind, span)) => {
                        self.pos = 0;
                        self.tag = span;
                        self.tree.tags += 1;
                        if kind == TagKind::Variable {
                            self.output(&mut body);
                            continue;
                        }
                    }
                }
            }
            let name = match self.peek() {
                Some(TokenKind::Name(n)) => *n,
                _ => {
                    self.fail("a tag's name is missing");
                    continue;
                }
            };
            if let Some(end) = ends.iter().find(|e| **e == name) {
                self.skip();
                return (body, Some(end));
            }
            if self.open.iter().any(|e| e.contains(&name)) {
                self.fail(format!("'{name}' comes before the tag that must be closed"));
                self.replay = true;
                return (body, None);
            }
            let span = self.tag.clone();
            match self.statement(name) {
                Ok(kind) => body.push(Stmt { span, kind }),
                Err(Failed) => self.salvage(),
            }
        }
    }

    fn output(&mut self, body: &mut Vec<Stmt>) {
        let span = self.tag.clone();
        match self.tuple(true) {
            Ok(value) => {
                self.tag_ends();
                let kind = StmtKind::Output(vec![value]);
                body.push(Stmt { span, kind });
            }
            Err(Failed) => self.salvage(),
        }
    }

    /// Takes the expressions out of the rest of a tag that does not parse.
    fn salvage(&mut self) {
        let known = self.tree.errors.len();
        while self.pos < self.tokens.len() {
            let before = self.pos;
            let depth = self.depth;
            let _ = self.expression(true);
            self.depth = depth;
            self.pos = self.pos.max(before + 1);
        }
        self.tree.errors.truncate(known);
    }

    /// Records what follows where the tag should end.
    fn tag_ends(&mut self) {
        if self.pos < self.tokens.len() {
            self.fail("the tag should end here");
            self.salvage();
        }
    }

    /// The statement `name` of the loaded tag.
    fn statement(&mut self, name: &str) -> Parsed<StmtKind> {
        self.skip();
        let kind = match name {
            "if" => return self.if_(),
            "for" => return self.for_(),
            "set" => return self.set(),
            "macro" => return self.macro_(),
            "call" => return self.call(),
            "filter" => return self.filter_block(),
            "with" => return self.with(),
            "block" => return self.block(),
            "autoescape" => {
                let _ = self.expression(true);
                return self.rest(&["endautoescape"]);
            }
            "generation" => return self.rest(&["endgeneration"]),
            "trans" => return self.trans(),
            "include" => self.load("include")?,
            "import" => self.load("import")?,
            "from" => self.load("from")?,
            "extends" => self.load("extends")?,
            "print" => {
                let mut values = Vec::new();
                while self.peek().is_some() {
                    if !values.is_empty() {
                        self.expect_op(",")?;
                    }
                    values.push(self.expression(true)?);
                }
                StmtKind::Output(values)
            }
            "do" => StmtKind::Do(self.tuple(true)?),
            "break" | "continue" | "debug" => StmtKind::Jump,
            _ => {
                self.back();
                if name.starts_with("end") || matches!(name, "else" | "elif" | "pluralize") {
                    return Err(self.fail(format!("'{name}' has nothing to end")));
                }
                let message = format!("'{name}' is no tag of Jinja");
                return Err(self.refuse(message, SyntaxFault::UnknownTag));
            }
        };
        self.tag_ends();
        Ok(kind)
    }

    /// The body up to one of `ends`, where nothing but the tag's end is left of the head.
    fn inner(&mut self, ends: &'static [&'static str]) -> (Vec<Stmt>, End) {
        self.skip_op(":");
        self.tag_ends();
        if self.depth >= MOST_DEPTH {
            // The body is parsed as if it stood outside; its end tag is reported there.
            self.refuse("nested too deeply", SyntaxFault::Limit);
            return (Vec::new(), None);
        }
        self.depth += 1;
        let out = self.body(ends);
        self.depth -= 1;
        out
    }

    /// The same, with the end tag read to its end.
    fn closed(&mut self, ends: &'static [&'static str]) -> Vec<Stmt> {
        let (body, end) = self.inner(ends);
        if end.is_some() {
            self.tag_ends();
        }
        body
    }

    fn rest(&mut self, ends: &'static [&'static str]) -> Parsed<StmtKind> {
        Ok(StmtKind::Body(self.closed(ends)))
    }

    /// The body of a tag whose head did not parse.
    fn headless(&mut self, ends: &'static [&'static str]) -> Parsed<StmtKind> {
        self.pos = self.tokens.len();
        self.rest(ends)
    }

    fn if_(&mut self) -> Parsed<StmtKind> {
        let mut arms = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false).ok();
            if test.is_none() {
                self.pos = self.tokens.len();
            }
            let (body, end) = self.inner(&["elif", "else", "endif"]);
            arms.push((test, body));
            match end {
                Some("elif") => {}
                Some("else") => {
                    otherwise = self.closed(&["endif"]);
                    break;
                }
                Some(_) => {
                    self.tag_ends();
                    break;
                }
                None => break,
            }
        }
        Ok(StmtKind::If { arms, otherwise })
    }

    fn for_(&mut self) -> Parsed<StmtKind> {
        let head = self.for_head();
        let Ok((target, iter, test)) = head else {
            self.pos = self.tokens.len();
            let (mut body, end) = self.inner(&["endfor", "else"]);
            if end == Some("else") {
                body.append(&mut self.closed(&["endfor"]));
            }
            return Ok(StmtKind::Body(body));
        };
        let (body, end) = self.inner(&["endfor", "else"]);
        let otherwise = if end == Some("else") {
            self.closed(&["endfor"])
        } else {
            if end.is_some() {
                self.tag_ends();
            }
            Vec::new()
        };
        Ok(StmtKind::For {
            target,
            iter,
            test,
            body,
            otherwise,
        })
    }

    fn for_head(&mut self) -> Parsed<(Target, ExprId, Option<ExprId>)> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return Err(self.fail("expected 'in'"));
        }
        let iter = self.tuple(false)?;
        let test = if self.skip_name("if") {
            Some(self.expression(true)?)
        } else {
            None
        };
        self.skip_name("recursive");
        Ok((target, iter, test))
    }

    fn set(&mut self) -> Parsed<StmtKind> {
        let Ok(target) = self.target(true) else {
            return Err(Failed);
        };
        if self.skip_op("=") {
            let value = self.tuple(true)?;
            self.tag_ends();
            return Ok(StmtKind::Set(target, value));
        }
        let filter = if self.peek_is_op(0, "|") {
            match self.filter(self.here(), None, false) {
                Ok(f) => Some(f),
                Err(Failed) => return self.headless(&["endset"]),
            }
        } else {
            None
        };
        if self.peek().is_some() && !self.peek_is_op(0, ":") {
            return Err(self.fail("expected '='"));
        }
        Ok(StmtKind::SetBlock(target, filter, self.closed(&["endset"])))
    }

    /// `a`, `a, b`, `(a, b)`, and `ns.a` where a namespace is allowed.
    fn target(&mut self, namespace: bool) -> Parsed<Target> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            if self.peek().is_none() || self.peek_is_op(0, ")") {
                break;
            }
            items.push(self.one_target(namespace)?);
            if !self.skip_op(",") {
                break;
            }
            comma = true;
        }
        match (items.pop(), comma) {
            (Some(one), false) => Ok(one),
            (None, _) => Err(self.fail("nothing to assign to")),
            (Some(last), true) => {
                items.push(last);
                Ok(Target::Tuple(items))
            }
        }
    }

    /// A name that something can be assigned to.
    fn variable(&mut self) -> Parsed<&'s str> {
        let name = self.expect_any_name()?;
        if CONSTANTS.contains(&name) {
            self.back();
            return Err(self.fail("nothing can be assigned to a constant"));
        }
        Ok(name)
    }

    /// What follows `from … import`.
    fn imported_names(&mut self) -> Parsed<()> {
        loop {
            let context = matches!(self.peek(), Some(TokenKind::Name("with" | "without")))
                && self.peek_is_name(1, "context");
            if context {
                return Ok(());
            }
            if self.variable()?.starts_with('_') {
                return Err(self.fail("names with an underscore in front cannot be imported"));
            }
            if self.skip_name("as") {
                self.variable()?;
            }
            if !self.skip_op(",") {
                return Ok(());
            }
        }
    }

    fn one_target(&mut self, namespace: bool) -> Parsed<Target> {
        if self.skip_op("(") {
            let inner = self.deeper(|p| p.target(namespace))?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        let name = self.variable()?.to_owned();
        if namespace && self.skip_op(".") {
            let attr = self.expect_any_name()?.to_owned();
            return Ok(Target::Attr(name, attr));
        }
        Ok(Target::Name(name))
    }

    fn signature(&mut self) -> Parsed<Vec<Param>> {
        self.expect_op("(")?;
        let mut params: Vec<Param> = Vec::new();
        while !self.skip_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.variable()?.to_owned();
            let default = if self.skip_op("=") {
                Some(self.expression(true)?)
            } else {
                if params.iter().any(|p| p.1.is_some()) {
                    return Err(self.fail("a parameter without a default follows one with it"));
                }
                None
            };
            params.push((name, default));
        }
        Ok(params)
    }

    fn macro_(&mut self) -> Parsed<StmtKind> {
        let head = self
            .variable()
            .map(str::to_owned)
            .and_then(|name| Ok((name, self.signature()?)));
        match head {
            Ok((name, params)) => {
                let body = self.closed(&["endmacro"]);
                Ok(StmtKind::Macro(name, params, body))
            }
            Err(Failed) => self.headless(&["endmacro"]),
        }
    }

    fn call(&mut self) -> Parsed<StmtKind> {
        match self.call_head() {
            Ok((params, call)) => {
                let body = self.closed(&["endcall"]);
                Ok(StmtKind::Call(params, call, body))
            }
            Err(Failed) => self.headless(&["endcall"]),
        }
    }

    fn call_head(&mut self) -> Parsed<(Vec<Param>, ExprId)> {
        let params = if self.peek_is_op(0, "(") {
            self.signature()?
        } else {
            Vec::new()
        };
        let call = self.expression(true)?;
        let is_call = self
            .tree
            .expr(call)
            .is_some_and(|e| matches!(e.kind, ExprKind::Call(..)));
        if !is_call {
            return Err(self.fail("expected a call"));
        }
        Ok((params, call))
    }

    fn filter_block(&mut self) -> Parsed<StmtKind> {
        match self.filter(self.here(), None, true) {
            Ok(filter) => Ok(StmtKind::Filter(filter, self.closed(&["endfilter"]))),
            Err(Failed) => self.headless(&["endfilter"]),
        }
    }

    fn with(&mut self) -> Parsed<StmtKind> {
        match self.with_head() {
            Ok(pairs) => Ok(StmtKind::With(pairs, self.closed(&["endwith"]))),
            Err(Failed) => self.headless(&["endwith"]),
        }
    }

    fn with_head(&mut self) -> Parsed<Vec<(Target, ExprId)>> {
        let mut pairs = Vec::new();
        while self.peek().is_some() && (pairs.is_empty() || !self.peek_is_op(0, ":")) {
            if !pairs.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.one_target(false)?;
            self.expect_op("=")?;
            pairs.push((target, self.expression(true)?));
        }
        Ok(pairs)
    }

    fn block(&mut self) -> Parsed<StmtKind> {
        if self.expect_any_name().is_err() {
            return self.headless(&["endblock"]);
        }
        self.skip_name("scoped");
        self.skip_name("required");
        let (body, end) = self.inner(&["endblock"]);
        if end.is_some() {
            // `{% endblock name %}`
            if matches!(self.peek(), Some(TokenKind::Name(_))) {
                self.skip();
            }
            self.tag_ends();
        }
        Ok(StmtKind::Body(body))
    }

    fn trans(&mut self) -> Parsed<StmtKind> {
        let mut pairs = Vec::new();
        while let Some(TokenKind::Name(n)) = self.peek() {
            let name = (*n).to_owned();
            let start = self.here();
            self.skip();
            if self.skip_op("=") {
                match self.expression(true) {
                    Ok(value) => pairs.push((Target::Name(name), value)),
                    Err(Failed) => break,
                }
            } else if !matches!(name.as_str(), "trimmed" | "notrimmed") {
                self.add(start, ExprKind::Name(name));
            }
            self.skip_op(",");
        }
        self.pos = self.tokens.len();
        let (mut body, end) = self.inner(&["pluralize", "endtrans"]);
        if end == Some("pluralize") {
            self.pos = self.tokens.len();
            body.append(&mut self.closed(&["endtrans"]));
        }
        Ok(StmtKind::With(pairs, body))
    }

    /// `include`, `import`, `from`, `extends`.
    fn load(&mut self, tag: &'static str) -> Parsed<StmtKind> {
        let template = self.expression(true)?;
        match tag {
            "import" => {
                if !self.skip_name("as") {
                    return Err(self.fail("expected 'as'"));
                }
                self.variable()?;
            }
            "from" => {
                if !self.skip_name("import") {
                    return Err(self.fail("expected 'import'"));
                }
                self.imported_names()?;
            }
            _ => {}
        }
        for word in ["ignore", "missing", "with", "without", "context"] {
            self.skip_name(word);
        }
        Ok(StmtKind::Load(tag, template))
    }
}
