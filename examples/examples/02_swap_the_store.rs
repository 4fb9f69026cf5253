//! The same model on three storage backends: the tape on the input decides, one line.
//!
//!     cargo run -p edkm-examples --example 02_swap_the_store

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::{ClusteredLinear, RmsNorm};
use dfdx_edkm::{backward, StoreTape};
use edkm_store::{Backend, Store, StoreSpec};

type Model = (RmsNorm<256>, ClusteredLinear<256, 512>, ReLU, ClusteredLinear<512, 256>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let model = dev.build_module::<Model, f32>();
    let x: Tensor<Rank2<64, 256>, f32, _> = dev.sample_normal();
    let mut first: Option<Vec<f32>> = None;
    for layers in ["memory", "marshal", "marshal,compress"] {
        let store: Store = layers.parse::<StoreSpec>()?.build()?;
        let tape = StoreTape::new(store.clone(), model.alloc_grads()); // the one line
        let loss = model.forward(x.clone().put_tape(tape)).square().mean();
        let held = store.report().held_bytes;
        let grads = backward(loss)?;
        let gradient = grads.get(&model.1.weight).as_vec();
        let same = first.get_or_insert_with(|| gradient.clone()) == &gradient;
        println!("{layers:18} keeps {held:7} bytes; the same gradient, bit for bit: {same}");
        assert!(same);
    }
    Ok(())
}
