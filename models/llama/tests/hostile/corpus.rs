//! The folders: each is a small valid model with one thing wrong.

use std::{
    fs::{self, File},
    path::Path,
};

use edkm_llama::{config::LlamaConfig, names};

/// A hostile folder.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What the error must say.
    pub(crate) expect: &'static str,
    pub(crate) make: Box<dyn Fn(&Path)>,
}

const CONFIG: &str = "config.json";
const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A header's limit, in bytes; hostile headers fill it.
const FULL: usize = 16 << 20;

pub(crate) fn valid_folder(dir: &Path) {
    fs::write(dir.join(CONFIG), config(&[])).unwrap();
    fs::write(dir.join(MODEL), Model::valid().file()).unwrap();
}

pub(crate) fn palettized_folder(dir: &Path) {
    fs::write(dir.join(CONFIG), config(&[])).unwrap();
    fs::write(dir.join(MODEL), Model::palettized().file()).unwrap();
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = config_cases();
    cases.extend(header_cases());
    cases.extend(tensor_cases());
    cases.extend(index_cases());
    cases.extend(palette_cases());
    cases.extend(file_cases());
    cases
}

fn case(name: impl Into<String>, expect: &'static str, make: impl Fn(&Path) + 'static) -> Case {
    Case {
        name: name.into(),
        expect,
        make: Box::new(make),
    }
}

/// The configuration with some keys set to other JSON, and without those that are set to nothing.
fn config(changes: &[(&str, &str)]) -> String {
    let mut keys = vec![
        ("model_type", "\"llama\""),
        ("vocab_size", "8"),
        ("hidden_size", "4"),
        ("intermediate_size", "4"),
        ("num_hidden_layers", "1"),
        ("num_attention_heads", "2"),
        ("tie_word_embeddings", "true"),
    ];
    for &(key, value) in changes {
        keys.retain(|(known, _)| *known != key || value.is_empty());
        match value {
            "" => keys.retain(|(known, _)| *known != key),
            _ => keys.push((key, value)),
        }
    }
    let keys: Vec<String> = keys.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    format!("{{{}}}", keys.join(", "))
}

