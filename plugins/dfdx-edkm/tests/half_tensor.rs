//! Tensors that lose nothing in 16 bits.

use dfdx::prelude::*;
use dfdx_edkm::HalfTensor;
use edkm_testkit::{assert_bitwise_equal, random};
use half::{bf16, f16};

/// More than one thread converts in one go, and no multiple of a vector.
const LEN: usize = 70_003;

/// What comes back, if the numbers lose nothing.
fn kept(numbers: &[f32]) -> Option<Vec<f32>> {
    let tensor = Cpu::default().tensor_from_vec(numbers.to_vec(), (numbers.len(),));
    let half = HalfTensor::of(&tensor).unwrap()?;
    Some(half.widen().unwrap().as_vec())
}

#[test]
fn numbers_of_bf16_or_of_f16_come_back_as_they_were() {
    let plain = random(1, LEN);
    let mut of_bf16: Vec<f32> = plain.iter().map(|&x| bf16::from_f32(1e20 * x).to_f32()).collect();
    // a subnormal number, zeros of both signs
    of_bf16[..3].copy_from_slice(&[f32::from_bits(1 << 16), -0.0, 0.0]);
    let mut of_f16: Vec<f32> = plain.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    of_f16[..3].copy_from_slice(&[f16::from_bits(1).to_f32(), -0.0, 65504.0]);
    for numbers in [of_bf16, of_f16] {
        assert_bitwise_equal("numbers", &kept(&numbers).unwrap(), &numbers);
    }
}

#[test]
fn other_numbers_are_not_kept_in_16_bits() {
    let mut numbers = vec![1.0f32; LEN];
    for other in [1.0 + f32::EPSILON, 1e-30] {
        numbers[LEN - 1] = other;
        // a lone bf16 beside numbers of f16 is in neither
        numbers[0] = 1.0 + 1.0 / 1024.0;
        assert!(kept(&numbers).is_none(), "{other:e}");
    }
}

#[test]
fn a_transposed_tensor_is_kept_as_it_is_read() {
    let dev = Cpu::default();
    let tensor: Tensor<Rank2<3, 5>, f32, _> = dev.tensor((0..15).map(|i| i as f32).collect::<Vec<_>>());
    let transposed = tensor.permute::<Rank2<5, 3>, _>();
    let half = HalfTensor::of(&transposed).unwrap().unwrap();
    assert_eq!(half.widen().unwrap().array(), transposed.array());
}
