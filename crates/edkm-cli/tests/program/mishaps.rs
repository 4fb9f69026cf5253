//! Numbers that are not finite, disks that are full, two processes at one run: each ends in a clear message or in a right result.

use std::path::Path;
#[cfg(unix)]
use std::process::Command;
use std::process::{Child, Output, Stdio};

#[cfg(target_os = "linux")]
use edkm_testkit::skipped;

use crate::common::{edkm, json, wait_for_step, Workshop};

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// At this rate the first step is the last whose gradients are finite.
const FAR_TOO_HIGH: [&str; 5] = ["--no-cluster", "--lr", "1e30", "--eval-tokens", "100"];

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_names_step_and_tensor() {
    let shop = Workshop::new();
    let named = [
        ("0", "step 2: the gradient of model.embed_tokens.weight is not finite"),
        // weights that have decayed beyond f32
        (
            "1e30",
            "step 2: the loss is NaN; the first tensor that is not finite is the parameter model.embed_tokens.weight",
        ),
    ];
    for (decay, named) in named {
        let output = shop.finetune(&[&FAR_TOO_HIGH[..], &["--overwrite", "--weight-decay", decay]].concat());
        let said = message(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in [named, "--on-non-finite skip"] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
        assert!(!shop.out().exists());
        let log = std::fs::read_to_string(shop.path("out.run").join("log.txt")).unwrap();
        assert!(log.contains(named), "{log}");
    }
}

#[test]
fn what_a_run_was_started_with_and_told_is_in_its_log_whatever_else_is_wanted() {
    let shop = Workshop::new();
    for wanted in ["", "error", "edkm=loud"] {
        let mut command = shop.finetune_command(&["--steps", "1", "--eval-every", "5", "--overwrite"]);
        let output = command.env("RUST_LOG", wanted).output().unwrap();
        let said = message(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("RUST_LOG=edkm=loud"), wanted == "edkm=loud", "{said}");
        let log = std::fs::read_to_string(shop.out().join("log.txt")).unwrap();
        for part in ["--eval-every", "measures nothing on the way"] {
            assert!(log.contains(part), "no `{part}` in: {log}");
        }
    }
}

#[test]
fn a_step_can_be_left_out_and_is_counted() {
    let shop = Workshop::new();
    let mut arguments = FAR_TOO_HIGH.to_vec();
    arguments.extend(["--on-non-finite", "skip", "--steps", "4", "--json"]);
    let output = shop.finetune(&arguments);
    let said = message(&output);
    assert!(
        said.contains("step 2: ")
            && said.contains("step 4: ")
            && !said.contains("step 1: ")
            && said.contains("the step is left out"),
        "{said}"
    );
    let outcome = json(&output);
    assert_eq!(outcome["non_finite"]["skipped"], 3, "{said}");
    let metrics = std::fs::read_to_string(shop.out().join("metrics.jsonl")).unwrap();
    let losses: Vec<bool> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].is_number())
        .collect();
    assert_eq!(losses, [true, false, false, false]);
    let page = std::fs::read_to_string(shop.out().join("report.html")).unwrap();
    assert!(page.contains("3 steps left out"));
}

