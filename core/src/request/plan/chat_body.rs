//! Owns the chat body: the order of its keys, and what each is made of.

use crate::error::{Error, Kind};
use crate::fields::{boolean, fields, literal, number, string, word};
use crate::large_buffer;
use crate::options::Compact;
use crate::reply_plan::ReplyPlan;
use crate::request::plan::{Planner, Prompt, push_key};
use crate::request::{effort, extra_fields, messages};
use crate::wire::json;
use crate::wire::request::ReasoningConfig;
use std::ops::RangeInclusive;

/// Bytes by which a request that is stored may grow on its way to the model.
const MOST_GROWTH: usize = 8 << 20;

/// Ranges of the documents.
pub(super) const TEMPERATURE: RangeInclusive<i32> = 0..=2;
pub(super) const TOP_P: RangeInclusive<i32> = 0..=1;
pub(super) const PENALTY: RangeInclusive<i32> = -2..=2;

impl<'a> Planner<'a, '_> {
    /// The body for a chat server, and whether it asks for a stream.
    pub(super) fn chat_body(
        &mut self,
        model: &str,
        prompt: Prompt<'a>,
        reply: &ReplyPlan,
    ) -> Result<(Vec<u8>, bool), Error> {
        let Prompt { instructions, entries, tools, choice, format } = prompt;
        let entries = messages::arrange(instructions, entries, self.options);
        let mut body = self.room(messages::length(&entries) + tools.length())?;
        body.extend_from_slice(b"{\"model\":");
        json::push_string(&mut body, model);
        body.extend_from_slice(b",\"messages\":");
        messages::write(&mut body, &entries, self.options);
        drop(entries);
        tools.write(&mut body, &choice, self.options.dialect, false);
        let settings = body.len();
        let dialect = self.options.dialect;
        // log probabilities beside tools go with no stream there
        let torn = reply.logprobs && tools.visible() && !dialect.logprobs_with_tools;
        let chat_stream = reply.stream || (dialect.always_streams && !torn);
        let parallel = boolean(self.request.parallel_tool_calls, "parallel_tool_calls")?;
        if let Some(parallel) = parallel.filter(|_| tools.visible()) {
            push_key(&mut body, "parallel_tool_calls", if parallel { "true" } else { "false" });
        }
        self.sampling(&mut body, reply)?;
        self.reasoning_effort(&mut body)?;
        if reply.compacts.is_none() {
            self.logprobs(&mut body, reply, reply.stream && tools.visible())?;
            if reply.format.is_none() || dialect.format_beside_tools {
                format.write(&mut body);
            }
        }
        if let Some(user) = literal(word(self.request.user, "user")?, "user")? {
            push_key(&mut body, "user", user.get());
        }
        let own = self.request.others.iter().filter(|(key, _)| dialect.extra_keys.contains(&&**key));
        extra_fields::merge(&mut body, settings, own, self.options.extra_body);
        if let Some(key) = dialect.progress_key.filter(|_| chat_stream) {
            push_key(&mut body, key, "true");
        }
        body.extend_from_slice(match chat_stream {
            true => b",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
            false => b",\"stream\":false}",
        });
        Ok((body, chat_stream))
    }

    /// A buffer for the body: `bytes`, messages and tools, and all else. Its length is no guess: one that is too short grows
    /// by doubling, and both are there while it moves.
    ///
    /// Refuses what grows by escapes of escapes and is to be stored: it would be in memory as it came, as it goes on and as
    /// it is kept. No conversation of a model's has so many.
    pub(super) fn room(&self, bytes: usize) -> Result<Vec<u8>, Error> {
        let request = self.request;
        let others = request.others.iter().map(|(_, value)| *value);
        let named = [request.text, request.user, request.reasoning, request.include].into_iter().flatten();
        let others: usize = named.chain(others).map(|value| value.get().len()).sum();
        let length = bytes + others + 512;
        let earlier = self.context.earlier.iter().map(|(raw, _)| raw.get().len()).sum::<usize>();
        let most = self.draft.text.len() + earlier + MOST_GROWTH;
        let kept = boolean(request.store, "store")?.unwrap_or(true) || request.conversation.is_some();
        if !kept || length <= most {
            return Ok(Vec::with_capacity(large_buffer::capacity(length)));
        }
        let message = format!(
            "Invalid 'input': escapes within escapes make it {length} bytes for the model, {most} may be stored. Send it \
             with \"store\": false, or without long texts of quotes in the arguments of calls."
        );
        Err(Error::new(Kind::BodyTooLarge, message).param("input"))
    }

    /// Fields that have the same name and meaning on both sides; `max_output_tokens` is `max_tokens`, which every
    /// server takes.
    pub(super) fn sampling(&self, body: &mut Vec<u8>, reply: &ReplyPlan) -> Result<(), Error> {
        let request = self.request;
        // a limit of the answer's is none of the summary's that goes before it
        let max = reply.max_output_tokens.filter(|_| reply.compacts != Some(Compact::Replacing));
        // none at all is refused by vLLM
        if let Some(max) = if reply.warm_up { Some(1) } else { max } {
            let key = if self.options.native.is_some() { "max_output_tokens" } else { "max_tokens" };
            push_key(body, key, &max.to_string());
        }
        for (key, value, bounds) in [
            ("temperature", request.temperature, TEMPERATURE),
            ("top_p", request.top_p, TOP_P),
            ("presence_penalty", request.presence_penalty, PENALTY),
            ("frequency_penalty", request.frequency_penalty, PENALTY),
        ] {
            if let Some(value) = number(value, key, bounds)? {
                push_key(body, key, value.get());
            }
        }
        Ok(())
    }

    fn logprobs(
        &mut self,
        body: &mut Vec<u8>,
        reply: &ReplyPlan,
        tools_in_stream: bool,
    ) -> Result<(), Error> {
        if !reply.logprobs {
            return Ok(());
        }
        if tools_in_stream && !self.options.dialect.logprobs_with_tools {
            self.notes.add("dropped_logprobs", "this server refuses them beside tools in a stream");
            return Ok(());
        }
        push_key(body, "logprobs", "true");
        push_key(body, "top_logprobs", &reply.top_logprobs.to_string());
        Ok(())
    }

    /// The level that the server takes and is nearest to the client's; the budget is that of the client's own.
    pub(super) fn reasoning_effort(&mut self, body: &mut Vec<u8>) -> Result<(), Error> {
        let reasoning: ReasoningConfig<'_> = fields(self.request.reasoning, "reasoning")?;
        let own = string(reasoning.effort, "reasoning.effort")?;
        let Some(asked) = self.update.effort.and_then(json::decode).or(own) else { return Ok(()) };
        let asked = effort::level(&asked);
        if asked.is_empty() {
            return Ok(());
        }
        let dialect = self.options.dialect;
        let by_template = asked == "none" && dialect.template_kwargs;
        let sent = match self.options.efforts {
            Some(taken) => effort::nearest(&asked, taken),
            None => effort::nearest(&asked, dialect.efforts),
        };
        // the template turns thinking off by its own switch, below
        if let Some(sent) = sent.filter(|sent| *sent == asked || !by_template) {
            push_key(body, "reasoning_effort", "");
            json::push_string(body, sent);
        }
        if sent != Some(&*asked) {
            self.notes.add("changed_effort", &format!("{asked} is sent as {}", sent.unwrap_or("nothing")));
        }
        let budget = self.options.budgets.iter().find(|(name, _)| *name == asked);
        if let (Some(key), Some((_, tokens))) = (dialect.budget_key, budget) {
            push_key(body, key, &tokens.to_string());
        }
        if by_template {
            push_key(body, "chat_template_kwargs", "{\"enable_thinking\":false}");
        }
        Ok(())
    }
}
