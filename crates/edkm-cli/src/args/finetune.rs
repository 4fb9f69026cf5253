//! `edkm finetune`

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Args as ClapArgs};
use edkm_store::Bytes;
use edkm_train::run::{Objective, OnNonFinite, RateUnit};

use super::clustering::HEADING;
use super::{ClusterArgs, DeviceArgs, KeptApart, OptimizerChoice, Range};

/// `edkm finetune`
#[derive(Debug, ClapArgs)]
#[command(mut_args(conflicts))]
pub struct FinetuneArgs {
    /// A Hugging Face folder (config.json, tokenizer.json, model.safetensors), one that edkm wrote, or hf:OWNER/NAME; without it, the embedded tiny model
    pub model_dir: Option<PathBuf>,
    /// Text to train on: .txt (documents split at blank lines) or .json/.jsonl with texts, or with prompts and completions, Alpaca's or Dolly's records and
    /// conversations, of which responses alone count, in the model's chat template or else in Alpaca's; or a folder with such files; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub data: Vec<PathBuf>,
    /// Text to measure perplexity on, of the same kinds; may be repeated; without it, a tenth of the training text is held out, the ends of its files
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub valid: Vec<PathBuf>,
    /// What sees nothing of the text before it, though it shares a sequence with it, in training and where perplexity is measured
    #[arg(long, value_enum, default_value_t = KeptApart::Records)]
    pub apart: KeptApart,
    /// Steps of training
    #[arg(long, default_value_t = 400)]
    pub steps: u64,
    /// In place of --steps: as many steps as go N times through the training text, the last one whole; N may be a fraction
    #[arg(long, value_name = "N", conflicts_with = "steps", allow_negative_numbers = true)]
    pub epochs: Option<f64>,
    /// Peak learning rate; without it 4.5e-3 up to 2 bits a weight, 3e-3 up to 3, 2e-3 up to 4, and 1e-3 for more or without clustering
    #[arg(long)]
    pub lr: Option<f64>,
    /// What --lr is measured in where matrices are clustered
    #[arg(long, value_enum, default_value_t = LrUnit::Relative)]
    pub lr_unit: LrUnit,
    /// Decoupled weight decay of matrices
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f32,
    /// How the optimizer keeps its moments
    #[arg(long, value_enum, default_value_t = OptimizerChoice::Adamw)]
    pub optimizer: OptimizerChoice,
    /// Update each layer in backward, as soon as its gradients are whole, and free them: 4 bytes a parameter less. Each layer's gradients are clipped on
    /// their own then, and a gradient that is not finite leaves the layers behind it updated
    #[arg(long)]
    pub update_in_backward: bool,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Sequences of a forward pass
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Forward passes whose gradients make one step
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,
    /// Seed of the data's order, and of what palettes of vectors (--vector) begin with
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The share of the loss that is the distance to the predictions of the model as it came (with --cluster-from, as it was when its clustering began), the
    /// rest being the text's: at the first step that learns from it and at the last, in a straight line, or one number for all
    #[arg(long, value_name = "FROM:TO", allow_hyphen_values = true, default_value_t = Objective::LESSON.share.into())]
    pub distill: Range,
    /// The weight of the distance of the hidden states behind each layer from those of the same model, the mean over layers, each token's relative to the size
    /// of its state, which comes to the loss besides, in the same way; 0 leaves them free. Without it 5:1.5, and 0 with a --teacher of other layers or width
    #[arg(long, value_name = "FROM:TO", allow_hyphen_values = true)]
    pub distill_hidden: Option<Range>,
    /// Both fade besides as training takes the model beyond what it was: they are gone once it predicts a batch better than that model by so many nats a token. inf: they stay
    #[arg(long, value_name = "NATS", default_value_t = Objective::LESSON.fade)]
    pub distill_fade: f32,
    /// Learn from the model in this folder (or hf:OWNER/NAME), at all steps, in place of the model as it came: a larger one of the same vocabulary, or the
    /// original of a MODEL_DIR that is compressed already
    #[arg(long, value_name = "DIR", conflicts_with = "no_distill")]
    pub teacher: Option<PathBuf>,
    /// The same as --distill=0 --distill-hidden 0: the text alone, in three quarters of a step's time
    #[arg(long, conflicts_with_all = ["distill", "distill_hidden", "distill_fade"])]
    pub no_distill: bool,
    /// Train the model as it is, without clustering, on the text alone
    #[arg(long, conflicts_with_all = ["lr_unit", "baselines", "teacher", "distill", "distill_hidden", "distill_fade"])]
    pub no_cluster: bool,
    /// Tokens of the validation text that are used
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    pub eval_tokens: usize,
    /// Measure the perplexity of what is reached, with the palettes that it would be written with, every N steps
    #[arg(long, value_name = "N")]
    pub eval_every: Option<NonZeroU64>,
    /// Write the model with the lowest perplexity of those that --eval-every measures and the last one, in place of the last one
    #[arg(long)]
    pub keep_best: bool,
    /// Measure rounding and k-means without training too (always done for the embedded model)
    #[arg(long)]
    pub baselines: bool,
    /// Save only the input of each layer and run it again in backward
    #[arg(long, conflicts_with = "checkpoint_attention")]
    pub checkpoint_layers: bool,
    /// Save the input of each layer in place of attention's inside, and run that part again in backward: less time and more memory than
    /// --checkpoint-layers
    #[arg(long)]
    pub checkpoint_attention: bool,
    /// Storage of tensors saved for backward: layers by name, as in marshal,compress,spill=DIR:2GiB
    ///
    /// The layers, in the order in which they act, separated by commas:
    ///
    ///   memory             none: everything stays in memory as it is
    ///   marshal            a content that is stored already is not stored again
    ///   uniquify           rows that repeat become a table of distinct rows and an index
    ///   compress           byte planes, each with lz4 or a Huffman code where that helps
    ///   compress=lz4       byte planes with lz4 alone
    ///   spill=DIR:BUDGET   above BUDGET (as in 2GiB) to an unlinked file in DIR
    ///   overlap=BOUND      packs and fetches on a thread of its own, BOUND in flight
    ///   bf16               keeps activations as bf16, which is LOSSY; all others are exact
    ///
    /// Examples: marshal    marshal,compress    marshal,compress,spill=/tmp:2GiB,overlap=256MiB
    ///
    /// There is also `shard`, which splits among several learners what they hold alike. This program trains with one, so it refuses it: it is
    /// for programs of your own (StoreSpec::build_for in edkm-store), and for `edkm bench ablation`, which runs several learners.
    ///
    /// Without it: marshal; on a GPU for what does not fit into its memory (see --device-memory).
    #[arg(long, value_name = "LAYERS", verbatim_doc_comment)]
    pub store: Option<String>,
    /// Where the model is trained
    #[command(flatten)]
    pub device: DeviceArgs,
    /// How much of the tensors saved for backward stays in the GPU's memory (as in 20GiB, or 0 for none), the newest; the others go to the store. Without
    /// it none stays if there is a --store, and else what fits: half of the memory that is free beside the model, its gradients, the optimizer's
    /// moments and the model as it came. They are copied beside the computation if the store has `overlap=BOUND`
    #[arg(long, value_name = "BUDGET")]
    pub device_memory: Option<Bytes>,
    /// Folder to write; without it a new one, edkm-out
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write a checkpoint of the run into OUT.run every N steps; without it only when the run is interrupted
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<NonZeroU64>,
    /// Checkpoints that stay, the newest [default: 2]
    #[arg(long, value_name = "K")]
    pub keep: Option<usize>,
    /// What to do when a loss or a gradient is not finite: end the run, leave the step out (at most 16 in a row), or go back to the newest
    /// checkpoint and on behind the data of the step (at most 3 times, then to the one before it, if --keep has left one; needs --checkpoint-every)
    /// [default: stop]
    #[arg(long, value_enum)]
    pub on_non_finite: Option<NonFinitePolicy>,
    /// Go on with the run that was to write OUT, from its newest whole checkpoint. All else is as it was started, but for what changes nothing of the
    /// steps that are done: --on-non-finite, --checkpoint-every, --keep, --checkpoint-layers, --checkpoint-attention, --store and --device-memory hold
    /// from now on, and MODEL_DIR, --data, --valid and --teacher say where the same model and texts lie by now, seen from here (of several files all,
    /// in their order). Besides --json, --ignore-limits, --overwrite (of an OUT that was filled meanwhile), --dry-run, --trace and --finish may be given with
    /// it
    #[arg(long, value_name = "OUT")]
    pub resume: Option<PathBuf>,
    /// With --resume: write the model as that checkpoint has it, in place of the steps that are left. The run is over then
    #[arg(long, requires = "resume")]
    pub finish: bool,
    /// Show what memory and disk the run would take, by part, and end
    #[arg(long)]
    pub dry_run: bool,
    /// Begin even if there seems to be too little memory or disk
    #[arg(long)]
    pub ignore_limits: bool,
    /// Replace OUT if it holds a model, and the checkpoints of a run that was not finished
    #[arg(long)]
    pub overwrite: bool,
    /// Write a trace of every layer and op, to be opened in Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
    // last, since their heading in the help holds for what comes behind it
    /// What is clustered, and how
    #[command(flatten)]
    pub clustering: ClusterArgs,
}

