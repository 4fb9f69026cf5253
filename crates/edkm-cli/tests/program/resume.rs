//! Runs that are killed, interrupted or damaged, and go on.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

#[cfg(unix)]
use edkm_testkit::skipped;

use crate::common::{edkm, json, wait_for_step, Workshop};

const STEPS: usize = 12;

/// A run with a checkpoint at every other step. Its clustering begins late, and its last step has a checkpoint.
fn run(shop: &Workshop) -> Command {
    let mut command = edkm();
    command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
    command.arg("--out").arg(shop.out());
    command.args([
        "--steps",
        "12",
        "--seq",
        "32",
        "--batch",
        "2",
        "--eval-tokens",
        "100",
        "--checkpoint-every",
        "2",
        "--cluster-from",
        "3",
        "--init",
        "quantile",
        "--json",
    ]);
    command
}

fn resume(shop: &Workshop) -> Command {
    let mut command = edkm();
    command.arg("finetune").arg("--resume").arg(shop.out());
    command
}

fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn run_folder(shop: &Workshop) -> PathBuf {
    shop.path("out.run")
}

fn model(shop: &Workshop) -> Vec<u8> {
    std::fs::read(shop.out().join("model.safetensors")).unwrap()
}

/// What the steps computed, without what the clock and the system say.
fn steps(shop: &Workshop) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(shop.out().join("metrics.jsonl")).unwrap();
    let line = |line| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["tokens_per_second", "rss_bytes", "peak_rss_bytes"] {
            value.as_object_mut().unwrap().remove(key);
        }
        value
    };
    text.lines().map(line).collect()
}

/// The checkpoints that are there, by name.
fn checkpoints(shop: &Workshop) -> Vec<PathBuf> {
    let Ok(entries) = run_folder(shop).join("checkpoints").read_dir() else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("step-"))
        .collect();
    found.sort();
    found
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    let undisturbed = Workshop::new();
    let start = Instant::now();
    json(&run(&undisturbed).output().unwrap());
    let whole = start.elapsed();
    assert!(
        !run_folder(&undisturbed).exists(),
        "what a finished run does not need is gone"
    );
    let (bytes, figures) = (model(&undisturbed), steps(&undisturbed));
    assert_eq!(figures.len(), STEPS);

    // EDKM_KILLS=50 for the long version
    let kills = std::env::var("EDKM_KILLS").map_or(8, |count| count.parse().unwrap());
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    let (mut resumed, mut begun_again, mut finished) = (0, 0, 0);
    for _ in 0..kills {
        let shop = Workshop::new();
        let mut child = quiet(&mut run(&shop));
        std::thread::sleep(whole.mul_f64(moments.next()));
        child.kill().unwrap();
        child.wait().unwrap();
        if shop.out().exists() {
            finished += 1;
        } else if checkpoints(&shop).is_empty() {
            begun_again += 1;
            json(&run(&shop).output().unwrap());
        } else {
            resumed += 1;
            json(&resume(&shop).output().unwrap());
        }
        assert!(model(&shop) == bytes, "another model.safetensors");
        assert_eq!(steps(&shop), figures);
    }
    println!("{kills} kills: {resumed} resumed, {begun_again} had no checkpoint yet, {finished} were done");
    assert!(resumed > 0);
}

