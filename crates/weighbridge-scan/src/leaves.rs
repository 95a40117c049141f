//! The strings of a configuration, with the keys they stand under.

use std::rc::Rc;

use serde_json::Value;

/// A string in a tree.
#[derive(Debug)]
pub(crate) struct Leaf<'v> {
    /// The keys from the root, joined by points; positions in lists are left out.
    pub(crate) path: Rc<str>,
    /// The last key.
    pub(crate) key: &'v str,
    pub(crate) text: &'v str,
}

/// Keys under which tokenizers keep their vocabulary: pieces of text of every kind, and none of
/// them an instruction to anything.
const VOCABULARY: [&str; 6] = [
    "vocab",
    "merges",
    "added_tokens",
    "added_tokens_decoder",
    "additional_special_tokens",
    "word_index",
];

/// Longest path of keys that is written out, in bytes.
const LONGEST_PATH: usize = 200;

/// Calls `visit` with every node of the tree that has a key, in the order of the file. `visit`
/// says whether to go on inside. Depth costs no stack.
pub(crate) fn nodes<'v>(
    value: &'v Value,
    visit: &mut dyn FnMut(&Rc<str>, &'v str, &'v Value) -> bool,
) {
    let root: Rc<str> = Rc::from("");
    let mut work: Vec<(Rc<str>, &'v str, &'v Value)> = vec![(root, "", value)];
    while let Some((path, key, value)) = work.pop() {
        if !visit(&path, key, value) {
            continue;
        }
        match value {
            Value::Object(map) => {
                for (k, v) in map.iter().rev() {
                    // Numbers make up most of a vocabulary, and no rule asks for them.
                    if matches!(v, Value::Number(_) | Value::Null) {
                        continue;
                    }
                    let path = if path.is_empty() {
                        Rc::from(k.as_str())
                    } else if path.len() + k.len() > LONGEST_PATH {
                        Rc::clone(&path)
                    } else {
                        Rc::from(format!("{path}.{k}"))
                    };
                    work.push((path, k, v));
                }
            }
            Value::Array(items) => {
                work.extend(
                    items
                        .iter()
                        .rev()
                        .filter(|v| !matches!(v, Value::Number(_) | Value::Null))
                        .map(|v| (Rc::clone(&path), key, v)),
                );
            }
            _ => {}
        }
    }
}

/// The strings of a tree outside vocabularies, in the order of the file.
pub(crate) fn strings<'v>(value: &'v Value, visit: &mut dyn FnMut(Leaf<'v>)) {
    nodes(value, &mut |path, key, value| {
        if VOCABULARY.contains(&key) && !matches!(value, Value::String(_)) {
            return false;
        }
        if let Value::String(text) = value {
            visit(Leaf {
                path: Rc::clone(path),
                key,
                text,
            });
        }
        true
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_come_in_order_with_their_paths() {
        let v = json!({"a": {"b": ["x", {"c": "y"}], "n": 1}, "vocab": {"t": "z"}, "d": "w"});
        let mut got = Vec::new();
        strings(&v, &mut |l| {
            got.push(format!("{}={} {}", l.path, l.text, l.key))
        });
        assert_eq!(got, ["a.b=x b", "a.b.c=y c", "d=w d"]);
    }

    #[test]
    fn a_deep_tree_costs_no_stack() {
        let mut v = json!("x");
        for _ in 0..50_000 {
            v = Value::Array(vec![v]);
        }
        let mut n = 0;
        strings(&v, &mut |_| n += 1);
        assert_eq!(n, 1);
        // Taking it apart again by hand: dropping it would recurse.
        while let Value::Array(mut items) = v {
            v = items.pop().unwrap_or_default();
        }
    }
}
