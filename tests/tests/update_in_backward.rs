//! A LLaMA that is updated in backward learns the same numbers, and its gradients are never all there. A test binary of its own: it counts what is allocated.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamWConfig, MomentFormat};
use dfdx_edkm::{ParameterKind, ParameterVisitor, Parameters};
use edkm_cluster::Bits;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{largest_part, DynamicLlama, DynamicTeacher, Recompute};
use edkm_store::StoreSpec;
use edkm_testkit::assert_bitwise_equal;
use edkm_train::data::sampler::WindowSampler;
use edkm_train::data::TokenStream;
use edkm_train::init::random_weights;
use edkm_train::lesson::{Lesson, Ramp};
use edkm_train::run::ClusterSettings;
use edkm_train::schedule::LearningRate;
use edkm_train::trainer::{Trainer, TrainerSettings, Update};
use rayon::ThreadPoolBuilder;

/// Counts the bytes that are allocated.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The tests of this file run one after the other: they share the counters.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const STEPS: u64 = 3;
const LAYERS: usize = 6;

fn config(tied: bool) -> LlamaConfig {
    let json = format!(
        r#"{{"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": {LAYERS},
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": {tied}}}"#
    );
    LlamaConfig::from_json(Path::new("test"), &json).unwrap()
}

struct Case {
    tied: bool,
    recompute: Recompute,
    taught: bool,
    moments: MomentFormat,
    sequence: usize,
}

impl Case {
    fn trainer(&self, update: Update) -> Trainer<Cpu> {
        let device = Cpu::default();
        device.disable_cache();
        let source = &mut random_weights(0, LAYERS, 0.05);
        let mut model = DynamicLlama::from_weights(&config(self.tied), &device, source).unwrap();
        let teacher = self.taught.then(|| DynamicTeacher::new(&model).unwrap());
        model.recompute = self.recompute;
        let mut clustering = ClusterSettings::new(Bits::new(2).unwrap(), STEPS);
        clustering.embedding_bits = Some(Bits::new(3).unwrap());
        model.set_clustering(&clustering);
        let settings = TrainerSettings {
            learning_rate: LearningRate::cosine(1e-2, STEPS).unwrap(),
            temperature: Some(clustering.temperature),
            optimizer: AdamWConfig {
                clip_norm: f64::INFINITY,
                moments: self.moments,
                ..AdamWConfig::default()
            },
            batch: 1,
            accumulate: 1,
            update,
        };
        let store = "marshal".parse::<StoreSpec>().unwrap().build().unwrap();
        let mut trainer = Trainer::new(model, device, settings, store);
        let lesson = Lesson {
            share: Ramp::constant(0.5),
            hidden: Ramp { from: 0.3, to: 0.1 },
            fade: f32::INFINITY,
        };
        match teacher {
            Some(teacher) => {
                trainer.learn_from(teacher, lesson, 0..STEPS);
                trainer
            }
            None => trainer,
        }
    }

    fn run(&self, update: Update) -> Outcome {
        let stream = TokenStream::from_tokens((0..2000u32).map(|i| (i * i / 7 + i) % 93).collect());
        let mut sampler = WindowSampler::new(&stream, self.sequence, 0).unwrap();
        let mut trainer = self.trainer(update);
        let (mut taken, mut norms) = (0, Vec::new());
        for step in 0..STEPS {
            let before = LIVE.load(Relaxed);
            PEAK.store(before, Relaxed);
            norms.push(trainer.step(&mut sampler).unwrap().gradient_norm);
            if step > 0 {
                taken = taken.max(PEAK.load(Relaxed) - before);
            }
        }
        let mut copy = Copy(Vec::new());
        trainer.model.visit_parameters("", &mut copy).unwrap();
        Outcome {
            taken,
            norms,
            parameters: copy.0,
        }
    }
}

/// What a few steps have come to.
struct Outcome {
    /// The most bytes that a step after the first has taken beyond what was there before.
    taken: usize,
    /// Of all gradients, by step.
    norms: Vec<f64>,
    /// By name, in their order.
    parameters: Vec<(String, Vec<f32>)>,
}

struct Copy(Vec<(String, Vec<f32>)>);

impl ParameterVisitor<Cpu> for Copy {
    type Error = std::convert::Infallible;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, Cpu>,
    ) -> Result<(), Self::Error> {
        self.0.push((name.to_owned(), parameter.as_vec()));
        Ok(())
    }
}

#[test]
fn the_numbers_are_those_of_an_update_after_backward() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cases = [
        (false, Recompute::Nothing, true, MomentFormat::F32),
        (true, Recompute::Attention, false, MomentFormat::EightBit),
        (true, Recompute::Layers, true, MomentFormat::F32),
    ];
    for (tied, recompute, taught, moments) in cases {
        let case = Case {
            tied,
            recompute,
            taught,
            moments,
            sequence: 24,
        };
        let within = case.run(Update::InBackward);
        let after = case.run(Update::AfterBackward);
        // sums of the same squares in another order
        for (norm, expected) in within.norms.iter().zip(&after.norms) {
            assert!((norm / expected - 1.0).abs() < 1e-12, "{norm} and {expected}");
        }
        for ((name, within), (_, after)) in within.parameters.iter().zip(&after.parameters) {
            assert_bitwise_equal(name, within, after);
        }
    }
}

#[test]
fn the_gradients_of_one_part_are_there_at_a_time() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // few tokens, so that gradients are most of what a step takes
    let case = Case {
        tied: false,
        recompute: Recompute::Nothing,
        taught: false,
        moments: MomentFormat::F32,
        sequence: 2,
    };
    // one thread: how many work at once is how much scratch memory they take
    let one = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let taken = |update| one.install(|| case.run(update).taken);
    let (after, within) = (taken(Update::AfterBackward), taken(Update::InBackward));
    let config = config(false);
    let fewer = 4 * (config.parameter_count() - largest_part(&config)) as usize;
    assert!(
        within + fewer * 9 / 10 < after,
        "{within} of {after} bytes, where {fewer} fewer are expected"
    );
}