fn config_cases() -> Vec<Case> {
    let with = |expect, key: &'static str, value: &'static str| {
        let shown: String = value.chars().take(40).collect();
        case(format!("config: {key} = {shown}"), expect, move |dir| {
            valid_folder(dir);
            fs::write(dir.join(CONFIG), config(&[(key, value)])).unwrap();
        })
    };
    let text = |name: &str, expect, text: fn() -> Vec<u8>| {
        case(format!("config: {name}"), expect, move |dir| {
            valid_folder(dir);
            fs::write(dir.join(CONFIG), text()).unwrap();
        })
    };
    vec![
        with("\"hidden_size\" is missing", "hidden_size", ""),
        with("\"model_type\" is missing", "model_type", ""),
        with("a string", "vocab_size", "\"8\""),
        with("whole number", "vocab_size", "-8"),
        with("whole number", "vocab_size", "8.5"),
        with("whole number", "vocab_size", "99999999999999999999"),
        with("from 1", "vocab_size", "0"),
        with("from 1", "vocab_size", "18446744073709551615"),
        with("from 1", "num_hidden_layers", "4294967295"),
        with("not a multiple", "num_attention_heads", "3"),
        with("not a multiple", "num_key_value_heads", "3"),
        with("number out of range", "rms_norm_eps", "1e999"),
        with("expected value", "rms_norm_eps", "NaN"),
        with("greater than 0", "rms_norm_eps", "-1"),
        with("vocab_size, 8", "eos_token_id", "[1, 4294967295]"),
        with("yarn", "rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 2.0}"),
        with(
            "\"rope_scaling.factor\" is 0",
            "rope_scaling",
            "{\"type\": \"linear\", \"factor\": 0.0}",
        ),
        with("\"quantization_config\"", "quantization_config", "{\"bits\": 4}"),
        with("the tensors are not those", "vocab_size", "16777216"),
        with("the tensors are not those", "num_hidden_layers", "4096"),
        case("config: parameters overflow", "parameters", |dir| {
            valid_folder(dir);
            let big = "16777216";
            let sizes = ["vocab_size", "hidden_size", "intermediate_size"].map(|key| (key, big));
            let more = [
                ("num_hidden_layers", "4096"),
                ("num_attention_heads", "65536"),
                ("head_dim", "65536"),
            ];
            fs::write(dir.join(CONFIG), config(&[&sizes[..], &more[..]].concat())).unwrap();
        }),
        text("empty", "EOF", Vec::new),
        text("truncated", "EOF", || b"{\"vocab_size\": 8, \"hidden".to_vec()),
        text("a list", "expected an object", || b"[]".to_vec()),
        text("not UTF-8", "not UTF-8", || b"{\"a\": \"\xff\xfe\"}".to_vec()),
        text("a key twice", "\"a\" occurs twice", || b"{\"a\": 1, \"a\": 2}".to_vec()),
        text("deep", "recursion limit", || nested(500_000).into_bytes()),
        text("a million numbers", "", || {
            format!("{{\"a\":[{}0]}}", "0,".repeat(520_000)).into_bytes()
        }),
        text("a huge key", "is missing", || {
            format!("{{\"{}\": 1}}", "k".repeat(1_000_000)).into_bytes()
        }),
        case("config: a huge key of rope_scaling", "rope_scaling.", |dir| {
            valid_folder(dir);
            let scaling = format!(
                "{{\"type\": \"linear\", \"factor\": 2.0, \"{}\": 1}}",
                "k".repeat(1_000_000)
            );
            fs::write(dir.join(CONFIG), config(&[("rope_scaling", &scaling)])).unwrap();
        }),
        text("a huge value", "model_type", || {
            format!("{{\"model_type\": \"{}\"}}", "v".repeat(1_000_000)).into_bytes()
        }),
        case("config: a terabyte", "more than the", |dir| {
            valid_folder(dir);
            sparse(&dir.join(CONFIG), 1 << 40);
        }),
    ]
}

