//! A LLaMA decoder layer on three tapes: dfdx's, one over a marshaling store, and one over a store that compresses too. One line differs.
//!
//!     cargo run -p edkm-examples --example 06_llama_layer_three_tapes

use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::{backward, gradients_of, SaveForBackward, StoreTape};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{DecoderLayer, Llama};
use edkm_llama::names::{Parameter, Role};
use edkm_store::{Backend, PlaneCodec, Store};

// hidden, queries, keys, intermediate
type Layer = DecoderLayer<Const<64>, Const<64>, Const<32>, Const<176>, Cpu>;
type X<T = NoneTape> = Tensor<Rank3<2, 32, 64>, f32, Cpu, T>;

const CONFIG: &str = r#"{
  "model_type": "llama", "vocab_size": 8, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 1,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": true
}"#;

/// The decoder layer of a model with random weights.
fn layer(dev: &Cpu) -> Result<Layer, Box<dyn std::error::Error>> {
    let config = LlamaConfig::from_json(Path::new("config.json"), CONFIG)?;
    let mut weights = |parameter: &Parameter| {
        let values = dev.sample_normal_like::<(usize,)>(&(parameter.shape.iter().product(),));
        let scale = if parameter.role == Role::Norm { 1.0 } else { 0.1 };
        Ok((values * scale).as_vec())
    };
    let model: Llama<Const<8>, _, _, _, _, Cpu> = Llama::from_weights(&config, dev, &mut weights)?;
    Ok(model.layers[0].clone())
}

fn loss<T: SaveForBackward<Cpu>>(layer: &Layer, x: X<T>) -> Tensor<Rank0, f32, Cpu, T> {
    layer.forward(x).square().mean()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let layer = layer(&dev)?;
    let x: X = dev.sample_normal();

    let tape = OwnedTape::default(); // the line
    let grads = loss(&layer, x.clone().put_tape(tape)).backward();
    let expected = grads.get(&layer.query.weight).as_vec();
    println!("OwnedTape                    dfdx's own");

    for (name, store) in [
        ("StoreTape, marshal", Store::builder().marshal().build()?),
        (
            "StoreTape, marshal,compress",
            Store::builder().marshal().compress(PlaneCodec::Adaptive).build()?,
        ),
    ] {
        let tape = StoreTape::new(store.clone(), gradients_of(&mut layer.clone())); // the line
        let grads = backward(loss(&layer, x.clone().put_tape(tape)))?;
        assert_eq!(grads.get(&layer.query.weight).as_vec(), expected);
        println!(
            "{name:28} the same gradient bit for bit, {} bytes kept",
            store.report().peak_bytes
        );
    }
    Ok(())
}
