//! Turns an upstream's answer (chat chunks, or the events of a server that speaks Responses itself) into Responses
//! events and the Response object.

mod argument_scan;
mod channel;
mod event_writer;
pub mod events;
mod native_items;
pub mod object;
mod open_item;
pub mod shared;
pub mod transcoder;
pub mod upstream_error;
pub mod usage;
