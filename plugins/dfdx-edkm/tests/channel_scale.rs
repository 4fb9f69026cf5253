//! Rows of different spread under one palette.

use dfdx::prelude::*;
use dfdx_edkm::nn::IntoClustered;
use dfdx_edkm::ops::clustered_weight::clustered_weight;
use dfdx_edkm::{ChannelScale, Clustering};
use edkm_cluster::{Bits, MatrixShape, Prepared, Spec, Temperature};
use edkm_testkit::{assert_close, random};

/// Rows of 64 weights of one shape; each row larger than the one before by a factor that bf16 holds exactly.
fn rows(factor: f32) -> (Vec<f32>, MatrixShape) {
    let row: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 64.0).collect();
    let weight = (0..4)
        .flat_map(|r| row.iter().map(move |w| w * factor.powi(r)))
        .collect();
    (weight, MatrixShape::new(4, 64))
}

fn error(clustering: &Clustering, weight: &[f32], shape: MatrixShape) -> f32 {
    let learned = clustering.palette(weight, shape).unwrap();
    let palette = learned.centroids.as_slice();
    let scale = |row: usize| learned.row_scales.as_ref().map_or(1.0, |scales| scales[row]);
    let errors = weight.iter().zip(&learned.indices).enumerate().map(|(i, (w, &index))| {
        let scale = scale(i / shape.cols);
        ((w / scale - palette[usize::from(index)]) * scale / w.abs().max(scale)).abs()
    });
    errors.fold(0.0, f32::max)
}

#[test]
fn every_row_is_clustered_as_well_as_the_largest() {
    let spec = Spec::new(Bits::new(3).unwrap());
    let (weight, shape) = rows(16.0);
    let plain = error(&Clustering::new(spec), &weight, shape);
    let scaled = Clustering::new(spec).with_channel_scale(ChannelScale::RootMeanSquare);
    let scaled = error(&scaled, &weight, shape);
    // Eight evenly spaced centroids are within a sixteenth of the range of a row, which is less than four times its root mean square.
    assert!(scaled < 4.0 / 16.0, "{scaled}");
    assert!(plain > 1.0, "{plain}");
}

#[test]
fn the_settings_serve_a_weight_a_hundred_times_larger() {
    let (weight, shape) = rows(1.0);
    let larger: Vec<f32> = weight.iter().map(|w| w * 100.0).collect();
    let spec = Spec::new(Bits::new(3).unwrap());
    for clustering in [
        Clustering::new(spec),
        Clustering::new(spec).with_channel_scale(ChannelScale::RootMeanSquare),
    ] {
        let indices = |weight: &[f32]| clustering.clone().palette(weight, shape).unwrap().indices;
        assert_eq!(indices(&weight), indices(&larger));
    }
}

/// A row that is multiplied by a factor has a clustered row multiplied by it: so the sum over it of gradient times weight is that of its clustered weights (Euler's
/// theorem). A gradient that takes the factors of rows for constants misses a part of it.
#[test]
fn the_gradient_goes_through_the_factors_of_rows() {
    const INPUTS: usize = 48;
    const OUTPUTS: usize = 6;
    let dev = Cpu::default();
    for temperature in [0.5, 0.02, 0.002] {
        let spec = Spec::new(Bits::new(2).unwrap()).with_temperature(Temperature::Relative(temperature));
        let linear = dev.build_module::<dfdx::nn::builders::UnbiasedLinear<INPUTS, OUTPUTS>, f32>();
        let mut layer = linear.into_clustered(spec);
        layer.clustering = Clustering::new(spec).with_channel_scale(ChannelScale::RootMeanSquare);
        // the unit vectors read the weight out
        let identity: Tensor<Rank2<INPUTS, INPUTS>, f32, _> = dev.tensor_from_vec(
            (0..INPUTS * INPUTS)
                .map(|i| f32::from(u8::from(i / INPUTS == i % INPUTS)))
                .collect(),
            (Const, Const),
        );
        let upstream: Tensor<Rank2<INPUTS, OUTPUTS>, f32, _> = dev.sample_normal();
        let clustered = layer.forward(identity.traced(Gradients::leaky()));
        let values = clustered.as_vec();
        let gradients = (clustered * upstream.clone()).sum::<Rank0, _>().backward();
        let grad = gradients.get(&layer.weight).as_vec();
        let (weight, upstream) = (layer.weight.as_vec(), upstream.as_vec());
        for row in 0..OUTPUTS {
            let places = (0..INPUTS).map(|i| (row * INPUTS + i, i * OUTPUTS + row));
            let (mut of_weight, mut of_clustered, mut magnitude) = (0.0, 0.0, 0.0);
            for (at, read) in places {
                of_weight += grad[at] * weight[at];
                of_clustered += upstream[read] * values[read];
                magnitude += (upstream[read] * values[read]).abs();
            }
            // the factors are rounded to bf16
            assert!(
                (of_weight - of_clustered).abs() < 0.01 * magnitude,
                "{temperature}, row {row}: {of_weight} {of_clustered}"
            );
        }
    }
}