fn header_cases() -> Vec<Case> {
    // Made when they are written: together they would fill the memory that is measured.
    let bytes = |name: &str, expect, bytes: fn() -> Vec<u8>| {
        case(format!("header: {name}"), expect, move |dir| {
            valid_folder(dir);
            fs::write(dir.join(MODEL), bytes()).unwrap();
        })
    };
    let header = |name: &str, expect, text: fn() -> String| {
        case(format!("header: {name}"), expect, move |dir| {
            valid_folder(dir);
            fs::write(dir.join(MODEL), file(&text(), &[])).unwrap();
        })
    };
    fn filled(begin: &str, part: fn(usize) -> String, end: &str) -> String {
        let mut text = begin.to_owned();
        let mut i = 0;
        while text.len() < FULL - 200 - end.len() {
            text.push_str(&part(i));
            i += 1;
        }
        text + end
    }
    vec![
        bytes("no bytes", "truncated", Vec::new),
        bytes("seven bytes", "truncated", || vec![0; 7]),
        bytes("length of nothing", "EOF", || vec![0; 8]),
        bytes("length beyond all", "header of 18446744073709551615 bytes", || {
            vec![0xff; 100]
        }),
        bytes("length beyond the file", "truncated", || {
            [&1000u64.to_le_bytes()[..], b"{}"].concat()
        }),
        bytes("pickle", "header of", || {
            b"PK\x03\x04\x00\x00\x08\x08pytorch_model/data.pkl".to_vec()
        }),
        case("header: a sparse terabyte", "header of", |dir| {
            valid_folder(dir);
            sparse(&dir.join(MODEL), 1 << 40);
            use std::io::Write;
            let mut opened = File::options().write(true).open(dir.join(MODEL)).unwrap();
            opened.write_all(&(1u64 << 39).to_le_bytes()).unwrap();
        }),
        bytes("not UTF-8", "invalid header", || {
            let mut bytes = file("{\"a\":1}", &[]);
            bytes[10] = 0xff;
            bytes
        }),
        header("a list", "an object of tensors", || "[]".into()),
        header("deep", "invalid header", || nested(1_000_000)),
        header("deep in a tensor", "invalid header", || {
            format!("{{\"a\":{}", nested(1_000_000))
        }),
        header("full of brackets", "invalid header", || "[".repeat(FULL)),
        header("full of axes", "at most 8 axes", || {
            filled(
                "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1],\"shape\":[1",
                |_| ",1".into(),
                "]}}",
            )
        }),
        header("full of tensors", "more than 100000", || {
            let tensor = |i: usize| format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},");
            filled("{", tensor, "\"x\":{}}")
        }),
        header("full of metadata", "more than 100000", || {
            filled("{\"__metadata__\":{", |i| format!("\"{i}\":\"\","), "\"x\":\"\"}}")
        }),
        header("full of unknown keys", "missing field", || {
            filled("{\"a\":{", |i| format!("\"{i}\":[[],{{}}],"), "\"x\":0}}")
        }),
        header("one huge name", "more than 1024", || {
            format!("{{\"{}\":{{}}}}", "n".repeat(FULL - 1000))
        }),
        header("one huge key of metadata", "more than 1024", || {
            format!("{{\"__metadata__\":{{\"{}\":\"\"}}}}", "k".repeat(FULL - 1000))
        }),
        header("a huge word for a shape", "expected a list", || {
            format!("{{\"a\":{{\"shape\":\"{}\"}}}}", "s".repeat(FULL - 1000))
        }),
        header("a huge word for a type", "is not known", || {
            format!("{{\"a\":{{\"dtype\":\"{}\"}}}}", "d".repeat(FULL - 1000))
        }),
        header("metadata twice", "occurs twice", || {
            "{\"__metadata__\":{},\"__metadata__\":{}}".into()
        }),
        header("metadata of numbers", "expected a string", || {
            "{\"__metadata__\":{\"a\":1}}".into()
        }),
    ]
}

