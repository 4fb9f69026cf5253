//! Tensors that lose nothing in 16 bits.

use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::HalfTensor;
use edkm_testkit::assert_bitwise_equal;
use half::{bf16, f16};

use crate::{gpu, random};

#[test]
fn numbers_that_lose_nothing_come_back_as_they_were_and_others_are_not_kept() {
    let dev = gpu();
    let plain = random(1, 1003);
    let of_bf16: Vec<f32> = plain.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    let of_f16: Vec<f32> = plain.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    for numbers in [of_bf16, of_f16] {
        let tensor = dev.tensor_from_host(numbers.clone(), (numbers.len(),)).unwrap();
        let half = HalfTensor::of(&tensor).unwrap().unwrap();
        assert_bitwise_equal("numbers", &half.widen().unwrap().as_vec(), &numbers);
    }
    let tensor = dev.tensor_from_host(plain, (1003,)).unwrap();
    assert!(HalfTensor::of(&tensor).unwrap().is_none());
}