/// What cannot be given together, as far as it follows from what an argument is for.
fn conflicts(arg: Arg) -> Arg {
    let arg = match arg.get_help_heading() == Some(HEADING) {
        true => arg.conflicts_with("no_cluster"),
        false => arg,
    };
    match [
        "resume",
        "finish",
        "json",
        "ignore_limits",
        "overwrite",
        "dry_run",
        "trace",
        // what `Changes` has
        "on_non_finite",
        "checkpoint_every",
        "keep",
        "checkpoint_layers",
        "checkpoint_attention",
        "store",
        "device_memory",
        "model_dir",
        "data",
        "valid",
        "teacher",
    ]
    .contains(&arg.get_id().as_str())
    {
        true => arg,
        // with finish too: what conflicts with the other argument that this one requires is taken for a reason to do without
        false => arg.conflicts_with_all(["resume", "finish"]),
    }
}

/// `--lr-unit`
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum LrUnit {
    /// The root mean square of the parameter as it came, over 0.12: the further it is to the next centroid, the larger the step. Of what is not clustered
    /// over 0.3 for embedding and head and 0.5 for norms and biases, and 1 at most
    Relative,
    /// 1 for all parameters
    Absolute,
}

impl From<LrUnit> for RateUnit {
    fn from(unit: LrUnit) -> Self {
        match unit {
            LrUnit::Relative => Self::Relative,
            LrUnit::Absolute => Self::Absolute,
        }
    }
}

