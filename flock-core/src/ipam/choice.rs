//! Numbers that look random: one sequence from a seed, one from a name.

use super::LeaseOwner;

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014). Good enough to spread addresses, not for secrets.
#[derive(Debug)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence that belongs to the name of `owner`: its state begins as
    /// FNV-1a-64 (RFC 9923) of `namespace/name`, or of `container/interface`
    /// where there is no pod.
    ///
    /// Pods keep their addresses over updates of Flock only as long as this
    /// stays as it is.
    pub(super) fn of_name(owner: &LeaseOwner) -> Self {
        let name = owner.pod.as_ref().map_or_else(|| owner.key.to_string(), ToString::to_string);
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// The next two numbers, the first one as the high half.
    pub(super) fn next_u128(&mut self) -> u128 {
        let high = self.next_u64();
        u128::from(high) << 64 | u128::from(self.next_u64())
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the reference implementation for this seed, as they
    /// are widely published for testing ports of it.
    #[test]
    fn split_mix_matches_its_reference() {
        let mut numbers = SplitMix64::new(1_234_567);
        for expected in [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423] {
            assert_eq!(numbers.next_u64(), expected);
        }
    }
}
