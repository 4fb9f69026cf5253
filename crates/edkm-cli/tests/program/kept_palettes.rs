//! A compressed model that is fine-tuned keeps the palettes that it has.

use std::path::Path;
use std::process::Command;

use edkm_train::run::ModelPalettes;

use crate::common::{edkm, json, wait_for_step, Workshop};

/// A small run of a model.
fn finetune(model: &Path, shop: &Workshop, out: &Path) -> Command {
    let mut command = edkm();
    command.arg("finetune").arg(model).arg("--data").arg(shop.text());
    command.arg("--out").arg(out);
    command.args(["--seq", "32", "--batch", "2", "--eval-tokens", "100"]);
    command
}

#[test]
fn a_compressed_model_keeps_its_palettes_unless_it_is_told_of_others() {
    let shop = Workshop::new();
    let made_with = ["--bits", "2", "--group", "8", "--embedding-bits", "4", "--keep-zero"];
    let (original, small, again) = (shop.model(), shop.out(), shop.path("again"));
    let compressed = shop.compress("kmeans", &made_with).arg("--out").arg(&small).output();
    assert!(compressed.unwrap().status.success());
    let said = |more: &[&str]| {
        let mut command = finetune(&small, &shop, &again);
        command
            .args(["--steps", "60", "--overwrite", "--teacher"])
            .arg(&original);
        let output = command.args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let palettes = |folder: &Path| ModelPalettes::read(folder).unwrap().unwrap();
    let rules = small.join("layers.toml");
    let another_model = "[[layer]]\npattern = \"*\"\nbits = 3\n";
    // by the rules that lie beside it; by its file where they are another model's, or none are there
    for others in [None, Some(another_model), Some("")] {
        match others {
            None => {}
            Some("") => std::fs::remove_file(&rules).unwrap(),
            Some(text) => std::fs::write(&rules, text).unwrap(),
        }
        let kept = said(&[]);
        for words in [
            "stay what they are (",
            "of 2 bits in groups of 8",
            "1 of 4 bits in groups of 8",
        ] {
            assert!(kept.contains(words), "{kept}");
        }
        // it gets better by far, on text that it knew once
        assert!(!kept.contains("new to the model"), "{kept}");
        assert_eq!(palettes(&again).in_words(), palettes(&small).in_words());
        let written = std::fs::read_to_string(again.join("layers.toml")).unwrap();
        assert!(written.contains("keep_zero = true"), "{written}");
        // as often as one likes
        let once_more = shop.path("once more");
        let run = finetune(&again, &shop, &once_more)
            .args(["--steps", "1", "--overwrite"])
            .output();
        assert!(run.unwrap().status.success());
        assert_eq!(std::fs::read_to_string(once_more.join("layers.toml")).unwrap(), written);
        let report = std::fs::read_to_string(once_more.join("report.html")).unwrap();
        assert!(report.contains("2 bits in groups of 8, "), "{report}");
    }

    let twice = shop.path("twice");
    let mut compress = edkm();
    compress
        .arg("compress")
        .arg(&small)
        .args(["--method", "rtn", "--bits", "2", "--out"])
        .arg(&twice);
    let compressed = compress.output().unwrap();
    let noted = String::from_utf8_lossy(&compressed.stderr).into_owned();
    assert!(
        compressed.status.success() && noted.contains("is compressed already (1 of 4 bits"),
        "{noted}"
    );

    let other = said(&["--bits", "2"]);
    let first = "model.embed_tokens.weight: 4 bits in groups of 8, zeros kept there, not clustered here; and ";
    assert!(other.contains(first) && other.contains("give no option"), "{other}");
    let without_zeros = said(&made_with[..6]);
    assert!(
        without_zeros.contains("4 bits in groups of 8, zeros kept there, 4 bits in groups of 8 here"),
        "{without_zeros}"
    );
    let alike = said(&made_with);
    assert!(
        !alike.contains("compressed otherwise") && !alike.contains("stay what"),
        "{alike}"
    );
}

#[test]
fn a_run_that_keeps_palettes_goes_on_with_them() {
    let shop = Workshop::new();
    let small = shop.path("small");
    let made_with = ["--bits", "4", "--group", "8"];
    let made = shop.compress("rtn", &made_with).arg("--out").arg(&small).output();
    assert!(made.unwrap().status.success());
    let run = |out: &Path| {
        let mut command = finetune(&small, &shop, out);
        command.args(["--steps", "30", "--checkpoint-every", "1", "--json"]);
        command
    };
    let whole = json(&run(&shop.path("whole")).output().unwrap());
    let mut child = run(&shop.out()).spawn().unwrap();
    wait_for_step(&shop, &mut child, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = edkm().arg("finetune").arg("--resume").arg(shop.out()).output().unwrap();
    assert_eq!(json(&resumed)["bits_per_weight"], whole["bits_per_weight"]);
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&shop.out()) == weights(&shop.path("whole")));
}
