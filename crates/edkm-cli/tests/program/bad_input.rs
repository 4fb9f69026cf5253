//! What a user can get wrong ends in a message that names the thing, and never in a half-written folder.

use crate::common::{assert_refused, edkm, Workshop};

const NORM: &str = "model.norm.weight";

#[test]
fn a_missing_model_file() {
    let shop = Workshop::new();
    std::fs::remove_file(shop.weights()).unwrap();
    assert_refused(&shop.finetune(&[]), &["model.safetensors"], &shop.out());
}

#[test]
fn a_missing_folder() {
    let shop = Workshop::new();
    std::fs::remove_dir_all(shop.model()).unwrap();
    assert_refused(&shop.finetune(&[]), &["config.json"], &shop.out());
}

#[test]
fn a_file_of_the_model_in_place_of_its_folder() {
    let shop = Workshop::new();
    let weights = shop.weights();
    for command in ["eval", "generate", "export", "finetune", "compress"] {
        let mut program = edkm();
        program.arg(command).arg(&weights);
        match command {
            "eval" => program.arg("--data").arg(shop.text()),
            "generate" => program.args(["--prompt", "Once"]),
            "export" => program.args(["--to", "hf", "--out"]).arg(shop.out()),
            "finetune" => program.arg("--data").arg(shop.text()).arg("--out").arg(shop.out()),
            _ => program
                .args(["--method", "rtn", "--bits", "3", "--out"])
                .arg(shop.out()),
        };
        let output = program.output().unwrap();
        assert_refused(&output, &["model.safetensors is a file", "folder"], &shop.out());
    }
}

#[test]
fn fewer_tokens_than_a_window() {
    let shop = Workshop::new();
    let mut eval = edkm();
    eval.arg("eval").arg(shop.model()).arg("--data").arg(shop.text());
    let output = eval.args(["--seq", "64", "--max-tokens", "64"]).output().unwrap();
    assert_refused(&output, &["--max-tokens 64", "--seq 64", "65"], &shop.out());
}

