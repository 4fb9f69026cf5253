//! Matrices as they are stored, and their products with few and many inputs, beside the CPU's.

use std::num::NonZeroUsize;

use edkm_cuda::dense::{Dense, Kind};
use edkm_cuda::matrix::{Matrix, Unpacked};
use edkm_cuda::packed::Packed;
use edkm_cuda::Runtime;
use edkm_palette::PaletteSpec;
use edkm_testkit::{assert_bitwise_equal, assert_close, random};
use half::{bf16, f16};

use crate::device::{device, Device};
use crate::packed::matrix;

fn ok<T>(result: Result<T, <Device as Runtime>::Error>) -> T {
    let Ok(value) = result;
    value
}

/// A matrix in each form, with its numbers.
fn matrices(device: &Device, rows: usize, cols: usize) -> Vec<(String, Matrix<Device>, Vec<f32>)> {
    let mut all = Vec::new();
    for (bits, group, vector) in [
        (1, None, 1),
        (3, None, 1),
        (8, Some(3), 1),
        (5, Some(15), 2),
        (4, Some(16), 4),
    ] {
        let spec = PaletteSpec {
            group_rows: group.and_then(NonZeroUsize::new),
            vector,
            ..PaletteSpec::new(bits)
        };
        let matrix = matrix(rows, cols, spec, (bits != 3).then_some(()));
        let name = format!("{bits} bits, groups of {group:?}, vectors of {vector}");
        let packed = Matrix::Packed(ok(Packed::new(device, &matrix)));
        all.push((name, packed, matrix.dequantize()));
    }
    let numbers: Vec<f32> = random(7, rows * cols).iter().map(|x| x * x * x).collect();
    let halves = |of: fn(f32) -> [u8; 2]| numbers.iter().flat_map(|&x| of(x)).collect::<Vec<u8>>();
    let f32s: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let f16s = halves(|x| f16::from_f32(x).to_le_bytes());
    let bf16s = halves(|x| bf16::from_f32(x).to_le_bytes());
    let of_f16 = numbers.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    let of_bf16 = numbers.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    for (kind, bytes, values) in [
        (Kind::F32, f32s, numbers),
        (Kind::F16, f16s, of_f16),
        (Kind::Bf16, bf16s, of_bf16),
    ] {
        let dense = ok(Dense::new(device, [rows, cols], kind, &bytes));
        assert_eq!(dense.size_bytes(), bytes.len());
        all.push((format!("{kind:?}"), Matrix::Dense(dense), values));
    }
    all
}

#[test]
fn rows_have_the_bits_of_the_cpu() {
    let Some(device) = device() else { return };
    // fewer rows and indices than a block takes, and more; odd numbers of 16 bits
    for (rows, cols) in [(1, 8), (37, 72), (21, 1000), (3, 8)] {
        for (name, matrix, values) in matrices(&device, rows, cols) {
            let ids: Vec<u32> = [rows - 1, 0, rows / 2, 0].map(|row| row as u32).to_vec();
            let want: Vec<f32> = ids
                .iter()
                .flat_map(|&row| values[row as usize * cols..][..cols].to_vec())
                .collect();
            let (ids, mut out) = (device.array(&ids), device.array(&vec![0.5; 4 * cols]));
            ok(matrix.gather(&device, ids.as_slice(), out.as_mut()));
            assert_bitwise_equal(&name, &ok(out.to_host(&device)), &want);

            let first = rows / 3;
            let mut out = device.array(&vec![0.5; (rows - first) * cols]);
            match &matrix {
                Matrix::Packed(packed) => ok(packed.unpack(&device, first, out.as_mut())),
                Matrix::Dense(dense) => ok(dense.widen(&device, first, out.as_mut())),
            }
            assert_bitwise_equal(&name, &ok(out.to_host(&device)), &values[first * cols..]);
        }
    }
}

#[test]
fn a_row_that_is_not_there_is_not_a_number() {
    let Some(device) = device() else { return };
    for (name, matrix, _) in matrices(&device, 5, 8) {
        let (ids, mut out) = (device.array(&[5u32]), device.array(&[0.5f32; 8]));
        ok(matrix.gather(&device, ids.as_slice(), out.as_mut()));
        assert!(ok(out.to_host(&device)).iter().all(|x| x.is_nan()), "{name}");
    }
}

#[test]
fn every_half_is_widened_exactly() {
    let Some(device) = device() else { return };
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for kind in [Kind::F16, Kind::Bf16] {
        let dense = ok(Dense::new(&device, [256, 256], kind, &all));
        let mut out = device.array(&vec![0.5f32; 1 << 16]);
        ok(dense.widen(&device, 0, out.as_mut()));
        for (bits, got) in (0..=u16::MAX).zip(ok(out.to_host(&device))) {
            let want = match kind {
                Kind::F16 => f16::from_bits(bits).to_f32(),
                _ => bf16::from_bits(bits).to_f32(),
            };
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{kind:?} {bits:#x}: {got} against {want}"
            );
        }
    }
}

#[test]
fn few_and_many_inputs_give_the_products() {
    let Some(device) = device() else { return };
    for (rows, cols) in [(37, 72), (21, 520)] {
        for (name, matrix, values) in matrices(&device, rows, cols) {
            // room for the whole and for a few rows at a time
            for room in [[rows, cols], [4, cols]] {
                let mut unpacked = Unpacked::new([room]);
                for inputs in [1, 2, 70] {
                    let x = random(9, inputs * cols);
                    let want: Vec<f64> = x
                        .chunks_exact(cols)
                        .flat_map(|x| {
                            values.chunks_exact(cols).map(move |row| {
                                row.iter()
                                    .zip(x)
                                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
                                    .sum::<f64>()
                            })
                        })
                        .collect();
                    let (x, mut y) = (device.array(&x), device.array(&vec![f32::NAN; inputs * rows]));
                    ok(matrix.multiply(&device, x.as_slice(), y.as_mut(), &mut unpacked));
                    // sums of up to 520 terms in f32
                    assert_close(&format!("{name}, {inputs}"), &ok(y.to_host(&device)), &want, 3e-6);
                }
            }
        }
    }
}
