//! Every op against the CPU's kernels, on the device of the build.

use crate::device::{device, Device};
use crate::Never;
use edkm_cuda::product::Accumulate;
use edkm_cuda::Array;
use edkm_cuda::{
    adamw, attention, cross_entropy, digest, distillation, elementwise, embedding, hidden_distance, likelihood,
    product, rms_norm, rotary, row_scales, swiglu,
};
use edkm_kernels as cpu;
use edkm_kernels::attention::Segments;
use edkm_testkit::{assert_bitwise_equal, assert_close, random};

/// Both sum in f32, in different orders.
const SUMS: f64 = 2e-6;

/// Runs a test on the device, where there is one.
fn on_device(test: impl FnOnce(&Device)) {
    if let Some(device) = device() {
        test(&device);
    }
}

fn ok<T>(result: Result<T, Never>) -> T {
    let Ok(value) = result;
    value
}

#[test]
fn sums_of_matrices_and_rows() {
    on_device(|s| {
        // less than a block, whole blocks, and some more; more rows than one piece
        for (rows, width) in [(1, 1), (3, 5), (64, 4), (200, 7), (65, 300)] {
            let (x, y, bias) = (random(1, rows * width), random(2, rows * width), random(3, width));
            let (dx, dy, dbias) = (s.array(&x), s.array(&y), s.array(&bias));
            let mut out = s.array(&vec![f32::NAN; x.len()]);
            ok(elementwise::add(s, dx.as_slice(), dy.as_slice(), out.as_mut()));
            let mut want = x.clone();
            cpu::elementwise::add_assign(&mut want, &y);
            assert_bitwise_equal("add", &ok(out.to_host(s)), &want);

            ok(elementwise::add_assign(s, out.as_mut(), dx.as_slice()));
            cpu::elementwise::add_assign(&mut want, &x);
            assert_bitwise_equal("add_assign", &ok(out.to_host(s)), &want);

            let times = s.array(&[0.75]);
            let (mut to, mut want_to) = (s.array(&y), y.clone());
            ok(elementwise::add_times(
                s,
                to.as_mut(),
                dx.as_slice(),
                -0.5,
                times.as_slice(),
            ));
            cpu::elementwise::axpy(-0.5 * 0.75, &x, &mut want_to);
            assert_close("add_times", &ok(to.to_host(s)), &want_to, SUMS);

            ok(elementwise::add_to_rows(s, out.as_mut(), dbias.as_slice()));
            want.chunks_exact_mut(width)
                .for_each(|row| cpu::elementwise::add_assign(row, &bias));
            assert_bitwise_equal("add_to_rows", &ok(out.to_host(s)), &want);

            ok(elementwise::scale(s, out.as_mut(), 0.5));
            cpu::elementwise::scale(&mut want, 0.5);
            assert_bitwise_equal("scale", &ok(out.to_host(s)), &want);

            let mut sum = s.array(&bias);
            ok(elementwise::add_sum_of_rows(s, dx.as_slice(), sum.as_mut()));
            let mut want: Vec<f64> = bias.iter().map(|&b| b.into()).collect();
            for row in x.chunks_exact(width) {
                want.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            assert_close("add_sum_of_rows", &ok(sum.to_host(s)), &want, SUMS);
        }
    });
}

#[test]
fn products_in_all_arrangements() {
    on_device(|s| {
        for [m, n, k] in [[1, 1, 1], [2, 3, 5], [7, 4, 9], [16, 33, 8]] {
            for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                let (a, b, c) = (random(1, m * k), random(2, n * k), random(3, m * n));
                let (da, db) = (s.array(&a), s.array(&b));
                type Cpu = fn(usize, usize, usize, &[f32], &[f32], &mut [f32], Accumulate);
                let arrangements: [(&str, Cpu); 3] = [
                    ("nt", cpu::matmul::nt),
                    ("nn", cpu::matmul::nn),
                    ("tn", cpu::matmul::tn),
                ];
                for (name, on_cpu) in arrangements {
                    let mut want = c.clone();
                    on_cpu(m, n, k, &a, &b, &mut want, accumulate);
                    let mut got = s.array(&c);
                    let (a, b, shape) = (da.as_slice(), db.as_slice(), [m, n, k]);
                    ok(match name {
                        "nt" => product::nt(s, shape, a, b, got.as_mut(), accumulate),
                        "nn" => product::nn(s, shape, a, b, got.as_mut(), accumulate),
                        _ => product::tn(s, shape, a, b, got.as_mut(), accumulate),
                    });
                    assert_close(name, &ok(got.to_host(s)), &want, SUMS);
                }
            }
        }
    });
}

