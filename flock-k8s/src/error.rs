//! What the API server, or the way to it, said, in words.

use std::error::Error;

/// An answer of the API server is its message; anything else is an error and all its causes.
pub(crate) fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let said = if status.message.is_empty() { &status.reason } else { &status.message };
        return format!("the API server answers {} {said:?}", status.code);
    }
    let outermost: &dyn Error = match error {
        // "ServiceError" says nothing.
        kube::Error::Service(error) => error.as_ref(),
        error => error,
    };
    let mut words = outermost.to_string();
    let mut cause = outermost.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many errors repeat their cause.
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::io;

    use kube::core::Status;

    use super::*;

    #[test]
    fn an_answer_is_its_message() {
        let status = Status::failure("pods is forbidden", "Forbidden").with_code(403);
        let error = kube::Error::Api(status.boxed());
        assert_eq!(words(&error), r#"the API server answers 403 "pods is forbidden""#);
    }

    #[test]
    fn an_answer_without_a_message_is_its_reason() {
        let status = Status::failure("", "Expired").with_code(410);
        assert_eq!(words(&kube::Error::Api(status.boxed())), r#"the API server answers 410 "Expired""#);
    }

    #[test]
    fn causes_are_named_once() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let error = kube::Error::ReadEvents(refused);
        assert_eq!(words(&error), "Error reading events stream: connection refused");
    }
}
