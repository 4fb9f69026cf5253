//! What can go wrong before, in and after a run. Every message names the file, record or setting at fault.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use dfdx_edkm::optim::StepError;

use crate::data::records::Place;
use crate::memory::bytes_in_words;
use crate::run::checkpoint::run_folder;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model's folder or one of its files.
    #[error(transparent)]
    Llama(#[from] edkm_llama::LlamaError),
    /// A loss that is NaN or infinite.
    #[error("step {}: the loss is {loss}; {}; lower the learning rate, or look at the data of this step", *step + 1, first(tensor.as_deref()))]
    LossNotFinite {
        /// The step, from 0. The message counts from 1, as what is shown of a run does.
        step: u64,
        /// The loss.
        loss: f64,
        /// The first tensor that is not finite, if it was found.
        tensor: Option<String>,
    },
    /// A loss or gradient that was not finite, and the run ends with it.
    #[error("{source}; {what}")]
    NonFinite {
        /// What was done about it before, or could be done.
        what: String,
        /// The last one.
        source: Box<TrainError>,
    },
    /// An op or the store failed.
    #[error("step {}: {source}", *step + 1)]
    Step {
        /// The step, from 0. The message counts from 1, as what is shown of a run does.
        step: u64,
        /// What failed.
        source: dfdx_edkm::EdkmError,
    },
    /// The optimizer could not make its step.
    #[error("step {}: {source}{}", *step + 1, advice(source))]
    Update {
        /// The step, from 0. The message counts from 1, as what is shown of a run does.
        step: u64,
        /// What failed.
        source: StepError,
    },
    /// A matrix that cannot be clustered as it was asked.
    #[error(transparent)]
    Clustering {
        /// What the clustering says.
        source: edkm_cluster::ClusterError,
    },
    /// Work that would need more memory than there is.
    #[error("{what} needs {} of memory, and {} are free; make it smaller", bytes_in_words(*needed), bytes_in_words(*available))]
    Memory {
        /// What would be done.
        what: &'static str,
        /// Bytes that it would need.
        needed: u64,
        /// Bytes that a process can take now.
        available: u64,
    },
    /// A run that would need more than there is.
    #[error(
        "the run needs about {} of {what}, and {} are there; give {lower}, or begin all the same with --ignore-limits",
        bytes_in_words(*needed),
        bytes_in_words(*available)
    )]
    NotEnough {
        /// `memory` or `disk`.
        what: &'static str,
        /// Bytes that it would need.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// What can be lowered.
        lower: String,
    },
    /// A method that looks at text was given none.
    #[error("{method} needs calibration text; name it with --data FILE (.txt, .json or .jsonl)")]
    NoCalibration {
        /// The method.
        method: &'static str,
    },
    /// A file of layer rules that is not one.
    #[error("{}: {reason}", path.display())]
    Layers {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line and the key.
        reason: String,
    },
    /// A layer rule that applies to nothing.
    #[error("the pattern `{pattern}` matches no weight matrix of the model; names are such as {example}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// A name that there is.
        example: String,
    },
    /// A budget of bits that the smallest widths exceed.
    #[error("a budget of {budget} bits a weight is below {least:.3}, the least that the layers take; give more, or larger groups")]
    Budget {
        /// What was asked for.
        budget: f64,
        /// Bits a weight of the smallest widths.
        least: f64,
    },
    /// A layer could not be rounded by GPTQ.
    #[error("{name}: {source}")]
    Gptq {
        /// The parameter.
        name: String,
        /// What is wrong.
        source: crate::compress::gptq::GptqError,
    },
    /// The device failed outside a step.
    #[error("the device failed: {reason}")]
    Device {
        /// The device's message.
        reason: String,
    },
    /// The storage backend could not be set up.
    #[error(transparent)]
    Store(#[from] edkm_store::StoreError),
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own answer.
        source: std::io::Error,
    },
    /// A path that has to be a file is a folder or a device.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A document or a record of a data file is larger than what is read.
    #[error("{}: {what} takes more than {} MiB, the most that is read at once; {advice}", path.display(), limit >> 20)]
    LargeDocument {
        /// The file.
        path: PathBuf,
        /// The document, with its place.
        what: String,
        /// The limit in bytes.
        limit: u64,
        /// What can be done.
        advice: &'static str,
    },
    /// A file, or one piece of it, is larger than what is read.
    #[error("{}: {what} takes more than {limit} bytes, the most that is read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The piece, with its place: "the file", "the document at byte 17".
        what: String,
        /// The limit in bytes.
        limit: u64,
    },

    /// `tokenizer.json` cannot be used, or text could not be encoded or decoded with it.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A chat template that cannot be used.
    #[error("{}: the chat template: {reason}", path.display())]
    Template {
        /// The file that it is in.
        path: PathBuf,
        /// What is wrong with it, or what it says of the conversation.
        reason: String,
    },
    /// A conversation that cannot be written.
    #[error("{reason}")]
    Conversation {
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer makes tokens for which the model has no embedding row.
    #[error("{}: the tokenizer has token {token} but the model's vocabulary has {model_rows} rows; they do not belong together", path.display())]
    Vocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The largest token of the tokenizer.
        token: u32,
        /// Rows of the model's embedding.
        model_rows: usize,
    },

    /// A data file with an ending that names no known format.
    #[error("{}: unknown kind of data file; expected .txt (documents split at blank lines), .json or .jsonl (records)", path.display())]
    UnknownDataFormat {
        /// The file.
        path: PathBuf,
    },
    /// A folder that was named as data has none.
    #[error("{}: a folder with no .txt, .json or .jsonl files in it", folder.display())]
    NoDataFiles {
        /// The folder.
        folder: PathBuf,
    },
    /// Text that is read more than once comes through a pipe.
    #[error("{}: a pipe, which can be read but once; {what} reads the text more often: write it to a file", path.display())]
    ReadOnce {
        /// The pipe.
        path: PathBuf,
        /// What reads it.
        what: &'static str,
    },
    /// A data file has bytes that are not UTF-8.
    #[error("{}: not UTF-8 at byte {offset}; save it as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is not part of UTF-8 text.
        offset: u64,
    },
    /// A record of a JSON data file that cannot be used.
    #[error("{}: {place}: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Where it stands.
        place: Place,
        /// What is wrong, with the key it concerns.
        reason: String,
    },
    /// A file of a task is not what it should be.
    #[error("{}: {reason}", path.display())]
    TaskFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of a task's file cannot be read.
    #[error("{}: line {line}: {reason}", path.display())]
    TaskLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A field of a task's record is missing or not what it should be.
    #[error("{}: line {line}: \"{field}\" {reason}", path.display())]
    TaskField {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The data files hold no document and no record.
    #[error("{}", no_text(paths))]
    EmptyData {
        /// The files; none, where none were given.
        paths: Vec<PathBuf>,
    },
    /// The data are shorter than one window.
    #[error("{text} has {tokens} tokens but one window takes {window} (the sequence and the token after it); give more text or a shorter sequence")]
    TooFewTokens {
        /// Which text, and its files.
        text: String,
        /// Tokens that there are.
        tokens: usize,
        /// Tokens that one window takes.
        window: usize,
    },
    /// No token of the data counts in the loss.
    #[error(
        "none of the data's {tokens} tokens counts in the loss: every window holds prompts only; use a longer sequence"
    )]
    NothingToLearn {
        /// Tokens that there are.
        tokens: usize,
    },
    /// A setting is outside its range.
    #[error("{setting} is {value}; expected {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The run was asked to stop, and can go on.
    #[error("stopped after {step} of {steps} steps; {} has what it needs to go on", run_folder(out).display())]
    Interrupted {
        /// Steps that are done.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// The folder that the run will write.
        out: PathBuf,
    },
    /// A run that ended by itself, and can go on or be finished.
    #[error("{source}; {step} of {steps} steps are kept in {}", run_folder(out).display())]
    Ended {
        /// Steps of its newest checkpoint.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// The folder that the run will write.
        out: PathBuf,
        /// Why it ended.
        source: Box<TrainError>,
    },
    /// The work was asked to stop before there was anything to go on from.
    #[error("stopped; nothing was written")]
    Stopped,
    /// A comparison was asked to stop, and can go on.
    #[error("stopped; runs that are done are in {}; go on with the same command and --out {}", out.display(), out.display())]
    ComparisonInterrupted {
        /// The comparison's folder.
        out: PathBuf,
    },
    /// A folder that holds something else than runs of this comparison.
    #[error("{} does not hold runs of this comparison: {difference}; name another folder with --out, or give --overwrite", out.display())]
    OtherComparison {
        /// The folder.
        out: PathBuf,
        /// What is not the same.
        difference: String,
    },
    /// A run that was not finished would be lost. [`Start::Resume`](crate::run::checkpoint::Start::Resume) goes on with it, [`Overwrite::Replace`](edkm_llama::checkpoint::Overwrite::Replace) replaces it.
    #[error("{} holds what a run has trained that was not finished, which would be lost", folder.display())]
    Unfinished {
        /// The folder of the run.
        folder: PathBuf,
        /// The folder that the run will write.
        out: PathBuf,
    },
    /// The folder in which a run would be kept holds something else.
    #[error("{} holds {found}, which is of no run; a run is kept there until OUT is whole: move it away, or name another --out", folder.display())]
    ForeignRunFolder {
        /// The folder.
        folder: PathBuf,
        /// The name of something in it.
        found: String,
    },
    /// Another process works on the same run.
    #[error("another process is working on {}; wait for it, stop it first, or name another --out", folder.display())]
    Running {
        /// The folder of the run.
        folder: PathBuf,
    },
    /// There is no run to resume.
    #[error("there is no run to go on with: {} is not there; name the OUT that the run was to write", folder.display())]
    NoRun {
        /// The folder where it would be.
        folder: PathBuf,
    },
    /// A model that is trained, and could not be put in its place whole.
    #[error("{source}; the trained model is kept in {}, where it can be used; what is missing is what should have come after this", kept.display())]
    KeptBeside {
        /// The folder with its weights.
        kept: PathBuf,
        /// What failed.
        source: Box<TrainError>,
    },
    /// There is nothing to resume from.
    #[error("{}: no checkpoint that can be used{}; begin anew with --overwrite (--checkpoint-every writes some on the way)", folder.display(), reasons(damaged))]
    NoCheckpoint {
        /// The folder of the run.
        folder: PathBuf,
        /// What was wrong with each that is there.
        damaged: Vec<String>,
    },
    /// A run checkpoint is torn or altered.
    #[error("{}: {reason}", path.display())]
    RunCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model or the validation text is not the one that the run began with.
    #[error("the {what} is not the one that this run began with; put it back, say where it lies by now (MODEL_DIR, --data, --valid, --teacher), or begin anew with --overwrite")]
    Changed {
        /// What changed.
        what: &'static str,
    },
    /// A model that another one cannot learn from.
    #[error("{} cannot be learned from: {reason}", folder.display())]
    Teacher {
        /// Its folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// A run that is to go on in another way than it began.
    #[error(
        "the run began with {setting} {began}, and is to go on with {now}: it goes on as it began, or is begun anew"
    )]
    OtherSettings {
        /// The setting.
        setting: String,
        /// As the run began.
        began: String,
        /// As it was to go on.
        now: String,
    },
    /// A saved data position belongs to other data or another window length.
    #[error("the saved data position does not fit: its {what} is {saved}, that of this run {current}; resume with the same data files and settings")]
    Position {
        /// What differs.
        what: &'static str,
        /// As saved.
        saved: u64,
        /// As it is now.
        current: u64,
    },
}

