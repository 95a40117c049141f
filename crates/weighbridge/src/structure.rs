//! The JSON form of the metadata tree.
