//! The benchmark of a step, in a process of its own: `tracing` may miss spans while other tests come and go with subscribers of their own.

use dfdx::prelude::Cpu;
use dfdx_edkm::optim::MomentFormat;
use edkm_cluster::Bits;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::Recompute;
use edkm_store::{Bytes, StoreSpec};
use edkm_train::bench::phases::PhaseTimes;
use edkm_train::bench::step::{run, StepSettings};
use edkm_train::device_share::DeviceShare;
use edkm_train::run::ClusterSettings;
use edkm_train::trainer::Update;
use tracing_subscriber::layer::SubscriberExt;

#[test]
fn the_phases_are_parts_of_the_step() {
    let config = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": true}"#;
    let settings = StepSettings {
        config: LlamaConfig::from_json(std::path::Path::new("test"), config).unwrap(),
        clustering: Some(ClusterSettings::new(Bits::new(3).unwrap(), 2)),
        sequence: 16,
        batch: 2,
        recompute: Recompute::Nothing,
        store: StoreSpec::default(),
        device_share: DeviceShare::AtMost(Bytes(1 << 14)),
        moments: MomentFormat::EightBit,
        update: Update::InBackward,
        repeats: 1,
    };
    let times = PhaseTimes::default();
    let subscriber = tracing_subscriber::registry().with(times.clone());
    let device = Cpu::default();
    let bench = tracing::subscriber::with_default(subscriber, || run(&settings, &device, &times)).unwrap();
    assert!(bench.phases.iter().all(|&seconds| seconds > 0.0), "{bench:?}");
    assert!(bench.phases.iter().sum::<f64>() <= bench.seconds, "{bench:?}");
    // per layer q and o 32 x 32, k and v 16 x 32, three of 32 x 48; the head 64 x 32
    let weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48) + 64 * 32;
    assert_eq!(bench.matmul_flop, 6.0 * 32.0 * weights as f64);
    let too_long = StepSettings {
        sequence: 17,
        ..settings
    };
    assert!(run(&too_long, &device, &times).is_err());
}
