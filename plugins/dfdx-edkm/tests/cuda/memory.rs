//! What the plugin reads of a tensor's place on the GPU is the tensor.

use dfdx::prelude::*;
use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::optim::AdamWKernel;
use dfdx_edkm::EdkmDevice;
use edkm_testkit::assert_bitwise_equal;

use crate::{gpu, random};

fn bits(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

#[test]
fn a_view_is_the_tensor() {
    let dev = gpu();
    let numbers = random(1, 24);
    // by dfdx's own way, which keeps the host's numbers, and by the plugin's
    let by_dfdx: Tensor<Rank2<4, 6>, f32, _> = dev.tensor_from_vec(numbers.clone(), (Const, Const));
    let by_plugin: Tensor<Rank2<4, 6>, f32, _> = dev.tensor_from_host(numbers.clone(), (Const, Const)).unwrap();
    for tensor in [by_dfdx, by_plugin] {
        assert!(Cuda::is_contiguous(&tensor));
        assert_bitwise_equal("as_vec", &tensor.as_vec(), &numbers);
        let bytes = Cuda::host_bytes(tensor.clone()).unwrap();
        assert_bitwise_equal("host_bytes", &bits(bytes.as_bytes()), &numbers);
        let back = dev.tensor_from_host_bytes(bytes, (24,)).unwrap();
        assert_bitwise_equal("back", &back.as_vec(), &numbers);
        assert_eq!(Cuda::digest(&tensor).unwrap(), Cuda::digest(&back).unwrap());
    }
}

#[test]
fn digests_differ_where_contents_do() {
    let dev = gpu();
    let digest = |numbers: Vec<f32>| {
        let len = numbers.len();
        Cuda::digest(&dev.tensor_from_host(numbers, (len,)).unwrap()).unwrap()
    };
    let numbers = random(1, 1000);
    let mut other = numbers.clone();
    other[500] = -other[500];
    assert_eq!(digest(numbers.clone()), digest(numbers.clone()));
    assert_ne!(digest(numbers), digest(other));
}

#[test]
fn bytes_of_another_length_are_refused() {
    let dev = gpu();
    assert!(dev.tensor_from_host(random(1, 5), (6,)).is_err());
    let buffer = dev.buffer_from_vec(random(1, 5)).unwrap();
    assert_bitwise_equal("buffer", &dev.buffer_to_vec(&buffer).unwrap(), &random(1, 5));
}

/// Needs kernels of dfdx's own.
#[test]
fn dfdx_own_permuted_and_broadcast_tensors_are_recognised() {
    let dev = gpu();
    let t: Tensor<Rank2<2, 3>, f32, _> = dev.tensor_from_host(random(1, 6), (Const, Const)).unwrap();
    assert!(Cuda::is_contiguous(&t));
    let permuted = t.clone().permute::<Rank2<3, 2>, _>();
    assert!(!Cuda::is_contiguous(&permuted));
    let row: Tensor<Rank1<3>, f32, _> = dev.tensor_from_host(random(2, 3), (Const,)).unwrap();
    assert!(!Cuda::is_contiguous(&row.broadcast::<Rank2<4, 3>, _>()));
    let want = permuted.as_vec();
    let made = dfdx_edkm::device::contiguous(permuted).unwrap();
    let bytes = Cuda::host_bytes(made).unwrap();
    assert_bitwise_equal("permuted", &bits(bytes.as_bytes()), &want);
}

/// The driver's pool keeps freed memory for this process: to the system it is taken, to what comes next it is free.
#[test]
fn what_was_freed_is_free() {
    const LEN: usize = 1 << 28;
    let dev = gpu();
    let free = || dev.free_bytes().unwrap().expect("memory of its own");
    let before = free();
    let tensor: Tensor<(usize,), f32, _> = dev.try_zeros_like(&(LEN,)).unwrap();
    let meanwhile = free();
    drop(tensor);
    let after = free();
    // other tests hold some memory now and then (a handle of cuBLAS 32 MiB), and the pool grows by whole blocks
    let bytes = 4 * LEN as u64;
    assert!(meanwhile + bytes / 2 < before, "{before} {meanwhile}");
    assert!(after > before - bytes / 2, "{before} {after}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let Err(error) = dfdx_edkm::device::open_gpu(1000, 0) else {
        panic!("there is a GPU 1000")
    };
    assert!(error.to_string().contains("GPU 1000"), "{error}");
}

fn on_every_device<D: EdkmDevice>() {}

#[test]
fn both_devices_run_every_op() {
    on_every_device::<Cpu>();
    on_every_device::<Cuda>();
}