#[test]
fn distances_of_hidden_states() {
    on_device(|s| {
        for (rows, width) in [(1, 3), (4, 256), (5, 300), (130, 20)] {
            let (x, mut y) = (random(1, rows * width), random(2, rows * width));
            y[..width].iter_mut().for_each(|y| *y *= 1000.0);
            y[(rows - 1) * width..].fill(0.0);
            let (dx, dy, mut out) = (s.array(&x), s.array(&y), s.array(&vec![f32::NAN; x.len()]));
            let got = ok(hidden_distance::forward(
                s,
                dx.as_slice(),
                dy.as_slice(),
                width,
                out.as_mut(),
            ));
            let mut want_out = vec![f32::NAN; x.len()];
            let want = cpu::hidden_distance::forward(&x, &y, width, &mut want_out);
            assert_close("distance", &[got as f32], &[want as f32], SUMS);
            assert_close("out", &ok(out.to_host(s)), &want_out, SUMS);
        }
    });
}

/// W~ = s W / s of the identity in place of a clustering has the gradient that it is given, however the factors follow the weight.
#[test]
fn factors_of_rows_and_their_gradient() {
    on_device(|s| {
        for (rows, cols) in [(1, 1), (3, 5), (4, 256), (7, 300)] {
            let mut weight = random(1, rows * cols);
            weight
                .chunks_exact_mut(cols)
                .zip([1.0, 1e-3, 40.0].into_iter().cycle())
                .for_each(|(row, by)| {
                    row.iter_mut().for_each(|w| *w *= by);
                });
            // a row of zeros is divided by 1
            weight[(rows - 1) * cols..].fill(if rows > 1 { 0.0 } else { 0.5 });
            let grad = random(2, weight.len());
            let (dweight, dgrad) = (s.array(&weight), s.array(&grad));
            let divided = ok(row_scales::divided(s, dweight.as_slice(), cols));
            let scales = ok(divided.scales.to_host(s));
            let mean_square = |row: &[f32]| row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / cols as f64;
            let want: Vec<f32> = weight
                .chunks_exact(cols)
                .map(|row| match mean_square(row).sqrt() {
                    0.0 => 1.0,
                    root => half::bf16::from_f64(root).to_f32(),
                })
                .collect();
            assert_bitwise_equal("scales", &scales, &want);
            let by_row = |f: fn(f32, f32) -> f32| -> Vec<f32> {
                let rows = weight.chunks_exact(cols).zip(&scales);
                rows.flat_map(|(row, &scale)| row.iter().map(move |&w| f(w, scale)))
                    .collect()
            };
            let v = ok(divided.weight.to_host(s));
            assert_bitwise_equal("divided", &v, &by_row(|w, scale| w / scale));
            let mut again = s.array(&v);
            ok(row_scales::multiply(s, again.as_mut(), divided.scales.as_slice()));
            assert_bitwise_equal(
                "multiplied",
                &ok(again.to_host(s)),
                &by_row(|w, scale| w / scale * scale),
            );

            let mut numbers = s.array(&v);
            let grad_scales = ok(row_scales::multiplication_backward(
                s,
                dgrad.as_slice(),
                divided.scales.as_slice(),
                numbers.as_mut(),
            ));
            let along = |a: &[f32], b: &[f32]| -> Vec<f64> {
                let rows = a.chunks_exact(cols).zip(b.chunks_exact(cols));
                rows.map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum())
                    .collect()
            };
            assert_close("grad_scales", &ok(grad_scales.to_host(s)), &along(&grad, &v), 1e-12);
            let mut total = s.array(&vec![1.0; weight.len()]);
            ok(row_scales::add_through_division(
                s,
                &divided,
                numbers.as_slice(),
                grad_scales.as_slice(),
                total.as_mut(),
            ));
            let want: Vec<f32> = grad.iter().map(|g| 1.0 + g).collect();
            assert_close("identity", &ok(total.to_host(s)), &want, SUMS);

            // by the factors alone: dL/dW = V dL/ds / cols
            let mut total = s.array(&vec![0.0; weight.len()]);
            let zeros = s.array(&vec![0.0; weight.len()]);
            ok(row_scales::add_through_division(
                s,
                &divided,
                zeros.as_slice(),
                grad_scales.as_slice(),
                total.as_mut(),
            ));
            let of_row = v.chunks_exact(cols).zip(along(&grad, &v));
            let want: Vec<f64> = of_row
                .flat_map(|(v, grad)| v.iter().map(move |&v| f64::from(v) * grad / cols as f64))
                .collect();
            assert_close("through the factors", &ok(total.to_host(s)), &want, SUMS);
        }
    });
}

