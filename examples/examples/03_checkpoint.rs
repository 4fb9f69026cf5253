//! A stock dfdx sub-model that saves only its input: `checkpoint`.
//!
//!     cargo run -p edkm-examples --example 03_checkpoint

use dfdx::prelude::*;
use dfdx_edkm::{backward, checkpoint, StoreTape};
use edkm_store::{Backend, Store};

type Block = (Linear<128, 512>, FastGeLU, Linear<512, 128>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let block = dev.build_module::<Block, f32>();
    let x: Tensor<Rank2<32, 128>, f32, _> = dev.sample_normal();

    let plain = block.forward(x.leaky_trace()).square().mean().backward();

    let store = Store::marshaling();
    let tape = StoreTape::new(store.clone(), block.alloc_grads());
    let y = checkpoint(&block, x.put_tape(tape));
    println!(
        "kept for backward: {} bytes, the input alone",
        store.report().held_bytes
    );
    let grads = backward(y.square().mean())?;

    let (want, got) = (plain.get(&block.0.weight), grads.get(&block.0.weight));
    assert_eq!(want.as_vec(), got.as_vec());
    println!("the gradients are those of the plain run, bit for bit");
    Ok(())
}