fn tensor_cases() -> Vec<Case> {
    let changed = |name: &str, expect, change: fn(&mut Model)| {
        case(format!("tensor: {name}"), expect, move |dir| {
            valid_folder(dir);
            let mut model = Model::valid();
            change(&mut model);
            fs::write(dir.join(MODEL), model.file()).unwrap();
        })
    };
    let huge = format!("[{0},{0}]", u64::MAX);
    let huge_shape = move |model: &mut Model| model.tensors[0].shape = huge.clone();
    vec![
        changed("unknown dtype", "\"F33\" is not known", |m| {
            m.tensors[0].dtype = "F33".into()
        }),
        changed("whole numbers", "has type I32", |m| m.tensors[0].dtype = "I32".into()),
        changed("negative axis", "integer `-8`", |m| {
            m.tensors[0].shape = "[-8,4]".into()
        }),
        changed("fractional axis", "floating point", |m| {
            m.tensors[0].shape = "[8.0,4]".into()
        }),
        changed("axis beyond u64", "invalid", |m| {
            m.tensors[0].shape = "[99999999999999999999]".into()
        }),
        changed("shape of words", "invalid type", |m| {
            m.tensors[0].shape = "[\"8\",\"4\"]".into()
        }),
        changed("another shape", "[4, 8] instead of [8, 4]", |m| {
            m.tensors[0].shape = "[4,8]".into()
        }),
        changed("too few elements", "takes 64 bytes", |m| {
            m.tensors[0].shape = "[4,4]".into()
        }),
        case("tensor: elements overflow", "overflows", move |dir| {
            valid_folder(dir);
            let mut model = Model::valid();
            huge_shape(&mut model);
            fs::write(dir.join(MODEL), model.file()).unwrap();
        }),
        changed("elements overflow to zero", "overflows", |m| {
            m.tensors[0].shape = "[4294967296,4294967296]".into()
        }),
        changed("bytes overflow", "overflows", |m| {
            m.tensors[0].shape = "[4611686018427387904]".into()
        }),
        changed("nothing times too much", "overflows", |m| {
            m.tensors[0].shape = "[18446744073709551615,18446744073709551615,0]".into();
        }),
        changed("offsets overlap", "it must begin where", |m| {
            m.tensors[1].offsets.0 -= 4
        }),
        changed("offsets leave a gap", "it must begin where", |m| {
            let last = m.tensors.len() - 1;
            m.tensors[last].offsets.0 += 4;
        }),
        changed("offsets reversed", "it must begin where", |m| {
            let (start, end) = m.tensors[0].offsets;
            m.tensors[0].offsets = (end, start);
        }),
        changed("offsets far beyond", "by its offsets", |m| {
            let last = m.tensors.len() - 1;
            m.tensors[last].offsets.1 = u64::MAX;
        }),
        changed("two at one place", "it must begin where", |m| {
            m.tensors[1].offsets = m.tensors[0].offsets
        }),
        changed("twice", "occurs twice", |m| {
            m.tensors[1].name = m.tensors[0].name.clone()
        }),
        changed("missing", "missing: model.norm.weight", |m| {
            m.tensors.last_mut().unwrap().name = "model.norm.bias".into();
        }),
        changed("not a number", "holds NaN at flat index 5", |m| m.set(5, f32::NAN)),
        changed("infinite", "holds -inf at flat index 31", |m| {
            m.set(31, f32::NEG_INFINITY)
        }),
        changed("cut off", "truncated", |m| {
            m.data.truncate(m.data.len() - 1);
        }),
        changed("something behind", "follow the last tensor", |m| m.data.push(0)),
        changed("no data at all", "truncated", |m| m.data.clear()),
    ]
}

fn index_cases() -> Vec<Case> {
    let index = |name: &str, expect, text: fn() -> String| {
        case(format!("index: {name}"), expect, move |dir| {
            valid_folder(dir);
            fs::rename(dir.join(MODEL), dir.join("one.safetensors")).unwrap();
            fs::write(dir.join(INDEX), text()).unwrap();
        })
    };
    fn one(file: &str) -> String {
        format!("{{\"weight_map\":{{\"a\":{file}}}}}")
    }
    vec![
        index("parent", "named without a folder", || one("\"../one.safetensors\"")),
        index("absolute", "named without a folder", || one("\"/etc/passwd\"")),
        index("below", "named without a folder", || one("\"./x/../one.safetensors\"")),
        index("other system", "named without a folder", || {
            one("\"..\\\\one.safetensors\"")
        }),
        index("nul", "named without a folder", || one("\"one\\u0000.safetensors\"")),
        index("missing shard", "is missing", || one("\"two.safetensors\"")),
        index("the index as shard", "header of", || {
            one("\"model.safetensors.index.json\"")
        }),
        index("foreign tensor", "is not in", || one("\"one.safetensors\"")),
        index("a huge name", "named without a folder", || {
            one(&format!("\"{}\"", "f".repeat(1_000_000)))
        }),
        index("number", "expected a string", || one("7")),
        index("a tensor twice", "occurs twice", || {
            "{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}".into()
        }),
        index("two maps", "duplicate field", || {
            "{\"weight_map\":{\"a\":\"x\"},\"weight_map\":{\"a\":\"x\"}}".into()
        }),
        index("empty map", "no tensors", || "{\"weight_map\":{}}".into()),
        index("no map", "missing field", || "{}".into()),
        index("deep", "index.json", || nested(1_000_000)),
        index("full", "more than 100000", || {
            let many: Vec<String> = (0..900_000).map(|i| format!("\"{i}\":\"x\"")).collect();
            format!("{{\"weight_map\":{{{}}}}}", many.join(","))
        }),
        case("index: a terabyte", "more than the", |dir| {
            valid_folder(dir);
            fs::remove_file(dir.join(MODEL)).unwrap();
            sparse(&dir.join(INDEX), 1 << 40);
        }),
    ]
}

