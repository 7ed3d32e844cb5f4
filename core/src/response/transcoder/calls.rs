//! Owns the calls of a chat answer: which call a piece belongs to, when each opens and closes, and which item it
//! becomes. It must not end the response.

use crate::ids;
use crate::quirk::Quirk;
use crate::response::open_item::{Call, Ending, OpenItem, OpenKind};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::arguments::may_begin_again;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::call_slot::{CallDelta, CallSlot, Form, Stage};
use crate::tools::call_items;
use crate::tools::custom_input::{CustomInput, Repairs};
use crate::tools::table::ToolKind;
use crate::tools::table::{Called, DeclaredTool, Freeform};
use crate::wire::escaped::is_blank;
use crate::wire::json;

impl Transcoder {
    /// The position in `calls` of the open call, if one is open.
    pub(super) fn open_slot(&self) -> Option<usize> {
        match &self.open.as_ref()?.kind {
            OpenKind::Call(call) => Some(call.slot),
            OpenKind::Held { slot } => Some(*slot),
            _ => None,
        }
    }

    /// Whether the open item is a call with incomplete arguments, so that nothing else can be sent.
    pub(super) fn has_incomplete_call(&mut self) -> bool {
        let slot = self.open_slot().and_then(|at| self.calls.get_mut(at));
        match (slot, &self.open) {
            (Some(slot), Some(open)) => !slot.complete(&open.text),
            _ => false,
        }
    }

    /// Processes one piece of a call.
    pub(super) fn call_delta(&mut self, piece: &CallDelta<'_>, out: &mut Vec<u8>) {
        if self.think.is_searching() {
            self.end_think(out);
        }
        if self.plan.compacts.is_some() {
            // the model was asked for a summary and told not to call tools
            self.dropped += 1;
            return;
        }
        self.release_as_reasoning(out);
        let at = match self.slot_of(piece) {
            Some(at) => at,
            None if self.calls.len() >= MOST_ITEMS => return self.too_many("calls", out),
            None if self.plan.one_call && !self.calls.is_empty() => {
                self.dropped += 1;
                return;
            }
            None => {
                let index = piece.index.unwrap_or(self.calls.len() as u64);
                self.calls.push(CallSlot { index, ..CallSlot::default() });
                self.calls.len() - 1
            }
        };
        if !piece.id.is_empty() || !piece.name.is_empty() {
            self.name_call(at, piece);
        }
        let Some(slot) = self.calls.get_mut(at) else { return };
        if slot.stage == Stage::Closed {
            self.dropped += u64::from(!is_blank(&piece.arguments));
            return;
        }
        let arguments = slot.surrogates.join(&piece.arguments);
        match piece.arguments.as_bytes() {
            [b'{', ..] => self.add_arguments(at, &arguments),
            _ => slot.waiting.push_str(&arguments),
        }
        self.advance(out);
    }

    /// Takes id and name from a piece of a call.
    fn name_call(&mut self, at: usize, piece: &CallDelta<'_>) {
        let taken = !piece.id.is_empty()
            && self.calls.iter().enumerate().any(|(n, slot)| n != at && slot.id == piece.id);
        let Some(slot) = self.calls.get_mut(at) else { return };
        if slot.id.is_empty() && !piece.id.is_empty() && slot.waits() {
            // clients identify a call by its id: two with the same one would be mixed up
            slot.id = if taken { format!("{}_{at}", piece.id) } else { piece.id.to_owned() };
        }
        if slot.name.is_empty() && !is_blank(&piece.name) {
            slot.name = piece.name.clone().into_owned();
        } else if slot.waits() && !is_blank(&piece.name) && slot.waiting.is_empty() {
            // the remaining part of the name, or the whole name again
            slot.name = match piece.name.starts_with(&slot.name) {
                true => piece.name.clone().into_owned(),
                false => std::mem::take(&mut slot.name) + &piece.name,
            };
        }
    }

