//! Downloads by the crate `hf-hub`, into the cache that all of Hugging Face's programs share.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use edkm_llama::checkpoint::{INDEX_FILE, MODEL_FILE};
use edkm_llama::config::{LlamaConfig, CONFIG_FILE};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::environment::Environment;
use super::name::HubName;
use crate::commands::Failure;
use crate::console::note;

/// What tells how text becomes tokens, how conversations are written and which tokens end a text, where a repository has it. A cache that another program filled may
/// lack it. Without a tokenizer a model can be compressed, inspected and exported.
const COMPANIONS: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Files that go with the result where the repository has them, for programs that convert it.
const OTHERS: [&str; 6] = [
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Attempts of a download that breaks off.
const RETRIES: usize = 3;

/// The model's folder in the cache. What is there whole is used without a question to the network.
///
/// Other programs leave parts there: the weights and a tokenizer, say, without what tells how conversations are written. What is missing is asked for then, and
/// done without where there is no network.
pub(super) fn folder(name: &HubName) -> Result<PathBuf, Failure> {
    let environment = Environment::of_process();
    let repo = match &name.revision {
        None => Repo::model(name.repository.clone()),
        Some(revision) => Repo::with_revision(name.repository.clone(), RepoType::Model, revision.clone()),
    };
    let cached = snapshot(&environment.cache, &repo).filter(|folder| is_whole(folder));
    let Some(folder) = cached else {
        return downloaded(name, environment, repo);
    };
    let is_unknown = |file: &&str| !folder.join(file).exists() && !absent_mark(&folder, file).exists();
    let missing: Vec<&str> = COMPANIONS.into_iter().filter(is_unknown).collect();
    // most repositories have no template of its own file: who wants no network need not hear of it each time
    let lacks_tokenizer = missing.iter().any(|file| file.starts_with("tokenizer"));
    if missing.is_empty() || environment.is_offline && !lacks_tokenizer {
        return Ok(folder);
    }
    // of the commit that is there, wherever its branch is by now
    let commit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let there = Repo::with_revision(name.repository.clone(), RepoType::Model, commit);
    downloaded(name, environment, there).or_else(|why| {
        note(format_args!(
            "{name} is used as the cache has it, without {} and what may come with it (a chat template, tokens that end a text): {why}",
            missing.join(", ")
        ));
        Ok(folder)
    })
}

fn downloaded(name: &HubName, environment: Environment, repo: Repo) -> Result<PathBuf, Failure> {
    let Environment {
        cache,
        token,
        is_offline,
    } = environment;
    if is_offline {
        return Err(format!(
            "{name} is not whole in {}, and HF_HUB_OFFLINE says to use no network; give the path of a folder in its place",
            cache.path().display()
        )
        .into());
    }
    let has_token = token.is_some();
    let failed = |why: ApiError| -> Failure {
        let reason = reason(&why);
        let is_refused = ["status: 401", "status: 403"]
            .iter()
            .any(|status| reason.contains(status));
        let what_to_do = match (is_refused, has_token) {
            (false, _) => format!(
                "without a network, or for another model, give the path of a folder with {CONFIG_FILE}, {} and {MODEL_FILE} in its place",
                COMPANIONS[0]
            ),
            (true, false) => "there is no such model, or it is given only to who is known: accept its licence on its page, and give a token of yours in HF_TOKEN, or by `hf auth login`".to_owned(),
            (true, true) => "the token that is used has no access to it, or there is no such model: accept its licence on its page, with the account of the token".to_owned(),
        };
        format!("cannot download {name}: {reason}; {what_to_do}").into()
    };
    let mut api = ApiBuilder::from_cache(cache.clone())
        .with_token(token)
        .with_progress(std::io::stderr().is_terminal())
        .with_retries(RETRIES);
    if let Some(endpoint) = std::env::var("HF_ENDPOINT")
        .ok()
        .filter(|endpoint| !endpoint.is_empty())
    {
        api = api.with_endpoint(endpoint);
    }
    let api = api.build().map_err(failed)?;
    note(format_args!("downloading {name}"));
    let info = api.repo(repo.clone()).info().map_err(failed)?;
    // it becomes the name of a folder
    if info.sha.is_empty() || !info.sha.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return Err(format!(
            "{name}: {:?} is no commit, and the Hub says that the model is at it",
            info.sha
        )
        .into());
    }
    // all files are of this commit, though a branch may move meanwhile
    let pinned = Repo::with_revision(name.repository.clone(), RepoType::Model, info.sha.clone());
    let commit = Commit {
        folder: cache.path().join(repo.folder_name()).join("snapshots").join(&info.sha),
        files: info.siblings.into_iter().map(|file| file.rfilename).collect(),
        repo: api.repo(pinned),
    };
    commit.download(name, &failed)?;
    let refs = cache.path().join(repo.folder_name()).join("refs");
    if repo.revision() != info.sha {
        // the branch is there, now that all of it is
        let written = cache.repo(repo).create_ref(&info.sha);
        written.map_err(|why| format!("cannot write into {}: {why}", refs.display()))?;
    }
    if name.revision.as_ref() != Some(&info.sha) {
        // what the downloads left, which no other program does
        let _ = std::fs::remove_file(refs.join(&info.sha));
    }
    Ok(commit.folder)
}

