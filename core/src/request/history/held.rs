//! Owns what a request tells again although the chain or conversation that it continues holds it already: which of its
//! items are left out, and where a message of the user's stands that came between a call and its output. It must not
//! read items.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::fields::present;
use crate::request::content::Piece;
use crate::request::history::{Role, Step};
use crate::wire::json;
use crate::wire::request::InputItem;

/// The request's own items that say nothing new are skipped, and named by their place among its own. Clients keep
/// their own history beside ours and send it too (semantic-kernel, Open WebUI, strands, LiveKit): a call told twice
/// would be one that was never answered, and its second output would answer nothing.
///
/// `earlier`: how many of the items are held; `places`: of each step its item.
pub(super) fn skip_repeats(
    steps: &mut [Step<'_>],
    items: &[&InputItem<'_>],
    earlier: usize,
    places: &[usize],
) -> Told {
    let Some(from) = places.iter().position(|place| *place >= earlier) else { return Told::default() };
    let ids = ids(items, earlier);
    let ids: Vec<Option<&str>> =
        places.iter().map(|place| ids.get(*place).and_then(Option::as_deref)).collect();
    let mut again = vec![false; steps.len()];
    let compared = Compared::of(steps, from);
    for at in from..from + compared.overlap(from) {
        set(&mut again, at);
    }
    compared.same_ids(from, &ids, &mut again);
    compared.calls(from, &mut again);
    outputs(steps, from, &mut again);
    // a call told again had its reasoning told again, too
    for at in (from..steps.len()).rev() {
        let next = again.get(at + 1).copied().unwrap_or(false);
        if next && matches!(steps.get(at), Some(Step::Reasoning(_))) {
            set(&mut again, at);
        }
    }
    // an item is kept where any part of it is new
    let mut said: HashSet<usize> = HashSet::new();
    let mut told: Vec<usize> = Vec::new();
    for (at, place) in places.iter().enumerate().skip(from) {
        match (is(&again, at), steps.get_mut(at)) {
            (true, Some(step)) => {
                *step = Step::Skipped;
                told.push(*place - earlier);
            }
            _ => {
                said.insert(*place - earlier);
            }
        }
    }
    told.dedup();
    told.retain(|place| !said.contains(place));
    Told { repeated: told, clash: clash(from, &ids, places, &again) }
}

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub repeated: Vec<usize>,
    /// An id of an item that says something new, which another item has already.
    pub clash: Option<String>,
}

fn clash(from: usize, ids: &[Option<&str>], places: &[usize], again: &[bool]) -> Option<String> {
    let own = ids.iter().zip(places).enumerate().skip(from);
    let mut new = own.filter(|(at, _)| !is(again, *at)).filter_map(|(_, (id, place))| Some(((*id)?, *place)));
    let held = ids.iter().zip(places).take(from).filter_map(|(id, place)| Some(((*id)?, *place)));
    let mut taken: HashMap<&str, usize> = held.collect();
    new.find(|(id, place)| *taken.entry(id).or_insert(*place) != *place).map(|(id, _)| id.to_owned())
}

/// Steps with what is compared of each first, so that a comparison takes no longer than the shorter of its two texts, however
/// often it is made.
struct Compared<'s, 'a> {
    steps: &'s [Step<'a>],
    /// Of a message its length; of a call the number of its arguments, which others that say the same have as well.
    keys: Vec<usize>,
}

