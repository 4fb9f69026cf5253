use std::path::Path;

use edkm_llama::config::LlamaConfig;
use edkm_store::Store;
use edkm_testkit::assert_close;

use super::*;
use crate::data::TokenStream;
use crate::init::random_weights;
use crate::lesson::{Lesson, Ramp};

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}"#;

/// The first step on two windows of a record each, of 20 tokens that are predicted and of 3, and the first moments after it.
fn first_step(batch: usize, accumulate: usize, lesson: Option<Lesson>) -> (StepOutcome, Vec<f32>) {
    let config = LlamaConfig::from_json(Path::new("config.json"), CONFIG).unwrap();
    let mut weights = random_weights(1, 2, 0.6);
    let model = DynamicLlama::from_weights(&config, &Cpu::default(), &mut weights).unwrap();
    let settings = TrainerSettings {
        learning_rate: LearningRate::cosine(1e-3, 10).unwrap(),
        temperature: None,
        optimizer: AdamWConfig::default(),
        batch,
        accumulate,
        update: Update::AfterBackward,
    };
    let stream = TokenStream::of_lengths(&[21, 4]);
    let mut sampler = WindowSampler::new(&stream, 20, 0).unwrap();
    let mut trainer = Trainer::new(model, Cpu::default(), settings, Store::marshaling());
    if let Some(lesson) = lesson {
        let other = DynamicLlama::from_weights(&config, &Cpu::default(), &mut random_weights(2, 2, 0.6)).unwrap();
        trainer.learn_from(DynamicTeacher::new(&other).unwrap(), lesson, 0..10);
    }
    let outcome = trainer.step(&mut sampler).unwrap();
    let moments = trainer.optimizer.state().unwrap().moments.into_values();
    let first = moments.flat_map(|moments| match moments {
        dfdx_edkm::optim::Moments::F32 { first, .. } => first,
        dfdx_edkm::optim::Moments::EightBit { .. } => panic!("moments of 8 bits"),
    });
    (outcome, first.collect())
}

/// Each prediction counts alike, whichever pass it is in: a pass of few does not count as much as one of many.
#[test]
fn passes_that_are_accumulated_make_the_step_of_one_batch() {
    let taught = Lesson {
        share: Ramp::constant(0.5),
        hidden: Ramp::constant(5.0),
        fade: f32::INFINITY,
    };
    for lesson in [None, Some(taught)] {
        let (together, want) = first_step(2, 1, lesson);
        let (accumulated, got) = first_step(1, 2, lesson);
        assert_close("loss", &[accumulated.loss], &[together.loss], 1e-6);
        assert_close("norm", &[accumulated.gradient_norm], &[together.gradient_norm], 1e-5);
        assert_eq!(accumulated.tokens, together.tokens);
        assert_close("first moments", &got, &want, 1e-5);
    }
}
