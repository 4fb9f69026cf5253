//! Settings of single layers, and bits that are chosen.

use std::path::Path;

use crate::common::{assert_refused, edkm, json, Workshop};

/// The tensors of a written model by name: bits, palettes, dtype of the palette and vector length, or `null`.
fn palettes(dir: &Path) -> serde_json::Map<String, serde_json::Value> {
    let inspected = json(&edkm().arg("inspect").arg(dir).arg("--json").output().unwrap());
    let tensors = inspected["tensors"].as_array().unwrap().iter();
    tensors
        .map(|t| (t["name"].as_str().unwrap().to_owned(), t["palette"].clone()))
        .collect()
}

const RULES: &str = r#"
[[layer]]
pattern = "*"
min_size = 3000
[[layer]]
pattern = "*.down_proj.weight"
bits = 5
group = 16
[[layer]]
pattern = "model.layers.1.*"
bits = 2
vector = 2
[[layer]]
pattern = "model.layers.0.self_attn.q_proj.weight"
skip = true
[[layer]]
pattern = "model.embed_tokens.weight"
bits = 8
palette_dtype = "f16"
"#;

/// What a run is by default follows from the bits that its matrices get, wherever they are said.
#[test]
fn rules_have_the_rate_and_temperature_of_their_bits() {
    let shop = Workshop::new();
    let rules = shop.path("rules.toml");
    std::fs::write(&rules, "[[layer]]\npattern = \"model.layers.*\"\nbits = 8\n").unwrap();
    let rules = rules.to_str().unwrap();
    let first_step = |name: &str, more: &[&str]| {
        let out = shop.path(name);
        let output = shop.finetune(&[more, &["--out", out.to_str().unwrap(), "--json"]].concat());
        json(&output);
        let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let step: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let title = std::fs::read_to_string(out.join("report.html")).unwrap();
        let title = title
            .split("<title>")
            .nth(1)
            .unwrap()
            .split("</title>")
            .next()
            .unwrap()
            .to_owned();
        (step["learning_rate"].clone(), step["temperature"].clone(), title)
    };
    let (rate, temperature, title) = first_step("rules", &["--layers", rules]);
    let (rate_of_8, temperature_of_8, _) = first_step("bits", &["--bits", "8"]);
    let (rate_of_3, ..) = first_step("default", &[]);
    assert_eq!((&rate, &temperature), (&rate_of_8, &temperature_of_8));
    assert_ne!(rate, rate_of_3);
    assert!(!title.contains("3 bits") && title.contains("bits"), "{title}");
    let (_, of_budget, title) = first_step("budget", &["--bits-budget", "2"]);
    assert_eq!(of_budget, 1.0);
    assert!(!title.contains("3 bits"), "{title}");
}

