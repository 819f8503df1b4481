//! What BIRD's answer says of a configuration that it was to check or to take.
//!
//! BIRD's words may quote the configuration, which is none of the log's business beyond the
//! line that is wrong, and are as long as whoever answers likes: what is shown of them is an
//! [`excerpt`], without the passwords that the configuration holds.

use std::path::Path;

use flock_core::announcer::AnnounceError;
use flock_core::excerpt;

use crate::control::{Code, Reply};
use crate::render;

/// The answer to `configure check` of `configuration`: whether BIRD finds nothing wrong.
pub fn of_check(reply: &Reply, configuration: &str) -> Result<(), AnnounceError> {
    match reply.code() {
        Code::CONFIGURATION_OK => Ok(()),
        _ => Err(refused_or_unexpected("configure check", reply, configuration)),
    }
}

/// The answer to `configure` of the BIRD behind `socket`: whether it has taken `configuration`.
/// One that is ending counts as one that is away.
pub fn of_configure(reply: &Reply, configuration: &str, socket: &Path) -> Result<(), AnnounceError> {
    match reply.code() {
        Code::RECONFIGURED | Code::RECONFIGURATION_IN_PROGRESS | Code::RECONFIGURATION_QUEUED => Ok(()),
        Code::RECONFIGURATION_IGNORED => Err(AnnounceError::Unreachable {
            endpoint: socket.display().to_string(),
            reason: "it is shutting down".to_owned(),
        }),
        _ => Err(refused_or_unexpected("configure", reply, configuration)),
    }
}

fn refused_or_unexpected(command: &str, reply: &Reply, configuration: &str) -> AnnounceError {
    let text = without_passwords(reply.text(), configuration);
    if !reply.is_success() {
        return AnnounceError::Refused { message: excerpt::line(&text).to_string() };
    }
    AnnounceError::Backend(format!(
        "BIRD answered {command} with {}, which says neither success nor failure",
        excerpt::quoted(&format!("{} {text}", reply.code()))
    ))
}

/// `text` with asterisks in place of each password of `configuration`. A password of a letter costs
/// the message all of them.
fn without_passwords(text: &str, configuration: &str) -> String {
    let mut passwords: Vec<&str> = render::passwords(configuration).collect();
    // The longest first, of which another may be a part.
    passwords.sort_by_key(|password| std::cmp::Reverse(password.len()));
    passwords.into_iter().fold(text.to_owned(), |text, password| text.replace(password, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply;

    fn both(text: &str) -> [Result<(), AnnounceError>; 2] {
        [of_check(&reply(text), ""), of_configure(&reply(text), "", Path::new("/run/flock/bird.ctl"))]
    }

    #[test]
    fn each_command_has_answers_of_its_own() {
        assert_eq!(of_check(&reply("0020 Configuration OK\n"), ""), Ok(()));
        for taken in ["0003 Reconfigured\n", "0004 in progress\n", "0005 queued\n"] {
            assert_eq!(of_configure(&reply(taken), "", Path::new("")), Ok(()));
            assert!(of_check(&reply(taken), "").is_err());
        }
        assert!(of_configure(&reply("0020 Configuration OK\n"), "", Path::new("")).is_err());
    }

    #[test]
    fn what_is_short_and_plain_is_bird_s_own_word() {
        for error in both("8002 /etc/bird.conf:3:7 syntax error, unexpected '{'\n") {
            let message = "/etc/bird.conf:3:7 syntax error, unexpected '{'".to_owned();
            assert_eq!(error, Err(AnnounceError::Refused { message }));
        }
    }

    /// A line of BIRD may have 16 KiB.
    #[test]
    fn what_is_shown_is_one_short_line() {
        let said = format!("/x:3:7 \u{1b}[2J{}", "secret\r".repeat(2_000));
        for code in ["8002", "9001", "0013"] {
            for error in both(&format!("{code} {said}\n")) {
                let error = error.unwrap_err().to_string();
                assert!(!error.contains(char::is_control), "{error}");
                assert!(
                    error.len() < 1_000 && error.contains("(cut)"),
                    "{} bytes: {error:.1000}",
                    error.len()
                );
            }
        }
    }

    /// Also where it would be cut, and where one is a part of another.
    #[test]
    fn no_password_is_shown() {
        let configuration = "  password \"geheim\";\n  password \"ganz geheim\";\n  hold time 90;\n";
        let long = format!("{}geheim", "x".repeat(396));
        for said in ["expected 'geheim', \"ganz geheim\"", &long] {
            for code in ["8002", "0013"] {
                let reply = reply(&format!("{code} {said}\n"));
                let verdicts =
                    [of_check(&reply, configuration), of_configure(&reply, configuration, Path::new("/x"))];
                for error in verdicts {
                    let error = error.unwrap_err().to_string();
                    assert!(!error.contains("geh") && !error.contains("ganz"), "{error}");
                }
            }
        }
        let reply = reply("8002 /x:3:7 syntax error near geheim\n");
        let message = "/x:3:7 syntax error near ***".to_owned();
        assert_eq!(of_check(&reply, configuration), Err(AnnounceError::Refused { message }));
    }
}
