use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, Grouping, KeepZero, MatrixShape, Prepared, Spec, VectorLen};
use edkm_palette::PaletteDType;

use super::*;

/// Numbers in [-1, 1), the same each time.
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// Inputs of which each is like its neighbour.
pub(super) fn correlated(tokens: usize, inputs: usize) -> Hessian {
    let mut x_NI = numbers(tokens * inputs, 7);
    for row in x_NI.chunks_mut(inputs) {
        for i in 1..row.len() {
            row[i] = 0.8 * row[i - 1] + 0.4 * row[i];
        }
    }
    let mut hessian = Hessian::new(inputs);
    hessian.add(&x_NI);
    hessian
}

/// Inputs that never come together.
fn diagonal(inputs: usize) -> Hessian {
    let mut hessian = Hessian::new(inputs);
    for i in 0..inputs {
        let mut x_I = vec![0.0; inputs];
        x_I[i] = 1.0 + i as f32 / 3.0;
        hessian.add(&x_I);
    }
    hessian
}

/// eᵀ H e summed over rows.
fn error_of(weight: &[f32], rounded: &[f32], hessian: &Hessian) -> f64 {
    let n = hessian.inputs();
    let h_II = hessian.damped(&(0..n).collect::<Vec<_>>());
    weight
        .chunks(n)
        .zip(rounded.chunks(n))
        .map(|(w, q)| {
            let e: Vec<f64> = w.iter().zip(q).map(|(&w, &q)| f64::from(w) - f64::from(q)).collect();
            (0..n * n).map(|k| e[k / n] * h_II[k] * e[k % n]).sum::<f64>()
        })
        .sum()
}

/// GPTQ as it is published: the inverse Hessian of the weights that are left, updated after each column, and all of them moved. Dense, f64.
fn published(weight: &[f32], rows: usize, hessian: &Hessian, palette: &[f32]) -> Vec<f32> {
    let n = hessian.inputs();
    let h_II = hessian.damped(&(0..n).collect::<Vec<_>>());
    let mut inverse = inverted(&h_II, n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| h_II[b * n + b].total_cmp(&h_II[a * n + a]));
    let mut w: Vec<f64> = weight.iter().map(|&w| w.into()).collect();
    for &j in &order {
        let pivot = inverse[j * n + j];
        for row in 0..rows {
            let value = w[row * n + j];
            let nearest = palette
                .iter()
                .map(|&c| f64::from(c))
                .min_by(|a, b| (a - value).abs().total_cmp(&(b - value).abs()))
                .unwrap();
            let error = (value - nearest) / pivot;
            for k in 0..n {
                w[row * n + k] -= error * inverse[j * n + k];
            }
            w[row * n + j] = nearest;
        }
        // what is left without this one; its own row and column become zero, so that it moves no more
        let row_j: Vec<f64> = inverse[j * n..(j + 1) * n].to_vec();
        for a in 0..n {
            for b in 0..n {
                inverse[a * n + b] -= row_j[a] * row_j[b] / pivot;
            }
        }
        for k in 0..n {
            inverse[j * n + k] = 0.0;
            inverse[k * n + j] = 0.0;
        }
    }
    w.into_iter().map(|w| w as f32).collect()
}

/// Gauss and Jordan.
fn inverted(a: &[f64], n: usize) -> Vec<f64> {
    let mut a = a.to_vec();
    let mut inverse: Vec<f64> = (0..n * n).map(|k| if k / n == k % n { 1.0 } else { 0.0 }).collect();
    for i in 0..n {
        let pivot = a[i * n + i];
        for k in 0..n {
            a[i * n + k] /= pivot;
            inverse[i * n + k] /= pivot;
        }
        for r in (0..n).filter(|&r| r != i) {
            let factor = a[r * n + i];
            for k in 0..n {
                a[r * n + k] -= factor * a[i * n + k];
                inverse[r * n + k] -= factor * inverse[i * n + k];
            }
        }
    }
    inverse
}

