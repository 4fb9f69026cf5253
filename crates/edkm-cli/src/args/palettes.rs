//! What palettes look like: arguments that several commands have.

use std::num::NonZeroUsize;
use std::path::Path;

use clap::{value_parser, Args as ClapArgs, ValueEnum};
use dfdx_edkm::ChannelScale;
use edkm_cluster::Bits;
use edkm_palette::PaletteDType;
use edkm_train::run::{ClusterSettings, LayerRules};

use crate::commands::Failure;

/// What palettes look like.
#[derive(Debug, ClapArgs)]
pub struct PaletteArgs {
    /// One palette for so many output channels, in place of one for each matrix
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Type of the palettes' numbers in the file; without it int8 with --group, a budget of bits or a rule that sets a group, where palettes are many, and f32 otherwise
    #[arg(long, value_enum)]
    pub palette_dtype: Option<PaletteType>,
    /// Divide each row of a matrix by its root mean square first: a factor for each output channel, 16 bits a row
    #[arg(long)]
    pub per_channel_scale: bool,
    /// Compress the embedding and the output projection too, to so many bits
    #[arg(long, value_name = "BITS", value_parser = value_parser!(u8).range(1..=8))]
    pub embedding_bits: Option<u8>,
}

impl PaletteArgs {
    /// `settings` with these palettes. Their numbers are bytes if nothing else was said and there is a palette for each group of rows, or a
    /// `budget` pays for palettes.
    ///
    /// # Errors
    /// Bits that are none.
    pub fn settings(&self, budget: Option<f64>, settings: ClusterSettings) -> Result<ClusterSettings, Failure> {
        let many = self.group.is_some() || budget.is_some();
        Ok(ClusterSettings {
            group: self.group,
            palette_dtype: match self.palette_dtype {
                Some(given) => given.into(),
                None if many => PaletteDType::I8,
                None => PaletteDType::F32,
            },
            channel_scale: match self.per_channel_scale {
                true => ChannelScale::RootMeanSquare,
                false => ChannelScale::None,
            },
            embedding_bits: self.embedding_bits.map(Bits::new).transpose()?,
            ..settings
        })
    }

    /// The rules of a file, if there is one. Palettes of groups that a rule makes are bytes too, if nothing else was said.
    ///
    /// # Errors
    /// Those of [`LayerRules::read`].
    pub fn rules(&self, file: Option<&Path>) -> Result<LayerRules, Failure> {
        let rules = file.map(LayerRules::read).transpose()?.unwrap_or_default();
        Ok(match self.palette_dtype {
            Some(_) => rules,
            None => rules.with_bytes_for_groups(),
        })
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
