//! The HTTP server: connections in, requests to their handlers, answers out.

mod accept;
mod admin;
mod app;
mod body;
mod chat_request;
mod client_address;
mod client_limits;
mod client_socket;
mod compact;
mod conversation;
mod conversations;
mod create;
mod drain;
#[cfg(test)]
mod faults;
mod first_contact;
mod graceful_connection;
mod http2;
mod ids;
mod inherited_sockets;
mod models;
mod origin;
mod overrides;
mod passthrough;
mod paths;
mod pending_response;
mod prepared_request;
mod proxy_protocol;
mod query;
mod rarely;
mod reload;
mod reply;
mod response_recorder;
mod routes;
mod run_tasks;
mod runs;
mod send;
mod socket_turns;
mod start;
mod stored;
mod stored_context;
mod stored_run;
mod tokens;
mod ui;
pub mod websocket;

pub use start::run;
