//! Owns the admin port: `/healthz` (the process lives), `/readyz` (it can serve), `/metrics`, and the page for operators.

use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use rejoinder_core::error::{Error, Kind};

use super::app::App;
use super::client_address::Peer;
use super::reply::{self, ResponseBody, full};
use super::ui;
use crate::telemetry::Server;
use crate::{descriptors, panics};

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub async fn answer(app: &App, peer: Peer, request: Request<Incoming>) -> Response<ResponseBody> {
    if let Err(error) = app.admin_origins.admit(&request) {
        return reply::error(&error);
    }
    let required = app.config.tls.admin && app.tls.as_ref().is_some_and(|tls| tls.certificate_required());
    let refused = required && !peer.has_certificate;
    match request.uri().path() {
        "/healthz" => full(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match readiness(app) {
            Ok(()) => full(StatusCode::OK, TEXT, "ready\n"),
            Err(reason) => full(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
        },
        path if is_page(path) && !refused => ui::answer(app, request).await,
        path if refused && (path == "/metrics" || is_page(path)) => {
            let message =
                "Metrics and page are shown to clients with a certificate only (tls.client_certificates).";
            reply::error(&Error::new(Kind::Forbidden, message).code_as("certificate_required"))
        }
        "/metrics" => {
            measure(app);
            full(StatusCode::OK, OPEN_METRICS, app.metrics.encode())
        }
        _ => full(StatusCode::NOT_FOUND, TEXT, "try /ui, /healthz, /readyz or /metrics\n"),
    }
}

fn is_page(path: &str) -> bool {
    path == "/ui" || path.starts_with("/ui/")
}

fn readiness(app: &App) -> Result<(), String> {
    if app.leaving.is_cancelled() {
        return Err("draining".to_owned());
    }
    if descriptors::lacked() {
        return Err("out of file descriptors".to_owned());
    }
    app.upstream.ready().map_err(|reason| format!("upstream: {reason}"))
}

/// What is not counted but looked up.
fn measure(app: &App) {
    app.metrics.panics.inner().store(panics::count(), Ordering::Relaxed);
    app.metrics.open_connections.set(i64::try_from(app.limits.open_connections()).unwrap_or(i64::MAX));
    app.metrics.upstream_ready.set(i64::from(app.upstream.ready().is_ok()));
    app.metrics.buffered_bytes.set(i64::try_from(app.budget.taken()).unwrap_or(i64::MAX));
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    app.metrics.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    let store = app.store.health();
    app.metrics.store_up.set(store.up.into());
    app.metrics.store_waiting_writes.set(i64::try_from(store.waiting).unwrap_or(i64::MAX));
    app.metrics.store_lost_writes.set(i64::try_from(store.lost).unwrap_or(i64::MAX));
    let routing = &app.metrics.routing;
    // servers come and go with the configuration
    routing.up.clear();
    routing.in_flight.clear();
    for seen in app.upstream.seen() {
        let server = Server { upstream: seen.label };
        routing.up.get_or_create(&server).set(i64::from(seen.ready.is_ok()));
        routing.in_flight.get_or_create(&server).set(i64::try_from(seen.in_flight).unwrap_or(i64::MAX));
    }
    routing.waiting.set(i64::try_from(app.upstream.waiting()).unwrap_or(i64::MAX));
}
