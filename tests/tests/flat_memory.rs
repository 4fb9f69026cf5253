//! Two hundred steps of training leave nothing in the store, and the process no larger. A test binary of its own: nothing else is in the process.

use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::optim::AdamWConfig;
use edkm_cluster::Bits;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_store::{Backend, StoreSpec};
use edkm_train::data::sampler::WindowSampler;
use edkm_train::data::TokenStream;
use edkm_train::init::random_weights;
use edkm_train::memory::resident_bytes;
use edkm_train::run::ClusterSettings;
use edkm_train::schedule::LearningRate;
use edkm_train::trainer::{Trainer, TrainerSettings, Update};

const STEPS: u64 = 200;
/// Until every thread has had its buffers.
const WARM_UP: u64 = 50;
const LAYERS: usize = 2;
/// What an allocator may keep more of at one moment than at another.
const MARGIN: u64 = 4 << 20;

#[test]
fn two_hundred_steps_leave_nothing_in_the_store_and_the_memory_flat() {
    let config = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": true}"#;
    let config = LlamaConfig::from_json(Path::new("test"), config).unwrap();
    let device = Cpu::default();
    // as the program does
    device.disable_cache();
    let mut model = DynamicLlama::from_weights(&config, &device, &mut random_weights(0, LAYERS, 0.02)).unwrap();
    let clustering = ClusterSettings::new(Bits::new(3).unwrap(), STEPS);
    model.set_clustering(&clustering);
    let settings = TrainerSettings {
        learning_rate: LearningRate::cosine(1e-3, STEPS).unwrap(),
        temperature: Some(clustering.temperature),
        optimizer: AdamWConfig::default(),
        batch: 2,
        accumulate: 1,
        update: Update::AfterBackward,
    };
    let tokens: Vec<u32> = (0..20_000u32).map(|i| (i * i / 7 + i) % 251).collect();
    let stream = TokenStream::from_tokens(tokens);
    let mut sampler = WindowSampler::new(&stream, 64, 0).unwrap();
    let store = "marshal,compress".parse::<StoreSpec>().unwrap().build().unwrap();
    let mut trainer = Trainer::new(model, device, settings, store.clone());

    let (mut losses, mut resident) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        losses.push(trainer.step(&mut sampler).unwrap().loss);
        let report = store.report();
        assert_eq!(
            (report.held_count, report.held_bytes, report.logical_bytes),
            (0, 0, 0),
            "after step {step}"
        );
        for layer in &report.layers {
            assert_eq!(
                (layer.logical_bytes, layer.kept_bytes),
                (0, 0),
                "{} after step {step}",
                layer.name
            );
        }
        if step >= WARM_UP {
            resident.extend(resident_bytes());
        }
    }
    assert!(
        losses[STEPS as usize - 1] < losses[0] - 0.5,
        "it does not train: {losses:?}"
    );

    // had each step left what it saved, the growth would be far beyond the margin
    let leak = (STEPS - WARM_UP) * store.report().peak_bytes;
    assert!(leak > 8 * MARGIN, "{leak} bytes would not be seen");
    let (Some(first), Some(most)) = (resident.first(), resident.iter().max()) else {
        eprintln!("the system does not tell how much memory the process has: that part is skipped");
        return;
    };
    assert!(
        most - first <= MARGIN,
        "{} bytes more than after step {WARM_UP}",
        most - first
    );
}
