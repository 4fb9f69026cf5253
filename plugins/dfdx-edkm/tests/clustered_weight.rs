//! The clustered weight as a tensor of its own, for ops that are no layer of this crate.

use dfdx::prelude::*;
use dfdx_edkm::ops::clustered_weight::clustered_weight;
use dfdx_edkm::{
    backward, Bits, ChannelScale, Clustering, EdkmError, Grouping, PaletteDType, Spec, StoreTape, Temperature,
    VectorLen,
};
use edkm_cluster::{MatrixShape, Prepared};
use edkm_store::Store;
use edkm_testkit::assert_bitwise_equal;

type Weight<S> = Tensor<S, f32, Cpu>;
type Matrix = Weight<(usize, usize)>;

fn spec(bits: u8) -> Spec {
    Spec::new(Bits::new(bits).unwrap())
}

fn tape() -> StoreTape<f32, Cpu> {
    StoreTape::new(Store::marshaling(), Gradients::leaky())
}

/// W~, and dL/dW of L = sum of W~ g.
fn clustered<S: Shape>(weight: &Weight<S>, upstream: &[f32], clustering: &Clustering) -> [Vec<f32>; 2] {
    let g = weight.device().tensor_from_vec(upstream.to_vec(), *weight.shape());
    let out = clustered_weight(weight.clone().put_tape(tape()), clustering).unwrap();
    let numbers = out.as_vec();
    let gradients = backward((out * g).sum::<Rank0, _>()).unwrap();
    [numbers, gradients.get(weight).as_vec()]
}

#[test]
fn numbers_and_gradient_are_those_of_the_clustering() {
    let dev = Cpu::default();
    let shape = MatrixShape::new(8, 18);
    let weight: Weight<(usize, usize, usize, usize)> = dev.sample_normal_like(&(8, 2, 3, 3));
    let upstream: Vec<f32> = dev.sample_normal_like(&(144,)).as_vec();
    let of_two = Spec {
        vector: VectorLen::new(2).unwrap(),
        ..spec(3)
    };
    let in_groups = Spec {
        grouping: Grouping::PerChannels(2.try_into().unwrap()),
        ..spec(2)
    };
    for spec in [spec(3), of_two, in_groups] {
        let numbers = weight.as_vec();
        let prepared = Prepared::new(&numbers, shape, &spec).unwrap();
        let trajectory = prepared.iterate(&prepared.initial().unwrap()).unwrap();
        let mut want = [vec![0.0; 144], upstream.clone()];
        trajectory.clustered_into(&numbers, shape, &spec, &mut want[0]).unwrap();
        trajectory.backward(&numbers, shape, &spec, &mut want[1]).unwrap();

        let got = clustered(&weight, &upstream, &Clustering::new(spec));
        assert_bitwise_equal("W~", &got[0], &want[0]);
        assert_bitwise_equal("dL/dW", &got[1], &want[1]);
    }
}

/// As of an evaluation between the update of a step and the temperature of the next one.
#[test]
fn a_look_at_another_temperature_leaves_what_is_trained_as_it_is() {
    let dev = Cpu::default();
    let weights: Vec<Matrix> = (0..4).map(|_| dev.sample_normal_like(&(8, 18))).collect();
    let of_two = Spec {
        vector: VectorLen::new(2).unwrap(),
        ..spec(3)
    };
    for spec in [spec(3), of_two] {
        let train = |look: &dyn Fn(&Clustering, &Matrix)| {
            let clustering = Clustering::new(spec);
            let mut steps = Vec::new();
            for (step, weight) in weights.iter().enumerate() {
                clustering.set_temperature(Temperature::Relative(0.2 / (1 + step) as f64));
                steps.extend(clustered(weight, &[1.0; 144], &clustering));
                if let Some(next) = weights.get(step + 1) {
                    look(&clustering, next);
                }
            }
            (steps, clustering.state().unwrap().start)
        };
        let undisturbed = train(&|_, _| ());
        let evaluated = train(&|clustering, next| {
            clustered_weight(next.clone(), clustering).unwrap();
        });
        let packed = train(&|clustering, next| {
            let shape = MatrixShape::new(8, 18);
            clustering.palettize(&next.as_vec(), shape, PaletteDType::F32).unwrap();
        });
        assert_eq!(evaluated, undisturbed);
        assert_eq!(packed, undisturbed);
    }
}

