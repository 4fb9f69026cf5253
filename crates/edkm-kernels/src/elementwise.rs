//! Kernels that treat each number on its own.

use crate::{check, lanes::dispatch, parallel};

pub use crate::exp::exp;

/// y += x. Both of any one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    check::len("x", x, y.len());
    with_one(y, x, |y, x| y + x);
}

/// y += a x. Both of any one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    check::len("x", x, y.len());
    with_one(y, x, move |y, x| x.mul_add(a, y));
}

/// out = a + b, as of a residual connection. All of one length.
///
/// # Panics
///
/// If the lengths differ.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    check::len("a", a, out.len());
    check::len("b", b, out.len());
    parallel::for_each_piece(out, parallel::PIECE, |first, out| {
        let (a, b) = (&a[first..][..out.len()], &b[first..][..out.len()]);
        dispatch(
            #[inline(always)]
            || out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b),
        );
    });
}

/// y *= a.
pub fn scale(y: &mut [f32], a: f32) {
    in_place(y, move |y| y * a);
}

/// y = e^y, to the precision of [`exp()`].
pub fn exp_assign(y: &mut [f32]) {
    in_place(y, exp);
}

/// y = y sigmoid(y), the activation "SiLU" (Elfwing, Uchibe and Doya 2018).
pub fn silu_assign(y: &mut [f32]) {
    in_place(y, |y| y * sigmoid(y));
}

/// 1 / (1 + e^-x), vectorisable as [`exp()`].
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

fn in_place(y: &mut [f32], f: impl Fn(f32) -> f32 + Send + Sync) {
    parallel::for_each_piece(y, parallel::PIECE, |_, y| {
        dispatch(
            #[inline(always)]
            || y.iter_mut().for_each(|y| *y = f(*y)),
        );
    });
}

fn with_one(y: &mut [f32], x: &[f32], f: impl Fn(f32, f32) -> f32 + Send + Sync) {
    parallel::for_each_piece(y, parallel::PIECE, |first, y| {
        let x = &x[first..][..y.len()];
        dispatch(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(*y, x)),
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random, wide};

    /// One number, and more than a piece.
    const LENGTHS: [usize; 3] = [1, 77, 40_000];

    #[test]
    fn agree_with_their_definitions() {
        for n in LENGTHS {
            let (x, y) = (random(1, n), random(2, n));
            let (wx, wy) = (wide(&x), wide(&y));
            let expect = |f: fn(f64, f64) -> f64| -> Vec<f64> { wx.iter().zip(&wy).map(|(&x, &y)| f(x, y)).collect() };
            // A few roundings each.
            let check = |what: &str, got: &[f32], f: fn(f64, f64) -> f64| assert_close(what, got, &expect(f), 4e-7);

            let mut out = y.clone();
            add_assign(&mut out, &x);
            check("add_assign", &out, |x, y| x + y);
            let mut out = y.clone();
            axpy(2.5, &x, &mut out);
            check("axpy", &out, |x, y| 2.5 * x + y);
            let mut out = vec![f32::NAN; n];
            add(&x, &y, &mut out);
            check("add", &out, |x, y| x + y);
            let mut out = x.clone();
            scale(&mut out, -0.25);
            check("scale", &out, |x, _| -0.25 * x);
            let mut out = x.clone();
            exp_assign(&mut out);
            check("exp", &out, |x, _| x.exp());
            let mut out = x.clone();
            silu_assign(&mut out);
            check("silu", &out, |x, _| x / (1.0 + (-x).exp()));
        }
    }

    #[test]
    fn silu_at_the_ends() {
        let mut y = [-200.0, 200.0, 0.0, f32::NAN];
        silu_assign(&mut y);
        assert_eq!(y[..3], [0.0, 200.0, 0.0]);
        assert!(y[3].is_nan());
    }
}
