//! Owns the life of the process: what is set up at its start, in which order, and the way to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{Port, accept};
use super::app::App;
use super::client_address::TrustedProxies;
use super::client_limits::ClientLimits;
use super::drain::{SAVING, drain};
use super::inherited_sockets::InheritedSockets;
use super::origin::OriginPolicy;
use super::paths::Paths;
use super::runs::Runs;
use super::socket_turns::AllSocketTurns;
use super::{admin, client_socket, first_contact, reload, routes, ui};
use crate::budget::Budget;
use crate::config::{AuthMode, PassthroughConfig, Resolved, open_to_all, read_network};
use crate::signals::Stop;
use crate::store::{self, EchoCache};
use crate::telemetry::{Metrics, Traces};
use crate::upstream::Upstream;
use crate::{descriptors, panics, service_manager};

/// What is passed on to the upstream where keys are asked for and `passthrough.paths` is not set.
const API_PATHS: &str = "/v1/*";

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
///
/// # Errors
/// What kept it from starting.
pub fn run(resolved: Resolved) -> Result<(), String> {
    let sockets = InheritedSockets::take()?;
    heap::share_among_threads(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        builder.enable_all().build().map_err(|error| format!("cannot start the runtime: {error}"))?;
    let result = runtime.block_on(serve(resolved, sockets));
    runtime.shutdown_background();
    result
}

async fn serve(resolved: Resolved, sockets: InheritedSockets) -> Result<(), String> {
    descriptors::raise();
    let mut signals = Stop::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let listener = client_socket::listen(resolved.config.listen, sockets.listen)?;
    let admin = client_socket::listen(resolved.config.admin, sockets.admin)?;
    let address = |listener: &TcpListener| listener.local_addr().map_err(|error| error.to_string());
    let (own, own_admin) = (address(&listener)?, address(&admin)?);
    // a socket that was handed over may have another address than the one that was checked
    if let Some(problem) = open_to_all(&resolved.config.auth, own) {
        return Err(problem);
    }
    let metrics = Metrics::new(resolved.config.metrics.names);
    let upstream = Upstream::new(&resolved, &metrics.routing)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %own,
        admin = %own_admin,
        tls = resolved.tls.is_some(),
        "rejoinder is listening"
    );
    upstream.watch(own.port());
    let (watched, known) = (upstream.clone(), resolved.clone());
    tokio::spawn(panics::restarted("the watch over the configuration", move || {
        reload::watch(watched.clone(), known.clone())
    }));
    let app = Arc::new(app(resolved, [own, own_admin], upstream, metrics)?);
    tokio::spawn(first_contact::greet(app.clone(), own, own_admin));
    let swept = app.clone();
    tokio::spawn(panics::restarted("the sweep of the store", move || sweep(swept.clone())));
    tokio::spawn(panics::restarted("the return of memory", crate::heavy::give_memory_back));
    tokio::spawn(panics::restarted("the watchdog", service_manager::watchdog));
    // the admin port answers until the very end: a probe must see the drain
    let until_the_end = CancellationToken::new();
    let admin = tokio::spawn(accept(
        admin,
        app.clone(),
        Port::Admin,
        until_the_end,
        |app, peer, request| async move { admin::answer(&app, peer, request).await },
    ));
    let api =
        accept(listener, app.clone(), Port::Api, app.draining.clone(), |app, peer, request| async move {
            routes::answer(app, peer, request).await
        });
    let mut api = tokio::spawn(api);
    service_manager::ready(&format!("serves on {own}, admin on {own_admin}"));
    tokio::select! {
        () = signals.next() => {}
        // they accept until the drain; without them the process would live and serve nobody
        _ = &mut api => return Err("the task that accepts connections on listen has ended".to_owned()),
        _ = admin => return Err("the task that accepts connections on admin has ended".to_owned()),
    }
    drain(&app, api, &mut signals).await;
    leave(&app, &mut signals).await;
    Ok(())
}

/// Saves slots and sends traces, when nothing runs any more; not for long.
async fn leave(app: &App, signals: &mut Stop) {
    tokio::select! {
        () = app.upstream.save_slots() => {}
        () = signals.next() => {}
        () = tokio::time::sleep(SAVING) => {}
    }
    if let Some(traces) = &app.traces {
        traces.flush().await;
    }
}

/// What every handler needs, for a process that listens on these two addresses: the API's, and the admin port's.
pub(super) fn app(
    resolved: Resolved,
    [own, own_admin]: [SocketAddr; 2],
    upstream: Upstream,
    metrics: Metrics,
) -> Result<App, String> {
    let store = store::open(&resolved)?;
    let traces = Traces::new(&resolved.config.traces)?;
    let Resolved { config, keyring, client_keys, tls, .. } = resolved;
    let (hosts, origins) = (&config.allowed_hosts, &config.cors.origins);
    let policy = OriginPolicy::of_api(own, hosts, origins);
    if policy.any_origin() {
        tracing::warn!(
            "cors.origins has \"*\": any web page that is opened where this address can be reached may use it"
        );
    }
    if config.auth.mode == AuthMode::None && !own.ip().is_loopback() {
        tracing::warn!("auth.mode is \"none\": every machine that reaches this address may use the upstream");
    }
    // with keys, what is passed on is what the API has, unless it is said otherwise
    let all = config.passthrough == PassthroughConfig::default() && client_keys.are_on();
    let api = [API_PATHS.to_owned()];
    let paths = Paths::new(if all { &api } else { &config.passthrough.paths });
    let proxies = config.trusted_proxies.iter().map(|text| read_network(text)).collect::<Result<_, _>>()?;
    let (bytes, timeout) = (config.max_buffered_bytes, config.buffer_timeout);
    Ok(App {
        keyring,
        client_keys,
        runs: Runs::new(&config.store),
        store,
        socket_turns: AllSocketTurns::new(config.websocket.memory_max_bytes),
        sockets: TaskTracker::new(),
        origins: policy,
        admin_origins: OriginPolicy::of_admin(own_admin, hosts),
        proxies: TrustedProxies::new(proxies, config.client_address_header),
        limits: ClientLimits::new(&config),
        tls,
        paths,
        activity: ui::is_on(config.ui.page, own_admin.ip().is_loopback()).then(Arc::default),
        echoes: EchoCache::default(),
        budget: Budget::new(bytes, timeout, metrics.over_capacity.clone()),
        config,
        upstream,
        metrics,
        traces,
        cut: CancellationToken::new(),
        leaving: CancellationToken::new(),
        draining: CancellationToken::new(),
    })
}

/// Has the store remove what has expired, for ever.
async fn sweep(app: Arc<App>) {
    let pause = (app.config.store.ttl / 4).clamp(Duration::from_millis(100), Duration::from_secs(60));
    loop {
        tokio::time::sleep(pause).await;
        app.store.sweep().await;
        app.echoes.sweep();
    }
}