#[test]
fn other_settings_keep_centroids_that_are_of_their_size() {
    let dev = Cpu::default();
    let weight: Weight<(usize, usize)> = dev.sample_normal_like(&(8, 18));
    let clustering = Clustering::new(spec(2));
    clustered(&weight, &[1.0; 144], &clustering);
    let reached = clustering.state().unwrap();
    clustering.set_spec(spec(2).with_iterations(1));
    assert_eq!(clustering.state().unwrap(), reached);
    let next: Weight<(usize, usize)> = dev.tensor_from_vec(weight.as_vec().iter().map(|w| 1.01 * w).collect(), (8, 18));
    clustered(&next, &[1.0; 144], &clustering);
    assert_eq!(clustering.state().unwrap().start, reached.last);
    // palettes of another size are found anew
    clustering.set_spec(spec(3));
    assert!(clustering.state().is_none());
    clustered(&next, &[1.0; 144], &clustering);
    assert_eq!(clustering.state().unwrap().last.clusters(), 8);
}

#[test]
fn rows_are_the_slices_of_the_first_axis() {
    let dev = Cpu::default();
    let filters: Weight<(usize, usize, usize, usize)> = dev.sample_normal_like(&(6, 2, 3, 3));
    let matrix: Weight<(usize, usize)> = dev.tensor_from_vec(filters.as_vec(), (6, 18));
    let upstream: Vec<f32> = dev.sample_normal_like(&(108,)).as_vec();
    let clustering = || {
        let spec = Spec {
            grouping: Grouping::PerChannels(3.try_into().unwrap()),
            ..spec(2)
        };
        Clustering::new(spec).with_channel_scale(ChannelScale::RootMeanSquare)
    };
    let [of_filters, of_matrix] = [
        clustered(&filters, &upstream, &clustering()),
        clustered(&matrix, &upstream, &clustering()),
    ];
    assert_bitwise_equal("W~", &of_filters[0], &of_matrix[0]);
    assert_bitwise_equal("dL/dW", &of_filters[1], &of_matrix[1]);
    // a vector is one row
    let vector: Weight<(usize,)> = dev.tensor_from_vec(filters.as_vec(), (108,));
    let row: Weight<(usize, usize)> = dev.tensor_from_vec(filters.as_vec(), (1, 108));
    let [of_vector, of_row] = [
        clustered(&vector, &upstream, &Clustering::new(spec(2))),
        clustered(&row, &upstream, &Clustering::new(spec(2))),
    ];
    assert_bitwise_equal("W~ of a vector", &of_vector[0], &of_row[0]);
}

#[test]
fn every_tape_gives_the_same_and_a_permuted_weight_gets_its_gradient() {
    let dev = Cpu::default();
    let weight: Weight<Rank2<6, 8>> = dev.sample_normal();
    let clustering = Clustering::new(spec(2));
    let untaped = clustered_weight(weight.clone(), &clustering).unwrap();
    let owned = clustered_weight(weight.leaky_trace(), &clustering).unwrap();
    assert_bitwise_equal("without a tape", &untaped.as_vec(), &owned.as_vec());
    let owned = owned.square().sum::<Rank0, _>().backward().get(&weight).as_vec();
    let stored = clustered_weight(weight.clone().put_tape(tape()), &clustering).unwrap();
    let stored = backward(stored.square().sum()).unwrap().get(&weight).as_vec();
    assert_bitwise_equal("gradients", &stored, &owned);

    let turned: Weight<Rank2<8, 6>> = dev.tensor_from_vec(weight.permute::<Rank2<8, 6>, _>().as_vec(), (Const, Const));
    let permuted: Weight<Rank2<6, 8>> = turned.permute();
    let out = clustered_weight(permuted.clone().put_tape(tape()), &clustering).unwrap();
    let gradient = backward(out.square().sum()).unwrap().get(&permuted).as_vec();
    assert_bitwise_equal("gradient of the permuted weight", &gradient, &owned);
}

#[test]
fn what_cannot_be_clustered_says_why() {
    let dev = Cpu::default();
    for (numbers, part) in [(vec![1.0, f32::NAN, 2.0, 3.0], "NaN"), (Vec::new(), "")] {
        let tape = tape();
        let failure = tape.failure();
        let weight = dev.tensor_from_vec(numbers.clone(), (numbers.len(),)).put_tape(tape);
        assert!(clustered_weight(weight, &Clustering::new(spec(2))).is_err());
        let reason = failure.take().unwrap();
        assert!(matches!(reason, EdkmError::Cluster { .. }), "{reason:?}");
        assert!(
            reason.to_string().contains(part) && reason.to_string().contains("clustered_weight"),
            "{reason}"
        );
    }
}

