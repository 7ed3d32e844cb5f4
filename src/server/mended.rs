//! Owns the choice of the API that the upstream is asked to speak. It must not translate: what each API means is
//! `translate`'s business.

use super::App;
use crate::config::Api;
use crate::translate::native::Native;
use crate::upstream::Target;

/// How the server takes Responses requests; `None`: it is asked for chat completions.
pub fn native(app: &App, target: &Target) -> Option<&'static Native> {
    (app.upstream.api() == Api::Responses).then(|| Native::of(target.dialect.name, &target.base))
}

/// Where a request goes, and whether a stream is asked for.
pub fn endpoint(native: Option<&'static Native>, stream: bool) -> (&'static str, bool) {
    match native {
        Some(native) => (native.path, stream || native.streams_only),
        None => ("/v1/chat/completions", stream),
    }
}

/// Whether conversations are summarised here, not by a server that does so itself.
pub fn compacts(app: &App, target: &Target) -> bool {
    native(app, target).is_none_or(|native| native.functions)
}