/// Also where it was kept by a process that was killed, after the checkpoint from which the run goes on.
#[test]
fn the_best_model_of_a_run_is_the_same_if_it_goes_on() {
    let begun = || {
        let shop = Workshop::new();
        let known = shop.forgetful();
        let mut command = run(&shop);
        command.arg("--valid").arg(known);
        command.args(["--lr", "1e-2", "--no-distill", "--eval-every", "1", "--keep-best"]);
        (shop, command)
    };
    let (undisturbed, mut command) = begun();
    let figures = json(&command.output().unwrap());
    assert!(figures["kept_steps"].as_u64().unwrap() < 8, "{figures}");

    let killed = || {
        let (shop, mut command) = begun();
        let mut child = quiet(&mut command);
        wait_for_step(&shop, &mut child, 8);
        child.kill().unwrap();
        child.wait().unwrap();
        let best = run_folder(&shop).join("best/model.safetensors");
        assert!(best.exists());
        (shop, best)
    };
    let (shop, _) = killed();
    let again = json(&resume(&shop).output().unwrap());
    for name in ["kept_steps", "perplexity_after", "perplexity_last"] {
        assert_eq!(again[name], figures[name], "{name}");
    }
    assert!(model(&shop) == model(&undisturbed));
    assert_eq!(steps(&shop), steps(&undisturbed));

    // one that is damaged meanwhile costs itself alone
    let (shop, best) = killed();
    std::fs::write(&best, &std::fs::read(&best).unwrap()[..1000]).unwrap();
    let output = resume(&shop).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("the model of the last step is written in place"),
        "{said}"
    );
    let again = json(&output);
    assert_eq!(again["kept_steps"], STEPS);
    assert_eq!(again["perplexity_after"], figures["perplexity_last"]);
}

/// What is written is what was measured on the way, before clustering begins and behind it.
#[test]
fn a_run_is_ended_where_it_is() {
    for from in ["3", "11"] {
        let shop = Workshop::new();
        let mut command = run(&shop);
        command.args(["--eval-every", "1", "--lr", "1e-2", "--cluster-from", from]);
        let mut child = quiet(&mut command);
        wait_for_step(&shop, &mut child, 5);
        child.kill().unwrap();
        child.wait().unwrap();
        let newest = checkpoints(&shop).pop().unwrap();
        let newest = newest.file_name().unwrap().to_string_lossy().into_owned();
        let done: usize = newest["step-".len()..].parse().unwrap();
        assert!(done < STEPS, "killed too late");
        let output = resume(&shop).arg("--finish").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_late = done <= from.parse().unwrap();
        assert_eq!(said.contains("the palettes not at all"), is_late, "{said}");
        let figures = json(&output);
        assert_eq!([&figures["steps"], &figures["kept_steps"]], [done, done]);
        assert_eq!(figures["planned_steps"], STEPS);
        assert!(figures["bits_per_weight"].as_f64().is_some_and(|bits| bits < 8.0));
        let steps = steps(&shop);
        assert_eq!(steps.len(), done);
        assert_eq!(steps[done - 1]["validation_perplexity"], figures["perplexity_after"]);
        let epochs = figures["training_text"]["epochs"].as_f64().unwrap();
        let tokens = figures["training_text"]["tokens"].as_f64().unwrap();
        assert!(
            (epochs * tokens / figures["tokens"].as_f64().unwrap() - 1.0).abs() < 0.1,
            "{figures}"
        );
        // it is over
        assert!(!run_folder(&shop).exists());
        let written = model(&shop);
        assert_eq!(json(&resume(&shop).arg("--json").output().unwrap())["steps"], done);
        assert!(model(&shop) == written);
    }
}

