//! Statistics of tensors.
