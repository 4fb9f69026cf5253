//! Ways to compress, side by side.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{assert_refused, edkm, json, Workshop};

fn compare(shop: &Workshop, more: &[&str]) -> Command {
    let mut command = edkm();
    command.arg("compare").arg(shop.model()).arg("--data").arg(shop.text());
    command.arg("--valid").arg(shop.text()).arg("--out").arg(shop.out());
    command.args(["--seq", "32", "--batch", "2", "--eval-tokens", "300", "--json"]);
    command.args(more);
    command
}

/// Lines of the record of runs that are done.
fn done(shop: &Workshop) -> usize {
    let text = std::fs::read_to_string(shop.out().join("runs.jsonl")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn what_cannot_be_is_refused_before_the_first_run() {
    let shop = Workshop::new();
    let rules = shop.path("layers.toml");
    std::fs::write(&rules, "[[layer]]\npattern = \"model.layers.*\"\nbits = 4\n").unwrap();
    for (more, parts) in [
        (&["--lr=-1"][..], ["learning rate", "-1"]),
        (
            &["--bits", "2,3", "--layers", rules.to_str().unwrap()],
            ["2 and 3", "--layers"],
        ),
    ] {
        assert_refused(&compare(&shop, more).output().unwrap(), &parts, &shop.out());
    }
    // where the program asks the system what there is
    if cfg!(target_os = "linux") {
        let output = compare(&shop, &["--batch", "1000000000"]).output().unwrap();
        let parts = [
            "TiB of memory",
            "a smaller --batch",
            "--methods without dkm",
            "--ignore-limits",
        ];
        assert_refused(&output, &parts, &shop.out());
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("--checkpoint-layers"),
            "compare has no such option"
        );
    }
    let output = edkm().arg("compare").arg("--valid").arg(shop.text()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--data"));
    // another process works on it
    let more = ["--methods", "rtn", "--bits", "2"];
    json(&compare(&shop, &more).output().unwrap());
    let lock = std::fs::File::create(shop.out().join("lock")).unwrap();
    lock.lock().unwrap();
    let output = compare(&shop, &more).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another process is working on"));
}

#[test]
fn methods_side_by_side_with_mean_spread_and_a_plot() {
    let shop = Workshop::new();
    let more = [
        "--methods",
        "kmeans,gptq,dkm,uncompressed",
        "--bits",
        "2",
        "--seeds",
        "2",
        "--steps",
        "3",
        "--windows",
        "16",
    ];
    let found = json(&compare(&shop, &more).output().unwrap());
    let rows = found["rows"].as_array().unwrap();
    let of = |method: &str, width: f64| {
        let is = |row: &&serde_json::Value| row["method"] == method && row["bits"].as_f64().unwrap_or(0.0) == width;
        rows.iter()
            .find(is)
            .unwrap_or_else(|| panic!("no {method} {width} in {rows:?}"))
    };
    assert_eq!(rows.len(), 4);
    // weights alone: one run
    assert_eq!(of("kmeans", 2.0)["runs"], 1);
    assert!(of("kmeans", 2.0)["deviation"].is_null());
    assert_eq!(of("uncompressed", 0.0)["runs"], 2);
    assert!(of("uncompressed", 0.0)["bits_per_weight"].is_null());
    for method in ["kmeans", "gptq", "dkm"] {
        let bits = of(method, 2.0)["bits_per_weight"].as_f64().unwrap();
        assert!(bits > 2.0 && bits < 2.2, "{method}");
    }
    // a row is the mean of its runs
    let runs: Vec<f64> = found["runs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["method"] == "dkm" && run["bits"] == 2.0)
        .map(|run| run["perplexity"].as_f64().unwrap())
        .collect();
    let [first, second] = runs[..] else { panic!("{runs:?}") };
    let row = of("dkm", 2.0);
    assert!((row["perplexity"].as_f64().unwrap() - (first + second) / 2.0).abs() < 1e-12);
    let deviation = (first - second).abs() / 2f64.sqrt();
    assert!(deviation > 0.0 && (row["deviation"].as_f64().unwrap() - deviation).abs() < 1e-9);
    // the same as the commands for one method give
    let mut command = edkm();
    command
        .arg("compress")
        .arg(shop.model())
        .args(["--method", "kmeans", "--bits", "2", "--json"]);
    let alone = json(&command.arg("--out").arg(shop.path("alone")).output().unwrap());
    assert_eq!(alone["bits_per_weight"], of("kmeans", 2.0)["bits_per_weight"]);
    assert_eq!(alone["size_bytes"].as_f64(), of("kmeans", 2.0)["size_bytes"].as_f64());
    let (out, text) = (shop.path("tuned"), shop.text());
    let folders = ["--out", out.to_str().unwrap(), "--valid", text.to_str().unwrap()];
    let settings = [
        "--bits",
        "2",
        "--steps",
        "3",
        "--eval-tokens",
        "300",
        "--seed",
        "1",
        "--json",
    ];
    let tuned = shop.finetune(&[&folders[..], &settings].concat());
    assert_eq!(json(&tuned)["perplexity_after"].as_f64(), Some(second));

    let table = std::fs::read_to_string(shop.out().join("table.md")).unwrap();
    assert!(table.contains("| gptq | 2 |") && table.contains(" ± "), "{table}");
    let plot = std::fs::read_to_string(shop.out().join("compare.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("gptq") && plot.contains("bits a weight"));
    assert!(!shop.out().join("running").exists());

    // a budget joins; it is spent on what is felt on the text, so there is a run for each seed
    let mut budget = more;
    (budget[1], budget[3]) = ("kmeans", "3.2");
    let found = json(&compare(&shop, &budget).output().unwrap());
    let row = &found["rows"][0];
    assert_eq!(
        (&row["method"], row["bits"].as_f64(), row["runs"].as_u64()),
        (&"kmeans".into(), Some(3.2), Some(2))
    );
    let bits = row["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 3.2 && bits > 3.0, "{bits}");
    assert_eq!(done(&shop), 1 + 2 + 2 + 2 + 2);
}

#[test]
fn a_comparison_goes_on_where_it_was_and_refuses_another() {
    let shop = Workshop::new();
    let arguments = [
        "--methods",
        "kmeans,dkm",
        "--bits",
        "3",
        "--seeds",
        "2",
        "--steps",
        "12",
    ];
    let undisturbed = Workshop::new();
    let whole = json(&compare(&undisturbed, &arguments).output().unwrap());

    let mut child = compare(&shop, &arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while done(&shop) < 2 && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no run in two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = done(&shop);
    assert!(before >= 2);
    let record = std::fs::read_to_string(shop.out().join("runs.jsonl")).unwrap();
    let resumed = json(&compare(&shop, &arguments).output().unwrap());
    let after = std::fs::read_to_string(shop.out().join("runs.jsonl")).unwrap();
    assert!(after.starts_with(&record), "runs that were done are kept as they were");
    for (ours, theirs) in resumed["rows"]
        .as_array()
        .unwrap()
        .iter()
        .zip(whole["rows"].as_array().unwrap())
    {
        for key in ["method", "perplexity", "deviation", "bits_per_weight", "size_bytes"] {
            assert_eq!(ours[key], theirs[key]);
        }
    }
    // another method joins, with what is done kept
    let more = [
        "--methods",
        "kmeans,dkm,rtn",
        "--bits",
        "3",
        "--seeds",
        "2",
        "--steps",
        "12",
    ];
    let joined = json(&compare(&shop, &more).output().unwrap());
    assert_eq!(joined["rows"].as_array().unwrap().len(), 3);
    assert_eq!(done(&shop), 4);
    // other conditions would not be comparable
    let output = compare(&shop, &["--methods", "kmeans", "--steps", "7"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("steps is 12 there and 7 now"), "{message}");
    assert_eq!(done(&shop), 4);
    json(
        &compare(
            &shop,
            &["--methods", "kmeans", "--bits", "3", "--steps", "7", "--overwrite"],
        )
        .output()
        .unwrap(),
    );
    assert_eq!(done(&shop), 1);
}

/// Another choice of methods adds to what is there.
#[test]
fn what_was_compared_before_stays_in_the_table() {
    let shop = Workshop::new();
    json(
        &compare(&shop, &["--methods", "rtn,kmeans", "--bits", "3"])
            .output()
            .unwrap(),
    );
    let figures = json(
        &compare(&shop, &["--methods", "kmeans", "--bits", "4"])
            .output()
            .unwrap(),
    );
    let rows = |figures: &serde_json::Value| {
        let rows = figures["rows"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| {
                (
                    row["method"].as_str().unwrap().to_owned(),
                    row["bits"].as_f64().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    let all = [("kmeans", 4.0), ("rtn", 3.0), ("kmeans", 3.0)].map(|(method, width)| (method.to_owned(), width));
    assert_eq!(rows(&figures), all);
    let table = std::fs::read_to_string(shop.out().join("table.md")).unwrap();
    assert_eq!(table.matches("| kmeans |").count(), 2, "{table}");
}

#[test]
fn vectors_and_single_layers_are_compared_too() {
    let shop = Workshop::new();
    let rules = shop.path("rules.toml");
    std::fs::write(&rules, "[[layer]]\npattern = \"*.mlp.*\"\nskip = true\n").unwrap();
    let rules = rules.to_str().unwrap();
    let of = ["--methods", "kmeans", "--bits", "4", "--vector", "2", "--layers", rules];
    let found = json(&compare(&shop, &of).output().unwrap());
    let bits = found["rows"][0]["bits_per_weight"].as_f64().unwrap();
    assert!((2.0..3.0).contains(&bits), "{bits}");
    assert_eq!(found["conditions"]["vector"].as_u64(), Some(2));
    assert!(found["conditions"]["layers"].as_str().unwrap().contains("skip = true"));
    // scalars are another comparison, and evenly spaced levels have no vectors: known before the first run
    let output = compare(&shop, &of[..4]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("vector is 2 there and 1 now"), "{message}");
    let other = Workshop::new();
    let output = compare(&other, &["--methods", "kmeans,rtn", "--vector", "2"])
        .output()
        .unwrap();
    assert_refused(&output, &["--vector", "--method rtn"], &other.out());
}

#[test]
fn a_comparison_that_cannot_be() {
    let shop = Workshop::new();
    for (arguments, part) in [
        (&["--methods", "kmeans,best"][..], "straight-through"),
        (&["--bits", "0.5"], "2.7"),
        (&["--seeds", "0"], "0"),
    ] {
        let output = compare(&shop, arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(part), "{message}");
    }
    let output = compare(&shop, &["--seq", "100000"]).output().unwrap();
    assert_refused(&output, &["max_position_embeddings"], &shop.out());
    // somebody's file and folder are left alone
    std::fs::write(shop.out(), "Dear").unwrap();
    let output = compare(&shop, &["--methods", "kmeans"]).output().unwrap();
    assert_refused(&output, &["is a file, and a folder is to be written"], &shop.out());
    std::fs::remove_file(shop.out()).unwrap();
    std::fs::create_dir(shop.out()).unwrap();
    std::fs::write(shop.out().join("letter.txt"), "Dear").unwrap();
    let output = compare(&shop, &["--methods", "kmeans", "--overwrite"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("conditions.json"));
}