fn spec(bits: u8) -> Spec {
    Spec::new(Bits::new(bits).unwrap())
}

#[test]
fn it_is_the_published_algorithm() {
    // rows that go side by side by eight, by four and alone
    let (rows, cols) = (15, 17);
    let (weight, hessian) = (numbers(rows * cols, 1), correlated(40, cols));
    let shape = MatrixShape::new(rows, cols);
    let got = quantize(
        &weight,
        shape,
        &hessian,
        &spec(3),
        Levels::EvenlySpaced,
        PaletteDType::F32,
    )
    .unwrap();
    let want = published(&weight, rows, &hessian, got.matrix.palette(0));
    assert_eq!(got.matrix.dequantize(), want);
    let error = error_of(&weight, &want, &hessian);
    // two sums of 3,000 products in f64
    assert!((got.error - error).abs() < 1e-10 * error, "{} {error}", got.error);
}

#[test]
fn inputs_that_never_come_together_leave_plain_rounding() {
    let shape = MatrixShape::new(6, 13);
    let weight = numbers(shape.len(), 2);
    let got = quantize(
        &weight,
        shape,
        &diagonal(13),
        &spec(2),
        Levels::EvenlySpaced,
        PaletteDType::F32,
    )
    .unwrap();
    let (palettes, indices) = crate::compress::round_to_nearest(&weight, shape, &spec(2));
    assert_eq!(got.matrix.palette(0), palettes);
    assert_eq!(got.matrix.indices(), indices);
}

#[test]
fn outputs_keep_more_than_by_rounding_and_most_with_a_palette_of_their_own() {
    let shape = MatrixShape::new(32, 48);
    let (weight, hessian) = (numbers(shape.len(), 3), correlated(200, 48));
    for grouping in [Grouping::PerTensor, Grouping::PerChannels(8.try_into().unwrap())] {
        for bits in [2, 3, 4] {
            let spec = spec(bits).with_grouping(grouping);
            let (palettes, indices) = crate::compress::round_to_nearest(&weight, shape, &spec);
            let per_group = spec.clusters();
            let group_rows = grouping.rows_per_palette(shape);
            let rounded: Vec<f32> = indices
                .iter()
                .enumerate()
                .map(|(i, &k)| palettes[i / 48 / group_rows * per_group + usize::from(k)])
                .collect();
            let plain = error_of(&weight, &rounded, &hessian);
            let error = |levels| {
                let got = quantize(&weight, shape, &hessian, &spec, levels, PaletteDType::F32).unwrap();
                let measured = error_of(&weight, &got.matrix.dequantize(), &hessian);
                assert!((got.error - measured).abs() < 1e-9 * measured);
                measured
            };
            let (even, own) = (error(Levels::EvenlySpaced), error(Levels::KMeans));
            assert!(
                own < even && even < plain,
                "{bits} bits, {grouping:?}: {own} {even} {plain}"
            );
            // the palette is no worse than the k-means assigned without a look at the Hessian
            let prepared = Prepared::new(&weight, shape, &spec).unwrap();
            let centroids = prepared.initial().unwrap();
            let nearest: Vec<f32> = prepared
                .assign(&centroids)
                .unwrap()
                .iter()
                .enumerate()
                .map(|(i, &k)| centroids.group(i / 48 / group_rows)[usize::from(k)])
                .collect();
            assert!(own < error_of(&weight, &nearest, &hessian));
        }
    }
}

