//! How a run clusters: the part of `edkm finetune`'s arguments that becomes [`ClusterSettings`].

use std::str::FromStr;

use clap::{value_parser, Args as ClapArgs, ValueEnum};
use edkm_cluster::{Bits, GradientMode, Initialization, Spec};
use edkm_llama::config::LlamaConfig;
use edkm_train::run::{ClusterSettings, FirstPalettes, ModelPalettes};
use edkm_train::schedule::{Annealing, TemperatureSchedule, TemperatureUnit};

use super::{PaletteArgs, Range};
use crate::commands::Failure;

/// The heading of these arguments in the help.
pub const HEADING: &str = "Clustering";

/// What is clustered, and how.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = HEADING)]
pub struct ClusterArgs {
    /// Bits of an index: each weight matrix takes 2^BITS values. Without it 3; but a MODEL_DIR that is compressed already keeps the palettes that it has if
    /// neither this nor any other option of palettes is given (--bits-budget, --group ... --layers)
    #[arg(long, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: Option<u8>,
    /// The palettes
    #[command(flatten)]
    pub palettes: PaletteArgs,
    /// Choose the bits of each layer so that they are so many a weight, palettes counted, where the loss feels them most; in place of --bits
    #[arg(long, value_name = "BITS", conflicts_with = "bits")]
    pub bits_budget: Option<f64>,
    /// Show what each weight matrix would get, and end
    #[arg(long, conflicts_with = "dry_run")]
    pub plan: bool,
    /// Softness of the assignment: at the first step that clusters and at the last, falling exponentially, or one number for all; without it 1:0.004, with more than 2 bits a weight from
    /// 0.2 where the model has such palettes already, and in fewer than 200 steps from less in proportion, 0.5 the least, or less with a lower --lr than usual
    #[arg(long, value_name = "FROM:TO", allow_hyphen_values = true)]
    pub temperature: Option<Range>,
    /// What the temperature is measured in
    #[arg(long, value_enum, default_value_t = Unit::Relative, requires = "temperature")]
    pub temperature_unit: Unit,
    /// The part of the steps that cluster over which the temperature falls; it stays at TO for the rest
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "temperature")]
    pub temperature_share: f64,
    /// How the first palettes are found
    #[arg(long, value_enum, default_value_t = Init::Kmeans)]
    pub init: Init,
    /// Repetitions of k-means in each step
    #[arg(long, default_value_t = 3)]
    pub iterations: usize,
    /// End the repetitions when no centroid moves by more than this part of the gap between centroids
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub tolerance: f64,
    /// How the gradient goes through the clustering
    #[arg(long, value_enum, default_value_t = Gradient::Unrolled)]
    pub gradient: Gradient,
    /// Train the model as it is, on the text alone, for so many steps first; what it is then is what the rest of the run learns from, in place of the model as it
    /// came. A number, or a share of all steps, as 50%, which is right for text unlike what the model knows
    #[arg(long, value_name = "STEPS", default_value = "0")]
    pub cluster_from: Steps,
}

/// So many steps, or a share of those of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steps {
    /// So many.
    Number(u64),
    /// From 0 to 1.
    Share(f64),
}

