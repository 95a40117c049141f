//! Tensor-by-tensor comparison of two models.