#[test]
fn rms_norm_and_its_gradient() {
    on_device(|s| {
        let eps = 1e-5;
        for (rows, width) in [(1, 3), (4, 256), (5, 300), (130, 20)] {
            let (x, weight, grad) = (random(1, rows * width), random(2, width), random(3, rows * width));
            let (dx, dweight, dgrad) = (s.array(&x), s.array(&weight), s.array(&grad));
            let (mut out, mut want) = (s.array(&vec![f32::NAN; x.len()]), vec![0.0; x.len()]);
            ok(rms_norm::forward(
                s,
                dx.as_slice(),
                dweight.as_slice(),
                eps,
                out.as_mut(),
            ));
            cpu::rms_norm::forward(&x, &weight, eps, &mut want);
            assert_close("out", &ok(out.to_host(s)), &want, SUMS);

            // gradients grow on top of what is there
            let (mut to_x, mut to_weight) = (s.array(&grad), s.array(&weight));
            ok(rms_norm::backward(
                s,
                dx.as_slice(),
                dweight.as_slice(),
                eps,
                dgrad.as_slice(),
                to_x.as_mut(),
                to_weight.as_mut(),
            ));
            let (mut want_x, mut want_weight) = (grad.clone(), weight.clone());
            cpu::rms_norm::backward(&x, &weight, eps, &grad, &mut want_x, &mut want_weight);
            assert_close("grad_x", &ok(to_x.to_host(s)), &want_x, SUMS);
            assert_close("grad_weight", &ok(to_weight.to_host(s)), &want_weight, SUMS);
        }
    });
}

#[test]
fn rotary_there_and_back() {
    on_device(|s| {
        for (batch, seq, heads, half) in [(1, 1, 1, 1), (2, 5, 3, 4), (3, 40, 2, 16)] {
            let frequencies: Vec<f64> = (0..half).map(|i| 100f64.powf(-(i as f64) / half as f64)).collect();
            // a table of more positions than are used
            let table = cpu::rotary::Table::new(&frequencies, seq + 3);
            let x = random(1, batch * seq * heads * 2 * half);
            let angles = ok(rotary::Angles::new(s, &table, seq));
            let (dx, mut out) = (s.array(&x), s.array(&vec![f32::NAN; x.len()]));
            ok(rotary::forward(s, &angles, heads, dx.as_slice(), out.as_mut()));
            let mut want = x.clone();
            cpu::rotary::apply(&table, &mut want, heads, seq, 0, cpu::rotary::Direction::Forward);
            assert_close("forward", &ok(out.to_host(s)), &want, SUMS);

            // the same in place, for tokens in another order
            let token = heads * 2 * half;
            let order: Vec<usize> = (0..batch * seq).rev().collect();
            let shuffled: Vec<f32> = order.iter().flat_map(|&n| x[n * token..][..token].to_vec()).collect();
            let positions: Vec<u32> = order.iter().map(|&n| (n % seq) as u32).collect();
            let (mut turned, positions) = (s.array(&shuffled), s.array(&positions));
            ok(rotary::turn_at(s, &angles, positions.as_slice(), turned.as_mut()));
            let in_order = ok(out.to_host(s));
            let want_turned: Vec<f32> = order
                .iter()
                .flat_map(|&n| in_order[n * token..][..token].to_vec())
                .collect();
            assert_bitwise_equal("turn_at", &ok(turned.to_host(s)), &want_turned);
            let beyond = s.array(&vec![seq as u32; batch * seq]);
            ok(rotary::turn_at(s, &angles, beyond.as_slice(), turned.as_mut()));
            assert!(ok(turned.to_host(s)).iter().all(|x| x.is_nan()));

            let mut grad_x = s.array(&x);
            ok(rotary::backward(s, &angles, heads, out.as_slice(), grad_x.as_mut()));
            // turned back it is x again, on top of x
            let want: Vec<f32> = x.iter().map(|x| x + x).collect();
            assert_close("backward", &ok(grad_x.to_host(s)), &want, SUMS);
        }
    });
}

