//! Tensors saved from the GPU to the host.

use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::device::{copies, DeviceMemory};
use dfdx_edkm::ops::linear::linear;
use dfdx_edkm::ops::rms_norm::rms_norm;
use dfdx_edkm::ops::{Matrix, Vector};
use dfdx_edkm::{backward, try_rematerialize, ChannelScale, DeviceBudget, SaveForBackward, StoreTape};
use edkm_cluster::Spec;
use edkm_store::{Backend, Precision, Quote, Record, Report, Store, StoreError, StoreSpec, Ticket};
use edkm_testkit::assert_bitwise_equal;

use crate::net::{Loss, Net};
use crate::{gpu, random};

#[test]
fn gradients_are_the_same_bits_from_every_store() {
    let dev = gpu();
    let gradients = |store: Store| {
        let mut net = Net::new(&dev, 7, Some(Spec::default()), ChannelScale::None);
        let loss = net
            .loss(Loss::Text, StoreTape::new(store.clone(), Gradients::leaky()))
            .unwrap();
        assert!(store.report().held_bytes > 0, "nothing went to the store");
        let gradients = backward(loss).unwrap();
        assert_eq!(store.report().held_bytes, 0, "something is left in the store");
        net.gradients(gradients)
    };
    let want = gradients(Store::memory());
    for layers in ["marshal", "marshal,compress", "marshal,uniquify"] {
        let store = layers.parse::<StoreSpec>().unwrap().build().unwrap();
        for (name, got) in gradients(store) {
            assert_bitwise_equal(&format!("{layers}: {name}"), &got, &want[&name]);
        }
    }
}

/// Copies are counted for a GPU as a whole: one test at a time counts them, or makes large ones.
pub(crate) static COPIES: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn gradients_are_the_same_bits_with_copies_beside_the_computation() {
    let _turn = COPIES.lock();
    let dev = gpu();
    let run = |layers: &str, budget: Option<DeviceBudget>| {
        let store = layers.parse::<StoreSpec>().unwrap().build().unwrap();
        let mut net = Net::new(&dev, 7, Some(Spec::default()), ChannelScale::None);
        let tape = StoreTape::new(store.clone(), Gradients::leaky());
        let tape = match &budget {
            Some(budget) => tape.with_device_budget(budget),
            None => tape,
        };
        let loss = net.loss(Loss::Text, tape).unwrap();
        let gradients = backward(loss).unwrap();
        assert_eq!(store.report().held_bytes, 0, "something is left in the store");
        (net.gradients(gradients), store.report().logical_peak_bytes)
    };
    let (want, saved) = run("memory", Some(DeviceBudget::new(u64::MAX)));
    assert_eq!(saved, 0, "everything stays");
    let all = |what: &str, got: std::collections::BTreeMap<String, Vec<f32>>| {
        for (name, got) in got {
            assert_bitwise_equal(&format!("{what}: {name}"), &got, &want[&name]);
        }
    };
    let before = copies(&dev).unwrap();
    for layers in [
        "memory",
        "overlap=1MiB",
        "marshal,overlap=1KiB",
        "marshal,compress,overlap=1MiB",
    ] {
        // once more over buffers that were there before
        let times = if layers == "overlap=1MiB" { 2 } else { 1 };
        for _ in 0..times {
            all(layers, run(layers, None).0);
        }
        let budget = DeviceBudget::new(4_000);
        let (got, stored) = run(layers, Some(budget.clone()));
        all(layers, got);
        assert!(stored > 0 && budget.peak_bytes() > 0 && budget.peak_bytes() <= 4_000);
        assert_eq!(budget.held_bytes(), 0);
    }
    let after = copies(&dev).unwrap();
    assert!(
        after.downloads > before.downloads && after.uploads > before.uploads,
        "{after:?}"
    );
    assert_eq!(after.waited_for, before.waited_for, "page-locked memory was short");
    let grown = after.pinned_peak_bytes - before.pinned_peak_bytes;
    assert!(grown < 1 << 20, "buffers are used again: {before:?}, {after:?}");
}

/// A store that does not say how it keeps what it is given.
struct Tacit(Store);

impl Backend for Tacit {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        self.0.save(record)
    }

    fn quote(&self, record: &Record) -> Quote {
        self.0.quote(record)
    }

    fn report(&self) -> Report {
        self.0.report()
    }

    fn unsaid_precision(&self) -> Precision {
        Precision::Unsaid
    }
}

