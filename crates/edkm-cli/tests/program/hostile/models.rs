//! Model folders by way of the program: tokenizers, palettized weights, index files.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{json, Value};

use super::{nested, sparse, strings, text_of, texts, Case};
use crate::common::{edkm, Workshop};

/// A matrix of the embedded model that is palettized.
const MATRIX: &str = "model.layers.0.mlp.up_proj.weight";

/// The embedded model with 3-bit palettes, as the bytes of its weights.
static PALETTIZED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let shop = Workshop::new();
    let output = edkm()
        .arg("compress")
        .arg(shop.model())
        .args(["--method", "rtn", "--bits", "3", "--palette-dtype", "int8"])
        .arg("--out")
        .arg(shop.out())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(shop.out().join("model.safetensors")).unwrap()
});

pub(super) fn cases() -> Vec<Case> {
    let mut cases = tokenizers();
    cases.extend(palettes());
    cases.extend(indices());
    cases
}

fn tokenizer(name: &str, says: &[&'static str], bytes: fn(Value) -> Vec<u8>) -> Case {
    Case::new(
        format!("tokenizer.json: {name}"),
        &[&["tokenizer.json"], says].concat(),
        move |shop| {
            let path = shop.model().join("tokenizer.json");
            let whole = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            std::fs::write(&path, bytes(whole)).unwrap();
            texts::eval(shop, &shop.text())
        },
    )
}

fn tokenizers() -> Vec<Case> {
    let beside = |file: &'static str, name: &str, says: &[&'static str], make: fn(&Path)| {
        Case::new(format!("{file}: {name}"), &[&[file], says].concat(), move |shop| {
            make(&shop.model().join(file));
            texts::eval(shop, &shop.text())
        })
    };
    vec![
        tokenizer("no bytes", &["not a tokenizer"], |_| Vec::new()),
        tokenizer("an empty object", &["not a tokenizer"], |_| b"{}".to_vec()),
        tokenizer("a list", &["not a tokenizer"], |_| b"[]".to_vec()),
        tokenizer("not UTF-8", &["not a tokenizer"], |_| b"{\"model\":\"\xff\"}".to_vec()),
        tokenizer("cut off", &["not a tokenizer"], |whole| {
            let text = whole.to_string();
            text.as_bytes()[..text.len() / 2].to_vec()
        }),
        tokenizer("deep", &["not a tokenizer"], |_| {
            format!(r#"{{"model":{}}}"#, nested(1_000_000)).into()
        }),
        tokenizer("a model of no kind", &["not a tokenizer"], |mut whole| {
            whole["model"]["type"] = json!("GPT");
            whole["model"]["vocab"] = json!(7);
            whole.to_string().into()
        }),
        tokenizer("tokens numbered beyond 32 bits", &["not a tokenizer"], |mut whole| {
            whole["model"]["vocab"]["x"] = json!(1u64 << 40);
            whole.to_string().into()
        }),
        tokenizer("a token that the model has no row for", &["rows"], |mut whole| {
            whole["model"]["vocab"]["\u{fffd}x"] = json!(u32::MAX);
            whole.to_string().into()
        }),
        tokenizer("no tokens", &[], |mut whole| {
            whole["model"]["vocab"] = json!({});
            whole["model"]["merges"] = json!([]);
            whole["added_tokens"] = json!([]);
            whole.to_string().into()
        }),
        tokenizer(
            "merges of tokens that are not there",
            &["not a tokenizer"],
            |mut whole| {
                whole["model"]["merges"] = json!([["\u{1}", "\u{2}"]]);
                whole.to_string().into()
            },
        ),
        tokenizer(
            "an expression that cannot be compiled",
            &["not a tokenizer"],
            |mut whole| {
                whole["pre_tokenizer"] =
                    json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false});
                whole.to_string().into()
            },
        ),
        tokenizer(
            "an expression that backtracks",
            &["quick", "(?:[a-z ]+,?)+"],
            |mut whole| {
                whole["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "(?:[a-z ]+,?)+(?=!)|."}, "behavior": "Isolated", "invert": false},
                    whole["pre_tokenizer"]
                ]});
                whole.to_string().into()
            },
        ),
        tokenizer("an expression that refers back", &["quick"], |mut whole| {
            whole["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(.+)(.+)\\2\\1|."}, "behavior": "Isolated", "invert": false});
            whole.to_string().into()
        }),
        tokenizer(
            "replacements that fill the memory",
            &["times its length"],
            |mut whole| {
                let twice = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
                whole["normalizer"] = json!({"type": "Sequence", "normalizers": vec![twice; 40]});
                whole.to_string().into()
            },
        ),
        tokenizer("a hundred MiB of zeros", &["not a tokenizer"], |_| vec![0; 100 << 20]),
        tokenizer("a million values", &[], |mut whole| {
            whole["truncation"] = json!(vec![0; 1 << 20]);
            whole.to_string().into()
        }),
        beside("tokenizer.json", "a terabyte", &["more than"], |path| {
            std::fs::remove_file(path).unwrap();
            sparse(path, 1 << 40);
        }),
        beside("tokenizer.json", "is not there", &["there is no such file"], |path| {
            std::fs::remove_file(path).unwrap()
        }),
        beside("tokenizer.json", "is a folder", &["not a file"], |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
        beside("tokenizer_config.json", "not JSON", &["not a JSON object"], |path| {
            std::fs::write(path, "{bos").unwrap()
        }),
        beside("tokenizer_config.json", "deep", &["recursion limit"], |path| {
            std::fs::write(path, format!(r#"{{"a":{}}}"#, nested(1_000_000))).unwrap()
        }),
        beside("tokenizer_config.json", "a terabyte", &["more than"], |path| {
            std::fs::remove_file(path).unwrap();
            sparse(path, 1 << 40);
        }),
        beside("config.json", "a begin token that is text", &["bos_token_id"], |path| {
            let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            config["bos_token_id"] = json!("<s>");
            std::fs::write(path, config.to_string()).unwrap();
        }),
    ]
}

/// The header of the palettized model, and what follows it.
struct Parts {
    header: Value,
    data: Vec<u8>,
}

impl Parts {
    fn format(&self) -> Value {
        serde_json::from_str(self.header["__metadata__"]["edkm"].as_str().unwrap()).unwrap()
    }

    fn set_format(&mut self, format: &Value) {
        self.header["__metadata__"]["edkm"] = json!(format.to_string());
    }

    /// What the metadata say of one matrix.
    fn spec(&mut self, key: &str, value: Value) {
        let mut format = self.format();
        format["tensors"][MATRIX]["spec"][key] = value;
        self.set_format(&format);
    }

    fn entry(&mut self, part: &str) -> &mut Value {
        &mut self.header[format!("{MATRIX}.{part}")]
    }

    fn offsets(&self, part: &str) -> (usize, usize) {
        let offsets = &self.header[format!("{MATRIX}.{part}")]["data_offsets"];
        (
            offsets[0].as_u64().unwrap() as usize,
            offsets[1].as_u64().unwrap() as usize,
        )
    }

    fn rename(&mut self, part: &str, to: &str) {
        let header = self.header.as_object_mut().unwrap();
        let entry = header.remove(&format!("{MATRIX}.{part}")).unwrap();
        header.insert(format!("{MATRIX}.{to}"), entry);
    }

    fn file(&self) -> Vec<u8> {
        let header = self.header.to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &self.data].concat()
    }
}

