//! What the installer put on the node: the proof that it may be taken away.
//!
//! A hidden file beside the configuration, under an extension that no runtime reads:
//!
//! ```json
//! {"version": 1, "plugin": {"flock": ["3b1f…"]}, "configuration": {"01-flock.conflist": ["90ae…"]}}
//! ```
//!
//! Each name has the SHA-256 of what was put there. While a file is being replaced there
//! are two, since a run may be cut short before or after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The receipt's name, in the directory of the configuration.
pub const NAME: &str = ".flock-installer.receipt";

const VERSION: u32 = 1;

/// What can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// In the directory of plugins.
    Plugin,
    /// In the directory of network configurations.
    Configuration,
}

/// The SHA-256 of a file, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(bytes) {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }
}

type Names = BTreeMap<String, BTreeSet<Digest>>;

/// Which files are the installer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    version: u32,
    #[serde(default)]
    plugin: Names,
    #[serde(default)]
    configuration: Names,
}

impl Default for Receipt {
    fn default() -> Self {
        Self { version: VERSION, plugin: Names::new(), configuration: Names::new() }
    }
}

impl Receipt {
    /// Reads one; an error in words if it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let receipt: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if receipt.version != VERSION {
            return Err(format!("it has version {}, expected {VERSION}", receipt.version));
        }
        // A name leads nowhere else than into its own directory.
        match receipt.plugin.keys().chain(receipt.configuration.keys()).find(|name| name.contains('/')) {
            Some(name) => Err(format!("it names {name:?}, expected the name of a file without a directory")),
            None => Ok(receipt),
        }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        // A map with string keys can be written as JSON.
        serde_json::to_string(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// Whether nothing was installed.
    pub fn is_empty(&self) -> bool {
        self.plugin.is_empty() && self.configuration.is_empty()
    }

    /// The names of what was installed.
    pub fn names(&self, item: Item) -> Vec<String> {
        self.item(item).keys().cloned().collect()
    }

    /// Whether a file of this name with this content was put there by the installer.
    pub fn owns(&self, item: Item, name: &str, digest: &Digest) -> bool {
        self.item(item).get(name).is_some_and(|digests| digests.contains(digest))
    }

    /// Says that a file is about to be put there; what was there before stays in the receipt.
    pub fn expect(&mut self, item: Item, name: &str, digest: Digest) {
        self.item_mut(item).entry(name.to_owned()).or_default().insert(digest);
    }

    /// Says that a file is there.
    pub fn settle(&mut self, item: Item, name: &str, digest: Digest) {
        self.item_mut(item).insert(name.to_owned(), BTreeSet::from([digest]));
    }

    /// Says that there is none any more.
    pub fn forget(&mut self, item: Item, name: &str) {
        self.item_mut(item).remove(name);
    }

    fn item(&self, item: Item) -> &Names {
        match item {
            Item::Plugin => &self.plugin,
            Item::Configuration => &self.configuration,
        }
    }

    fn item_mut(&mut self, item: Item) -> &mut Names {
        match item {
            Item::Plugin => &mut self.plugin,
            Item::Configuration => &mut self.configuration,
        }
    }
}
