//! `edkm export`: what other programs load says what the packed model says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::{assert_refused, edkm, json, Workshop};

fn compressed(shop: &Workshop) -> PathBuf {
    let small = shop.path("small");
    let mut command = edkm();
    command.arg("compress").arg(shop.model()).args([
        "--method",
        "kmeans",
        "--bits",
        "3",
        "--embedding-bits",
        "8",
        "--json",
        "--out",
    ]);
    json(&command.arg(&small).output().unwrap());
    small
}

fn export(model: &Path, to: &str, out: &Path, more: &[&str]) -> std::process::Output {
    let mut command = edkm();
    command
        .arg("export")
        .arg(model)
        .args(["--to", to])
        .arg("--out")
        .arg(out);
    command.args(more).arg("--json").output().unwrap()
}

fn perplexity(model: &Path, shop: &Workshop) -> f64 {
    let mut command = edkm();
    command.arg("eval").arg(model).arg("--data").arg(shop.text());
    json(&command.args(["--seq", "64", "--json"]).output().unwrap())["perplexity"]
        .as_f64()
        .unwrap()
}

/// Entries of a safetensors file: type, shape and bytes, by name.
struct Entries(serde_json::Value, Vec<u8>);

impl Entries {
    fn read(folder: &Path) -> Self {
        let file = std::fs::read(folder.join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        Self(
            serde_json::from_slice(&file[8..8 + length]).unwrap(),
            file[8 + length..].to_vec(),
        )
    }

    fn names(&self) -> BTreeSet<&str> {
        let names = self.0.as_object().unwrap().keys().map(String::as_str);
        names.filter(|name| *name != "__metadata__").collect()
    }

    fn shape(&self, name: &str) -> Vec<u64> {
        let shape = self.0[name]["shape"].as_array().unwrap_or_else(|| panic!("no {name}"));
        shape.iter().map(|axis| axis.as_u64().unwrap()).collect()
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let [begin, end] = [0, 1].map(|i| self.0[name]["data_offsets"][i].as_u64().unwrap() as usize);
        &self.1[begin..end]
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.0[name]["dtype"], "F32", "{name}");
        let numbers = self.bytes(name).chunks_exact(4);
        numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

#[test]
fn plain_weights_have_the_perplexity_of_the_packed_model() {
    let shop = Workshop::new();
    let small = compressed(&shop);
    let packed = perplexity(&small, &shop);
    assert_ne!(packed, perplexity(&shop.model(), &shop));
    for (dtype, stored, tolerance) in [
        // the same numbers, multiplied by another kernel
        ("f32", "F32", 1e-5),
        // weights rounded to 11 and to 8 bits
        ("f16", "F16", 1e-3),
        ("bf16", "BF16", 2e-2),
    ] {
        let out = shop.path(dtype);
        let figures = json(&export(&small, "hf", &out, &["--dtype", dtype]));
        assert!(figures["size_bytes"].as_u64().unwrap() > 0 && figures["files"] == 1);
        let plain = perplexity(&out, &shop);
        assert!((plain / packed - 1.0).abs() <= tolerance, "{dtype}: {plain} {packed}");
        let entries = Entries::read(&out);
        assert!(entries.names().iter().all(|name| entries.0[*name]["dtype"] == stored));
        assert_eq!(entries.0["__metadata__"]["format"], "pt");
        assert!(out.join("tokenizer.json").exists() && out.join("config.json").exists());
    }
}

#[test]
fn coreml_buffers_stand_beside_weights_that_are_all_in_their_tables() {
    let shop = Workshop::new();
    let small = compressed(&shop);
    let out = shop.path("coreml");
    json(&export(&small, "coreml-torch", &out, &["--dtype", "f16"]));
    let entries = Entries::read(&out);
    let original = Entries::read(&shop.model());
    // every parameter of the model, under its own name and of its own shape
    for name in original.names() {
        assert_eq!(entries.shape(name), original.shape(name), "{name}");
    }
    assert_eq!(entries.bytes("_COREML_/metadata_version"), 1i64.to_le_bytes());
    let tables: Vec<&str> = entries
        .names()
        .into_iter()
        .filter(|name| name.ends_with("/lut"))
        .collect();
    assert!(tables.len() > 7, "{tables:?}");
    for table in tables {
        let weight = table.replace("_COREML_/", "").replace("/lut", "");
        let bits = if weight.contains("embed") || weight.contains("lm_head") {
            8
        } else {
            3
        };
        assert_eq!(entries.shape(table), [1, 1, 1 << bits, 1], "{table}");
        let known: BTreeSet<u32> = entries.floats(table).iter().map(|value| value.to_bits()).collect();
        let weights = entries.floats(&weight);
        assert!(weights.iter().all(|value| known.contains(&value.to_bits())), "{weight}");
        let kind = table.replace("/lut", "/compression_type");
        assert_eq!(
            (entries.bytes(&kind), entries.shape(&kind)),
            (&2i64.to_le_bytes()[..], vec![1])
        );
    }
    // a head that is the embedding has its own entry and table, and torch builds the model in the type of its tables
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["torch_dtype"], &config["tie_word_embeddings"]),
        (&"float32".into(), &true.into())
    );
    let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
    assert_eq!(entries.bytes(head), entries.bytes(embedding));
    let table = |module: &str| entries.floats(&format!("{module}._COREML_/weight/lut"));
    assert_eq!(table("lm_head"), table("model.embed_tokens"));
    // norms have no table and are of the type asked for
    let norm = "model.norm.weight";
    assert_eq!(entries.0[norm]["dtype"], "F16");
}

#[test]
fn a_model_is_not_replaced_by_its_export() {
    let shop = Workshop::new();
    let model = compressed(&shop);
    let bytes = || std::fs::read(model.join("model.safetensors")).unwrap();
    let before = bytes();
    for to in ["hf", "coreml-torch"] {
        let output = export(&model, to, &model, &["--overwrite"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the model would be lost"), "{said}");
        assert!(bytes() == before);
    }
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let shop = Workshop::new();
    for to in ["hf", "coreml-torch"] {
        let output = export(&shop.model(), to, &shop.model(), &[]);
        assert_refused(&output, &["model"], &shop.out());
        // and replaced when that is asked for
        let out = shop.path("again");
        json(&export(&shop.model(), to, &out, &["--overwrite"]));
        json(&export(&shop.model(), to, &out, &["--overwrite"]));
    }
}

#[test]
fn a_page_of_weights_for_any_model() {
    let shop = Workshop::new();
    for (model, centroids) in [(compressed(&shop), true), (shop.model(), false)] {
        let page = shop.path("page.html");
        let mut command = edkm();
        command.arg("inspect").arg(&model).arg("--html").arg(&page);
        assert!(command.output().unwrap().status.success());
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(text.contains("model.layers.0.mlp.up_proj.weight") && text.ends_with("</html>\n"));
        assert_eq!(text.contains("<line class=\"centroid\""), centroids);
        assert_eq!(text.contains("8 centroids in use"), centroids);
        // nothing is loaded from elsewhere
        assert!(!text.contains("<script") && !text.contains("src="));
    }
}
