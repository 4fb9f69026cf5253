//! `edkm export`

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use edkm_llama::checkpoint::FloatDtype;

/// `edkm export`
#[derive(Debug, ClapArgs)]
pub struct ExportArgs {
    /// A model folder, or hf:OWNER/NAME
    pub model_dir: PathBuf,
    /// For which programs
    #[arg(long, value_enum)]
    pub to: ExportFormat,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The type of plain weights; f32 keeps the palettes exactly, and for Core ML palettized ones are always f32
    #[arg(long, value_enum, default_value_t = PlainType::F32)]
    pub dtype: PlainType,
    /// Replace OUT if it holds a model
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Plain weights in Hugging Face layout: transformers, candle, mlx, llama.cpp's converter
    Hf,
    /// A PyTorch state dict (as safetensors, for safetensors.torch.load_file) whose buffers tell coremltools 8 and later the palettes: give the module each name with _COREML_ by register_buffer before load_state_dict; with --group, rows must divide by it. A head that is the embedding is written twice
    CoremlTorch,
}

/// Types of plain weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlainType {
    /// Single precision
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
}

impl From<PlainType> for FloatDtype {
    fn from(dtype: PlainType) -> Self {
        match dtype {
            PlainType::F32 => Self::F32,
            PlainType::F16 => Self::F16,
            PlainType::Bf16 => Self::Bf16,
        }
    }
}
