//! A compressed model that several conversations share: each has a session, which holds the model, in a thread of its own.
//!
//!     cargo run -p edkm-examples --example 11_sessions_in_threads

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::thread;

use dfdx::prelude::*;
use edkm_cluster::{Bits, Spec};
use edkm_llama::checkpoint::{FloatDtype, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::inference::{generate, CacheType, GenerateOptions, InferenceModel, SamplingOptions, Session};
use edkm_llama::model::DynamicLlama;
use edkm_llama::names::{Parameter, Role};
use edkm_palette::PaletteDType;

/// What a program keeps as long as it runs.
struct Server {
    model: InferenceModel,
}

impl Server {
    /// The tokens of a conversation, as they come.
    fn begin(&self, prompt: Vec<u32>, seed: u64) -> Receiver<u32> {
        let (send, receive) = channel();
        // a handle: the weights are there once
        let model = self.model.clone();
        thread::spawn(move || {
            let mut session = Session::new(&model, 64, CacheType::F16)?;
            let options = GenerateOptions {
                max_tokens: 8,
                stop_tokens: Vec::new(),
                sampling: SamplingOptions {
                    temperature: 1.0,
                    seed,
                    ..SamplingOptions::default()
                },
            };
            generate(&mut session, &prompt, &options, |token| match send.send(token) {
                Ok(()) => ControlFlow::Continue(()),
                // nobody listens any more
                Err(_) => ControlFlow::Break(()),
            })
        });
        receive
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("edkm-example-11-{}", std::process::id()));
    write_model(&folder)?;
    let server = Server {
        model: InferenceModel::open(&folder)?,
    };
    println!("{} bytes of weights", server.model.weight_bytes().total());
    let conversations = [1, 2, 3].map(|seed| server.begin(vec![seed, 7, 9], seed.into()));
    // another with the same seed, while they go on
    let again = server.begin(vec![2, 7, 9], 2);
    let tokens = conversations.map(|tokens| tokens.iter().collect::<Vec<u32>>());
    for (number, tokens) in tokens.iter().enumerate() {
        println!("conversation {number}: {tokens:?}");
    }
    assert_eq!(again.iter().collect::<Vec<u32>>(), tokens[1]);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A small model of random weights with palettes of 3 bits, in a folder such as `edkm finetune` writes (without a tokenizer).
fn write_model(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64}"#;
    let config = LlamaConfig::from_json(Path::new("config.json"), config)?;
    let dev = Cpu::default();
    let mut random = |parameter: &Parameter| {
        let count: usize = parameter.shape.iter().product();
        let numbers: Tensor<(usize,), f32, Cpu> = dev.sample_normal_like(&(count,));
        Ok(match parameter.role {
            Role::Norm => vec![1.0; count],
            _ => (numbers * 0.2).as_vec(),
        })
    };
    let mut model = DynamicLlama::from_weights(&config, &dev, &mut random)?;
    let bits = Bits::new(3)?;
    model.set_clustering(&|parameter: &Parameter| (parameter.role == Role::Linear).then(|| Spec::new(bits)));
    let palettes = model.palettize(PaletteDType::F16)?;
    std::fs::create_dir_all(folder)?;
    config.write(folder)?;
    model.write_weights(folder, &palettes, FloatDtype::F16, Sharding::Single)?;
    Ok(())
}