#[test]
fn a_run_goes_back_to_its_checkpoint_a_bounded_number_of_times() {
    let shop = Workshop::new();
    let mut arguments = FAR_TOO_HIGH.to_vec();
    arguments.extend(["--on-non-finite", "rollback"]);
    let said = message(&shop.finetune(&arguments));
    assert!(said.contains("--checkpoint-every N"), "{said}");
    arguments.extend(["--checkpoint-every", "1", "--steps", "4"]);
    let output = shop.finetune(&arguments);
    let said = message(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("going back to").count(), 3, "{said}");
    assert!(said.contains("went back to") && said.contains("3 times"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn the_log_is_part_of_the_result() {
    let shop = Workshop::new();
    let output = shop.finetune(&["--eval-tokens", "100"]);
    assert!(output.status.success(), "{}", message(&output));
    let log = std::fs::read_to_string(shop.out().join("log.txt")).unwrap();
    for part in ["finetune", "reading the model", "step 1/2", "step 2/2", "perplexity"] {
        assert!(log.contains(part), "no `{part}` in: {log}");
    }
}

#[test]
fn the_time_left_is_a_lower_bound_until_clustering_begins() {
    let shop = Workshop::new();
    let output = shop.finetune(&["--eval-tokens", "100", "--cluster-from", "1"]);
    assert!(output.status.success(), "{}", message(&output));
    let log = std::fs::read_to_string(shop.out().join("log.txt")).unwrap();
    let step = |name: &str| log.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(step("step 1/2").contains("  more than "), "{log}");
    assert!(!step("step 2/2").contains("more than"), "{log}");
}

#[test]
fn runs_that_begin_at_once_without_a_name_take_one_each() {
    let shop = Workshop::new();
    let folder = shop.path("here");
    std::fs::create_dir(&folder).unwrap();
    let start = |_| {
        let mut command = edkm();
        command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
        command.args(["--steps", "1", "--seq", "32", "--batch", "2", "--eval-tokens", "100"]);
        let command = command.current_dir(&folder);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<Child> = (0..4).map(start).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", message(&output));
    }
    for name in ["edkm-out", "edkm-out-2", "edkm-out-3", "edkm-out-4"] {
        assert!(folder.join(name).join("model.safetensors").exists(), "{name}");
    }
}

#[test]
fn two_processes_do_not_work_on_one_run() {
    let shop = Workshop::new();
    let start = |steps: &str| {
        let mut command = edkm();
        command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
        command.arg("--out").arg(shop.out());
        command.args(["--steps", steps, "--seq", "32", "--batch", "2", "--eval-tokens", "100"]);
        command
    };
    let mut first = start("100000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_step(&shop, &mut first, 1);
    assert!(first.try_wait().unwrap().is_none());
    for output in [
        start("2").output().unwrap(),
        edkm().arg("finetune").arg("--resume").arg(shop.out()).output().unwrap(),
    ] {
        let said = message(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another process is working on"), "{said}");
    }
    assert!(first.try_wait().unwrap().is_none(), "the first was disturbed");
    first.kill().unwrap();
    first.wait().unwrap();
}

/// A run whose steps have begun, and that ends in some seconds.
fn begun(shop: &Workshop) -> Child {
    let mut command = shop.finetune_command(&["--steps", "300", "--eval-tokens", "100"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_step(shop, &mut run, 1);
    assert!(run.try_wait().unwrap().is_none(), "it has not begun");
    run
}

#[test]
fn a_trained_model_that_cannot_take_its_place_is_kept_beside_it() {
    let shop = Workshop::new();
    let run = begun(&shop);
    std::fs::create_dir(shop.out()).unwrap();
    std::fs::write(shop.out().join("letter.doc"), "Dear").unwrap();
    let output = run.wait_with_output().unwrap();
    let (said, kept) = (message(&output), shop.path("out.unfinished"));
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["letter.doc", "the trained model is kept in", kept.to_str().unwrap()] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert_eq!(contents(&shop.out()), [("letter.doc".into(), b"Dear".to_vec())]);
    // it is whole
    let mut eval = edkm();
    eval.arg("eval")
        .arg(&kept)
        .arg("--data")
        .arg(shop.text())
        .args(["--seq", "32"]);
    let output = eval.output().unwrap();
    assert!(output.status.success(), "{}", message(&output));
    assert!(kept.join("report.html").exists());
}

#[test]
fn a_run_does_not_need_its_original_to_end() {
    let shop = Workshop::new();
    let run = begun(&shop);
    std::fs::remove_dir_all(shop.model()).unwrap();
    let output = run.wait_with_output().unwrap();
    let said = message(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no sample: "), "{said}");
    let mut eval = edkm();
    eval.arg("eval").arg(shop.out()).arg("--data").arg(shop.text());
    let output = eval.args(["--seq", "32"]).output().unwrap();
    assert!(output.status.success(), "{}", message(&output));
}

/// A run with checkpoints that replaces a model.
#[cfg(unix)]
fn replacing_run(shop: &Workshop) -> String {
    format!(
        "exec '{}' finetune '{}' --data '{}' --out '{}' --overwrite --steps 3 --seq 32 --batch 2 --eval-tokens 100 --checkpoint-every 1 --seed 1",
        env!("CARGO_BIN_EXE_edkm"),
        shop.model().display(),
        shop.text().display(),
        shop.out().display(),
    )
}

/// Every file of a folder, with its content.
fn contents(folder: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut all: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// The run must have ended well, or with an error that names a file, and the model that was there is whole.
#[cfg(unix)]
fn assert_nothing_lost(output: &Output, shop: &Workshop, before: &[(std::ffi::OsString, Vec<u8>)], wanted: &[u8]) {
    let said = message(output);
    assert!(!said.contains("panicked"), "{said}");
    if output.status.success() {
        assert!(
            std::fs::read(shop.out().join("model.safetensors")).unwrap() == wanted,
            "another model"
        );
    } else {
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("error: ") && (said.contains('/') || said.contains("standard output")),
            "no file is named: {said}"
        );
        // whole, as it was; or, where only the sync behind the exchange of the folders failed, the new one
        let now = contents(&shop.out());
        let replaced = now.iter().map(|(name, _)| name).eq(before.iter().map(|(name, _)| name))
            && std::fs::read(shop.out().join("model.safetensors")).unwrap() == wanted;
        assert!(
            now == before || replaced,
            "the model that was there is not as it was: {said}"
        );
    }
}

/// On a disk that is full when a run ends, and has room a little later.
#[cfg(target_os = "linux")]
#[test]
fn a_result_that_has_no_room_waits_for_it() {
    let shop = Workshop::new();
    let (disk, log) = (shop.path("disk"), shop.path("log"));
    std::fs::create_dir(&disk).unwrap();
    let run = format!(
        "'{}' finetune '{}' --data '{}' --out '{}/out' --steps 20 --seq 32 --batch 2 --eval-tokens 100 --ignore-limits",
        env!("CARGO_BIN_EXE_edkm"),
        shop.model().display(),
        shop.text().display(),
        disk.display()
    );
    // metrics have room at first, and what they take later is missing where the weights are written
    let script = format!(
        "mount -t tmpfs -o size=400k none '{disk}' || exit 77\n\
         {run} 2> '{log}' > /dev/null & run=$!\n\
         until [ -s '{disk}/out.run/metrics.jsonl' ] || ! kill -0 $run 2> /dev/null; do sleep 0.01; done\n\
         head -c 400000 /dev/zero > '{disk}/fill' 2> /dev/null\n\
         until grep -q 'make room' '{log}' || ! kill -0 $run 2> /dev/null; do sleep 0.1; done\n\
         rm '{disk}/fill'; wait $run && test -s '{disk}/out/model.safetensors' && wc -l < '{disk}/out/metrics.jsonl'",
        disk = disk.display(),
        log = log.display()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .output();
    match output {
        Ok(output) if output.status.code() != Some(77) && output.status.code() != Some(1) => {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(
                output.status.success() && said.contains("make room"),
                "{output:?}\n{said}"
            );
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "20", "{said}");
        }
        other => skipped(format_args!("no file system of its own ({other:?})")),
    }
}

/// What becomes of a run that waits for room which does not come until it is interrupted.
#[cfg(unix)]
fn limited(script: &str) -> Output {
    use std::io::{BufRead, BufReader};
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(script)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut run = shell.spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(run.stderr.take().unwrap()).split(b'\n') {
        let line = line.unwrap();
        if String::from_utf8_lossy(&line).contains("make room") {
            let _ = Command::new("kill").arg(run.id().to_string()).status();
        }
        said.extend(line);
        said.push(b'\n');
    }
    let output = run.wait_with_output().unwrap();
    Output { stderr: said, ..output }
}

/// A process that may write no larger file than so many KiB meets the errors of a full disk, in every file that grows beyond.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_grow_is_a_clear_error_and_nothing_is_lost() {
    let shop = Workshop::new();
    assert!(shop.finetune(&["--eval-tokens", "100"]).status.success());
    let before = contents(&shop.out());
    let wanted = {
        let shop = Workshop::new();
        assert!(shop.finetune(&["--eval-tokens", "100"]).status.success());
        let output = Command::new("sh").arg("-c").arg(replacing_run(&shop)).output().unwrap();
        assert!(output.status.success(), "{}", message(&output));
        std::fs::read(shop.out().join("model.safetensors")).unwrap()
    };
    let mut failed = 0;
    // in blocks of 512 bytes: the log, the metrics, the result, the checkpoints, and enough for all
    for blocks in [1, 4, 200, 700, 1500, 1 << 20] {
        let output = limited(&format!("ulimit -f {blocks}; {}", replacing_run(&shop)));
        assert_nothing_lost(&output, &shop, &before, &wanted);
        failed += i32::from(!output.status.success());
    }
    assert!(failed >= 3, "the limits were not felt");
}

/// Every call by which a run writes fails in turn, as far as strace can do that here. EDKM_WRITES=1 tries each, otherwise some.
#[cfg(target_os = "linux")]
#[test]
fn a_write_that_fails_is_a_clear_error_and_nothing_is_lost() {
    let traced = |shop: &Workshop, expression: &str| {
        let command = replacing_run(shop).replace("exec ", "exec strace -f -qq EXPRESSION ");
        let command = command.replace("EXPRESSION", expression);
        Command::new("sh").arg("-c").arg(command).output().unwrap()
    };
    let shop = Workshop::new();
    assert!(shop.finetune(&["--eval-tokens", "100"]).status.success());
    let before = contents(&shop.out());
    let trial = Workshop::new();
    assert!(trial.finetune(&["--eval-tokens", "100"]).status.success());
    if !traced(&trial, "-o /dev/null -e trace=none").status.success() {
        skipped("no strace that may trace");
        return;
    }
    let wanted = std::fs::read(trial.out().join("model.safetensors")).unwrap();
    let every = std::env::var_os("EDKM_WRITES").is_some();
    let calls = shop.path("calls");
    // the writes, the syncs, the renamings and the folders of checkpoints and of OUT
    for call in [
        "write",
        "copy_file_range",
        "fsync",
        "fdatasync",
        "rename",
        "renameat",
        "renameat2",
        "mkdir",
        "openat",
    ] {
        // as it was before each run
        let put_back = || {
            for (name, content) in &before {
                std::fs::write(shop.out().join(name), content).unwrap();
            }
        };
        let only = match call {
            // reading is not what is tried here
            "openat" => format!("-P '{}'", shop.path("out.run").join("checkpoints").display()),
            _ => String::new(),
        };
        let output = traced(&shop, &format!("-o '{}' {only} -e trace={call}", calls.display()));
        assert!(output.status.success(), "{}", message(&output));
        put_back();
        let there_are = std::fs::read_to_string(&calls).unwrap();
        let there_are = there_are.matches(&format!(" {call}(")).count();
        // near the beginning, and near the end, where what was trained is written
        let near_ends = |number: usize| {
            let after = number - 1;
            let before = there_are - number;
            [0, 3, 12, 39].iter().any(|&away| after == away || before == away)
        };
        let errno = if call.ends_with("sync") { "EIO" } else { "ENOSPC" };
        for number in (1..=there_are).filter(|&number| every || near_ends(number)) {
            let output = traced(
                &shop,
                &format!("-o /dev/null {only} -e inject={call}:error={errno}:when={number}"),
            );
            assert_nothing_lost(&output, &shop, &before, &wanted);
            put_back();
        }
    }
}

/// JSON has text alone: what of a path is none is replaced there, and nothing fails for it behind the work.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_not_unicode_is_written_to() {
    use std::os::unix::ffi::OsStrExt;

    let shop = Workshop::new();
    let folder = shop.path("").join(std::ffi::OsStr::from_bytes(b"a\xff"));
    std::fs::create_dir(&folder).unwrap();
    let [text, small, plain] = ["text.txt", "small", "plain"].map(|name| folder.join(name));
    std::fs::copy(shop.text(), &text).unwrap();
    let mut compress = shop.compress(
        "weighted-kmeans",
        &["--bits", "3", "--windows", "2", "--seq", "32", "--json"],
    );
    json(
        &compress
            .arg("--data")
            .arg(&text)
            .arg("--out")
            .arg(&small)
            .output()
            .unwrap(),
    );
    let mut eval = edkm();
    eval.arg("eval").arg(&small).args(["--seq", "32", "--json", "--data"]);
    json(&eval.arg(&text).output().unwrap());
    let mut export = edkm();
    export.arg("export").arg(&small).args(["--to", "hf", "--json", "--out"]);
    let exported = json(&export.arg(&plain).output().unwrap());
    assert!(
        exported["out"].as_str().unwrap().ends_with("a\u{fffd}/plain"),
        "{exported}"
    );
    assert!(plain.join("model.safetensors").exists());
}