    /// Adds a piece of arguments that may repeat all earlier ones.
    fn add_arguments(&mut self, at: usize, piece: &str) {
        let is_open = self.open_slot() == Some(at);
        let Some(slot) = self.calls.get_mut(at) else { return };
        let sent = if is_open { self.open.as_ref().map_or("", |open| open.text.as_str()) } else { "" };
        match slot.new_part(sent, piece) {
            Some(more) if self.plan.tools.quirk(Quirk::CumulativeArguments) => {
                if !std::mem::replace(&mut slot.cumulative, true) {
                    self.repaired.count(Quirk::CumulativeArguments);
                }
                slot.waiting.push_str(more);
            }
            _ => slot.waiting.push_str(piece),
        }
    }

    /// The position of the call that a piece belongs to; `None` begins a new one. With an index, the call at that
    /// index, unless a name and a new id show that a server numbers every call 0. Without an index, the call with the
    /// id, else the last one.
    fn slot_of(&self, piece: &CallDelta<'_>) -> Option<usize> {
        let fresh = |slot: &CallSlot| !piece.id.is_empty() && !slot.id.is_empty() && slot.id != piece.id;
        let at = match piece.index {
            Some(index) => self.calls.iter().rposition(|slot| slot.index == index)?,
            None if piece.id.is_empty() => self.calls.len().checked_sub(1)?,
            None => self.calls.iter().rposition(|slot| slot.id == piece.id)?,
        };
        let slot = self.calls.get(at)?;
        let another =
            fresh(slot) && !piece.name.is_empty() && !slot.id.starts_with(&format!("{}_", piece.id));
        (!another).then_some(at)
    }

    /// Sends what can be sent: the arguments of the open call and, once they are complete, whatever waited for it.
    pub(super) fn advance(&mut self, out: &mut Vec<u8>) {
        loop {
            if self.open_slot().is_some() {
                self.drain_open_call(out);
                let more = !self.texts.late.is_empty() || self.calls.iter().any(|slot| slot.waits());
                if !more || self.has_incomplete_call() {
                    return;
                }
                self.close(Ending::Completed, out);
                self.emit_late_text(out);
                continue;
            }
            let Some(next) = self.calls.iter().position(|slot| slot.waits()) else { return };
            let tools = &self.plan.tools;
            if self.calls.get(next).is_none_or(|slot| {
                slot.name.is_empty() || slot.waiting.is_empty() && tools.may_continue(&slot.name)
            }) {
                return;
            }
            self.open_call(next, out);
        }
    }

    /// Opens the item of a call. A call that `tool_choice` forbids is left out: the client must never see a call that
    /// it did not allow. An undeclared name is passed on as the model wrote it: the client's answer ("unsupported
    /// call") corrects the model, and the conversation continues.
    pub(super) fn open_call(&mut self, at: usize, out: &mut Vec<u8>) {
        self.close(Ending::Completed, out);
        let generated =
            self.calls.get(at).is_some_and(|slot| slot.id.is_empty()).then(|| self.ids.item("call_"));
        let Some(slot) = self.calls.get_mut(at) else { return };
        if let Some(id) = generated {
            slot.id = id;
        }
        slot.mark_begun();
        let mut called = json::unescape(&slot.name).unwrap_or_default();
        if let Some(bare) = self.plan.tools.repaired_name(&called) {
            slot.name = json::escape(&bare).into_owned();
            called = bare;
            self.repaired.count(Quirk::CallNames);
        }
        let table = &self.plan.tools;
        match table.called(&called) {
            Called::Forbidden => {
                slot.stage = Stage::Closed;
                slot.waiting.clear();
                self.dropped += 1;
            }
            Called::Unknown => {
                let (name, call_id) = (slot.name.clone(), slot.id.clone());
                let call = Call { slot: at, custom: false, name, namespace: None, call_id, encrypts: false };
                self.open_item(OpenKind::Call(call), ids::FUNCTION_CALL, out);
            }
            Called::Tool(tool) => {
                let custom = match tool.kind {
                    ToolKind::Function => None,
                    ToolKind::Custom(Freeform::Text) => Some(CustomInput::new(None)),
                    ToolKind::Custom(Freeform::Patch) => Some(CustomInput::new(Some(Repairs {
                        fences: table.quirk(Quirk::PatchFences),
                        headers: table.quirk(Quirk::PatchHunkHeaders),
                    }))),
                    _ => {
                        // it takes the output index of the item that will replace it
                        let (kind, index) = (OpenKind::Held { slot: at }, self.items.next_index());
                        let open =
                            OpenItem::begin(&mut self.events, out, kind, String::new(), index, String::new());
                        self.open = Some(open);
                        return;
                    }
                };
                let call = Call {
                    slot: at,
                    custom: custom.is_some(),
                    name: escaped(&tool.name),
                    namespace: tool.namespace.as_deref().map(escaped),
                    call_id: slot.id.clone(),
                    encrypts: tool.encrypts,
                };
                slot.custom = custom;
                self.open_item_of_call(call, out);
            }
        }
    }

