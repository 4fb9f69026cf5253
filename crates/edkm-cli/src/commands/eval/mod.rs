//! `edkm eval`

mod figures;
mod samples;

use std::path::{Path, PathBuf};

use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::config::LlamaConfig;
use edkm_llama::inference::InferenceModel;
use edkm_train::data::windows::check_length;
use edkm_train::data::{data_files, Apart, DataFormat, TokenStream};
use edkm_train::evaluate::packed_perplexity;
use edkm_train::run::count;
use edkm_train::tasks::{self, Answered, Question, Scores, Task, TaskSet};
use edkm_train::Tokenizer;

use self::figures::{show, Difference, Measured, Measures, Subject};
use self::samples::Samples;
use super::Failure;
use crate::args::{DeviceArgs, EvalArgs, TaskRequest};
use crate::console::{note, Output};
use crate::hub;
use crate::progress::Counter;
use crate::written_over::Written;

/// A model that is measured.
struct Candidate {
    name: String,
    model: InferenceModel,
    tokenizer: Tokenizer,
}

/// What is read once, for all models.
enum Prepared {
    Text,
    Choice(Task, TaskSet),
}

pub fn run(args: EvalArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    args.device.check_inference()?;
    check(&args)?;
    if let Some(path) = &args.log_samples {
        let models = std::iter::once(&args.model_dir).chain(&args.compare);
        let models = models.map(PathBuf::as_path);
        let inputs: Vec<&Path> = models.chain(args.tasks.0.iter().flat_map(TaskRequest::files)).collect();
        Written::Samples.check(path, &inputs)?;
    }
    // all files and the heads of all models before anything is measured: what is wrong with one shows at once
    let prepared = args
        .tasks
        .0
        .iter()
        .map(|request| prepare(request, &args))
        .collect::<Result<Vec<_>, Failure>>()?;
    let folders: Vec<&PathBuf> = std::iter::once(&args.model_dir).chain(&args.compare).collect();
    folders.iter().try_for_each(|dir| check_model(dir, &args))?;
    let mut samples = match &args.log_samples {
        Some(path) => Some(Samples::create(path)?),
        None => None,
    };
    let mut results = Vec::new();
    // the first model's name, and its answers to each request
    let mut first: Option<(String, Vec<Vec<Answered>>)> = None;
    let all = folders.len() * prepared.len();
    for dir in folders {
        let candidate = Candidate::open(dir, args.device)?;
        let mut answers = Vec::with_capacity(prepared.len());
        for (number, (request, prepared)) in args.tasks.0.iter().zip(&prepared).enumerate() {
            let (measures, answered) = match prepared {
                Prepared::Text => (candidate.perplexity(request, &args)?, Vec::new()),
                Prepared::Choice(task, set) => {
                    let counter = Counter::new(&format!("{} {}", candidate.name, task.name()), set.questions().len());
                    let answered =
                        tasks::evaluate(&candidate.model, &candidate.tokenizer, set, |done| counter.set(done))?;
                    drop(counter);
                    if let Some(samples) = &mut samples {
                        samples.write(&candidate.name, (*task, &request.data), set, &answered)?;
                    }
                    let from = first
                        .as_ref()
                        .map(|(name, answers)| (name.as_str(), &answers[number][..]));
                    (choice(*task, &args, set, &answered, from), answered)
                }
            };
            answers.push(answered);
            results.push(Measured {
                model: candidate.name.clone(),
                weight_bytes: candidate.model.weight_bytes().total(),
                task: prepared.name(),
                data: request.data.display().to_string(),
                measures,
            });
            // should one that follows fail, or be ended
            if let Some(last) = results.last().filter(|_| all > 1) {
                note(last);
            }
        }
        first.get_or_insert((candidate.name, answers));
    }
    if let Some(samples) = samples {
        samples.finish()?;
    }
    show(output, &results)
}

/// Refuses a model that could not be opened, or measured on these texts, before others are measured.
fn check_model(dir: &Path, args: &EvalArgs) -> Result<(), Failure> {
    let folder = hub::folder(dir)?;
    let config = LlamaConfig::read(&folder)?;
    Checkpoint::open(&folder)?;
    Tokenizer::from_dir(&folder)?.check_vocabulary(config.vocab_size)?;
    for request in args.tasks.0.iter().filter(|request| request.task.task().is_none()) {
        check_windows(args, config.context_limit())?;
        std::fs::metadata(&request.data).map_err(|why| format!("cannot read {}: {why}", request.data.display()))?;
        for file in data_files(std::slice::from_ref(&request.data))?.iter() {
            DataFormat::of(file)?;
        }
    }
    Ok(())
}

