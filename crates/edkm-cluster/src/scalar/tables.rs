//! Tables indexed by key, one set for each thread, used again and again.

use std::cell::Cell;

use crate::half_key::KEYS;
use crate::lanes::Lanes;
use crate::scalar::lookup::SlopeShift;

/// Tables whose entries are NaN but while they are in use: what was not computed must not look like a number.
pub(crate) struct Tables {
    clustered: Box<[f32; KEYS]>,
    gradient: Box<[SlopeShift; KEYS]>,
}

thread_local! {
    static LOCAL: Cell<Option<Box<Tables>>> = const { Cell::new(None) };
}

impl Tables {
    /// Runs `f` on the thread's own tables. They are taken out meanwhile, so a nested call would merely get new ones.
    pub(crate) fn with_local<R>(f: impl FnOnce(&mut Tables) -> R) -> R {
        let mut tables = LOCAL.take().unwrap_or_else(|| {
            Box::new(Tables {
                clustered: filled(f32::NAN),
                gradient: filled([f32::NAN; 2]),
            })
        });
        let result = f(&mut tables);
        LOCAL.set(Some(tables));
        result
    }

    /// Runs `f` on a table that holds a clustered value for each key.
    pub(crate) fn with_clustered<R>(
        &mut self,
        keys_u: &[u16],
        clustered_u: &[Lanes],
        f: impl FnOnce(&[f32; KEYS]) -> R,
    ) -> R {
        let table = &mut self.clustered;
        for (&key, clustered) in keys_u.iter().zip(Lanes::unpack(clustered_u)) {
            table[key as usize] = clustered as f32;
        }
        let result = f(table);
        for &key in keys_u {
            table[key as usize] = f32::NAN;
        }
        result
    }

    /// Runs `f` on a table that holds slope and shift for each key.
    pub(crate) fn with_gradient<R>(
        &mut self,
        keys_u: &[u16],
        slope_u: &[Lanes],
        shift_u: &[Lanes],
        f: impl FnOnce(&[SlopeShift; KEYS]) -> R,
    ) -> R {
        let table = &mut self.gradient;
        for ((&key, slope), shift) in keys_u.iter().zip(Lanes::unpack(slope_u)).zip(Lanes::unpack(shift_u)) {
            table[key as usize] = [slope as f32, shift as f32];
        }
        let result = f(table);
        for &key in keys_u {
            table[key as usize] = [f32::NAN; 2];
        }
        result
    }
}

fn filled<T: Copy>(value: T) -> Box<[T; KEYS]> {
    match vec![value; KEYS].into_boxed_slice().try_into() {
        Ok(table) => table,
        Err(_) => unreachable!("the length is KEYS"),
    }
}
