//! BGP communities: [`Community`] (RFC 1997) and [`LargeCommunity`] (RFC 8092).

use std::fmt;
use std::str::FromStr;

use crate::excerpt::quoted;

/// A standard community (RFC 1997), written `64512:100` or by its registered name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u16, pub u16);

/// A large community (RFC 8092), written `64512:1:2`: the global administrator and two values of its.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl Community {
    /// Traffic may be shifted away, the route is about to go (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(65535, 0);
    /// Traffic for the prefix is to be dropped (RFC 7999).
    pub const BLACKHOLE: Self = Self(65535, 666);
    /// Not beyond the receiver's AS or confederation (RFC 1997).
    pub const NO_EXPORT: Self = Self(65535, 65281);
    /// Not beyond the receiver (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(65535, 65282);
    /// Not to bilateral peers (RFC 3765).
    pub const NO_PEER: Self = Self(65535, 65284);

    /// Those that have a name, as the registry of IANA and most routers spell it.
    const NAMED: [(&'static str, Self); 5] = [
        ("graceful-shutdown", Self::GRACEFUL_SHUTDOWN),
        ("blackhole", Self::BLACKHOLE),
        ("no-export", Self::NO_EXPORT),
        ("no-advertise", Self::NO_ADVERTISE),
        ("no-peer", Self::NO_PEER),
    ];
}

/// What is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a {kind}: expected {expected}", quoted(.value))]
pub struct CommunityError {
    /// What it should have been.
    pub kind: &'static str,
    /// What was found.
    pub value: String,
    /// What can be read.
    pub expected: &'static str,
}

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if let Some((_, named)) = Self::NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*named);
        }
        let parts: Option<Vec<u16>> = text.split(':').map(decimal).collect();
        match parts.as_deref() {
            Some([high, low]) => Ok(Self(*high, *low)),
            _ => Err(CommunityError {
                kind: "community",
                value: text.to_owned(),
                expected: "two numbers of 0 to 65535 like 64512:100, or one of no-export, no-advertise, \
                           no-peer, graceful-shutdown, blackhole",
            }),
        }
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parts: Option<Vec<u32>> = text.split(':').map(decimal).collect();
        match parts.as_deref() {
            Some([administrator, first, second]) => Ok(Self(*administrator, *first, *second)),
            _ => Err(CommunityError {
                kind: "large community",
                value: text.to_owned(),
                expected: "three numbers of 0 to 4294967295 like 64512:1:2",
            }),
        }
    }
}

/// Without a sign, which numbers in Rust may have.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(_, named)| named == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0, self.1),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(a: u32, b: u32, c: u32, high: u16, low: u16) {
            let large = LargeCommunity(a, b, c);
            prop_assert_eq!(large.to_string().parse(), Ok(large));
            for community in [Community(high, low), Community(65535, low)] {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }

        #[test]
        fn whatever_is_read_is_what_was_written(text in "[0-9a-z:+ -]{0,12}") {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if let Ok(Community(high, low)) = text.parse() {
                let numbers: Vec<&str> = text.split(':').collect();
                let named = text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
                prop_assert!(named || numbers.len() == 2 && numbers.iter().all(|part| digits(part)));
                prop_assert!(named || numbers[0].parse() == Ok(high) && numbers[1].parse() == Ok(low));
            }
        }
    }

    /// As IANA's registry of well-known communities has them.
    #[test]
    fn names_stand_for_the_registered_values() {
        for (name, value) in [
            ("graceful-shutdown", 0xFFFF_0000_u32),
            ("blackhole", 0xFFFF_029A),
            ("no-export", 0xFFFF_FF01),
            ("no-advertise", 0xFFFF_FF02),
            ("no-peer", 0xFFFF_FF04),
        ] {
            let Community(high, low) = name.parse().unwrap();
            assert_eq!(u32::from(high) << 16 | u32::from(low), value, "{name}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for wrong in
            ["", "1", "1:2:3", "65536:1", "1:65536", "+1:1", "-1:1", " 1:1", "1:", "NO-EXPORT", "1:a"]
        {
            assert!(wrong.parse::<Community>().is_err(), "{wrong}");
        }
        for wrong in ["", "1:2", "1:2:3:4", "4294967296:1:1", "1::1", "+1:1:1", "no-export"] {
            assert!(wrong.parse::<LargeCommunity>().is_err(), "{wrong}");
        }
    }
}
