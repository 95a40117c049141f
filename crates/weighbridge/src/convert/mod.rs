//! Carrying a model from one format to another.
