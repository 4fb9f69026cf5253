//! Blocks of memory that were given back and are kept for the next that asks: bookkeeping alone, which itself allocates nothing.

/// The most blocks that are kept.
const MOST: usize = 512;

/// A block that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) address: usize,
    pub(crate) size: usize,
    pub(crate) align: usize,
}

/// The blocks that are kept, oldest first. What is in use and what is kept come to no more than what was in use at once before: such blocks never take more
/// memory than they took at their most. (The program may, by a few percent: its other memory has its most at another time.)
#[derive(Debug)]
pub(crate) struct KeptBlocks {
    blocks: [Block; MOST],
    count: usize,
    /// Bytes of the blocks that are kept.
    kept: usize,
    /// Bytes of the blocks in use.
    used: usize,
    /// The most bytes that were there, in use or kept.
    most: usize,
}

impl KeptBlocks {
    pub(crate) const fn new() -> Self {
        let none = Block {
            address: 0,
            size: 0,
            align: 0,
        };
        Self {
            blocks: [none; MOST],
            count: 0,
            kept: 0,
            used: 0,
            most: 0,
        }
    }

    /// The block that was kept last of those of this size and alignment; it is in use from now on.
    pub(crate) fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        let fits = |block: &Block| block.size == size && block.align == align;
        let index = self.blocks[..self.count].iter().rposition(fits)?;
        let block = self.remove(index);
        self.used += size;
        Some(block.address)
    }

    /// Notes that `size` more bytes come into use, of a block that is not one of these. What `free` is called with must go: before that block comes, or
    /// there is more than there was ever. Once it is there [`Self::came`] is to be told; if it does not come, [`Self::less`].
    pub(crate) fn more(&mut self, size: usize, free: impl FnMut(Block)) {
        // several that ask for more than there can be
        self.used = self.used.saturating_add(size);
        self.free_down_to(self.most, free);
    }

    /// Notes that what was to come into use is there.
    pub(crate) fn came(&mut self) {
        self.most = self.most.max(self.used.saturating_add(self.kept));
    }

    /// Notes that so many bytes are in use no longer, and are not kept.
    pub(crate) fn less(&mut self, size: usize) {
        self.used = self.used.saturating_sub(size);
    }

    /// Keeps a block that was in use. What `free` is called with must go.
    pub(crate) fn keep(&mut self, block: Block, mut free: impl FnMut(Block)) {
        if self.count == MOST {
            free(self.remove(0));
        }
        self.less(block.size);
        self.blocks[self.count] = block;
        self.count += 1;
        self.kept += block.size;
    }

    /// Lets all that is kept go.
    pub(crate) fn free_all(&mut self, free: impl FnMut(Block)) {
        self.free_down_to(0, free);
    }

    /// Whether such a block is kept.
    #[cfg(test)]
    pub(crate) fn any(&self, is_such: impl Fn(&Block) -> bool) -> bool {
        self.blocks[..self.count].iter().any(is_such)
    }

    /// Lets blocks go, the oldest first, until no more than `bytes` are in use or kept, or none is kept.
    fn free_down_to(&mut self, bytes: usize, mut free: impl FnMut(Block)) {
        while self.count > 0 && self.used.saturating_add(self.kept) > bytes {
            free(self.remove(0));
        }
    }

    fn remove(&mut self, index: usize) -> Block {
        let block = self.blocks[index];
        self.blocks.copy_within(index + 1..self.count, index);
        self.count -= 1;
        self.kept -= block.size;
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: usize, size: usize) -> Block {
        Block {
            address,
            size,
            align: 8,
        }
    }

    /// What `act` lets go.
    fn freed(act: impl FnOnce(&mut dyn FnMut(Block))) -> Vec<Block> {
        let mut blocks = Vec::new();
        act(&mut |block| blocks.push(block));
        blocks
    }

    #[test]
    fn a_block_of_the_same_size_and_alignment_comes_back_the_newest_first() {
        let mut kept = KeptBlocks::new();
        kept.more(30, |_| panic!("nothing is kept"));
        for address in [1, 2, 3] {
            kept.keep(block(address, 10), |_| panic!("there is room"));
        }
        assert_eq!(kept.take(11, 8), None);
        assert_eq!(kept.take(10, 16), None);
        let taken: Vec<_> = (0..4).map(|_| kept.take(10, 8)).collect();
        assert_eq!(taken, [Some(3), Some(2), Some(1), None]);
    }

    /// A block comes into use.
    fn comes(kept: &mut KeptBlocks, size: usize, free: impl FnMut(Block)) {
        kept.more(size, free);
        kept.came();
    }

    #[test]
    fn there_is_never_more_than_was_in_use_at_once() {
        let mut kept = KeptBlocks::new();
        // 100 bytes in use at once
        comes(&mut kept, 60, |_| panic!());
        comes(&mut kept, 40, |_| panic!());
        kept.keep(block(1, 60), |_| panic!());
        kept.keep(block(2, 40), |_| panic!());
        // of another size: the oldest goes, which is enough
        assert_eq!(freed(|free| comes(&mut kept, 50, free)), [block(1, 60)]);
        // and the other
        assert_eq!(freed(|free| comes(&mut kept, 20, free)), [block(2, 40)]);
        // beyond all that was before
        assert_eq!(freed(|free| comes(&mut kept, 70, free)), []);
        kept.keep(block(3, 70), |_| panic!());
        kept.less(50);
        assert_eq!(freed(|free| comes(&mut kept, 50, free)), []);
        assert_eq!((kept.used, kept.kept, kept.most), (70, 70, 140));
    }

    #[test]
    fn a_block_that_did_not_come_is_not_what_was_in_use_before() {
        let mut kept = KeptBlocks::new();
        comes(&mut kept, 100, |_| panic!());
        kept.keep(block(1, 100), |_| panic!());
        assert_eq!(freed(|free| kept.more(1 << 40, free)), [block(1, 100)]);
        kept.more(usize::MAX, |_| panic!("nothing is kept"));
        kept.less(usize::MAX);
        kept.less(1 << 40);
        assert_eq!(kept.most, 100);
    }

    #[test]
    fn more_blocks_than_there_is_room_for_let_the_oldest_go() {
        let mut kept = KeptBlocks::new();
        for _ in 0..=MOST {
            kept.more(1, |_| panic!("nothing is kept"));
        }
        for address in 0..MOST {
            kept.keep(block(address, 1), |_| panic!("there is room"));
        }
        assert_eq!(freed(|free| kept.keep(block(MOST, 1), free)), [block(0, 1)]);
        assert_eq!((kept.count, kept.used, kept.kept), (MOST, 0, MOST));
    }
}
