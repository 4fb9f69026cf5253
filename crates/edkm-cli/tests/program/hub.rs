//! Models by name, from a Hub that runs in this test.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{assert_refused, edkm, json, Workshop};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves `OWNER/tiny` from a folder as the Hub does, one answer a connection.
struct Hub {
    endpoint: String,
    answers: Arc<AtomicUsize>,
    /// What was asked for.
    paths: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn serve(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(AtomicUsize::new(0));
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (counter, asked) = (answers.clone(), paths.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = answer(stream, &folder, &asked);
            }
        });
        Self {
            endpoint,
            answers,
            paths,
        }
    }
}

fn answer(stream: TcpStream, folder: &Path, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(path.clone());
    let (mut range, mut is_known) = (None, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        is_known |= line.trim().eq_ignore_ascii_case("authorization: bearer of-mine");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (first, last) = value.trim().split_once('-').unwrap();
            range = Some((first.parse::<usize>().unwrap(), last.parse::<usize>().ok()));
        }
    }
    let mut stream = reader.into_inner();
    if path.contains("OWNER/gated") && !is_known {
        return write!(
            stream,
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let path = path.replace("OWNER/gated", "OWNER/tiny");
    let body = if path.starts_with("/api/models/OWNER/tiny") {
        let names: Vec<String> = folder
            .read_dir()?
            .flatten()
            .map(|file| format!("{{\"rfilename\": {:?}}}", file.file_name().to_str().unwrap()))
            .collect();
        let commit = if path.contains("OWNER/tiny-odd") {
            "../../odd"
        } else {
            COMMIT
        };
        Some(format!("{{\"sha\": \"{commit}\", \"siblings\": [{}]}}", names.join(", ")).into_bytes())
    } else {
        let file = path.strip_prefix("/OWNER/tiny/resolve/");
        let file = file.and_then(|file| file.split_once('/')).map(|(_, file)| file);
        file.and_then(|file| std::fs::read(folder.join(file)).ok())
    };
    let Some(body) = body else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    let (first, last) = range.map_or((0, None), |range| range);
    let last = last.unwrap_or(body.len() - 1).min(body.len() - 1);
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\nETag: \"{:x}\"\r\n\
         X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        last + 1 - first,
        body.len(),
        path.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()))
    )?;
    stream.write_all(&body[first..=last])
}

/// `edkm generate NAME`, with a cache and a Hub of its own.
fn generate(shop: &Workshop, name: &str, endpoint: &str) -> Output {
    generate_with(shop, name, endpoint, &[])
}

/// The same with environment variables.
fn generate_with(shop: &Workshop, name: &str, endpoint: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = edkm();
    command.env("HF_HOME", shop.path("cache")).env("HF_ENDPOINT", endpoint);
    command.envs(variables.iter().copied());
    for variable in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        if !variables.iter().any(|(given, _)| *given == variable) {
            command.env_remove(variable);
        }
    }
    for proxy in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(proxy);
    }
    command.arg("generate").arg(name);
    command.args(["--prompt", "Once upon", "--tokens", "5", "--temperature", "0", "--json"]);
    command.output().unwrap()
}

