//! The installer: puts the plugin and its network configuration on a node, and takes
//! them away again.
//!
//! It is run as the init container of the agent, and may as well be run by hand. It needs
//! neither the agent nor the API server: until the agent is up, the plugin that it
//! installed tells the runtime to try again later.
//!
//! # What it promises
//!
//! - The plugin is in place before the configuration that names it, and is taken away
//!   after it.
//! - Each file is the old one or the new one at every moment, never half of one, also
//!   where the installer is killed or the machine loses power: it is written beside its
//!   place under a name that no runtime reads, synced, and renamed. So a plugin that is
//!   being executed can be replaced too.
//! - What is as it should be is not written again.
//! - Only what it put there is taken away. What that was stands in its [`receipt`], which
//!   is written before a file comes in place; a file that was changed by somebody since
//!   is left where it is.
//! - What somebody else had in its place is kept beside it, the first time, under a name
//!   that no runtime reads, and stays there. What was the same is not touched, and not
//!   taken away either.
//! - Credentials are neither needed nor written.

use std::io;
use std::path::{Path, PathBuf};

use flock_core::cni::SpecVersion;

pub mod chain;
pub mod conflist;
pub mod files;
pub mod options;
pub mod receipt;
pub mod version;

use self::chain::Chosen;
use self::conflist::Network;
use self::files::{Entry, Files, Staging};
use self::options::Options;
use self::receipt::{Digest, Item, Receipt};
use self::version::ProbeError;

/// The plugin's name in the directory of plugins, and its `type`.
pub const PLUGIN_NAME: &str = "flock";

/// The plugin: executed by root and looked at by anybody.
const PLUGIN_MODE: u32 = 0o755;
/// The configuration holds no secret.
const CONFIG_MODE: u32 = 0o644;
/// Nobody but the installer reads it.
const RECEIPT_MODE: u32 = 0o600;
/// At the end of the name of what was there before: neither a runtime nor this installer reads it.
const KEPT: &str = ".before-flock";

