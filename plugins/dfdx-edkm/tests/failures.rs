//! What fails: an error with its reason, never a wrong gradient, never a panic. Stores and shapes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::UnbiasedClusteredLinear;
use dfdx_edkm::nn::{ClusteredLinear, UnbiasedClusteredLinear as BuiltLayer};
use dfdx_edkm::{backward, try_checkpoint, with_reason, Clustering, EdkmError, StoreTape};
use edkm_store::{Backend, Held, Quote, Record, Report, SharedBytes, Store, StoreError, Ticket};

/// Takes a number of records and refuses the next.
struct Full {
    inner: Store,
    room: AtomicUsize,
}

impl Backend for Full {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        let room = self
            .room
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1));
        match room {
            Ok(_) => self.inner.save(record),
            Err(_) => Err(StoreError::Backend {
                reason: format!("no room for {}", record.label),
            }),
        }
    }

    fn quote(&self, record: &Record) -> Quote {
        self.inner.quote(record)
    }

    fn report(&self) -> Report {
        self.inner.report()
    }
}

#[test]
fn a_failed_save_ends_the_forward_pass_with_its_reason() {
    let dev = Cpu::default();
    type Net = (UnbiasedClusteredLinear<8, 8>, UnbiasedClusteredLinear<8, 8>);
    let model = dev.build_module::<Net, f32>();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let full = Arc::new(Full {
        inner: Store::memory(),
        room: AtomicUsize::new(1),
    });
    let tape = StoreTape::shared(full.clone(), Gradients::leaky());
    let failure = tape.failure();
    assert!(model.try_forward(x.clone().put_tape(tape)).is_err());
    let reason = failure.take().expect("the reason");
    assert!(
        matches!(reason, EdkmError::Store(_)) && reason.to_string().contains("linear.x"),
        "{reason}"
    );
    assert_eq!(
        full.report().held_bytes,
        0,
        "the tape that was dropped has freed what it held"
    );
    // of a tape that is made within
    let (failed, reason) = with_reason(|| {
        let tape = StoreTape::shared(full.clone(), Gradients::leaky());
        model.try_forward(x.clone().put_tape(tape)).is_err()
    });
    assert!(failed && matches!(reason, Some(EdkmError::Store(_))), "{reason:?}");
}

type Layer = BuiltLayer<Const<8>, Const<8>, f32, Cpu>;
type Taped = Tensor<Rank2<4, 8>, f32, Cpu, StoreTape<f32, Cpu>>;

/// What the tape says of a layer with a weight that is not a number.
fn reason_of_nan(forward: impl FnOnce(&Layer, Taped) -> Result<Taped, CpuError>) -> String {
    let dev = Cpu::default();
    let mut model = dev.build_module::<UnbiasedClusteredLinear<8, 8>, f32>();
    model.weight[[2, 3]] = f32::NAN;
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let failure = tape.failure();
    assert!(forward(&model, x.put_tape(tape)).is_err());
    failure.take().expect("the reason").to_string()
}

#[test]
fn a_weight_that_is_not_a_number_is_named_by_its_index() {
    let reason = reason_of_nan(Layer::try_forward);
    assert!(reason.contains("19"), "{reason}");
}

#[test]
fn a_failure_in_a_checkpointed_part_has_its_reason() {
    let reason = reason_of_nan(try_checkpoint);
    assert!(reason.contains("weight 19 is NaN"), "{reason}");
}

#[test]
fn what_fails_without_a_tape_is_no_failure_of_a_tape_that_lives() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<UnbiasedClusteredLinear<8, 8>, f32>();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let loss = try_checkpoint(&model, x.clone().put_tape(tape)).unwrap().mean();
    model.weight = dev.tensor([[f32::NAN; 8]; 8]);
    assert!(model.try_forward(x).is_err());
    assert!(backward(loss).is_ok());
}

#[test]
fn a_loss_without_a_store_runs_backward_all_the_same() {
    let dev = Cpu::default();
    let model = dev.build_module::<UnbiasedClusteredLinear<8, 8>, f32>();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let grads = backward(model.forward(x.put_tape(StoreTape::default())).square().mean()).unwrap();
    assert!(grads.get(&model.weight).as_vec().iter().any(|&g| g != 0.0));
}

#[test]
fn no_token_is_no_row() {
    let dev = Cpu::default();
    let layer = dfdx_edkm::nn::ClusteredEmbedding::<usize, usize, f32, Cpu> {
        weight: dev.ones_like(&(10, 4)),
        clustering: Clustering::default(),
    };
    let ids: Tensor<(usize, usize), usize, Cpu> = dev.zeros_like(&(2, 0));
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let rows = layer.try_forward(ids.put_tape(tape)).unwrap();
    assert_eq!(*rows.shape(), (2, 0, 4));
}

/// Gives back all but the last byte of what it was given.
struct Short(Store);

/// What it keeps of a record.
struct Shortened(Vec<u8>);

impl Held for Shortened {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        Ok(Arc::new(self.0[1..].to_vec()))
    }

    fn kept_bytes(&self) -> usize {
        self.0.len()
    }
}

impl Backend for Short {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        let bytes = record.bytes.as_bytes().to_vec();
        let len = bytes.len();
        Ok(Ticket::new(Box::new(Shortened(bytes)), len))
    }

    fn quote(&self, record: &Record) -> Quote {
        self.0.quote(record)
    }

    fn report(&self) -> Report {
        self.0.report()
    }
}

#[test]
fn a_backend_that_gives_other_bytes_back_is_told_so() {
    let dev = Cpu::default();
    let model = dev.build_module::<UnbiasedClusteredLinear<8, 8>, f32>();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let tape = StoreTape::shared(Arc::new(Short(Store::memory())), Gradients::leaky());
    let reason = backward(model.forward(x.put_tape(tape)).sum()).unwrap_err();
    assert!(
        matches!(
            reason,
            EdkmError::Store(StoreError::OtherLength {
                expected: 128,
                got: 127
            })
        ),
        "{reason}"
    );
}

#[test]
fn a_bias_of_another_length_is_named() {
    let dev = Cpu::default();
    let layer = ClusteredLinear::<usize, usize, f32, Cpu> {
        weight: dev.zeros_like(&(6, 8)),
        bias: dev.zeros_like(&(5,)),
        clustering: Clustering::default(),
    };
    let x: Tensor<(usize, usize), f32, _> = dev.zeros_like(&(4, 8));
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let failure = tape.failure();
    assert!(layer.try_forward(x.put_tape(tape)).is_err());
    let reason = failure.take().unwrap().to_string();
    assert!(
        reason.contains("a bias of 6") && reason.contains("bias Some(5)"),
        "{reason}"
    );
}

#[test]
fn a_product_without_tokens_inputs_or_outputs_is_none_of_them() {
    let dev = Cpu::default();
    for (tokens, inputs, outputs) in [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)] {
        let zeros = |rows: usize, cols: usize| dev.zeros_like(&(rows, cols));
        let x = zeros(tokens, inputs).put_tape(StoreTape::new(Store::marshaling(), Gradients::leaky()));
        let bias = dev.zeros_like(&(outputs,));
        let y = dfdx_edkm::ops::linear::linear(x, &zeros(outputs, inputs), Some(&bias), None).unwrap();
        assert_eq!(*y.shape(), (tokens, outputs));
        let (_, tape) = y.split_tape();
        let loss: Tensor<Rank0, f32, _> = dev.ones();
        backward(loss.put_tape(tape)).unwrap();
    }
}