#[test]
fn bits_that_no_matrix_has_are_refused() {
    let shop = Workshop::new();
    let rules = shop.path("layers.toml");
    let bits_with = |text: &str| {
        std::fs::write(&rules, text).unwrap();
        let options = ["--bits", "2", "--layers", rules.to_str().unwrap(), "--plan"];
        let compress = shop.compress("rtn", &options).output().unwrap();
        [shop.finetune(&options), compress]
    };
    for output in bits_with("[[layer]]\npattern = \"*\"\nbits = 3\n") {
        assert_refused(&output, &["--bits 2", "layers.toml leave none"], &shop.out());
    }
    for output in bits_with("[[layer]]\npattern = \"*.0.*\"\nbits = 3\n") {
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn rules_give_layers_their_own_settings_and_a_plan_says_so_before() {
    let shop = Workshop::new();
    let rules = shop.path("layers.toml");
    std::fs::write(&rules, RULES).unwrap();
    let rules = ["--layers", rules.to_str().unwrap()];
    let plan = json(&shop.finetune(&[&rules[..], &["--plan", "--json"]].concat()));
    assert!(!shop.out().exists());
    let mut without_text = edkm();
    without_text
        .arg("finetune")
        .arg(shop.model())
        .args(rules)
        .args(["--plan", "--json"]);
    assert_eq!(json(&without_text.output().unwrap()), plan);

    let figures = json(&shop.finetune(&[&rules[..], &["--json"]].concat()));
    assert!(figures["perplexity_after"].as_f64().unwrap().is_finite());
    let tuned = palettes(&shop.out());
    let compressed = shop.path("compressed");
    let mut command = shop.compress("kmeans", &[&rules[..], &["--bits", "3", "--json"]].concat());
    let compress = json(&command.arg("--out").arg(&compressed).output().unwrap());
    for written in [&tuned, &palettes(&compressed)] {
        let bits = |name: &str| written[name]["bits"].as_u64();
        assert_eq!(bits("model.layers.0.mlp.down_proj.weight"), Some(5));
        assert_eq!(written["model.layers.0.mlp.down_proj.weight"]["palettes"], 64 / 16);
        assert_eq!(bits("model.layers.0.mlp.up_proj.weight"), Some(3));
        assert_eq!(bits("model.layers.1.mlp.down_proj.weight"), Some(2));
        assert_eq!(written["model.layers.1.mlp.down_proj.weight"]["vector"], 2);
        assert_eq!(bits("model.layers.0.self_attn.q_proj.weight"), None);
        // 32 x 64 weights: too small
        assert_eq!(bits("model.layers.0.self_attn.k_proj.weight"), None);
        assert_eq!(bits("model.embed_tokens.weight"), Some(8));
        for layer in plan["layers"].as_array().unwrap() {
            let of_file = &written[layer["name"].as_str().unwrap()];
            assert_eq!(layer["palette"]["bits"], of_file["bits"], "{layer}");
            assert_eq!(
                layer["palette"]["bits_per_weight"], of_file["bits_per_weight"],
                "{layer}"
            );
        }
    }
    for figures in [figures, compress] {
        let (planned, got) = (&plan["bits_per_weight"], &figures["bits_per_weight"]);
        assert!(
            (planned.as_f64().unwrap() - got.as_f64().unwrap()).abs() < 1e-9,
            "{planned} {got}"
        );
    }
    // what was done is written down
    assert!(std::fs::read_to_string(shop.out().join("layers.toml"))
        .unwrap()
        .contains("*.down_proj.weight"));
}

#[test]
fn the_rules_that_are_left_give_the_same_again_without_other_settings() {
    let shop = Workshop::new();
    let rules = shop.path("layers.toml");
    std::fs::write(
        &rules,
        [RULES, "[[layer]]\npattern = \"*.o_proj.*\"\ngroup = 16\n"].concat(),
    )
    .unwrap();
    let rules = rules.to_str().unwrap();
    let budget = ["--bits-budget", "3.9", "--seq", "64", "--windows", "4"];
    let compress = |name: &str, more: &[&str]| {
        let mut command = shop.compress("kmeans", more);
        command.arg("--out").arg(shop.path(name));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(shop.path(name).join("model.safetensors")).unwrap()
    };
    for (name, settings) in [
        (
            "rules",
            &["--bits", "4", "--layers", rules, "--palette-dtype", "f32"][..],
        ),
        (
            "all",
            &[
                "--bits",
                "4",
                "--layers",
                rules,
                "--group",
                "8",
                "--embedding-bits",
                "6",
                "--per-channel-scale",
            ],
        ),
        ("budget", &[&budget[..], &["--group", "32", "--keep-zero"]].concat()),
        (
            "vectors",
            &[&budget[..], &["--vector", "2", "--layers", rules]].concat(),
        ),
    ] {
        let first = compress(name, settings);
        let left = shop.path(name).join("layers.toml");
        let again = compress(&format!("{name} again"), &["--layers", left.to_str().unwrap()]);
        assert!(again == first, "{name}: {}", std::fs::read_to_string(&left).unwrap());
    }
}

#[test]
fn the_example_of_the_documentation_is_one() {
    let shop = Workshop::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/layers.toml");
    let plan = json(&shop.finetune(&["--layers", example, "--plan", "--json"]));
    let layers = plan["layers"].as_array().unwrap();
    let of = |name: &str| &layers.iter().find(|l| l["name"] == name).unwrap()["palette"];
    assert_eq!(of("model.layers.3.mlp.down_proj.weight")["bits"], 4);
    // as --group has it
    assert_eq!(of("model.layers.3.mlp.down_proj.weight")["dtype"], "int8");
    let plan = json(&shop.finetune(&["--layers", example, "--palette-dtype", "f32", "--plan", "--json"]));
    assert!(plan["layers"]
        .as_array()
        .unwrap()
        .iter()
        .all(|layer| layer["palette"]["dtype"] != "int8"));
    assert_eq!(of("model.embed_tokens.weight")["dtype"], "f16");
    assert!(of("model.layers.0.self_attn.k_proj.weight").is_null());
}

#[test]
fn a_budget_is_met_with_everything_counted_and_better_than_the_same_bits_everywhere() {
    let shop = Workshop::new();
    // two layers whose feed-forward parts say nothing: bits are wasted on them
    shop.edit_weights(|header, data| {
        for layer in [1, 3] {
            let tensor = &header[format!("model.layers.{layer}.mlp.down_proj.weight")]["data_offsets"];
            let at = |index: usize| tensor[index].as_u64().unwrap() as usize;
            data[at(0)..at(1)].fill(0);
        }
    });
    // text of the kind that the model knows
    let text = edkm_train::synthetic::generate(edkm_train::synthetic::Split::Train, 9, 30_000);
    std::fs::write(shop.text(), text).unwrap();
    let compress = |name: &str, more: &[&str]| {
        let out = shop.path(name);
        let mut command = shop.compress(
            "weighted-kmeans",
            &[&["--seq", "64", "--windows", "16", "--json"], more].concat(),
        );
        let figures = json(&command.arg("--out").arg(&out).output().unwrap());
        let mut command = edkm();
        command
            .arg("eval")
            .arg(&out)
            .arg("--data")
            .arg(shop.text())
            .args(["--seq", "64", "--json"]);
        let perplexity = json(&command.output().unwrap())["perplexity"].as_f64().unwrap();
        (figures["bits_per_weight"].as_f64().unwrap(), perplexity, figures)
    };
    let (uniform_bits, uniform, _) = compress("uniform", &["--bits", "3", "--embedding-bits", "8"]);
    let budget = format!("{uniform_bits}");
    let (bits, chosen, figures) = compress("budget", &["--bits-budget", &budget, "--embedding-bits", "8"]);
    assert!(
        bits <= uniform_bits && bits > uniform_bits - 0.1,
        "{bits} {uniform_bits}"
    );
    assert!(chosen < uniform, "{chosen} {uniform} {}", figures["bits_chosen"]);
    let choices = figures["bits_chosen"].as_array().unwrap();
    let bits_of = |name: &str| choices.iter().find(|c| c["name"] == name).unwrap()["bits"].as_u64();
    assert_eq!(bits_of("model.embed_tokens.weight"), Some(8));
    for wasted in ["1.mlp.up_proj", "1.mlp.gate_proj", "3.mlp.up_proj", "3.mlp.gate_proj"] {
        assert_eq!(
            bits_of(&format!("model.layers.{wasted}.weight")),
            Some(2),
            "{choices:?}"
        );
    }
    // the file that it leaves does the same again
    let rules = shop.path("budget").join("layers.toml");
    let (again, same, _) = compress("again", &["--layers", rules.to_str().unwrap()]);
    assert_eq!((again, same), (bits, chosen));

    let tuned = json(&shop.finetune(&["--bits-budget", "2.7", "--json"]));
    let bits = tuned["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 2.7 && bits > 2.6, "{bits}");
}