impl Steps {
    fn of(self, steps: u64) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Share(share) => (share * steps as f64).round() as u64,
        }
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}`: write steps as 200, or their share of all as 50%");
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Number).map_err(|_| refused()),
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Share(percent / 100.0)),
                _ => Err(refused()),
            },
        }
    }
}

/// `--temperature-unit`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Unit {
    /// The squared gap between centroids, where the weights are: one setting serves weights of any spread
    Relative,
    /// The squared weight
    Absolute,
}

/// `--init`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Init {
    /// The least squared error: exact for single weights, k-means++ for vectors
    Kmeans,
    /// k-means++ and Lloyd's algorithm
    #[value(name = "kmeans++")]
    PlusPlus,
    /// Medians of parts of equally many weights; not with vectors
    Quantile,
    /// k-means with errors weighted by squared gradients on the training text (SqueezeLLM)
    Weighted,
}

impl From<Init> for FirstPalettes {
    fn from(init: Init) -> Self {
        match init {
            Init::Kmeans => Self::Weights(Initialization::KMeans),
            Init::PlusPlus => Self::Weights(Initialization::PlusPlus),
            Init::Quantile => Self::Weights(Initialization::Quantile),
            Init::Weighted => Self::SquaredGradients,
        }
    }
}

/// `--gradient`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Gradient {
    /// Back through every repetition (DKM)
    Unrolled,
    /// As at the fixed point of the repetition (IDKM)
    Implicit,
    /// Hard assignment in forward, passed unchanged in backward
    StraightThrough,
}

impl ClusterArgs {
    /// Whether nothing is said of palettes: a model that has some keeps them.
    pub fn keep_palettes(&self) -> bool {
        self.bits.is_none() && self.bits_budget.is_none() && !self.palettes.are_given()
    }

    /// The settings for a run of `steps` steps of a model, and the learning rate that is right for them. The model is `compressed` if it has palettes.
    ///
    /// # Errors
    /// A temperature or a share that cannot be used, or would not be.
    pub fn settings(
        &self,
        steps: u64,
        learning_rate: Option<f64>,
        config: &LlamaConfig,
        compressed: Option<&ModelPalettes>,
    ) -> Result<(ClusterSettings, f64), Failure> {
        let bits = self.bits.map_or(Ok(Spec::default().bits), Bits::new)?;
        let mut defaults = self
            .palettes
            .settings(self.bits_budget, ClusterSettings::new(bits, steps))?;
        if let Some(palettes) = compressed.filter(|_| self.keep_palettes()) {
            defaults.rules = palettes.rules()?;
        }
        if self.bits.is_some() {
            self.palettes.check_bits(&defaults, config)?;
        }
        let bits = defaults.bits_a_weight(config);
        if let (Gradient::StraightThrough, Some(_)) = (self.gradient, self.temperature) {
            return Err(
                "--gradient straight-through assigns each weight to one centroid; leave --temperature out, which softens the assignment".into(),
            );
        }
        let unit = match self.temperature_unit {
            Unit::Relative => TemperatureUnit::Relative,
            Unit::Absolute => TemperatureUnit::Absolute,
        };
        let temperature = match self.temperature {
            None => match compressed.map(|palettes| palettes.others(&defaults)) {
                Some(None) => TemperatureSchedule::trained_on(bits, steps),
                Some(Some(_)) | None => ClusterSettings::usual_temperature(bits, steps, learning_rate),
            },
            Some(Range { to: None, .. }) if self.temperature_share != 1.0 => {
                return Err(
                    "--temperature-share is for a temperature that falls: give it as --temperature FROM:TO".into(),
                )
            }
            Some(Range { from, to: None }) => TemperatureSchedule::new(unit, Annealing::Constant(from), steps)?,
            Some(Range { from, to: Some(to) }) => {
                let share = self.temperature_share;
                TemperatureSchedule::new(unit, Annealing::Exponential { from, to, share }, steps)?
            }
        };
        let settings = ClusterSettings {
            first_palettes: self.init.into(),
            iterations: self.iterations,
            tolerance: self.tolerance,
            gradient: match self.gradient {
                Gradient::Unrolled => GradientMode::Unrolled,
                Gradient::Implicit => GradientMode::Implicit,
                Gradient::StraightThrough => GradientMode::StraightThrough,
            },
            temperature,
            from_step: self.cluster_from.of(steps),
            ..defaults
        };
        Ok((settings, ClusterSettings::learning_rate_for(bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_a_number_or_a_share() {
        let of = |text: &str| text.parse::<Steps>().map(|steps| steps.of(301));
        assert_eq!(
            ["0", "200", "50%", "0%", "33.3%"].map(|text| of(text).unwrap()),
            [0, 200, 151, 0, 100]
        );
        for bad in ["", "%", "half", "-1", "101%", "nan%", "1.5"] {
            assert!(of(bad).unwrap_err().contains("50%"), "{bad}");
        }
    }
}