#[test]
fn no_measurement_is_no_median() {
    for bench in ["cluster", "step", "layer"] {
        let output = edkm().args(["bench", bench, "--repeats", "0"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--repeats"));
    }
}

#[test]
fn a_truncated_model_file() {
    let shop = Workshop::new();
    let file = std::fs::read(shop.weights()).unwrap();
    for keep in [0, 4, 100, file.len() / 2, file.len() - 1] {
        std::fs::write(shop.weights(), &file[..keep]).unwrap();
        assert_refused(&shop.finetune(&[]), &["model.safetensors"], &shop.out());
    }
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let shop = Workshop::new();
    shop.edit_weights(|header, _| {
        let columns = header[NORM]["shape"][0].as_u64().unwrap();
        header[NORM]["shape"] = serde_json::json!([2, columns / 2]);
    });
    assert_refused(&shop.finetune(&[]), &[NORM, "instead of"], &shop.out());
}

#[test]
fn a_config_without_a_field() {
    let shop = Workshop::new();
    for key in ["hidden_size", "num_hidden_layers", "vocab_size"] {
        let text = std::fs::read_to_string(shop.config()).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config.as_object_mut().unwrap().remove(key);
        std::fs::write(shop.config(), config.to_string()).unwrap();
        assert_refused(&shop.finetune(&[]), &["config.json", key], &shop.out());
        std::fs::write(shop.config(), text).unwrap();
    }
}

#[test]
fn an_architecture_that_is_not_supported() {
    let shop = Workshop::new();
    let config = std::fs::read_to_string(shop.config())
        .unwrap()
        .replace("LlamaForCausalLM", "GPT2LMHeadModel");
    std::fs::write(shop.config(), config).unwrap();
    assert_refused(&shop.finetune(&[]), &["config.json", "GPT2LMHeadModel"], &shop.out());
}

#[test]
fn a_sequence_beyond_the_models_positions() {
    let shop = Workshop::new();
    assert_refused(
        &shop.finetune(&["--seq", "100000"]),
        &["sequence", "max_position_embeddings"],
        &shop.out(),
    );
}

#[test]
fn bits_that_do_not_exist_are_a_usage_error() {
    let shop = Workshop::new();
    for bits in ["0", "9", "three"] {
        let output = shop.finetune(&["--bits", bits]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(bits));
        assert!(!shop.out().exists());
    }
}

#[test]
fn a_weight_that_is_not_a_number() {
    let shop = Workshop::new();
    shop.edit_weights(|header, data| {
        let offset = header[NORM]["data_offsets"][0].as_u64().unwrap() as usize;
        // the fourth number, bf16
        data[offset + 6..offset + 8].copy_from_slice(&[0xc0, 0x7f]);
    });
    assert_refused(
        &shop.finetune(&[]),
        &["model.safetensors", NORM, "NaN", "3"],
        &shop.out(),
    );
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let shop = Workshop::new();
    std::fs::create_dir(shop.out()).unwrap();
    std::fs::write(shop.out().join("thesis.txt"), "years of work").unwrap();
    for more in [&[][..], &["--overwrite"][..]] {
        let output = shop.finetune(more);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("out"));
        assert_eq!(
            std::fs::read_to_string(shop.out().join("thesis.txt")).unwrap(),
            "years of work"
        );
    }
}

#[test]
fn a_store_that_makes_no_sense() {
    let shop = Workshop::new();
    for (store, parts) in [
        ("zip", ["`zip`", "spill=DIR:BUDGET"]),
        ("compress,marshal", ["`marshal`", "`compress`"]),
        ("marshal,marshal", ["`marshal`", "cannot act after"]),
        ("spill=/nowhere:2XB", ["`2XB`", "2GiB"]),
        ("spill=/no/such/folder:1MiB", ["/no/such/folder", "choose a directory"]),
        ("marshal,shard", ["`shard`", "leave it out"]),
    ] {
        assert_refused(&shop.finetune(&["--store", store]), &parts, &shop.out());
    }
}

#[test]
fn a_compression_that_cannot_be() {
    let shop = Workshop::new();
    let refused = |method: &str, more: &[&str], parts: &[&str]| {
        let mut command = shop.compress(method, &["--bits", "3", "--seq", "32"]);
        let output = command.arg("--out").arg(shop.out()).args(more).output().unwrap();
        assert_refused(&output, parts, &shop.out());
    };
    refused("rtn", &["--vector", "2"], &["--vector is 2", "--method rtn"]);
    refused(
        "gptq-even",
        &["--vector", "2"],
        &["--vector is 2", "--method gptq-even"],
    );
    for method in ["rtn", "gptq-even"] {
        refused(
            method,
            &["--keep-zero"],
            &["--keep-zero is on with --method", method, "model.layers.0"],
        );
    }
    let rules = shop.path("layers.toml");
    std::fs::write(
        &rules,
        "[[layer]]\npattern = \"*.q_proj.*\"\nvector = 2\nkeep_zero = true\n",
    )
    .unwrap();
    let rules = ["--layers", rules.to_str().unwrap()];
    for more in [&[][..], &["--plan"]] {
        refused(
            "rtn",
            &[&rules[..], more].concat(),
            &["--vector is 2 with --method rtn, for model.layers.0.self_attn.q_proj.weight"],
        );
    }
    for more in [&[][..], &["--plan"]] {
        let mut command = shop.compress("kmeans", &["--bits-budget", "nan"]);
        let output = command.arg("--out").arg(shop.out()).args(more).output().unwrap();
        assert_refused(&output, &["budget", "NaN"], &shop.out());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains("choosing bits"), "{said}");
    }
    refused("gptq", &["--seq", "100000"], &["sequence", "max_position_embeddings"]);
    refused("gptq", &["--windows", "0"], &["windows", "at least 1"]);
    std::fs::write(shop.text(), "Once upon a time.").unwrap();
    refused("weighted-kmeans", &[], &["tokens", "33"]);
    for method in ["gptq", "weighted-kmeans"] {
        let mut command = edkm();
        command
            .arg("compress")
            .arg(shop.model())
            .args(["--method", method, "--bits", "3"]);
        let output = command.arg("--out").arg(shop.out()).output().unwrap();
        assert_refused(&output, &[method, "--data"], &shop.out());
    }
}

