use super::*;
use crate::testing::{assert_same_for_any_pool, random};

const HYPER: Hyper = Hyper {
    lr: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 1,
    grad_scale: 0.5,
};

/// Codes and scales of one parameter.
#[derive(Clone)]
struct Held {
    first: Vec<u8>,
    second: Vec<u8>,
    scales: Vec<f32>,
}

impl Held {
    fn new(len: usize) -> Self {
        Held {
            first: vec![0; len],
            second: vec![0; len],
            scales: vec![0.0; scales(len)],
        }
    }

    fn moments(&mut self) -> Moments<'_> {
        Moments {
            first: &mut self.first,
            second: &mut self.second,
            scales: &mut self.scales,
        }
    }

    /// The numbers that the codes stand for.
    fn numbers(&self) -> (Vec<f32>, Vec<f32>) {
        let scale = |i: usize, which| self.scales[2 * (i / BLOCK) + which];
        let first = self.first.iter().enumerate();
        let second = self.second.iter().enumerate();
        (
            first.map(|(i, &code)| scale(i, 0) * first_of(code)).collect(),
            second.map(|(i, &code)| scale(i, 1) * second_of(code)).collect(),
        )
    }
}

/// Gradients whose magnitudes span ten powers of ten.
fn gradients(seed: u64, len: usize) -> Vec<f32> {
    let exponents = random(seed + 100, len);
    let numbers = random(seed, len).into_iter().zip(exponents);
    numbers.map(|(x, e)| x * 10f32.powf(5.0 * e)).collect()
}

#[test]
fn a_float_of_a_code_is_that_code() {
    for code in 0..=0x7f {
        let float = float_of(code, FIRST_ZERO);
        assert_eq!(code_of(float, FIRST_ZERO, 0xffff), code);
        let signed = code as u8 | 0x80;
        assert_eq!(first_of(signed), -first_of(code as u8));
    }
    for code in 0..=0xff {
        assert_eq!(code_of(second_of(code), SECOND_LEAST, 0xffff), code.into());
    }
    assert_eq!(first_of(0), 0.0);
    assert!(second_of(0) > 0.0);
}

#[test]
fn codes_are_rounded_up_as_often_as_the_number_lies_near_the_next() {
    for x in random(1, 200).into_iter().chain([0.0, 1.0, 3e-6, 1e-4]) {
        let all = || {
            (0..=0xffffu32)
                .step_by(17)
                .map(|random| random.wrapping_mul(40_503) & 0xffff)
        };
        let mean = |of: &dyn Fn(u32) -> f32| all().map(|r| f64::from(of(r))).sum::<f64>() / all().count() as f64;
        let exact = f64::from(x);
        let first = mean(&|random| first_of(first_code(x, 1.0, random)));
        assert!((first - exact).abs() <= 1e-3 * exact.abs() + 1e-8, "{first} for {x}");
        let second = mean(&|random| second_of(second_code(x.abs(), 1.0, random)));
        let want = exact.abs().max(SECOND_LEAST.into());
        assert!((second - want).abs() <= 1e-3 * want, "{second} for {want}");
    }
}

#[test]
fn a_step_is_that_of_the_numbers_that_the_codes_stand_for() {
    let len = 3 * BLOCK + 77;
    let mut held = Held::new(len);
    let mut param = random(1, len);
    for step in 1..=20 {
        let hyper = Hyper { step, ..HYPER };
        let grad = gradients(step, len);
        let (mut m, mut v) = held.numbers();
        if step == 1 {
            assert!(m.iter().chain(&v).all(|&x| x == 0.0));
        }
        let mut want = param.clone();
        super::super::update(&mut want, &grad, &mut m, &mut v, &hyper);
        update(&mut param, &grad, held.moments(), &hyper);
        assert_eq!(param, want, "step {step}");
        // what is kept: within a code of the new moments
        let (first, second) = held.numbers();
        for i in 0..len {
            let [first_scale, second_scale] = held.scales.as_chunks::<2>().0[i / BLOCK];
            // a code's width is an eighth of the power of two below the number, and that is raised by FIRST_ZERO
            let width = 0.125 * (m[i].abs() + first_scale * FIRST_ZERO);
            let off = (first[i] - m[i]).abs();
            assert!(off <= width, "step {step}: first moment {} of {}", first[i], m[i]);
            let want = v[i].max(second_scale * SECOND_LEAST);
            let off = (second[i] - want).abs();
            assert!(
                off <= 0.125 * want,
                "step {step}: second moment {} of {want}",
                second[i]
            );
        }
    }
}

