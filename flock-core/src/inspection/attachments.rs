//! What does not agree between records, leases and links.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{Drift, FoundLink};
use crate::inspection::look::Look;
use crate::inspection::{Difference, HeldLease, Remedy};
use crate::store::Kept;

impl Look {
    /// Files in the directory of records that should not be there.
    pub(super) fn compare_files(&self, found: &mut Vec<Difference>) {
        for file in &self.after().unreadable {
            if file.key.as_ref().is_some_and(|key| !self.is_steady(key)) {
                continue;
            }
            let remedy = file.key.as_ref().map_or(Remedy::Restart, |key| self.remedy_of_lost(key));
            let reason = format!("is not a valid record: {}", file.reason);
            found.push(Difference::new(file.path.display(), reason, remedy));
        }
        let still = self.after().unfinished.iter().filter(|path| self.before().unfinished.contains(path));
        for path in still {
            found.push(Difference::new(path.display(), "was left by an interrupted write", Remedy::Restart));
        }
    }

    pub(super) fn compare_records(&self, found: &mut Vec<Difference>) {
        let mut holders: BTreeMap<IpAddr, &Attachment> = BTreeMap::new();
        for record in self.steady() {
            if record.boot_id != self.boot_id {
                found.push(Difference::new(record.owner(), "the record is of another boot", Remedy::Restart));
                continue;
            }
            let state = match record.state {
                AttachmentState::Pending => Some("being made"),
                AttachmentState::Deleting => Some("being deleted"),
                AttachmentState::Committed => None,
            };
            if let Some(state) = state {
                let what = format!("the record says that it is {state}, and nobody works on it");
                // An agent that knew it would work on it.
                let knows = self.views.is_none() || self.lease(&record.key).is_some();
                let remedy = if knows { Remedy::Repair } else { Remedy::Restart };
                found.push(Difference::new(record.owner(), what, remedy));
            }
            for address in record.addresses.iter() {
                if let Some(other) = holders.insert(address, record) {
                    let what = format!("{address} is also in the record of {}", other.owner());
                    let remedy = Remedy::ByHand("delete one of the two pods".to_owned());
                    found.push(Difference::new(record.owner(), what, remedy));
                }
            }
        }
    }

    /// Only the agent knows of leases.
    pub(super) fn compare_leases(&self, found: &mut Vec<Difference>) {
        let Some([before, after]) = &self.views else { return };
        for record in self.steady().filter(|record| self.is_committed(record)) {
            let leased = self.lease(&record.key);
            let Some(lease) = leased.or_else(|| lease_of(&before.leases, &record.key)) else {
                let what = format!("the agent does not hold {} for it", list(record.addresses));
                // An agent that knew the record would hold them.
                found.push(Difference::new(record.owner(), what, Remedy::Restart));
                continue;
            };
            if lease != record.addresses {
                let (expected, held) = (list(record.addresses), list(lease));
                let what = format!("the agent holds {held} for it, and the record names {expected}");
                found.push(Difference::new(record.owner(), what, Remedy::Repair));
            }
        }
        for lease in &after.leases {
            let was_held = lease_of(&before.leases, &lease.key).is_some();
            if was_held && self.has_no_record(&lease.key) && !self.is_unreadable(&lease.key) {
                let what =
                    format!("the agent holds {} for it, and there is no record", list(lease.addresses));
                found.push(Difference::new(shown(&lease.key), what, Remedy::Repair));
            }
        }
    }

    pub(super) fn compare_links(&self, found: &mut Vec<Difference>) {
        for FoundLink { link, .. } in &self.kernel.links {
            let interface = &link.interface;
            let Some(owner) = &link.owner else {
                let is_somebodys = |record: &Attachment| record.host_interface == *interface;
                // A record's own link without its alias is a difference of that attachment.
                if !self.before().records.values().chain(self.after().records.values()).any(is_somebodys) {
                    let what = "it is in Flock's link group, names no owner and is in no record";
                    found.push(Difference::new(interface, what, Remedy::Repair));
                }
                continue;
            };
            if self.is_unreadable(owner) {
                continue;
            }
            if self.has_no_record(owner) {
                let mut what = format!("{interface} is there, and there is no record");
                let mut remedy = Remedy::Repair;
                if let Some(Kept { path, .. }) = self.after().kept_of(owner) {
                    let _ = write!(what, ": it could not be read and is kept as {}", path.display());
                    remedy = self.remedy_of_lost(owner);
                }
                found.push(Difference::new(shown(owner), what, remedy));
            } else if let Some(record) = self.after().records.get(owner)
                && self.is_steady(owner)
                && record.host_interface != *interface
            {
                let what = format!("{interface} is there beside {}, its link", record.host_interface);
                found.push(Difference::new(record.owner(), what, Remedy::Repair));
            }
        }
    }

    pub(super) fn compare_drifts(&self, found: &mut Vec<Difference>) {
        for (record, drifts) in &self.kernel.drifts {
            if !self.is_steady(&record.key) {
                continue;
            }
            let gone = drifts.iter().find(|drift| matches!(drift, Drift::NamespaceGone(_)));
            if record.is_salvaged() {
                let seen = drifts.iter().filter(|drift| !matches!(drift, Drift::NamespaceGone(_)));
                found.extend(seen.map(|drift| {
                    let remedy = Remedy::ByHand("delete the pod, so that it is made anew".to_owned());
                    Difference::new(record.owner(), drift, remedy)
                }));
            } else if let Some(gone) = gone {
                // All the rest follows from that.
                let remedy = "the runtime's DEL, or the agent by itself after a while";
                found.push(Difference::new(record.owner(), gone, Remedy::ByHand(remedy.to_owned())));
            } else {
                found.extend(drifts.iter().map(|drift| {
                    let remedy = match drift {
                        Drift::LinkForeign(_) => {
                            Remedy::ByHand("delete the pod, or rename the other interface".to_owned())
                        }
                        _ => Remedy::Repair,
                    };
                    Difference::new(record.owner(), drift, remedy)
                }));
            }
        }
    }

    /// For all the time that was looked, and nobody was making one.
    fn has_no_record(&self, key: &AttachmentKey) -> bool {
        self.is_steady(key) && !self.after().records.contains_key(key)
    }

    fn is_unreadable(&self, key: &AttachmentKey) -> bool {
        self.after().unreadable.iter().any(|file| file.key.as_ref() == Some(key))
    }

    /// Of a record that can't be read: an agent that knows it writes it again, a new start makes
    /// one from the link.
    fn remedy_of_lost(&self, key: &AttachmentKey) -> Remedy {
        if self.lease(key).is_some() { Remedy::Repair } else { Remedy::Restart }
    }

    fn lease(&self, key: &AttachmentKey) -> Option<Addresses> {
        lease_of(&self.views.as_ref()?[1].leases, key)
    }
}

fn lease_of(leases: &[HeldLease], key: &AttachmentKey) -> Option<Addresses> {
    let index = leases.binary_search_by(|lease| lease.key.cmp(key)).ok()?;
    leases.get(index).map(|lease| lease.addresses)
}

/// As [`Attachment::owner`] shows one without a pod.
pub(super) fn shown(key: &AttachmentKey) -> String {
    crate::attachment::owner_text(None, key)
}

fn list(addresses: Addresses) -> String {
    addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" and ")
}
