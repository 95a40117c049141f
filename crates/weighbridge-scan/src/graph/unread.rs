//! Weights that no operator reads.

use std::collections::HashSet;

use weighbridge_core::model::{AttributeValue, Graph, GraphNode};

/// Deepest nesting of bodies that is gone into.
const MOST_DEEP: usize = 64;

/// The least number of bytes that is told.
const LARGE: u64 = 64 << 10;

/// What is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread<'g> {
    /// The tensor's name.
    pub name: &'g str,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The large constants of `graph` and of its bodies that nothing reads, largest first.
pub fn unread(graph: &Graph) -> Vec<Unread<'_>> {
    let mut read = HashSet::new();
    let mut held = Vec::new();
    gather(graph, &mut read, &mut held, 0);
    for f in &graph.functions {
        for n in &f.nodes {
            node(n, &mut read, &mut held, 0);
        }
        read.extend(f.outputs.iter().map(String::as_str));
    }
    for (_, g) in &graph.training {
        gather(g, &mut read, &mut held, 0);
    }
    held.retain(|u| u.bytes >= LARGE && !read.contains(u.name));
    held.sort_by_key(|u| (std::cmp::Reverse(u.bytes), u.name));
    held
}

fn gather<'g>(
    graph: &'g Graph,
    read: &mut HashSet<&'g str>,
    held: &mut Vec<Unread<'g>>,
    depth: usize,
) {
    if depth > MOST_DEEP {
        return;
    }
    for t in &graph.initializers {
        held.push(Unread {
            name: &t.name,
            bytes: t.byte_len(),
        });
    }
    read.extend(graph.outputs.iter().map(|o| o.name.as_str()));
    for n in &graph.nodes {
        node(n, read, held, depth);
    }
}

fn node<'g>(
    n: &'g GraphNode,
    read: &mut HashSet<&'g str>,
    held: &mut Vec<Unread<'g>>,
    depth: usize,
) {
    read.extend(n.inputs.iter().map(String::as_str));
    for a in &n.attributes {
        if let (AttributeValue::Tensor(t), true, Some(name)) =
            (&a.value, n.is("Constant"), n.outputs.first())
        {
            held.push(Unread {
                name,
                bytes: t.byte_len(),
            });
        }
    }
    for (_, g) in n.bodies() {
        gather(g, read, held, depth + 1);
    }
}