#[test]
fn swiglu_and_its_gradients() {
    on_device(|s| {
        for len in [1, 255, 256, 1000] {
            let gate: Vec<f32> = random(1, len).iter().map(|x| 20.0 * x).collect();
            let (up, grad) = (random(2, len), random(3, len));
            let (dgate, dup, dgrad) = (s.array(&gate), s.array(&up), s.array(&grad));
            let (mut out, mut want) = (s.array(&vec![f32::NAN; len]), vec![0.0; len]);
            ok(swiglu::forward(s, dgate.as_slice(), dup.as_slice(), out.as_mut()));
            cpu::swiglu::forward(&gate, &up, &mut want);
            assert_close("out", &ok(out.to_host(s)), &want, SUMS);

            let (mut to_gate, mut to_up) = (s.array(&up), s.array(&gate));
            ok(swiglu::backward(
                s,
                dgate.as_slice(),
                dup.as_slice(),
                dgrad.as_slice(),
                to_gate.as_mut(),
                to_up.as_mut(),
            ));
            let (mut want_gate, mut want_up) = (up.clone(), gate.clone());
            cpu::swiglu::backward(&gate, &up, &grad, &mut want_gate, &mut want_up);
            assert_close("grad_gate", &ok(to_gate.to_host(s)), &want_gate, SUMS);
            assert_close("grad_up", &ok(to_up.to_host(s)), &want_up, SUMS);
        }
    });
}

#[test]
fn embedding_rows_and_their_gradient() {
    on_device(|s| {
        for (vocabulary, width, tokens) in [(1, 1, 1), (5, 3, 20), (300, 17, 90)] {
            let ids: Vec<u32> = (0..tokens as u32).map(|i| i * i % vocabulary as u32).collect();
            let (table, grad) = (random(1, vocabulary * width), random(2, tokens * width));
            let (dtable, dgrad) = (s.array(&table), s.array(&grad));
            let (mut out, mut want) = (s.array(&vec![f32::NAN; tokens * width]), vec![0.0; tokens * width]);
            ok(embedding::gather(s, dtable.as_slice(), &ids, out.as_mut()));
            cpu::embedding::gather(&table, &ids, &mut want);
            assert_bitwise_equal("gather", &ok(out.to_host(s)), &want);

            // the order of the terms is the CPU's: the same bits
            let (mut got, mut want) = (s.array(&table), table.clone());
            ok(embedding::scatter_add(s, &ids, dgrad.as_slice(), got.as_mut()));
            cpu::embedding::scatter_add(&ids, &grad, &mut want);
            assert_bitwise_equal("scatter_add", &ok(got.to_host(s)), &want);
        }
    });
}

/// Settings that let each of them be seen.
fn hyper(step: u64) -> cpu::adamw::Hyper {
    cpu::adamw::Hyper {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step,
        grad_scale: 0.5,
    }
}

#[test]
fn adamw_steps_and_the_norm() {
    on_device(|s| {
        let len = 1000;
        let (mut parameter, mut first, mut second) = (random(1, len), vec![0.0; len], vec![0.0; len]);
        let (mut dparameter, mut dfirst, mut dsecond) = (s.array(&parameter), s.array(&first), s.array(&second));
        for step in 1..=3 {
            let gradient = random(10 + step, len);
            let dgradient = s.array(&gradient);
            let hyper = hyper(step);
            cpu::adamw::update(&mut parameter, &gradient, &mut first, &mut second, &hyper);
            ok(adamw::update(
                s,
                dparameter.as_mut(),
                dgradient.as_slice(),
                dfirst.as_mut(),
                dsecond.as_mut(),
                &hyper,
            ));
            let want = cpu::adamw::sum_of_squares(&gradient);
            let got = ok(adamw::sum_of_squares(s, dgradient.as_slice()));
            assert!((got - want).abs() <= 1e-12 * want, "{got} against {want}");
        }
        // the same operations in the same order
        assert_bitwise_equal("parameter", &ok(dparameter.to_host(s)), &parameter);
        assert_bitwise_equal("first moment", &ok(dfirst.to_host(s)), &first);
        assert_bitwise_equal("second moment", &ok(dsecond.to_host(s)), &second);
    });
}

