//! Taking up what the last agent left.

use std::path::{Path, PathBuf};

use flock_core::handler::{Handler, HandlerError, Recovery};
use flock_core::store::{FileStore, StoreError};

/// The directory of records in the run directory.
pub(super) fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("attachments")
}

/// Opens the records of the agent with this run directory, and has the handler that `compose`
/// makes on them recover.
///
/// Attachments whose record could not be read, at this start or at an earlier one that ended
/// before it had made a new one, keep their links.
pub(super) async fn recovered<E>(
    run_dir: &Path,
    compose: impl FnOnce(FileStore) -> Handler,
) -> Result<(Handler, Recovery), E>
where
    E: From<StoreError> + From<HandlerError>,
{
    let (store, set_aside) = FileStore::open(directory(run_dir)).await?;
    let unreadable = store.unreadable().to_vec();
    let handler = compose(store);
    let recovery = handler.recover(&unreadable).await?;
    tracing::info!(
        committed = recovery.committed,
        repaired = recovery.repaired,
        undone = recovery.undone,
        other_boot = recovery.other_boot,
        orphans = recovery.orphans,
        set_aside = set_aside.len(),
        salvaged = recovery.salvaged,
        "records read"
    );
    Ok((handler, recovery))
}
