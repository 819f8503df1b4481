//! Whether it helps to try again.

/// The class of an error, for whoever decides what to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same call will fail again until somebody changes the request or the machine.
    Never,
    /// The same call may succeed later without anybody's doing.
    Later,
}
