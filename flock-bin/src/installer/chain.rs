//! Which plugins are chained after Flock, and in which versions all of them are called.

use std::io;
use std::path::Path;

use flock_core::cni::SpecVersion;

use super::version::{self, ProbeError};

/// A plugin of others that can follow Flock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Chained {
    /// Host ports, by the rules that the plugin portmap makes on the node
    Portmap,
    /// Limits of the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth
    Bandwidth,
}

impl Chained {
    /// Its file's name and its `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
        }
    }
}

/// What the configuration is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The versions that all of the chain speak, the oldest first; at least one.
    pub versions: Vec<SpecVersion>,
    /// What follows Flock.
    pub chain: Vec<Chained>,
}

/// Of `wanted`, takes what is in `bin_dir` and speaks a version that all taken before it
/// and Flock (`spoken`, at least one) speak too. `tell` hears of each that is left out.
pub fn choose(
    spoken: &[SpecVersion],
    wanted: &[Chained],
    bin_dir: &Path,
    tell: &mut dyn FnMut(&str),
) -> Chosen {
    let mut chosen = Chosen { versions: spoken.to_vec(), chain: Vec::new() };
    for &plugin in wanted {
        let path = bin_dir.join(plugin.name());
        match version::ask(&path) {
            Ok(said) => {
                if !chosen.take(plugin, &version::known(&said)) {
                    tell(&left_out(plugin, &path, &no_common(&said, &chosen)));
                }
            }
            Err(ProbeError::Execute(error)) if error.kind() == io::ErrorKind::NotFound => {
                tell(&left_out(plugin, &path, "it is not there"));
            }
            Err(error) => tell(&left_out(plugin, &path, &error.to_string())),
        }
    }
    chosen
}

impl Chosen {
    /// Whether the chain still has a version in common with it.
    fn take(&mut self, plugin: Chained, speaks: &[SpecVersion]) -> bool {
        let common: Vec<_> =
            self.versions.iter().copied().filter(|version| speaks.contains(version)).collect();
        if common.is_empty() || self.chain.contains(&plugin) {
            return !common.is_empty();
        }
        self.versions = common;
        self.chain.push(plugin);
        true
    }
}

fn no_common(said: &[String], chosen: &Chosen) -> String {
    let expected: Vec<_> = chosen.versions.iter().map(|version| version.as_str()).collect();
    format!("it speaks CNI {}, expected one of {}", said.join(", "), expected.join(", "))
}

fn left_out(plugin: Chained, path: &Path, reason: &str) -> String {
    let lost = match plugin {
        Chained::Portmap => "host ports do not work on this node",
        Chained::Bandwidth => "bandwidth limits do not work on this node",
    };
    format!("left {} out, {lost}: {}: {reason}", plugin.name(), path.display())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::*;

    fn versions() -> impl Strategy<Value = Vec<SpecVersion>> {
        subsequence(SpecVersion::ALL.to_vec(), 0..=SpecVersion::ALL.len())
    }

    proptest! {
        #[test]
        fn all_of_the_chain_speak_all_its_versions(
            flock in versions().prop_filter("flock speaks", |versions| !versions.is_empty()),
            portmap in versions(),
            bandwidth in versions(),
        ) {
            let mut chosen = Chosen { versions: flock.clone(), chain: Vec::new() };
            let taken = chosen.take(Chained::Portmap, &portmap);
            let common: Vec<_> = flock.iter().filter(|version| portmap.contains(version)).copied().collect();
            prop_assert_eq!(taken, !common.is_empty());
            let before = chosen.clone();
            if !chosen.take(Chained::Bandwidth, &bandwidth) {
                prop_assert_eq!(&chosen, &before);
            }
            prop_assert!(!chosen.versions.is_empty());
            prop_assert!(chosen.versions.is_sorted());
            for (plugin, speaks) in [(Chained::Portmap, &portmap), (Chained::Bandwidth, &bandwidth)] {
                if chosen.chain.contains(&plugin) {
                    prop_assert!(chosen.versions.iter().all(|version| speaks.contains(version)));
                }
            }
        }
    }

    #[test]
    fn one_that_is_wanted_twice_is_taken_once() {
        let mut chosen = Chosen { versions: SpecVersion::ALL.to_vec(), chain: Vec::new() };
        assert!(chosen.take(Chained::Portmap, &SpecVersion::ALL));
        assert!(chosen.take(Chained::Portmap, &SpecVersion::ALL));
        assert_eq!(chosen.chain, [Chained::Portmap]);
    }
}