#[test]
fn a_model_is_downloaded_once_and_then_used_without_a_network() {
    let shop = Workshop::new();
    // wine 8 says that it has made a link and has not, and the cache is made of links
    #[cfg(windows)]
    {
        let link = shop.path("link");
        if std::os::windows::fs::symlink_file(shop.config(), &link).is_ok() && !link.exists() {
            edkm_testkit::skipped("links are not made here");
            return;
        }
    }
    let hub = Hub::serve(shop.model());
    let first = json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    assert!(hub.answers.load(Ordering::Relaxed) > 4);
    let asked = hub.answers.load(Ordering::Relaxed);
    let again = json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    assert_eq!(hub.answers.load(Ordering::Relaxed), asked, "the cache is used");
    assert_eq!(first["text"], again["text"]);
    let local = json(&generate(&shop, shop.model().to_str().unwrap(), &hub.endpoint));
    assert_eq!(first["text"], local["text"]);
    // nobody listens there
    assert_eq!(
        json(&generate(&shop, "hf:OWNER/tiny", "http://127.0.0.1:9"))["text"],
        local["text"]
    );

    // another program has fetched parts
    let snapshot = shop
        .path("cache")
        .join("hub/models--OWNER--tiny/snapshots")
        .join(COMMIT);
    let kept = snapshot.join("tokenizer_config.json");
    let mark = shop
        .path("cache")
        .join("hub/models--OWNER--tiny/.no_exist")
        .join(COMMIT)
        .join("tokenizer_config.json");
    let _ = std::fs::remove_file(&mark);
    let there = shop.model().join("tokenizer_config.json");
    if !there.exists() {
        std::fs::write(&there, "{}").unwrap();
    }
    let _ = std::fs::remove_file(&kept);
    let without = generate(&shop, "hf:OWNER/tiny", "http://127.0.0.1:9");
    assert!(String::from_utf8_lossy(&without.stderr)
        .contains("used as the cache has it, without tokenizer_config.json and what"));
    let offline = generate_with(&shop, "hf:OWNER/tiny", &hub.endpoint, &[("HF_HUB_OFFLINE", "1")]);
    assert!(String::from_utf8_lossy(&offline.stderr).contains("HF_HUB_OFFLINE says to use no network"));
    assert_eq!(json(&offline)["text"], local["text"]);
    // a commit by its name, which no branch or tag needs to be at
    let commit = format!("hf:OWNER/tiny@{COMMIT}");
    assert_eq!(
        json(&generate(&shop, &commit, "http://127.0.0.1:9"))["text"],
        local["text"]
    );
    assert_eq!(json(&without)["text"], local["text"]);
    json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    assert!(kept.exists(), "it was asked for");
    // what the Hub has not either is asked for once
    std::fs::remove_file(&kept).unwrap();
    std::fs::remove_file(&there).unwrap();
    json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    assert!(mark.exists());
    let asked = hub.answers.load(Ordering::Relaxed);
    json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    assert_eq!(hub.answers.load(Ordering::Relaxed), asked);
}

#[test]
fn what_the_hub_does_not_give_is_said_with_the_way_out() {
    let shop = Workshop::new();
    let output = generate(&shop, "hf:OWNER/tiny", "http://127.0.0.1:9");
    assert_refused(
        &output,
        &[
            "cannot download hf:OWNER/tiny",
            "without a network",
            "give the path of a folder",
        ],
        &shop.out(),
    );
    let hub = Hub::serve(shop.model());
    assert_refused(
        &generate(&shop, "hf:OWNER/other", &hub.endpoint),
        &["hf:OWNER/other", "404"],
        &shop.out(),
    );
    std::fs::remove_file(shop.weights()).unwrap();
    assert_refused(
        &generate(&shop, "hf:OWNER/tiny", &hub.endpoint),
        &["hf:OWNER/tiny has no model.safetensors"],
        &shop.out(),
    );
    assert_refused(
        &generate(&shop, "hf:OWNER/tiny-odd", &hub.endpoint),
        &["\"../../odd\" is no commit"],
        &shop.out(),
    );
    assert_refused(
        &generate(&shop, "hf:../tiny", &hub.endpoint),
        &["hf:OWNER/NAME"],
        &shop.out(),
    );
}

#[test]
fn a_gated_model_takes_a_token() {
    let shop = Workshop::new();
    let hub = Hub::serve(shop.model());
    let name = "hf:OWNER/gated@refs/pr/1";
    let refused = [&[][..], &[("HF_TOKEN", "of-another")]];
    for (variables, advice) in refused
        .into_iter()
        .zip(["HF_TOKEN, or by `hf auth login`", "the account of the token"])
    {
        let output = generate_with(&shop, name, &hub.endpoint, variables);
        assert_refused(
            &output,
            &["cannot download hf:OWNER/gated@refs/pr/1", "401", advice],
            &shop.out(),
        );
    }
    json(&generate_with(&shop, name, &hub.endpoint, &[("HF_TOKEN", "of-mine")]));
}

/// What makes a model unfit is said before its weights are fetched, which may be many gigabytes.
#[test]
fn weights_of_a_model_that_cannot_be_used_are_not_fetched() {
    let shop = Workshop::new();
    let hub = Hub::serve(shop.model());
    let config = std::fs::read_to_string(shop.config()).unwrap();
    std::fs::write(
        shop.config(),
        config.replacen('{', "{\"quantization_config\": {\"quant_method\": \"gptq\"},", 1),
    )
    .unwrap();
    assert_refused(
        &generate(&shop, "hf:OWNER/tiny", &hub.endpoint),
        &["quantization_config"],
        &shop.out(),
    );
    let snapshot = shop
        .path("cache")
        .join("hub/models--OWNER--tiny/snapshots")
        .join(COMMIT);
    assert!(snapshot.join("config.json").exists() && !snapshot.join("model.safetensors").exists());
    std::fs::write(shop.config(), config).unwrap();
    // the files of a commit do not change otherwise
    std::fs::remove_dir_all(shop.path("cache")).unwrap();
    std::fs::remove_file(shop.model().join("tokenizer.json")).unwrap();
    assert_refused(
        &generate(&shop, "hf:OWNER/tiny", &hub.endpoint),
        &["tokenizer.json", "there is no such file"],
        &shop.out(),
    );
}

