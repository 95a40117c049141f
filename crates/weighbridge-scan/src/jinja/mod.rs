//! Jinja2 templates as syntax trees.
//!
//! The language is that of `jinja2` 3.1 (`lexer.py`, `parser.py`) with the extensions that model
//! tools switch on: `{% break %}` and `{% continue %}`, `{% do %}`, `{% trans %}`, and the
//! `{% generation %}` of transformers. Line statements are off, as they are there. Whitespace
//! control (`{%-`, `trim_blocks`) is understood and not applied: it changes only blanks.
//!
//! The parser never gives up: what Jinja refuses is recorded with its offset, and everything
//! around it is still parsed. Its time and memory are linear in the text, its recursion is
//! bounded.

mod ast;
mod escape;
mod expr;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

pub use ast::{
    Args, Binary, Compare, Expr, ExprId, ExprKind, Param, Stmt, StmtKind, SyntaxError, SyntaxFault,
    Target, Tree,
};

/// Longest text that is parsed at once, in bytes: a tree takes up to a hundred times as much.
pub const MOST_BYTES: usize = 1 << 20;

/// Whether `text` may hold Jinja syntax: cheap, and never wrong when it says no.
pub fn looks_like_template(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'{', rest) {
        match rest.get(at + 1) {
            Some(b'{' | b'%') => return true,
            Some(_) => rest = rest.get(at + 1..).unwrap_or_default(),
            None => return false,
        }
    }
    false
}

/// Parses `text`.
pub fn parse(text: &str) -> Tree {
    parser::parse(text)
}
