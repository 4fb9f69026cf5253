//! From a model to a smaller model, as a user goes.

use std::collections::BTreeMap;
use std::path::Path;

use edkm_llama::checkpoint::{write_model, Checkpoint, FloatDtype, Sharding, TensorEntry};
use edkm_llama::config::{AttentionBias, LlamaConfig};
use edkm_llama::names::{parameters, Role};

use crate::common::{edkm, json, Workshop};

#[test]
fn what_finetune_writes_is_read_by_every_command() {
    let shop = Workshop::new();
    let figures = json(&shop.finetune(&["--json"]));
    for key in [
        "perplexity_before",
        "perplexity_after",
        "bits_per_weight",
        "size_bytes",
        "steps",
        "tokens",
        "training_text",
        "seconds",
        "peak_rss_bytes",
        "saved_bytes_peak",
        "out",
    ] {
        assert!(figures.get(key).is_some(), "no {key} in {figures}");
    }
    assert!(figures["saved_bytes_peak"].as_u64().unwrap() > 0);
    let layers = figures["store_layers"].as_array().unwrap();
    let names: Vec<_> = layers.iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["marshal", "memory"]);
    // marshaling finds contents again
    assert!(layers[0]["hits"].as_u64().unwrap() > 0 && layers[0]["pack_seconds"].as_f64().unwrap() > 0.0);
    assert!(
        layers[0]["kept_bytes"].as_u64() < layers[0]["logical_bytes"].as_u64(),
        "{figures}"
    );
    assert_eq!(layers[0]["logical_bytes"], figures["saved_bytes_logical"]);
    assert_eq!(figures["saved_bytes_disk"], 0);
    assert_eq!(figures["tokens"], 2 * 32 * 2);
    // a tenth of the 60 documents is held out
    let text = &figures["training_text"];
    assert!((54..=55).contains(&text["documents"].as_u64().unwrap()), "{text}");
    assert_eq!(text["tokens"], text["counted"]);
    let epochs = 128.0 / text["tokens"].as_f64().unwrap();
    assert!((text["epochs"].as_f64().unwrap() - epochs).abs() < 1e-12, "{text}");
    let size = std::fs::metadata(shop.out().join("model.safetensors")).unwrap().len();
    assert_eq!(figures["size_bytes"], size);
    let made_with = &figures["settings"];
    assert_eq!((&made_with["seq"], &made_with["batch"]), (&32.into(), &2.into()));
    assert_eq!(made_with["data"][0], shop.text().to_str().unwrap());
    assert_eq!(made_with["clustering"]["training"]["gradient"], "unrolled");
    let report = std::fs::read_to_string(shop.out().join("report.html")).unwrap();
    for part in [
        "palettes",
        "3 bits",
        "a tenth of the text, held out",
        "unrolled",
        "mean squared error",
    ] {
        assert!(report.contains(part), "no `{part}` in the report");
    }

    // the held-out tenth is the end of the text
    let eval = |dir: &Path| perplexity(&shop, dir);
    let (before, after) = (eval(&shop.model()), eval(&shop.out()));
    assert!(before.is_finite() && after.is_finite() && before != after);

    let inspected = json(&edkm().arg("inspect").arg(shop.out()).arg("--json").output().unwrap());
    let bits = inspected["bits_per_weight"].as_f64().unwrap();
    assert!((bits - figures["bits_per_weight"].as_f64().unwrap()).abs() < 1e-9);
    let palette = &inspected["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["palette"].is_object())
        .unwrap()["palette"];
    assert_eq!(palette["first"].as_array().unwrap().len(), 8);

    let written = json(
        &edkm()
            .arg("generate")
            .arg(shop.out())
            .args(["--prompt", "Once upon", "--tokens", "5", "--json"])
            .output()
            .unwrap(),
    );
    assert_eq!(written["tokens"].as_u64().unwrap(), 5);
    assert!(std::fs::read_to_string(shop.out().join("report.html"))
        .unwrap()
        .contains("</html>"));
    assert_eq!(
        std::fs::read_to_string(shop.out().join("metrics.jsonl"))
            .unwrap()
            .lines()
            .count(),
        2
    );

    // and it is a model to start from
    let again = edkm()
        .arg("finetune")
        .arg(shop.out())
        .arg("--data")
        .arg(shop.text())
        .arg("--out")
        .arg(shop.path("again"))
        .args([
            "--steps",
            "1",
            "--seq",
            "32",
            "--batch",
            "1",
            "--bits",
            "2",
            "--group",
            "16",
            "--embedding-bits",
            "8",
            "--json",
        ])
        .output()
        .unwrap();
    assert!(json(&again)["perplexity_after"].as_f64().unwrap().is_finite());
}

