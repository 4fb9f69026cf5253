//! Learning from the model of another folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{assert_refused, edkm, json, wait_for_step, Workshop};

fn run(shop: &Workshop, out: &Path, more: &[&str]) -> Command {
    let mut command = edkm();
    command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
    command
        .arg("--out")
        .arg(out)
        .args(["--steps", "4", "--seq", "32", "--batch", "2"]);
    command.args(["--eval-tokens", "100", "--json"]).args(more);
    command
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

/// A copy of the model under another name.
fn copy(shop: &Workshop, name: &str) -> PathBuf {
    let folder = shop.path(name);
    std::fs::create_dir(&folder).unwrap();
    for entry in shop.model().read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    folder
}

/// Changes a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// The model without its layers but the first.
fn keep_one_layer(shop: &Workshop) {
    edit(&shop.config(), |config| config["num_hidden_layers"] = 1.into());
    shop.edit_weights(|header, data| {
        let mut kept = Vec::new();
        header.as_object_mut().unwrap().retain(|name, tensor| {
            if name == "__metadata__" {
                return true;
            }
            let [from, to] = [0, 1].map(|end| tensor["data_offsets"][end].as_u64().unwrap() as usize);
            tensor["data_offsets"] = serde_json::json!([kept.len(), kept.len() + to - from]);
            let stays = !name.starts_with("model.layers.") || name.starts_with("model.layers.0.");
            if stays {
                kept.extend_from_slice(&data[from..to]);
            }
            stays
        });
        *data = kept;
    });
}

#[test]
fn the_model_itself_in_another_folder_teaches_what_the_model_as_it_came_does() {
    let shop = Workshop::new();
    let teacher = copy(&shop, "teacher");
    json(&run(&shop, &shop.out(), &[]).output().unwrap());
    let same = shop.path("same");
    json(
        &run(&shop, &same, &["--teacher", teacher.to_str().unwrap()])
            .output()
            .unwrap(),
    );
    assert!(weights(&same) == weights(&shop.out()));
    // at all steps, those before the clustering among them
    let [late, taught] = ["late", "taught"].map(|name| shop.path(name));
    let from = ["--cluster-from", "2"];
    json(&run(&shop, &late, &from).output().unwrap());
    let more = [&from[..], &["--teacher", teacher.to_str().unwrap()]].concat();
    json(&run(&shop, &taught, &more).output().unwrap());
    assert!(weights(&taught) != weights(&late));
}

/// What a compressed model learns from itself keeps it as it is; what it learns from its original makes it better.
#[test]
fn a_compressed_model_learns_from_its_original() {
    let shop = Workshop::new();
    let small = shop.path("small");
    let compress = shop
        .compress("rtn", &["--bits", "2", "--json", "--out"])
        .arg(&small)
        .output();
    json(&compress.unwrap());
    let reached = |name: &str, more: &[&str]| {
        let mut command = edkm();
        command.arg("finetune").arg(&small).arg("--data").arg(shop.text());
        command
            .arg("--out")
            .arg(shop.path(name))
            .args(["--bits", "2", "--steps", "40", "--seq", "32", "--batch", "2"]);
        let output = command
            .args(["--distill=1", "--eval-tokens", "300", "--distill-fade", "inf", "--json"])
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let teaches_itself = !more.contains(&"--teacher");
        assert_eq!(said.contains("with --teacher ORIGINAL"), teaches_itself, "{said}");
        json(&output)["perplexity_after"].as_f64().unwrap()
    };
    let (itself, original) = (
        reached("a", &[]),
        reached("b", &["--teacher", shop.model().to_str().unwrap()]),
    );
    assert!(original < 0.5 * itself, "{original} {itself}");
}

#[test]
fn a_teacher_of_other_layers_teaches_what_it_predicts() {
    let shop = Workshop::new();
    let teacher = copy(&shop, "teacher");
    keep_one_layer(&shop);
    let named = ["--teacher", teacher.to_str().unwrap()];
    let (with, without) = (shop.out(), shop.path("without"));
    json(&run(&shop, &with, &named).output().unwrap());
    json(&run(&shop, &without, &["--no-distill"]).output().unwrap());
    assert!(weights(&with) != weights(&without));

    let refused = shop.path("refused");
    let output = run(&shop, &refused, &[&named[..], &["--distill-hidden", "1"]].concat())
        .output()
        .unwrap();
    assert_refused(
        &output,
        &[
            "teacher",
            "layers, and the model that learns has 1 layer",
            "--distill-hidden 0",
        ],
        &refused,
    );
}

/// Models of one vocabulary are filled up to other round numbers of rows (Qwen 2.5's of 7 billion and of 1.5).
#[test]
fn a_teacher_with_more_rows_than_tokens_teaches_the_same() {
    const MORE: u64 = 24;
    let shop = Workshop::new();
    let teacher = copy(&shop, "teacher");
    let (config, before) = (std::fs::read(shop.config()).unwrap(), weights(&shop.model()));
    edit(&shop.config(), |config| {
        config["vocab_size"] = (config["vocab_size"].as_u64().unwrap() + MORE).into()
    });
    shop.edit_weights(|header, data| {
        let mut filled = Vec::new();
        for (name, tensor) in header
            .as_object_mut()
            .unwrap()
            .iter_mut()
            .filter(|(name, _)| *name != "__metadata__")
        {
            let [from, to] = [0, 1].map(|end| tensor["data_offsets"][end].as_u64().unwrap() as usize);
            let begin = filled.len();
            filled.extend_from_slice(&data[from..to]);
            if name.contains("embed_tokens") || name.contains("lm_head") {
                let rows = tensor["shape"][0].as_u64().unwrap();
                // numbers as those of the first rows
                let width = (to - from) / rows as usize;
                filled.extend_from_slice(&data[from..from + width * MORE as usize]);
                tensor["shape"][0] = (rows + MORE).into();
            }
            tensor["data_offsets"] = serde_json::json!([begin, filled.len()]);
        }
        *data = filled;
    });
    let larger = copy(&shop, "larger");
    std::fs::write(shop.config(), config).unwrap();
    std::fs::write(shop.weights(), before).unwrap();
    assert!(weights(&larger).len() > weights(&teacher).len());
    let of = |teacher: &Path| {
        let out = teacher.with_extension("taught");
        json(
            &run(&shop, &out, &["--teacher", teacher.to_str().unwrap()])
                .output()
                .unwrap(),
        );
        weights(&out)
    };
    assert!(of(&teacher) == of(&larger));
}

#[test]
fn who_cannot_teach_is_refused_before_any_work() {
    let shop = Workshop::new();
    let teacher = copy(&shop, "teacher");
    let named = ["--teacher", teacher.to_str().unwrap()];
    let refused = |parts: &[&str], more: &[&str]| {
        let output = run(&shop, &shop.out(), &[&named[..], more].concat()).output().unwrap();
        assert_refused(&output, parts, &shop.out());
        assert!(!shop.path("out.run").exists());
    };
    refused(
        &["teacher", "nothing is to be learned"],
        &["--distill=0", "--distill-hidden", "0"],
    );
    let tokenizer = teacher.join("tokenizer.json");
    let as_it_was = std::fs::read(&tokenizer).unwrap();
    edit(&tokenizer, |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let [(a, _), (b, _)] =
            [100, 101].map(|at| vocabulary.iter().nth(at).map(|(k, v)| (k.clone(), v.clone())).unwrap());
        let (x, y) = (vocabulary[&a].clone(), vocabulary[&b].clone());
        vocabulary.insert(a, y);
        vocabulary.insert(b, x);
    });
    refused(&["teacher", "its token", "the same vocabulary"], &[]);
    std::fs::write(&tokenizer, as_it_was).unwrap();
    edit(&teacher.join("config.json"), |config| config["vocab_size"] = 100.into());
    refused(&["teacher", "100 tokens", "the same vocabulary"], &[]);
    std::fs::remove_dir_all(&teacher).unwrap();
    refused(&["teacher", "config.json"], &[]);

    for other in ["--no-distill", "--no-cluster"] {
        let output = run(&shop, &shop.out(), &["--teacher", "x", other]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn a_teacher_is_not_overwritten() {
    let shop = Workshop::new();
    let teacher = copy(&shop, "teacher");
    let before = weights(&teacher);
    let output = run(
        &shop,
        &teacher,
        &["--overwrite", "--teacher", teacher.to_str().unwrap()],
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the model would be lost"));
    assert!(weights(&teacher) == before);
}

#[test]
fn a_run_goes_on_with_the_teacher_that_it_had() {
    let shop = Workshop::new();
    let teacher = copy(&shop, "teacher");
    // one that is not the model as it came
    let small = shop.path("small");
    json(
        &shop
            .compress("rtn", &["--bits", "4", "--json", "--out"])
            .arg(&small)
            .output()
            .unwrap(),
    );
    std::fs::copy(small.join("model.safetensors"), teacher.join("model.safetensors")).unwrap();
    let more = [
        "--checkpoint-every",
        "1",
        "--steps",
        "30",
        "--teacher",
        teacher.to_str().unwrap(),
    ];
    json(&run(&shop, &shop.path("whole"), &more).output().unwrap());

    let mut child = run(&shop, &shop.out(), &more).spawn().unwrap();
    wait_for_step(&shop, &mut child, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let resume = || edkm().arg("finetune").arg("--resume").arg(shop.out()).output().unwrap();
    // it is another one meanwhile
    std::fs::copy(shop.weights(), teacher.join("model.safetensors")).unwrap();
    assert_refused(&resume(), &["model that is learned from"], &shop.out());
    std::fs::copy(small.join("model.safetensors"), teacher.join("model.safetensors")).unwrap();
    json(&resume());
    assert!(weights(&shop.out()) == weights(&shop.path("whole")));
}