/// A file that the cache lacks is asked for of the commit that is there, though the branch has moved.
#[test]
fn what_is_there_stays_what_it_is() {
    let shop = Workshop::new();
    let hub = Hub::serve(shop.model());
    json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    let repository = shop.path("cache").join("hub/models--OWNER--tiny");
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::remove_file(repository.join(".no_exist").join(COMMIT).join("chat_template.jinja")).unwrap();
    let refs = || {
        let mut refs: Vec<_> = repository
            .join("refs")
            .read_dir()
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        refs.sort();
        refs
    };
    assert_eq!(refs(), ["main"]);
    let weights = std::fs::metadata(snapshot.join("model.safetensors"))
        .unwrap()
        .modified()
        .unwrap();
    let asked = hub.answers.load(Ordering::Relaxed);
    json(&generate(&shop, "hf:OWNER/tiny", &hub.endpoint));
    // what there is, and no file
    assert_eq!(hub.answers.load(Ordering::Relaxed), asked + 1);
    assert!(
        std::fs::metadata(snapshot.join("model.safetensors"))
            .unwrap()
            .modified()
            .unwrap()
            == weights
    );
    assert_eq!(refs(), ["main"]);
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
}

/// Puts every other tensor of the weights into a file of its own, with an index, as large models come.
fn shard(shop: &Workshop) -> PathBuf {
    let file = std::fs::read(shop.weights()).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let names: Vec<&str> = tensors.names().into_iter().collect();
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let here = names.iter().skip(shard).step_by(2);
        let views = here.map(|tensor| (tensor.to_string(), tensors.tensor(tensor).unwrap()));
        let views: Vec<_> = views.collect();
        map.extend(views.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(shop.model().join(name), bytes).unwrap();
    }
    std::fs::remove_file(shop.weights()).unwrap();
    let index = shop.model().join("model.safetensors.index.json");
    let text = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(&index, text).unwrap();
    index
}

#[test]
fn a_model_in_shards_comes_whole_and_of_the_revision_that_is_named() {
    let shop = Workshop::new();
    let whole = json(&generate(&shop, shop.model().to_str().unwrap(), "http://127.0.0.1:9"));
    let index = shard(&shop);
    let hub = Hub::serve(shop.model());
    let name = "hf:OWNER/tiny@v1.0";
    let first = json(&generate(&shop, name, &hub.endpoint));
    assert_eq!(first["text"], whole["text"]);
    let asked = hub.paths.lock().unwrap().clone();
    assert!(asked[0].ends_with("/revision/v1.0"), "{asked:?}");
    let (files, others): (Vec<&String>, Vec<&String>) = asked[1..].iter().partition(|path| path.contains("/resolve/"));
    assert!(
        others.is_empty() && files.iter().all(|path| path.contains(COMMIT)),
        "{asked:?}"
    );
    assert_eq!(
        json(&generate(&shop, name, "http://127.0.0.1:9"))["text"],
        whole["text"]
    );
    // a shard that another program has not fetched is
    let repository = shop.path("cache").join("hub/models--OWNER--tiny");
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::remove_file(snapshot.join("model-00002-of-00002.safetensors")).unwrap();
    let before = hub.paths.lock().unwrap().len();
    assert_eq!(json(&generate(&shop, name, &hub.endpoint))["text"], whole["text"]);
    let asked = hub.paths.lock().unwrap()[before..].to_vec();
    assert!(
        asked
            .iter()
            .any(|path| path.ends_with("model-00002-of-00002.safetensors")),
        "{asked:?}"
    );
    assert!(
        !asked
            .iter()
            .any(|path| path.ends_with("model-00001-of-00002.safetensors")),
        "{asked:?}"
    );

    // the index of a stranger leads nowhere else
    std::fs::remove_dir_all(shop.path("cache")).unwrap();
    let text = std::fs::read_to_string(&index).unwrap();
    for outside in ["../../../outside.safetensors", "model-00003-of-00002.safetensors"] {
        std::fs::write(&index, text.replace("model-00002-of-00002.safetensors", outside)).unwrap();
        let _ = std::fs::remove_dir_all(shop.path("cache"));
        assert_refused(
            &generate(&shop, name, &hub.endpoint),
            &[name, "names the shard", outside, "no file beside it"],
            &shop.out(),
        );
        assert!(!snapshot.join("model-00001-of-00002.safetensors").exists());
    }
}
