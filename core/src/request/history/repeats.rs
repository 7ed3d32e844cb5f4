//! Owns the comparison of a request with the chain or conversation that it continues: which of its items repeat stored
//! ones, and where a user message belongs that came between a call and its output. It must not read items.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::fields::present;
use crate::request::content::Piece;
use crate::request::history::{Role, Step};
use crate::wire::json;
use crate::wire::request::InputItem;

/// Skips the request's own items that repeat stored ones, and returns their positions among its own. Some clients send
/// their whole history although the request continues a stored one (semantic-kernel, Open WebUI, strands, LiveKit): a
/// repeated call would look unanswered, and its second output would answer nothing.
///
/// `earlier`: how many of the items are stored. `places`: the position of each step's item.
pub(super) fn skip_repeats(
    steps: &mut [Step<'_>],
    items: &[&InputItem<'_>],
    earlier: usize,
    places: &[usize],
) -> Comparison {
    let Some(from) = places.iter().position(|place| *place >= earlier) else { return Comparison::default() };
    let ids = ids(items, earlier);
    let ids: Vec<Option<&str>> =
        places.iter().map(|place| ids.get(*place).and_then(Option::as_deref)).collect();
    let mut repeated = vec![false; steps.len()];
    let compared = Compared::new(steps, from);
    for at in from..from + compared.overlap(from) {
        mark(&mut repeated, at);
    }
    compared.same_ids(from, &ids, &mut repeated);
    compared.calls(from, &mut repeated);
    outputs(steps, from, &mut repeated);
    // a repeated call had its reasoning repeated, too
    for at in (from..steps.len()).rev() {
        let next = repeated.get(at + 1).copied().unwrap_or(false);
        if next && matches!(steps.get(at), Some(Step::Reasoning(_))) {
            mark(&mut repeated, at);
        }
    }
    // an item counts as repeated only if all its steps are
    let mut new_places: HashSet<usize> = HashSet::new();
    let mut skipped: Vec<usize> = Vec::new();
    for (at, place) in places.iter().enumerate().skip(from) {
        match (is_marked(&repeated, at), steps.get_mut(at)) {
            (true, Some(step)) => {
                *step = Step::Skipped;
                skipped.push(*place - earlier);
            }
            _ => {
                new_places.insert(*place - earlier);
            }
        }
    }
    skipped.dedup();
    skipped.retain(|place| !new_places.contains(place));
    Comparison { repeated: skipped, clash: clash(from, &ids, places, &repeated) }
}

/// The result of the comparison.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub repeated: Vec<usize>,
    /// The id of a new item that a different item already has.
    pub clash: Option<String>,
}

fn clash(from: usize, ids: &[Option<&str>], places: &[usize], repeated: &[bool]) -> Option<String> {
    let own = ids.iter().zip(places).enumerate().skip(from);
    let mut new =
        own.filter(|(at, _)| !is_marked(repeated, *at)).filter_map(|(_, (id, place))| Some(((*id)?, *place)));
    let held = ids.iter().zip(places).take(from).filter_map(|(id, place)| Some(((*id)?, *place)));
    let mut taken: HashMap<&str, usize> = held.collect();
    new.find(|(id, place)| *taken.entry(id).or_insert(*place) != *place).map(|(id, _)| id.to_owned())
}

/// Steps with a key for each, compared first, so that a comparison costs no more than the shorter of its two texts
/// however often it is made.
struct Compared<'s, 'a> {
    steps: &'s [Step<'a>],
    /// The length of a message; a number for the arguments of a call, equal for equal arguments; else 0.
    keys: Vec<usize>,
}

