//! Numbers that look random, the same for the same seed.

/// Marsaglia's xorshift with 64 bits.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Another sequence for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero; small seeds are spread.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One of the numbers below `bound`; 0 where there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(usize::MAX) % bound.max(1)
    }

    /// True once in `many` times.
    pub(crate) fn once_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}