impl TrainError {
    /// Whether it is a loss or a gradient that is not finite.
    pub fn is_non_finite(&self) -> bool {
        match self {
            Self::LossNotFinite { .. } => true,
            Self::Update { source, .. } => matches!(source, StepError::NotFinite { .. }),
            _ => false,
        }
    }

    /// Whether it is that there is no room on a disk, or that a file may not grow further.
    pub fn is_full(&self) -> bool {
        self.of_system().is_some_and(|source| {
            matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
            )
        })
    }

    /// What the system said of a file or a folder, if it is that: it may say otherwise when it is asked once more.
    pub fn of_system(&self) -> Option<&std::io::Error> {
        match self {
            Self::Io { source, .. } | Self::Llama(edkm_llama::LlamaError::Io { source, .. }) => Some(source),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

fn advice(source: &StepError) -> &'static str {
    match source {
        StepError::NotFinite { .. } => "; lower the learning rate",
        _ => "",
    }
}

fn first(tensor: Option<&str>) -> String {
    match tensor {
        Some(tensor) => format!("the first tensor that is not finite is {tensor}"),
        None => "every tensor up to the output projection is finite, so it is the logits or the loss".to_owned(),
    }
}

fn reasons(damaged: &[String]) -> String {
    damaged.iter().map(|reason| format!("; {reason}")).collect()
}

fn no_text(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    match names.is_empty() {
        true => "no data file was given; name at least one (.txt, .json or .jsonl)".to_owned(),
        false => format!("no text in {}", names.join(", ")),
    }
}