impl<'s, 'a> Compared<'s, 'a> {
    /// `from`: the position of the first own step.
    fn new(steps: &'s [Step<'a>], from: usize) -> Compared<'s, 'a> {
        let called = |step: &'s Step<'a>| match step {
            Step::Call { id, .. } => Some(&**id),
            _ => None,
        };
        let own: HashSet<&str> = steps.iter().skip(from).filter_map(called).collect();
        let mut numbers: HashMap<Cow<'_, str>, usize> = HashMap::new();
        let key = |step: &'s Step<'a>| match step {
            Step::Message(texts) => texts.iter().map(|text| bytes(text).len()).sum(),
            // stored calls that the request does not repeat are never compared
            Step::Call { id, arguments, .. } if own.contains(&**id) => {
                let next = numbers.len();
                *numbers.entry(normalised(arguments)).or_insert(next)
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

    /// How many of the first own steps repeat the end of what is stored, if the model wrote any of them. Finds the
    /// longest such prefix with the Knuth-Morris-Pratt algorithm, so that each step is compared a bounded number of
    /// times.
    fn overlap(&self, from: usize) -> usize {
        let steps = self.steps;
        let counts_as_content =
            |at: &usize| !matches!(steps.get(*at), Some(Step::Reasoning(_) | Step::Skipped) | None);
        let own: Vec<usize> = (from..steps.len()).filter(counts_as_content).collect();
        let from_model = |at: &usize| matches!(steps.get(*at), Some(Step::Message(_) | Step::Call { .. }));
        if !own.iter().any(from_model) {
            return 0;
        }
        // for each prefix of `own`: the length of its longest proper prefix that is also its suffix
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
        for at in (0..from).filter(counts_as_content) {
            long = longer(&borders, long, at);
        }
        match own.get(..long) {
            Some(own) if own.iter().any(from_model) => own.last().map_or(0, |last| last + 1 - from),
            _ => 0,
        }
    }

    /// Marks items with the id of a stored item that say the same. Reasoning under a stored id is always a repetition.
    fn same_ids(&self, from: usize, ids: &[Option<&str>], repeated: &mut [bool]) {
        let id = |at: usize| ids.get(at).copied().flatten().filter(|id| !id.is_empty());
        if (from..self.steps.len()).all(|at| id(at).is_none()) {
            return;
        }
        let held: HashMap<&str, usize> = (0..from).filter_map(|at| Some((id(at)?, at))).collect();
        for at in from..self.steps.len() {
            let Some(before) = id(at).and_then(|id| held.get(id)) else { continue };
            let reasoning = |at| matches!(self.steps.get(at), Some(Step::Reasoning(_)));
            if self.same(*before, at) || (reasoning(*before) && reasoning(at)) {
                mark(repeated, at);
            }
        }
    }

    /// Marks calls that are stored, and the messages before each as far as they match the stored ones before that call.
    fn calls(&self, from: usize, repeated: &mut [bool]) {
        let steps = self.steps;
        let call = |at: usize| match steps.get(at) {
            Some(Step::Call { id, name, .. }) => Some((&**id, &**name, self.key(at))),
            _ => None,
        };
        if (from..steps.len()).all(|at| call(at).is_none()) {
            return;
        }
        let held: HashMap<_, usize> = (0..from).filter_map(|at| Some((call(at)?, at))).collect();
        // for each stored step: the position after the nearest earlier step that counts
        let mut after = vec![0; from + 1];
        for at in 0..from {
            let counts = !matches!(steps.get(at), Some(Step::Reasoning(_) | Step::Skipped));
            let next = if counts { at + 1 } else { after.get(at).copied().unwrap_or_default() };
            if let Some(after) = after.get_mut(at + 1) {
                *after = next;
            }
        }
        for at in from..steps.len() {
            let Some(found) = call(at).and_then(|call| held.get(&call)) else { continue };
            mark(repeated, at);
            let (mut own, mut before) = (at, *found);
            while own > from && !is_marked(repeated, own - 1) {
                before = after.get(before).copied().unwrap_or_default();
                if before == 0 {
                    break;
                }
                match (steps.get(own - 1), steps.get(before - 1)) {
                    (Some(Step::Reasoning(_) | Step::Skipped), _) => own -= 1,
                    (Some(Step::Prompt(..) | Step::Message(_)), _) if self.same(before - 1, own - 1) => {
                        mark(repeated, own - 1);
                        (own, before) = (own - 1, before - 1);
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Arguments in a normal form: clients that parse them write them back in their own way.
fn normalised<'p>(arguments: &'p Piece<'_>) -> Cow<'p, str> {
    let read = |text: &str| match json::tree(&json::unescape(text)?)? {
        Value::Object(members) => Some(members.into_iter().collect::<BTreeMap<String, Value>>()),
        _ => None,
    };
    match arguments {
        // longer ones are compared as they are, since parsing takes several times their memory
        Piece::Text(text) if text.len() > LONG => Cow::Borrowed(text),
        Piece::Text(text) => read(text)
            .and_then(|object| serde_json::to_string(&object).ok())
            .map_or(Cow::Borrowed(&**text), Cow::Owned),
        Piece::Quoted(quoted) => Cow::Borrowed(quoted.json()),
        Piece::Image { .. } | Piece::Audio(_) => Cow::Borrowed(""),
    }
}

/// Arguments of more than this many bytes are not parsed for comparison.
const LONG: usize = 256 << 10;

/// Marks outputs for which no unanswered call is left.
fn outputs(steps: &[Step<'_>], from: usize, repeated: &mut [bool]) {
    let mut open: HashMap<&str, isize> = HashMap::new();
    let mut called: HashSet<&str> = HashSet::new();
    for (at, step) in steps.iter().enumerate() {
        if let Step::Call { id, .. } = step
            && !is_marked(repeated, at)
        {
            called.insert(&**id);
            *open.entry(&**id).or_default() += 1;
        }
    }
    for (at, step) in steps.iter().enumerate() {
        let Step::Output { id, .. } = step else { continue };
        let left = open.entry(&**id).or_default();
        if at >= from && *left <= 0 && called.contains(&**id) {
            mark(repeated, at);
        } else if !is_marked(repeated, at) {
            *left -= 1;
        }
    }
}

fn mark(repeated: &mut [bool], at: usize) {
    if let Some(repeated) = repeated.get_mut(at) {
        *repeated = true;
    }
}

fn is_marked(repeated: &[bool], at: usize) -> bool {
    repeated.get(at).copied().unwrap_or(false)
}

/// Whether two steps with equal keys are equal.
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

/// Whether the texts are equal although they are split into different parts.
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

/// The order in which the steps of a chain are written, if it differs. A user message between a call and its output
/// moves before the call: templates require the output right after its call, and a message after that would be the
/// last one, which the model would answer instead of using the output.
pub(super) fn order(steps: &[Step<'_>], answers: &[Option<usize>]) -> Option<Vec<usize>> {
    let prompt = |at: usize| matches!(steps.get(at), Some(Step::Prompt(Role::User, _)));
    let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut moved: HashSet<usize> = HashSet::new();
    let beginnings = beginnings(steps);
    // messages before this were moved by an earlier call
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

/// For each step, the position where the model's turn around it begins.
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

/// The ids of all items, if any of the request's own has one; else empty.
fn ids<'a>(items: &[&InputItem<'a>], from: usize) -> Vec<Option<Cow<'a, str>>> {
    let id = |item: &&InputItem<'a>| item.1.as_ref().and_then(|item| present(item.id)).and_then(json::decode);
    match items.iter().skip(from).any(|item| id(item).is_some()) {
        true => items.iter().map(id).collect(),
        false => Vec::new(),
    }
}
