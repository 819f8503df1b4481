//! BGP's attributes of a route.

use std::fmt;
use std::net::IpAddr;

/// The attributes of a route that came over BGP (RFC 4271, section 5).
///
/// Values that can't be read are in [`other`](Self::other), with those that have no field here:
/// BIRD shortens what is very long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// AS_PATH.
    pub as_path: Option<AsPath>,
    /// NEXT_HOP: one address, or a global and a link-local one (RFC 2545, section 3).
    pub next_hops: Vec<IpAddr>,
    /// LOCAL_PREF.
    pub local_preference: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// All else that BIRD says of the route, by name in its words.
    pub other: Vec<(String, String)>,
}

/// How the route came into BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From inside of its AS.
    Igp,
    /// Over EGP.
    Egp,
    /// By some other means.
    Incomplete,
}

/// The autonomous systems that a route has passed, the nearest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsPath(pub Vec<Segment>);

/// A part of an AS path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Passed in this order.
    Sequence(Vec<u32>),
    /// Passed in some order.
    Set(Vec<u32>),
    /// Passed inside of a confederation, in this order (RFC 5065).
    ConfederationSequence(Vec<u32>),
    /// Passed inside of a confederation, in some order.
    ConfederationSet(Vec<u32>),
}

/// A community: an AS number, and what its owner means by the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u16, pub u16);

/// A large community: an AS number, and what its owner means by the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl Attributes {
    /// `BGP.as_path: 64500`; one that is indented once more goes on with the attribute before.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(more) = line.strip_prefix('\t') {
            return self.more(more.trim());
        }
        let Some((name, value)) = line.split_once(':') else { return };
        let (name, value) = (name.trim(), value.trim());
        if self.read(name, value).is_none() {
            self.other.push((name.to_owned(), value.to_owned()));
        }
    }

    /// `None` if it has no field, or can't be read.
    fn read(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "BGP.origin" => self.origin = Some(Origin::read(value)?),
            "BGP.as_path" => self.as_path = Some(AsPath::read(value)?),
            "BGP.next_hop" => {
                let next_hops: Result<_, _> = value.split_whitespace().map(str::parse).collect();
                self.next_hops = next_hops.ok()?;
            }
            "BGP.local_pref" => self.local_preference = Some(value.parse().ok()?),
            "BGP.med" => self.med = Some(value.parse().ok()?),
            "BGP.community" => self.communities = communities(value)?,
            "BGP.large_community" => self.large_communities = large_communities(value)?,
            _ => return None,
        }
        Some(())
    }

    /// Only lists are long enough for a second line, and each of theirs is a list of its own.
    fn more(&mut self, value: &str) {
        if let Some(more) = communities(value) {
            self.communities.extend(more);
        } else if let Some(more) = large_communities(value) {
            self.large_communities.extend(more);
        } else if let Some((_, text)) = self.other.last_mut() {
            text.push(' ');
            text.push_str(value);
        }
    }
}

impl Origin {
    fn read(word: &str) -> Option<Self> {
        match word {
            "IGP" => Some(Self::Igp),
            "EGP" => Some(Self::Egp),
            "Incomplete" => Some(Self::Incomplete),
            _ => None,
        }
    }
}

impl AsPath {
    /// `64500 64501 {64502 64503}`; confederations have `(…)` and `({…})`.
    fn read(mut text: &str) -> Option<Self> {
        let mut segments = Vec::new();
        loop {
            text = text.trim_start();
            if text.is_empty() {
                return Some(Self(segments));
            }
            let (make, inside, behind): (fn(Vec<u32>) -> Segment, _, _) =
                if let Some((inside, behind)) = between(text, "({", "})") {
                    (Segment::ConfederationSet, inside, behind)
                } else if let Some((inside, behind)) = between(text, "(", ")") {
                    (Segment::ConfederationSequence, inside, behind)
                } else if let Some((inside, behind)) = between(text, "{", "}") {
                    (Segment::Set, inside, behind)
                } else {
                    let (inside, behind) = text.split_at(text.find(['(', '{']).unwrap_or(text.len()));
                    (Segment::Sequence, inside, behind)
                };
            let numbers: Result<Vec<u32>, _> = inside.split_whitespace().map(str::parse).collect();
            segments.push(make(numbers.ok()?));
            // Not even an empty sequence: it would go on for ever.
            if behind.len() == text.len() {
                return None;
            }
            text = behind;
        }
    }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.strip_prefix(open)?.split_once(close)
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(segments) = self;
        for (index, segment) in segments.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let (open, numbers, close) = match segment {
                Segment::Sequence(numbers) => ("", numbers, ""),
                Segment::Set(numbers) => ("{", numbers, "}"),
                Segment::ConfederationSequence(numbers) => ("(", numbers, ")"),
                Segment::ConfederationSet(numbers) => ("({", numbers, "})"),
            };
            let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
            write!(f, "{open}{}{close}", numbers.join(" "))?;
        }
        Ok(())
    }
}

/// `(64500,1) (64500,2)`
fn communities(text: &str) -> Option<Vec<Community>> {
    tuples(text)?
        .into_iter()
        .map(|[first, second]| Some(Community(first.try_into().ok()?, second.try_into().ok()?)))
        .collect()
}

/// `(64500, 1, 2) (64500, 1, 3)`
fn large_communities(text: &str) -> Option<Vec<LargeCommunity>> {
    Some(
        tuples(text)?
            .into_iter()
            .map(|[first, second, third]| LargeCommunity(first, second, third))
            .collect(),
    )
}

/// `(…) (…)`, each of `N` numbers.
fn tuples<const N: usize>(mut text: &str) -> Option<Vec<[u32; N]>> {
    let mut tuples = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Some(tuples);
        }
        let (inside, behind) = between(text, "(", ")")?;
        let numbers: Result<Vec<u32>, _> = inside.split(',').map(|number| number.trim().parse()).collect();
        tuples.push(numbers.ok()?.try_into().ok()?);
        text = behind;
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}