/// Refuses what none of the measurements would heed.
fn check(args: &EvalArgs) -> Result<(), Failure> {
    let is_text = |request: &&TaskRequest| request.task.task().is_none();
    let requests = &args.tasks.0;
    let answers = |request: &TaskRequest| {
        let files = [&request.labels, &request.few_shot_data, &request.few_shot_labels];
        files.into_iter().flatten().next().cloned()
    };
    if let Some(file) = requests.iter().filter(is_text).find_map(answers) {
        let file = file.display();
        return Err(format!(
            "perplexity has no questions, and so no use for {file}: say what to measure with --task, as in --task piqa --data FILE --labels FILE"
        )
        .into());
    }
    let examples = requests.iter().find_map(|request| request.few_shot_data.as_ref());
    if let Some(file) = examples.filter(|_| args.few_shot == 0) {
        return Err(format!(
            "--few-shot-data {} is where solved examples come from; say how many with --few-shot N",
            file.display()
        )
        .into());
    }
    let of_questions = [
        (args.few_shot > 0, "--few-shot"),
        (args.limit.is_some(), "--limit"),
        (args.log_samples.is_some(), "--log-samples"),
    ];
    let of_texts = [
        (args.max_tokens.is_some(), "--max-tokens"),
        (args.apart.is_some(), "--apart"),
        (args.seq.is_some(), "--seq"),
    ];
    let given = |options: &[(bool, &'static str)]| options.iter().find(|(given, _)| *given).map(|&(_, name)| name);
    if let Some(name) = given(&of_questions).filter(|_| requests.iter().all(|r| is_text(&r))) {
        return Err(format!("{name} is for tasks of questions, and perplexity is measured; --max-tokens N takes the beginning of a text").into());
    }
    if let Some(name) = given(&of_texts).filter(|_| !requests.iter().any(|r| is_text(&r))) {
        let instead = match name {
            "--max-tokens" => "; --limit N takes the first questions of a file",
            _ => "",
        };
        return Err(format!("{name} is for perplexity, which is not measured{instead}").into());
    }
    Ok(())
}

fn prepare(request: &TaskRequest, args: &EvalArgs) -> Result<Prepared, Failure> {
    let Some(task) = request.task.task() else {
        // the tokens are the model's own
        return Ok(Prepared::Text);
    };
    let questions = task.read(&request.data, request.labels.as_deref())?;
    let examples = match &request.few_shot_data {
        Some(data) => Some(task.read(data, request.few_shot_labels.as_deref())?),
        None => None,
    };
    if let Some(examples) = &examples {
        let without = |q: &&Question| !examples.iter().any(|example| example.description == q.description);
        if let Some(question) = questions.iter().find(without) {
            return Err(format!(
                "{} has no example for questions that begin {:?}",
                request.few_shot_data.as_deref().unwrap_or(Path::new("")).display(),
                question.description.trim_end()
            )
            .into());
        }
    }
    let set = TaskSet::new(questions, args.limit, args.few_shot, examples.as_deref());
    if set.questions().is_empty() {
        return Err("--limit 0 leaves no question; give at least 1".into());
    }
    if set.fewest_examples() < args.few_shot {
        let file = request.few_shot_data.as_deref().unwrap_or(&request.data);
        return Err(format!(
            "--few-shot {}: {} has no more than {} for one of the questions; give fewer, or more in --few-shot-data",
            args.few_shot,
            file.display(),
            count(set.fewest_examples() as u64, "example")
        )
        .into());
    }
    Ok(Prepared::Choice(task, set))
}

impl Prepared {
    fn name(&self) -> &'static str {
        match self {
            Self::Text => "perplexity",
            Self::Choice(task, _) => task.name(),
        }
    }
}

impl Candidate {
    fn open(dir: &Path, device: DeviceArgs) -> Result<Self, Failure> {
        let folder = hub::folder(dir)?;
        let model = InferenceModel::open(&folder)?;
        let tokenizer = Tokenizer::from_dir(&folder)?;
        tokenizer.check_vocabulary(model.config().vocab_size)?;
        let model = device.place(model)?;
        Ok(Self {
            name: dir.display().to_string(),
            model,
            tokenizer,
        })
    }

    fn perplexity(&self, request: &TaskRequest, args: &EvalArgs) -> Result<Measures, Failure> {
        let (stream, is_cut) = stream(request, args, &self.tokenizer)?;
        check_length(&stream, args.window(), &request.data.display().to_string())?;
        let counter = Counter::new(
            &format!("{} perplexity of {}", self.name, request.data.display()),
            stream.counted(),
        );
        let measured = packed_perplexity(&self.model, &stream, args.window(), |done| counter.set(done))?;
        let counted = (1..stream.len()).filter(|&at| stream.counts(at));
        let counted: Vec<u32> = counted
            .take(measured.tokens as usize)
            .map(|at| stream.tokens()[at])
            .collect();
        let text_bytes = self.tokenizer.decode(&counted)?.len();
        let bits = measured.perplexity.log2() * measured.tokens as f64;
        Ok(Measures::Text {
            seq: args.window(),
            apart: apart(args).name(),
            windows: stream.windows_in_words(args.window()),
            max_tokens: args.max_tokens,
            perplexity: measured.perplexity,
            tokens: measured.tokens,
            bits_per_byte: (text_bytes > 0).then(|| bits / text_bytes as f64),
            fingerprint: stream.fingerprint(),
            is_cut,
        })
    }
}

/// What of a text does not see what is before it.
fn apart(args: &EvalArgs) -> Apart {
    args.apart.map_or_else(Apart::default, Apart::from)
}

/// The tokens of a text, and whether there were more.
fn stream(request: &TaskRequest, args: &EvalArgs, tokenizer: &Tokenizer) -> Result<(TokenStream, bool), Failure> {
    let stream = TokenStream::from_files(std::slice::from_ref(&request.data), tokenizer)?;
    let mut stream = stream.with_apart(apart(args)).to_measure();
    let whole = stream.len();
    if let Some(tokens) = args.max_tokens {
        stream.truncate_each(tokens);
    }
    let is_cut = stream.len() < whole;
    Ok((stream, is_cut))
}

/// Refuses windows of a text that a model of so many positions has no room for, or that are longer than what is taken of it.
fn check_windows(args: &EvalArgs, positions: usize) -> Result<(), Failure> {
    if args.window() > positions {
        return Err(format!(
            "--seq {} is beyond the model's {positions} positions; give at most that",
            args.window()
        )
        .into());
    }
    if let Some(tokens) = args.max_tokens.filter(|&tokens| tokens <= args.window()) {
        let window = args.window().saturating_add(1);
        return Err(format!(
            "--max-tokens {tokens} leaves less than one window of --seq {}, which takes {window}; give at least that, or a shorter --seq",
            args.window()
        )
        .into());
    }
    Ok(())
}

/// What the answers to a set come to, and how much better they are than the first model's, `from`.
fn choice(
    task: Task,
    args: &EvalArgs,
    set: &TaskSet,
    answered: &[Answered],
    from: Option<(&str, &[Answered])>,
) -> Measures {
    let scores = Scores::new(set, answered);
    let normalized = |scores: Scores| task.has_normalized_accuracy().then_some(scores.normalized_accuracy);
    let difference = from.map(|(first, theirs)| {
        let difference = Scores::difference(set, answered, theirs);
        Difference {
            first: first.to_owned(),
            acc_difference: difference.accuracy.value,
            acc_difference_stderr: difference.accuracy.standard_error,
            acc_norm_difference: normalized(difference).map(|estimate| estimate.value),
            acc_norm_difference_stderr: normalized(difference).and_then(|estimate| estimate.standard_error),
        }
    });
    let by_subject = match set.subjects().len() {
        1 => Vec::new(),
        _ => Scores::by_subject(set, answered),
    };
    let subjects = by_subject.into_iter().map(|(subject, scores)| Subject {
        subject,
        items: scores.items,
        acc: scores.accuracy.value,
        acc_stderr: scores.accuracy.standard_error,
    });
    let subjects = subjects.collect();
    let normalized = normalized(scores);
    Measures::Choice {
        items: scores.items,
        few_shot: args.few_shot,
        limit: args.limit,
        acc: scores.accuracy.value,
        acc_stderr: scores.accuracy.standard_error,
        acc_norm: normalized.map(|estimate| estimate.value),
        acc_norm_stderr: normalized.and_then(|estimate| estimate.standard_error),
        difference,
        subjects,
        shortened: answered.iter().filter(|answered| answered.shortened).count(),
    }
}
