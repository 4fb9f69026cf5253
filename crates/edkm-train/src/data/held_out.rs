//! Which part of a text is held out to measure on, where there is no other text for that.

use std::ops::Range;

/// Tokens that are worth cutting off a file: shorter ones are held out as a whole or not at all.
const WORTH_CUTTING: f64 = 256.0;

/// What is held out of each file, its end: `share` of all, from every part of the text, that what is measured on be like what is trained on. Files so short
/// that their share says nothing are held out whole, now and then. A text in one file ends with what is held out of it.
pub(super) fn held_out(files: &[Range<usize>], share: f64) -> Vec<Range<usize>> {
    let all = files.last().map_or(0, |last| last.end);
    let wanted = (all as f64 * share) as usize;
    let end_of_all = || {
        let end = |file: &Range<usize>| (all - wanted).clamp(file.start, file.end)..file.end;
        files.iter().map(end).collect()
    };
    if files.len() < 2 {
        return end_of_all();
    }
    let (mut seen, mut taken) = (0, 0);
    let mut ends: Vec<Range<usize>> = Vec::with_capacity(files.len());
    for file in files {
        seen += file.len();
        let due = ((seen as f64 * share) as usize).saturating_sub(taken);
        let len = match (file.len() as f64 * share >= WORTH_CUTTING, due >= file.len()) {
            (true, _) => due.min(file.len()),
            (false, true) => file.len(),
            (false, false) => 0,
        };
        taken += len;
        ends.push(file.end - len..file.end);
    }
    match 2 * taken >= wanted {
        true => ends,
        // a few short files: the end of all of it
        false => end_of_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(lens: &[usize]) -> Vec<Range<usize>> {
        let mut end = 0;
        let file = |&len: &usize| {
            end += len;
            end - len..end
        };
        lens.iter().map(file).collect()
    }

    fn lens(of: &[usize]) -> Vec<usize> {
        let files = files(of);
        let ends = held_out(&files, 0.1);
        assert!(files
            .iter()
            .zip(&ends)
            .all(|(file, end)| file.start <= end.start && file.end == end.end));
        ends.iter().map(Range::len).collect()
    }

    #[test]
    fn a_tenth_of_each_file_is_held_out_and_of_short_ones_every_tenth() {
        assert_eq!(lens(&[1005]), [100]);
        assert_eq!(lens(&[10_000, 5_000, 40_000]), [1_000, 500, 4_000]);
        assert_eq!(lens(&[]), [0; 0]);
        let short = lens(&[20; 100]);
        assert_eq!(short.iter().filter(|&&len| len == 20).count(), 10);
        assert_eq!(short.iter().sum::<usize>(), 200);
        // what short ones are due is not lost
        assert_eq!(lens(&[1_000, 1_000, 18_000]), [0, 0, 2_000]);
        // nothing of two short files would be enough
        assert_eq!(lens(&[50, 100]), [0, 15]);
        assert_eq!(lens(&[100, 5]), [0, 5]);
    }
}
