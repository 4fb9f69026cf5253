//! A bounded run of each fuzz target: small files as they should be, and damaged copies of them. `EDKM_FUZZ=N` tries N of them.

mod bodies;

use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamW, AdamWConfig, MomentFormat};
use edkm_llama::checkpoint::Overwrite;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_testkit::mutations::{count, mutated};
use edkm_train::data::sampler::Position;
use edkm_train::init::random_weights;
use edkm_train::run::checkpoint::{OptimizerState, RunFolder, RunState};
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
    let messages = br#"[{"messages":[{"role":"user","content":[{"text":"a"}]},{"role":"assistant","content":"b"}]}]"#;
    let named = br#"{"version":1,"data":[{"instruction":"Say.","context":"x","response":"Ball."}]}"#;
    run(&[records, messages, named], 10_000, bodies::alpaca_array);
}

#[test]
fn alpaca_lines() {
    let records =
        b"{\"instruction\":\"Say.\",\"input\":\"x\",\"output\":\"Ball.\"}\n\n{\"output\":\"\",\"instruction\":\"a\"}\n";
    let conversations =
        b"{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"}]}\n";
    let completions = b"{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"b\"}]}\n";
    run(&[records, conversations, completions], 10_000, bodies::alpaca_lines);
}

#[test]
fn chat_template() {
    let template = "{%- set n = namespace(i=0) %}{% for m in messages[::-1] %}{%- if m.role == 'user' and not loop.first %}\
                    {{- '<s>' + m['content'].strip() + n.i|string }}{% generation %}{{ m.content.split('b')[-1] | trim ~ eos_token }}{% endgeneration %}\
                    {% else %}{%- set n.i = n.i + 1 -%}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[a]' * 3 }}{% endif %}";
    run(&[template.as_bytes()], 4_000, bodies::chat_template);
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

#[test]
fn moments() {
    run(
        &[&moments_of(MomentFormat::F32), &moments_of(MomentFormat::EightBit)],
        4_000,
        bodies::moments,
    );
}

/// The bytes of moments after a step, as a run writes them.
fn moments_of(format: MomentFormat) -> Vec<u8> {
    let (mut model, device) = (model(), Cpu::default());
    let config = AdamWConfig {
        moments: format,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(device, config);
    let mut gradients = Gradients::leaky();
    optimizer.step(&mut model, &mut gradients, 0.1, 1.0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::claim(&folder.path().join("out"), Overwrite::Refuse)
        .unwrap()
        .begin("{}")
        .unwrap();
    let checkpoint = run
        .stage(&mut model, &optimizer)
        .unwrap()
        .finish(run_state_of(), 1)
        .unwrap();
    std::fs::read(checkpoint.join("moments.safetensors")).unwrap()
}

/// The bytes of a state, as a run writes it.
fn state() -> Vec<u8> {
    let optimizer = AdamW::new(Cpu::default(), AdamWConfig::default());
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::claim(&folder.path().join("out"), Overwrite::Refuse)
        .unwrap()
        .begin("{}")
        .unwrap();
    let staged = run.stage(&mut model(), &optimizer).unwrap();
    let checkpoint = staged.finish(run_state_of(), 1).unwrap();
    std::fs::read(checkpoint.join("state.bin")).unwrap()
}

/// A model with a matrix of so many numbers that it may have moments of 8 bits.
fn model() -> DynamicLlama<Cpu> {
    let config = r#"{"model_type": "llama", "vocab_size": 1024, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 8, "tie_word_embeddings": true}"#;
    let config = LlamaConfig::from_json(Path::new("config.json"), config).unwrap();
    DynamicLlama::from_weights(&config, &Cpu::default(), &mut random_weights(0, 1, 0.02)).unwrap()
}

fn run_state_of() -> RunState {
    RunState {
        settings: [("steps".to_owned(), "4".to_owned())].into(),
        step: 3,
        optimizer: OptimizerState {
            config: Default::default(),
            step: 3,
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
        teacher: Some(11),
        perplexity_before: 7.5,
        baselines: vec![8.5],
        non_finite: Default::default(),
        saved_bytes: Default::default(),
        training_seconds: 9.5,
        seconds: 10.5,
    }
}
