//! Owns the bodies for servers that speak Responses themselves, made from a parsed request. It must not refuse anything
//! that a chat server would be sent.

use crate::compaction;
use crate::error::Error;
use crate::fields::{boolean, present};
use crate::reply_plan::ReplyPlan;
use crate::request::plan::{Planner, Prompt, push_key};
use crate::request::{extra_fields, messages, responses_body};
use crate::responses_profile::ResponsesProfile;
use crate::wire::json;
use crate::wire::request::InputItem;
use serde_json::value::RawValue;

impl<'a> Planner<'a, '_> {
    /// The body for a server that speaks Responses but knows only functions and plain items.
    pub(super) fn functions_body(
        &mut self,
        native: &ResponsesProfile,
        model: &str,
        prompt: Prompt<'a>,
        reply: &ReplyPlan,
    ) -> Result<Vec<u8>, Error> {
        let Prompt { instructions, entries, tools, choice, format } = prompt;
        let entries = messages::arrange(instructions, entries, self.options);
        let mut body = self.buffer(messages::length(&entries) + tools.length() + 512)?;
        body.extend_from_slice(b"{\"model\":");
        json::push_string(&mut body, model);
        body.extend_from_slice(b",\"input\":");
        responses_body::write_plain(&mut body, &entries);
        drop(entries);
        tools.write(&mut body, &choice, self.options.dialect, true);
        let settings = body.len();
        let parallel = boolean(self.request.parallel_tool_calls, "parallel_tool_calls")?;
        if let Some(parallel) = parallel.filter(|_| tools.visible()) {
            push_key(&mut body, "parallel_tool_calls", if parallel { "true" } else { "false" });
        }
        self.sampling(&mut body, reply)?;
        if native.chat_fields {
            self.reasoning_effort(&mut body)?;
            if reply.compacts.is_none() && reply.format.is_none() {
                format.write(&mut body);
            }
        } else {
            let text = present(self.request.text).map(RawValue::get);
            let free = text.filter(|_| reply.format.is_some()).map(without_format);
            for (key, value) in [
                ("reasoning", present(self.request.reasoning).map(RawValue::get)),
                ("text", free.as_deref().or(text)),
                ("include", present(self.request.include).map(RawValue::get)),
                ("top_logprobs", present(self.request.top_logprobs).map(RawValue::get)),
            ] {
                if let Some(value) = value {
                    push_key(&mut body, key, value);
                }
            }
        }
        let dialect = self.options.dialect;
        let own = self.request.others.iter().filter(|(key, _)| dialect.extra_keys.contains(&&**key));
        extra_fields::merge(&mut body, settings, own, self.options.extra_body);
        responses_body::end(&mut body, reply.stream, native);
        Ok(body)
    }

    /// The body for a server with full Responses support.
    pub(super) fn full_native_body(
        &self,
        native: &ResponsesProfile,
        model: &str,
        items: &[&InputItem<'a>],
        reply: &ReplyPlan,
    ) -> Vec<u8> {
        let text = present(self.request.input).filter(|input| input.get().starts_with('"'));
        let seal = self.options.seal.as_deref();
        let prompt = reply.compacts.map(|_| compaction::PROMPT);
        // items that are stored already are not sent twice
        let earlier = self.context.earlier.len();
        let mut repeated = self.repeated.iter().map(|n| n + earlier).peekable();
        let new = items.iter().enumerate().filter(|(n, _)| repeated.next_if_eq(n).is_none());
        let new: Vec<_> = new.map(|(_, item)| *item).collect();
        let input = responses_body::input(&new, text, seal, prompt);
        responses_body::full_body(self.parsed.text, model, reply.stream, input.as_deref(), native)
    }
}

/// The `text` settings without the format, which the upstream is not to know yet.
fn without_format(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    for (key, value) in json::members(text).unwrap_or_default().iter().filter(|(key, _)| key != "format") {
        push_key(&mut out, key, value.get());
    }
    let members = String::from_utf8(out).unwrap_or_default();
    format!("{{{}}}", members.trim_start_matches(','))
}
