//! The widths of a layer and their costs.

use edkm_cluster::Bits;

/// The widths that a layer may take, if the budget has room for the smallest of them everywhere. At 1 bit errors are so large that an estimate to
/// second order is far too low, and layers that are given so few spoil the model.
pub(super) const WIDTHS: std::ops::RangeInclusive<u8> = 2..=8;

/// The width of all layers in a budget that is smaller still.
pub(super) const SMALLEST: u8 = 1;

/// A layer and what each width costs it.
#[derive(Debug, Clone)]
pub(in crate::run) struct Candidate {
    pub(in crate::run) name: String,
    pub(in crate::run) weights: usize,
    /// By width.
    pub(in crate::run) widths: Vec<Width>,
}

impl Candidate {
    /// Without the smallest width, unless it has no other.
    pub(in crate::run) fn of_usual_widths(&self) -> Self {
        let is_usual = |width: &&Width| WIDTHS.contains(&width.bits.get());
        let widths: Vec<Width> = self.widths.iter().filter(is_usual).copied().collect();
        match widths.is_empty() {
            true => self.clone(),
            false => Self { widths, ..self.clone() },
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(in crate::run) struct Width {
    pub(in crate::run) bits: Bits,
    pub(in crate::run) bytes: usize,
    /// Nats a token.
    pub(in crate::run) loss: f64,
}
