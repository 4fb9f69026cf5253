//! What a run says that it will take, and what it takes.

use serde_json::Value;

use crate::common::{assert_refused, json, Workshop};

/// Has the C library give blocks of a MiB and more back to the kernel as soon as they are freed, and smaller ones at the heap's end. Left alone it keeps what is
/// freed, and how much that is depends on the threads' order: up to a third of what so small a run takes, and another share each time.
const GIVEN_BACK: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("MALLOC_TOP_PAD_", "131072"),
];

/// The sum of the files in a folder and below it.
fn bytes_of(folder: &std::path::Path) -> u64 {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => bytes_of(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

fn close(estimated: f64, taken: f64, bound: f64, what: &str) {
    let ratio = estimated / taken;
    println!(
        "{what}: {:.1} MiB of {:.1} MiB, {ratio:.3}",
        estimated / 1048576.0,
        taken / 1048576.0
    );
    assert!(
        (ratio - 1.0).abs() <= bound,
        "{what}: {estimated} is {ratio:.3} times {taken}"
    );
}

#[test]
fn estimates_are_near_what_the_run_takes() {
    for (what, settings) in [
        ("as it comes", &["--seq", "128", "--batch", "16"][..]),
        (
            "layers run again",
            &["--seq", "128", "--batch", "64", "--checkpoint-layers"],
        ),
        ("one model", &["--seq", "256", "--batch", "16", "--no-distill"]),
        ("more batches", &["--seq", "128", "--batch", "16", "--accumulate", "2"]),
        (
            "checkpoints",
            &["--seq", "128", "--batch", "8", "--checkpoint-every", "2"],
        ),
        ("no clustering", &["--seq", "64", "--batch", "64", "--no-cluster"]),
        (
            "update in backward",
            &["--seq", "128", "--batch", "16", "--update-in-backward"],
        ),
    ] {
        let shop = Workshop::new();
        let story = "Once upon a time there was a girl named Lily. She had a red ball and a small dog.\n\n";
        std::fs::write(shop.text(), story.repeat(2000)).unwrap();
        let arguments = [&["--steps", "4", "--eval-tokens", "2000", "--json"], settings].concat();
        let dry = json(&shop.finetune(&[&arguments[..], &["--dry-run"]].concat()));
        assert!(!shop.out().exists() && !shop.path("out.run").exists());
        let output = shop.finetune_command(&arguments).envs(GIVEN_BACK).output().unwrap();
        let outcome = json(&output);
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(shown.contains("the run will take about"), "{shown}");
        let number = |value: &Value| value.as_f64().unwrap();
        if let Some(taken) = outcome["peak_rss_bytes"].as_f64() {
            close(number(&dry["memory_bytes"]), taken, 0.15, what);
        }
        if settings.contains(&"--checkpoint-every") {
            continue;
        }
        // what the run keeps beside OUT is gone by now: a copy of the figures
        let metrics = shop.out().join("metrics.jsonl").metadata().unwrap().len();
        let taken = bytes_of(&shop.out()) + metrics;
        close(number(&dry["disk_bytes"]), taken as f64, 0.15, what);
    }
}

/// Most of what these records have is no text that is learned from, and each has its place in the order.
#[test]
fn records_take_the_memory_that_was_said() {
    let shop = Workshop::new();
    let record = |index: usize| {
        format!(
            "{{\"instruction\": \"Say that number {index:06} is red.\", \"output\": \"Number {index:06} is red, and so is the ball.\", \"source\": \"{}\"}}\n",
            "a list of numbers ".repeat(8)
        )
    };
    let records = shop.path("records.jsonl");
    std::fs::write(&records, (0..80_000).map(record).collect::<String>()).unwrap();
    let arguments = ["--data", records.to_str().unwrap(), "--eval-tokens", "1000", "--json"];
    let dry = json(&shop.finetune(&[&arguments[..], &["--dry-run"]].concat()));
    let outcome = json(&shop.finetune_command(&arguments).envs(GIVEN_BACK).output().unwrap());
    if let Some(taken) = outcome["peak_rss_bytes"].as_f64() {
        close(dry["memory_bytes"].as_f64().unwrap(), taken, 0.15, "records");
    }
}

#[test]
fn a_run_that_cannot_fit_is_refused_with_figures() {
    let shop = Workshop::new();
    // where the program asks the system what there is
    if cfg!(target_os = "linux") {
        let memory = ["--batch", "1000000000"];
        for more in [&[][..], &["--dry-run"]] {
            let output = shop.finetune(&[&memory[..], more].concat());
            assert_refused(
                &output,
                &["TiB of memory", "are there", "--batch", "--ignore-limits"],
                &shop.out(),
            );
        }
        let output = shop.finetune(&["--accumulate", "1000000000"]);
        assert_refused(&output, &["of memory", "a smaller --accumulate"], &shop.out());
    }
    if cfg!(unix) {
        let output = shop.finetune(&["--steps", "1000000000000000"]);
        assert_refused(&output, &[" of disk", "are there", "--out"], &shop.out());
    }
    let output = shop.finetune(&["--batch", "1000000000", "--dry-run", "--ignore-limits"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    for part in [
        "weights",
        "teacher",
        "optimizer",
        "gradients",
        "saved for backward",
        "clustering",
        "data",
        "OUT: weights",
    ] {
        assert!(shown.contains(part), "no `{part}` in: {shown}");
    }
}

#[test]
fn checkpoints_take_the_disk_that_was_said() {
    let disk = ["adamw", "adamw-8bit"].map(|optimizer| {
        let shop = Workshop::new();
        let arguments = [
            "--no-cluster",
            "--eval-tokens",
            "100",
            "--steps",
            "4",
            "--checkpoint-every",
            "1",
            "--keep",
            "1",
            "--optimizer",
            optimizer,
        ];
        let dry = json(&shop.finetune(&[&arguments[..], &["--dry-run", "--json"]].concat()));
        // at this rate the run ends behind its first checkpoint, and leaves it
        let output = shop.finetune(&[&arguments[..], &["--lr", "1e30"]].concat());
        assert_eq!(output.status.code(), Some(1));
        let checkpoints = shop.path("out.run").join("checkpoints");
        assert_eq!(checkpoints.read_dir().unwrap().count(), 1);
        // the new one and the one before it; OUT, which is smaller, comes when that has gone
        let most = 2 * bytes_of(&checkpoints);
        let said = dry["disk_bytes"].as_f64().unwrap();
        close(said, most as f64, 0.15, &format!("disk with checkpoints, {optimizer}"));
        said
    });
    // 12 bytes a parameter, and 6
    assert!(disk[1] < 0.6 * disk[0], "{disk:?}");
}