#[test]
fn a_folder_that_was_filled_meanwhile_is_replaced_if_that_is_asked_for() {
    let shop = Workshop::new();
    let mut child = quiet(run(&shop).args(["--steps", "100000"]));
    wait_for_step(&shop, &mut child, 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let other = shop
        .compress("rtn", &["--bits", "8"])
        .arg("--out")
        .arg(shop.out())
        .output();
    assert!(other.unwrap().status.success());
    let before = model(&shop);
    let finish = |more: &[&str]| resume(&shop).arg("--finish").args(more).output().unwrap();
    let refused = finish(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.contains("--overwrite"),
        "{said}"
    );
    assert!(model(&shop) == before && !checkpoints(&shop).is_empty());
    json(&finish(&["--overwrite"]));
    assert!(model(&shop) != before && !run_folder(&shop).exists());
}

/// The model that the rest of a run learns from is the one whose clustering began, and the steps before learn the text alone.
#[test]
fn a_run_that_clusters_later_learns_from_what_it_had_become() {
    let shop = Workshop::new();
    let late = |shop: &Workshop, more: &[&str]| {
        let mut command =
            shop.finetune_command(&["--steps", "100000", "--cluster-from", "3", "--checkpoint-every", "1"]);
        command.args(["--keep", "200", "--eval-tokens", "100"]).args(more);
        let mut child = quiet(&mut command);
        wait_for_step(shop, &mut child, 6);
        child.kill().unwrap();
        child.wait().unwrap();
        let lines = std::fs::read_to_string(run_folder(shop).join("metrics.jsonl")).unwrap();
        let norm = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["gradient_norm"].clone();
        Vec::from_iter(lines.lines().take(5).map(norm))
    };
    let norms = late(&shop, &[]);
    let parameters = |step: u64| {
        let checkpoint = run_folder(&shop).join("checkpoints").join(format!("step-{step:012}"));
        std::fs::read(checkpoint.join("parameters.safetensors")).unwrap()
    };
    let teacher = std::fs::read(run_folder(&shop).join("teacher.safetensors")).unwrap();
    assert!(teacher == parameters(3) && teacher != parameters(2));
    let other = Workshop::new();
    let alone = late(&other, &["--no-distill"]);
    assert_eq!(norms[..3], alone[..3]);
    assert_ne!(norms[4], alone[4]);
    // another model there is not one to learn from
    std::fs::write(run_folder(&shop).join("teacher.safetensors"), parameters(1)).unwrap();
    let output = resume(&shop).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("not the model that this run learns from"), "{message}");
}

/// Killed at each of its last renamings and removals: the result is put in its place, then the folder of the run goes.
#[cfg(target_os = "linux")]
#[test]
fn a_run_killed_while_it_ends_is_complete_or_goes_on() {
    let traced = |shop: &Workshop, arguments: &[&str]| {
        let mut run = run(shop);
        run.args(["--steps", "4"]);
        let mut command = Command::new("strace");
        command.args(["-f", "-qq"]).args(arguments);
        command.arg(run.get_program()).args(run.get_args());
        command.output()
    };
    let undisturbed = Workshop::new();
    let log = undisturbed.path("calls");
    let arguments = ["-e", "trace=rename,unlinkat", "-o", log.to_str().unwrap()];
    if !traced(&undisturbed, &arguments).is_ok_and(|output| output.status.success()) {
        skipped("no strace that may trace");
        return;
    }
    let log = std::fs::read_to_string(log).unwrap();
    // of a run that is over it is not known any more whether it was asked for JSON
    let output = resume(&undisturbed).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains('{'), "{output:?}");
    let wanted = json(&resume(&undisturbed).arg("--json").output().unwrap());
    let (mut complete, mut resumed) = (0, 0);
    for (call, last) in [("rename", 2), ("unlinkat", 8)] {
        let calls = log.matches(&format!("{call}(")).count();
        for number in calls + 1 - last..=calls {
            let shop = Workshop::new();
            let killing = format!("inject={call}:signal=KILL:when={number}");
            let output = traced(&shop, &["-o", "/dev/null", "-e", &killing]).unwrap();
            assert!(!output.status.success(), "{call} {number} was not met");
            let whole = shop.out().exists();
            let output = resume(&shop).arg("--json").output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{call} {number}: {message}");
            match whole {
                true => {
                    complete += 1;
                    assert!(message.contains("is whole"), "{call} {number}: {message}");
                }
                false => resumed += 1,
            }
            assert!(model(&shop) == model(&undisturbed), "{call} {number}: another model");
            assert!(!run_folder(&shop).exists(), "{call} {number}: {message}");
            // and once more, with the same figures
            let figures = json(&output);
            assert!(figures["perplexity_after"].as_f64().unwrap() > 1.0, "{figures}");
            assert_eq!(json(&resume(&shop).arg("--json").output().unwrap()), figures);
            // of the steps before it died, where there were none behind
            for key in ["saved_bytes_clustering", "saved_bytes_plain_dkm", "saved_bytes_logical"] {
                assert_eq!(figures[key], wanted[key], "{call} {number}: {key}");
            }
            let left = shop.out().parent().unwrap().read_dir().unwrap();
            let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = left.filter(|name| name.contains(".partial-")).collect();
            assert!(left.is_empty(), "{call} {number}: {left:?}");
        }
    }
    println!("{complete} were complete, {resumed} went on");
    assert!(complete > 0 && resumed > 0);
}

