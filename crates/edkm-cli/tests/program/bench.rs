//! The benchmarks of whole layers and steps, at a small size, and the trace that they write.

use crate::common::{assert_refused, edkm, json, Workshop};

#[test]
fn layer_shows_four_rows_with_time_and_memory() {
    let mut command = edkm();
    command.args([
        "bench",
        "layer",
        "--hidden",
        "64",
        "--intermediate",
        "96",
        "--heads",
        "4",
    ]);
    command.args([
        "--kv-heads",
        "2",
        "--seq",
        "16",
        "--batch",
        "2",
        "--repeats",
        "1",
        "--json",
    ]);
    let figures = json(&command.output().unwrap());
    let rows = figures["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["stock", "unclustered", "clustered", "checkpointed"]);
    for row in rows {
        assert!(row["seconds"].as_f64().unwrap() > 0.0 && row["gflops"].as_f64().unwrap() > 0.0);
        if cfg!(target_os = "linux") {
            assert!(row["peak_resident_bytes"].as_u64().unwrap() > 0, "{row}");
        }
    }
}

#[test]
fn saved_counts_what_each_way_keeps_and_lists_the_tensors() {
    let mut command = edkm();
    command.args([
        "bench",
        "saved",
        "--hidden",
        "64",
        "--intermediate",
        "96",
        "--heads",
        "4",
    ]);
    command.args(["--seq", "16", "--by", "tensor", "--json"]);
    let output = command.output().unwrap();
    let figures = json(&output);
    let rows = figures["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 13);
    let counted = |i: usize| rows[i]["store_bytes"].as_u64().unwrap();
    // x, q, k, v, the sum, gate, up and the log-sum-exp; with attention run again x, the sum, gate and up; then x alone
    assert_eq!(
        [counted(1), counted(5), counted(9)],
        [16 * 4 * (5 * 64 + 2 * 96 + 4), 16 * 4 * (2 * 64 + 2 * 96), 16 * 4 * 64]
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("attention.q") && text.contains("swiglu.gate"), "{text}");
}

/// Tensors of 4 MiB, which the allocator would keep for the next.
#[test]
#[cfg(target_os = "linux")]
fn what_the_process_keeps_is_what_the_store_counts() {
    let sizes = "--hidden 512 --intermediate 512 --heads 8 --batch 8 --seq 256";
    let mut command = edkm();
    command.args(["bench", "saved", "--json"]).args(sizes.split(' '));
    let figures = json(&command.output().unwrap());
    let rows = figures["rows"].as_array().unwrap();
    let bytes = |row: &serde_json::Value, key: &str| row[key].as_f64().unwrap();
    for row in &rows[1..] {
        let (kept, counted) = (bytes(row, "kept_bytes"), bytes(row, "store_bytes"));
        assert!((kept - counted).abs() < 0.05 * counted + (1u64 << 20) as f64, "{row}");
    }
    assert!(
        bytes(&rows[0], "kept_bytes") > 2.0 * bytes(&rows[1], "kept_bytes"),
        "{}",
        rows[0]
    );
}

#[test]
fn step_says_where_its_time_goes_and_writes_a_trace() {
    let shop = Workshop::new();
    let trace = shop.path("trace.json");
    let mut command = edkm();
    command.args(["bench", "step", "--seq", "16", "--repeats", "1", "--json"]);
    command.arg("--config").arg(shop.config()).arg("--trace").arg(&trace);
    let figures = json(&command.output().unwrap());
    for key in ["forward", "backward", "clustering", "optimizer", "store", "matmul"] {
        assert!(
            figures[format!("{key}_seconds")].as_f64().unwrap() > 0.0,
            "{key} in {figures}"
        );
    }
    let events: serde_json::Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    let names: Vec<_> = events.as_array().unwrap().iter().map(|event| &event["name"]).collect();
    for name in [
        "step",
        "layer",
        "linear",
        "linear backward",
        "attention backward",
        "cluster",
        "pack",
        "unpack",
        "optimizer",
    ] {
        assert!(names.iter().any(|found| *found == name), "no span {name}");
    }
}

#[test]
fn an_unknown_configuration_and_a_trace_without_a_folder_are_refused() {
    let shop = Workshop::new();
    for (arguments, part) in [
        (["--config", "llama-9"], "tinyllama-1.1b"),
        (
            ["--trace", shop.path("nowhere/t.json").to_str().unwrap()],
            "there is no folder",
        ),
    ] {
        let mut command = edkm();
        command.args(["bench", "step"]).args(arguments);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn generate_says_how_it_loads_and_decodes() {
    let shop = Workshop::new();
    let generate = |more: &[&str]| {
        let mut command = edkm();
        command.args(["bench", "generate", "--config"]).arg(shop.config());
        command.args(["--bits", "3", "--prompt", "4", "--tokens", "4", "--json"]);
        json(&command.args(more).output().unwrap())
    };
    let figures = generate(&[]);
    for key in [
        "load_seconds",
        "first_token_seconds",
        "token_seconds",
        "dfdx_f32_seconds",
        "ratio",
    ] {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key} in {figures}");
    }
    // far below 32 bits a weight
    assert!(figures["size_bytes"].as_u64().unwrap() < 2 * figures["parameters"].as_u64().unwrap());
    // a palette for every eight channels
    let grouped = generate(&["--group", "8"]);
    assert!(grouped["size_bytes"].as_u64().unwrap() > figures["size_bytes"].as_u64().unwrap());
}

#[test]
fn a_step_that_no_machine_holds_is_refused() {
    let shop = Workshop::new();
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(shop.config()).unwrap()).unwrap();
    config["vocab_size"] = (1 << 24).into();
    config["hidden_size"] = (1 << 14).into();
    std::fs::write(shop.config(), config.to_string()).unwrap();
    let mut command = edkm();
    command
        .args(["bench", "step", "--seq", "8", "--config"])
        .arg(shop.config());
    let output = command.output().unwrap();
    assert_refused(&output, &["the step needs", "TiB of memory"], &shop.out());
}
