//! A parameter that is changed in place leaves its clones as they were.

use dfdx::prelude::*;
use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::optim::{AdamWKernel, Moments};
use edkm_kernels::adamw::Hyper;
use edkm_testkit::assert_bitwise_equal;

use crate::{gpu, random};

fn hyper(lr: f32) -> Hyper {
    Hyper {
        lr,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    }
}

#[test]
fn an_update_leaves_clones_as_they_were() {
    let dev = gpu();
    let numbers = random(1, 300);
    let mut parameter: Tensor<Rank2<20, 15>, f32, Cuda> =
        dev.tensor_from_host(numbers.clone(), (Const, Const)).unwrap();
    let clone = parameter.clone();
    let buffer = |numbers| dev.buffer_from_vec(numbers).unwrap();
    let gradient = buffer(random(2, 300));
    let mut moments = Moments::F32 {
        first: buffer(vec![0.0; 300]),
        second: buffer(vec![0.0; 300]),
    };
    dev.adamw_update(&mut parameter, &gradient, &mut moments, &hyper(0.1))
        .unwrap();
    assert_bitwise_equal("clone", &clone.as_vec(), &numbers);
    assert!(parameter.as_vec().iter().zip(&numbers).all(|(a, b)| a != b));
}

#[test]
fn a_step_of_no_length_changes_no_bit() {
    let dev = gpu();
    let mut numbers = random(1, 300);
    numbers[..3].copy_from_slice(&[0.0, -0.0, 1e-42]);
    let mut parameter: Tensor<(usize,), f32, Cuda> = dev.tensor_from_host(numbers.clone(), (300,)).unwrap();
    let buffer = |numbers| dev.buffer_from_vec(numbers).unwrap();
    let gradient = buffer(vec![0.0; 300]);
    let mut moments = Moments::F32 {
        first: buffer(vec![0.0; 300]),
        second: buffer(vec![0.0; 300]),
    };
    dev.adamw_update(&mut parameter, &gradient, &mut moments, &hyper(0.0))
        .unwrap();
    assert_bitwise_equal("parameter", &parameter.as_vec(), &numbers);
    let other = buffer(vec![0.0; 299]);
    assert!(dev
        .adamw_update(&mut parameter, &other, &mut moments, &hyper(0.0))
        .is_err());
}
