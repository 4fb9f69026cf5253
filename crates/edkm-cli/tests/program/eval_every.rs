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
fn the_best_model_of_a_run_is_kept_and_measured_as_it_is_written() {
    let shop = Workshop::new();
    let known = shop.forgetful();
    let worse = [
        "--valid",
        known.to_str().unwrap(),
        "--no-distill",
        "--lr",
        "1e-2",
        "--eval-every",
        "1",
    ];
    let (last, _) = run(&shop, "last", &worse);
    let (figures, measured) = run(&shop, "best", &[&worse[..], &["--keep-best"]].concat());
    let number = |figures: &serde_json::Value, name: &str| figures[name].as_f64().unwrap();
    let [first, second, third] = [0, 1, 2].map(|step: usize| measured[step].unwrap());
    let best = first.min(second).min(third);
    assert!(best < number(&figures, "perplexity_last"), "{measured:?} {figures}");
    let steps = measured.iter().position(|measured| *measured == Some(best)).unwrap() + 1;
    assert_eq!(figures["kept_steps"], steps);
    assert_eq!(figures["steps"], 4);
    let kept = number(&figures, "perplexity_after");
    assert_eq!(kept, best);
    // the run itself is the same
    assert_eq!(figures["perplexity_last"], last["perplexity_after"]);
    assert_eq!(last["kept_steps"], 4);
    assert_eq!(last["perplexity_last"], last["perplexity_after"]);

    // what is there is what the figures say, and nothing else
    let out = shop.path("best");
    let size = std::fs::metadata(out.join("model.safetensors")).unwrap().len();
    assert_eq!(figures["size_bytes"], size);
    let names = |name: &str| {
        let entries = std::fs::read_dir(shop.path(name)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names("best"), names("last"));
    assert!(!shop.path("best.run").exists());
    let mut eval = edkm();
    eval.arg("eval").arg(&out).arg("--data").arg(&known);
    let whole = json(&eval.args(["--seq", "32", "--json"]).output().unwrap());
    eval = edkm();
    eval.arg("eval").arg(shop.path("last")).arg("--data").arg(&known);
    let other = json(&eval.args(["--seq", "32", "--json"]).output().unwrap());
    assert!(
        number(&whole, "perplexity") < number(&other, "perplexity"),
        "{whole} {other}"
    );
}

#[test]
fn a_run_that_was_better_on_its_way_says_so() {
    let shop = Workshop::new();
    let known = shop.forgetful();
    let valid = [
        "--valid",
        known.to_str().unwrap(),
        "--no-distill",
        "--steps",
        "4",
        "--eval-every",
        "1",
    ];
    for (more, says) in [
        (&["--lr", "1e-2"][..], true),
        (&["--lr", "1e-2", "--keep-best"], false),
        (&["--lr", "0", "--no-cluster"], false),
    ] {
        let output = shop.finetune(&[&valid[..], more, &["--overwrite"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("better on its way"), says, "{said}");
        assert_eq!(said.contains("--keep-best"), says, "{said}");
    }
}

#[test]
fn the_last_model_is_written_where_it_is_the_best() {
    let shop = Workshop::new();
    let better = ["--lr", "1e-2", "--no-cluster", "--eval-every", "2"];
    run(&shop, "last", &better);
    let (figures, _) = run(&shop, "best", &[&better[..], &["--keep-best"]].concat());
    assert_eq!(figures["kept_steps"], 4);
    let model = |name: &str| std::fs::read(shop.path(name).join("model.safetensors")).unwrap();
    assert!(model("best") == model("last"));
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
        let output = shop.finetune(&[&["--steps", "100", "--overwrite"][..], more].concat());
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&[]).contains("--cluster-from 50"));
    for other in [
        &["--cluster-from", "50"][..],
        &["--no-distill"],
        &["--lr", "0"],
        &["--steps", "60"],
    ] {
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
