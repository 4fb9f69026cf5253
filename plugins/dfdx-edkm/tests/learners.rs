//! Learners that hold the same tensors: each keeps its part, and backward has the whole.

use std::thread;
use std::time::Duration;

use dfdx::prelude::*;
use dfdx_edkm::ops::Matrix;
use dfdx_edkm::{backward, EdkmError, SaveAs, SaveForBackward, StoreTape};
use edkm_store::{in_process_learners, Backend, InProcessLearner, StoreError, StoreSpec, DEFAULT_PATIENCE};
use edkm_testkit::assert_bitwise_equal;

const SHAPE: (usize, usize) = (30, 40);

/// x², an op of one's own, whose x is the same for all learners.
fn squared<T: SaveForBackward<Cpu>>(x: Matrix<Cpu, T>) -> Matrix<Cpu, T> {
    let (x, mut tape) = x.split_tape();
    let y = x.clone().square();
    let (x_ghost, y_ghost) = (x.ghost(), y.ghost());
    let saved = tape.save(x, SaveAs::replicated("squared.x")).expect("saved");
    tape.add_backward_op(move |grads| {
        let x = T::load(saved)?.as_vec();
        let grad_y = grads.get_or_alloc_mut(&y_ghost)?.to_vec();
        let grad_x = grads.get_or_alloc_mut(&x_ghost)?;
        for ((to, x), grad) in grad_x.iter_mut().zip(x).zip(grad_y) {
            *to += 2.0 * x * grad;
        }
        Ok(())
    });
    y.put_tape(tape)
}

fn input(dev: &Cpu) -> Matrix<Cpu> {
    let numbers = edkm_testkit::random(7, SHAPE.0 * SHAPE.1);
    dev.tensor_from_vec(numbers, SHAPE)
}

/// Each learner's gradient of x, and the bytes that it keeps from forward to backward; the last one may drop its tape in between.
fn run(world: usize, patience: Duration, last_drops: bool) -> Vec<Result<(Vec<f32>, u64), EdkmError>> {
    let spec: StoreSpec = "marshal,shard".parse().unwrap();
    let learner = |(rank, learner): (usize, InProcessLearner)| {
        let spec = spec.clone();
        move || {
            let dev = Cpu::default();
            let store = spec.build_for(learner).unwrap();
            let x = input(&dev);
            let tape = StoreTape::new(store.clone(), Gradients::leaky());
            let loss = squared(x.clone().put_tape(tape)).sum();
            let kept = store.report().held_bytes;
            if last_drops && rank + 1 == world {
                drop(loss);
                return Ok((Vec::new(), kept));
            }
            backward(loss).map(|grads| (grads.get(&x).as_vec(), kept))
        }
    };
    let learners = in_process_learners(world, patience);
    thread::scope(|scope| {
        let started: Vec<_> = learners
            .into_iter()
            .enumerate()
            .map(|each| scope.spawn(learner(each)))
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn each_keeps_its_part_and_has_the_whole_gradient() {
    let dev = Cpu::default();
    let x = input(&dev);
    let whole = squared(x.clone().put_tape(OwnedTape::<f32, Cpu>::default()))
        .sum()
        .backward();
    for outcome in run(3, DEFAULT_PATIENCE, false) {
        let (gradient, kept) = outcome.unwrap();
        assert_bitwise_equal("gradient", &gradient, &whole.get(&x).as_vec());
        assert_eq!(kept as usize, 4 * SHAPE.0 * SHAPE.1 / 3);
    }
}

#[test]
fn a_learner_that_drops_its_tape_is_named() {
    let outcomes = run(3, Duration::from_millis(500), true);
    for outcome in &outcomes[..2] {
        match outcome {
            Err(EdkmError::Store(StoreError::Learner { rank, .. })) => assert_eq!(*rank, 2),
            other => panic!("{other:?}"),
        }
    }
}