/// Numbers from 0 to 1 (xorshift); the same in every run of the test, while the moments they stand for are not.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn a_damaged_checkpoint_is_recognised_and_the_one_before_it_used() {
    let undisturbed = Workshop::new();
    json(&run(&undisturbed).output().unwrap());
    for file in ["parameters.safetensors", "moments.safetensors", "state.bin", "xxh3"] {
        let shop = Workshop::new();
        let mut child = quiet(&mut run(&shop));
        wait_for_step(&shop, &mut child, 7);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = checkpoints(&shop);
        let [before, newest] = &found[found.len() - 2..] else {
            panic!("two checkpoints stay")
        };
        let path = newest.join(file);
        let mut content = std::fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&path, content).unwrap();
        let output = resume(&shop).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        for named in [newest, before] {
            assert!(message.contains(named.to_str().unwrap()), "{message}");
        }
        json(&output);
        assert!(model(&shop) == model(&undisturbed));
        assert_eq!(steps(&shop), steps(&undisturbed));
    }
}

#[cfg(unix)]
/// Where Linux tells it; elsewhere the program does not ask either.
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_none_or(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 != 0)
}

#[cfg(unix)]
#[test]
fn the_best_model_of_an_interrupted_run_can_be_used() {
    let shop = Workshop::new();
    let mut child = quiet(run(&shop).args(["--steps", "500", "--eval-every", "1", "--keep-best"]));
    wait_for_step(&shop, &mut child, 2);
    let kill = format!("kill -s INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let best = run_folder(&shop).join("best");
    assert!(
        said.contains(&format!("(the best model so far is in {})", best.display())),
        "{said}"
    );
    let mut eval = edkm();
    eval.arg("eval").arg(best).arg("--data").arg(shop.text());
    assert!(json(&eval.args(["--seq", "32", "--json"]).output().unwrap())["perplexity"].is_f64());
}

/// Moves the folder of the checkpoints away, so that none can be written.
fn block(shop: &Workshop) {
    let folder = run_folder(shop).join("checkpoints");
    std::fs::rename(&folder, run_folder(shop).join("away")).unwrap();
    std::fs::write(folder, "").unwrap();
}

#[cfg(unix)]
fn unblock(shop: &Workshop) {
    let folder = run_folder(shop).join("checkpoints");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(run_folder(shop).join("away"), folder).unwrap();
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_run() {
    let shop = Workshop::new();
    let mut child = quiet(run(&shop).args(["--checkpoint-every", "4", "--steps", "200"]));
    wait_for_step(&shop, &mut child, 1);
    block(&shop);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("training goes on, and there is no checkpoint of"),
        "{said}"
    );
    assert!(shop.out().join("model.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_waits_for_room_for_its_checkpoint() {
    use std::io::Read;
    let shop = Workshop::new();
    let mut child = quiet(run(&shop).args(["--checkpoint-every", "1000", "--steps", "500"]));
    wait_for_step(&shop, &mut child, 2);
    block(&shop);
    let kill = format!("kill -s INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let (mut pipe, mut said) = (child.stderr.take().unwrap(), String::new());
    let mut piece = [0; 256];
    while !said.contains("is tried again") {
        let read = pipe.read(&mut piece).unwrap();
        assert!(read > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    unblock(&shop);
    pipe.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("go on with: edkm finetune --resume"), "{said}");
    assert_eq!(checkpoints(&shop).len(), 1);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_step_and_says_how_to_go_on() {
    let undisturbed = Workshop::new();
    json(&run(&undisturbed).output().unwrap());
    for signal in ["INT", "TERM", "HUP"] {
        if signal == "HUP" && hangups_are_ignored() {
            skipped("the tests run under nohup, and so does what they start");
            continue;
        }
        let shop = Workshop::new();
        // no checkpoint is due before the end
        let mut child = quiet(run(&shop).args(["--checkpoint-every", "1000"]));
        wait_for_step(&shop, &mut child, 2);
        // as `timeout` does it, once to the process and once to its group
        let twice = format!(
            "kill -s {signal} {id}; sleep 0.01; kill -s {signal} {id}",
            id = child.id()
        );
        assert!(Command::new("sh").args(["-c", &twice]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.contains("go on with: edkm finetune --resume"), "{message}");
        assert!(
            message.contains("interrupted: the run ends after this step, with a checkpoint"),
            "{message}"
        );
        assert!(!shop.out().exists());
        // a new run would lose this one
        let output = run(&shop).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--resume"));
        // it is named by what it is to write, or by what is there
        let named = match signal {
            "TERM" => run_folder(&shop),
            _ => shop.out(),
        };
        json(&edkm().args(["finetune", "--resume"]).arg(named).output().unwrap());
        assert!(model(&shop) == model(&undisturbed));
        assert_eq!(steps(&shop), steps(&undisturbed));
    }
}

#[test]
fn a_run_is_not_resumed_with_another_model_or_text() {
    let shop = Workshop::new();
    let mut child = quiet(&mut run(&shop));
    wait_for_step(&shop, &mut child, 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read(shop.text()).unwrap();
    std::fs::write(shop.text(), [b"Another beginning.\n\n", &text[..]].concat()).unwrap();
    let refused = |what: &str| {
        let output = resume(&shop).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(what) && !message.contains("panicked"), "{message}");
    };
    refused("training text");
    std::fs::write(shop.text(), text).unwrap();
    let config = std::fs::read_to_string(shop.config()).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&config).unwrap();
    other["rope_theta"] = 500_000.0.into();
    std::fs::write(shop.config(), other.to_string()).unwrap();
    refused("the model is not the one");
    std::fs::write(shop.config(), config).unwrap();
    shop.edit_weights(|_, data| data[0] ^= 1);
    refused("the model is not the one");
}

#[test]
fn what_was_chosen_for_layers_and_the_optimizer_is_kept_with_the_run() {
    let shops = [Workshop::new(), Workshop::new()];
    let start = |shop: &Workshop| {
        let rules = shop.path("layers.toml");
        let text = "[[layer]]\npattern = \"*.up_proj.*\"\nbits = 5\n[[layer]]\npattern = \"*.0.*\"\nper_channel_scale = true\n";
        std::fs::write(&rules, text).unwrap();
        let mut command = run(shop);
        command.arg("--layers").arg(rules).args(["--bits-budget", "4"]);
        command.args(["--optimizer", "adamw-8bit", "--update-in-backward"]);
        command
    };
    let [undisturbed, killed] = &shops;
    let figures = json(&start(undisturbed).output().unwrap());
    let mut child = quiet(&mut start(killed));
    wait_for_step(killed, &mut child, 7);
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(killed.path("layers.toml")).unwrap();
    let resumed = json(&resume(killed).output().unwrap());
    assert!(model(killed) == model(undisturbed));
    for key in ["bits_chosen", "bits_per_weight", "perplexity_after"] {
        assert_eq!(resumed[key], figures[key]);
    }
    let rules = |shop: &Workshop| std::fs::read_to_string(shop.out().join("layers.toml")).unwrap();
    assert_eq!(rules(killed), rules(undisturbed));
    // a rule of the file, and one for the budget
    assert!(rules(killed).contains("up_proj.*") && rules(killed).contains("0.self_attn.q_proj.weight"));
    assert!(figures["bits_per_weight"].as_f64().unwrap() <= 4.0);
}

#[test]
fn what_a_run_learns_from_is_not_changed_on_the_way_and_what_it_shows_may_be() {
    let shop = Workshop::new();
    let mut start = shop.finetune_command(&["--steps", "8", "--eval-tokens", "100", "--checkpoint-every", "1"]);
    let mut child = quiet(&mut start);
    wait_for_step(&shop, &mut child, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    for (arguments, named) in [
        (&["--steps", "9"][..], "--steps <STEPS>"),
        (&["--bits", "2"], "--bits <BITS>"),
        (&["--no-distill"], "--no-distill"),
        (&["--seed", "1"], "--seed <SEED>"),
    ] {
        let output = resume(&shop).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named) && said.contains("--resume <OUT>"), "{said}");
    }
    let before = checkpoints(&shop);
    let dry = json(&resume(&shop).args(["--dry-run", "--json"]).output().unwrap());
    assert!(dry["memory_bytes"].as_u64().unwrap() > 0);
    assert_eq!(checkpoints(&shop), before);
    let figures = json(&resume(&shop).args(["--json", "--ignore-limits"]).output().unwrap());
    assert_eq!(figures["steps"], 8);
    assert!(shop.out().exists());
}

/// The steps that `--epochs` comes to are those of the run, and of the run that goes on.
#[test]
fn epochs_become_steps_once() {
    let shop = Workshop::new();
    let epochs = |more: &[&str]| {
        let mut command = edkm();
        command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
        command
            .arg("--out")
            .arg(shop.out())
            .args(["--seq", "32", "--batch", "2", "--accumulate", "2"]);
        command.args(["--eval-tokens", "100", "--no-distill", "--checkpoint-every", "1"]);
        command.args(more).output().unwrap()
    };
    let dry = epochs(&["--epochs", "0.5", "--dry-run"]);
    let shown = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(dry.status.success() && shown.contains("training text: 5"), "{shown}");
    let tokens = shown.split(" documents, ").nth(1).unwrap().split(' ').next().unwrap();
    let tokens: f64 = tokens.replace(',', "").parse().unwrap();
    let steps = (0.5 * tokens / 128.0).ceil();
    // at this rate it ends behind a checkpoint
    let stopped = epochs(&["--epochs", "0.1", "--epochs=0.5", "--lr", "1e30"]);
    assert_eq!(stopped.status.code(), Some(1));
    let arguments = std::fs::read_to_string(run_folder(&shop).join("arguments.json")).unwrap();
    assert!(
        arguments.contains(&format!(r#""--steps","{steps}""#)) && !arguments.contains("--epochs"),
        "{arguments}"
    );
    let shown = resume(&shop).arg("--dry-run").output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let figures = json(&epochs(&["--epochs", "0.5", "--overwrite", "--json"]));
    assert_eq!(figures["steps"].as_f64(), Some(steps));
    assert_eq!(figures["training_text"]["tokens"].as_f64(), Some(tokens));
    assert!(figures["training_text"]["epochs"].as_f64().unwrap() >= 0.5);
}

#[cfg(unix)]
#[test]
fn as_many_checkpoints_stay_as_are_kept() {
    for (keep, stay) in [(&["--keep", "1"][..], 1), (&[], 2), (&["--keep", "3"], 3)] {
        let shop = Workshop::new();
        let mut child = quiet(run(&shop).args(["--checkpoint-every", "1"]).args(keep));
        wait_for_step(&shop, &mut child, 5);
        let id = child.id().to_string();
        assert!(Command::new("kill")
            .args(["-s", "INT", &id])
            .status()
            .unwrap()
            .success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert_eq!(checkpoints(&shop).len(), stay, "{keep:?}");
    }
}