#[test]
fn adamw_steps_with_moments_of_eight_bits() {
    on_device(|s| {
        // less than what shares a scale, some of it, less and more than a block's work
        for len in [5, 256, 1000, 2048, 5001] {
            let (mut parameter, mut first, mut second) = (random(1, len), vec![0u8; len], vec![0u8; len]);
            let mut scales = vec![0.0; cpu::adamw::eight_bit::scales(len)];
            let (mut dparameter, mut dscales) = (s.array(&parameter), s.array(&scales));
            let (mut dfirst, mut dsecond) = (s.array(&first), s.array(&second));
            for step in 1..=5 {
                // a zero, and magnitudes far from each other
                let numbers = random(10 + step, len).into_iter().zip(random(20 + step, len));
                let mut gradient: Vec<f32> = numbers.map(|(x, e)| x * 10f32.powf(4.0 * e)).collect();
                gradient[0] = 0.0;
                let hyper = hyper(step);
                let moments = cpu::adamw::eight_bit::Moments {
                    first: &mut first,
                    second: &mut second,
                    scales: &mut scales,
                };
                cpu::adamw::eight_bit::update(&mut parameter, &gradient, moments, &hyper);
                let moments = adamw::EightBitMoments {
                    first: dfirst.as_mut(),
                    second: dsecond.as_mut(),
                    scales: dscales.as_mut(),
                };
                let dgradient = s.array(&gradient);
                ok(adamw::update_eight_bit(
                    s,
                    dparameter.as_mut(),
                    dgradient.as_slice(),
                    moments,
                    &hyper,
                ));
            }
            assert_bitwise_equal("parameter", &ok(dparameter.to_host(s)), &parameter);
            assert_bitwise_equal("scales", &ok(dscales.to_host(s)), &scales);
            assert_eq!(ok(dfirst.to_host(s)), first, "first moment");
            assert_eq!(ok(dsecond.to_host(s)), second, "second moment");
        }
    });
}

/// Tokens of which some do not count.
fn token_weights(tokens: usize) -> Vec<f32> {
    (0..tokens).map(|n| [1.0, 0.0, 0.5][n % 3]).collect()
}

#[test]
fn cross_entropy_and_its_gradients() {
    on_device(|s| {
        for (tokens, hidden, vocabulary) in [(1, 2, 3), (7, 8, 300), (10, 5, 1000)] {
            let x: Vec<f32> = random(1, tokens * hidden).iter().map(|x| 4.0 * x).collect();
            let w = random(2, vocabulary * hidden);
            let ids: Vec<u32> = (0..tokens as u32).map(|n| n * 37 % vocabulary as u32).collect();
            let weights = token_weights(tokens);
            let targets = cross_entropy::Targets {
                ids: &ids,
                weights: &weights,
            };
            let (dx, dw) = (s.array(&x), s.array(&w));
            let projection = cross_entropy::Projection {
                x: dx.as_slice(),
                w: dw.as_slice(),
            };
            let (want, want_kept) = cpu::cross_entropy::forward(&x, &w, &ids, &weights);
            let (got, kept) = ok(cross_entropy::forward(s, projection, targets));
            assert_eq!(got.weight, want.weight);
            assert_close("total", &[got.total], &[want.total], 1e-6);
            assert_close("lse", &kept.lse, &want_kept.lse, 1e-6);

            let (mut to_x, mut to_w, grad_loss) = (s.array(&x), s.array(&w), s.array(&[2.0f32]));
            ok(cross_entropy::backward(
                s,
                projection,
                targets,
                kept,
                grad_loss.as_slice(),
                0.25,
                to_x.as_mut(),
                to_w.as_mut(),
            ));
            let (mut want_x, mut want_w) = (x.clone(), w.clone());
            cpu::cross_entropy::backward(&x, &w, &ids, &weights, want_kept, 0.5, &mut want_x, &mut want_w);
            assert_close("grad_x", &ok(to_x.to_host(s)), &want_x, SUMS);
            assert_close("grad_w", &ok(to_w.to_host(s)), &want_w, SUMS);
        }
    });
}

