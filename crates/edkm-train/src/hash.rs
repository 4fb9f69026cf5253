//! Hashes of many numbers.

use xxhash_rust::xxh3::Xxh3;

/// Adds words to a hash in pieces of some kilobytes, each of which costs about as much as a word by itself would.
pub(crate) fn add_words(hash: &mut Xxh3, words: impl IntoIterator<Item = [u8; 4]>) {
    let mut piece = [0; 4096];
    let mut len = 0;
    for word in words {
        piece[len..len + 4].copy_from_slice(&word);
        len += 4;
        if len == piece.len() {
            hash.update(&piece);
            len = 0;
        }
    }
    hash.update(&piece[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_hashed_as_the_words_are() {
        for words in [0u32, 1, 1023, 1024, 3000] {
            let [mut by_word, mut by_piece] = [Xxh3::new(), Xxh3::new()];
            (0..words).for_each(|word| by_word.update(&word.to_le_bytes()));
            add_words(&mut by_piece, (0..words).map(u32::to_le_bytes));
            assert_eq!(by_piece.digest(), by_word.digest(), "{words}");
        }
    }
}
