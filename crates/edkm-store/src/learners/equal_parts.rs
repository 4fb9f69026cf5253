//! Gathering parts of different lengths by collectives that take parts of one length, as NCCL's and MPI's do.

use std::sync::Arc;

use super::odd_one_out;
use crate::{SharedBytes, StoreError};

/// [`LearnerGroup::all_gather`](crate::LearnerGroup::all_gather) in two rounds of `gather`: first tag and length, 16 bytes a learner; then the parts,
/// with zeros behind them up to the longest. `gather` gives all learners its argument, which is of the same length on each, and returns theirs, one
/// behind the other by rank.
///
/// # Errors
/// `gather`'s; [`StoreError::Learner`] when the tags differ, or, of the caller's own `rank`, when `gather` returns something of another length.
pub fn gather_equal_parts(
    rank: usize,
    world: usize,
    tag: u64,
    part: &[u8],
    mut gather: impl FnMut(&[u8]) -> Result<Vec<u8>, StoreError>,
) -> Result<Vec<Arc<dyn SharedBytes>>, StoreError> {
    let mut of_all = |own: &[u8]| -> Result<Vec<u8>, StoreError> {
        let all = gather(own)?;
        if all.len() == world * own.len() {
            return Ok(all);
        }
        let reason = format!("gathered {} bytes, not {world} times {}", all.len(), own.len());
        Err(StoreError::Learner { rank, world, reason })
    };
    let header = [tag, part.len() as u64].map(u64::to_le_bytes).concat();
    let (tags, lens): (Vec<_>, Vec<_>) = of_all(&header)?
        .as_chunks::<16>()
        .0
        .iter()
        .map(|header| {
            let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
            (number(0), number(8) as usize)
        })
        .unzip();
    if let Some(rank) = odd_one_out(&tags) {
        return Err(StoreError::came_apart(rank, world));
    }
    let longest = lens.iter().copied().max().unwrap_or(0);
    if longest == 0 {
        return Ok((0..world).map(|_| Arc::new(Vec::<u8>::new()) as _).collect());
    }
    let mut padded = part.to_vec();
    padded.resize(longest, 0);
    let all = of_all(&padded)?;
    let parts = all.chunks_exact(longest).zip(lens);
    Ok(parts.map(|(part, len)| Arc::new(part[..len].to_vec()) as _).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{in_process_learners, LearnerGroup, DEFAULT_PATIENCE};

    /// Runs `program` on each learner with a collective that refuses parts of different lengths.
    fn on_each<R: Send>(
        world: usize,
        program: impl Fn(usize, &mut dyn FnMut(&[u8]) -> Result<Vec<u8>, StoreError>) -> R + Sync,
    ) -> Vec<R> {
        let learners = in_process_learners(world, DEFAULT_PATIENCE);
        std::thread::scope(|scope| {
            let program = &program;
            let threads: Vec<_> = learners
                .into_iter()
                .map(|learner| {
                    scope.spawn(move || {
                        program(learner.rank(), &mut |own| {
                            let all = learner.all_gather(0, Arc::new(own.to_vec()))?;
                            assert!(all.iter().all(|part| part.as_bytes().len() == own.len()));
                            Ok(all.iter().flat_map(|part| part.as_bytes()).copied().collect())
                        })
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        })
    }

    #[test]
    fn parts_of_any_length_come_back_by_rank() {
        for lens in [[3, 0, 5], [0, 0, 0], [4, 4, 4]] {
            let gathered = on_each(3, |rank, gather| {
                gather_equal_parts(rank, 3, 7, &vec![rank as u8 + 1; lens[rank]], gather).expect("gathered")
            });
            for parts in gathered {
                for (rank, part) in parts.iter().enumerate() {
                    assert_eq!(part.as_bytes(), vec![rank as u8 + 1; lens[rank]]);
                }
            }
        }
    }

    #[test]
    fn learners_that_have_come_apart_are_named() {
        let tags = [5, 5, 6];
        let gathered = on_each(3, |rank, gather| {
            gather_equal_parts(rank, 3, tags[rank], &[1], gather).map(drop)
        });
        for error in gathered {
            let text = error.expect_err("other tags").to_string();
            assert!(text.starts_with("learner 2 of 3 gathers another record"), "{text}");
        }
    }
}
