//! Owns the Conversations API (`/v1/conversations`): heads and items, over HTTP. It must not run anything.

use std::collections::HashSet;

use http::{Method, Response, StatusCode};
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::item_views::{id_of, input_id, listed};
use rejoinder_core::request::parse;
use serde_json::value::RawValue;
use serde_json::{Value, json as value};

use super::app::App;
use super::ids::seed;
use super::query::{Page, Query, decoded};
use super::reply::{self, ResponseBody};
use super::stored_context;
use crate::driver::unix_now;
use crate::heavy;
use crate::store::{Conversation, Scope, StoredItem};

/// Answers a request below `/v1/conversations`; `path`: what follows, without slashes at its ends.
pub async fn answer(
    app: &App,
    scope: Scope,
    method: &Method,
    path: &str,
    query: &Query,
    body: &[u8],
) -> Result<Response<ResponseBody>, Error> {
    let mut parts = path.splitn(3, '/');
    let id = decoded(parts.next().unwrap_or(""));
    let (what, item) = (parts.next(), parts.next().map(decoded));
    let body = match (&*id, what, item.as_deref(), method) {
        ("", None, None, &Method::POST) => create(app, scope, body).await?,
        (id, None, None, &Method::GET) if !id.is_empty() => {
            head(&stored_context::conversation(app, scope, id).await?)
        }
        (id, None, None, &Method::POST) if !id.is_empty() => update(app, scope, id, body).await?,
        (id, None, None, &Method::DELETE) if !id.is_empty() => delete(app, scope, id).await?,
        (id, Some("items"), None, &Method::GET) => {
            Page::read(query)?.list(items(app, scope, id, query).await?)?
        }
        (id, Some("items"), None, &Method::POST) => add(app, scope, id, body).await?,
        (id, Some("items"), Some(item), &Method::GET) => one(app, scope, id, item, query).await?,
        (id, Some("items"), Some(item), &Method::DELETE) => remove(app, scope, id, item).await?,
        _ => {
            let message = format!("Method {method} is not allowed for /v1/conversations/{path}.");
            return Err(Error::new(Kind::MethodNotAllowed, message));
        }
    };
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

fn head(conversation: &Conversation) -> Value {
    value!({
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": serde_json::from_str::<Value>(&conversation.metadata).unwrap_or(value!({})),
    })
}

async fn create(app: &App, scope: Scope, body: &[u8]) -> Result<Value, Error> {
    let text = heavy::run(body.len(), || parse::text(body)).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    let asked = heavy::run(body.len(), || parse::ConversationRequest::read(text, &app.config.limits)).await?;
    let id = format!("conv_{}", seed());
    let conversation = Conversation {
        id: id.as_str().into(),
        created_at: unix_now(),
        metadata: asked.metadata.unwrap_or("{}").into(),
    };
    let shown = head(&conversation);
    app.store.put_conversation(scope, conversation).await?;
    if !asked.items.is_empty() {
        append(app, scope, &id, &asked.items).await?;
    }
    Ok(shown)
}

async fn update(app: &App, scope: Scope, id: &str, body: &[u8]) -> Result<Value, Error> {
    let text = parse::text(body)?;
    let asked = parse::ConversationRequest::read(&text, &app.config.limits)?;
    let mut conversation = stored_context::conversation(app, scope, id).await?;
    if let Some(metadata) = asked.metadata {
        conversation.metadata = metadata.into();
    }
    let shown = head(&conversation);
    app.store.put_conversation(scope, conversation).await?;
    Ok(shown)
}

async fn delete(app: &App, scope: Scope, id: &str) -> Result<Value, Error> {
    let found = app.store.delete_conversation(scope, id).await?;
    match found {
        true => Ok(value!({"id": id, "object": "conversation.deleted", "deleted": true})),
        false => Err(stored_context::no_conversation(id)),
    }
}

async fn add(app: &App, scope: Scope, id: &str, body: &[u8]) -> Result<Value, Error> {
    let text = heavy::run(body.len(), || parse::text(body)).await?;
    let asked =
        heavy::run(body.len(), || parse::ConversationRequest::read(&text, &app.config.limits)).await?;
    if asked.items.is_empty() {
        return Err(Error::new(Kind::MissingParameter, "Missing required parameter: 'items'.").param("items"));
    }
    let data = append(app, scope, id, &asked.items).await?;
    let id = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned();
    let (first, last) = (id(data.first()), id(data.last()));
    Ok(value!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false}))
}

async fn append(app: &App, scope: Scope, id: &str, items: &[&RawValue]) -> Result<Vec<Value>, Error> {
    let made_by = format!("resp_{}", seed());
    let bytes = items.iter().map(|item| item.get().len()).sum();
    let made = || {
        let shown = items.iter().enumerate().map(|(n, item)| {
            let id = input_id(&made_by, n, item);
            let item = listed(item, &id, true);
            (StoredItem { id: id.as_str().into(), json: item.to_string().into() }, (id, item))
        });
        shown.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (kept, shown) = heavy::run(bytes, made).await;
    unused(app, scope, id, &kept).await?;
    let found = app.store.append(scope, id, kept).await?;
    match found {
        true => Ok(shown.into_iter().map(|(_, item)| item).collect()),
        false => Err(stored_context::no_conversation(id)),
    }
}

/// Refuses items under an id that another has, of the conversation's or of their own: that one would be gone.
async fn unused(app: &App, scope: Scope, conversation: &str, new: &[StoredItem]) -> Result<(), Error> {
    let there = app.store.items(scope, conversation).await?.unwrap_or_default();
    let mut taken: HashSet<&str> = there.iter().map(|item| &*item.id).collect();
    match new.iter().find(|item| !taken.insert(&item.id)) {
        Some(item) => Err(Error::duplicate_item(&item.id).param("items")),
        None => Ok(()),
    }
}

async fn items(app: &App, scope: Scope, id: &str, query: &Query) -> Result<Vec<(String, Value)>, Error> {
    let images = Page::read(query)?.images;
    let items = app.store.items(scope, id).await?;
    let items = items.ok_or_else(|| stored_context::no_conversation(id))?;
    let shown = || {
        let shown = items.iter().filter_map(|item| {
            let raw: &RawValue = serde_json::from_str(&item.json).ok()?;
            let id = id_of(raw)?;
            Some((id.clone(), listed(raw, &id, images)))
        });
        shown.collect()
    };
    Ok(heavy::run(items.iter().map(|item| item.json.len()).sum(), shown).await)
}

async fn one(app: &App, scope: Scope, id: &str, item: &str, query: &Query) -> Result<Value, Error> {
    let items = items(app, scope, id, query).await?;
    items.into_iter().find(|(id, _)| id == item).map(|(_, item)| item).ok_or_else(|| no_item(item))
}

async fn remove(app: &App, scope: Scope, id: &str, item: &str) -> Result<Value, Error> {
    let conversation = stored_context::conversation(app, scope, id).await?;
    let found = app.store.delete_item(scope, id, item).await?;
    if found { Ok(head(&conversation)) } else { Err(no_item(item)) }
}

fn no_item(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Item with id '{id}' not found."))
}
