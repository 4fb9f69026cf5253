//! A part of a text that is taken from all of its files.

use std::ops::Range;

/// Tokens that are worth cutting off a file: a model that begins within a text says little of its first ones.
const WORTH_CUTTING: usize = 256;

/// How many tokens to take of each file that there be so many in all, from everywhere alike: pieces that are worth it, and of shorter files whole ones. `None`
/// where that is not half of them, since the files are few and short.
pub(super) fn spread(files: &[Range<usize>], tokens: usize) -> Option<Vec<usize>> {
    let all = files.last().map_or(0, |last| last.end).max(1);
    let mut taken = 0;
    let of_file = |file: &Range<usize>| {
        let due = (file.end as u128 * tokens as u128 / all as u128) as usize - taken;
        let piece = match due >= file.len().min(WORTH_CUTTING) {
            true => due.min(file.len()),
            false => 0,
        };
        taken += piece;
        piece
    };
    let lens = files.iter().map(of_file).collect();
    (2 * taken >= tokens).then_some(lens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(files: &[usize], tokens: usize) -> Option<Vec<usize>> {
        let mut end = 0;
        let file = |&len: &usize| {
            end += len;
            end - len..end
        };
        let files: Vec<_> = files.iter().map(file).collect();
        spread(&files, tokens)
    }

    #[test]
    fn pieces_are_worth_it_and_short_files_are_taken_whole() {
        assert_eq!(lens(&[10_000, 5_000, 40_000], 5_500), Some(vec![1_000, 500, 4_000]));
        let short = lens(&[20; 100], 200).unwrap();
        assert_eq!(short.iter().filter(|&&len| len == 20).count(), 10);
        assert_eq!(short.iter().sum::<usize>(), 200);
        // what short pieces are due is not lost
        assert_eq!(lens(&[1_000, 1_000, 18_000], 2_000), Some(vec![0, 0, 2_000]));
        let many = lens(&[1_000; 2_000], 40_000).unwrap();
        assert!(many.iter().all(|&len| len == 0 || len >= 256));
        assert!((39_700..=40_000).contains(&many.iter().sum::<usize>()));
        assert_eq!(lens(&[100, 5], 10), Some(vec![0, 5]));
        assert_eq!(lens(&[0, 300, 0], 300), Some(vec![0, 300, 0]));
        // nothing of two short files would be enough
        assert_eq!(lens(&[50, 100], 15), None);
        assert_eq!(lens(&[], 0), Some(vec![]));
    }
}
