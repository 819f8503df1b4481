//! A client that does not wait for ever: [`with_deadline`].

use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;
use tower::{BoxError, service_fn};

/// How long it may take until an answer is there: all of it, or where it is a watch its beginning.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The API server took the request, as far as is known, and has not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not answered within {} s", ANSWER_TIMEOUT.as_secs())]
pub(crate) struct Unanswered;

/// Sends by `client`, and gives up on what is not answered in time.
pub(crate) fn with_deadline(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { timeout(ANSWER_TIMEOUT, answer(&client, request)).await.map_err(|_| Unanswered)? }
    });
    Client::new(service, namespace)
}

async fn answer(client: &Client, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let goes_on = is_watch(&request);
    let response = client.send(request).await?;
    if goes_on && response.status().is_success() {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Body::from(body.collect_bytes().await?)))
}

/// Whether the answer is a stream of what happens.
pub(crate) fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|parameter| parameter == "watch=true")
}
