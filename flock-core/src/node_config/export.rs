//! What announcements carry: [`Export`], by [`Kind`].

use std::collections::BTreeSet;

use super::community::{Community, LargeCommunity};

/// Why a prefix is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is the node's.
    Summary,
    /// A pod of the node serves it.
    Anycast,
    /// It is a pod's own address, outside the summaries.
    Exception,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Summary, Self::Anycast, Self::Exception];
}

/// BGP attributes that are added to announcements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Standard communities (RFC 1997).
    pub communities: BTreeSet<Community>,
    /// Large communities (RFC 8092).
    pub large_communities: BTreeSet<LargeCommunity>,
    /// LOCAL_PREF (RFC 4271, section 5.1.5), which internal peers alone get.
    pub local_preference: Option<u32>,
    /// MULTI_EXIT_DISC (RFC 4271, section 5.1.4).
    pub med: Option<u32>,
    /// How often the node's own AS number stands in the AS path beyond the once that it does
    /// anyway; 0 to [`MAX_PREPEND`](Self::MAX_PREPEND). For external peers alone.
    pub prepend: Option<u8>,
}

impl Attributes {
    /// A longer path is refused by some as an attack.
    pub const MAX_PREPEND: u8 = 16;

    /// Whether nothing is added.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `over` says: its communities too, and its values in place of the ones that are there.
    fn refined_by(self, over: &Self) -> Self {
        Self {
            communities: &self.communities | &over.communities,
            large_communities: &self.large_communities | &over.large_communities,
            local_preference: over.local_preference.or(self.local_preference),
            med: over.med.or(self.med),
            prepend: over.prepend.or(self.prepend),
        }
    }
}

/// What the announcements of a node carry, or those to one of its peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    /// Whatever is announced.
    pub all: Attributes,
    /// Beyond that: the node's prefixes.
    pub summaries: Attributes,
    /// Beyond that: anycast addresses.
    pub anycast: Attributes,
    /// Beyond that: pods' addresses outside the node's prefixes.
    pub exceptions: Attributes,
}

impl Export {
    /// What announcements of one kind carry beyond the rest.
    pub fn of(&self, kind: Kind) -> &Attributes {
        match kind {
            Kind::Summary => &self.summaries,
            Kind::Anycast => &self.anycast,
            Kind::Exception => &self.exceptions,
        }
    }

    /// Whether nothing is added to anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What announcements of `kind` to a peer carry, where `self` is said of all peers and `peer` of
    /// this one: the communities of all that applies, and of each value the most specific, which is
    /// that of the peer and kind, of the peer, of the kind, of all.
    pub fn effective(&self, peer: &Self, kind: Kind) -> Attributes {
        let general = self.all.clone().refined_by(self.of(kind));
        general.refined_by(&peer.all).refined_by(peer.of(kind))
    }

    /// What is wrong with it whoever the peer is: the field, what was found and what is expected.
    pub fn problems(&self) -> Vec<String> {
        let too_long = |(level, said): (&str, &Attributes)| {
            let times = said.prepend.filter(|times| *times > Attributes::MAX_PREPEND)?;
            Some(format!("export{level}.prepend is {times}, expected 0 to {} times", Attributes::MAX_PREPEND))
        };
        self.levels().into_iter().filter_map(too_long).collect()
    }

    /// The levels, with where in a manifest they stand below `export`.
    pub(super) fn levels(&self) -> [(&'static str, &Attributes); 4] {
        [
            ("", &self.all),
            (".summaries", &self.summaries),
            (".anycast", &self.anycast),
            (".exceptions", &self.exceptions),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn med(med: u32) -> Attributes {
        Attributes {
            med: Some(med),
            communities: [Community(1, u16::try_from(med).unwrap())].into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_most_specific_value_wins_and_communities_add_up() {
        let nothing = Attributes::default;
        let general = Export { all: med(1), anycast: med(2), ..Export::default() };
        let peer = Export { all: med(3), anycast: med(4), ..Export::default() };
        let of_peer = Export { all: med(3), ..Export::default() };
        let silent = Export::default();
        for (general, peer, kind, expected, communities) in [
            (&general, &peer, Kind::Anycast, Some(4), vec![1, 2, 3, 4]),
            (&general, &peer, Kind::Summary, Some(3), vec![1, 3]),
            (&general, &of_peer, Kind::Anycast, Some(3), vec![1, 2, 3]),
            (&general, &silent, Kind::Anycast, Some(2), vec![1, 2]),
            (&general, &silent, Kind::Exception, Some(1), vec![1]),
            (&silent, &silent, Kind::Exception, None, vec![]),
        ] {
            let communities = communities.into_iter().map(|low| Community(1, low)).collect();
            let found = general.effective(peer, kind);
            assert_eq!(found, Attributes { med: expected, communities, ..nothing() }, "{kind:?}");
        }
    }

    #[test]
    fn each_value_stands_for_itself() {
        let general = Export {
            all: Attributes { local_preference: Some(1), prepend: Some(2), ..Attributes::default() },
            ..Export::default()
        };
        let peer =
            Export { all: Attributes { prepend: Some(0), ..Attributes::default() }, ..Export::default() };
        let found = general.effective(&peer, Kind::Summary);
        assert_eq!((found.local_preference, found.prepend, found.med), (Some(1), Some(0), None));
    }
}
