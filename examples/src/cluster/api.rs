//! The Kubernetes API as plain requests, for looks that happen many times a second:
//! running kubectl for each would be most of what the machine does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::{LabError, Result};

/// For one answer.
const LIMIT: Duration = Duration::from_secs(30);

/// An API server behind the socket of a `kubectl proxy`.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

/// What the server said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The object, a `Status` where the request failed, or text in a string.
    pub body: Value,
}

impl Api {
    /// Asks through this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// One object or list; `path` as in `/api/v1/nodes`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.must("GET", path, None)
    }

    /// The items of a list.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(match self.get(path)?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        })
    }

    /// Creates an object in the collection `path`.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.must("POST", path, Some(object))
    }

    /// Changes an object by a merge patch (RFC 7386).
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.must("PATCH", path, Some(change))
    }

    /// Deletes an object, or all that a collection's query selects; one that is not there is as good.
    pub fn delete(&self, path: &str) -> Result<()> {
        let answer = self.request("DELETE", path, None)?;
        if answer.status == 404 { Ok(()) } else { answer.into_result("DELETE", path).map(drop) }
    }

    /// One request and its answer, whatever it is.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let broken = |source| LabError::File { action: "ask", path: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket).map_err(broken)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(broken)?;
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(Value::to_string).unwrap_or_default();
        // HTTP 1.0: the answer comes in one piece and ends with the connection.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).map_err(broken)?;
        parse(&String::from_utf8_lossy(&said))
            .ok_or_else(|| LabError::Unexpected(format!("{method} {path}: the answer is not HTTP")))
    }

    fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.request(method, path, body)?.into_result(method, path)
    }
}

impl Answer {
    fn into_result(self, method: &str, path: &str) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let reason = self.body.get("message").unwrap_or(&self.body);
        Err(LabError::Unexpected(format!("{method} {path} was answered with {}: {reason}", self.status)))
    }
}

fn parse(said: &str) -> Option<Answer> {
    let (head, body) = said.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_has_a_status_and_an_object() {
        let answer = parse("HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\": 1}\n").unwrap();
        assert_eq!((answer.status, answer.body), (200, json!({"a": 1})));
        assert!(parse("no HTTP").is_none());
    }

    #[test]
    fn a_refusal_says_what_the_server_said() {
        let answer = Answer { status: 409, body: json!({"message": "already exists"}) };
        let error = answer.into_result("POST", "/api/v1/nodes").unwrap_err().to_string();
        assert_eq!(error, "POST /api/v1/nodes was answered with 409: \"already exists\"");
    }
}
