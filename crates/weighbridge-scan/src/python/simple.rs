//! Simple statements, and the `match` statement, which begins like one.

use super::ast::{Bound, Expr, Id};
use super::lex::Kind;
use super::parse::{Parsed, Parser, is_keyword};

impl Parser<'_> {
    /// Simple statements up to the end of the line.
    pub(super) fn simple_line(&mut self) -> Parsed<()> {
        loop {
            self.simple()?;
            let more = self.take_op(";")?;
            match self.token.kind {
                Kind::Newline => {
                    self.advance()?;
                    return Ok(());
                }
                Kind::End => return Ok(()),
                _ if more => {}
                _ => return self.refuse(),
            }
        }
    }

    fn at_line_end(&self) -> bool {
        matches!(self.token.kind, Kind::Newline | Kind::End) || self.is_op(";")
    }

    /// The word that tells which simple statement begins here; empty where none does.
    fn opening_word(&self) -> &'static str {
        const WORDS: [&str; 15] = [
            "pass", "break", "continue", "import", "from", "return", "del", "raise", "assert",
            "global", "nonlocal", "type", "match", "print", "exec",
        ];
        match &self.token.kind {
            Kind::Name(n) => WORDS.into_iter().find(|w| w == n).unwrap_or_default(),
            _ => "",
        }
    }

    fn simple(&mut self) -> Parsed<()> {
        let word = self.opening_word();
        match word {
            "pass" | "break" | "continue" => {
                self.advance()?;
            }
            "import" => self.import()?,
            "from" => self.import_from()?,
            "return" | "del" => {
                self.advance()?;
                if !self.at_line_end() {
                    self.expressions()?;
                }
            }
            "raise" => {
                self.advance()?;
                if !self.at_line_end() {
                    self.expressions()?;
                    if self.take_word("from")? {
                        self.expression()?;
                    }
                }
            }
            "assert" => {
                self.advance()?;
                self.expression()?;
                if self.take_op(",")? {
                    self.expression()?;
                }
            }
            "global" | "nonlocal" => {
                let global = word == "global";
                self.advance()?;
                loop {
                    let name = self.identifier()?;
                    if global && let Some(s) = self.tree.scopes.get_mut(self.scope as usize) {
                        s.globals.push(name);
                    }
                    if !self.take_op(",")? {
                        break;
                    }
                }
            }
            "type" if matches!(self.peek()?, Kind::Name(n) if !is_keyword(n)) => {
                self.advance()?;
                let name = self.identifier()?;
                self.type_parameters()?;
                self.expect_op("=")?;
                let value = self.expression()?;
                self.bind(name, Bound::Expr(value));
            }
            "match" if self.opens_match()? => return self.match_statement(),
            "print" | "exec" if self.opens_python2()? => self.python2(word == "exec")?,
            _ => self.expression_statement()?,
        }
        Ok(())
    }

    /// `import a.b as c, d`.
    fn import(&mut self) -> Parsed<()> {
        self.advance()?;
        loop {
            let at = self.token.start;
            let path = self.dotted()?;
            self.tree.imports.push((at, path.clone()));
            if self.take_word("as")? {
                let name = self.identifier()?;
                self.bind(name, Bound::Import(path));
            } else {
                let top = path.split('.').next().unwrap_or_default().to_owned();
                let name = self.tree.symbol(top.clone());
                self.bind(name, Bound::Import(top));
            }
            if !self.take_op(",")? {
                return Ok(());
            }
        }
    }

    fn dotted(&mut self) -> Parsed<String> {
        let first = self.identifier()?;
        let mut path = self.tree.name(first).to_owned();
        while self.take_op(".")? {
            let next = self.identifier()?;
            path.push('.');
            path.push_str(self.tree.name(next));
        }
        Ok(path)
    }

    /// `from a.b import c as d, e`, `from . import x`, `from m import *`.
    fn import_from(&mut self) -> Parsed<()> {
        self.advance()?;
        let at = self.token.start;
        let mut module = String::new();
        while self.is_op(".") || self.is_op("...") {
            module.push('.');
            self.advance()?;
        }
        if module.is_empty() || !self.is_word("import") {
            let path = self.dotted()?;
            module.push_str(&path);
        }
        self.expect_word("import")?;
        self.tree.imports.push((at, module.clone()));
        if self.take_op("*")? {
            if let Some(s) = self.tree.scopes.get_mut(self.scope as usize) {
                s.stars.push(module);
            }
            return Ok(());
        }
        let open = self.take_op("(")?;
        loop {
            let name = self.identifier()?;
            let full = format!("{module}.{}", self.tree.name(name));
            let local = if self.take_word("as")? {
                self.identifier()?
            } else {
                name
            };
            self.bind(local, Bound::Import(full));
            if !self.take_op(",")? || open && self.is_op(")") {
                break;
            }
        }
        if open {
            self.expect_op(")")?;
        }
        Ok(())
    }

    fn expression_statement(&mut self) -> Parsed<()> {
        let is_match = self.is_word("match");
        let first = self.expressions()?;
        if self.is_op(":") {
            if is_match && *self.peek()? == Kind::Newline {
                return self.match_blocks();
            }
            self.check_target(first)?;
            self.advance()?;
            self.expression()?;
            if self.take_op("=")? {
                let value = self.expressions()?;
                self.bind_target(first, Some(value));
            }
            return Ok(());
        }
        if let Kind::Op(op) = self.token.kind
            && op.len() >= 2
            && op.ends_with('=')
            && !matches!(op, "==" | "!=" | "<=" | ">=" | ":=")
        {
            self.check_target(first)?;
            self.advance()?;
            let value = self.expressions()?;
            if op == "+=" {
                let sum = self.tree.push(Expr::Binary("+", first, value));
                self.bind_target(first, Some(sum));
            }
            return Ok(());
        }
        let mut targets = vec![first];
        let mut value = None;
        while self.take_op("=")? {
            self.check_target(targets.last().copied().unwrap_or(first))?;
            let e = self.expressions()?;
            targets.push(e);
            value = Some(e);
        }
        if value.is_some() {
            targets.pop();
            for t in targets {
                self.bind_target(t, value);
            }
        }
        Ok(())
    }

    /// Refuses to assign to what cannot be assigned to.
    fn check_target(&self, id: Id) -> Parsed<()> {
        match self.tree.expr(id) {
            Expr::Name(_) | Expr::Attr(..) | Expr::Subscript(..) | Expr::Sequence(_) => Ok(()),
            _ => self.refuse(),
        }
    }

    /// Binds the names of `target`: to `value`, or to what is not known.
    pub(super) fn bind_target(&mut self, target: Id, value: Option<Id>) {
        let mut work = vec![(target, value)];
        while let Some((target, value)) = work.pop() {
            match self.tree.expr(target) {
                Expr::Name(s) => {
                    let s = *s;
                    self.bind(s, value.map_or(Bound::Unknown, Bound::Expr));
                }
                Expr::Sequence(items) => {
                    let values = match value.map(|v| self.tree.expr(v)) {
                        Some(Expr::Sequence(v)) if v.len() == items.len() => Some(v),
                        _ => None,
                    };
                    work.extend(
                        items
                            .iter()
                            .enumerate()
                            .map(|(i, &item)| (item, values.and_then(|v| v.get(i).copied()))),
                    );
                }
                _ => {}
            }
        }
    }

    /// Whether `match` opens a statement: what follows cannot go on an expression. The rest is
    /// told apart by the colon at the end of the line.
    fn opens_match(&mut self) -> Parsed<bool> {
        Ok(match self.peek()? {
            Kind::Name(n) => !matches!(n.as_str(), "in" | "is" | "and" | "or" | "if" | "not"),
            Kind::Number(_) | Kind::Str(_) | Kind::Format(_) => true,
            Kind::Op(op) => matches!(*op, "{" | "..."),
            _ => false,
        })
    }

    fn match_statement(&mut self) -> Parsed<()> {
        self.advance()?;
        self.expressions()?;
        if !self.is_op(":") {
            return self.refuse();
        }
        self.match_blocks()
    }

    /// The `case` blocks after the colon. Leaves the parser before the newline that a simple
    /// statement ends with, which the last dedent stands for.
    fn match_blocks(&mut self) -> Parsed<()> {
        self.expect_op(":")?;
        if !self.skip_newline()? || self.token.kind != Kind::Indent {
            return self.refuse();
        }
        self.advance()?;
        loop {
            self.expect_word("case")?;
            self.patterns()?;
            if self.take_word("if")? {
                self.named_expression()?;
            }
            self.block()?;
            match self.token.kind {
                Kind::Dedent => {
                    self.token.kind = Kind::Newline;
                    return Ok(());
                }
                Kind::End => return Ok(()),
                _ => {}
            }
        }
    }

    /// Patterns are expressions with `as` inside; their names are not followed.
    fn patterns(&mut self) -> Parsed<()> {
        loop {
            self.as_allowed = true;
            self.target()?;
            self.as_allowed = false;
            if self.take_word("as")? {
                let name = self.identifier()?;
                self.bind(name, Bound::Unknown);
            }
            if !self.take_op(",")? || self.is_op(":") || self.is_word("if") {
                return Ok(());
            }
        }
    }

    /// Python 2's `print "x"` and `exec "code"`: the operand is a literal or, for `print`, a name.
    fn opens_python2(&mut self) -> Parsed<bool> {
        Ok(matches!(
            self.peek()?,
            Kind::Str(_) | Kind::Format(_) | Kind::Number(_)
        ))
    }

    fn python2(&mut self, exec: bool) -> Parsed<()> {
        let start = self.token.start;
        self.advance()?;
        let value = self.expressions()?;
        if exec {
            let exec = self.tree.symbol("exec".into());
            let callee = self.tree.push(Expr::Name(exec));
            let end = self.last_end;
            self.call(callee, vec![(None, value)], start, end);
        }
        Ok(())
    }
}
