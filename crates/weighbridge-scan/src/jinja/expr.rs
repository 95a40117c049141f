//! Expressions (`jinja2/parser.py`, `parse_expression` and below).

use super::ast::{Args, Binary, Compare, ExprId, ExprKind, SyntaxFault};
use super::lexer::TokenKind;
use super::parser::{Failed, MOST_DEPTH, Parser};

type Parsed<T> = Result<T, Failed>;

/// How tightly an operator binds, loosest first. `not` lies between `and` and the comparisons.
const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const ADD: u8 = 5;
const CONCAT: u8 = 6;
const MUL: u8 = 7;
const POW: u8 = 8;

impl<'s> Parser<'s> {
    /// `a, b`, or a single expression without a comma.
    pub(super) fn tuple(&mut self, conditional: bool) -> Parsed<ExprId> {
        let start = self.here();
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            if self.tuple_ends() {
                break;
            }
            items.push(self.expression(conditional)?);
            if !self.skip_op(",") {
                break;
            }
            comma = true;
        }
        match (items.as_slice(), comma) {
            ([one], false) => Ok(*one),
            ([], _) => Err(self.fail("an expression is missing")),
            _ => Ok(self.add(start, ExprKind::Tuple(items))),
        }
    }

    fn tuple_ends(&self) -> bool {
        matches!(self.peek(), None | Some(TokenKind::Op(")")))
    }

    /// One expression; `conditional` allows `a if b else c` at its top.
    pub(super) fn expression(&mut self, conditional: bool) -> Parsed<ExprId> {
        self.deeper(|p| {
            let start = p.here();
            let mut value = p.binary(OR)?;
            while conditional && p.skip_name("if") {
                let test = p.binary(OR)?;
                let otherwise = if p.skip_name("else") {
                    Some(p.expression(true)?)
                } else {
                    None
                };
                let then = value;
                value = p.add(
                    start,
                    ExprKind::Cond {
                        test,
                        then,
                        otherwise,
                    },
                );
            }
            Ok(value)
        })
    }

    /// Runs `parse` one level deeper, within what the stack allows.
    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MOST_DEPTH {
            return Err(self.refuse("nested too deeply", SyntaxFault::Limit));
        }
        self.depth += 1;
        let out = parse(self);
        self.depth -= 1;
        out
    }

    /// Operators that bind at least as tightly as `least`.
    fn binary(&mut self, least: u8) -> Parsed<ExprId> {
        let start = self.here();
        if least <= NOT && self.skip_name("not") {
            let inner = self.deeper(|p| p.binary(NOT))?;
            let not = self.add(start, ExprKind::Not(inner));
            return self.binary_rest(start, not, least);
        }
        let left = self.unary(true)?;
        self.binary_rest(start, left, least)
    }

    fn binary_rest(&mut self, start: usize, mut left: ExprId, least: u8) -> Parsed<ExprId> {
        loop {
            let Some(level) = self.operator_level().filter(|l| *l >= least) else {
                return Ok(left);
            };
            left = match level {
                COMPARE => self.comparison(start, left)?,
                CONCAT => {
                    let mut parts = vec![left];
                    while self.skip_op("~") {
                        parts.push(self.binary(MUL)?);
                    }
                    self.add(start, ExprKind::Concat(parts))
                }
                _ => {
                    let Some(op) = self.binary_operator() else {
                        return Ok(left);
                    };
                    let right = self.binary(level + 1)?;
                    self.add(start, ExprKind::Binary(left, op, right))
                }
            };
        }
    }

    fn operator_level(&self) -> Option<u8> {
        Some(match self.peek()? {
            TokenKind::Name("or") => OR,
            TokenKind::Name("and") => AND,
            TokenKind::Name("in") => COMPARE,
            TokenKind::Name("not") if self.peek_is_name(1, "in") => COMPARE,
            TokenKind::Op("==" | "!=" | "<" | "<=" | ">" | ">=") => COMPARE,
            TokenKind::Op("+" | "-") => ADD,
            TokenKind::Op("~") => CONCAT,
            TokenKind::Op("*" | "/" | "//" | "%") => MUL,
            TokenKind::Op("**") => POW,
            _ => return None,
        })
    }

    fn binary_operator(&mut self) -> Option<Binary> {
        let op = match self.peek()? {
            TokenKind::Name("or") => Binary::Or,
            TokenKind::Name("and") => Binary::And,
            TokenKind::Op("+") => Binary::Add,
            TokenKind::Op("-") => Binary::Sub,
            TokenKind::Op("*") => Binary::Mul,
            TokenKind::Op("/") => Binary::Div,
            TokenKind::Op("//") => Binary::FloorDiv,
            TokenKind::Op("%") => Binary::Mod,
            TokenKind::Op("**") => Binary::Pow,
            _ => return None,
        };
        self.skip();
        Some(op)
    }

    fn comparison(&mut self, start: usize, left: ExprId) -> Parsed<ExprId> {
        let mut rest = Vec::new();
        while self.operator_level() == Some(COMPARE) {
            let op = match self.peek() {
                Some(TokenKind::Name("in")) => Compare::In,
                Some(TokenKind::Op("==")) => Compare::Eq,
                Some(TokenKind::Op("!=")) => Compare::Ne,
                Some(TokenKind::Op("<")) => Compare::Lt,
                Some(TokenKind::Op("<=")) => Compare::Le,
                Some(TokenKind::Op(">")) => Compare::Gt,
                Some(TokenKind::Op(">=")) => Compare::Ge,
                _ => {
                    self.skip();
                    Compare::NotIn
                }
            };
            self.skip();
            rest.push((op, self.binary(ADD)?));
        }
        Ok(self.add(start, ExprKind::Compare(left, rest)))
    }

    fn unary(&mut self, filters: bool) -> Parsed<ExprId> {
        let start = self.here();
        let sign = match self.peek() {
            Some(TokenKind::Op("-")) => Some(true),
            Some(TokenKind::Op("+")) => Some(false),
            _ => None,
        };
        let mut value = match sign {
            Some(negative) => {
                self.skip();
                let inner = self.deeper(|p| p.unary(false))?;
                self.add(start, ExprKind::Sign(inner, negative))
            }
            None => self.primary()?,
        };
        value = self.postfix(start, value)?;
        if !filters {
            return Ok(value);
        }
        loop {
            value = match self.peek() {
                Some(TokenKind::Op("|")) => self.filter(start, Some(value), false)?,
                Some(TokenKind::Name("is")) => self.test(start, value)?,
                Some(TokenKind::Op("(")) => {
                    let args = self.call_args()?;
                    self.add(start, ExprKind::Call(value, args))
                }
                _ => return Ok(value),
            };
        }
    }

    /// A name or a literal.
    pub(super) fn primary(&mut self) -> Parsed<ExprId> {
        let start = self.here();
        let kind = match self.take() {
            Some(TokenKind::Name(n)) => match n {
                "true" | "True" => ExprKind::Bool(true),
                "false" | "False" => ExprKind::Bool(false),
                "none" | "None" => ExprKind::None,
                _ => ExprKind::Name(n.to_owned()),
            },
            Some(TokenKind::Str(mut s)) => {
                while let Some(TokenKind::Str(more)) = self.peek() {
                    s.push_str(more);
                    self.skip();
                }
                ExprKind::Str(s)
            }
            Some(TokenKind::Int(n)) => ExprKind::Int(n),
            Some(TokenKind::Float(n)) => ExprKind::Float(n),
            Some(TokenKind::Op("(")) => return self.parentheses(start),
            Some(TokenKind::Op("[")) => ExprKind::List(self.items("]")?),
            Some(TokenKind::Op("{")) => return self.dict(start),
            Some(TokenKind::Op(op)) => {
                self.back();
                return Err(self.fail(format!("unexpected '{op}'")));
            }
            None => return Err(self.fail("an expression is missing")),
        };
        Ok(self.add(start, kind))
    }

    fn parentheses(&mut self, start: usize) -> Parsed<ExprId> {
        if self.skip_op(")") {
            return Ok(self.add(start, ExprKind::Tuple(Vec::new())));
        }
        let inner = self.tuple(true)?;
        self.expect_op(")")?;
        Ok(inner)
    }

    fn items(&mut self, close: &'static str) -> Parsed<Vec<ExprId>> {
        let mut items = Vec::new();
        loop {
            if self.skip_op(close) {
                return Ok(items);
            }
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(close) {
                    return Ok(items);
                }
            }
            items.push(self.expression(true)?);
        }
    }

    fn dict(&mut self, start: usize) -> Parsed<ExprId> {
        let mut pairs = Vec::new();
        loop {
            if self.skip_op("}") {
                break;
            }
            if !pairs.is_empty() {
                self.expect_op(",")?;
                if self.skip_op("}") {
                    break;
                }
            }
            let key = self.expression(true)?;
            self.expect_op(":")?;
            pairs.push((key, self.expression(true)?));
        }
        Ok(self.add(start, ExprKind::Dict(pairs)))
    }

    /// Attributes, subscripts and calls behind a value.
    fn postfix(&mut self, start: usize, mut value: ExprId) -> Parsed<ExprId> {
        loop {
            let kind = match self.peek() {
                Some(TokenKind::Op(".")) => {
                    self.skip();
                    self.after_dot(value)?
                }
                Some(TokenKind::Op("[")) => {
                    self.skip();
                    ExprKind::Item(value, self.subscript()?)
                }
                Some(TokenKind::Op("(")) => ExprKind::Call(value, self.call_args()?),
                _ => return Ok(value),
            };
            value = self.add(start, kind);
        }
    }

    fn after_dot(&mut self, value: ExprId) -> Parsed<ExprKind> {
        let start = self.here();
        match self.take() {
            Some(TokenKind::Name(n)) => Ok(ExprKind::Attr(value, n.to_owned())),
            Some(TokenKind::Int(n)) => {
                let index = self.add(start, ExprKind::Int(n));
                Ok(ExprKind::Item(value, index))
            }
            _ => {
                self.back();
                Err(self.fail("a name or a number must follow the point"))
            }
        }
    }

    fn subscript(&mut self) -> Parsed<ExprId> {
        let start = self.here();
        let mut parts = Vec::new();
        while !self.skip_op("]") {
            if !parts.is_empty() {
                self.expect_op(",")?;
            }
            parts.push(self.subscript_part()?);
        }
        match parts.as_slice() {
            [one] => Ok(*one),
            _ => Ok(self.add(start, ExprKind::Tuple(parts))),
        }
    }

    fn subscript_part(&mut self) -> Parsed<ExprId> {
        let start = self.here();
        let mut bounds = [None; 3];
        let mut colons = 0;
        loop {
            match self.peek() {
                Some(TokenKind::Op(":")) if colons < 2 => {
                    self.skip();
                    colons += 1;
                }
                Some(TokenKind::Op("]" | ",")) | None => break,
                _ if bounds.get(colons).is_some_and(Option::is_some) => {
                    return Err(self.fail("unexpected expression in a slice"));
                }
                _ => {
                    let value = self.expression(true)?;
                    if let Some(slot) = bounds.get_mut(colons) {
                        *slot = Some(value);
                    }
                }
            }
        }
        match (colons, bounds) {
            (0, [Some(only), ..]) => Ok(only),
            (0, _) => Err(self.fail("an expression is missing")),
            _ => Ok(self.add(start, ExprKind::Slice(bounds))),
        }
    }

    pub(super) fn call_args(&mut self) -> Parsed<Args> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let mut first = true;
        loop {
            if self.skip_op(")") {
                return Ok(args);
            }
            if !first {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    return Ok(args);
                }
            }
            first = false;
            self.argument(&mut args)?;
        }
    }

    fn argument(&mut self, args: &mut Args) -> Parsed<()> {
        let bad = "the arguments are in no order that a call allows";
        if self.skip_op("*") {
            if args.star.is_some() || args.star_star.is_some() {
                return Err(self.fail(bad));
            }
            args.star = Some(self.expression(true)?);
        } else if self.skip_op("**") {
            if args.star_star.is_some() {
                return Err(self.fail(bad));
            }
            args.star_star = Some(self.expression(true)?);
        } else if let (Some(TokenKind::Name(n)), true) = (self.peek(), self.peek_is_op(1, "=")) {
            let name = (*n).to_owned();
            if args.star_star.is_some() {
                return Err(self.fail(bad));
            }
            self.skip();
            self.skip();
            args.named.push((name, self.expression(true)?));
        } else {
            if args.star.is_some() || args.star_star.is_some() || !args.named.is_empty() {
                return Err(self.fail(bad));
            }
            args.positional.push(self.expression(true)?);
        }
        Ok(())
    }

    /// `|name(…)`, again and again; `inline` when the first `|` is left out.
    pub(super) fn filter(
        &mut self,
        start: usize,
        mut value: Option<ExprId>,
        mut inline: bool,
    ) -> Parsed<ExprId> {
        loop {
            if !inline && !self.skip_op("|") {
                return value.ok_or_else(|| self.fail("a filter is missing"));
            }
            inline = false;
            let name = self.dotted_name()?;
            let args = if self.peek_is_op(0, "(") {
                self.call_args()?
            } else {
                Args::default()
            };
            value = Some(self.add(start, ExprKind::Filter(value, name, args)));
        }
    }

    fn dotted_name(&mut self) -> Parsed<String> {
        let mut name = self.expect_any_name()?.to_owned();
        while self.skip_op(".") {
            name.push('.');
            name.push_str(self.expect_any_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, start: usize, value: ExprId) -> Parsed<ExprId> {
        self.skip();
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let args = match self.peek() {
            Some(TokenKind::Op("(")) => self.call_args()?,
            Some(TokenKind::Name("else" | "or" | "and")) => Args::default(),
            Some(TokenKind::Name("is")) => return Err(self.fail("tests do not chain")),
            Some(
                TokenKind::Name(_)
                | TokenKind::Str(_)
                | TokenKind::Int(_)
                | TokenKind::Float(_)
                | TokenKind::Op("[" | "{"),
            ) => {
                let at = self.here();
                let only = self.primary()?;
                let only = self.postfix(at, only)?;
                Args {
                    positional: vec![only],
                    ..Args::default()
                }
            }
            _ => Args::default(),
        };
        Ok(self.add(start, ExprKind::Test(value, name, args, negated)))
    }
}