/// Why nothing, or not all, was done. What was done until then was told.
#[derive(Debug, thiserror::Error)]
pub enum InstallerError {
    /// The plugin to install is not there.
    #[error("no plugin to install at {}: {source}; say where it is with --plugin", .path.display())]
    NoPlugin {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The plugin to install does not work on this machine.
    #[error("the plugin {} does not work here: {source}; nothing was installed", .path.display())]
    Plugin {
        /// Which.
        path: PathBuf,
        /// What came of asking for its versions.
        source: ProbeError,
    },
    /// The plugin to install speaks no version that this installer knows.
    #[error(
        "the plugin {} speaks CNI {found}, expected one of {}; install it with the installer of its own release",
        .path.display(),
        SpecVersion::ALL.map(SpecVersion::as_str).join(", ")
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// What it said.
        found: String,
    },
    /// A file or directory can't be used.
    #[error("can't {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The receipt is not one.
    #[error(
        "{} is no receipt of flock-installer: {reason}; remove it, the plugin and the configuration by hand",
        .path.display()
    )]
    Receipt {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl InstallerError {
    fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}

/// Puts the plugin and then the configuration in place; `tell` gets a line for each thing
/// that was done or left out.
pub fn install(
    options: &Options,
    files: &dyn Files,
    tell: &mut dyn FnMut(&str),
) -> Result<(), InstallerError> {
    let source = &options.plugin;
    let plugin = files
        .read(source)
        .and_then(|entry| entry.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(|error| InstallerError::NoPlugin { path: source.clone(), source: error })?;
    let spoken = spoken(source)?;
    for dir in [&options.bin_dir, &options.conf_dir] {
        files.create_dir_all(dir).map_err(InstallerError::file("create the directory", dir))?;
    }
    let mut place = match Place::open(options, files, tell) {
        // Somebody's damage to the receipt must not keep a node from its pods.
        Err(error @ InstallerError::Receipt { .. }) => {
            tell(&format!("{error}; going on with a new one"));
            Place { options, files, receipt: Receipt::default(), lost: true, tell }
        }
        place => place?,
    };
    let chosen = chain::choose(&spoken, &options.chain, &options.bin_dir, place.tell);
    let text = network(options, &chosen).text();

    place.put(Item::Plugin, PLUGIN_NAME, &plugin.bytes, PLUGIN_MODE)?;
    place.put(Item::Configuration, &options.conf_name, text.as_bytes(), CONFIG_MODE)?;
    place.remove_renamed(&options.conf_name)?;
    place.save_receipt()
}

/// Takes away the configuration and then the plugin, where they are what was installed.
pub fn uninstall(
    options: &Options,
    files: &dyn Files,
    tell: &mut dyn FnMut(&str),
) -> Result<(), InstallerError> {
    let mut place = Place::open(options, files, tell)?;
    if place.receipt.is_empty() {
        let path = place.receipt_path();
        (place.tell)(&format!(
            "nothing to uninstall: {} is not there, so flock-installer put nothing into {} and {}",
            path.display(),
            options.conf_dir.display(),
            options.bin_dir.display()
        ));
        return Ok(());
    }
    for item in [Item::Configuration, Item::Plugin] {
        for name in place.receipt.names(item) {
            place.take_away(item, &name)?;
        }
    }
    place.remove_receipt()
}

/// What the plugin to install speaks, of what this installer knows.
fn spoken(plugin: &Path) -> Result<Vec<SpecVersion>, InstallerError> {
    let said =
        version::ask(plugin).map_err(|source| InstallerError::Plugin { path: plugin.to_owned(), source })?;
    let known = version::known(&said);
    if known.is_empty() {
        return Err(InstallerError::Version { path: plugin.to_owned(), found: said.join(", ") });
    }
    Ok(known)
}

fn network(options: &Options, chosen: &Chosen) -> Network {
    Network {
        name: options.name.clone(),
        versions: chosen.versions.clone(),
        run_dir: options.run_dir.clone(),
        mtu: options.mtu,
        timeout: options.timeout,
        chain: chosen.chain.clone(),
    }
}

/// The two directories, and what the installer put there.
struct Place<'a> {
    options: &'a Options,
    files: &'a dyn Files,
    receipt: Receipt,
    /// Whether there was another one before: what it named is not known any more.
    lost: bool,
    tell: &'a mut dyn FnMut(&str),
}

impl<'a> Place<'a> {
    /// Removes what a killed run left, and reads the receipt.
    fn open(
        options: &'a Options,
        files: &'a dyn Files,
        tell: &'a mut dyn FnMut(&str),
    ) -> Result<Self, InstallerError> {
        for dir in [&options.bin_dir, &options.conf_dir] {
            for name in files.names(dir).map_err(InstallerError::file("list", dir))? {
                if Staging::is_one(&name) {
                    let path = dir.join(&name);
                    files.remove(&path).map_err(InstallerError::file("remove", &path))?;
                    tell(&format!("removed {}, left by a run that was cut short", path.display()));
                }
            }
        }
        let path = options.conf_dir.join(receipt::NAME);
        let receipt = match files.read(&path).map_err(InstallerError::file("read", &path))? {
            None => Receipt::default(),
            Some(entry) => Receipt::parse(&entry.bytes)
                .map_err(|reason| InstallerError::Receipt { path: path.clone(), reason })?,
        };
        Ok(Self { options, files, receipt, lost: false, tell })
    }

    fn receipt_path(&self) -> PathBuf {
        self.options.conf_dir.join(receipt::NAME)
    }

    fn path(&self, item: Item, name: &str) -> PathBuf {
        match item {
            Item::Plugin => self.options.bin_dir.join(name),
            Item::Configuration => self.options.conf_dir.join(name),
        }
    }

    /// Makes a file be `bytes`. The receipt says so before, so that a run that is cut short
    /// in between leaves nothing that could not be uninstalled.
    fn put(&mut self, item: Item, name: &str, bytes: &[u8], mode: u32) -> Result<(), InstallerError> {
        let path = self.path(item, name);
        let there = self.files.read(&path).map_err(InstallerError::file("read", &path))?;
        let digest = Digest::of(bytes);
        let is_right = there.as_ref().is_some_and(|entry| entry.is(bytes, mode));
        if let Some(entry) = &there
            && !self.receipt.owns(item, name, &Digest::of(&entry.bytes))
        {
            if is_right && !self.lost {
                self.receipt.forget(item, name);
                (self.tell)(&format!(
                    "{} is as it should be, and not put there by flock-installer: uninstall leaves it",
                    path.display()
                ));
                return Ok(());
            }
            if entry.bytes != bytes {
                self.keep(&path, entry)?;
            }
        }
        self.receipt.expect(item, name, digest.clone());
        self.save_receipt()?;
        if is_right {
            (self.tell)(&format!("{} is as it should be", path.display()));
        } else {
            self.replace(&path, bytes, mode)?;
            let verb = if there.is_some() { "replaced" } else { "wrote" };
            (self.tell)(&format!("{verb} {}", path.display()));
        }
        self.receipt.settle(item, name, digest);
        Ok(())
    }

    /// Keeps what somebody else has put where a file of the installer goes: under a name that no
    /// runtime reads, and only the first one, since that is what was there before Flock.
    fn keep(&mut self, path: &Path, entry: &Entry) -> Result<(), InstallerError> {
        let mut kept = path.as_os_str().to_owned();
        kept.push(KEPT);
        let kept = PathBuf::from(kept);
        if self.files.read(&kept).map_err(InstallerError::file("read", &kept))?.is_none() {
            self.replace(&kept, &entry.bytes, entry.mode)?;
            (self.tell)(&format!(
                "{} was not put there by flock-installer: kept as {}",
                path.display(),
                kept.display()
            ));
        }
        Ok(())
    }

    /// Removes what an earlier run installed under another name: the runtime would still read it.
    fn remove_renamed(&mut self, name: &str) -> Result<(), InstallerError> {
        for other in self.receipt.names(Item::Configuration) {
            if other != name {
                self.take_away(Item::Configuration, &other)?;
                self.receipt.forget(Item::Configuration, &other);
            }
        }
        Ok(())
    }

    fn take_away(&mut self, item: Item, name: &str) -> Result<(), InstallerError> {
        let path = self.path(item, name);
        let said = match self.files.read(&path).map_err(InstallerError::file("read", &path))? {
            None => format!("{} is not there any more", path.display()),
            Some(entry) if entry.is_plain && self.receipt.owns(item, name, &Digest::of(&entry.bytes)) => {
                self.files.remove(&path).map_err(InstallerError::file("remove", &path))?;
                self.sync_parent(&path)?;
                format!("removed {}", path.display())
            }
            Some(_) => format!(
                "left {}: it is not what flock-installer put there, somebody changed it since; remove it by hand \
                 if it is not needed",
                path.display()
            ),
        };
        (self.tell)(&said);
        Ok(())
    }

    fn save_receipt(&mut self) -> Result<(), InstallerError> {
        let path = self.receipt_path();
        let text = self.receipt.text();
        let there = self.files.read(&path).map_err(InstallerError::file("read", &path))?;
        let is_right = match &there {
            Some(entry) => entry.bytes == text.as_bytes(),
            None => self.receipt.is_empty(),
        };
        if is_right {
            return Ok(());
        }
        self.replace(&path, text.as_bytes(), RECEIPT_MODE)
    }

    fn remove_receipt(&mut self) -> Result<(), InstallerError> {
        let path = self.receipt_path();
        self.files.remove(&path).map_err(InstallerError::file("remove", &path))?;
        self.sync_parent(&path)
    }

    /// Writes beside `path`, syncs, renames, syncs the directory.
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallerError> {
        let staging = Staging::beside(path);
        let written = self
            .files
            .write_new(staging.path(), bytes, mode)
            .map_err(InstallerError::file("write", staging.path()))
            .and_then(|()| {
                self.files.rename(staging.path(), path).map_err(InstallerError::file("replace", path))
            });
        if written.is_err() {
            // What can't be removed now is removed by the next run.
            let _ = self.files.remove(staging.path());
        }
        written?;
        self.sync_parent(path)
    }

    fn sync_parent(&self, path: &Path) -> Result<(), InstallerError> {
        match path.parent() {
            Some(dir) => self.files.sync_dir(dir).map_err(InstallerError::file("sync", dir)),
            None => Ok(()),
        }
    }
}
