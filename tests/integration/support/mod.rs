//! Owns what several files of tests share. It must not test anything itself.

pub mod checker;
pub mod client_keys;
pub mod faulty;
pub mod keeping;
pub mod proxy;
pub mod redis;
pub mod replay;
pub mod socket;
pub mod store;
pub mod tls;
pub mod upstream_bytes;
pub mod websocket_bytes;