#[test]
fn distillation_and_its_gradients() {
    on_device(|s| {
        for (tokens, hidden, teacher_hidden, vocabulary) in [(1, 2, 3, 4), (7, 8, 6, 300)] {
            let numbers = |seed, len| random(seed, len).iter().map(|x| 2.0 * x).collect::<Vec<f32>>();
            let (x, w) = (numbers(1, tokens * hidden), numbers(2, vocabulary * hidden));
            let (tx, tw) = (
                numbers(3, tokens * teacher_hidden),
                numbers(4, vocabulary * teacher_hidden),
            );
            let weights = token_weights(tokens);
            let ids: Vec<u32> = (0..tokens as u32).map(|n| n * 37 % vocabulary as u32).collect();
            let lesson = cpu::distillation::Lesson {
                targets: &ids,
                token_weights: &weights,
                teacher_share: 0.75,
                temperature: 1.5,
            };
            let student = cpu::distillation::Projection { x: &x, w: &w };
            let teacher = cpu::distillation::Projection { x: &tx, w: &tw };
            let (want, want_kept) = cpu::distillation::forward(student, teacher, lesson);

            let arrays = [&x, &w, &tx, &tw].map(|numbers| s.array(numbers));
            let [dx, dw, dtx, dtw] = arrays.each_ref().map(|array| array.as_slice());
            let comparison = distillation::Comparison {
                student: cross_entropy::Projection { x: dx, w: dw },
                teacher: cross_entropy::Projection { x: dtx, w: dtw },
                lesson,
            };
            let (got, kept) = ok(distillation::forward(s, comparison));
            assert_eq!(got.weight, want.weight);
            let numbers =
                |sums: cpu::distillation::Sums| [sums.divergence, sums.cross_entropy, sums.teacher_cross_entropy];
            assert_close("sums", &numbers(got), &numbers(want), 1e-5);
            assert_close("lse of the student", &kept.lse.student, &want_kept.lse.student, 1e-6);
            assert_close("lse of the teacher", &kept.lse.teacher, &want_kept.lse.teacher, 1e-6);

            let (mut to_x, mut to_w, grad_loss) = (s.array(&x), s.array(&w), s.array(&[2.0f32]));
            ok(distillation::backward(
                s,
                comparison,
                kept,
                grad_loss.as_slice(),
                0.25,
                to_x.as_mut(),
                to_w.as_mut(),
            ));
            let (mut want_x, mut want_w) = (x.clone(), w.clone());
            cpu::distillation::backward(student, teacher, lesson, want_kept, 0.5, &mut want_x, &mut want_w);
            assert_close("grad_x", &ok(to_x.to_host(s)), &want_x, SUMS);
            assert_close("grad_w", &ok(to_w.to_host(s)), &want_w, SUMS);
        }
    });
}