/// `--on-non-finite`
#[derive(Debug, Clone, Copy, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinitePolicy {
    Stop,
    Skip,
    Rollback,
}

impl From<NonFinitePolicy> for OnNonFinite {
    fn from(policy: NonFinitePolicy) -> Self {
        match policy {
            NonFinitePolicy::Stop => Self::Stop,
            NonFinitePolicy::Skip => Self::Skip,
            NonFinitePolicy::Rollback => Self::Rollback,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Args;

    #[test]
    fn no_setting_of_clustering_goes_with_none() {
        let program = Args::command();
        let finetune = program.find_subcommand("finetune").unwrap();
        let of_clustering = |arg: &&Arg| arg.get_help_heading() == Some(HEADING);
        let settings: Vec<&Arg> = finetune.get_arguments().filter(of_clustering).collect();
        for setting in &settings {
            let conflicts = finetune.get_arg_conflicts_with(setting);
            let refused = conflicts.iter().any(|other| other.get_id() == "no_cluster");
            assert!(refused, "--no-cluster would ignore {setting}");
        }
        let names: Vec<&str> = settings.iter().map(|setting| setting.get_id().as_str()).collect();
        for name in ["bits", "palette_dtype", "temperature", "init", "cluster_from"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"steps"), "{names:?}");
    }
}
