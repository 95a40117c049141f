//! Tests over the rules.
