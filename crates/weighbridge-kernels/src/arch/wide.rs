//! Plain loops built once more for processors with wider vectors: the same arithmetic, the same
//! bits.
#![allow(unsafe_code)]

/// A loop over slices. Mark `run` and all it calls `#[inline(always)]`: what is not inlined is
/// built without the instructions.
pub(crate) trait Body {
    /// What it gives.
    type Out;
    /// Does it.
    fn run(self) -> Self::Out;
}

/// Runs `body` with the widest vectors of this processor.
pub(crate) fn wide<B: Body>(body: B) -> B::Out {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn inside<B: Body>(body: B) -> B::Out {
            body.run()
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the instructions are there, as was just found.
            return unsafe { inside(body) };
        }
    }
    body.run()
}
