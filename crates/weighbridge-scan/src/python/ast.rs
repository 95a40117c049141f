//! The tree of a program, in one arena: as deep as a chain of operators may be, nothing walks it
//! by recursion.

use std::collections::HashMap;

/// An expression.
pub(super) type Id = u32;
/// A name.
pub(super) type Symbol = u32;
/// A scope.
pub(super) type ScopeId = u32;

/// An expression, as far as calls and the names of what they call depend on it.
#[derive(Debug)]
pub(super) enum Expr {
    Name(Symbol),
    Str(Box<[u8]>),
    Int(u32),
    /// An f-string.
    Join(Vec<Id>),
    Attr(Id, Symbol),
    Call(Call),
    Subscript(Id, Id),
    /// `[::-1]` inside a subscript.
    Reverse,
    Binary(&'static str, Id, Id),
    /// One of the two: `a or b`, `a if c else b`.
    Either(Id, Id),
    /// A tuple, list or set.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Lambda(ScopeId),
    Named(Id),
    /// A comprehension of one clause: element, variable, iterable.
    Comprehension(Id, Symbol, Id),
    Other,
}

/// A call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) callee: Id,
    /// Positional arguments and the values of named ones.
    pub(super) args: Vec<(Option<Symbol>, Id)>,
    pub(super) scope: ScopeId,
    /// Under `if __name__ == "__main__"`.
    pub(super) main: bool,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a name stands for from some place on.
#[derive(Debug, Clone)]
pub(super) enum Bound {
    Expr(Id),
    /// An import, as its full name.
    Import(String),
    Scope(ScopeId),
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScopeKind {
    Module,
    Class,
    Function,
}

/// A module, class or function (a lambda is one).
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) kind: ScopeKind,
    pub(super) name: Option<Symbol>,
    pub(super) parent: Option<ScopeId>,
    /// In the order of the text.
    pub(super) bindings: HashMap<Symbol, Vec<(usize, Bound)>>,
    /// Modules of `from m import *`.
    pub(super) stars: Vec<String>,
    /// Names declared `global`.
    pub(super) globals: Vec<Symbol>,
}

/// A parsed program.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) exprs: Vec<Expr>,
    pub(super) scopes: Vec<Scope>,
    pub(super) names: Vec<String>,
    index: HashMap<String, Symbol>,
    /// The modules it imports, with the place.
    pub(super) imports: Vec<(usize, String)>,
}

impl Tree {
    pub(super) fn push(&mut self, e: Expr) -> Id {
        let id = self.exprs.len() as Id;
        self.exprs.push(e);
        id
    }

    pub(super) fn expr(&self, id: Id) -> &Expr {
        self.exprs.get(id as usize).unwrap_or(&Expr::Other)
    }

    pub(super) fn symbol(&mut self, name: String) -> Symbol {
        if let Some(&s) = self.index.get(&name) {
            return s;
        }
        let s = self.names.len() as Symbol;
        self.names.push(name.clone());
        self.index.insert(name, s);
        s
    }

    /// The symbol of a name that the program uses.
    pub(super) fn known(&self, name: &str) -> Option<Symbol> {
        self.index.get(name).copied()
    }

    pub(super) fn name(&self, s: Symbol) -> &str {
        self.names.get(s as usize).map_or("", String::as_str)
    }

    pub(super) fn scope(&self, id: ScopeId) -> Option<&Scope> {
        self.scopes.get(id as usize)
    }

    pub(super) fn open(
        &mut self,
        kind: ScopeKind,
        name: Option<Symbol>,
        parent: Option<ScopeId>,
    ) -> ScopeId {
        let id = self.scopes.len() as ScopeId;
        self.scopes.push(Scope {
            kind,
            name,
            parent,
            bindings: HashMap::new(),
            stars: Vec::new(),
            globals: Vec::new(),
        });
        id
    }

    pub(super) fn bind(&mut self, scope: ScopeId, name: Symbol, at: usize, to: Bound) {
        let Some(s) = self.scopes.get_mut(scope as usize) else {
            return;
        };
        if scope != 0 && s.globals.contains(&name) {
            return self.bind(0, name, at, to);
        }
        s.bindings.entry(name).or_default().push((at, to));
    }
}
