//! A network of dfdx's own layers on three tapes: dfdx's, one over a marshaling store, and one over a store that compresses too. One line differs.
//!
//! What dfdx's layers capture for backward no store can see, so each block is wrapped in `checkpoint`, on every tape alike: its input is saved,
//! through the tape, and backward runs it again.
//!
//!     cargo run -p edkm-examples --example 05_stock_mlp_three_tapes

use dfdx::prelude::*;
use dfdx_edkm::{backward, checkpoint, SaveForBackward, StoreTape};
use edkm_store::{Backend, PlaneCodec, Store};

type Mlp = (
    (Linear<64, 256>, FastGeLU),
    (Linear<256, 256>, FastGeLU),
    Linear<256, 64>,
);
type BuiltMlp = <Mlp as BuildOnDevice<Cpu, f32>>::Built;
type X<T = NoneTape> = Tensor<Rank2<128, 64>, f32, Cpu, T>;

fn loss<T: SaveForBackward<Cpu>>(mlp: &BuiltMlp, x: X<T>) -> Tensor<Rank0, f32, Cpu, T> {
    let x = checkpoint(&mlp.0, x);
    let x = checkpoint(&mlp.1, x);
    checkpoint(&mlp.2, x).square().mean()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let mlp = dev.build_module::<Mlp, f32>();
    let x: X = dev.sample_normal();

    let tape = OwnedTape::default(); // the line
    let grads = loss(&mlp, x.clone().put_tape(tape)).backward();
    let expected = grads.get(&mlp.0 .0.weight).as_vec();
    println!("OwnedTape                    dfdx's own");

    for (name, store) in [
        ("StoreTape, marshal", Store::builder().marshal().build()?),
        (
            "StoreTape, marshal,compress",
            Store::builder().marshal().compress(PlaneCodec::Adaptive).build()?,
        ),
    ] {
        let tape = StoreTape::new(store.clone(), Gradients::leaky()); // the line
        let grads = backward(loss(&mlp, x.clone().put_tape(tape)))?;
        assert_eq!(grads.get(&mlp.0 .0.weight).as_vec(), expected);
        println!(
            "{name:28} the same gradient bit for bit, {} bytes kept",
            store.report().peak_bytes
        );
    }
    Ok(())
}
