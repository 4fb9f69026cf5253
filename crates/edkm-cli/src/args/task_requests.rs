//! `--task`, `--data`, `--labels`: what belongs together is told by the order on the command line.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{value_parser, Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, ValueEnum};
use edkm_train::tasks::Task;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskName {
    /// Perplexity of a text: the files and folders that finetune --data takes
    Perplexity,
    /// valid.jsonl and valid-labels.lst
    Piqa,
    /// hellaswag_val.jsonl
    Hellaswag,
    /// dev.jsonl
    Winogrande,
    /// ARC-Easy-Test.jsonl
    #[value(alias = "arc_easy")]
    ArcEasy,
    /// ARC-Challenge-Test.jsonl
    #[value(alias = "arc_challenge")]
    ArcChallenge,
    /// SUBJECT_test.csv, or a folder of such files
    Mmlu,
}

impl TaskName {
    /// The multiple-choice task; `None` for perplexity.
    pub fn task(self) -> Option<Task> {
        match self {
            Self::Perplexity => None,
            Self::Piqa => Some(Task::Piqa),
            Self::Hellaswag => Some(Task::HellaSwag),
            Self::Winogrande => Some(Task::Winogrande),
            Self::ArcEasy => Some(Task::ArcEasy),
            Self::ArcChallenge => Some(Task::ArcChallenge),
            Self::Mmlu => Some(Task::Mmlu),
        }
    }
}

/// One thing to measure, and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRequest {
    /// What is measured.
    pub task: TaskName,
    /// The data set's file.
    pub data: PathBuf,
    /// Answers that come in a file of their own.
    pub labels: Option<PathBuf>,
    /// Where solved examples are taken from.
    pub few_shot_data: Option<PathBuf>,
    /// The answers of those.
    pub few_shot_labels: Option<PathBuf>,
}

impl TaskRequest {
    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let others = [&self.labels, &self.few_shot_data, &self.few_shot_labels];
        std::iter::once(&self.data)
            .chain(others.into_iter().flatten())
            .map(PathBuf::as_path)
    }
}

/// All that was asked for, at least one.
#[derive(Debug, Clone)]
pub struct TaskRequests(pub Vec<TaskRequest>);

impl Args for TaskRequests {
    fn augment_args(command: Command) -> Command {
        let file = |id: &'static str, help: &'static str| {
            Arg::new(id)
                .long(id)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .help(help)
        };
        command
            .arg(
                Arg::new("task")
                    .long("task")
                    .value_name("TASK")
                    .value_parser(value_parser!(TaskName))
                    .action(ArgAction::Append)
                    .help("What to measure; without it, perplexity. With --data (and --labels) it may be repeated"),
            )
            .arg(
                file(
                    "data",
                    "The text (a file, or a folder with such files), or the task's own published file",
                )
                .required(true),
            )
            .arg(file(
                "labels",
                "The answers, where they are in a file of their own: those of the --data before it",
            ))
            .arg(file(
                "few-shot-data",
                "Take solved examples from this file, not from the other questions of the --data before it",
            ))
            .arg(file("few-shot-labels", "The answers of those"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TaskRequests {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let tasks: Vec<TaskName> = matches.get_many("task").into_iter().flatten().copied().collect();
        let data = files(matches, "data");
        let tasks = match (tasks.len(), data.len()) {
            (0, 1) => vec![TaskName::Perplexity],
            (tasks_given, data_given) if tasks_given == data_given => tasks,
            (0, data_given) => {
                let text = format!(
                    "{data_given} --data but no --task; give one for each, as in --task perplexity --data FILE --task piqa --data FILE"
                );
                return Err(super::of_given_command(ErrorKind::WrongNumberOfValues, text));
            }
            (tasks_given, data_given) => {
                let text = format!("{tasks_given} --task but {data_given} --data; give one --data for each --task");
                return Err(super::of_given_command(ErrorKind::WrongNumberOfValues, text));
            }
        };
        let mut requests: Vec<TaskRequest> = tasks
            .into_iter()
            .zip(&data)
            .map(|(task, (_, data))| TaskRequest {
                task,
                data: data.clone(),
                labels: None,
                few_shot_data: None,
                few_shot_labels: None,
            })
            .collect();
        type Slot = fn(&mut TaskRequest) -> &mut Option<PathBuf>;
        let slots: [(&str, Slot); 3] = [
            ("labels", |request| &mut request.labels),
            ("few-shot-data", |request| &mut request.few_shot_data),
            ("few-shot-labels", |request| &mut request.few_shot_labels),
        ];
        for (name, slot) in slots {
            for (place, file) in files(matches, name) {
                let owner = data.iter().rposition(|&(of_data, _)| of_data < place).unwrap_or(0);
                if slot(&mut requests[owner]).replace(file).is_some() {
                    let text = format!("two --{name} for {}", requests[owner].data.display());
                    return Err(super::of_given_command(ErrorKind::ArgumentConflict, text));
                }
            }
        }
        Ok(Self(requests))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The files given for an option, each with its place on the command line.
fn files(matches: &ArgMatches, name: &str) -> Vec<(usize, PathBuf)> {
    let places = matches.indices_of(name).into_iter().flatten();
    let files = matches.get_many::<PathBuf>(name).into_iter().flatten().cloned();
    places.zip(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<TaskRequest>, Error> {
        let command = TaskRequests::augment_args(Command::new("eval").args_override_self(true));
        let matches = command.try_get_matches_from(std::iter::once("eval").chain(line.split(' ')))?;
        TaskRequests::from_arg_matches(&matches).map(|requests| requests.0)
    }

    #[test]
    fn labels_belong_to_the_data_before_them() {
        let requests = parse(
            "--task piqa --data a --labels b --task arc-easy --data c --data d --labels e --few-shot-data f --task winogrande",
        )
        .unwrap();
        let shown: Vec<_> = requests
            .iter()
            .map(|r| {
                (
                    r.task,
                    r.data.to_str().unwrap(),
                    r.labels.as_deref(),
                    r.few_shot_data.as_deref(),
                )
            })
            .collect();
        let path = |name| Some(std::path::Path::new(name));
        assert_eq!(
            shown,
            [
                (TaskName::Piqa, "a", path("b"), None),
                (TaskName::ArcEasy, "c", None, None),
                (TaskName::Winogrande, "d", path("e"), path("f"))
            ]
        );
    }

    #[test]
    fn one_task_takes_its_files_in_any_order() {
        let requests = parse("--labels b --data a --task piqa").unwrap();
        assert_eq!(requests[0].labels.as_deref(), Some(std::path::Path::new("b")));
        assert_eq!(parse("--data a").unwrap()[0].task, TaskName::Perplexity);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in [
            "--task piqa",
            "--task piqa --data a --data b",
            "--data a --data b",
            "--task piqa --data a --labels b --labels c",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
