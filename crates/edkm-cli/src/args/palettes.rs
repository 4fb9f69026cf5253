//! What palettes look like: arguments that several commands have.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{builder::PossibleValuesParser, value_parser, Args as ClapArgs, ValueEnum};
use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, KeepZero, VectorLen};
use edkm_llama::config::LlamaConfig;
use edkm_palette::PaletteDType;
use edkm_train::run::{ClusterSettings, LayerRules};

use crate::commands::Failure;

/// What palettes look like.
#[derive(Debug, ClapArgs)]
pub struct PaletteArgs {
    /// One palette for so many output channels, in place of one for each matrix
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Type of the palettes' numbers in the file; without it int8 with --group, or a rule that sets a group, up to 4 bits, f16 with a group of more or a budget of bits, and f32 otherwise
    #[arg(long, value_enum)]
    pub palette_dtype: Option<PaletteType>,
    /// Divide each row of a matrix by its root mean square first: a factor for each output channel, 16 bits a row
    #[arg(long)]
    pub per_channel_scale: bool,
    /// Compress the embedding and the output projection too, to so many bits
    #[arg(long, value_name = "BITS", value_parser = value_parser!(u8).range(1..=8))]
    pub embedding_bits: Option<u8>,
    /// Weights of a row that share an index; the palette's entries are vectors, and a weight takes BITS / WEIGHTS bits
    #[arg(long, value_name = "WEIGHTS", default_value = "1", value_parser = PossibleValuesParser::new(["1", "2", "4", "8"]))]
    pub vector: String,
    /// Keep weights that are exactly zero (pruned) exactly zero; with --vector, vectors that are zero as a whole. It takes one of the values of each palette,
    /// also where no weight is zero
    #[arg(long)]
    pub keep_zero: bool,
    /// Settings of single layers by name pattern, in a TOML file (docs/layers.toml is one)
    #[arg(long, value_name = "FILE")]
    pub layers: Option<PathBuf>,
    /// Rules in place of such a file: those of a run that goes on
    #[arg(skip)]
    pub rules: Option<LayerRules>,
}

impl PaletteArgs {
    /// Whether they say anything of palettes.
    pub fn are_given(&self) -> bool {
        let Self {
            group,
            palette_dtype,
            per_channel_scale,
            embedding_bits,
            vector,
            keep_zero,
            layers,
            rules,
        } = self;
        let has_value = group.is_some() || palette_dtype.is_some() || embedding_bits.is_some();
        has_value || *per_channel_scale || vector != "1" || *keep_zero || layers.is_some() || rules.is_some()
    }

    /// `settings` with these palettes, whose bits a `budget` may have.
    ///
    /// # Errors
    /// Those of [`Self::shapes`].
    pub fn settings(&self, budget: Option<f64>, settings: ClusterSettings) -> Result<ClusterSettings, Failure> {
        let settings = ClusterSettings {
            bits_budget: budget,
            ..self.shapes(settings)?
        };
        Ok(settings.with_palette_dtype(self.dtype()))
    }

    /// `settings` with these palettes, but for the type of their numbers.
    ///
    /// # Errors
    /// Bits that are none; a file of rules that cannot be read.
    pub fn shapes(&self, settings: ClusterSettings) -> Result<ClusterSettings, Failure> {
        Ok(ClusterSettings {
            group: self.group,
            channel_scale: match self.per_channel_scale {
                true => ChannelScale::RootMeanSquare,
                false => ChannelScale::None,
            },
            embedding_bits: self.embedding_bits.map(Bits::new).transpose()?,
            vector: VectorLen::new(self.vector.parse().unwrap_or(1))?,
            keep_zero: match self.keep_zero {
                true => KeepZero::Exact,
                false => KeepZero::Free,
            },
            rules: match (&self.rules, &self.layers) {
                (Some(rules), _) => rules.clone(),
                (None, Some(file)) => LayerRules::read(file)?,
                (None, None) => LayerRules::default(),
            },
            ..settings
        })
    }

    /// Refuses bits that were asked for and that no matrix has.
    ///
    /// # Errors
    /// Rules that give all matrices others.
    pub fn check_bits(&self, settings: &ClusterSettings, config: &LlamaConfig) -> Result<(), Failure> {
        match &self.layers {
            Some(file) if !settings.uses_bits(config) => Err(format!(
                "--bits {} is for matrices without bits of their own, and the rules of {} leave none; leave it out, or take the bits out of the rules",
                settings.bits,
                file.display()
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// The type of the palettes' numbers, if one was asked for.
    pub fn dtype(&self) -> Option<PaletteDType> {
        self.palette_dtype.map(Into::into)
    }
}

/// `--palette-dtype`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PaletteType {
    /// 32-bit floats
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
    /// Bytes and one scale for each palette
    #[value(alias = "i8")]
    Int8,
}

impl From<PaletteType> for PaletteDType {
    fn from(dtype: PaletteType) -> Self {
        match dtype {
            PaletteType::F32 => PaletteDType::F32,
            PaletteType::F16 => PaletteDType::F16,
            PaletteType::Bf16 => PaletteDType::Bf16,
            PaletteType::Int8 => PaletteDType::I8,
        }
    }
}
