//! Owns the traces of requests: a span for each request, and within it one for its plan, one for its wait for a server and one
//! for each server that is asked. They are sent to an OpenTelemetry collector by a thread of their own, which holds up
//! no request: where too many wait, further ones are dropped. It must not see a prompt, a key or a header's value but
//! `traceparent` and `tracestate`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;

use super::access_line::{Facts, RequestHead};
use crate::config::TracesConfig;

/// Where a collector takes traces, below its URL.
const PATH: &str = "/v1/traces";
/// Longest time for one message to the collector.
const EXPORT: Duration = Duration::from_secs(10);
/// Longest time for the last spans, when the process ends.
const FLUSH: Duration = Duration::from_secs(5);

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Sends to `traces.endpoint` from now on; `None` if that is not set. Call it within the runtime.
    ///
    /// # Errors
    /// When the exporter cannot be set up.
    pub fn new(config: &TracesConfig) -> Result<Option<Traces>, String> {
        let Some(endpoint) = &config.endpoint else { return Ok(None) };
        let base = endpoint.trim_end_matches('/');
        let url = if base.ends_with(PATH) { base.to_owned() } else { [base, PATH].concat() };
        let client = reqwest::Client::builder().no_proxy().timeout(EXPORT).build();
        let client = client.map_err(|error| format!("cannot set up traces: {error}"))?;
        let sender = Sender { client, runtime: Handle::current(), failing: AtomicBool::new(false) };
        let exporter = SpanExporter::builder().with_http().with_http_client(sender).with_endpoint(url);
        let exporter = exporter.with_timeout(EXPORT).build();
        let exporter = exporter.map_err(|error| format!("cannot set up traces: {error}"))?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let mut resource = Resource::builder().with_attribute(version);
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("rejoinder");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("rejoinder");
        Ok(Some(Traces { provider, tracer }))
    }

    /// Begins the span of a request, below the one that its headers name.
    pub fn begin(&self, head: &RequestHead, headers: &HeaderMap) -> RequestTrace {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let attributes = [
            KeyValue::new("http.request.method", head.method.clone()),
            KeyValue::new("url.path", head.path.clone()),
            KeyValue::new("rejoinder.request.id", head.id.clone()),
        ];
        let span = self
            .tracer
            .span_builder(format!("{} {}", head.method, head.endpoint))
            .with_kind(SpanKind::Server)
            .with_start_time(wall(head.begun))
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        RequestTrace { tracer: self.tracer.clone(), root: parent.with_span(span), asked: Mutex::default() }
    }

    /// Sends what was not sent yet, and ends; not longer than some seconds.
    pub async fn flush(&self) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH));
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }
}

/// The spans of one request.
#[derive(Debug)]
pub struct RequestTrace {
    tracer: SdkTracer,
    root: Context,
    /// The span of the server that is asked.
    asked: Mutex<Option<Context>>,
}

impl RequestTrace {
    /// Something that took from then until now.
    pub fn took(&self, name: &'static str, since: Instant) {
        let span = self.tracer.span_builder(name).with_start_time(wall(since));
        let span = span.start_with_context(&self.tracer, &self.root);
        self.root.with_span(span).span().end();
    }