#[test]
fn layer_rules_that_cannot_be() {
    let shop = Workshop::new();
    let rules = shop.path("layers.toml");
    let path = rules.to_str().unwrap();
    for (text, parts) in [
        (
            "[[layer]]\npattern = \"*\"\nbit = 4\n",
            &["layers.toml", "`bit`", "line 3"][..],
        ),
        (
            "[[layer]]\npattern = \"*\"\nbits = 9\n",
            &["layers.toml", "9", "line 3"],
        ),
        ("[[layer]\n", &["layers.toml", "line 1"]),
        (
            "[[layer]]\npattern = \"*.dwon_proj.*\"\nbits = 4\n",
            &["*.dwon_proj.*", "down_proj"],
        ),
        (
            "[[layer]]\npattern = \"*norm*\"\nskip = true\n",
            &["*norm*", "matches no weight matrix"],
        ),
    ] {
        std::fs::write(&rules, text).unwrap();
        assert_refused(&shop.finetune(&["--layers", path]), parts, &shop.out());
        let mut command = shop.compress("kmeans", &["--bits", "3", "--layers", path]);
        assert_refused(
            &command.arg("--out").arg(shop.out()).output().unwrap(),
            parts,
            &shop.out(),
        );
    }
    std::fs::remove_file(&rules).unwrap();
    assert_refused(&shop.finetune(&["--layers", path]), &["layers.toml"], &shop.out());
}

