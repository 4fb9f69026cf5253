//! Run-time choice of the instruction set.

use pulp::{Arch, Simd, WithSimd};

/// Runs `f` compiled for the widest vectors that the machine has.
///
/// `f` must be marked or small enough to be inlined: only code inlined here is compiled for them. It is called once, but as
/// `FnMut`: as `FnOnce` a closure that only borrows is called through a function which need not be inlined.
#[inline(always)]
pub(crate) fn widest<R>(f: impl FnMut() -> R) -> R {
    struct Call<F>(F);
    impl<R, F: FnMut() -> R> WithSimd for Call<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Call(f))
}