/// A commit of a repository.
struct Commit {
    /// Where the cache has it.
    folder: PathBuf,
    files: Vec<String>,
    repo: ApiRepo,
}

impl Commit {
    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|listed| listed == file)
    }

    fn fetch(&self, file: &str) -> Result<(), ApiError> {
        match self.folder.join(file).exists() {
            true => Ok(()),
            false => self.repo.download(file).map(drop),
        }
    }

    /// Fetches what the cache lacks of the model, its configuration first: a model that cannot be used is refused before its weights are fetched.
    fn download(&self, name: &HubName, failed: &impl Fn(ApiError) -> Failure) -> Result<(), Failure> {
        let lacks = match (self.has(CONFIG_FILE), self.has(MODEL_FILE) || self.has(INDEX_FILE)) {
            (_, false) if self.has("adapter_config.json") => {
                "is an adapter (LoRA), not a model: merge it into its model first (merge_and_unload in PEFT)".to_owned()
            }
            (_, false) => format!("has no {MODEL_FILE} and no {INDEX_FILE}; only safetensors are read"),
            (false, true) => format!("has no {CONFIG_FILE}"),
            (true, true) => String::new(),
        };
        if !lacks.is_empty() {
            return Err(format!("{name} {lacks}").into());
        }
        self.fetch(CONFIG_FILE).map_err(failed)?;
        LlamaConfig::read(&self.folder)?;
        for file in COMPANIONS.into_iter().chain(OTHERS).filter(|file| self.has(file)) {
            self.fetch(file).map_err(failed)?;
        }
        for file in COMPANIONS.into_iter().filter(|file| !self.has(file)) {
            // if it cannot be written, the Hub is asked again
            let mark = absent_mark(&self.folder, file);
            let _ = std::fs::create_dir_all(folder_of(&mark)).and_then(|()| std::fs::write(mark, ""));
        }
        if self.has(MODEL_FILE) {
            return self.fetch(MODEL_FILE).map_err(failed);
        }
        self.fetch(INDEX_FILE).map_err(failed)?;
        let shards = shards_of(&self.folder.join(INDEX_FILE))?;
        // names that are no file's of the repository, and might be paths to somewhere else
        if let Some(shard) = shards
            .iter()
            .find(|shard| !self.has(shard) || shard.contains(['/', '\\']))
        {
            return Err(format!("{name}: {INDEX_FILE} names the shard {shard:?}, which is no file beside it").into());
        }
        shards.iter().try_for_each(|shard| self.fetch(shard)).map_err(failed)
    }
}

/// What huggingface_hub leaves beside the snapshots for a file that a commit has not.
fn absent_mark(snapshot: &Path, file: &str) -> PathBuf {
    let commit = snapshot.file_name().unwrap_or_default();
    let repository = snapshot.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    repository.join(".no_exist").join(commit).join(file)
}

/// Where the cache has what is known of a revision, if it is: the commit that a branch or tag was at, or the commit itself.
fn snapshot(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let folder = cache.path().join(repo.folder_name());
    let revision = repo.revision();
    let commit = std::fs::read_to_string(folder.join("refs").join(revision));
    let is_commit = revision.len() == 40 && revision.bytes().all(|digit| digit.is_ascii_hexdigit());
    let commit = commit.ok().or_else(|| is_commit.then(|| revision.to_owned()))?;
    Some(folder.join("snapshots").join(commit.trim()))
}

/// Whether a snapshot lacks nothing without which there is no model.
fn is_whole(snapshot: &Path) -> bool {
    let has = |file: &str| snapshot.join(file).exists();
    let has_weights = || {
        has(MODEL_FILE)
            || shards_of(&snapshot.join(INDEX_FILE)).is_ok_and(|shards| shards.iter().all(|shard| has(shard)))
    };
    has(CONFIG_FILE) && has_weights()
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
