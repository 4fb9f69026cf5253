//! Results that cannot be written are an error, but for a reader who has gone; progress that cannot be shown is none.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::process::{Command, Output, Stdio};

use crate::common::{edkm, Workshop};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn commands(shop: &Workshop) -> Vec<Command> {
    let mut inspect = edkm();
    inspect.arg("inspect").arg(shop.model());
    let mut json = edkm();
    json.arg("inspect").arg(shop.model()).arg("--json");
    let mut eval = edkm();
    eval.arg("eval").arg(shop.model()).arg("--data").arg(shop.text());
    eval.args(["--max-tokens", "300"]);
    let mut generate = edkm();
    generate.arg("generate").arg(shop.model());
    generate.args(["--prompt", "Once upon a time", "--tokens", "4"]);
    vec![inspect, json, eval, generate, shop.finetune_command(&["--plan"])]
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let shop = Workshop::new();
    for mut command in commands(&shop) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", said(&output));
        assert!(
            said(&output).contains("cannot write to standard output"),
            "{command:?}: {}",
            said(&output)
        );
    }
    // and costs no training
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut finetune = shop.finetune_command(&["--eval-tokens", "100"]);
    let output = finetune.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("cannot write to standard output"),
        "{}",
        said(&output)
    );
    assert!(shop.out().join("model.safetensors").exists());
    assert!(!shop.path("out.run").exists());
}

#[test]
fn a_reader_who_has_gone_is_no_error() {
    let shop = Workshop::new();
    let commands = commands(&shop);
    for mut command in commands
        .into_iter()
        .chain([shop.finetune_command(&["--eval-tokens", "100"])])
    {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", said(&output));
        assert!(!said(&output).contains("rror"), "{command:?}: {}", said(&output));
    }
    assert!(shop.out().join("model.safetensors").exists());
}
