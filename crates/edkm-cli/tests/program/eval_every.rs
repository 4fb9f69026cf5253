//! What is reached is measured while training goes on.

use crate::common::{edkm, json, Workshop};

/// A run of four steps, its figures, and the perplexities that were measured after each step.
fn run(shop: &Workshop, name: &str, more: &[&str]) -> (serde_json::Value, Vec<Option<f64>>) {
    let out = shop.path(name);
    let mut command = edkm();
    command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
    command
        .arg("--out")
        .arg(&out)
        .args(["--steps", "4", "--seq", "32", "--batch", "2"]);
    command.args(["--eval-tokens", "300", "--json"]).args(more);
    let figures = json(&command.output().unwrap());
    let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let measured = lines.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.get("validation_perplexity")
            .map(|measured| measured.as_f64().unwrap())
    });
    (figures, measured.collect())
}

#[test]
fn training_goes_on_as_if_nothing_had_been_measured() {
    let shop = Workshop::new();
    let (_, none) = run(&shop, "plain", &["--lr", "1e-2"]);
    assert_eq!(none, [None; 4]);
    let (figures, measured) = run(&shop, "measured", &["--lr", "1e-2", "--eval-every", "1"]);
    let model = |name: &str| std::fs::read(shop.path(name).join("model.safetensors")).unwrap();
    assert!(model("measured") == model("plain"));
    let [Some(first), Some(_), Some(last), None] = measured[..] else {
        panic!("the result's own is in the report: {measured:?}")
    };
    let result = figures["perplexity_after"].as_f64().unwrap();
    assert!(
        first != last && (last / result).ln().abs() < 0.5,
        "{measured:?} {result}"
    );
    let report = std::fs::read_to_string(shop.path("measured").join("report.html")).unwrap();
    assert!(report.contains("Validation perplexity by step"));
}

#[test]
fn a_model_that_is_not_clustered_yet_is_measured_with_palettes_too() {
    let shop = Workshop::new();
    let late = ["--cluster-from", "2", "--bits", "1", "--lr", "0", "--eval-every", "1"];
    let (figures, measured) = run(&shop, "out", &late);
    let before = figures["perplexity_before"].as_f64().unwrap();
    for measured in &measured[..3] {
        assert!(measured.unwrap() > 1.5 * before, "{measured:?} {before}");
    }
}

#[test]
fn text_that_is_new_to_the_model_is_pointed_out() {
    let shop = Workshop::new();
    let said = |more: &[&str]| {
        let output = shop.finetune(&[&["--steps", "60", "--overwrite"][..], more].concat());
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&[]).contains("--cluster-from 30"));
    for other in [&["--cluster-from", "30"][..], &["--no-distill"], &["--lr", "0"]] {
        assert!(!said(other).contains("new to the model"));
    }
}

#[test]
fn it_is_the_validation_text_on_which_is_measured() {
    let shop = Workshop::new();
    // a model that stays as it is
    let (figures, measured) = run(&shop, "out", &["--no-cluster", "--lr", "0", "--eval-every", "2"]);
    let before = figures["perplexity_before"].as_f64();
    assert_eq!(measured, [None, before, None, None]);
}