/// Weights of one value have a palette of one, through which the gradient passes unchanged; other palettes of the same matrix have their own.
#[test]
fn the_gradient_passes_through_a_collapsed_palette_alone() {
    let dev = Cpu::default();
    let shape = MatrixShape::new(6, 24);
    let upstream: Vec<f32> = dev.sample_normal_like(&(144,)).as_vec();
    let mut numbers: Vec<f32> = dev.sample_normal_like(&(144,)).as_vec();
    let spec = Spec {
        grouping: Grouping::PerChannels(2.try_into().unwrap()),
        ..spec(2)
    };
    for collapsed in 0..3 {
        let range = collapsed * 48..collapsed * 48 + 48;
        let before = numbers[range.clone()].to_vec();
        numbers[range.clone()].fill(0.5);
        let prepared = Prepared::new(&numbers, shape, &spec).unwrap();
        let trajectory = prepared.iterate(&prepared.initial().unwrap()).unwrap();
        let mut want = upstream.clone();
        trajectory.backward(&numbers, shape, &spec, &mut want).unwrap();
        assert_ne!(want[range.clone()], upstream[range.clone()]);
        want[range.clone()].copy_from_slice(&upstream[range.clone()]);

        let weight: Weight<(usize, usize)> = dev.tensor_from_vec(numbers.clone(), (6, 24));
        let [clustered, gradient] = clustered(&weight, &upstream, &Clustering::new(spec));
        assert_bitwise_equal("W~", &clustered[range.clone()], &[0.5; 48]);
        assert_bitwise_equal("dL/dW", &gradient, &want);
        numbers[range].copy_from_slice(&before);
    }
}

/// The values that W~ takes.
fn values(weight: &Weight<Rank2<8, 8>>, clustering: &Clustering) -> Vec<f32> {
    let mut values = clustered_weight(weight.clone(), clustering).unwrap().as_vec();
    values.sort_by(f32::total_cmp);
    values.dedup();
    values
}

#[test]
fn a_weight_of_few_values_does_not_hold_the_palette_of_those_after_it() {
    let dev = Cpu::default();
    let signs: Weight<Rank2<8, 8>> = dev.tensor_from_vec((0..64).map(|i| [0.1, -0.1][i % 2]).collect(), (Const, Const));
    let pairs = Spec {
        vector: VectorLen::new(2).unwrap(),
        ..spec(3)
    };
    for first in [dev.zeros(), signs] {
        for spec in [spec(3), pairs] {
            let clustering = Clustering::new(spec);
            assert!(values(&first, &clustering).len() <= 2);
            let weight: Weight<Rank2<8, 8>> = dev.sample_normal();
            values(&weight, &clustering);
            // the same start as that of a clustering that has seen nothing
            let fresh = Clustering::new(spec);
            values(&weight, &fresh);
            assert_eq!(clustering.state().unwrap().last, fresh.state().unwrap().last);
        }
    }
}

#[test]
fn palettes_whose_centroids_differ_go_on() {
    let dev = Cpu::default();
    // a palette of zeros, and one that is as it should be
    let mut numbers: Vec<f32> = dev.sample_normal_like(&(64,)).as_vec();
    numbers[..32].fill(0.0);
    let spec = Spec {
        grouping: Grouping::PerChannels(4.try_into().unwrap()),
        ..spec(2)
    };
    let clustering = Clustering::new(spec);
    let first: Weight<Rank2<8, 8>> = dev.tensor_from_vec(numbers, (Const, Const));
    values(&first, &clustering);
    let before = clustering.state().unwrap().last;
    values(&dev.sample_normal(), &clustering);
    let start = clustering.state().unwrap().start;
    assert_ne!(start.group_f64(0), before.group_f64(0));
    assert_eq!(start.group_f64(1), before.group_f64(1));
}

#[test]
fn weights_of_other_shapes_are_visited_as_matrices() {
    use dfdx_edkm::{visit_clustered, ParameterKind, ParameterVisitor, Parameters};
    struct Experts(Weight<Rank3<3, 4, 5>>, Clustering);
    impl Parameters<Cpu> for Experts {
        fn visit_parameters<V: ParameterVisitor<Cpu>>(
            &mut self,
            prefix: &str,
            visitor: &mut V,
        ) -> Result<(), V::Error> {
            let clustering = Some(&self.1);
            let kind = ParameterKind::Linear { clustering };
            visitor.visit(&format!("{prefix}experts"), kind, &mut self.0)
        }
    }
    let mut shapes = Vec::new();
    let mut model = Experts(Cpu::default().zeros(), Clustering::default());
    visit_clustered(&mut model, |weight| {
        shapes.push(weight.shape);
        Ok::<(), std::convert::Infallible>(())
    })
    .unwrap();
    assert_eq!(shapes, [MatrixShape::new(3, 20)]);
}