/// What a panic says; empty where there was none.
fn panic_of(run: impl FnOnce()) -> String {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(()) => String::new(),
        Err(said) => said.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

#[test]
fn what_losses_kept_is_of_the_same_axes_and_tokens() {
    const WEIGHTS: [f32; 4] = [1.0, 0.0, 0.5, 1.0];
    on_device(|s| {
        let ids = [0, 1, 2, 3];
        let numbers =
            |[hidden, vocabulary]: [usize; 2]| [WEIGHTS.len(), vocabulary].map(|rows| random(5, rows * hidden));
        // hidden states and vocabulary in the backward pass, where the forward pass had 8 and 300
        for (axes, weights, message) in [
            ([8, 301], WEIGHTS, "vocabulary: 301"),
            ([6, 300], WEIGHTS, "hidden: 6"),
            ([8, 300], [1.0, 0.5, 0.5, 0.0], "other tokens count"),
            ([8, 300], WEIGHTS, ""),
        ] {
            let [before, now] = [[8, 300], axes].map(|axes| numbers(axes).map(|numbers| s.array(&numbers)));
            let [before, now] = [&before, &now].map(|[x, w]| cross_entropy::Projection {
                x: x.as_slice(),
                w: w.as_slice(),
            });
            let assert_said = |said: String| {
                assert!(
                    said.contains(message) && said.is_empty() == message.is_empty(),
                    "{said}"
                );
            };
            let grad_loss = s.array(&[1.0f32]);
            let [mut to_x, mut to_w] = numbers(axes).map(|numbers| s.array(&numbers));

            let targets = |weights| cross_entropy::Targets { ids: &ids, weights };
            let (_, kept) = ok(cross_entropy::forward(s, before, targets(&WEIGHTS)));
            assert_said(panic_of(|| {
                let (to_x, to_w, grad) = (to_x.as_mut(), to_w.as_mut(), grad_loss.as_slice());
                ok(cross_entropy::backward(
                    s,
                    now,
                    targets(&weights),
                    kept,
                    grad,
                    1.0,
                    to_x,
                    to_w,
                ));
            }));

            let comparison = |student, token_weights| distillation::Comparison {
                student,
                teacher: student,
                lesson: cpu::distillation::Lesson {
                    targets: &ids,
                    token_weights,
                    teacher_share: 0.75,
                    temperature: 1.5,
                },
            };
            let (_, kept) = ok(distillation::forward(s, comparison(before, &WEIGHTS)));
            assert_said(panic_of(|| {
                let (to_x, to_w, grad) = (to_x.as_mut(), to_w.as_mut(), grad_loss.as_slice());
                ok(distillation::backward(
                    s,
                    comparison(now, &weights),
                    kept,
                    grad,
                    1.0,
                    to_x,
                    to_w,
                ));
            }));
        }
    });
}

#[test]
fn attention_and_its_gradients() {
    on_device(|s| {
        // around the tile of 64, several tiles and sequences, with and without groups, heads of whole fours and not, narrower and wider than a tile
        for (batch, seq, heads, kv_heads, head_dim) in [
            (1, 1, 1, 1, 2),
            (2, 5, 4, 2, 8),
            (1, 64, 2, 1, 20),
            (1, 65, 1, 1, 1),
            (2, 150, 4, 1, 64),
            (1, 150, 2, 2, 128),
            (2, 150, 4, 1, 7),
            (1, 70, 4, 1, 101),
        ] {
            let dims = cpu::attention::Dims {
                batch,
                seq,
                heads,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
            };
            for segments in cut_in_segments(batch, seq) {
                attention_agrees(s, &dims, segments.as_ref());
            }
        }
    });
}

/// None, every position by itself, and of lengths about a tile's.
fn cut_in_segments(batch: usize, seq: usize) -> [Option<Segments>; 3] {
    let lengths = |most: usize| {
        let mut lengths = Vec::new();
        for sequence in 0..batch {
            let mut left = seq;
            while left > 0 {
                let length = left.min(1 + (lengths.len() * 37 + sequence * 11) % most);
                lengths.push(length as u32);
                left -= length;
            }
        }
        Segments::new(seq, lengths)
    };
    [None, lengths(1), lengths(80)]
}

/// Forward and backward against the CPU's.
fn attention_agrees(s: &Device, dims: &cpu::attention::Dims, segments: Option<&Segments>) {
    let numbers = |seed, len| random(seed, len).iter().map(|x| 2.0 * x).collect::<Vec<f32>>();
    let (q, grad) = (numbers(1, dims.query_len()), numbers(4, dims.query_len()));
    let (k, v) = (numbers(2, dims.key_len()), numbers(3, dims.key_len()));
    let (mut want, mut want_lse) = (vec![0.0; q.len()], vec![0.0; dims.lse_len()]);
    match segments {
        None => cpu::attention::forward(dims, &q, &k, &v, &mut want, &mut want_lse),
        Some(segments) => cpu::attention::forward_of_segments(dims, segments, &q, &k, &v, &mut want, &mut want_lse),
    }
    let first_seen = segments.map(|segments| s.array(&segments.first_seen()));

    let (dq, dk, dv, dgrad) = (s.array(&q), s.array(&k), s.array(&v), s.array(&grad));
    let inputs = attention::Inputs {
        q: dq.as_slice(),
        k: dk.as_slice(),
        v: dv.as_slice(),
        first_seen: first_seen.as_ref().map(Array::as_slice),
    };
    let (mut out, mut lse) = (
        s.array(&vec![f32::NAN; q.len()]),
        s.array(&vec![f32::NAN; dims.lse_len()]),
    );
    ok(attention::forward(s, dims, inputs, out.as_mut(), lse.as_mut()));
    assert_close("out", &ok(out.to_host(s)), &want, SUMS);
    if segments.is_none() {
        assert_close("lse", &ok(lse.to_host(s)), &want_lse, SUMS);
    }

    let (mut to_q, mut to_k, mut to_v) = (s.array(&q), s.array(&k), s.array(&v));
    let outputs = attention::Outputs {
        out: out.as_slice(),
        lse: lse.as_slice(),
    };
    let grads = [to_q.as_mut(), to_k.as_mut(), to_v.as_mut()];
    ok(attention::backward(s, dims, inputs, outputs, dgrad.as_slice(), grads));
    let (mut want_q, mut want_k, mut want_v) = (q.clone(), k.clone(), v.clone());
    let ([out, lse], [to_q_cpu, to_k_cpu, to_v_cpu]) =
        ([&want[..], &want_lse], [&mut want_q, &mut want_k, &mut want_v]);
    match segments {
        None => cpu::attention::backward(dims, &q, &k, &v, out, lse, &grad, to_q_cpu, to_k_cpu, to_v_cpu),
        Some(segments) => cpu::attention::backward_of_segments(
            dims, segments, &q, &k, &v, out, lse, &grad, to_q_cpu, to_k_cpu, to_v_cpu,
        ),
    }
    assert_close("grad_q", &ok(to_q.to_host(s)), &want_q, SUMS);
    assert_close("grad_k", &ok(to_k.to_host(s)), &want_k, SUMS);
    assert_close("grad_v", &ok(to_v.to_host(s)), &want_v, SUMS);
}

#[test]
fn digests_tell_numbers_and_their_places_apart() {
    on_device(|s| {
        let mut seen = std::collections::BTreeSet::new();
        for len in [1, 2, 255, 1025, 5000] {
            let x = random(7, len);
            let of = |x: &[f32]| ok(digest::digest(s, s.array(x).as_slice()));
            assert_eq!(of(&x), of(&x), "{len}");
            let mut changed = vec![x.clone(), vec![0.0; len], vec![-0.0; len]];
            for place in [0, len / 2, len - 1] {
                let mut other = x.clone();
                other[place] = f32::from_bits(other[place].to_bits() ^ 1);
                if !changed.contains(&other) {
                    changed.push(other);
                }
            }
            if len > 2 {
                let mut exchanged = x.clone();
                exchanged.swap(0, len - 1);
                changed.push(exchanged);
                changed.push(x.iter().rev().copied().collect());
            }
            for (i, x) in changed.iter().enumerate() {
                let digest = of(x);
                assert!(seen.insert(digest), "{len}: {i} has the digest of another");
                // both halves are of use
                assert!(seen.insert(digest >> 64) && seen.insert(digest & u128::from(u64::MAX)));
            }
        }
    });
}

#[test]
fn log_likelihoods_of_some_tokens() {
    on_device(|s| {
        // less than a block, and more
        for (rows, vocabulary) in [(1, 3), (4, 700)] {
            let logits: Vec<f32> = random(1, rows * vocabulary).iter().map(|x| 20.0 * x).collect();
            // rows that are asked for twice and not at all
            let (of, targets): (Vec<u32>, Vec<u32>) = (0..6)
                .map(|i| ((i / 2 % rows) as u32, (i * 131 % vocabulary) as u32))
                .unzip();
            let want: Vec<f64> = of
                .iter()
                .zip(&targets)
                .map(|(&row, &target)| {
                    let logits = &logits[row as usize * vocabulary..][..vocabulary];
                    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                    f64::from(logits[target as usize]) - total.ln()
                })
                .collect();
            let device = s.array(&logits);
            let got = ok(likelihood::log_likelihoods(
                s,
                device.as_slice(),
                vocabulary,
                &of,
                &targets,
            ));
            assert_close("log likelihoods", &got, &want, SUMS);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = logits.clone();
                logits[vocabulary - 1] = bad;
                let device = s.array(&logits);
                let got = ok(likelihood::log_likelihoods(
                    s,
                    device.as_slice(),
                    vocabulary,
                    &[0],
                    &[0],
                ));
                assert!(!got[0].is_finite(), "{got:?}");
            }
        }
    });
}