impl<'s, 'a> Compared<'s, 'a> {
    /// `from`: where the request's own begin.
    fn of(steps: &'s [Step<'a>], from: usize) -> Compared<'s, 'a> {
        let called = |step: &'s Step<'a>| match step {
            Step::Call { id, .. } => Some(&**id),
            _ => None,
        };
        let own: HashSet<&str> = steps.iter().skip(from).filter_map(called).collect();
        let mut numbers: HashMap<Cow<'_, str>, usize> = HashMap::new();
        let key = |step: &'s Step<'a>| match step {
            Step::Message(texts) => texts.iter().map(|text| bytes(text).len()).sum(),
            // a held one that the request does not name is compared with none
            Step::Call { id, arguments, .. } if own.contains(&**id) => {
                let next = numbers.len();
                *numbers.entry(normal(arguments)).or_insert(next)
            }
            _ => 0,
        };
        Compared { steps, keys: steps.iter().map(key).collect() }
    }

    fn key(&self, at: usize) -> usize {
        self.keys.get(at).copied().unwrap_or_default()
    }

    fn same(&self, a: usize, b: usize) -> bool {
        let pair = self.steps.get(a).zip(self.steps.get(b));
        self.key(a) == self.key(b) && pair.is_some_and(|(a, b)| same(a, b))
    }

    /// How many of the own steps, at their beginning, are the end of what is held: a part of the conversation in which
    /// the model spoke. The longest beginning that is an end is found as Knuth, Morris and Pratt do, at one look at each
    /// step.
    fn overlap(&self, from: usize) -> usize {
        let steps = self.steps;
        let telling = |at: &usize| !matches!(steps.get(*at), Some(Step::Reasoning(_) | Step::Skipped) | None);
        let own: Vec<usize> = (from..steps.len()).filter(telling).collect();
        let spoke = |at: &usize| matches!(steps.get(*at), Some(Step::Message(_) | Step::Call { .. }));
        if !own.iter().any(spoke) {
            return 0;
        }
        // of each beginning of `own`: how long the longest shorter one is that it ends with
        let mut borders: Vec<usize> = Vec::with_capacity(own.len());
        let longer = |borders: &[usize], mut long: usize, next: usize| loop {
            match own.get(long) {
                Some(at) if self.same(*at, next) => return long + 1,
                _ if long == 0 => return 0,
                _ => long = borders.get(long - 1).copied().unwrap_or_default(),
            }
        };
        let mut long = 0;
        for (n, at) in own.iter().enumerate() {
            long = if n == 0 { 0 } else { longer(&borders, long, *at) };
            borders.push(long);
        }
        long = 0;
        for at in (0..from).filter(telling) {
            long = longer(&borders, long, at);
        }
        match own.get(..long) {
            Some(told) if told.iter().any(spoke) => told.last().map_or(0, |last| last + 1 - from),
            _ => 0,
        }
    }

    /// Items that come under the id of one that is held, and say the same. Reasoning never says more than it did.
    fn same_ids(&self, from: usize, ids: &[Option<&str>], again: &mut [bool]) {
        let id = |at: usize| ids.get(at).copied().flatten().filter(|id| !id.is_empty());
        if (from..self.steps.len()).all(|at| id(at).is_none()) {
            return;
        }
        let held: HashMap<&str, usize> = (0..from).filter_map(|at| Some((id(at)?, at))).collect();
        for at in from..self.steps.len() {
            let Some(before) = id(at).and_then(|id| held.get(id)) else { continue };
            let reasoning = |at| matches!(self.steps.get(at), Some(Step::Reasoning(_)));
            if self.same(*before, at) || (reasoning(*before) && reasoning(at)) {
                set(again, at);
            }
        }
    }

    /// Calls that are held, with the messages before them, as far as these are what is held before the call, too.
    fn calls(&self, from: usize, again: &mut [bool]) {
        let steps = self.steps;
        let call = |at: usize| match steps.get(at) {
            Some(Step::Call { id, name, .. }) => Some((&**id, &**name, self.key(at))),
            _ => None,
        };
        if (from..steps.len()).all(|at| call(at).is_none()) {
            return;
        }
        let held: HashMap<_, usize> = (0..from).filter_map(|at| Some((call(at)?, at))).collect();
        // behind the step that is next before each of those held, without such as do not count
        let mut behind = vec![0; from + 1];
        for at in 0..from {
            let counts = !matches!(steps.get(at), Some(Step::Reasoning(_) | Step::Skipped));
            let next = if counts { at + 1 } else { behind.get(at).copied().unwrap_or_default() };
            if let Some(behind) = behind.get_mut(at + 1) {
                *behind = next;
            }
        }
        for at in from..steps.len() {
            let Some(found) = call(at).and_then(|call| held.get(&call)) else { continue };
            set(again, at);
            let (mut own, mut before) = (at, *found);
            while own > from && !is(again, own - 1) {
                before = behind.get(before).copied().unwrap_or_default();
                if before == 0 {
                    break;
                }
                match (steps.get(own - 1), steps.get(before - 1)) {
                    (Some(Step::Reasoning(_) | Step::Skipped), _) => own -= 1,
                    (Some(Step::Prompt(..) | Step::Message(_)), _) if self.same(before - 1, own - 1) => {
                        set(again, own - 1);
                        (own, before) = (own - 1, before - 1);
                    }
                    _ => break,
                }
            }
        }
    }
}

/// A client that reads arguments writes them in its own way.
fn normal<'p>(arguments: &'p Piece<'_>) -> Cow<'p, str> {
    let read = |text: &str| match json::tree(&json::unescape(text)?)? {
        Value::Object(members) => Some(members.into_iter().collect::<BTreeMap<String, Value>>()),
        _ => None,
    };
    match arguments {
        // a longer one is compared as it stands: to take it apart takes several times its memory
        Piece::Text(text) if text.len() > LONG => Cow::Borrowed(text),
        Piece::Text(text) => read(text)
            .and_then(|object| serde_json::to_string(&object).ok())
            .map_or(Cow::Borrowed(&**text), Cow::Owned),
        Piece::Quoted(quoted) => Cow::Borrowed(quoted.json()),
        Piece::Image { .. } | Piece::Audio(_) => Cow::Borrowed(""),
    }
}

/// Bytes from which on arguments are long.
const LONG: usize = 256 << 10;

