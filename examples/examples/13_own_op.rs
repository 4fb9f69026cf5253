//! An op of one's own: its backward pass is written by hand, and what it saves goes where the tape says, as that of the ops of `dfdx_edkm` does.
//!
//! Here relu(x)^2, the activation of Primer (arXiv 2109.08668). What dfdx's own relu and square need in backward stays in dfdx, where no store sees it; this op
//! saves one tensor, in the store.
//!
//!     cargo run -p edkm-examples --example 13_own_op

use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::device::contiguous;
use dfdx_edkm::nn::builders::ClusteredLinear;
use dfdx_edkm::{backward, SaveAs, SaveForBackward, StoreTape};
use edkm_store::{Backend, StoreSpec};

/// relu(x)^2 of a tensor of any shape.
fn squared_relu<S: Shape, T: SaveForBackward<Cpu>>(
    x: Tensor<S, f32, Cpu, T>,
) -> Result<Tensor<S, f32, Cpu, T>, CpuError> {
    let (x, mut tape) = contiguous(x)?.split_tape();
    // on no tape: dfdx records nothing of it
    let y = x.clone().try_relu()?.try_square()?;
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }
    // ghosts name tensors and hold no numbers
    let (x_ghost, y_ghost) = (x.ghost(), y.ghost());
    let saved = tape.save(x, SaveAs::local("squared_relu.x"))?;
    tape.add_backward_op(move |grads| {
        let x = T::load(saved)?;
        grads.try_alloc_for(&y_ghost)?;
        let grad_y = grads.get(&y_ghost);
        let slope = x.try_relu()?.try_mul(2.0)?.try_mul(grad_y)?.as_vec();
        // gradients of several readers of x add up
        let grad_x = grads.get_or_alloc_mut(&x_ghost)?;
        grad_x.iter_mut().zip(slope).for_each(|(sum, more)| *sum += more);
        Ok(())
    });
    Ok(y.put_tape(tape))
}

/// The same as a module, so that it stands in tuples.
#[derive(Debug, Default, Clone, Copy)]
struct SquaredReLU;

impl ZeroSizedModule for SquaredReLU {}
impl NonMutableModule for SquaredReLU {}

impl<S: Shape, T: SaveForBackward<Cpu>> Module<Tensor<S, f32, Cpu, T>> for SquaredReLU {
    type Output = Tensor<S, f32, Cpu, T>;
    type Error = CpuError;

    fn try_forward(&self, x: Tensor<S, f32, Cpu, T>) -> Result<Self::Output, CpuError> {
        squared_relu(x)
    }
}

type Model = (ClusteredLinear<16, 64>, SquaredReLU, ClusteredLinear<64, 4>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let model = dev.build_module::<Model, f32>();
    let x: Tensor<Rank2<32, 16>, f32, _> = dev.sample_normal();
    let store = Arc::new("marshal,compress".parse::<StoreSpec>()?.build()?);
    let tape = StoreTape::shared(store.clone(), model.alloc_grads());
    let loss = model.try_forward(x.clone().put_tape(tape))?.square().mean();
    let report = store.report();
    println!(
        "saved {} bytes, of which the store holds {}",
        report.logical_bytes, report.held_bytes
    );
    backward(loss)?;
    assert_eq!(store.report().held_bytes, 0);

    // the same gradient as that of dfdx's two ops
    let by_hand = squared_relu(x.leaky_trace())?.mean().backward().get(&x).as_vec();
    let by_dfdx = x.leaky_trace().relu().square().mean().backward().get(&x).as_vec();
    assert_eq!(by_hand, by_dfdx);
    Ok(())
}