#[test]
fn a_budget_that_cannot_be() {
    let shop = Workshop::new();
    for (budget, part) in [("0.5", "the least"), ("-1", "above 0"), ("NaN", "above 0")] {
        let budget = format!("--bits-budget={budget}");
        assert_refused(&shop.finetune(&[&budget]), &["budget", part], &shop.out());
    }
    let output = edkm()
        .args(["compress", "--method", "kmeans", "--bits-budget", "3"])
        .arg(shop.model())
        .arg("--out")
        .arg(shop.out())
        .output()
        .unwrap();
    assert_refused(&output, &["budget", "--data"], &shop.out());
    assert_eq!(
        shop.finetune(&["--bits-budget", "3", "--bits", "3"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_device_that_is_no_device() {
    let shop = Workshop::new();
    for device in ["gpu", "cuda:", "cuda:-1", "cpu:0"] {
        let refused = shop.finetune(&["--device", device]);
        let message = String::from_utf8_lossy(&refused.stderr);
        // the code of arguments that cannot be read
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains(device) && message.contains("cuda:N"), "{message}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_without_the_feature() {
    let shop = Workshop::new();
    for (asked, named) in [("cuda", "cuda:0"), ("cuda:3", "cuda:3")] {
        let refused = shop.finetune(&["--device", asked]);
        assert_refused(&refused, &[named, "cargo build --release --features cuda"], &shop.out());
    }
    // before the model is looked for
    for command in [
        &["eval", "nowhere", "--data", "nothing.txt"][..],
        &["generate", "nowhere", "--prompt", "Once"],
        &["chat", "nowhere"],
    ] {
        let refused = edkm().args(command).args(["--device", "cuda:1"]).output().unwrap();
        assert_refused(
            &refused,
            &["cuda:1", "cargo build --release --features cuda"],
            &shop.out(),
        );
    }
    // measured in processes of their own
    for bench in ["layer", "saved", "generate"] {
        let refused = edkm().args(["bench", bench, "--device", "cuda"]).output().unwrap();
        assert_refused(
            &refused,
            &["cuda:0", "cargo build --release --features cuda"],
            &shop.out(),
        );
    }
}

#[test]
fn settings_without_a_meaning_are_refused_before_any_work() {
    let shop = Workshop::new();
    for (arguments, parts) in [
        (&["--batch", "0"][..], &["--batch", "is 0"][..]),
        (&["--accumulate", "0"], &["--accumulate", "is 0"]),
        (
            &["--update-in-backward", "--accumulate", "2"],
            &["update-in-backward", "--accumulate 1"],
        ),
        // once more than fits any list
        (&["--accumulate", "18446744073709551615"], &["--accumulate"]),
        (&["--keep", "0", "--checkpoint-every", "1"], &["--keep", "is 0"]),
        (&["--keep-best"], &["keep-best is without", "--eval-every"]),
        (
            &["--keep-best", "--eval-every", "400", "--steps", "3"],
            &["keep-best", "every 400 steps of 3"],
        ),
        (&["--eval-tokens", "32"], &["--eval-tokens", "is 32", "--seq"]),
        (&["--weight-decay", "nan"], &["weight decay is NaN"]),
        (&["--weight-decay", "-1"], &["weight decay is -1"]),
        (&["--lr", "-1"], &["learning rate is -1", "from 0"]),
        (&["--lr", "1e39"], &["learning rate is 1000", "f32"]),
        (&["--temperature", "-1"], &["temperature", "-1"]),
        (&["--temperature", "-1:-2"], &["temperature is -1"]),
        (&["--distill-hidden", "-1:0"], &["hidden states", "-1"]),
        (&["--cluster-from", "2"], &["--cluster-from", "is 2", "--steps"]),
        (
            &["--keep-zero", "--cluster-from", "1"],
            &["--cluster-from", "is 1", "keep-zero", "model.layers.0"],
        ),
        (
            &["--init", "quantile", "--vector", "2"],
            &["init is quantile, with the vectors of model.layers.0"],
        ),
        (&["--bits-budget", "nan"], &["budget", "NaN"]),
        (&["--bits-budget", "0"], &["budget", "is 0"]),
        (&["--iterations", "0"], &["iterations is 0"]),
        (&["--tolerance", "nan"], &["tolerance is NaN"]),
        (&["--temperature", "1e-300"], &["temperature is 1e-300:"]),
        (&["--temperature", "0.1:1e300"], &["temperature is 1e300:"]),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let output = shop.finetune(&[arguments, more].concat());
            assert_refused(&output, parts, &shop.out());
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(!said.contains("the run will take"), "{arguments:?}: {said}");
            assert!(!shop.path("out.run").exists(), "{arguments:?} left a run");
        }
    }
    let output = shop.finetune(&["--seed", "-1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--seed <SEED> is -1; expected a whole number"), "{said}");
    let text = shop.text();
    let output = edkm()
        .arg("compare")
        .arg(shop.model())
        .args([
            "--methods",
            "dkm",
            "--bits",
            "3",
            "--seeds",
            "1",
            "--seq",
            "32",
            "--batch",
            "0",
        ])
        .args([
            "--data".as_ref(),
            text.as_os_str(),
            "--valid".as_ref(),
            text.as_os_str(),
        ])
        .arg("--out")
        .arg(shop.out())
        .output()
        .unwrap();
    assert_refused(&output, &["--batch", "is 0"], &shop.out());
}

#[test]
fn a_folder_to_write_that_is_a_file_or_holds_a_model() {
    let shop = Workshop::new();
    let to = |out: &std::path::Path| {
        let mut command = shop.compress("rtn", &["--bits", "3"]);
        command.arg("--out").arg(out).output().unwrap()
    };
    assert_refused(&to(&shop.text()), &["text.txt is a file"], &shop.out());
    assert!(to(&shop.out()).status.success());
    let figures = std::fs::read(shop.out().join("compress.json")).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&figures).unwrap();
    assert_eq!(figures["method"], "rtn");
    let again = to(&shop.out());
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--overwrite"));
    std::fs::write(shop.out().join("thesis.tex"), "years of work").unwrap();
    let foreign = to(&shop.out());
    assert_eq!(foreign.status.code(), Some(1));
    let said = String::from_utf8_lossy(&foreign.stderr).into_owned();
    assert!(said.contains("thesis.tex") && !said.contains("--overwrite"), "{said}");
}

#[test]
fn only_a_run_that_has_begun_can_be_finished() {
    let shop = Workshop::new();
    for output in [
        shop.finetune(&["--finish"]),
        edkm().args(["finetune", "--finish"]).output().unwrap(),
    ] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--finish"), "{said}");
    }
}

#[test]
fn a_plan_needs_no_folder_to_write() {
    let shop = Workshop::new();
    let output = shop.compress("rtn", &["--bits", "3", "--plan"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = shop.compress("rtn", &["--bits", "3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out"));
}

#[test]
fn a_share_of_distillation_is_one_number_or_two() {
    let shop = Workshop::new();
    for share in ["0.5", "0.5:0.1"] {
        let output = shop.finetune(&["--distill", share, "--dry-run"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let output = shop.finetune(&["--distill", "half"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1:0.004"));
}

#[test]
fn texts_without_tasks_are_explained() {
    let output = edkm()
        .args(["eval", "model", "--data", "a.txt", "--data", "b.txt"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("2 --data but no --task") && said.contains("--task perplexity"),
        "{said}"
    );
}

#[test]
fn settings_of_clustering_do_not_go_with_none() {
    let shop = Workshop::new();
    for arguments in [
        &["--no-cluster", "--bits", "4"][..],
        &["--no-cluster", "--layers", "rules.toml"],
        &["--no-cluster", "--bits-budget", "3"],
        &["--no-cluster", "--init", "quantile"],
        &["--no-cluster", "--gradient", "implicit"],
        &["--no-cluster", "--lr-unit", "absolute"],
        &["--no-cluster", "--distill-hidden", "1"],
        &["--no-distill", "--distill-fade", "1"],
        &["--temperature-share", "0.5"],
        &["--temperature-unit", "absolute"],
    ] {
        let output = shop.finetune(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(arguments[arguments.len() - 2]), "{said}");
        assert!(!shop.out().exists());
    }
}

#[test]
fn bits_do_not_go_with_a_step_without_clustering() {
    let output = edkm()
        .args(["bench", "step", "--no-cluster", "--bits", "4"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--bits"));
}

#[test]
fn a_model_is_not_replaced_by_what_is_made_of_it() {
    let shop = Workshop::new();
    let before = std::fs::read(shop.weights()).unwrap();
    let out = shop.model().join("../model");
    for command in ["finetune", "compress"] {
        let mut program = edkm();
        program.arg(command).arg(shop.model()).arg("--out").arg(&out);
        match command {
            "finetune" => program
                .arg("--data")
                .arg(shop.text())
                .args(["--steps", "1", "--seq", "32"]),
            _ => program.args(["--method", "rtn", "--bits", "3"]),
        };
        let output = program.arg("--overwrite").output().unwrap();
        assert_refused(&output, &["the model would be lost"], &shop.out());
        assert_eq!(std::fs::read(shop.weights()).unwrap(), before);
    }
}

#[test]
fn a_run_that_was_never_begun_cannot_go_on() {
    let shop = Workshop::new();
    let output = edkm().args(["finetune", "--resume"]).arg(shop.out()).output().unwrap();
    assert_refused(&output, &["there is no run to go on with", "out.run"], &shop.out());
}

#[test]
fn what_is_for_one_device_is_refused_on_the_other() {
    let shop = Workshop::new();
    let refused = shop.finetune(&["--precision", "f16"]);
    assert_refused(&refused, &["--precision", "--device cuda:N"], &shop.out());
    let refused = edkm()
        .args(["generate", "nowhere", "--prompt", "Once", "--precision", "tf32"])
        .output()
        .unwrap();
    assert_refused(&refused, &["--precision", "--device cuda:N"], &shop.out());
    let refused = shop.finetune(&["--device-memory", "1GiB"]);
    assert_refused(&refused, &["--device-memory", "--device cuda:N"], &shop.out());
    let refused = edkm()
        .args(["bench", "layer", "--device-memory", "1GiB"])
        .output()
        .unwrap();
    assert_refused(&refused, &["--device-memory", "--device cuda:N"], &shop.out());
    let trace = shop.path("trace.json");
    let refused = edkm()
        .args(["bench", "layer", "--device", "cuda", "--trace"])
        .arg(&trace)
        .output()
        .unwrap();
    assert_refused(&refused, &["--trace", "--device cpu"], &shop.out());
    let refused = shop.finetune(&["--device-memory", "much"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn epochs_that_cannot_be() {
    let shop = Workshop::new();
    for epochs in ["0", "-1", "nan", "inf"] {
        let mut command = edkm();
        command.arg("finetune").arg(shop.model()).arg("--data").arg(shop.text());
        let output = command
            .args(["--seq", "32", "--epochs", epochs])
            .arg("--out")
            .arg(shop.out());
        assert_refused(&output.output().unwrap(), &["--epochs", "above 0"], &shop.out());
    }
    let output = shop.finetune(&["--epochs", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--steps"));
}
