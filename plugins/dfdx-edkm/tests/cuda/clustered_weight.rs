//! The clustered weight as a tensor, beside the CPU's.

use dfdx::prelude::*;
use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::ops::clustered_weight::clustered_weight;
use dfdx_edkm::ops::cross_entropy::{cross_entropy, Targets};
use dfdx_edkm::ops::linear::LinearKernel;
use dfdx_edkm::{backward, Bits, ChannelScale, Clustering, EdkmDevice, Grouping, MatrixShape, Spec, StoreTape};
use edkm_store::Store;
use edkm_testkit::{assert_bitwise_equal, assert_close};

use crate::store::COPIES;
use crate::{gpu, gradient, random};

/// W~ of three experts, and the gradient of a loss that it is the input of.
fn numbers_and_gradient<D: EdkmDevice>(device: &D, clustering: &Clustering) -> [Vec<f32>; 2] {
    let experts = device.tensor_from_host(random(1, 240), (3, 8, 10)).unwrap();
    let tape = StoreTape::new(Store::marshaling(), Gradients::leaky());
    let clustered = clustered_weight(experts.clone().put_tape(tape), clustering).unwrap();
    let numbers = clustered.as_vec();
    let head = device.tensor_from_host(random(2, 50), (5, 10)).unwrap();
    let targets = Targets {
        ids: (0..24).map(|i| i % 5).collect(),
        weights: vec![1.0; 24].into(),
    };
    let loss = cross_entropy(clustered.reshape_like(&(24, 10)), &head, None, targets).unwrap();
    let mut gradients = backward(loss).unwrap();
    [numbers, gradient(&mut gradients, &experts)]
}

#[test]
fn numbers_and_gradient_are_those_of_the_cpu() {
    let three = Spec::new(Bits::new(3).unwrap());
    let by_expert = Spec {
        grouping: Grouping::PerChannels(1.try_into().unwrap()),
        ..three
    };
    for spec in [three, by_expert] {
        for scale in [ChannelScale::None, ChannelScale::RootMeanSquare] {
            let clustering = || Clustering::new(spec).with_channel_scale(scale);
            let want = numbers_and_gradient(&Cpu::default(), &clustering());
            let on_gpu = clustering();
            let got = numbers_and_gradient(&gpu(), &on_gpu);
            assert_close("W~", &got[0], &want[0], 1e-6);
            assert!(want[1].iter().any(|&g| g != 0.0));
            assert_close("dL/dW", &got[1], &want[1], 2e-5);
            let again = numbers_and_gradient(&gpu(), &on_gpu);
            assert_bitwise_equal("W~ again", &again[0], &got[0]);
            assert_bitwise_equal("dL/dW again", &again[1], &got[1]);
        }
    }
}

/// The host's sums are of another order: its way differs from the device's in the last bits.
#[test]
fn what_the_device_keeps_belongs_to_the_way_that_is_used() {
    let _turn = COPIES.lock();
    let dev = gpu();
    // so many weights that the device keeps their tables
    let shape = MatrixShape::new(1024, 1024);
    let weight = |seed| dev.tensor_from_host(random(seed, 1 << 20), (1024, 1024)).unwrap();
    let (weight, next) = (weight(1), weight(2));
    let cluster = |weight: &Tensor<(usize, usize), f32, Cuda>, clustering: &Clustering| {
        dev.cluster("test", Cuda::view(weight), shape, clustering).unwrap()
    };
    // where the first weight begins is the host's, the way from there the device's, as for all others
    let clustering = Clustering::default();
    let first = cluster(&weight, &clustering);
    for (weight, same) in [(&weight, true), (&next, false), (&next, false)] {
        let found = cluster(weight, &clustering);
        assert!(found.of_device.is_some());
        assert_eq!(found.trajectory.last() == first.trajectory.last(), same);
    }
    assert!(first.of_device.is_some());

    let by_host = Clustering::default();
    let way = by_host.cluster(&weight.as_vec(), shape).unwrap();
    let again = cluster(&weight, &by_host);
    assert_eq!(again.trajectory.last(), way.trajectory.last());
    assert!(again.of_device.is_none(), "tables of another way");
    assert!(cluster(&next, &by_host).of_device.is_some());
}
