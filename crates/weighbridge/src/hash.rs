//! Digests of tensors.
