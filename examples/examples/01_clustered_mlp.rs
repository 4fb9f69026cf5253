//! A dfdx network with clustered layers, trained by dfdx's own optimizer: only the layer's name differs from a plain one.
//!
//!     cargo run -p edkm-examples --example 01_clustered_mlp

use dfdx::optim::{Adam, Optimizer};
use dfdx::prelude::*;
use dfdx_edkm::nn::builders::ClusteredLinear;

type Model = (ClusteredLinear<2, 32>, Tanh, ClusteredLinear<32, 1>);

fn main() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Model, f32>();
    let mut adam = Adam::new(
        &model,
        AdamConfig {
            lr: 2e-2,
            ..Default::default()
        },
    );
    // the product of two numbers
    let x: Tensor<Rank2<256, 2>, f32, _> = dev.sample_normal();
    let y: Vec<f32> = x.as_vec().chunks(2).map(|pair| pair[0] * pair[1]).collect();
    let y: Tensor<Rank2<256, 1>, f32, _> = dev.tensor_from_vec(y, (Const, Const));

    let mut grads = model.alloc_grads();
    for step in 0..300 {
        let prediction = model.forward(x.trace(grads));
        let loss = mse_loss(prediction, y.clone());
        if step % 50 == 0 {
            println!("step {step:3}  loss {:.4}", loss.array());
        }
        grads = loss.backward();
        adam.update(&mut model, &grads).expect("every parameter has a gradient");
        model.zero_grads(&mut grads);
    }

    let clustering = &model.0.clustering;
    let state = clustering.state().expect("a forward pass was run");
    println!(
        "the first layer's 64 weights take the values {:.3?}",
        state.last.as_slice()
    );
}
