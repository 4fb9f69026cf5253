//! One tensor as several inputs of an op: its gradient is the sum of theirs.

use dfdx::prelude::*;
use dfdx_edkm::ops::attention::{attention, AttentionDims};
use dfdx_edkm::ops::cross_entropy::{cross_entropy, Targets};
use dfdx_edkm::ops::distillation::{distillation, Teacher};
use dfdx_edkm::ops::linear::linear;
use dfdx_edkm::ops::rms_norm::rms_norm;
use dfdx_edkm::ops::swiglu::swiglu;
use dfdx_edkm::ops::{Matrix, Vector};
use dfdx_edkm::{backward, StoreTape};
use edkm_store::Store;
use edkm_testkit::assert_close;

type Taped = Matrix<Cpu, StoreTape<f32, Cpu>>;

const DIMS: AttentionDims = AttentionDims {
    batch: 1,
    seq: 6,
    heads: 2,
    kv_heads: 2,
    head_dim: 3,
    scale: 0.5,
};

/// The gradients of `inputs` in the sum of the squares of what `op` makes of them.
fn gradients<const N: usize>(inputs: [&Matrix<Cpu>; N], op: impl FnOnce([Taped; N]) -> Taped) -> [Vec<f32>; N] {
    let tape = StoreTape::new(Store::marshaling(), Gradients::leaky());
    let mut tapes = std::iter::once(tape).chain(std::iter::repeat_with(StoreTape::default));
    let taped = inputs.map(|input| input.clone().put_tape(tapes.next().expect("endless")));
    let loss = op(taped).square().sum::<Rank0, _>();
    let gradients = backward(loss).unwrap();
    inputs.map(|input| gradients.get(input).as_vec())
}

/// Compares with copies that dfdx tells apart.
fn check<const N: usize>(name: &str, same: [usize; N], op: impl Fn([Taped; N]) -> Taped) {
    let dev = Cpu::default();
    let tensors: [Matrix<Cpu>; N] = std::array::from_fn(|_| dev.sample_normal_like(&(6, 6)));
    let inputs = same.map(|i| &tensors[i]);
    let copies = inputs.map(|input| dev.tensor_from_vec(input.as_vec(), *input.shape()));
    let apart = gradients(copies.each_ref(), &op);
    let together = gradients(inputs, &op);
    for (i, &place) in same.iter().enumerate() {
        let sum: Vec<f32> = (0..36)
            .map(|at| (0..N).filter(|&j| same[j] == place).map(|j| apart[j][at]).sum())
            .collect();
        // the same terms, added in another order
        assert_close(&format!("{name} {same:?}, input {i}"), &together[i], &sum, 1e-6);
    }
}

#[test]
fn inputs_of_attention() {
    for same in [[0, 1, 2], [0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]] {
        check("attention", same, |[q, k, v]| attention(q, k, v, DIMS).unwrap());
    }
}

#[test]
fn gate_and_up() {
    check("swiglu", [0, 0], |[gate, up]| swiglu(gate, up).unwrap());
}

#[test]
fn a_weight_times_itself() {
    let dev = Cpu::default();
    let w: Matrix<Cpu> = dev.sample_normal_like(&(6, 6));
    let [together] = gradients([&w], |[x]| linear(x, &w, None, None).unwrap());
    let copy: Matrix<Cpu> = dev.tensor_from_vec(w.as_vec(), (6, 6));
    let [of_x] = gradients([&copy], |[x]| linear(x, &w, None, None).unwrap());
    // W W^T is its own transpose: both sides have the same gradient
    let twice: Vec<f32> = of_x.iter().map(|g| 2.0 * g).collect();
    assert_close("linear", &together, &twice, 1e-6);
}

/// Two inputs that are one tensor, of which `op` makes a loss: the gradient is the sum of those of copies.
fn check_loss(
    name: &str,
    of: &Matrix<Cpu>,
    op: impl Fn(Taped, &Matrix<Cpu>) -> Tensor<Rank0, f32, Cpu, StoreTape<f32, Cpu>>,
) {
    let tape = || StoreTape::new(Store::marshaling(), Gradients::leaky());
    let together = backward(op(of.clone().put_tape(tape()), of)).unwrap().get(of).as_vec();
    let copy: Matrix<Cpu> = of.device().tensor_from_vec(of.as_vec(), *of.shape());
    let apart = backward(op(copy.clone().put_tape(tape()), of)).unwrap();
    let sum = apart.get(of).as_vec().into_iter().zip(apart.get(&copy).as_vec());
    let sum: Vec<f32> = sum.map(|(a, b)| a + b).collect();
    assert_close(name, &together, &sum, 1e-6);
}

#[test]
fn states_that_are_the_parameter() {
    let dev = Cpu::default();
    let w: Matrix<Cpu> = dev.sample_normal_like(&(6, 6));
    let targets = || Targets {
        ids: (0..6).collect(),
        weights: vec![1.0; 6].into(),
    };
    check_loss("cross_entropy", &w, |x, w| {
        cross_entropy(x, w, None, targets()).unwrap()
    });
    let (hidden, head): (Matrix<Cpu>, Matrix<Cpu>) = (dev.sample_normal_like(&(6, 4)), dev.sample_normal_like(&(6, 4)));
    let teacher = || Teacher {
        hidden: hidden.clone(),
        head: head.clone(),
        temperature: 1.0,
        share: 0.5,
        fade: f32::INFINITY,
    };
    check_loss("distillation", &w, |x, w| {
        distillation(x, w, None, teacher(), targets()).unwrap().loss
    });

    let row: Matrix<Cpu> = dev.sample_normal_like(&(1, 6));
    let as_vector = |row: &Matrix<Cpu>| -> Vector<Cpu> { row.clone().reshape_like(&(6,)) };
    check_loss("rms_norm", &row, |x, row| {
        rms_norm(x, &as_vector(row), 1e-5).unwrap().square().sum()
    });
    check_loss("linear, its bias", &row, |x, row| {
        linear(x, &w, Some(&as_vector(row)), None).unwrap().square().sum()
    });
    let column: Matrix<Cpu> = dev.sample_normal_like(&(6, 1));
    check_loss("linear, its weight and bias", &column, |x, column| {
        linear(x, column, Some(&as_vector(column)), None)
            .unwrap()
            .square()
            .sum()
    });
}
