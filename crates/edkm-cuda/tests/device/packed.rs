//! Packed products beside edkm-palette's: the same bits.

use std::num::NonZeroUsize;

use edkm_cuda::packed::Packed;
use edkm_palette::{PaletteSpec, PalettizedMatrix};
use edkm_testkit::assert_bitwise_equal;

use crate::device::device;
use edkm_testkit::random;

pub(crate) fn matrix(rows: usize, cols: usize, spec: PaletteSpec, scaled: Option<()>) -> PalettizedMatrix {
    let palettes = random(1, spec.groups(rows) * spec.palette_len());
    let indices: Vec<u8> = random(2, rows * cols / spec.vector)
        .iter()
        .map(|x| (((x + 1.0) / 2.0 * spec.clusters() as f32) as usize).min(spec.clusters() - 1) as u8)
        .collect();
    let scales = random(3, rows);
    let scales = scaled.map(|()| scales.as_slice());
    PalettizedMatrix::pack(rows, cols, spec, &palettes, &indices, scales).expect("a matrix")
}

#[test]
fn products_have_the_bits_of_the_cpu() {
    let Some(device) = device() else { return };
    // less than a tile and a block of columns, whole ones, and more than all threads of a block sum at once
    for (rows, cols) in [(1, 8), (16, 256), (37, 520), (50, 4360)] {
        for bits in 1..=8 {
            // a palette for all; several in one tile; groups with padding behind them
            for (group, vector) in [(None, 1), (Some(3), 1), (Some(15), 2), (Some(16), 8), (None, 4)] {
                // one size after another, or the whole would take long
                if cols > 600 && (bits + vector) % 3 != 0 {
                    continue;
                }
                let spec = PaletteSpec {
                    group_rows: group.and_then(NonZeroUsize::new),
                    vector,
                    ..PaletteSpec::new(bits as u8)
                };
                let scaled = (bits % 2 == 0).then_some(());
                let matrix = matrix(rows, cols, spec, scaled);
                let Ok(packed) = Packed::new(&device, &matrix);
                for inputs in [1, 2] {
                    let x = random(4, inputs * cols);
                    let mut want = vec![0.0; inputs * rows];
                    matrix.matmul(&x, inputs, &mut want).expect("a product");
                    let (x, mut y) = (device.array(&x), device.array(&vec![f32::NAN; inputs * rows]));
                    let Ok(()) = packed.multiply(&device, x.as_slice(), y.as_mut());
                    let Ok(y) = y.to_host(&device);
                    let name = format!("[{rows}, {cols}] at {bits} bits, groups of {group:?}, vectors of {vector}");
                    assert_bitwise_equal(&name, &y, &want);
                }
            }
        }
    }
}