#[test]
fn vectors_zeros_and_palette_types() {
    let shape = MatrixShape::new(16, 24);
    let mut weight = numbers(shape.len(), 4);
    weight.iter_mut().step_by(5).for_each(|w| *w = 0.0);
    let hessian = correlated(100, 24);
    let pairs = spec(4).with_vector(VectorLen::Two);
    let got = quantize(&weight, shape, &hessian, &pairs, Levels::KMeans, PaletteDType::F32).unwrap();
    let measured = error_of(&weight, &got.matrix.dequantize(), &hessian);
    assert!((got.error - measured).abs() < 1e-9 * measured);
    let scalars = quantize(&weight, shape, &hessian, &spec(2), Levels::KMeans, PaletteDType::F32).unwrap();
    assert!(got.error < scalars.error, "{} {}", got.error, scalars.error);
    let even = quantize(
        &weight,
        shape,
        &hessian,
        &pairs,
        Levels::EvenlySpaced,
        PaletteDType::F32,
    );
    assert!(matches!(even, Err(GptqError::EvenVectors { len: 2 })));

    let zeros = spec(3).with_keep_zero(KeepZero::Exact);
    for dtype in [PaletteDType::F32, PaletteDType::F16, PaletteDType::I8] {
        let got = quantize(&weight, shape, &hessian, &zeros, Levels::KMeans, dtype).unwrap();
        let rounded = got.matrix.dequantize();
        assert!(weight.iter().zip(&rounded).all(|(&w, &q)| w != 0.0 || q == 0.0));
        // the error is that of the palette as it is stored
        let measured = error_of(&weight, &rounded, &hessian);
        assert!(
            (got.error - measured).abs() < 1e-9 * measured,
            "{dtype}: {} {measured}",
            got.error
        );
    }
}

#[test]
fn inputs_that_are_never_used_and_inputs_that_are_no_numbers() {
    let shape = MatrixShape::new(4, 6);
    let weight = numbers(shape.len(), 5);
    let none = Hessian::new(6);
    assert!(quantize(&weight, shape, &none, &spec(3), Levels::KMeans, PaletteDType::F32).is_ok());
    let mut bad = Hessian::new(6);
    bad.add(&[1.0, f32::NAN, 0.0, 0.0, 0.0, 0.0]);
    assert!(matches!(
        quantize(&weight, shape, &bad, &spec(3), Levels::EvenlySpaced, PaletteDType::F32),
        Err(GptqError::NotPositiveDefinite)
    ));
    assert!(matches!(
        quantize(
            &weight,
            shape,
            &Hessian::new(5),
            &spec(3),
            Levels::KMeans,
            PaletteDType::F32
        ),
        Err(GptqError::Inputs { expected: 6, got: 5 })
    ));
    assert!(matches!(
        quantize(
            &[f32::INFINITY; 24],
            shape,
            &none,
            &spec(3),
            Levels::EvenlySpaced,
            PaletteDType::F32
        ),
        Err(GptqError::Cluster(_))
    ));
}

#[test]
fn rows_of_very_different_spread_share_a_palette_if_they_are_divided() {
    let shape = MatrixShape::new(40, 24);
    let mut weight = numbers(shape.len(), 6);
    for (row, numbers) in weight.chunks_mut(24).enumerate() {
        numbers.iter_mut().for_each(|w| *w *= 1.5f32.powi(row as i32 % 12));
    }
    let hessian = correlated(100, 24);
    for grouping in [Grouping::PerTensor, Grouping::PerChannels(20.try_into().unwrap())] {
        for levels in [Levels::KMeans, Levels::EvenlySpaced] {
            let error = |scale| {
                let spec = spec(3).with_grouping(grouping);
                let got = quantize_scaled(&weight, shape, &hessian, &spec, scale, levels, PaletteDType::F32).unwrap();
                let measured = error_of(&weight, &got.matrix.dequantize(), &hessian);
                // rows are multiplied again in f32: a part in 2^24 of a weight, and errors are a tenth of it
                assert!(
                    (got.error - measured).abs() < 1e-5 * measured,
                    "{} {measured}",
                    got.error
                );
                measured
            };
            let (plain, scaled) = (error(ChannelScale::None), error(ChannelScale::RootMeanSquare));
            assert!(scaled < 0.7 * plain, "{grouping:?}, {levels:?}: {scaled} {plain}");
        }
    }
}
