//! Encodings that several formats share.
