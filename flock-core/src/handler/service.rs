//! The handler as what a [`Server`](crate::server::Server) serves.

use std::time::Instant;

use async_trait::async_trait;

use crate::cni::{self, Call, Code, Operation, Verb};
use crate::frame::{Request, Response};
use crate::handler::Handler;
use crate::server::Service;

#[async_trait]
impl Service for Handler {
    async fn call(&self, request: Request) -> Response {
        let received = Instant::now();
        let answer = match request.operation() {
            Ok(Operation::Attachment(call)) => self.attachment(&call, received).await,
            Ok(Operation::Status(_)) => Ok(Response::EMPTY),
            Ok(Operation::Gc(_)) => Err(unsupported(Verb::Gc)),
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(Response::Error)
    }
}

impl Handler {
    async fn attachment(&self, call: &Call, received: Instant) -> Result<Response, cni::Error> {
        let deadline = received + call.remaining;
        let response = match call.verb {
            Verb::Add => {
                let result = self.add(call, deadline).await?;
                Response::result(&result.to_json(call.config.cni_version))
            }
            Verb::Del => {
                self.del(call).await?;
                Response::EMPTY
            }
            Verb::Check => {
                self.check(call).await?;
                Response::EMPTY
            }
            verb @ (Verb::Gc | Verb::Status | Verb::Version) => return Err(unsupported(verb)),
        };
        tracing::info!(took_us = received.elapsed().as_micros(), "done");
        Ok(response)
    }
}

fn unsupported(verb: Verb) -> cni::Error {
    cni::Error::new(
        Code::INVALID_ENVIRONMENT,
        format!("{verb} is not supported by this release of flock-agent, expected ADD, CHECK, DEL or STATUS"),
        "attachments that the runtime does not know can be deleted with DEL",
    )
}
