//! Ctrl-C outside the steps of training: it is acknowledged, the work ends soon, and nothing is left behind.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{edkm, Workshop};

/// Text on which the choice of bits takes a while.
fn with_much_text() -> Workshop {
    let shop = Workshop::new();
    let story = "Once upon a time there was a girl named Lily. She had a red ball and a small dog.\n\n";
    std::fs::write(shop.text(), story.repeat(3000)).unwrap();
    shop
}

/// Sends the signal when `command` has printed `line`, and gives its exit code and what it said.
fn interrupted_at(command: &mut Command, line: &str, signal: &str) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = printed.map_while(Result::ok);
    assert!(printed.any(|printed| printed.contains(line)), "`{line}` is not printed");
    let sent = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let start = Instant::now();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{said}");
    (status.code(), said)
}

#[test]
fn a_choice_of_bits_ends_between_measurements() {
    let shop = with_much_text();
    let (text, out) = (shop.text(), shop.out());
    let budget = ["--bits-budget", "3", "--seq", "256"];
    let plan = shop.finetune_command(&[&budget[..], &["--plan"]].concat());
    let mut compress = shop.compress("kmeans", &budget);
    compress.arg("--out").arg(&out);
    for (mut command, signal) in [
        (shop.finetune_command(&budget), "INT"),
        (plan, "INT"),
        (compress, "TERM"),
    ] {
        let (code, said) = interrupted_at(&mut command, "choosing bits by layer", signal);
        assert_eq!(code, Some(130), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("interrupted: the run ends"), "{said}");
        assert_eq!(lines[1..], ["stopped; nothing was written"], "{said}");
        // no result, no run, no folder in the making
        let left: Vec<_> = text.parent().unwrap().read_dir().unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn a_run_ends_within_its_first_measurements_and_leaves_what_was_traced() {
    for line in ["perplexity of the original", "perplexity without training"] {
        let shop = with_much_text();
        let trace = shop.path("trace.json");
        let mut run = shop.finetune_command(&["--baselines", "--trace", trace.to_str().unwrap()]);
        let (code, said) = interrupted_at(&mut run, line, "INT");
        assert_eq!(code, Some(130), "{said}");
        assert!(said.ends_with("stopped; nothing was written\n"), "{said}");
        // model, text and trace
        let left: Vec<_> = shop.text().parent().unwrap().read_dir().unwrap().collect();
        assert_eq!(left.len(), 3, "{left:?}");
        let events: serde_json::Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        assert!(!events.as_array().unwrap().is_empty());
    }
}

#[test]
fn a_compression_ends_between_matrices() {
    let shop = with_much_text();
    let mut compress = shop.compress("weighted-kmeans", &["--bits", "3", "--seq", "256"]);
    let (code, said) = interrupted_at(compress.arg("--out").arg(shop.out()), "finding palettes", "INT");
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains("interrupted: ") && said.contains("nothing was written"),
        "{said}"
    );
    assert_eq!(shop.text().parent().unwrap().read_dir().unwrap().count(), 2);
}

#[test]
fn a_comparison_ends_within_a_compression_and_says_how_to_go_on() {
    let shop = with_much_text();
    let mut compare = edkm();
    compare.arg("compare").arg(shop.model());
    compare.arg("--data").arg(shop.text()).arg("--valid").arg(shop.text());
    compare.args([
        "--methods",
        "weighted-kmeans",
        "--bits",
        "3",
        "--seeds",
        "1",
        "--eval-tokens",
        "300",
    ]);
    let (code, said) = interrupted_at(compare.arg("--out").arg(shop.out()), "finding palettes", "INT");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("go on with the same command"), "{said}");
}

#[test]
fn a_run_interrupted_before_its_next_step_leaves_its_checkpoint_alone() {
    use std::os::unix::fs::MetadataExt;
    let shop = with_much_text();
    let mut run = shop.finetune_command(&["--steps", "100000"]);
    let (code, said) = interrupted_at(&mut run, "step 1/", "INT");
    assert_eq!(code, Some(130), "{said}");
    let folder = shop.path("out.run").join("checkpoints");
    let entries = || {
        let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
        Vec::from_iter(entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().ino())))
    };
    let checkpoint = entries();
    assert_eq!(checkpoint.len(), 1);
    // what a killed process leaves goes once the run is gone on with
    std::fs::create_dir(folder.join(".partial-1")).unwrap();
    std::fs::write(folder.join(".partial-1/parameters.safetensors"), "half").unwrap();
    let built = shop.path(".out.partial-1");
    std::fs::create_dir(&built).unwrap();
    let note = built.canonicalize().unwrap();
    std::fs::write(shop.path("out.run").join("staging"), note.to_str().unwrap()).unwrap();
    let mut resume = edkm();
    resume.arg("finetune").arg("--resume").arg(shop.out());
    let (code, said) = interrupted_at(&mut resume, "reading the text", "INT");
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(entries(), checkpoint);
    assert!(!built.exists());
}
