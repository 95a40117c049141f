//! Statements (CPython, `Grammar/python.gram`).
//!
//! A little more than Python is accepted where telling would cost much and make no difference:
//! `break` outside loops, names declared twice. Text that is no program is refused at its first
//! word that does not fit.

use super::ast::{Bound, Expr, Id, ScopeId, ScopeKind, Symbol, Tree};
use super::lex::{Kind, Lexer, Reject, Token};

/// Deepest nesting of expressions and blocks.
const DEEPEST: u32 = 160;

/// Words that are never names.
const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import",
    "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while",
    "with", "yield",
];

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search(&word).is_ok()
}

/// Whether a condition is `__name__ == "__main__"` and nothing more: what it guards does not run
/// on import.
fn is_main_guard(condition: &str) -> bool {
    if condition.len() > 100 {
        return false;
    }
    let plain: String = condition
        .chars()
        .filter(|c| !matches!(c, ' ' | '\t' | '(' | ')' | '\'' | '"'))
        .collect();
    matches!(plain.as_str(), "__name__==__main__" | "__main__==__name__")
}

pub(super) type Parsed<T> = Result<T, Reject>;

pub(super) struct Parser<'t> {
    pub(super) text: &'t str,
    pub(super) lexer: Lexer<'t>,
    pub(super) token: Token,
    pub(super) ahead: Option<Token>,
    /// Where the token before the current one ended.
    pub(super) last_end: usize,
    pub(super) tree: Tree,
    pub(super) scope: ScopeId,
    pub(super) main: bool,
    pub(super) depth: u32,
    /// Whether `as` may stand inside brackets, as in `with (a as b):` and in patterns.
    pub(super) as_allowed: bool,
}

/// Parses a whole text.
///
/// # Errors
/// The first place that does not fit.
pub(super) fn parse(text: &str) -> Parsed<Tree> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut tree = Tree::default();
    tree.open(ScopeKind::Module, None, None);
    let mut p = Parser {
        text,
        lexer,
        token,
        ahead: None,
        last_end: 0,
        tree,
        scope: 0,
        main: false,
        depth: 0,
        as_allowed: false,
    };
    while p.token.kind != Kind::End {
        if !p.skip_newline()? {
            p.statement()?;
        }
    }
    Ok(p.tree)
}

