//! Owns the members of a response that repeat its request. It must not depend on the answer.

use crate::error::Error;
use crate::fields::{
    array, boolean, fields, integer, literal, metadata, not_one_of, number, object, present, string, word,
};
use crate::options::{ReasoningDisplay, SealReasoning, ThinkTags};
use crate::reply_plan::ReplyPlan;
use crate::request::parse::conversation;
use crate::request::plan::chat_body::{PENALTY, TEMPERATURE, TOP_P};
use crate::request::plan::{Planner, push_key};
use crate::tools::Tools;
use crate::wire::json::{self, minify};
use crate::wire::request::{ReasoningConfig, TextConfig};
use crate::wire::trusted_json;
use serde_json::value::RawValue;
use std::borrow::Cow;

impl<'a> Planner<'a, '_> {
    /// The reply part of the plan: the echo, and how the answer is shown. [`Planner::adapt_prompt`] completes it.
    pub(super) fn reply(&self, model: &str, stream: bool, tools: &Tools<'_>) -> Result<ReplyPlan, Error> {
        let (request, options) = (self.request, self.options);
        let include = array(request.include, "include", self.parsed.limits.include)?.unwrap_or_default();
        let includes = |name: &str| include.iter().any(|raw| raw.get() == name);
        let sealed = includes("\"reasoning.encrypted_content\"");
        let top_logprobs = integer(request.top_logprobs, "top_logprobs", 0, 20)?.unwrap_or(0);
        let stored = boolean(request.store, "store")?.unwrap_or(true);
        let previous = string(request.previous_response_id, "previous_response_id")?;
        Ok(ReplyPlan {
            echo: self.echo(model, tools)?,
            stream,
            reasoning: match sealed && null_summary(request.reasoning) {
                true => ReasoningDisplay::Hidden,
                false => options.reasoning,
            },
            seal: options.seal.clone(),
            // a server with full Responses support seals its own reasoning
            seals_reasoning: (sealed || !stored && options.seal_reasoning == SealReasoning::Unstored)
                && options.native.is_none_or(|native| native.function_tools_only),
            compacts: None,
            warm_up: options.warm_up,
            background: boolean(request.background, "background")?.unwrap_or(false),
            previous_response_id: previous.map(Cow::into_owned),
            refusal_as_text: options.refusal_as_text,
            one_call: !self.parallel()?,
            logprobs: top_logprobs > 0 || includes("\"message.output_text.logprobs\""),
            top_logprobs,
            tools: tools.table.clone(),
            max_output_tokens: self.max_output_tokens()?,
            native: options.native,
            think_tags: ThinkTags::Read,
            format: None,
        })
    }

    fn parallel(&self) -> Result<bool, Error> {
        Ok(boolean(self.request.parallel_tool_calls, "parallel_tool_calls")?.unwrap_or(true))
    }

    fn max_output_tokens(&self) -> Result<Option<u64>, Error> {
        integer(self.request.max_output_tokens, "max_output_tokens", 1, u64::from(u32::MAX))
    }

    /// The 31 fields that repeat the request, all of them always present (docs/protocol.md 6), as JSON members without
    /// braces.
    fn echo(&self, model: &str, tools: &Tools<'_>) -> Result<Vec<u8>, Error> {
        let request = self.request;
        let texts = [request.instructions, request.text, request.tool_choice, request.metadata, request.user];
        let length = texts.iter().flatten().map(|raw| raw.get().len()).sum::<usize>() + tools.echo.len();
        let mut echo = Vec::with_capacity(640 + length);
        self.echo_values(&mut echo)?;
        push_key(&mut echo, "model", "");
        json::push_string(&mut echo, model);
        if let Some(id) = conversation(request)? {
            push_key(&mut echo, "conversation", "{\"id\":");
            json::push_string(&mut echo, &id);
            echo.push(b'}');
        }
        if let Some(retention) = literal(
            word(request.prompt_cache_retention, "prompt_cache_retention")?,
            "prompt_cache_retention",
        )? {
            push_key(&mut echo, "prompt_cache_retention", retention.get());
        }
        literal(word(request.service_tier, "service_tier")?, "service_tier")?;
        push_key(&mut echo, "service_tier", "\"default\"");
        self.echo_reasoning(&mut echo)?;
        self.echo_text(&mut echo)?;
        self.echo_left_out(&mut echo);
        push_key(&mut echo, "tool_choice", &or_absent(present(request.tool_choice), "\"auto\""));
        push_key(&mut echo, "tools", "");
        echo.extend_from_slice(&tools.echo);
        Ok(echo)
    }

    /// Appends the fields with scalar values, and `metadata`.
    fn echo_values(&self, echo: &mut Vec<u8>) -> Result<(), Error> {
        let request = self.request;
        let truncation = string(request.truncation, "truncation")?.unwrap_or(Cow::Borrowed("disabled"));
        if !matches!(&*truncation, "auto" | "disabled") {
            return Err(not_one_of("truncation", &truncation, &["auto", "disabled"]));
        }
        let count = |n: Option<u64>, absent: &'static str| {
            n.map_or(Cow::Borrowed(absent), |n| Cow::Owned(n.to_string()))
        };
        let flag = |is: bool| Cow::Borrowed(if is { "true" } else { "false" });
        let max_tool_calls = integer(request.max_tool_calls, "max_tool_calls", 1, u64::from(u32::MAX))?;
        let top_logprobs = integer(request.top_logprobs, "top_logprobs", 0, 20)?;
        let metadata = metadata(request.metadata, self.parsed.limits.metadata)?;
        let text = |value, key| Ok::<_, Error>(or_absent(literal(value, key)?, "null"));
        let numeral =
            |value, key, bounds, absent| Ok::<_, Error>(or_absent(number(value, key, bounds)?, absent));
        echo.extend_from_slice(b"\"background\":");
        let background = boolean(request.background, "background")?.unwrap_or(false);
        echo.extend_from_slice(if background { b"true" } else { b"false" });
        let values: [(&str, Cow<'_, str>); 14] = [
            ("frequency_penalty", numeral(request.frequency_penalty, "frequency_penalty", PENALTY, "0")?),
            ("instructions", text(request.instructions, "instructions")?),
            ("max_output_tokens", count(self.max_output_tokens()?, "null")),
            ("max_tool_calls", count(max_tool_calls, "null")),
            ("metadata", or_absent(metadata, "{}")),
            ("parallel_tool_calls", flag(self.parallel()?)),
            ("presence_penalty", numeral(request.presence_penalty, "presence_penalty", PENALTY, "0")?),
            ("prompt_cache_key", text(request.prompt_cache_key, "prompt_cache_key")?),
            ("safety_identifier", text(request.safety_identifier, "safety_identifier")?),
            ("store", flag(boolean(request.store, "store")?.unwrap_or(true))),
            ("temperature", numeral(request.temperature, "temperature", TEMPERATURE, "1")?),
            ("top_logprobs", count(top_logprobs, "0")),
            ("top_p", numeral(request.top_p, "top_p", TOP_P, "1")?),
            ("user", text(request.user, "user")?),
        ];
        for (key, value) in values {
            push_key(echo, key, &value);
        }
        push_key(echo, "truncation", "");
        json::push_literal(echo, &truncation);
        Ok(())
    }

    fn echo_reasoning(&self, echo: &mut Vec<u8>) -> Result<(), Error> {
        let reasoning: ReasoningConfig<'_> = fields(self.request.reasoning, "reasoning")?;
        let effort =
            self.update.effort.or(literal(word(reasoning.effort, "reasoning.effort")?, "reasoning.effort")?);
        let summary = literal(reasoning.summary, "reasoning.summary")?
            .or(literal(reasoning.generate_summary, "reasoning.generate_summary")?);
        push_key(echo, "reasoning", "{\"effort\":");
        echo.extend_from_slice(or_absent(effort, "null").as_bytes());
        push_key(echo, "summary", &or_absent(summary, "null"));
        echo.push(b'}');
        Ok(())
    }

    fn echo_text(&self, echo: &mut Vec<u8>) -> Result<(), Error> {
        let text: TextConfig<'_> = fields(self.request.text, "text")?;
        let format = self.update.format.or(object(text.format, "text.format")?);
        push_key(echo, "text", "{\"format\":");
        echo.extend_from_slice(or_absent(format, "{\"type\":\"text\"}").as_bytes());
        if let Some(verbosity) = literal(word(text.verbosity, "text.verbosity")?, "text.verbosity")? {
            let level = json::decode(verbosity).unwrap_or_default();
            if !matches!(&*level, "low" | "medium" | "high") {
                return Err(not_one_of("text.verbosity", &level, &["low", "medium", "high"]));
            }
            push_key(echo, "verbosity", verbosity.get());
        }
        echo.push(b'}');
        Ok(())
    }

    /// Appends `input_transformations`: replayed reasoning that the model does not get.
    fn echo_left_out(&self, echo: &mut Vec<u8>) {
        for (n, (id, reason)) in self.left_out.iter().enumerate() {
            match n {
                0 => push_key(echo, "input_transformations", "["),
                _ => echo.push(b','),
            }
            echo.extend_from_slice(b"{\"id\":");
            json::push_string(echo, id);
            echo.extend_from_slice(b",\"action\":\"removed\",\"reason\":");
            json::push_string(echo, reason);
            echo.extend_from_slice(b",\"type\":\"reasoning\"}");
        }
        if !self.left_out.is_empty() {
            echo.push(b']');
        }
    }
}

/// The value as JSON without white space, or `absent` if there is none.
fn or_absent<'a>(value: Option<&'a RawValue>, absent: &'static str) -> Cow<'a, str> {
    value.map_or(Cow::Borrowed(absent), |value| minify(value.get()))
}

/// Whether `summary` is present and null: the client wants no readable reasoning (docs/protocol.md 7). An absent one
/// has no meaning.
fn null_summary(reasoning: Option<&RawValue>) -> bool {
    let mut null = false;
    trusted_json::members(reasoning.map_or("", RawValue::get), |name, value| {
        null |= name.get() == "\"summary\"" && value.get() == "null";
    });
    null
}
