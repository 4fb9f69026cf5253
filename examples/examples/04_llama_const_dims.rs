//! A LLaMA whose sizes the compiler checks, with random weights: clustered, one step, packed.
//!
//!     cargo run -p edkm-examples --example 04_llama_const_dims

use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::ops::cross_entropy::Targets;
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{backward, gradients_of, StoreTape};
use edkm_cluster::{Bits, Spec};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{Llama, Tokens};
use edkm_llama::names::{Parameter, Role};
use edkm_palette::PaletteDType;
use edkm_store::Store;

// vocabulary, hidden, queries, keys, intermediate
type Tiny = Llama<Const<64>, Const<32>, Const<32>, Const<16>, Const<48>, Cpu>;

const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true
}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let config = LlamaConfig::from_json(Path::new("config.json"), CONFIG)?;
    let mut weights = |parameter: &Parameter| {
        let values = dev
            .sample_normal_like::<(usize,)>(&(parameter.shape.iter().product(),))
            .as_vec();
        let scale = if parameter.role == Role::Norm { 1.0 } else { 0.05 };
        Ok(values.into_iter().map(|v: f32| v * scale).collect())
    };
    let mut model = Tiny::from_weights(&config, &dev, &mut weights)?;
    let bits = Bits::new(3)?;
    model.set_clustering(&|parameter: &Parameter| (parameter.role == Role::Linear).then(|| Spec::new(bits)));

    // two sequences of sixteen tokens, each token followed by the next number
    let ids: Vec<u32> = (0..32).map(|i| i % 16).collect();
    let next: Vec<u32> = ids.iter().map(|id| id + 1).collect();
    let tokens = Tokens {
        ids: ids.into(),
        batch: 2,
        segments: None,
    };
    let targets = Targets {
        weights: vec![1.0; next.len()].into(),
        ids: next.into(),
    };

    let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
    for step in 0..20 {
        let tape = StoreTape::new(Store::marshaling(), gradients_of(&mut model));
        let loss = model.try_loss(&tokens, targets.clone(), tape)?;
        if step % 5 == 0 {
            println!("step {step:2}  loss {:.4}", loss.array());
        }
        let mut grads = backward(loss)?;
        adamw.step(&mut model, &mut grads, 1e-2, 1.0)?;
    }
    let packed = model.palettize(PaletteDType::F32)?;
    let bytes: usize = packed.iter().map(|p| p.matrix.size_bytes()).sum();
    println!("{} matrices packed into {bytes} bytes", packed.len());
    Ok(())
}
