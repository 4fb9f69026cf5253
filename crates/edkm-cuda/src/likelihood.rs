//! Log likelihoods of given tokens, from logits in a device's memory.
#![allow(unsafe_code)]

use crate::runtime::blocks;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice};

/// The natural logarithms of tokens' probabilities, on the host: number i is that of `targets[i]` by row `rows[i]` of the logits. `logits [N, V]`.
/// NaN or infinite where a logit of the row is. Four bytes a target come to the host.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a row or a target is not there.
pub fn log_likelihoods<R: Runtime>(
    runtime: &R,
    logits: Slice<'_, f32>,
    vocabulary: usize,
    rows: &[u32],
    targets: &[u32],
) -> Result<Vec<f32>, R::Error> {
    let count = check::rows("logits [N, V]", logits.len(), vocabulary);
    check::len("targets", targets.len(), rows.len());
    if let Some(row) = rows.iter().find(|&&row| row as usize >= count) {
        panic!("row {row} of {count} rows of logits");
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= vocabulary) {
        panic!("target {target} is beyond a vocabulary of {vocabulary}");
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let asked = Array::<R, u32>::from_host(runtime, &[rows, targets].concat())?;
    let mut out = Array::<R, f32>::unset(runtime, rows.len())?;
    let arguments = [
        logits.argument(),
        asked.as_slice().part(0, rows.len()).argument(),
        asked.as_slice().part(rows.len(), rows.len()).argument(),
        out.as_mut().argument(),
        Size(rows.len()),
        Size(vocabulary),
    ];
    // SAFETY: edkm_log_likelihoods(logits, rows_of, targets, out, count, vocabulary) reaches `count` numbers of rows_of, targets and out, and of the
    // logits the rows and targets that were checked.
    unsafe { runtime.launch("edkm_log_likelihoods", blocks(rows.len()), &arguments) }?;
    out.to_host(runtime)
}
