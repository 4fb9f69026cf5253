//! Palettized matrices.
