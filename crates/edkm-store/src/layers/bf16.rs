//! The one lossy layer: `f32` kept as bf16, for records that ask for it.

use std::sync::Arc;

use super::{below, Layer, Piece};
use crate::meter::{Charge, Meter, Side};
use crate::{DType, Held, Precision, Report, SharedBytes, StoreError};

/// Rounds `f32` records with [`Precision::Bf16`] and passes on the rest.
pub(crate) struct Bf16 {
    below: Box<dyn Layer>,
    meter: Arc<Meter>,
}

impl Bf16 {
    pub(crate) fn new(below: Box<dyn Layer>) -> Self {
        Self {
            below,
            meter: Meter::new("bf16"),
        }
    }

    /// The rounded piece, for a piece that is to be rounded.
    fn round(&self, piece: &Piece) -> Option<Piece> {
        if piece.record.precision != Precision::Bf16 || piece.record.dtype != DType::F32 {
            return None;
        }
        let halves = self.meter.packing(|| {
            let (elements, _) = piece.bytes().as_chunks::<4>();
            elements
                .iter()
                .map(|element| to_bf16(u32::from_ne_bytes(*element)))
                .collect::<Vec<u16>>()
        });
        let mut record = piece.record.clone();
        (record.bytes, record.dtype) = (Arc::new(halves), DType::Bf16);
        Some(Piece {
            record,
            digest: None,
            origin: piece.origin,
        })
    }
}

/// The bits of the bf16 nearest to the `f32` with these bits, ties to even; a NaN stays one. Without branches, so that the
/// loop over it is vectorised.
fn to_bf16(bits: u32) -> u16 {
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if nan { quiet } else { nearest }) as u16
}

struct Rounded {
    held: Box<dyn Held>,
    meter: Arc<Meter>,
    _charges: [Charge; 2],
}

impl Layer for Bf16 {
    fn save(&self, piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        let Some(rounded) = self.round(&piece) else {
            return self.below.save(piece);
        };
        self.meter.saved();
        self.meter.hit();
        let len = piece.bytes().len();
        drop(piece);
        let _charges = [
            self.meter.charge(Side::Logical, len),
            self.meter.charge(Side::Kept, len / 2),
        ];
        Ok(Box::new(Rounded {
            held: self.below.save(rounded)?,
            meter: self.meter.clone(),
            _charges,
        }))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        self.below.quote(self.round(&piece).unwrap_or(piece))
    }

    fn report(&self, report: &mut Report) {
        let layer = self.meter.report();
        if layer.saves > 0 {
            report.layers.push(layer);
        }
        self.below.report(report);
    }
}

impl Held for Rounded {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let halves = self.held.fetch()?;
        Ok(self.meter.unpacking(|| {
            let (halves, _) = halves.as_bytes().as_chunks::<2>();
            let widen = |half: &[u8; 2]| f32::from_bits(u32::from(u16::from_ne_bytes(*half)) << 16);
            Arc::new(halves.iter().map(widen).collect::<Vec<f32>>())
        }))
    }

    below!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        let mut bits = 1u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for bits in [bits, bits & 0xffff_8000, bits | 0x7f80_0000, bits | 0x7f7f_8000] {
                assert_eq!(
                    to_bf16(bits),
                    half::bf16::from_f32(f32::from_bits(bits)).to_bits(),
                    "{bits:#x}"
                );
            }
        }
    }
}
