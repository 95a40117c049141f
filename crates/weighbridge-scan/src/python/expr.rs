//! Expressions (CPython, `Grammar/python.gram`), by precedence climbing.

use super::ast::{Bound, Call, Expr, Id, ScopeKind, Symbol};
use super::lex::{Kind, Lexer, Piece};
use super::parse::{Parsed, Parser, is_keyword};

/// Precedences of binary operators, weakest first.
const OR: u8 = 1;
const AND: u8 = 2;
const COMPARE: u8 = 4;
const BIT_OR: u8 = 5;
const UNARY: u8 = 11;
const POWER: u8 = 12;

impl Parser<'_> {
    pub(super) fn call(
        &mut self,
        callee: Id,
        args: Vec<(Option<Symbol>, Id)>,
        start: usize,
        end: usize,
    ) -> Id {
        self.tree.push(Expr::Call(Call {
            callee,
            args,
            scope: self.scope,
            main: self.main,
            start,
            end,
        }))
    }

    fn other(&mut self) -> Id {
        self.tree.push(Expr::Other)
    }

    /// Whether the current token can begin an expression; after a comma that decides whether the
    /// list goes on.
    fn begins_expression(&self) -> bool {
        match &self.token.kind {
            Kind::Name(n) => {
                !is_keyword(n)
                    || matches!(
                        n.as_str(),
                        "None" | "True" | "False" | "not" | "lambda" | "await" | "yield"
                    )
            }
            Kind::Number(_) | Kind::Str(_) | Kind::Format(_) => true,
            Kind::Op(op) => matches!(*op, "(" | "[" | "{" | "-" | "+" | "~" | "*" | "..."),
            _ => false,
        }
    }

    /// A list of expressions, as on either side of an assignment.
    pub(super) fn expressions(&mut self) -> Parsed<Id> {
        if self.is_word("yield") {
            return self.yielded();
        }
        self.listed(Self::star_expression)
    }

    /// One or several of what `item` reads, with commas between them.
    fn listed(&mut self, item: impl Fn(&mut Self) -> Parsed<Id>) -> Parsed<Id> {
        let first = item(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_op(",")? {
            if !self.begins_expression() {
                break;
            }
            items.push(item(self)?);
        }
        Ok(self.tree.push(Expr::Sequence(items)))
    }

    fn yielded(&mut self) -> Parsed<Id> {
        self.enter()?;
        self.advance()?;
        if self.take_word("from")? {
            self.expression()?;
        } else if self.begins_expression() {
            self.expressions()?;
        }
        self.leave();
        Ok(self.other())
    }

    /// What stands between `for` and `in`.
    pub(super) fn targets(&mut self) -> Parsed<Id> {
        self.listed(Self::target)
    }

    /// One target: it ends before `in`.
    pub(super) fn target(&mut self) -> Parsed<Id> {
        self.take_op("*")?;
        self.binary(BIT_OR)
    }

    pub(super) fn star_expression(&mut self) -> Parsed<Id> {
        if self.take_op("*")? {
            self.binary(BIT_OR)?;
            return Ok(self.other());
        }
        self.named_expression()
    }

    pub(super) fn named_expression(&mut self) -> Parsed<Id> {
        let e = self.expression()?;
        if self.is_op(":=") {
            let Expr::Name(name) = *self.tree.expr(e) else {
                return self.refuse();
            };
            self.advance()?;
            let value = self.expression()?;
            self.bind(name, Bound::Expr(value));
            return Ok(self.tree.push(Expr::Named(value)));
        }
        Ok(e)
    }

    /// `a if b else c`, a lambda, or anything that binds tighter.
    pub(super) fn expression(&mut self) -> Parsed<Id> {
        self.enter()?;
        let e = if self.is_word("lambda") {
            self.lambda()?
        } else if self.is_word("yield") {
            // Only where parentheses allow it; what else it may mean makes no difference.
            self.yielded()?
        } else {
            let e = self.binary(OR)?;
            if self.take_word("if")? {
                self.binary(OR)?;
                self.expect_word("else")?;
                let other = self.expression()?;
                self.tree.push(Expr::Either(e, other))
            } else {
                e
            }
        };
        self.leave();
        Ok(e)
    }

    fn lambda(&mut self) -> Parsed<Id> {
        self.advance()?;
        let scope = self.tree.open(ScopeKind::Function, None, Some(self.scope));
        self.parameters(scope, ":", false)?;
        self.expect_op(":")?;
        self.inside(scope, |p| p.expression().map(drop))?;
        Ok(self.tree.push(Expr::Lambda(scope)))
    }

    /// The operator at the current token and its precedence; a comparison of two words is taken
    /// up to its last.
    fn operator(&mut self) -> Parsed<Option<(&'static str, u8)>> {
        Ok(match &self.token.kind {
            Kind::Op(op) => {
                let level = match *op {
                    "==" | "!=" | "<" | ">" | "<=" | ">=" | "<>" => COMPARE,
                    "|" => BIT_OR,
                    "^" => 6,
                    "&" => 7,
                    "<<" | ">>" => 8,
                    "+" | "-" => 9,
                    "*" | "/" | "//" | "%" | "@" => 10,
                    "**" => POWER,
                    _ => return Ok(None),
                };
                Some((*op, level))
            }
            Kind::Name(n) => match n.as_str() {
                "or" => Some(("or", OR)),
                "and" => Some(("and", AND)),
                "in" => Some(("in", COMPARE)),
                "is" => Some(("is", COMPARE)),
                "not" => match self.peek()? {
                    Kind::Name(n) if n == "in" => Some(("not", COMPARE)),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        })
    }

    fn binary(&mut self, least: u8) -> Parsed<Id> {
        self.enter()?;
        let mut left = self.unary(least)?;
        while let Some((op, level)) = self.operator()? {
            if level < least {
                break;
            }
            self.advance()?;
            if op == "is" {
                self.take_word("not")?;
            } else if op == "not" {
                self.expect_word("in")?;
            }
            // The right side of a power binds like a sign.
            let right = self.binary(if level == POWER { UNARY } else { level + 1 })?;
            left = self.tree.push(match op {
                "or" | "and" => Expr::Either(left, right),
                _ => Expr::Binary(op, left, right),
            });
        }
        self.leave();
        Ok(left)
    }

    fn unary(&mut self, least: u8) -> Parsed<Id> {
        if self.is_word("not") {
            // `not` binds weaker than a comparison, whose operand it cannot be.
            if least > COMPARE {
                return self.refuse();
            }
            self.advance()?;
            self.binary(COMPARE - 1)?;
            return Ok(self.other());
        }
        if let Kind::Op(op @ ("-" | "+" | "~")) = self.token.kind {
            self.advance()?;
            let e = self.binary(UNARY)?;
            return Ok(self.tree.push(match op {
                "-" => Expr::Binary("neg", e, e),
                _ => Expr::Other,
            }));
        }
        if self.take_word("await")? {
            return self.primary();
        }
        self.primary()
    }

    fn primary(&mut self) -> Parsed<Id> {
        let start = self.token.start;
        let mut e = self.atom()?;
        loop {
            if self.take_op(".")? {
                let name = self.identifier()?;
                e = self.tree.push(Expr::Attr(e, name));
            } else if self.take_op("(")? {
                let args = self.arguments()?;
                e = self.call(e, args, start, self.last_end);
            } else if self.take_op("[")? {
                let index = self.subscript()?;
                e = self.tree.push(Expr::Subscript(e, index));
            } else {
                return Ok(e);
            }
        }
    }

    /// The arguments of a call, after its parenthesis.
    pub(super) fn arguments(&mut self) -> Parsed<Vec<(Option<Symbol>, Id)>> {
        let mut args = Vec::new();
        while !self.is_op(")") {
            if self.take_op("*")? || self.take_op("**")? {
                self.expression()?;
                args.push((None, self.other()));
            } else if matches!(&self.token.kind, Kind::Name(n) if !is_keyword(n))
                && *self.peek()? == Kind::Op("=")
            {
                let key = self.identifier()?;
                self.advance()?;
                let value = self.expression()?;
                self.optional_as()?;
                args.push((Some(key), value));
            } else {
                let e = self.named_expression()?;
                let e = self.comprehension(e)?.unwrap_or(e);
                self.optional_as()?;
                args.push((None, e));
            }
            if !self.take_op(",")? && !self.is_op(")") {
                return self.refuse();
            }
        }
        self.advance()?;
        Ok(args)
    }

    /// What stands in square brackets after a value, with the closing one.
    fn subscript(&mut self) -> Parsed<Id> {
        let mut items = Vec::new();
        let mut tuple = false;
        loop {
            items.push(self.slice()?);
            if !self.take_op(",")? {
                break;
            }
            tuple = true;
            if self.is_op("]") {
                break;
            }
        }
        self.expect_op("]")?;
        match items.first() {
            Some(&one) if !tuple => Ok(one),
            _ => Ok(self.tree.push(Expr::Sequence(items))),
        }
    }

    fn slice(&mut self) -> Parsed<Id> {
        let mut first = None;
        if !self.is_op(":") {
            let e = self.star_expression()?;
            if !self.is_op(":") {
                return Ok(e);
            }
            first = Some(e);
        }
        let mut colons = 0;
        let mut parts = 0;
        let mut step = None;
        while colons < 2 && self.take_op(":")? {
            colons += 1;
            if !matches!(self.token.kind, Kind::Op(":" | "," | "]")) {
                let from = self.token.start;
                self.expression()?;
                parts += 1;
                step = self.text.get(from..self.last_end);
            }
        }
        let reverse = first.is_none() && colons == 2 && parts == 1 && step == Some("-1");
        Ok(self
            .tree
            .push(if reverse { Expr::Reverse } else { Expr::Other }))
    }

    fn atom(&mut self) -> Parsed<Id> {
        match &self.token.kind {
            Kind::Name(n) if matches!(n.as_str(), "None" | "True" | "False") => {
                self.advance()?;
                Ok(self.other())
            }
            Kind::Name(_) => {
                let name = self.identifier()?;
                Ok(self.tree.push(Expr::Name(name)))
            }
            Kind::Number(n) => {
                let e = n.map_or(Expr::Other, Expr::Int);
                self.advance()?;
                Ok(self.tree.push(e))
            }
            Kind::Str(_) | Kind::Format(_) => self.strings(),
            Kind::Op("(") => self.parenthesised(),
            Kind::Op("[") => self.list(),
            Kind::Op("{") => self.braces(),
            Kind::Op("...") => {
                self.advance()?;
                Ok(self.other())
            }
            _ => self.refuse(),
        }
    }

    /// Adjacent literals are one.
    fn strings(&mut self) -> Parsed<Id> {
        let mut parts = Vec::new();
        let mut plain: Option<Vec<u8>> = None;
        loop {
            match &self.token.kind {
                Kind::Str(_) => {
                    let token = self.advance()?;
                    if let Kind::Str(value) = token.kind {
                        match &mut plain {
                            Some(all) => all.extend_from_slice(&value),
                            None => plain = Some(value),
                        }
                    }
                }
                Kind::Format(_) => {
                    let token = self.advance()?;
                    if let Some(value) = plain.take() {
                        parts.push(self.literal(value));
                    }
                    if let Kind::Format(pieces) = token.kind {
                        for p in pieces {
                            parts.push(match p {
                                Piece::Text(t) => self.literal(t),
                                Piece::Field(range) => self.field(range)?,
                            });
                        }
                    }
                }
                _ => break,
            }
        }
        if let Some(value) = plain {
            let e = self.literal(value);
            if parts.is_empty() {
                return Ok(e);
            }
            parts.push(e);
        }
        Ok(self.tree.push(Expr::Join(parts)))
    }

    fn literal(&mut self, value: Vec<u8>) -> Id {
        self.tree.push(Expr::Str(value.into()))
    }

    /// The expression of a replacement field.
    fn field(&mut self, range: std::ops::Range<usize>) -> Parsed<Id> {
        self.enter()?;
        let deeper = self.lexer.depth() + 1;
        let inner = Lexer::field(self.text, range, deeper);
        let lexer = std::mem::replace(&mut self.lexer, inner);
        let ahead = self.ahead.take();
        let first = self.lexer.next()?;
        let token = std::mem::replace(&mut self.token, first);
        let e = self.expressions()?;
        // `{x=}` shows the text too.
        self.take_op("=")?;
        if self.token.kind != Kind::End {
            return self.refuse();
        }
        self.lexer = lexer;
        self.ahead = ahead;
        self.last_end = token.start;
        self.token = token;
        self.leave();
        Ok(e)
    }

    fn optional_as(&mut self) -> Parsed<()> {
        if self.as_allowed && self.take_word("as")? {
            let target = self.target()?;
            self.bind_target(target, None);
        }
        Ok(())
    }

    /// Elements up to `close`, and whether they were a comprehension. `tuple` tells `(a,)`.
    fn elements(&mut self, close: &str) -> Parsed<(Vec<Id>, bool)> {
        let mut items = Vec::new();
        let mut tuple = false;
        while !self.is_op(close) {
            let e = self.star_expression()?;
            if items.is_empty()
                && let Some(c) = self.comprehension(e)?
            {
                self.expect_op(close)?;
                return Ok((vec![c], false));
            }
            self.optional_as()?;
            items.push(e);
            if self.take_op(",")? {
                tuple = true;
            } else if !self.is_op(close) {
                return self.refuse();
            }
        }
        self.advance()?;
        Ok((items, tuple))
    }

    fn parenthesised(&mut self) -> Parsed<Id> {
        self.advance()?;
        let (items, tuple) = self.elements(")")?;
        match items.first() {
            Some(&one) if !tuple => Ok(one),
            _ => Ok(self.tree.push(Expr::Sequence(items))),
        }
    }

    fn list(&mut self) -> Parsed<Id> {
        self.advance()?;
        let (items, _) = self.elements("]")?;
        match items.first() {
            Some(&one) if matches!(self.tree.expr(one), Expr::Comprehension(..)) => Ok(one),
            _ => Ok(self.tree.push(Expr::Sequence(items))),
        }
    }

    /// A set or a dict.
    fn braces(&mut self) -> Parsed<Id> {
        self.advance()?;
        let mut pairs = Vec::new();
        let mut items = Vec::new();
        while !self.is_op("}") {
            if self.take_op("**")? {
                self.binary(BIT_OR)?;
            } else {
                let key = self.star_expression()?;
                if self.take_op(":")? {
                    let value = self.expression()?;
                    if self.comprehension(value)?.is_none() {
                        self.optional_as()?;
                        pairs.push((key, value));
                    }
                } else if self.comprehension(key)?.is_none() {
                    self.optional_as()?;
                    items.push(key);
                }
            }
            if !self.take_op(",")? && !self.is_op("}") {
                return self.refuse();
            }
        }
        self.advance()?;
        Ok(self.tree.push(if items.is_empty() {
            Expr::Dict(pairs)
        } else {
            Expr::Sequence(items)
        }))
    }

    /// The clauses of a comprehension whose element was read, if there are any.
    fn comprehension(&mut self, element: Id) -> Parsed<Option<Id>> {
        let mut clauses = 0u32;
        let mut only = None;
        loop {
            if self.is_word("async") && matches!(self.peek()?, Kind::Name(n) if n == "for") {
                self.advance()?;
            }
            if !self.take_word("for")? {
                break;
            }
            clauses += 1;
            let target = self.targets()?;
            self.bind_target(target, None);
            self.expect_word("in")?;
            let iterable = self.binary(OR)?;
            let mut filtered = false;
            while self.take_word("if")? {
                filtered = true;
                let condition = self.binary(OR)?;
                if self.is_op(":=") {
                    let Expr::Name(name) = *self.tree.expr(condition) else {
                        return self.refuse();
                    };
                    self.advance()?;
                    let value = self.expression()?;
                    self.bind(name, Bound::Expr(value));
                }
            }
            if let (Expr::Name(s), false) = (self.tree.expr(target), filtered) {
                only = Some((*s, iterable));
            }
        }
        Ok(match (clauses, only) {
            (0, _) => None,
            (1, Some((variable, iterable))) => Some(
                self.tree
                    .push(Expr::Comprehension(element, variable, iterable)),
            ),
            _ => Some(self.other()),
        })
    }
}
