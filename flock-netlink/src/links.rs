//! Links on the node: finding them, and removing many as one.

use std::collections::BTreeSet;
use std::io;

use flock_core::attachment::{Attachment, AttachmentKey};
use flock_core::dataplane::{DataplaneError, FoundLink, Link};
use flock_core::name::InterfaceName;
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

use crate::conversation::{Answer, Conversation, Request};
use crate::facts::LinkFacts;
use crate::messages;
use crate::routes::pod_addresses;
use crate::worker::Worker;
use crate::{DOOMED_LINK_GROUP, LINK_GROUP};

/// The kernel gives `lo` this index in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

impl Worker {
    /// Takes away the node's routes to a pod.
    pub(crate) fn detach(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let name = attachment.host_interface.as_str();
        // A link that is gone took its routes along.
        let Some(host) = find_link(&mut self.node, name)? else { return Ok(()) };
        if !host.is_host_side_of(&attachment.key) {
            return Ok(());
        }
        let requests: Vec<Request> = attachment
            .addresses
            .prefixes()
            .map(|prefix| messages::link_route(host.index, prefix, None))
            .map(|route| Request::plain(RouteNetlinkMessage::DelRoute(route)))
            .collect();
        remove(&mut self.node, &requests, name)
    }

    /// The indices of those of `links` that are there and belong to whom they should.
    pub(crate) fn doomed(&mut self, links: &[Link]) -> Result<BTreeSet<u32>, DataplaneError> {
        let questions: Vec<Request> = links
            .iter()
            .map(|link| Request::plain(messages::link_by_name(link.interface.as_str())))
            .collect();
        let answers = self.node.ask(&questions).map_err(|source| kernel("show", "the links", source))?;
        let mut doomed = BTreeSet::new();
        for (link, answer) in links.iter().zip(answers) {
            if let Some(facts) = link_of(Some(answer), link.interface.as_str())?
                && belongs_to(&facts, link.owner.as_ref())
            {
                doomed.insert(facts.index);
            }
        }
        Ok(doomed)
    }

    /// Removes links together. The kernel waits for the whole system to let go
    /// of a link before it is gone; it does so once for all of one request.
    pub(crate) fn remove_links(&mut self, doomed: &BTreeSet<u32>) -> Result<(), DataplaneError> {
        let marks: Vec<Request> = doomed
            .iter()
            .map(|index| Request::plain(messages::link_group(*index, DOOMED_LINK_GROUP)))
            .collect();
        remove(&mut self.node, &marks, "the links to be removed")?;
        let removal = [Request::plain(messages::group_delete(DOOMED_LINK_GROUP))];
        remove(&mut self.node, &removal, "the links to be removed")
    }

    pub(crate) fn list(&mut self) -> Result<Vec<FoundLink>, DataplaneError> {
        let links = every_link(&mut self.node)?;
        let mut addresses = pod_addresses(&mut self.node)?;
        let found = |facts: &LinkFacts| {
            let addresses = addresses.remove(&facts.index).unwrap_or_default();
            Some(FoundLink { link: as_link(facts)?, addresses, mtu: facts.mtu })
        };
        Ok(links.iter().filter(|facts| is_of_flock(facts)).filter_map(found).collect())
    }
}

/// Also one that a reap has marked and not removed, for lack of time.
pub(crate) fn is_of_flock(facts: &LinkFacts) -> bool {
    facts.group == LINK_GROUP || facts.group == DOOMED_LINK_GROUP
}

fn as_link(facts: &LinkFacts) -> Option<Link> {
    let interface = InterfaceName::new(facts.name.clone()).ok()?;
    Some(Link { interface, owner: facts.alias.as_deref().and_then(AttachmentKey::from_alias) })
}

fn belongs_to(facts: &LinkFacts, owner: Option<&AttachmentKey>) -> bool {
    match owner {
        Some(key) => facts.is_host_side_of(key),
        None => is_of_flock(facts) && facts.alias.as_deref().and_then(AttachmentKey::from_alias).is_none(),
    }
}

/// Every link of the namespace.
pub(crate) fn every_link(conversation: &mut Conversation) -> Result<Vec<LinkFacts>, DataplaneError> {
    conversation
        .dump(&messages::every_link(), |message| LinkFacts::read(&message))
        .map_err(|source| kernel("list", "the interfaces", source))
}

/// The link of that name, if there is one.
pub(crate) fn find_link(
    conversation: &mut Conversation,
    name: &str,
) -> Result<Option<LinkFacts>, DataplaneError> {
    let answers = conversation
        .ask(&[Request::plain(messages::link_by_name(name))])
        .map_err(|source| kernel("show the interface", name, source))?;
    link_of(answers.into_iter().next(), name)
}

/// The link of that index, if there is one.
pub(crate) fn link_by_index(
    conversation: &mut Conversation,
    index: u32,
) -> Result<Option<LinkFacts>, DataplaneError> {
    let shown = format!("the interface {index}");
    let answers = conversation
        .ask(&[Request::plain(messages::link_by_index(index))])
        .map_err(|source| kernel("show", &shown, source))?;
    link_of(answers.into_iter().next(), &shown)
}

/// Reads the answer to a question for one link.
pub(crate) fn link_of(answer: Option<Answer>, name: &str) -> Result<Option<LinkFacts>, DataplaneError> {
    match answer {
        Some(Ok(Some(message))) => Ok(LinkFacts::read(&message)),
        Some(Err(refusal)) if refusal.is(Errno::NODEV) => Ok(None),
        Some(Err(refusal)) => Err(kernel("show the interface", name, refusal.into())),
        Some(Ok(None)) | None => Ok(None),
    }
}

/// Sends the requests and fails with the first refusal.
pub(crate) fn perform(
    conversation: &mut Conversation,
    requests: &[Request],
    whose: &str,
) -> Result<Vec<Option<RouteNetlinkMessage>>, DataplaneError> {
    let answers = conversation.ask(requests).map_err(|source| kernel("answer", whose, source))?;
    let named = requests.iter().zip(answers);
    named
        .map(|(request, answer)| {
            answer.map_err(|refusal| kernel(&messages::describe(&request.message), whose, refusal.into()))
        })
        .collect()
}

/// As [`perform`], for removals: what is gone already is no failure.
pub(crate) fn remove(
    conversation: &mut Conversation,
    requests: &[Request],
    whose: &str,
) -> Result<(), DataplaneError> {
    let answers = conversation.ask(requests).map_err(|source| kernel("answer", whose, source))?;
    for (request, answer) in requests.iter().zip(answers) {
        match answer {
            Ok(_) => {}
            Err(gone) if gone.is(Errno::NODEV) || gone.is(Errno::SRCH) || gone.is(Errno::NOENT) => {}
            Err(refusal) => {
                return Err(kernel(&messages::describe(&request.message), whose, refusal.into()));
            }
        }
    }
    Ok(())
}

/// An error of the kernel, with what was to be done and to what.
pub(crate) fn kernel(action: &str, whose: &str, source: io::Error) -> DataplaneError {
    DataplaneError::Kernel { action: format!("{action} ({whose})"), source }
}

pub(crate) fn vanished(name: &str) -> DataplaneError {
    let source = io::Error::new(io::ErrorKind::NotFound, "it was removed by somebody else meanwhile");
    kernel("work on the interface", name, source)
}