#[test]
fn what_a_block_keeps_is_told_by_its_own_largest_number() {
    let len = 2 * BLOCK;
    let mut held = Held::new(len);
    let mut grad = random(1, len);
    grad[BLOCK] = 1e6;
    update(&mut random(2, len), &grad, held.moments(), &HYPER);
    let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
    super::super::update(&mut random(2, len), &grad, &mut m, &mut v, &HYPER);
    let (first, second) = held.numbers();
    let off = |got: &[f32], want: &[f32]| {
        let off = got.iter().zip(want).map(|(got, want)| f64::from(got - want).abs());
        off.sum::<f64>() / want.iter().map(|&x| f64::from(x.abs())).sum::<f64>()
    };
    assert!(off(&first[..BLOCK], &m[..BLOCK]) < 0.04);
    assert!(off(&second[..BLOCK], &v[..BLOCK]) < 0.04);
    assert!(off(&first[BLOCK + 1..], &m[BLOCK + 1..]) > 0.5);
}

#[test]
fn a_mean_that_moves_by_less_than_a_code_arrives() {
    // rounded to nearest the second moment would stand still where a thousandth of the way to 1 is less than half of a code
    let len = 8 * BLOCK;
    let hyper = Hyper {
        beta1: 0.999,
        beta2: 0.999,
        grad_scale: 1.0,
        weight_decay: 0.0,
        ..HYPER
    };
    let mut held = Held::new(len);
    let mut param = vec![0.0; len];
    let steps = 4000;
    for step in 1..=steps {
        let grad = vec![1.0; len];
        update(&mut param, &grad, held.moments(), &Hyper { step, ..hyper });
    }
    let want = 1.0 - 0.999f64.powi(steps as i32);
    let (m, v) = held.numbers();
    for (what, numbers) in [("first", m), ("second", v)] {
        let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / len as f64;
        assert!((mean - want).abs() < 0.01, "{what} moment {mean}, not {want}");
        let off = |&x: &f32| (f64::from(x) - want).powi(2);
        // one number's way is random, a few codes to and fro
        let spread = (numbers.iter().map(off).sum::<f64>() / len as f64).sqrt();
        assert!(spread < 0.1, "{what} moment off by {spread}");
    }
}

#[test]
fn numbers_without_a_gradient_stay_where_they_are() {
    let mut held = Held::new(BLOCK + 1);
    let start = random(1, BLOCK + 1);
    let mut param = start.clone();
    let mut grad = vec![0.0; BLOCK + 1];
    grad[3] = 1e3;
    for step in 1..=50 {
        let hyper = Hyper {
            step,
            weight_decay: 0.0,
            ..HYPER
        };
        update(&mut param, &grad, held.moments(), &hyper);
        assert!(param.iter().all(|x| x.is_finite()));
    }
    for i in (0..=BLOCK).filter(|&i| i != 3) {
        assert_eq!(param[i], start[i], "number {i}");
    }
    assert!(param[3] < start[3]);
    assert_eq!(held.scales[2..], [0.0; 2]);
}

#[test]
fn extreme_gradients_give_numbers_that_are_finite() {
    for size in [1e-45f32, 1e-38, 1e-20, 1e-18, 1e15, 1e18] {
        let mut held = Held::new(BLOCK);
        let mut param = random(1, BLOCK);
        for step in 1..=10 {
            let grad: Vec<f32> = random(step, BLOCK).iter().map(|x| x * size).collect();
            update(&mut param, &grad, held.moments(), &Hyper { step, ..HYPER });
        }
        assert!(param.iter().all(|x| x.abs() < 2.0), "{size:e}: {param:?}");
        let (m, v) = held.numbers();
        assert!(m.iter().chain(&v).all(|x| x.is_finite()), "{size:e}");
    }
    // what is not finite is refused before a step; here it must not panic
    let grad = vec![f32::NAN, f32::INFINITY, 1.0];
    let mut held = Held::new(3);
    update(&mut [1.0; 3], &grad, held.moments(), &HYPER);
}

#[test]
fn do_not_depend_on_the_number_of_threads() {
    let len = 100_003;
    let (param, grad) = (random(1, len), gradients(2, len));
    assert_same_for_any_pool("adamw", || {
        let (mut param, mut held) = (param.clone(), Held::new(len));
        for step in 1..=2 {
            update(&mut param, &grad, held.moments(), &Hyper { step, ..HYPER });
        }
        let (m, v) = held.numbers();
        [param, m, v].concat()
    });
}
