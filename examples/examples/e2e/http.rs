//! HTTP from any network of the cluster, as plain as it gets.

use std::net::IpAddr;

use flock_examples::netns::Netns;
use flock_examples::process::output;
use flock_examples::{LabError, Result};

/// The text is of interest also where the status is bad.
const GET: &str = r#"printf 'GET %s HTTP/1.0\r\n\r\n' "$0" | busybox nc -w "$3" "$1" "$2""#;

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) good: bool,
    pub(crate) body: String,
}

/// A GET; no answer is an error. `seconds` is for the connection, and for each silence after it.
pub(crate) fn get(from: &Netns, (address, port): (IpAddr, u16), path: &str, seconds: u32) -> Result<Answer> {
    let mut command = from.command("sh");
    command.args(["-c", GET, path, &address.to_string(), &port.to_string(), &seconds.to_string()]);
    let output = output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stdout);
    parse(&said).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        LabError::Unexpected(format!(
            "{} got no answer from port {port} of {address}: {}",
            from.name(),
            complaint.trim()
        ))
    })
}

fn parse(said: &str) -> Option<Answer> {
    let (head, body) = said.split_once("\r\n\r\n")?;
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { good: status == 200, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_whether_it_is_good() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nwaiting").unwrap();
        assert!(!answer.good);
        assert_eq!(answer.body, "waiting");
        assert!(parse("HTTP/1.1 200 OK\r\n\r\n").unwrap().good);
        assert!(parse("").is_none());
    }
}