    /// A server is asked: begins its span, and gives the headers by which it names that as its parent.
    pub fn ask(&self, operation: &'static str, model: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
        let name = model.map_or(operation.to_owned(), |model| [operation, " ", model].concat());
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", "openai"),
        ];
        attributes.extend(model.map(|model| KeyValue::new("gen_ai.request.model", model.to_owned())));
        let span = self.tracer.span_builder(name).with_kind(SpanKind::Client).with_attributes(attributes);
        let span = self.root.with_span(span.start_with_context(&self.tracer, &self.root));
        let mut headers = HeaderMap::new();
        TraceContextPropagator::new().inject_context(&span, &mut HeaderInjector(&mut headers));
        if let Some(earlier) = self.asked().replace(span) {
            earlier.span().set_status(Status::error("taken elsewhere"));
            earlier.span().end();
        }
        let named = headers.into_iter().filter(|(_, value)| !value.is_empty());
        named.filter_map(|(name, value)| Some((name?, value))).collect()
    }

    /// A run that goes on without the request: its spans are below the request's.
    pub fn run(&self) -> RequestTrace {
        let span = self.root.with_span(self.tracer.start_with_context("run", &self.root));
        let asked = Mutex::new(self.asked().take());
        RequestTrace { tracer: self.tracer.clone(), root: span, asked }
    }

    /// The response has ended, and so has the request to its server. `first_token`: when the first of its output came.
    pub(super) fn answered(&self, facts: &Facts, first_token: Option<Instant>) {
        let Some(asked) = self.asked().take() else { return };
        let span = asked.span();
        let text = |name: &'static str, value: &Option<String>| {
            value.as_ref().map(|value| KeyValue::new(name, value.clone()))
        };
        let upstream = facts.upstream.as_deref().and_then(|label| label.parse::<Uri>().ok());
        let usage = facts.usage;
        let count =
            |name: &'static str, count: Option<u32>| count.map(|count| KeyValue::new(name, i64::from(count)));
        let reasons = facts.ended.clone().map(|ended| {
            KeyValue::new(
                "gen_ai.response.finish_reasons",
                Value::Array(Array::String(vec![StringValue::from(ended)])),
            )
        });
        let host = upstream.as_ref().and_then(|url| url.host()).map(str::to_owned);
        let port = upstream.as_ref().and_then(Uri::port_u16);
        let attributes = [
            text("gen_ai.response.id", &facts.response),
            text("gen_ai.response.model", &facts.own_model),
            text("server.address", &host),
            count("server.port", port.map(u32::from)),
            count("gen_ai.usage.input_tokens", usage.map(|usage| usage.input)),
            count("gen_ai.usage.output_tokens", usage.map(|usage| usage.output)),
            count("gen_ai.usage.cache_read.input_tokens", usage.map(|usage| usage.cached)),
            count("gen_ai.usage.reasoning.output_tokens", usage.map(|usage| usage.reasoning)),
            reasons,
        ];
        span.set_attributes(attributes.into_iter().flatten());
        if let Some(first_token) = first_token {
            span.add_event_with_timestamp("first token", wall(first_token), Vec::new());
        }
        fail(&asked, facts);
        span.end();
    }

    /// The request has ended.
    pub(super) fn ended(&self, facts: &Facts) {
        self.answered(facts, None);
        let span = self.root.span();
        let text = |name: &'static str, value: &Option<String>| {
            value.as_ref().map(|value| KeyValue::new(name, value.clone()))
        };
        let attributes = [
            facts.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))),
            text("rejoinder.ended", &facts.ended),
            text("rejoinder.key", &facts.key),
            text("gen_ai.request.model", &facts.model),
            text("gen_ai.response.id", &facts.response),
        ];
        span.set_attributes(attributes.into_iter().flatten());
        fail(&self.root, facts);
        span.end();
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, Option<Context>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a span whose failure is ours or the upstream's.
fn fail(span: &Context, facts: &Facts) {
    if let Some(code) = facts.code {
        span.span().set_attribute(KeyValue::new("error.type", code));
    }
    if facts.warns {
        span.span().set_status(Status::error(facts.code.unwrap_or_default()));
    }
}

/// A moment by the clock on the wall.
fn wall(at: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(at.elapsed()).unwrap_or(now)
}

/// Sends messages to the collector in our runtime: who asks for it is a thread without one.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
    /// Whether the last message failed, which is told once.
    failing: AtomicBool,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), reqwest::Request::try_from(request)?);
        let sent = self.runtime.spawn(async move {
            // its URL may hold a password
            let answer = client.execute(request).await.map_err(reqwest::Error::without_url)?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let sent = sent.await?;
        let failed = match &sent {
            Ok((status, _)) if status.is_success() => None,
            Ok((status, _)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let failing = self.failing.swap(failed.is_some(), Ordering::Relaxed);
        if let Some(why) = failed.filter(|_| !failing) {
            tracing::warn!(why, "traces cannot be sent to traces.endpoint; they are dropped");
        }
        let (status, body) = sent?;
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}
