//! The ways to cluster: each is trained, written, read again and measured.

use crate::common::{assert_refused, edkm, json, Workshop};

/// The figures of a run with these arguments, and what `inspect` says of the folder.
fn run(more: &[&str]) -> (serde_json::Value, serde_json::Value) {
    let shop = Workshop::new();
    let figures = json(&shop.finetune(&[&["--json"], more].concat()));
    let inspected = json(&edkm().arg("inspect").arg(shop.out()).arg("--json").output().unwrap());
    assert!(figures["perplexity_after"].as_f64().unwrap().is_finite(), "{more:?}");
    assert_eq!(figures["bits_per_weight"], inspected["bits_per_weight"]);
    (figures, inspected)
}

fn bits(figures: &serde_json::Value) -> f64 {
    figures["bits_per_weight"].as_f64().unwrap()
}

#[test]
fn every_setting_reaches_the_written_model() {
    let (plain, _) = run(&[]);
    for (arguments, least, most) in [
        // half an index a weight
        (&["--vector", "2", "--bits", "4"][..], 2.0, 2.5),
        (&["--vector", "4", "--bits", "4"], 1.0, 1.8),
        (&["--vector", "8", "--bits", "4"], 0.5, 1.8),
        // what the palettes' type spares, what the rows' factors cost
        (&["--palette-dtype", "f16", "--group", "8"], 3.0, 3.4),
        (&["--palette-dtype", "int8"], 3.0, bits(&plain)),
        (&["--per-channel-scale"], bits(&plain) + 0.1, 4.0),
    ] {
        let (figures, _) = run(&[arguments, &["--baselines"]].concat());
        assert!(figures["baselines"]
            .as_array()
            .unwrap()
            .iter()
            .any(|b| b["method"] == "kmeans"));
        let found = bits(&figures);
        assert!(found >= least && found < most, "{arguments:?}: {found}");
    }
}

#[test]
fn palettes_of_vectors_begin_with_the_seed() {
    let shop = Workshop::new();
    let written = |seed| {
        let more = ["--bits", "4", "--vector", "2", "--seed", seed, "--overwrite"];
        let output = shop
            .compress("kmeans", &more)
            .arg("--out")
            .arg(shop.out())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read(shop.out().join("model.safetensors")).unwrap()
    };
    let first = written("0");
    assert!(first == written("0") && first != written("1"));
}

#[test]
fn palettes_that_take_more_than_weights_are_pointed_out() {
    let shop = Workshop::new();
    let said = |more: &[&str]| {
        let compressed = shop
            .compress("kmeans", more)
            .arg("--out")
            .arg(shop.out())
            .arg("--overwrite")
            .output();
        let tuned = shop.finetune(&[&["--steps", "1", "--eval-tokens", "100", "--overwrite"], more].concat());
        [compressed.unwrap(), tuned].map(|output| {
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stderr).contains("no less than plain weights")
        })
    };
    assert_eq!(said(&["--bits", "8", "--group", "1"]), [true, true]);
    assert_eq!(said(&["--bits", "3", "--group", "8"]), [false, false]);
}

#[test]
fn inspect_shows_what_is_no_model_too() {
    let shop = Workshop::new();
    let folder = shop.model();
    let inspect = |more: &[&str]| edkm().arg("inspect").arg(&folder).args(more).output().unwrap();
    let figures = json(&inspect(&["--json"]));
    assert!(figures["config"].is_object() && figures.get("problem").is_none());
    let config = folder.join("config.json");
    let other = std::fs::read_to_string(&config)
        .unwrap()
        .replace("\"llama\"", "\"gpt2\"");
    std::fs::write(&config, other).unwrap();
    let output = inspect(&["--json"]);
    let other = json(&output);
    assert_eq!(other["tensors"], figures["tensors"]);
    assert!(other["config"].is_null());
    for said in [
        other["problem"].as_str().unwrap(),
        &String::from_utf8_lossy(&output.stderr),
    ] {
        assert!(said.contains("gpt2"), "{said}");
    }
}

#[test]
fn inspect_says_what_palettes_are_like() {
    let shop = Workshop::new();
    let dir = shop.out();
    let compress = [
        "compress",
        "--method",
        "kmeans",
        "--bits",
        "4",
        "--vector",
        "2",
        "--group",
        "8",
        "--per-channel-scale",
    ];
    let output = edkm()
        .args(compress)
        .arg(shop.model())
        .arg("--out")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(edkm().arg("inspect").arg(&dir).output().unwrap().stdout).unwrap();
    assert!(
        text.contains(" palettes of int8, vectors of 2, a factor a row, "),
        "{text}"
    );
    let refused = edkm()
        .args([
            "compress",
            "--method",
            "rtn",
            "--bits",
            "4",
            "--vector",
            "2",
            "--overwrite",
        ])
        .arg(shop.model())
        .arg("--out")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(
        message.contains("--vector is 2 with --method rtn") && !message.contains("palettes"),
        "{message}"
    );
}

#[test]
fn palettes_of_groups_are_bytes_by_default() {
    let found = |more: &[&str]| bits(&run(&[&["--group", "8"], more].concat()).0);
    assert_eq!(found(&[]), found(&["--palette-dtype", "int8"]));
    assert!(found(&[]) < found(&["--palette-dtype", "f16"]));
}

#[test]
fn every_way_to_train_differs_from_the_plain_one() {
    let after = |more: &[&str]| run(more).0["perplexity_after"].as_f64().unwrap();
    let plain = after(&["--steps", "3", "--lr", "1e-2"]);
    for arguments in [
        &["--gradient", "implicit"][..],
        &["--gradient", "straight-through"],
        &["--temperature", "0.5"],
        &["--temperature", "1e-4:1e-6", "--temperature-unit", "absolute"],
        &["--temperature", "0.5:0.1", "--temperature-share", "0.5"],
        &["--iterations", "1"],
        &["--lr-unit", "absolute"],
        &["--iterations", "3", "--tolerance", "0.5"],
        &["--init", "kmeans++"],
        &["--init", "quantile"],
        &["--init", "weighted"],
        &["--cluster-from", "2"],
        &["--distill=1"],
        &["--distill=0"],
        &["--distill-hidden", "3"],
        &["--distill-hidden", "0"],
        &["--distill=0:1"],
        &["--no-distill"],
    ] {
        let other = after(&[&["--steps", "3", "--lr", "1e-2"], arguments].concat());
        assert_ne!(other, plain, "{arguments:?} changes nothing");
    }
    let scaled = ["--steps", "3", "--per-channel-scale"];
    let weighted = after(&[&scaled[..], &["--init", "weighted"]].concat());
    assert_ne!(weighted, after(&scaled));
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    for (arguments, part) in [
        (&["--temperature", "0"][..], "temperature"),
        (&["--temperature", "0.1:0.01", "--temperature-share", "2"], "share"),
        (&["--temperature", "0.1", "--temperature-share", "0.5"], "FROM:TO"),
        (
            &["--gradient", "straight-through", "--temperature", "0.1"],
            "--temperature",
        ),
        (&["--tolerance=-1"], "tolerance"),
        (&["--distill=2"], "distillation"),
        (&["--distill=0:2"], "distillation"),
        (&["--distill-hidden=-1"], "hidden states"),
        (&["--distill-fade", "nan"], "fade"),
        (&["--iterations", "0"], "iterations"),
        (&["--init", "quantile", "--vector", "2"], "quantile"),
    ] {
        let shop = Workshop::new();
        assert_refused(&shop.finetune(arguments), &[part], &shop.out());
    }
}
