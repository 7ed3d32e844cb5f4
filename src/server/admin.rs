//! Owns the admin port: `/healthz` (the process lives), `/readyz` (it can serve), `/metrics`.

use http::{Request, Response, StatusCode};

use super::App;
use super::reply::{ResponseBody, full};

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn answer<B>(app: &App, request: &Request<B>) -> Response<ResponseBody> {
    match request.uri().path() {
        "/healthz" => full(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match readiness(app) {
            Ok(()) => full(StatusCode::OK, TEXT, "ready\n"),
            Err(reason) => full(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
        },
        "/metrics" => {
            app.metrics.upstream_ready.set(i64::from(app.upstream.state().ready.is_ok()));
            full(StatusCode::OK, OPEN_METRICS, app.metrics.encode())
        }
        _ => full(StatusCode::NOT_FOUND, TEXT, "try /healthz, /readyz or /metrics\n"),
    }
}

fn readiness(app: &App) -> Result<(), String> {
    if app.draining.is_cancelled() {
        return Err("draining".to_owned());
    }
    app.upstream.state().ready.map_err(|reason| format!("upstream: {reason}"))
}
