//! What is kept apart, packed into windows whole: of records that a window's end cuts, what is behind the cut would be learned without what it answers.
//!
//! # Source
//!
//! Best-fit decreasing, as H. Ding and others pack documents: Fewer Truncations Improve Language Modeling, arXiv 2404.10830, section 3.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::TokenStream;

/// What is kept apart in a stream, in pieces of at most `sequence + 1` tokens, those of which none counts left out: whole, if it is no longer. What is longer is
/// cut into as few as there can be, of which one begins with the token with which the one before it ends: there it is given, and here predicted.
/// `shorter` is how many tokens less than a whole window the first of several has, out of so many and one.
pub(super) fn pieces(
    stream: &TokenStream,
    sequence: usize,
    mut shorter: impl FnMut(usize) -> usize,
) -> Vec<Range<usize>> {
    let mut cut = Vec::with_capacity(stream.stretches(0..stream.len()).count());
    for apart in stream.stretches(0..stream.len()) {
        let last = apart.end - 1;
        let mut begin = apart.start;
        let spare = (last - begin).next_multiple_of(sequence) - (last - begin);
        let mut room = match last - begin > sequence {
            true => sequence - shorter(spare),
            false => sequence,
        };
        while begin < last {
            let end = last.min(begin + room);
            cut.push(begin..end + 1);
            (begin, room) = (end, sequence);
        }
    }
    let counts = |piece: &Range<usize>| (piece.start + 1..piece.end).any(|target| stream.counts(target));
    let kept: Vec<bool> = cut.par_iter().map(counts).collect();
    let mut kept = kept.into_iter();
    cut.retain(|_| kept.next().unwrap_or(false));
    cut
}

/// Windows of whole pieces.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    /// The pieces of all windows, window by window.
    pieces: Vec<Range<usize>>,
    /// Which of them each window has.
    windows: Vec<Range<usize>>,
}

impl Packed {
    /// As few windows of `sequence + 1` tokens or fewer as best fit finds: the longest pieces first, in their order among those of one length, each where it
    /// leaves the least room. Windows come in the order of their longest pieces.
    pub(super) fn of(mut pieces: Vec<Range<usize>>, sequence: usize) -> Self {
        pieces.sort_by_key(|piece| Reverse(piece.len()));
        // windows by the room that they have
        let mut open: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut windows = 0;
        let window_of: Vec<u32> = pieces
            .iter()
            .map(|piece| {
                let predicted = piece.len() - 1;
                let tightest = open.range_mut(predicted..).next();
                let (room, window) = match tightest {
                    Some((&room, of_room)) => {
                        let window = of_room.pop().expect("rooms without a window are taken out");
                        if of_room.is_empty() {
                            open.remove(&room);
                        }
                        (room, window)
                    }
                    None => {
                        windows += 1;
                        (sequence, windows - 1)
                    }
                };
                if room > predicted {
                    open.entry(room - predicted).or_default().push(window);
                }
                window
            })
            .collect();
        // of each window where its pieces begin, and then where the next of them comes
        let mut nexts = vec![0; windows as usize + 1];
        for &window in &window_of {
            nexts[window as usize + 1] += 1;
        }
        for window in 1..nexts.len() {
            nexts[window] += nexts[window - 1];
        }
        let windows = nexts.windows(2).map(|of_two| of_two[0]..of_two[1]).collect();
        let mut placed = vec![0..0; pieces.len()];
        for (piece, window) in pieces.into_iter().zip(window_of) {
            let place = &mut nexts[window as usize];
            placed[*place] = piece;
            *place += 1;
        }
        Self {
            pieces: placed,
            windows,
        }
    }

    /// Number of windows.
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Their order.
    pub(super) fn windows_mut(&mut self) -> &mut [Range<usize>] {
        &mut self.windows
    }

    /// The pieces of a window.
    pub(super) fn window(&self, window: usize) -> &[Range<usize>] {
        &self.pieces[self.windows[window].clone()]
    }

