//! A bounded run of each fuzz target: small files as they should be, and damaged copies of them. `EDKM_FUZZ=N` tries N of them.

mod bodies;

use std::path::Path;

use dfdx::prelude::Cpu;
use edkm_llama::checkpoint::Overwrite;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_testkit::mutations::{count, mutated};
use edkm_train::data::sampler::Position;
use edkm_train::init::random_weights;
use edkm_train::run::checkpoint::{RunFolder, RunState};
use edkm_train::run::BitsChoice;

fn run(seeds: &[&[u8]], usual: usize, body: fn(&Path, &[u8])) {
    let folder = tempfile::tempdir().unwrap();
    let seeds: Vec<_> = seeds.iter().map(|seed| seed.to_vec()).collect();
    mutated(&seeds, count(usual)).for_each(|input| body(folder.path(), &input));
}

#[test]
fn plain_text() {
    run(
        &["One.\nStill one.\n\nTwo \u{e9}\u{4e2d}\u{1f600}.\r\n \n\nThree".as_bytes()],
        10_000,
        bodies::plain_text,
    );
}

#[test]
fn alpaca_array() {
    let records =
        br#"[{"instruction":"Say.","input":"","output":"Ball."}, {"output":"\u00e9","extra":[{}],"instruction":"a"}]"#;
    run(&[records], 10_000, bodies::alpaca_array);
}

#[test]
fn alpaca_lines() {
    let records =
        b"{\"instruction\":\"Say.\",\"input\":\"x\",\"output\":\"Ball.\"}\n\n{\"output\":\"\",\"instruction\":\"a\"}\n";
    run(&[records], 10_000, bodies::alpaca_lines);
}

#[test]
fn tasks() {
    run(
        &[
            br#"{"goal":"Hit.","sol1":"Bat.","sol2":"Cat.","label":1}"#,
            br#"{"ctx_a":"a","ctx_b":"b [x]","activity_label":"c","endings":["d","e [step]"],"label":"0"}"#,
            br#"{"sentence":"a _ b","option1":"c","option2":"d","answer":"2"}"#,
            br#"{"question":{"stem":"a","choices":[{"label":"A","text":"x"},{"label":"B","text":"y"}]},"answerKey":"B"}"#,
            b"q,a,b,c,d,A\n\"two, \"\"q\"\"\",1,2,3,4,D\n",
        ],
        4_000,
        bodies::tasks,
    );
}

#[test]
fn labels() {
    run(&[b"0\n1\n"], 5_000, bodies::labels);
}

#[test]
fn layer_rules() {
    let rules = "[[layer]]\npattern = \"*.q_proj.*\"\nbits = 4\ngroup = 16\nvector = 2\npalette_dtype = \"int8\"\nskip = false\n\
                 [[layer]]\npattern = \"*\"\ngroup = \"tensor\"\nkeep_zero = true\nper_channel_scale = true\nmin_size = 9\n";
    run(&[rules.as_bytes()], 10_000, bodies::layer_rules);
}

#[test]
fn run_state() {
    run(&[&state()], 2_000, bodies::run_state);
}

/// The bytes of a state, as a run writes it.
fn state() -> Vec<u8> {
    let config = r#"{"model_type": "llama", "vocab_size": 4, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 8, "tie_word_embeddings": true}"#;
    let config = LlamaConfig::from_json(Path::new("config.json"), config).unwrap();
    let mut model: DynamicLlama<Cpu> =
        DynamicLlama::from_weights(&config, &Cpu::default(), &mut random_weights(0, 1, 0.02)).unwrap();
    let plain = dfdx_edkm::optim::Moments::F32 {
        first: vec![0.5; 4],
        second: vec![0.25; 4],
    };
    let packed = dfdx_edkm::optim::Moments::EightBit {
        first: vec![1; 4],
        second: vec![2; 4],
        scales: vec![0.5; 2],
    };
    let state = RunState {
        program: "1.2.3".to_owned(),
        step: 3,
        optimizer: dfdx_edkm::optim::AdamWState {
            config: Default::default(),
            step: 3,
            moments: [("a".to_owned(), plain), ("b".to_owned(), packed)].into(),
        },
        clusterings: Default::default(),
        layer_rules: String::new(),
        bits_chosen: vec![BitsChoice {
            name: "a".to_owned(),
            bits: 3,
            bits_per_weight: 3.5,
            estimated_loss: 0.25,
        }],
        position: Position {
            seed: 0,
            epoch: 1,
            used: 2,
            sequence: 3,
            data: 4,
        },
        model: 5,
        validation: 6,
        perplexity_before: 7.5,
        baselines: vec![8.5],
        non_finite: Default::default(),
        training_seconds: 9.5,
        seconds: 10.5,
    };
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::begin(&folder.path().join("out"), Overwrite::Refuse, "{}").unwrap();
    let checkpoint = run.stage(&mut model).unwrap().finish(state, 1).unwrap();
    std::fs::read(checkpoint.join("state.bin")).unwrap()
}
