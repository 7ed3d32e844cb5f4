//! Owns the chat body: the order of its keys and their values. It must not read the input items.

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

/// How many bytes longer than the request the body of a stored request may become.
const MOST_GROWTH: usize = 8 << 20;

/// Ranges as OpenAI documents them.
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
        let mut body = self.buffer(messages::length(&entries) + tools.length())?;
        body.extend_from_slice(b"{\"model\":");
        json::push_string(&mut body, model);
        body.extend_from_slice(b",\"messages\":");
        messages::write(&mut body, &entries, self.options);
        drop(entries);
        tools.write(&mut body, &choice, self.options.dialect, false);
        let settings = body.len();
        let dialect = self.options.dialect;
        // such a server cannot stream log probabilities beside tools
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

    /// A buffer for the body, for `bytes` of messages and tools and everything else. Its capacity is exact enough that
    /// the buffer does not grow: a larger copy would be in memory beside it.
    ///
    /// Refuses a request that grows too much because of nested escapes and is to be stored: it would be in memory as
    /// received, as sent and as stored. No real conversation has so many escapes.
    pub(super) fn buffer(&self, bytes: usize) -> Result<Vec<u8>, Error> {
        let request = self.request;
        let others = request.others.iter().map(|(_, value)| *value);
        let named = [request.text, request.user, request.reasoning, request.include].into_iter().flatten();
        let others: usize = named.chain(others).map(|value| value.get().len()).sum();
        let length = bytes + others + 512;
        let earlier = self.context.earlier.iter().map(|(raw, _)| raw.get().len()).sum::<usize>();
        let most = self.parsed.text.len() + earlier + MOST_GROWTH;
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

    /// Appends the sampling parameters, which have the same names on both sides, except that `max_output_tokens`
    /// becomes `max_tokens`, which every chat server accepts.
    pub(super) fn sampling(&self, body: &mut Vec<u8>, reply: &ReplyPlan) -> Result<(), Error> {
        let request = self.request;
        // the limit applies to the answer, not to the summary before it
        let max = reply.max_output_tokens.filter(|_| reply.compacts != Some(Compact::Replacing));
        // vLLM refuses 0
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

    /// Appends the accepted level closest to the client's, and the token budget for the client's level.
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
        // such a template has its own switch for thinking, below
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
