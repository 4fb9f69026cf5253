//! How the optimizer keeps its state.

use clap::ValueEnum;
use dfdx_edkm::optim::MomentFormat;

/// `--optimizer`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptimizerChoice {
    /// AdamW, two moments in f32: 8 bytes a parameter
    Adamw,
    /// The same with moments of 8 bits in blocks of 256, rounded stochastically: 2 bytes a parameter
    #[value(name = "adamw-8bit")]
    Adamw8bit,
}

impl From<OptimizerChoice> for MomentFormat {
    fn from(choice: OptimizerChoice) -> Self {
        match choice {
            OptimizerChoice::Adamw => MomentFormat::F32,
            OptimizerChoice::Adamw8bit => MomentFormat::EightBit,
        }
    }
}
