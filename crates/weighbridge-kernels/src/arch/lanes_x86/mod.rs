//! The lanes of `block::lanes` as AVX2 and AVX-512 vectors, and the functions that may use them.
//!
//! Vectors are made only through the tokens [`avx2::Avx2`] and [`avx512::Avx512`], which are made
//! only in [`run_avx2`] and [`run_avx512`], behind the check for the instructions. So whoever holds a
//! token or a vector is on a processor that has them: that is the argument of every `SAFETY` here.
#![allow(unsafe_code)]

#[macro_use]
mod vectors;
mod avx2;
mod avx512;

pub(crate) use avx2::{has_avx2, run_avx2};
pub(crate) use avx512::{has_avx512, run_avx512};
