//! Runs that end by themselves: what was trained is kept, and they go on in another way or are finished.

use std::process::{Output, Stdio};
use std::time::Duration;

use crate::common::{edkm, json, Workshop};

/// At this rate the first step is the last whose gradients are finite.
const FAR_TOO_HIGH: [&str; 7] = ["--no-cluster", "--lr", "1e30", "--eval-tokens", "100", "--steps", "4"];

fn resume(shop: &Workshop, more: &[&str]) -> Output {
    let mut command = edkm();
    command.arg("finetune").arg("--resume").arg(shop.out()).args(more);
    command.output().unwrap()
}

/// What a run says that ended by itself.
fn ended(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_run_that_ended_goes_on_in_another_way_and_comes_to_the_same() {
    let shop = Workshop::new();
    let said = ended(&shop.finetune(&FAR_TOO_HIGH));
    for part in ["step 2: ", "1 of 4 steps are kept", "--resume", "--finish"] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    // the same as if it had been said at first
    let model = |shop: &Workshop| std::fs::read(shop.out().join("model.safetensors")).unwrap();
    let skip = ["--on-non-finite", "skip"];
    assert_eq!(
        json(&resume(&shop, &[&skip[..], &["--json"]].concat()))["non_finite"]["skipped"],
        3
    );
    let other = Workshop::new();
    assert!(other.finetune(&[&FAR_TOO_HIGH[..], &skip].concat()).status.success());
    assert!(model(&shop) == model(&other), "another model");
}

#[test]
fn what_is_changed_of_a_run_holds_when_it_goes_on_again() {
    let shop = Workshop::new();
    ended(&shop.finetune(&FAR_TOO_HIGH));
    let rollback = ["--on-non-finite", "rollback", "--checkpoint-every", "1", "--keep", "3"];
    for more in [&rollback[..], &[]] {
        let said = ended(&resume(&shop, more));
        assert_eq!(said.matches("going back to").count(), 3, "{said}");
    }
    // and its steps are not lost
    let outcome = json(&resume(&shop, &["--finish", "--json"]));
    assert_eq!((&outcome["steps"], &outcome["planned_steps"]), (&1.into(), &4.into()));
    assert_eq!(outcome["settings"]["on_non_finite"], "rollback");
}

#[test]
fn what_is_no_state_of_a_step_is_not_kept() {
    for (more, why) in [
        (
            ["--weight-decay", "1e30"],
            "is not finite: there is no checkpoint of 1 step",
        ),
        (
            ["--update-in-backward", "--no-cluster"],
            "a part of the step was made already",
        ),
    ] {
        let shop = Workshop::new();
        let said = ended(&shop.finetune(&[&FAR_TOO_HIGH[..], &more].concat()));
        assert!(said.contains(why) && !said.contains("are kept"), "{said}");
        assert!(shop.path("out.run/checkpoints").read_dir().unwrap().next().is_none());
    }
}

#[test]
fn a_run_that_is_finished_takes_no_more_than_that() {
    let shop = Workshop::new();
    ended(&shop.finetune(&[&FAR_TOO_HIGH[..], &["--batch", "64"]].concat()));
    let taken = |more: &[&str]| json(&resume(&shop, &[&["--dry-run", "--json"], more].concat()));
    let (going_on, finished) = (taken(&[]), taken(&["--finish"]));
    for key in ["memory_bytes", "disk_bytes_if_interrupted"] {
        let [more, less] = [&going_on, &finished].map(|taken| taken[key].as_u64().unwrap());
        assert!(less < more, "{key}: {less} of {more}");
    }
    let stages = finished["memory"].as_array().unwrap().iter();
    let stages: Vec<_> = stages.map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["reading the text", "reading the checkpoint", "evaluation"]);
}

/// Of a run that is killed before its first checkpoint, the best model is what is left.
#[test]
fn the_best_model_of_a_run_without_checkpoints_is_not_lost() {
    let shop = Workshop::new();
    let keep_best = [
        "--eval-every",
        "1",
        "--keep-best",
        "--eval-tokens",
        "100",
        "--steps",
        "100000",
    ];
    let mut run = shop
        .finetune_command(&keep_best)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let best = shop.path("out.run/best");
    while !best.exists() && run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    for output in [shop.finetune(&[]), resume(&shop, &[])] {
        let said = ended(&output);
        assert!(said.contains(best.to_str().unwrap()), "{said}");
    }
    assert!(best.join("model.safetensors").exists());
    let output = shop.finetune(&["--overwrite", "--eval-tokens", "100"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("best model"),
        "{output:?}"
    );
    assert!(output.status.success() && !best.exists(), "{output:?}");
}