    fn open_item_of_call(&mut self, call: Call, out: &mut Vec<u8>) {
        let prefix = if call.custom { ids::CUSTOM_TOOL_CALL } else { ids::FUNCTION_CALL };
        self.open_item(OpenKind::Call(call), prefix, out);
    }

    /// Opens the item that a held call becomes, now that its arguments are complete. `arguments` are escaped.
    pub(super) fn open_held_call(&mut self, at: usize, arguments: &str, ending: Ending, out: &mut Vec<u8>) {
        let Some(slot) = self.calls.get(at) else { return };
        let (name, call_id) = (json::unescape(&slot.name).unwrap_or_default(), slot.id.clone());
        let text = json::unescape(arguments).unwrap_or_default();
        let item = match self.plan.tools.called(&name) {
            Called::Tool(tool) if ending == Ending::Completed => {
                call_items::item(&self.plan.tools, tool, &text)
            }
            _ => call_items::Item::Function { custom: false, name, namespace: None, arguments: text },
        };
        match item {
            call_items::Item::Function { custom, name, namespace, arguments } => {
                let same = |tool: &DeclaredTool| tool.name == name && tool.namespace == namespace;
                let encrypts = self.plan.tools.tools.iter().any(|tool| tool.encrypts && same(tool));
                let namespace = namespace.as_deref().map(escaped);
                let call = Call { slot: at, custom, name: escaped(&name), namespace, call_id, encrypts };
                self.open_item_of_call(call, out);
                let empty = arguments.trim().is_empty() && ending == Ending::Completed && !custom;
                let arguments = if empty { "{}" } else { &arguments };
                if let Some(open) = &mut self.open {
                    open.delta(&mut self.events, out, &escaped(arguments), None);
                }
            }
            call_items::Item::BuiltIn { kind, prefix, members } => {
                let members = members.iter().map(|(key, value)| format!(",\"{key}\":{value}")).collect();
                self.open_item(OpenKind::Whole { kind, call_id, members }, prefix, out);
            }
        }
    }

    /// Whether a call or a text waits for the open call.
    pub(super) fn anything_waits(&self) -> bool {
        !self.texts.late.is_empty() || self.calls.iter().any(|slot| slot.waits())
    }

    /// Sends the arguments of the open call that can be sent.
    pub(super) fn drain_open_call(&mut self, out: &mut Vec<u8>) {
        if let Some(slot) = self.open_slot().and_then(|at| self.calls.get_mut(at))
            && let Some(open) = &mut self.open
        {
            let plain = matches!(slot.form, Form::Plain) && slot.custom.is_none();
            if !plain || may_begin_again(&slot.waiting) {
                let text = slot.release(&open.text, &self.plan.tools, false, &mut self.repaired);
                open.delta(&mut self.events, out, &text, None);
            } else {
                // keeps the allocation for the next piece
                open.delta(&mut self.events, out, &slot.waiting, None);
                slot.waiting.clear();
            }
        }
    }
}

fn escaped(text: &str) -> String {
    json::escape(text).into_owned()
}
