//! The password of a session, and where it is kept: [`Password`], [`PasswordReference`].

use std::fmt;
use std::path::PathBuf;

/// The longest key of TCP MD5 on Linux (`TCP_MD5SIG_MAXKEYLEN`).
const MAX_LENGTH: usize = 80;

/// The key of a session's TCP MD5 signatures (RFC 2385): 1 to 80 printable ASCII characters
/// without `"`.
///
/// It is shown nowhere: it has neither `Display` nor `Serialize`, and `Debug` says only that there
/// is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// What can't be a password. It does not say what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Nothing.
    #[error("the password is empty, expected 1 to {MAX_LENGTH} characters")]
    Empty,
    /// Longer than the kernel's keys.
    #[error("the password has {0} bytes, expected at most {MAX_LENGTH} (TCP MD5 keys of Linux)")]
    TooLong(usize),
    /// Another character.
    #[error(
        "character {0} of the password is not allowed: expected printable ASCII characters other than '\"'"
    )]
    Character(usize),
}

impl Password {
    /// Takes `text` as it is.
    pub fn new(text: impl Into<String>) -> Result<Self, PasswordError> {
        let text = text.into();
        if text.is_empty() {
            return Err(PasswordError::Empty);
        }
        let allowed = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"';
        if let Some(at) = text.chars().position(|c| !allowed(c)) {
            return Err(PasswordError::Character(at + 1));
        }
        if text.len() > MAX_LENGTH {
            return Err(PasswordError::TooLong(text.len()));
        }
        Ok(Self(text))
    }

    /// The secret itself, for the one that holds the session.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// Where a password is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PasswordReference {
    /// In a Secret of the agent's own namespace.
    Secret {
        /// The Secret.
        name: String,
        /// Which of its values.
        key: String,
    },
    /// In a file on the node.
    File(PathBuf),
}

impl PasswordReference {
    /// Which value of a Secret is taken where none is named.
    pub const DEFAULT_KEY: &str = "password";
}

impl fmt::Display for PasswordReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { name, key } => write!(f, "the key {key} of the Secret {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_and_bird_can_hold_is_taken() {
        let printable: String = (' '..='~').filter(|c| *c != '"').collect();
        for good in ["x", &printable[..80], &printable[printable.len() - 80..]] {
            assert_eq!(Password::new(good).unwrap().reveal(), good);
        }
    }

    #[test]
    fn what_they_can_not_is_refused_without_showing_it() {
        for (wrong, error) in [
            (String::new(), PasswordError::Empty),
            ("x".repeat(81), PasswordError::TooLong(81)),
            ("geheim\"; evil".to_owned(), PasswordError::Character(7)),
            ("geheim\n".to_owned(), PasswordError::Character(7)),
            ("gehéim".to_owned(), PasswordError::Character(4)),
            ("\u{7f}".to_owned(), PasswordError::Character(1)),
        ] {
            assert_eq!(Password::new(wrong), Err(error));
            assert!(!error.to_string().contains("geh"), "{error}");
        }
    }

    #[test]
    fn it_does_not_show_itself() {
        let password = Password::new("geheim").unwrap();
        assert_eq!(format!("{password:?} {:?}", Some(&password)), "Password Some(Password)");
    }
}
