//! Run-time choice of the instruction set.

use pulp::{Arch, Simd, WithSimd};

/// Runs `f` compiled for the widest vectors that the machine has.
///
/// `f` must be marked or small enough to be inlined: only code inlined here is compiled for them.
#[inline(always)]
pub(crate) fn widest<R>(f: impl FnOnce() -> R) -> R {
    struct Call<F>(F);
    impl<R, F: FnOnce() -> R> WithSimd for Call<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Call(f))
}