impl Parser<'_> {
    pub(super) fn advance(&mut self) -> Parsed<Token> {
        let next = match self.ahead.take() {
            Some(t) => t,
            None => self.lexer.next()?,
        };
        self.last_end = self.token.end;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// The token after the current one.
    pub(super) fn peek(&mut self) -> Parsed<&Kind> {
        if self.ahead.is_none() {
            self.ahead = Some(self.lexer.next()?);
        }
        Ok(self.ahead.as_ref().map_or(&Kind::End, |t| &t.kind))
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.token.kind, Kind::Op(o) if o == op)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.token.kind, Kind::Name(n) if n == word)
    }

    pub(super) fn take_op(&mut self, op: &str) -> Parsed<bool> {
        let found = self.is_op(op);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn take_word(&mut self, word: &str) -> Parsed<bool> {
        let found = self.is_word(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Parsed<()> {
        if self.take_op(op)? {
            return Ok(());
        }
        self.refuse()
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word)? {
            return Ok(());
        }
        self.refuse()
    }

    pub(super) fn refuse<T>(&self) -> Parsed<T> {
        Reject::syntax(self.token.start)
    }

    pub(super) fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Reject::limit(self.token.start);
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// An identifier that is no keyword.
    pub(super) fn identifier(&mut self) -> Parsed<Symbol> {
        match &self.token.kind {
            Kind::Name(n) if !is_keyword(n) => {
                let n = n.clone();
                self.advance()?;
                Ok(self.tree.symbol(n))
            }
            _ => self.refuse(),
        }
    }

    pub(super) fn bind(&mut self, name: Symbol, to: Bound) {
        let at = self.token.start;
        self.tree.bind(self.scope, name, at, to);
    }

    pub(super) fn skip_newline(&mut self) -> Parsed<bool> {
        let found = self.token.kind == Kind::Newline;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn statement(&mut self) -> Parsed<()> {
        self.enter()?;
        let word = match &self.token.kind {
            Kind::Name(n) => n.as_str(),
            _ => "",
        };
        match word {
            "if" => self.if_statement()?,
            "while" => {
                self.advance()?;
                self.named_expression()?;
                self.block()?;
                self.optional_else()?;
            }
            "for" => self.for_statement()?,
            "try" => self.try_statement()?,
            "with" => self.with_statement()?,
            "def" => self.function(&[])?,
            "class" => self.class(&[])?,
            "async" => {
                self.advance()?;
                match &self.token.kind {
                    Kind::Name(n) if n == "def" => self.function(&[])?,
                    Kind::Name(n) if n == "for" => self.for_statement()?,
                    Kind::Name(n) if n == "with" => self.with_statement()?,
                    _ => return self.refuse(),
                }
            }
            _ if self.is_op("@") => self.decorated()?,
            _ => self.simple_line()?,
        }
        self.leave();
        Ok(())
    }

    /// A suite: an indented block, or simple statements on the same line.
    pub(super) fn block(&mut self) -> Parsed<()> {
        self.expect_op(":")?;
        if !self.skip_newline()? {
            return self.simple_line();
        }
        if self.token.kind != Kind::Indent {
            return self.refuse();
        }
        self.advance()?;
        while self.token.kind != Kind::Dedent {
            if self.token.kind == Kind::End {
                // A text whose last line is indented ends without a dedent of its own.
                return Ok(());
            }
            if !self.skip_newline()? {
                self.statement()?;
            }
        }
        self.advance()?;
        Ok(())
    }

    fn optional_else(&mut self) -> Parsed<()> {
        if self.take_word("else")? {
            self.block()?;
        }
        Ok(())
    }

    fn if_statement(&mut self) -> Parsed<()> {
        let outer = self.main;
        loop {
            self.advance()?;
            let from = self.token.start;
            self.named_expression()?;
            let condition = self.text.get(from..self.last_end).unwrap_or_default();
            self.main = outer || is_main_guard(condition);
            self.block()?;
            self.main = outer;
            if !self.is_word("elif") {
                return self.optional_else();
            }
        }
    }

    fn for_statement(&mut self) -> Parsed<()> {
        self.advance()?;
        let target = self.targets()?;
        self.bind_target(target, None);
        self.expect_word("in")?;
        self.expressions()?;
        self.block()?;
        self.optional_else()
    }

    fn try_statement(&mut self) -> Parsed<()> {
        self.advance()?;
        self.block()?;
        let mut handled = false;
        while self.take_word("except")? {
            handled = true;
            self.take_op("*")?;
            if !self.is_op(":") {
                self.expressions()?;
                if self.take_word("as")? {
                    let name = self.identifier()?;
                    self.bind(name, Bound::Unknown);
                }
            }
            self.block()?;
        }
        if handled {
            self.optional_else()?;
        }
        if self.take_word("finally")? {
            self.block()?;
        } else if !handled {
            return self.refuse();
        }
        Ok(())
    }

    fn with_statement(&mut self) -> Parsed<()> {
        self.advance()?;
        loop {
            self.as_allowed = self.is_op("(");
            let value = self.expression()?;
            self.as_allowed = false;
            if self.take_word("as")? {
                let target = self.target()?;
                self.bind_target(target, Some(value));
            }
            if !self.take_op(",")? {
                return self.block();
            }
        }
    }

    fn decorated(&mut self) -> Parsed<()> {
        let mut decorators = Vec::new();
        while self.take_op("@")? {
            let start = self.token.start;
            let e = self.named_expression()?;
            decorators.push((e, start, self.last_end));
            if self.token.kind != Kind::Newline {
                return self.refuse();
            }
            while self.skip_newline()? {}
        }
        self.take_word("async")?;
        if self.is_word("def") {
            self.function(&decorators)
        } else if self.is_word("class") {
            self.class(&decorators)
        } else {
            self.refuse()
        }
    }

    /// A decorator is a call of it.
    fn decorate(&mut self, decorators: &[(Id, usize, usize)]) {
        for &(callee, start, end) in decorators {
            let argument = self.tree.push(Expr::Other);
            self.call(callee, vec![(None, argument)], start, end);
        }
    }

    pub(super) fn type_parameters(&mut self) -> Parsed<()> {
        if !self.take_op("[")? {
            return Ok(());
        }
        while !self.take_op("]")? {
            if !self.take_op("*")? {
                self.take_op("**")?;
            }
            let name = self.identifier()?;
            self.bind(name, Bound::Unknown);
            if self.take_op(":")? {
                self.expression()?;
            }
            if self.take_op("=")? {
                self.star_expression()?;
            }
            if !self.take_op(",")? && !self.is_op("]") {
                return self.refuse();
            }
        }
        Ok(())
    }

    fn function(&mut self, decorators: &[(Id, usize, usize)]) -> Parsed<()> {
        self.advance()?;
        let name = self.identifier()?;
        self.type_parameters()?;
        let scope = self
            .tree
            .open(ScopeKind::Function, Some(name), Some(self.scope));
        self.bind(name, Bound::Scope(scope));
        self.expect_op("(")?;
        self.parameters(scope, ")", true)?;
        self.expect_op(")")?;
        if self.take_op("->")? {
            self.expressions()?;
        }
        self.inside(scope, Self::block)?;
        self.decorate(decorators);
        Ok(())
    }

    /// Runs `body` with `scope` as the current one.
    pub(super) fn inside(
        &mut self,
        scope: ScopeId,
        body: impl FnOnce(&mut Self) -> Parsed<()>,
    ) -> Parsed<()> {
        let outer = std::mem::replace(&mut self.scope, scope);
        let main = std::mem::take(&mut self.main);
        body(self)?;
        self.scope = outer;
        self.main = main;
        Ok(())
    }

    /// Parameters up to `close`, bound in `scope`; defaults and annotations are evaluated outside.
    pub(super) fn parameters(
        &mut self,
        scope: ScopeId,
        close: &str,
        annotated: bool,
    ) -> Parsed<()> {
        while !self.is_op(close) {
            if !self.take_op("/")? {
                let star = self.take_op("*")?;
                let stars = star || self.take_op("**")?;
                if !(star && (self.is_op(",") || self.is_op(close))) {
                    let name = self.identifier()?;
                    if annotated && self.take_op(":")? {
                        self.star_expression()?;
                    }
                    let at = self.token.start;
                    let mut to = Bound::Unknown;
                    if !stars && self.take_op("=")? {
                        to = Bound::Expr(self.expression()?);
                    }
                    self.tree.bind(scope, name, at, to);
                }
            }
            if !self.take_op(",")? && !self.is_op(close) {
                return self.refuse();
            }
        }
        Ok(())
    }

    fn class(&mut self, decorators: &[(Id, usize, usize)]) -> Parsed<()> {
        self.advance()?;
        let name = self.identifier()?;
        self.type_parameters()?;
        let scope = self
            .tree
            .open(ScopeKind::Class, Some(name), Some(self.scope));
        self.bind(name, Bound::Scope(scope));
        if self.is_op("(") {
            let start = self.token.start;
            self.advance()?;
            let args = self.arguments()?;
            // A metaclass is called with the class; a base is not.
            let meta = args
                .iter()
                .find(|(k, _)| k.is_some_and(|k| self.tree.name(k) == "metaclass"));
            if let Some(&(_, callee)) = meta {
                let end = self.last_end;
                self.call(callee, Vec::new(), start, end);
            }
        }
        let main = self.main;
        self.inside(scope, |p| {
            p.main = main;
            p.block()
        })?;
        self.decorate(decorators);
        Ok(())
    }
}
