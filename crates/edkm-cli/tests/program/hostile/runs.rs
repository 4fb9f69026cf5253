//! What a run has left to go on from, given to `finetune --resume`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use serde_json::{json, Value};

use super::{nested, sparse, strings, text_of, Case};
use crate::common::{edkm, Workshop};

/// A run that was killed behind its third checkpoint; the model and the text that it began with are beside it.
static KILLED: LazyLock<Workshop> = LazyLock::new(|| {
    let shop = Workshop::new();
    let mut child = edkm()
        .arg("finetune")
        .arg(shop.model())
        .arg("--data")
        .arg(shop.text())
        .arg("--out")
        .arg(shop.out())
        .args([
            "--steps",
            "100000",
            "--seq",
            "32",
            "--batch",
            "2",
            "--eval-tokens",
            "100",
        ])
        .args(["--checkpoint-every", "1", "--keep", "100"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !shop.path("out.run/checkpoints/step-000000000003").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    shop
});

/// The checkpoints of a run.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let found = run.join("checkpoints").read_dir().into_iter().flatten();
    found
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-"))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn resume(shop: &Workshop) -> Vec<String> {
    strings(&["finetune", "--resume", &text_of(&shop.out())])
}

/// The run with its folder changed.
fn run(name: &str, says: &[&'static str], change: fn(&Path)) -> Case {
    Case::new(format!("run: {name}"), says, move |shop| {
        copy(&KILLED.path("out.run"), &shop.path("out.run"));
        change(&shop.path("out.run"));
        resume(shop)
    })
}

/// The run with each of its checkpoints changed.
fn checkpoint(name: &str, says: &[&'static str], change: fn(&Path)) -> Case {
    Case::new(format!("checkpoint: {name}"), says, move |shop| {
        copy(&KILLED.path("out.run"), &shop.path("out.run"));
        let found = checkpoints(&shop.path("out.run"));
        assert!(found.len() >= 2);
        found.iter().for_each(|path| change(path));
        resume(shop)
    })
}

/// The same, and the checksums are made to fit: what a stranger would send.
fn forged(name: &str, says: &[&'static str], change: fn(&Path)) -> Case {
    Case::new(format!("checkpoint, forged: {name}"), says, move |shop| {
        copy(&KILLED.path("out.run"), &shop.path("out.run"));
        for path in checkpoints(&shop.path("out.run")) {
            change(&path);
            let mut hash = xxhash_rust::xxh3::Xxh3::new();
            for file in ["parameters.safetensors", "moments.safetensors", "state.bin"] {
                let bytes = std::fs::read(path.join(file)).unwrap();
                hash.update(&(bytes.len() as u64).to_le_bytes());
                hash.update(&bytes);
            }
            std::fs::write(path.join("xxh3"), format!("{:032x}", hash.digest128())).unwrap();
        }
        resume(shop)
    })
}

/// Changes the bytes of a file.
fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// A safetensors file without numbers.
fn header_alone(path: &Path, header: &str) {
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(path, file).unwrap();
}

/// Replaces the first text in a file by one of the same length.
fn rename(path: &Path, from: &str, to: &str) {
    edit(path, |bytes| {
        let at = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    })
}

/// Changes the arguments that a run was started with.
fn arguments(run: &Path, change: impl FnOnce(&mut Value)) {
    let path = run.join("arguments.json");
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Where the state's first field lies in `state.bin`, behind the magic number: the length of the program's version.
const VERSION_LENGTH: usize = 12;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = folders();
    cases.extend(damaged());
    cases.extend(forgeries());
    cases
}

fn folders() -> Vec<Case> {
    vec![
        Case::new("run: is not there", &["out.run"], resume),
        run("no arguments", &["out.run"], |run| {
            std::fs::remove_file(run.join("arguments.json")).unwrap()
        }),
        run("no checkpoints", &["out.run", "no checkpoint"], |run| {
            std::fs::remove_dir_all(run.join("checkpoints")).unwrap()
        }),
        run("checkpoints is a file", &["checkpoints"], |run| {
            std::fs::remove_dir_all(run.join("checkpoints")).unwrap();
            std::fs::write(run.join("checkpoints"), "").unwrap();
        }),
        run("arguments cut off", &["arguments.json", "EOF"], |run| {
            edit(&run.join("arguments.json"), |bytes| bytes.truncate(20))
        }),
        run("arguments not UTF-8", &["arguments.json", "UTF-8"], |run| {
            std::fs::write(run.join("arguments.json"), b"{\"\xff\":0}").unwrap()
        }),
        run("arguments deep", &["arguments.json"], |run| {
            std::fs::write(
                run.join("arguments.json"),
                format!(r#"{{"arguments":{}}}"#, nested(200_000)),
            )
            .unwrap()
        }),
        run("arguments of a terabyte", &["arguments.json", "more than"], |run| {
            sparse(&run.join("arguments.json"), 1 << 40)
        }),
        run("arguments of another command", &["arguments.json", "finetune"], |run| {
            arguments(run, |value| value["arguments"] = json!(["edkm", "inspect", "x"]))
        }),
        run(
            "arguments that resume another run",
            &["arguments.json", "--resume"],
            |run| {
                arguments(run, |value| {
                    value["arguments"] = json!(["edkm", "finetune", "--resume", "x"])
                })
            },
        ),
        run(
            "arguments that do not exist",
            &["arguments.json", "--frobnicate"],
            |run| {
                arguments(run, |value| {
                    value["arguments"].as_array_mut().unwrap().push(json!("--frobnicate"))
                })
            },
        ),
        run("arguments that are numbers", &["arguments.json"], |run| {
            arguments(run, |value| value["arguments"] = json!([1, 2]))
        }),
        run("a folder that is none", &["/dev/null"], |run| {
            arguments(run, |value| value["folder"] = json!("/dev/null"))
        }),
        run(
            "a text that is not where its folder was",
            &["/no/such/folder", "lost.txt"],
            |run| {
                arguments(run, |value| {
                    value["folder"] = json!("/no/such/folder");
                    for argument in value["arguments"].as_array_mut().unwrap() {
                        if argument.as_str().unwrap().ends_with(".txt") {
                            *argument = json!("lost.txt");
                        }
                    }
                })
            },
        ),
    ]
}

fn damaged() -> Vec<Case> {
    vec![
        checkpoint("state cut off", &["step-", "checksum"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes.truncate(bytes.len() / 2))
        }),
        checkpoint("state empty", &["step-", "checksum"], |path| {
            edit(&path.join("state.bin"), Vec::clear)
        }),
        checkpoint("a bit of the state", &["step-", "checksum"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes[1000] ^= 1)
        }),
        checkpoint("state is not there", &["state.bin"], |path| {
            std::fs::remove_file(path.join("state.bin")).unwrap()
        }),
        checkpoint("state is a folder", &["state.bin"], |path| {
            std::fs::remove_file(path.join("state.bin")).unwrap();
            std::fs::create_dir(path.join("state.bin")).unwrap();
        }),
        checkpoint("state of a terabyte", &["state.bin", "too many"], |path| {
            sparse(&path.join("state.bin"), 1 << 40)
        }),
        checkpoint("parameters cut off", &["parameters.safetensors"], |path| {
            edit(&path.join("parameters.safetensors"), |bytes| bytes.truncate(5000))
        }),
        checkpoint("parameters of a terabyte", &["parameters.safetensors"], |path| {
            sparse(&path.join("parameters.safetensors"), 1 << 40)
        }),
        checkpoint(
            "a header of parameters beyond all",
            &["parameters.safetensors"],
            |path| edit(&path.join("parameters.safetensors"), |bytes| bytes[..8].fill(0xff)),
        ),
        checkpoint("a bit of the parameters", &["step-", "checksum"], |path| {
            edit(&path.join("parameters.safetensors"), |bytes| {
                *bytes.last_mut().unwrap() ^= 1
            })
        }),
        checkpoint("moments are not there", &["moments.safetensors"], |path| {
            std::fs::remove_file(path.join("moments.safetensors")).unwrap()
        }),
        checkpoint("moments of a terabyte", &["moments.safetensors"], |path| {
            sparse(&path.join("moments.safetensors"), 1 << 40)
        }),
        checkpoint("a bit of the moments", &["step-", "checksum"], |path| {
            edit(&path.join("moments.safetensors"), |bytes| {
                *bytes.last_mut().unwrap() ^= 1
            })
        }),
        checkpoint("state and parameters swapped", &["parameters.safetensors"], |path| {
            let names = ["state.bin", "parameters.safetensors", "x"].map(|name| path.join(name));
            std::fs::rename(&names[0], &names[2]).unwrap();
            std::fs::rename(&names[1], &names[0]).unwrap();
            std::fs::rename(&names[2], &names[1]).unwrap();
        }),
        checkpoint("no checksum", &["xxh3"], |path| {
            std::fs::remove_file(path.join("xxh3")).unwrap()
        }),
        checkpoint("a checksum of a terabyte", &["xxh3", "more than"], |path| {
            sparse(&path.join("xxh3"), 1 << 40)
        }),
        checkpoint("a checksum of another", &["step-", "checksum"], |path| {
            std::fs::write(path.join("xxh3"), "0".repeat(32)).unwrap()
        }),
        checkpoint("is a file", &["step-"], |path| {
            std::fs::remove_dir_all(path).unwrap();
            std::fs::write(path, "").unwrap();
        }),
    ]
}

fn forgeries() -> Vec<Case> {
    vec![
        forged("another format", &["state.bin", "another version"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes[8] ^= 0x7f)
        }),
        forged("a text of 2^60 bytes", &["state.bin"], |path| {
            edit(&path.join("state.bin"), |bytes| {
                bytes[VERSION_LENGTH..VERSION_LENGTH + 8].copy_from_slice(&(1u64 << 60).to_le_bytes())
            })
        }),
        forged("a text of a GiB", &["state.bin"], |path| {
            edit(&path.join("state.bin"), |bytes| {
                bytes[VERSION_LENGTH..VERSION_LENGTH + 8].copy_from_slice(&(1u64 << 30).to_le_bytes())
            })
        }),
        forged("text that is not UTF-8", &["state.bin"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes[VERSION_LENGTH + 8] = 0xff)
        }),
        forged("cut off", &["state.bin"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes.truncate(bytes.len() - 9))
        }),
        forged("something behind the end", &["state.bin", "behind the end"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes.push(0))
        }),
        forged("lengths of 2^64 - 1 from a place on", &["state.bin"], |path| {
            edit(&path.join("state.bin"), |bytes| bytes[60..].fill(0xff))
        }),
        forged("no parameters", &["parameters.safetensors"], |path| {
            header_alone(&path.join("parameters.safetensors"), "{}      ")
        }),
        forged("no moments", &["moments.safetensors", "no moments of"], |path| {
            header_alone(&path.join("moments.safetensors"), "{}      ")
        }),
        forged(
            "moments of another name",
            &["moments.safetensors", "not a moment"],
            |path| rename(&path.join("moments.safetensors"), ".first_moment\"", ".first_morsel\""),
        ),
        forged(
            "moments that lack their second",
            &["moments.safetensors", "norm.weight.second_moment"],
            |path| {
                rename(
                    &path.join("moments.safetensors"),
                    "norm.weight.second_m",
                    "norm.weighs.second_m",
                )
            },
        ),
        forged(
            "moments of no bytes",
            &["moments.safetensors", "for another length"],
            |path| {
                let names = ["model.embed_tokens.weight", "model.norm.weight"];
                let entry = |name| {
                    format!(
                        r#""{name}.first_moment":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"{name}.second_moment":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#
                    )
                };
                let header = format!("{{{}}}", names.map(entry).join(","));
                header_alone(&path.join("moments.safetensors"), &header);
            },
        ),
        forged(
            "a parameter that is not a number",
            &["parameters.safetensors", "NaN"],
            |path| {
                edit(&path.join("parameters.safetensors"), |bytes| {
                    let end = bytes.len();
                    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                })
            },
        ),
    ]
}
