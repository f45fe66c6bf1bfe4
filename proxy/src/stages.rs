//! The stages around every request, outermost first. Each is a tower layer or service:
//!
//! 1. [`Answering`]: nothing leaves as an error; whatever is refused becomes an answer here.
//! 2. [`Checking`]: what two servers could read in two ways goes no further.
//! 3. [`Carrying`]: the life of a request in `forward.rs`.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use tower::{Layer, Service, ServiceBuilder};
use tracing::debug;

use crate::answer::refuse;
use crate::body::Body;
use crate::core::{Core, Peer};
use crate::error::Refusal;
use crate::forward;
use crate::headers;

type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// All stages for one connection.
pub(crate) fn stages(
    core: Rc<Core>,
    peer: Peer,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = Local<Result<Response<Body>, Infallible>>,
> + Clone {
    ServiceBuilder::new()
        .layer_fn(Answering)
        .layer(CheckingLayer)
        .service(Carrying { core, peer })
}

/// Turns a refusal into an answer.
#[derive(Debug, Clone)]
pub(crate) struct Answering<S>(S);

impl<S, R> Service<Request<R>> for Answering<S>
where
    S: Service<Request<R>, Response = Response<Body>, Error = Refusal>,
    S::Future: 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Local<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The stages below are always ready: what must wait does so inside the request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let carried = self.0.call(request);
        Box::pin(async move {
            Ok(carried.await.unwrap_or_else(|refusal| {
                debug!(%refusal, "refused");
                refuse(&refusal)
            }))
        })
    }
}

/// Puts [`Checking`] around a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckingLayer;

impl<S> Layer<S> for CheckingLayer {
    type Service = Checking<S>;
    fn layer(&self, inner: S) -> Checking<S> {
        Checking(inner)
    }
}

/// Refuses malformed heads.
#[derive(Debug, Clone)]
pub(crate) struct Checking<S>(S);

impl<S, R> Service<Request<R>> for Checking<S>
where
    S: Service<Request<R>, Response = Response<Body>, Error = Refusal>,
    S::Future: 'static,
{
    type Response = Response<Body>;
    type Error = Refusal;
    type Future = Local<Result<Response<Body>, Refusal>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        match headers::check(&request) {
            Ok(()) => Box::pin(self.0.call(request)),
            Err(refusal) => Box::pin(ready(Err(refusal))),
        }
    }
}

/// Carries a request to a side and back.
#[derive(Debug, Clone)]
pub(crate) struct Carrying {
    core: Rc<Core>,
    peer: Peer,
}

impl Service<Request<Incoming>> for Carrying {
    type Response = Response<Body>;
    type Error = Refusal;
    type Future = Local<Result<Response<Body>, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        Box::pin(forward::carry(self.core.clone(), self.peer, request))
    }
}