fn parts() -> Parts {
    let file = PALETTIZED.as_slice();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    Parts {
        header: serde_json::from_slice(&file[8..8 + length]).unwrap(),
        data: file[8 + length..].to_vec(),
    }
}

/// A file of palettized weights, given to one of the commands that read them.
fn weights(name: &str, says: &[&'static str], bytes: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Case {
    let reader = name.len() % 3;
    Case::new(format!("palettes: {name}"), says, move |shop| {
        std::fs::write(shop.weights(), bytes()).unwrap();
        let model = text_of(&shop.model());
        match reader {
            0 => texts::eval(shop, &shop.text()),
            1 => strings(&["generate", &model, "--prompt", "Once", "--tokens", "2"]),
            _ => strings(&["export", &model, "--to", "hf", "--out", &text_of(&shop.out())]),
        }
    })
}

fn palettes() -> Vec<Case> {
    let file = |change: fn(&mut Parts)| {
        move || {
            let mut parts = parts();
            change(&mut parts);
            parts.file()
        }
    };
    let changed = |name: &str, says: &[&'static str], change| {
        weights(name, &[&["model.safetensors"], says].concat(), file(change))
    };
    // what does not fit together is the whole folder
    let misfit = |name: &str, change| weights(name, &["config.json", MATRIX], file(change));
    vec![
        weights("cut off in the header", &["model.safetensors", "header"], || {
            PALETTIZED[..400].to_vec()
        }),
        weights(
            "cut off in the last tensor",
            &["model.safetensors", "truncated"],
            || PALETTIZED[..PALETTIZED.len() - 1].to_vec(),
        ),
        weights(
            "a header longer than the file",
            &["model.safetensors", "header of"],
            || [&(1u64 << 60).to_le_bytes()[..], &PALETTIZED[8..]].concat(),
        ),
        changed("metadata that are not JSON", &["malformed"], |parts| {
            parts.header["__metadata__"]["edkm"] = json!("palettes");
        }),
        changed("metadata that are deep", &["recursion limit"], |parts| {
            parts.header["__metadata__"]["edkm"] = json!(nested(200_000));
        }),
        changed("metadata of another version", &["version"], |parts| {
            let mut format = parts.format();
            format["version"] = json!(2);
            parts.set_format(&format);
        }),
        misfit("metadata that list nothing", |parts| {
            let mut format = parts.format();
            format["tensors"] = json!({});
            parts.set_format(&format);
        }),
        changed("metadata with a key twice", &[], |parts| {
            let text = parts.format().to_string();
            let text = text.replacen("\"version\":1", "\"version\":1,\"version\":2", 1);
            parts.header["__metadata__"]["edkm"] = json!(text);
        }),
        changed("metadata with a foreign key", &["unknown field"], |parts| {
            parts.spec("colour", json!("red"));
        }),
        changed("zero bits", &["bits"], |parts| parts.spec("bits", json!(0))),
        changed("nine bits", &["bits"], |parts| parts.spec("bits", json!(9))),
        changed("half a bit", &["metadata"], |parts| parts.spec("bits", json!(2.5))),
        changed("four bits for indices of three", &[MATRIX], |parts| {
            parts.spec("bits", json!(4))
        }),
        changed("groups of no rows", &["nonzero"], |parts| {
            parts.spec("group_rows", json!(0))
        }),
        changed("a palette for each row", &[MATRIX], |parts| {
            parts.spec("group_rows", json!(1))
        }),
        changed("vectors of three", &["vector"], |parts| parts.spec("vector", json!(3))),
        changed("a palette of another type", &[MATRIX], |parts| {
            parts.spec("palette_dtype", json!("f16"))
        }),
        changed("a palette of no type", &["metadata"], |parts| {
            parts.spec("palette_dtype", json!("f8"))
        }),
        misfit("rows times columns overflow", |parts| {
            let mut format = parts.format();
            format["tensors"][MATRIX]["shape"] = json!([1u64 << 63, 1u64 << 63]);
            parts.set_format(&format);
        }),
        misfit("rows times bits overflow", |parts| {
            let mut format = parts.format();
            format["tensors"][MATRIX]["shape"] = json!([1, 1u64 << 62]);
            parts.set_format(&format);
        }),
        misfit("no rows", |parts| {
            let mut format = parts.format();
            format["tensors"][MATRIX]["shape"] = json!([0, 0]);
            parts.set_format(&format);
        }),
        changed("factors of rows that are not there", &[".scale"], |parts| {
            let mut format = parts.format();
            format["tensors"][MATRIX]["scale"] = json!("row");
            parts.set_format(&format);
        }),
        changed("indices of another type", &[".indices"], |parts| {
            parts.entry("indices")["dtype"] = json!("F32")
        }),
        changed("indices of another shape", &[".indices"], |parts| {
            let shape = parts.entry("indices")["shape"].as_array().unwrap().clone();
            parts.entry("indices")["shape"] = json!([shape[1], shape[0], shape[2]]);
        }),
        changed("indices that overlap the palette", &["begin"], |parts| {
            let (start, end) = parts.offsets("palette");
            parts.entry("indices")["data_offsets"] = json!([start, end]);
        }),
        changed("indices of huge axes", &["overflows"], |parts| {
            parts.entry("indices")["shape"] = json!([1u64 << 32, 1u64 << 32, 16]);
        }),
        changed("indices that are not there", &[".indices"], |parts| {
            parts.rename("indices", "indexes")
        }),
        changed("a palette that is not there", &[".palette"], |parts| {
            parts.rename("palette", "palettes")
        }),
        changed("factors of palettes that are not there", &["palette_scale"], |parts| {
            parts.rename("palette_scale", "palette_factor")
        }),
        changed("a factor that is not a number", &[MATRIX, "scale"], |parts| {
            let (start, _) = parts.offsets("palette_scale");
            parts.data[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        changed("a factor that is infinite", &[MATRIX, "scale"], |parts| {
            let (start, _) = parts.offsets("palette_scale");
            parts.data[start..start + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        }),
        changed("a factor below nought", &[MATRIX, "scale"], |parts| {
            let (start, _) = parts.offsets("palette_scale");
            parts.data[start..start + 4].copy_from_slice(&(-1f32).to_le_bytes());
        }),
    ]
}

fn indices() -> Vec<Case> {
    const INDEX: &str = "model.safetensors.index.json";
    let index = |name: &str, says: &[&'static str], text: fn() -> String| {
        Case::new(format!("{INDEX}: {name}"), &[&[INDEX], says].concat(), move |shop| {
            // outside the folder: it must not be read
            std::fs::rename(shop.weights(), shop.path("outside.safetensors")).unwrap();
            std::fs::write(shop.model().join(INDEX), text()).unwrap();
            texts::eval(shop, &shop.text())
        })
    };
    fn one(file: &str) -> String {
        json!({"weight_map": {"model.norm.weight": file}}).to_string()
    }
    vec![
        index("a file above", &["without a folder"], || one("../outside.safetensors")),
        index("a file above, by a detour", &["without a folder"], || {
            one("x/../../outside.safetensors")
        }),
        index("a file above, as on Windows", &["without a folder"], || {
            one("..\\outside.safetensors")
        }),
        index("an absolute path", &["without a folder"], || one("/dev/zero")),
        index("the folder itself", &[], || one(".")),
        index("no name", &[], || one("")),
        index("a file that is not there", &["missing"], || one("inside.safetensors")),
        index("cut off", &["EOF"], || one("inside.safetensors")[..30].to_owned()),
        index("deep", &[], || format!(r#"{{"weight_map":{}}}"#, nested(500_000))),
        index("a list", &[], || "[]".to_owned()),
    ]
}