/// Outputs whose every call is answered by then.
fn outputs(steps: &[Step<'_>], from: usize, again: &mut [bool]) {
    let mut open: HashMap<&str, isize> = HashMap::new();
    let mut called: HashSet<&str> = HashSet::new();
    for (at, step) in steps.iter().enumerate() {
        if let Step::Call { id, .. } = step
            && !is(again, at)
        {
            called.insert(&**id);
            *open.entry(&**id).or_default() += 1;
        }
    }
    for (at, step) in steps.iter().enumerate() {
        let Step::Output { id, .. } = step else { continue };
        let left = open.entry(&**id).or_default();
        if at >= from && *left <= 0 && called.contains(&**id) {
            set(again, at);
        } else if !is(again, at) {
            *left -= 1;
        }
    }
}

fn set(again: &mut [bool], at: usize) {
    if let Some(again) = again.get_mut(at) {
        *again = true;
    }
}

fn is(again: &[bool], at: usize) -> bool {
    again.get(at).copied().unwrap_or(false)
}

/// Whether two steps of one key say the same.
fn same(a: &Step<'_>, b: &Step<'_>) -> bool {
    match (a, b) {
        (Step::Prompt(a, one), Step::Prompt(b, two)) => a == b && same_pieces(one, two),
        (Step::Message(one), Step::Message(two)) => same_pieces(one, two) || same_text(one, two),
        (Step::Call { id: a, name: one, .. }, Step::Call { id: b, name: two, .. }) => a == b && one == two,
        (Step::Output { id: a, pieces: one }, Step::Output { id: b, pieces: two }) => {
            a == b && same_pieces(one, two)
        }
        _ => false,
    }
}

fn same_pieces(one: &[Piece<'_>], two: &[Piece<'_>]) -> bool {
    let same = |(a, b): (&Piece<'_>, &Piece<'_>)| match (a, b) {
        (Piece::Text(a), Piece::Text(b)) => a == b,
        (Piece::Image { url: a, .. }, Piece::Image { url: b, .. }) => a == b,
        (Piece::Audio(a), Piece::Audio(b)) => a.get() == b.get(),
        (Piece::Quoted(a), Piece::Quoted(b)) => a == b,
        _ => false,
    };
    one.len() == two.len() && one.iter().zip(two).all(same)
}

/// Whether texts in other parts are the same.
fn same_text(one: &[Piece<'_>], two: &[Piece<'_>]) -> bool {
    let [one, two] = [one, two].map(|pieces| pieces.iter().flat_map(bytes));
    one.eq(two)
}

fn bytes<'p>(piece: &'p Piece<'_>) -> &'p [u8] {
    match piece {
        Piece::Text(text) => text.as_bytes(),
        Piece::Quoted(quoted) => quoted.json().as_bytes(),
        Piece::Image { .. } | Piece::Audio(_) => b"",
    }
}

/// In which order the steps of a chain are told. A message of the user's between a call and its output goes before the
/// call: outputs follow their call in every template, and behind them the message would be the last word, to which the
/// model answers in place of using the result.
pub(super) fn order(steps: &[Step<'_>], answers: &[Option<usize>]) -> Option<Vec<usize>> {
    let prompt = |at: usize| matches!(steps.get(at), Some(Step::Prompt(Role::User, _)));
    let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut moved: HashSet<usize> = HashSet::new();
    let beginnings = beginnings(steps);
    // up to where an earlier call has them already
    let mut done = 0;
    for (call, output) in answers.iter().enumerate() {
        let Some(output) = output else { continue };
        let between: Vec<usize> = (done.max(call + 1)..*output).filter(|at| prompt(*at)).collect();
        if !between.is_empty() {
            moved.extend(&between);
            before.entry(beginnings.get(call).copied().unwrap_or(call)).or_default().extend(between);
        }
        done = done.max(*output);
    }
    if moved.is_empty() {
        return None;
    }
    let mut order = Vec::with_capacity(steps.len());
    for at in 0..steps.len() {
        order.extend(before.remove(&at).unwrap_or_default());
        if !moved.contains(&at) {
            order.push(at);
        }
    }
    Some(order)
}

/// For each step where the model's turn begins that it may be of.
fn beginnings(steps: &[Step<'_>]) -> Vec<usize> {
    let its = |step: &Step<'_>| {
        matches!(step, Step::Message(_) | Step::Reasoning(_) | Step::Call { .. } | Step::Skipped)
    };
    let mut from = 0;
    let beginning = |(at, step)| {
        let begins = from;
        if !its(step) {
            from = at + 1;
        }
        begins
    };
    steps.iter().enumerate().map(beginning).collect()
}

/// The ids that the items bring along, where any of the request's own has one.
fn ids<'a>(items: &[&InputItem<'a>], from: usize) -> Vec<Option<Cow<'a, str>>> {
    let id = |item: &&InputItem<'a>| item.1.as_ref().and_then(|item| present(item.id)).and_then(json::decode);
    match items.iter().skip(from).any(|item| id(item).is_some()) {
        true => items.iter().map(id).collect(),
        false => Vec::new(),
    }
}
