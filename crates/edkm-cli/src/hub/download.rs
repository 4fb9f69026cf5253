//! Downloads by the crate `hf-hub`, into the cache that all of Hugging Face's programs share.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use edkm_llama::checkpoint::{INDEX_FILE, MODEL_FILE};
use edkm_llama::config::CONFIG_FILE;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::name::HubName;
use crate::commands::Failure;
use crate::console::note;

/// The tokenizer that this program reads.
const TOKENIZER_FILE: &str = "tokenizer.json";

/// What tells how conversations are written and which tokens end a text, in most repositories.
const CONVERSATIONS_FILE: &str = "tokenizer_config.json";

/// Files that are fetched if the repository has them; weights and [`CONFIG_FILE`] beside them.
const SMALL_FILES: [&str; 7] = [
    TOKENIZER_FILE,
    CONVERSATIONS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Attempts of a download that breaks off.
const RETRIES: usize = 3;

/// The model's folder in the cache. What is there whole is used without a question to the network.
///
/// Other programs leave parts there: the weights and a tokenizer, say, without what tells how conversations are written. What is missing is asked for then, and
/// done without where there is no network.
pub(super) fn folder(name: &HubName) -> Result<PathBuf, Failure> {
    let repo = match &name.revision {
        None => Repo::model(name.repository.clone()),
        Some(revision) => Repo::with_revision(name.repository.clone(), RepoType::Model, revision.clone()),
    };
    let cached = whole(&Cache::from_env().repo(repo.clone()));
    match cached {
        Some(folder) if folder.join(CONVERSATIONS_FILE).exists() || absent_mark(&folder).exists() => Ok(folder),
        Some(folder) => downloaded(name, repo).or_else(|why| {
            note(format_args!(
                "{name} is used as the cache has it, without {CONVERSATIONS_FILE} and what may come with it (a chat template, tokens that end a text): {why}"
            ));
            Ok(folder)
        }),
        None => downloaded(name, repo),
    }
}

fn downloaded(name: &HubName, repo: Repo) -> Result<PathBuf, Failure> {
    let failed = |why: ApiError| -> Failure {
        format!(
            "cannot download {name}: {}; without a network, or for another model, give the path of a folder with {CONFIG_FILE}, \
             {TOKENIZER_FILE} and {MODEL_FILE} in its place",
            reason(&why)
        )
        .into()
    };
    let api = ApiBuilder::from_env()
        .with_progress(std::io::stderr().is_terminal())
        .with_retries(RETRIES)
        .build()
        .map_err(failed)?;
    let repo = api.repo(repo);
    note(format_args!("downloading {name}"));
    download(name, &repo, failed)
}

/// Fetches all files of the model, its configuration last: a folder that has one is whole.
fn download(name: &HubName, repo: &ApiRepo, failed: impl Fn(ApiError) -> Failure) -> Result<PathBuf, Failure> {
    let listed: Vec<String> = repo
        .info()
        .map_err(&failed)?
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let has = |file: &str| listed.iter().any(|listed| listed == file);
    let mut files: Vec<&str> = SMALL_FILES.into_iter().filter(|file| has(file)).collect();
    let mut shards = Vec::new();
    if has(MODEL_FILE) {
        files.push(MODEL_FILE);
    } else if has(INDEX_FILE) {
        let index = repo.get(INDEX_FILE).map_err(&failed)?;
        shards = shards_of(&index)?;
        // names that are no file's of the repository, and might be paths to somewhere else
        if let Some(shard) = shards.iter().find(|shard| !has(shard) || shard.contains(['/', '\\'])) {
            return Err(format!("{name}: {INDEX_FILE} names the shard {shard:?}, which is no file beside it").into());
        }
    } else {
        return Err(format!("{name} has no {MODEL_FILE} and no {INDEX_FILE}; only safetensors are read").into());
    }
    for file in files.into_iter().chain(shards.iter().map(String::as_str)) {
        repo.get(file).map_err(&failed)?;
    }
    let config = repo.get(CONFIG_FILE).map_err(&failed)?;
    let folder = folder_of(&config);
    if !has(CONVERSATIONS_FILE) {
        // if it cannot be written, the Hub is asked again
        let mark = absent_mark(&folder);
        let _ = std::fs::create_dir_all(folder_of(&mark)).and_then(|()| std::fs::write(mark, ""));
    }
    Ok(folder)
}

/// What huggingface_hub leaves beside the snapshots for a file that a commit has not.
fn absent_mark(snapshot: &Path) -> PathBuf {
    let commit = snapshot.file_name().unwrap_or_default();
    let repository = snapshot.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    repository.join(".no_exist").join(commit).join(CONVERSATIONS_FILE)
}

/// The folder of a snapshot that lacks nothing.
fn whole(cache: &CacheRepo) -> Option<PathBuf> {
    cache.get(TOKENIZER_FILE)?;
    if cache.get(MODEL_FILE).is_none() {
        let shards = shards_of(&cache.get(INDEX_FILE)?).ok()?;
        shards.iter().try_for_each(|shard| cache.get(shard).map(drop))?;
    }
    cache.get(CONFIG_FILE).map(|config| folder_of(&config))
}

/// The files that an index names, each once.
fn shards_of(index: &Path) -> Result<Vec<String>, Failure> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(|why| format!("cannot read {}: {why}", index.display()))?;
    let index: Index = serde_json::from_str(&text).map_err(|why| format!("{}: {why}", index.display()))?;
    let mut shards: Vec<String> = index.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    Ok(shards)
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).to_path_buf()
}

/// The library's message with what caused it.
fn reason(error: &ApiError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said += &format!(": {text}");
        }
        cause = error.source();
    }
    said
}