    /// Tokens that are predicted in all windows.
    pub(super) fn predicted(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len() - 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One behind the other.
    fn of_lengths(predicted: &[usize]) -> Vec<Range<usize>> {
        let mut begin = 0;
        let piece = |&predicted: &usize| {
            let piece = begin..begin + predicted + 1;
            begin = piece.end;
            piece
        };
        predicted.iter().map(piece).collect()
    }

    fn rooms(packed: &Packed) -> Vec<Vec<usize>> {
        let lengths = |window| packed.window(window).iter().map(|piece: &Range<usize>| piece.len() - 1);
        (0..packed.len()).map(|window| lengths(window).collect()).collect()
    }

    #[test]
    fn each_goes_where_it_leaves_the_least_room() {
        let packed = Packed::of(of_lengths(&[3, 6, 4, 8, 7, 1, 2]), 10);
        // 2 fits behind 7 and 3 exactly, and behind 8 exactly
        assert_eq!(rooms(&packed), [vec![8, 2], vec![7, 3], vec![6, 4], vec![1]]);
        assert_eq!(packed.predicted(), 31);
    }

    #[test]
    fn those_of_one_length_keep_their_order() {
        let packed = Packed::of(of_lengths(&[5, 5, 5]), 10);
        assert_eq!(packed.window(0), [0..6, 6..12]);
        assert_eq!(packed.window(1), std::slice::from_ref(&(12..18)));
    }

    #[test]
    fn longer_ones_are_cut_into_as_few_as_there_can_be() {
        let stream = TokenStream::of_records((0..25).collect(), vec![true; 25], 13);
        // 12 predictions each, the second of 11
        let cut = |shorter: usize| pieces(&stream, 5, |spare| shorter.min(spare));
        assert_eq!(cut(0), [0..6, 5..11, 10..13, 13..19, 18..24, 23..25]);
        assert_eq!(cut(2), [0..4, 3..9, 8..13, 13..17, 16..22, 21..25]);
        assert_eq!(cut(99), [0..3, 2..8, 7..13, 13..15, 14..20, 19..25]);
        assert_eq!(pieces(&stream, 12, |_| panic!("nothing is cut")), [0..13, 13..25]);
    }

    #[test]
    fn pieces_of_which_nothing_counts_are_left_out() {
        let counted = (0..20).map(|at| at == 7 || at == 10).collect();
        let stream = TokenStream::of_records((0..20).collect(), counted, 10);
        // the first of a record is predicted by nothing
        assert_eq!(pieces(&stream, 3, |_| 0), std::slice::from_ref(&(6..10)));
    }

    proptest! {
        #[test]
        fn every_token_but_the_first_of_each_is_predicted_once(
            records in proptest::collection::vec(1usize..40, 1..60), sequence in 1usize..30, shorter in 0usize..30,
        ) {
            let all = records.iter().sum::<usize>();
            let stream = TokenStream::of_lengths(&records);
            let pieces = pieces(&stream, sequence, |spare| shorter.min(spare));
            let least = pieces.iter().map(|piece| piece.len() - 1).sum::<usize>().div_ceil(sequence);
            let packed = Packed::of(pieces, sequence);
            prop_assert!(packed.len() >= least);
            let mut predicted = Vec::new();
            for window in 0..packed.len() {
                let pieces = packed.window(window);
                prop_assert!(pieces.iter().map(|piece| piece.len() - 1).sum::<usize>() <= sequence);
                predicted.extend(pieces.iter().flat_map(|piece| piece.start + 1..piece.end));
            }
            predicted.sort_unstable();
            let mut begin = 0;
            let first: Vec<usize> = records.iter().map(|len| { begin += len; begin - len }).collect();
            let want: Vec<usize> = (0..all).filter(|at| !first.contains(at)).collect();
            prop_assert_eq!(predicted, want);
            // no two windows would fit into one
            let used: Vec<usize> = (0..packed.len()).map(|w| packed.window(w).iter().map(|p| p.len() - 1).sum()).collect();
            let half = used.iter().filter(|&&used| 2 * used <= sequence).count();
            prop_assert!(half <= 1, "{:?}", used);
        }
    }
}
