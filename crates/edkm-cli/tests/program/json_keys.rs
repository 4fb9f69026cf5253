//! The keys of every command's JSON are documented.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::common::{edkm, json, Workshop};

/// All keys of an object and of what is in it, but for those of a model's own configuration.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                found.insert(key.clone());
                if key != "config" {
                    keys(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_keys_of_every_commands_json_are_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json.md")).unwrap();
    let shop = Workshop::new();
    let mut found = BTreeSet::new();
    let mut add = |command: &mut Command| keys(&json(&command.arg("--json").output().unwrap()), &mut found);
    add(&mut shop.finetune_command(&["--bits-budget", "2.7", "--baselines", "--eval-every", "1"]));
    add(&mut shop.finetune_command(&["--dry-run", "--overwrite"]));
    add(&mut shop.finetune_command(&["--plan"]));
    add(shop
        .compress("gptq", &["--bits", "3", "--windows", "2", "--seq", "32", "--data"])
        .arg(shop.text())
        .arg("--out")
        .arg(shop.path("small")));
    let of_model = |command: &str| {
        let mut program = edkm();
        program.arg(command).arg(shop.out());
        program
    };
    add(&mut of_model("inspect"));
    add(of_model("eval").arg("--data").arg(shop.text()).args(["--seq", "32"]));
    let (questions, labels) = (shop.path("piqa.jsonl"), shop.path("piqa.lst"));
    let question = r#"{"goal": "The fox", "sol1": "ran", "sol2": "sang"}"#;
    std::fs::write(&questions, format!("{question}\n{question}\n")).unwrap();
    std::fs::write(&labels, "0\n1\n").unwrap();
    let task = |command: &mut Command| {
        command.args(["--task", "piqa", "--data"]).arg(&questions);
        command.arg("--labels").arg(&labels).arg("--compare").arg(shop.model());
    };
    let mut eval = of_model("eval");
    task(&mut eval);
    add(&mut eval);
    let mut compare = edkm();
    compare.arg("compare").arg(shop.model()).arg("--data").arg(shop.text());
    compare
        .arg("--valid")
        .arg(shop.text())
        .arg("--out")
        .arg(shop.path("compared"));
    compare.args(["--seq", "32", "--batch", "2", "--eval-tokens", "100", "--steps", "2"]);
    add(compare.args(["--methods", "rtn,dkm", "--bits", "2", "--seeds", "2"]));
    add(of_model("generate").args(["--prompt", "Once", "--tokens", "2"]));
    add(of_model("export").args(["--to", "hf", "--out"]).arg(shop.path("plain")));
    let size = ["--rows", "64", "--cols", "64"];
    add(edkm().args(["bench", "cluster"]).args(size));
    add(edkm().args(["bench", "ablation"]).args(size));
    let layer = ["--hidden", "64", "--intermediate", "96", "--heads", "4", "--seq", "16"];
    add(edkm().args(["bench", "layer"]).args(layer));
    add(edkm().args(["bench", "saved"]).args(layer));
    add(edkm()
        .args(["bench", "step", "--seq", "16", "--repeats", "1", "--config"])
        .arg(shop.config()));
    add(edkm().args(["bench", "generate", "--config"]).arg(shop.config()));
    for line in std::fs::read_to_string(shop.out().join("metrics.jsonl"))
        .unwrap()
        .lines()
    {
        keys(&serde_json::from_str(line).unwrap(), &mut found);
    }
    let unsaid: Vec<_> = found.iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
    assert!(unsaid.is_empty(), "docs/json.md does not say what {unsaid:?} are");
}
