# syntax=docker/dockerfile:1

# Both images share a Debian release, so that the binary finds the C library that it was linked against.
ARG RUST_IMAGE=rust:1.95.0-slim-trixie
ARG RUNTIME_IMAGE=debian:13.2-slim

FROM ${RUST_IMAGE} AS builder
WORKDIR /build
# The dependencies are a layer of their own: it is built again only when a manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY core/Cargo.toml ./core/
COPY heap ./heap
# The manifest names benches, which have to exist for it to be read.
RUN mkdir -p src core/src benches/e2e \
    && echo 'fn main() {}' | tee src/main.rs benches/core.rs > benches/e2e/main.rs \
    && touch src/lib.rs core/src/lib.rs \
    && cargo build --locked --release \
    && rm -r src core
COPY core ./core
COPY src ./src
COPY ui ./ui
# cargo goes by time stamps, and the copied files may be older than the stand-ins
RUN touch src/main.rs src/lib.rs core/src/lib.rs \
    && cargo build --locked --release \
    && cp target/release/rejoinder rejoinder

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="rejoinder" \
      org.opencontainers.image.description="Gives a Chat Completions server the OpenAI Responses API" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# An upstream that speaks https needs the CA roots.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin rejoinder
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/rejoinder/
COPY --from=builder /build/rejoinder /usr/local/bin/rejoinder

# Inside a container loopback reaches nobody; who may connect is decided where the ports are published.
ENV REJOINDER_LISTEN=0.0.0.0:8081 \
    REJOINDER_ADMIN=0.0.0.0:8082
EXPOSE 8081 8082
# by number, so that an orchestrator can see that it is not root
USER 10001:10001
STOPSIGNAL SIGTERM
# The check reads REJOINDER_ADMIN, too: move the admin port with the variable, not with a flag.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/rejoinder", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/rejoinder"]
