//! Python source, read and never run: whether a text as a whole is a program, and what it calls.
//!
//! The grammar is CPython's (`Grammar/python.gram`, up to 3.14). Names are followed through
//! imports, aliases and constants of the same text, so that `__import__('o' + 's').system` and
//! `from os import system as f` are both `os.system`.

mod ast;
mod expr;
mod fold;
mod lex;
mod names;
mod parse;
mod resolve;
mod simple;
mod text;

use std::collections::{HashMap, HashSet};

use ast::{Call, Expr, ScopeId, ScopeKind, Tree};
use resolve::{Resolver, Value};

pub use lex::Reject;

/// Longest text that is read, in bytes.
pub const LONGEST: usize = 4 << 20;

/// Most arguments of a call that are looked at.
const ARGUMENTS: usize = 8;

/// When a call runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// As soon as the text is run or imported.
    Import,
    /// When the text is run as a program: under `if __name__ == "__main__"`.
    Main,
    /// When the named function is called; empty for a lambda.
    Called(String),
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A constant text or bytes.
    Text(Vec<u8>),
    /// Something that has a dotted name.
    Name(String),
    /// Anything else.
    Other,
}

/// A call whose callee has a name.
#[derive(Debug, Clone)]
pub struct CallSite {
    /// The dotted name of what is called, resolved: `os.system`, `builtins.eval`.
    pub name: String,
    /// When it runs.
    pub when: When,
    /// Its first arguments: the keyword, where there is one, and the value.
    pub args: Vec<(Option<String>, Argument)>,
    /// First byte of the call in the text.
    pub start: usize,
    /// End of the call in the text.
    pub end: usize,
}

/// What a program does, as far as its text says.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The calls, in the order of the text.
    pub calls: Vec<CallSite>,
    /// The modules it imports, with the place.
    pub imports: Vec<(usize, String)>,
}

/// Reads `text` as a whole Python program.
///
/// # Errors
/// Where it stops to be Python, or a limit of this reader.
pub fn read(text: &str) -> Result<Program, Reject> {
    if text.len() > LONGEST {
        return Err(Reject { at: 0, limit: true });
    }
    let tree = parse::parse(text)?;
    let resolver = Resolver::new(&tree);
    let mut sites = Vec::new();
    let mut edges: HashMap<ScopeId, Vec<ScopeId>> = HashMap::new();
    for e in &tree.exprs {
        let Expr::Call(call) = e else { continue };
        let callee = resolver.value(call.callee, call.scope, call.start);
        let mut reach = |s: ScopeId| {
            if !call.main {
                edges.entry(call.scope).or_default().push(s);
            }
        };
        let args = arguments(&resolver, call, &mut reach);
        match callee {
            Value::Path(name) => sites.push((call, name, args)),
            Value::Local(s) => reach(s),
            _ => {}
        }
    }
    let live = live(&tree, &edges);
    let mut calls: Vec<CallSite> = sites
        .into_iter()
        .map(|(call, name, args)| CallSite {
            name,
            when: when(&tree, call, &live),
            args,
            start: call.start,
            end: call.end,
        })
        .collect();
    calls.sort_by_key(|c| c.start);
    let imports = tree.imports;
    Ok(Program { calls, imports })
}

fn arguments(
    resolver: &Resolver<'_>,
    call: &Call,
    local: &mut dyn FnMut(ScopeId),
) -> Vec<(Option<String>, Argument)> {
    call.args
        .iter()
        .take(ARGUMENTS)
        .map(|&(key, id)| {
            let value = match resolver.value(id, call.scope, call.start) {
                Value::Text(t) => Argument::Text(t),
                Value::Path(p) => Argument::Name(p),
                Value::Local(s) => {
                    local(s);
                    Argument::Other
                }
                _ => Argument::Other,
            };
            (key.map(|k| resolver.tree.name(k).to_owned()), value)
        })
        .collect()
}

/// The scopes that run when the text does: the module, its classes, and what they call.
fn live(tree: &Tree, edges: &HashMap<ScopeId, Vec<ScopeId>>) -> HashSet<ScopeId> {
    let is_class = |s: ScopeId| tree.scope(s).is_some_and(|s| s.kind == ScopeKind::Class);
    let mut children: HashMap<ScopeId, Vec<ScopeId>> = HashMap::new();
    for (i, s) in tree.scopes.iter().enumerate() {
        if let Some(p) = s.parent {
            children.entry(p).or_default().push(i as ScopeId);
        }
    }
    let inner = |s: ScopeId| children.get(&s).into_iter().flatten().copied();
    let mut live = HashSet::new();
    let mut made = HashSet::new();
    let mut work: Vec<ScopeId> = vec![0];
    while let Some(s) = work.pop() {
        if !live.insert(s) {
            continue;
        }
        work.extend(inner(s).filter(|&c| is_class(c)));
        for &called in edges.get(&s).into_iter().flatten() {
            if is_class(called) {
                // Whoever makes an instance runs what Python calls by itself.
                if made.insert(called) {
                    work.extend(inner(called).filter(|&m| is_special(tree, m)));
                }
            } else {
                work.push(called);
            }
        }
    }
    live
}

fn is_special(tree: &Tree, s: ScopeId) -> bool {
    let name = tree.scope(s).and_then(|s| s.name);
    name.is_some_and(|n| {
        let n = tree.name(n);
        n.starts_with("__") && n.ends_with("__")
    })
}

fn when(tree: &Tree, call: &Call, live: &HashSet<ScopeId>) -> When {
    if live.contains(&call.scope) {
        return if call.main { When::Main } else { When::Import };
    }
    let mut names = Vec::new();
    let mut at = Some(call.scope);
    for _ in 0..8 {
        let Some(scope) = at.and_then(|s| tree.scope(s)) else {
            break;
        };
        if let Some(n) = scope.name {
            names.push(tree.name(n));
        }
        at = scope.parent;
    }
    names.reverse();
    When::Called(names.join("."))
}

#[cfg(test)]
mod tests;