fn palette_cases() -> Vec<Case> {
    let changed = |name: &str, expect, change: fn(&mut Model)| {
        case(format!("palette: {name}"), expect, move |dir| {
            palettized_folder(dir);
            let mut model = Model::palettized();
            change(&mut model);
            fs::write(dir.join(MODEL), model.file()).unwrap();
        })
    };
    fn metadata(model: &mut Model, from: &str, to: &str) {
        assert!(model.format.contains(from), "{}", model.format);
        model.format = model.format.replace(from, to);
    }
    fn entry<'a>(model: &'a mut Model, suffix: &str) -> &'a mut Tensor {
        model.tensors.iter_mut().find(|t| t.name.ends_with(suffix)).unwrap()
    }
    vec![
        changed("another version", "version `9`", |m| {
            metadata(m, "\"version\":1", "\"version\":9")
        }),
        changed("a huge version", "is not supported", |m| {
            m.format = format!("{{\"version\":\"{}\"}}", "v".repeat(1_000_000))
        }),
        changed("no version", "no `version`", |m| m.format = "{}".into()),
        changed("not JSON", "malformed", |m| m.format = "palette".into()),
        changed("deep", "recursion limit", |m| m.format = nested(200_000)),
        changed("a huge description", "of metadata", |m| {
            m.format = format!("[{}0]", "0,".repeat(1 << 20))
        }),
        changed("nine bits", "bits", |m| metadata(m, "\"bits\":2", "\"bits\":9")),
        changed("no bits", "bits", |m| metadata(m, "\"bits\":2", "\"bits\":0")),
        changed("vectors of three", "vector", |m| {
            metadata(m, "\"vector\":1", "\"vector\":3")
        }),
        changed("huge shape", "of another shape", |m| {
            metadata(m, "[8,4]", "[4611686018427387904,4]")
        }),
        changed("other bits", "expected", |m| metadata(m, "\"bits\":2", "\"bits\":3")),
        changed("scales that are not there", "scale", |m| {
            metadata(m, "\"scale\":\"none\"", "\"scale\":\"row\"")
        }),
        changed("no indices", ".indices", |m| entry(m, ".indices").name.push('x')),
        changed("no palette", ".palette", |m| entry(m, ".palette").name.push('x')),
        changed("indices of another type", "dtype", |m| {
            entry(m, ".indices").dtype = "I32".into()
        }),
        changed("palette of another shape", "shape", |m| {
            entry(m, ".palette").shape = "[1,1,4]".into()
        }),
        changed("palette that is not finite", "NaN", |m| {
            let start = entry(m, ".palette").offsets.0 as usize;
            m.data[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
    ]
}

#[cfg(unix)]
fn file_cases() -> Vec<Case> {
    use std::os::unix::fs::symlink;
    let mut cases = Vec::new();
    for name in [CONFIG, MODEL] {
        cases.push(case(
            format!("file: {name} is a folder"),
            "not a regular file",
            move |dir| {
                valid_folder(dir);
                fs::remove_file(dir.join(name)).unwrap();
                fs::create_dir(dir.join(name)).unwrap();
            },
        ));
        cases.push(case(
            format!("file: {name} is an endless device"),
            "not a regular file",
            move |dir| {
                valid_folder(dir);
                fs::remove_file(dir.join(name)).unwrap();
                symlink("/dev/zero", dir.join(name)).unwrap();
            },
        ));
        cases.push(case(
            format!("file: {name} is a pipe"),
            "not a regular file",
            move |dir| {
                valid_folder(dir);
                fs::remove_file(dir.join(name)).unwrap();
                let made = std::process::Command::new("mkfifo").arg(dir.join(name)).status();
                if !made.is_ok_and(|status| status.success()) {
                    // No such program: the folder stands in, with the same answer.
                    fs::create_dir(dir.join(name)).unwrap();
                }
            },
        ));
        cases.push(case(
            format!("file: {name} is a link to itself"),
            "cannot find",
            move |dir| {
                valid_folder(dir);
                fs::remove_file(dir.join(name)).unwrap();
                symlink(dir.join(name), dir.join(name)).unwrap();
            },
        ));
    }
    cases
}

#[cfg(not(unix))]
fn file_cases() -> Vec<Case> {
    Vec::new()
}

/// A safetensors file in parts that can be changed one by one.
struct Model {
    tensors: Vec<Tensor>,
    /// The description of palettized tensors; empty for none.
    format: String,
    data: Vec<u8>,
}

struct Tensor {
    name: String,
    dtype: String,
    shape: String,
    offsets: (u64, u64),
}

impl Model {
    fn valid() -> Self {
        let config: LlamaConfig = serde_json::from_str(&config(&[])).unwrap();
        let mut model = Self {
            tensors: Vec::new(),
            format: String::new(),
            data: Vec::new(),
        };
        for parameter in names::parameters(&config) {
            let bytes = vec![0; 4 * parameter.shape.iter().product::<usize>()];
            model.push(parameter.name, "F32", format!("{:?}", parameter.shape), bytes);
        }
        model
    }

    /// The embedding as palette and indices: 8 x 4 of 2 bits, one tile of 16 rows, 8 words a row.
    fn palettized() -> Self {
        use edkm_palette::{FormatMetadata, PaletteSpec, PalettizedMatrix, METADATA_KEY};
        let valid = Self::valid();
        let mut model = Self {
            tensors: Vec::new(),
            format: String::new(),
            data: Vec::new(),
        };
        let name = valid.tensors[0].name.clone();
        let indices: Vec<u8> = (0..32).map(|i| i % 4).collect();
        let matrix = PalettizedMatrix::pack(8, 4, PaletteSpec::new(2), &[-1.0, 0.0, 1.0, 2.0], &indices, None).unwrap();
        let mut format = FormatMetadata::new();
        format.insert(&name, &matrix);
        model.format = format.to_map().unwrap().remove(METADATA_KEY).unwrap();
        for entry in matrix.to_entries(&name) {
            model.push(
                entry.name,
                &format!("{:?}", entry.dtype),
                format!("{:?}", entry.shape),
                entry.bytes.into(),
            );
        }
        for tensor in &valid.tensors[1..] {
            let (start, end) = (tensor.offsets.0 as usize, tensor.offsets.1 as usize);
            let bytes = valid.data[start..end].to_vec();
            model.push(tensor.name.clone(), &tensor.dtype, tensor.shape.clone(), bytes);
        }
        model
    }

    fn push(&mut self, name: String, dtype: &str, shape: String, bytes: Vec<u8>) {
        let start = self.data.len() as u64;
        self.data.extend(bytes);
        self.tensors.push(Tensor {
            name,
            dtype: dtype.into(),
            shape,
            offsets: (start, self.data.len() as u64),
        });
    }

    /// Sets one number of the first tensor.
    fn set(&mut self, index: usize, value: f32) {
        self.data[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn file(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        if !self.format.is_empty() {
            entries.push(format!(
                "\"__metadata__\":{{\"edkm\":{}}}",
                serde_json::to_string(&self.format).unwrap()
            ));
        }
        entries.extend(self.tensors.iter().map(
            |Tensor {
                 name,
                 dtype,
                 shape,
                 offsets: (start, end),
             }| {
                format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}")
            },
        ));
        file(&format!("{{{}}}", entries.join(",")), &self.data)
    }
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A list in a list in a list, within an object.
fn nested(depth: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(depth / 2), "]".repeat(depth / 2))
}

/// A file of this length that takes no room.
fn sparse(path: &Path, length: u64) {
    File::create(path).unwrap().set_len(length).unwrap();
}
