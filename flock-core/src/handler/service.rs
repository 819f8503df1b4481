//! The handler as what a [`Server`](crate::server::Server) serves.

use std::time::Instant;

use async_trait::async_trait;

use crate::cni::{self, Call, Code, GcCall, Operation, Verb};
use crate::frame::{Request, Response};
use crate::handler::Handler;
use crate::server::Service;

#[async_trait]
impl Service for Handler {
    async fn call(&self, request: Request) -> Response {
        let received = Instant::now();
        let answer = match request.operation() {
            Ok(Operation::Attachment(call)) => self.attachment(&call, received).await,
            Ok(Operation::Status(_)) => self.ready().await.map(|()| Response::EMPTY),
            Ok(Operation::Gc(call)) => self.gc_answer(&call, received).await,
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(Response::Error)
    }
}

impl Handler {
    async fn ready(&self) -> Result<(), cni::Error> {
        match self.status().await {
            Ok(status) => status.answer(),
            Err(error) => Err(cni::Error { code: Code::NOT_AVAILABLE, ..error.into() }),
        }
    }

    async fn gc_answer(&self, call: &GcCall, received: Instant) -> Result<Response, cni::Error> {
        let deleted = self.gc(call).await?;
        tracing::info!(deleted, took_us = received.elapsed().as_micros(), "done");
        Ok(Response::EMPTY)
    }

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
            verb @ (Verb::Gc | Verb::Status | Verb::Version) => {
                return Err(cni::Error::new(
                    Code::INVALID_ENVIRONMENT,
                    format!("{verb} is about no attachment, expected ADD, CHECK or DEL"),
                    "",
                ));
            }
        };
        tracing::info!(took_us = received.elapsed().as_micros(), "done");
        Ok(response)
    }
}