#[test]
fn numbers_are_rounded_on_the_gpu_as_by_a_store_of_bf16_and_come_to_it_as_half_of_the_bytes() {
    let dev = gpu();
    let run = |store: Arc<dyn Backend>| {
        let mut net = Net::new(&dev, 7, Some(Spec::default()), ChannelScale::None);
        let tape = StoreTape::shared(store.clone(), Gradients::leaky());
        let loss = net.loss(Loss::Text, tape).unwrap();
        let gradients = backward(loss).unwrap();
        assert_eq!(store.report().held_bytes, 0, "something is left in the store");
        (net.gradients(gradients), store.report().logical_peak_bytes)
    };
    let (exact, _) = run(Arc::new(Store::memory()));
    for layers in ["bf16", "marshal,compress,bf16", "overlap=1MiB,bf16"] {
        let store = || layers.parse::<StoreSpec>().unwrap().build().unwrap();
        let (want, in_full) = run(Arc::new(Tacit(store())));
        assert_ne!(want, exact, "bf16 is lossy");
        let (got, halved) = run(Arc::new(store()));
        // the logarithms of softmax's sums are kept exactly: f32
        let exactly = in_full - 2 * (in_full - halved);
        assert!(
            exactly > 0 && exactly < in_full / 8,
            "{layers}: {halved} bytes, {in_full} in full"
        );
        for (name, got) in got {
            assert_bitwise_equal(&format!("{layers}: {name}"), &got, &want[&name]);
        }
    }
}

#[test]
fn a_tape_that_is_given_up_leaves_nothing_behind() {
    let _turn = COPIES.lock();
    let dev = gpu();
    for layers in ["overlap=1MiB", "marshal,compress,overlap=1MiB"] {
        let store = layers.parse::<StoreSpec>().unwrap().build().unwrap();
        for _ in 0..3 {
            let net = Net::new(&dev, 7, None, ChannelScale::None);
            drop(net.hidden(StoreTape::new(store.clone(), Gradients::leaky())).unwrap());
        }
        assert_eq!(store.report().held_bytes, 0);
    }
}

#[test]
fn the_store_holds_what_it_holds_for_the_cpu() {
    let held = |store: &Store| (store.report().held_bytes, store.report().held_count);
    let on_cpu = {
        let store = Store::marshaling();
        let net = Net::new(&Cpu::default(), 3, None, ChannelScale::None);
        let kept = net.hidden(StoreTape::new(store.clone(), Gradients::leaky())).unwrap();
        let held = held(&store);
        drop(kept);
        held
    };
    let store = Store::marshaling();
    let net = Net::new(&gpu(), 3, None, ChannelScale::None);
    let kept = net.hidden(StoreTape::new(store.clone(), Gradients::leaky())).unwrap();
    assert_eq!(held(&store), on_cpu);
    drop(kept);
    assert_eq!(held(&store), (0, 0));
}

/// A norm and a projection, run again in backward.
struct Segment {
    norm: Vector<Cuda>,
    weight: Matrix<Cuda>,
}

impl Segment {
    fn apply<T: SaveForBackward<Cuda>>(&self, x: Matrix<Cuda, T>) -> Result<Matrix<Cuda, T>, CudaError> {
        linear(rms_norm(x, &self.norm, 1e-5)?, &self.weight, None, None)
    }
}

impl<T: SaveForBackward<Cuda>> Module<Matrix<Cuda, T>> for Segment {
    type Output = Matrix<Cuda, T>;
    type Error = CudaError;
    fn try_forward(&self, x: Matrix<Cuda, T>) -> Result<Matrix<Cuda, T>, CudaError> {
        self.apply(x)
    }
}

#[test]
fn a_segment_that_is_run_again_gives_the_same_bits() {
    let dev = gpu();
    let segment = || Segment {
        norm: dev.tensor_from_host(random(1, 8), (8,)).unwrap(),
        weight: dev.tensor_from_host(random(2, 64), (8, 8)).unwrap(),
    };
    let head: Matrix<Cuda> = dev.tensor_from_host(random(3, 80), (10, 8)).unwrap();
    let x: Matrix<Cuda> = dev.tensor_from_host(random(4, 40), (5, 8)).unwrap();
    let targets = || dfdx_edkm::ops::cross_entropy::Targets {
        ids: (0..5).collect(),
        weights: vec![1.0; 5].into(),
    };
    let of_x = |y: Matrix<Cuda, StoreTape<f32, Cuda>>| {
        let loss = dfdx_edkm::ops::cross_entropy::cross_entropy(y, &head, None, targets()).unwrap();
        crate::gradient(&mut backward(loss).unwrap(), &x)
    };
    let tape = || StoreTape::new(Store::memory(), Gradients::leaky());
    let want = of_x(segment().apply(x.clone().put_tape(tape())).unwrap());
    assert!(want.iter().any(|&g| g != 0.0));
    let (store, first) = (Store::memory(), segment());
    let tape = StoreTape::new(store.clone(), Gradients::leaky());
    let y = try_rematerialize(x.clone().put_tape(tape), |x| first.apply(x), segment).unwrap();
    assert_eq!(store.report().held_bytes, 5 * 8 * 4, "the input alone is saved");
    assert_bitwise_equal("run again", &of_x(y), &want);
}
