//! Which format a file is, by its bytes.