/// Weight by weight, from what the clustering of the divided rows gives: W~ = s V~(V) with V = W / s and s the root mean square of a row.
#[test]
fn the_gradient_of_each_weight_is_that_of_its_row_and_of_its_factor() {
    let dev = Cpu::default();
    let shape = MatrixShape::new(6, 48);
    let spread = |(at, w): (usize, &f32)| w * 3f32.powi(at as i32 / 48);
    let weight: Vec<f32> = random(1, 288).iter().enumerate().map(spread).collect();
    let upstream = random(2, 288);
    for temperature in [0.5, 0.02, 0.002] {
        let spec = Spec::new(Bits::new(2).unwrap()).with_temperature(Temperature::Relative(temperature));
        let clustering = Clustering::new(spec).with_channel_scale(ChannelScale::RootMeanSquare);
        let tensor: Tensor<Rank2<6, 48>, f32, Cpu> = dev.tensor(weight.clone());
        let clustered = clustered_weight(tensor.leaky_trace(), &clustering).unwrap();
        let values = clustered.as_vec();
        let upstream_tensor: Tensor<Rank2<6, 48>, f32, Cpu> = dev.tensor(upstream.clone());
        let gradients = (clustered * upstream_tensor).sum::<Rank0, _>().backward();

        let scales: Vec<f64> = weight
            .chunks(48)
            .map(|row| {
                let squares = row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
                half::bf16::from_f64((squares / 48.0).sqrt()).to_f64()
            })
            .collect();
        let scaled: Vec<f32> = (0..288)
            .map(|at| (f64::from(weight[at]) / scales[at / 48]) as f32)
            .collect();
        let prepared = Prepared::new(&scaled, shape, &spec).unwrap();
        let trajectory = prepared.iterate(&prepared.initial().unwrap()).unwrap();
        let mut of_scaled = vec![0.0; 288];
        trajectory
            .clustered_into(&scaled, shape, &spec, &mut of_scaled)
            .unwrap();
        let want: Vec<f64> = (0..288).map(|at| f64::from(of_scaled[at]) * scales[at / 48]).collect();
        assert_close("W~", &values, &want, 1e-6);
        let mut by_scaled: Vec<f32> = (0..288)
            .map(|at| (f64::from(upstream[at]) * scales[at / 48]) as f32)
            .collect();
        trajectory.backward(&scaled, shape, &spec, &mut by_scaled).unwrap();
        let want = (0..288).map(|at| {
            let (row, scale) = (at / 48 * 48..at / 48 * 48 + 48, scales[at / 48]);
            let sum = |a: &[f32], b: &[f32]| -> f64 {
                let products = row.clone().map(|at| f64::from(a[at]) * f64::from(b[at]));
                products.sum()
            };
            let by_scale = sum(&upstream, &of_scaled) - sum(&by_scaled, &scaled) / scale;
            f64::from(by_scaled[at]) / scale + f64::from(scaled[at]) / 48.0 * by_scale
        });
        let want: Vec<f64> = want.collect();
        assert_close("dL/dW", &gradients.get(&tensor).as_vec(), &want, 1e-5);
    }
}