/// The model of the workshop as one of another architecture: with biases of zero, or with norms of heads of one.
fn in_form_of(shop: &Workshop, out: &Path, change: impl Fn(&mut LlamaConfig)) {
    let mut config = LlamaConfig::read(shop.model()).unwrap();
    let had: Vec<String> = parameters(&config).map(|parameter| parameter.name).collect();
    change(&mut config);
    let checkpoint = Checkpoint::open(shop.model()).unwrap();
    let weights: Vec<_> = parameters(&config)
        .map(|parameter| {
            let weight = match had.contains(&parameter.name) {
                true => checkpoint.read_f32(&parameter.name, &parameter.shape).unwrap(),
                false => vec![f32::from(parameter.role == Role::Norm); parameter.shape.iter().product()],
            };
            (parameter, weight)
        })
        .collect();
    std::fs::create_dir(out).unwrap();
    let entries = weights
        .iter()
        .map(|(parameter, weight)| TensorEntry::values(&parameter.name, &*parameter.shape, weight, FloatDtype::Bf16));
    write_model(out, entries.collect(), &BTreeMap::new(), Sharding::Single).unwrap();
    config.write(out).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(shop.model().join(file), out.join(file)).unwrap();
    }
}

#[test]
fn models_that_are_nearly_a_llama_go_the_same_way() {
    let shop = Workshop::new();
    let eval = |dir: &Path| perplexity(&shop, dir);
    let llama = eval(&shop.model());
    for (kind, change) in [
        (
            "qwen2",
            (|c| c.attention_bias = AttentionBias::QueryKeyValue) as fn(&mut LlamaConfig),
        ),
        ("qwen3", |c| c.query_key_norm = true),
    ] {
        let [model, small, plain] = ["", "-small", "-plain"].map(|what| shop.path(&format!("{kind}{what}")));
        in_form_of(&shop, &model, change);
        // biases of zero change nothing, norms do
        assert_eq!(eval(&model) == llama, kind == "qwen2", "{kind}");
        let mut command = edkm();
        command
            .arg("finetune")
            .arg(&model)
            .arg("--data")
            .arg(shop.text())
            .arg("--out")
            .arg(&small);
        command.args(["--steps", "4", "--seq", "32", "--batch", "2", "--json"]);
        let figures = json(&command.output().unwrap());
        assert!(figures["perplexity_after"].as_f64().unwrap().is_finite());
        let mut command = edkm();
        command
            .arg("export")
            .arg(&small)
            .args(["--to", "hf", "--out"])
            .arg(&plain);
        assert!(command.output().unwrap().status.success());
        assert_eq!(eval(&plain), eval(&small), "{kind}");
        let text = std::fs::read_to_string(plain.join("config.json")).unwrap();
        assert!(text.contains(&format!("\"model_type\": \"{kind}\"")), "{text}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let bytes = |more: &[&str]| {
        let shop = Workshop::new();
        json(&shop.finetune(&[&["--json"], more].concat()));
        std::fs::read(shop.out().join("model.safetensors")).unwrap()
    };
    let first = bytes(&[]);
    assert_eq!(first, bytes(&[]));
    // neither where saved tensors go nor whether layers are run again changes a bit
    assert_eq!(first, bytes(&["--store", "memory"]));
    assert_eq!(first, bytes(&["--store", "marshal,compress", "--checkpoint-layers"]));
    assert_eq!(first, bytes(&["--store", "marshal,compress", "--checkpoint-attention"]));
    assert_ne!(first, bytes(&["--seed", "1"]));
    // the one store that says that it is lossy
    assert_ne!(first, bytes(&["--store", "marshal,bf16"]));
}

#[test]
fn compression_without_training_writes_a_model() {
    let shop = Workshop::new();
    // text of the kind that the model knows, and not one sentence over and over: gradients tell what matters for it
    let text = edkm_train::synthetic::generate(edkm_train::synthetic::Split::Train, 9, 60_000);
    std::fs::write(shop.text(), text).unwrap();
    let perplexity = |method: &str| perplexity_of(&shop, method, &[]);
    let [rtn, kmeans, weighted, gptq] = ["rtn", "kmeans", "weighted-kmeans", "gptq"].map(perplexity);
    assert!(
        gptq < kmeans && weighted < kmeans && kmeans < rtn,
        "{rtn} {kmeans} {weighted} {gptq}"
    );
    assert!(perplexity("gptq-even") < rtn);
    let written = edkm()
        .arg("generate")
        .arg(shop.path("gptq"))
        .args(["--prompt", "Once upon", "--tokens", "5", "--json"])
        .output()
        .unwrap();
    assert_eq!(json(&written)["tokens"], 5);
    for (method, plain) in [
        ("rtn", rtn),
        ("kmeans", kmeans),
        ("weighted-kmeans", weighted),
        ("gptq", gptq),
    ] {
        let more = ["--per-channel-scale", "--palette-dtype", "f16", "--overwrite"];
        let scaled = perplexity_of(&shop, method, &more);
        assert!(scaled < plain, "{method}: {scaled} {plain}");
    }
}

/// The perplexity of the model that is compressed so into the folder of the method's name, on the text.
fn perplexity_of(shop: &Workshop, method: &str, more: &[&str]) -> f64 {
    let out = shop.path(method);
    let settings = ["--bits", "3", "--seq", "32", "--embedding-bits", "8", "--json"];
    let mut command = shop.compress(method, &[&settings[..], more].concat());
    let figures = json(&command.arg("--out").arg(&out).output().unwrap());
    assert!(figures["bits_per_weight"].as_f64().unwrap() >= 3.0);
    perplexity(shop, &out)
}

/// The perplexity of the model in `dir` on the text.
fn perplexity(shop: &Workshop, dir: &Path) -> f64 {
    let mut command = edkm();
    command.arg("eval").arg(dir).arg("--data").arg(shop.text());
    let output = command.args(["--seq", "32", "--json"]).output().unwrap();
    json(&output)["perplexity"].as_f64().unwrap()
}

#[test]
fn help_names_every_layer_of_the_store() {
    let output = edkm().args(["finetune", "--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for layer in [
        "memory",
        "marshal",
        "uniquify",
        "compress=lz4",
        "spill=DIR:BUDGET",
        "overlap=BOUND",
        "bf16",
        "shard",
    ] {
        assert!(text.contains(layer), "no {layer} in {text}");
    }
}

#[test]
fn help_names_every_command() {
    let output = edkm().arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for command in [
        "finetune", "compress", "eval", "generate", "chat", "export", "inspect", "bench",
    ] {
        assert!(text.contains(command), "{text}");
    }
}

/// What sees nothing of the text before it is asked for, and is another loss: each document of a `.txt` is no record.
#[test]
fn what_is_kept_apart_is_what_was_asked_for() {
    let measured = |apart: &str| {
        let shop = Workshop::new();
        let figures = json(&shop.finetune(&["--apart", apart, "--json"]));
        assert_eq!(figures["settings"]["apart"], apart);
        figures["perplexity_before"].as_f64().unwrap()
    };
    let [records, documents, nothing] = ["records", "documents", "nothing"].map(measured);
    assert_eq!(records, nothing);
    assert_ne!(documents, nothing);
}
