//! What every store keeps to: one suite that runs on the memory store and on a real redis-server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::redis::Server;
use crate::support::store::{ALICE, BOB, completed, config, conversation, ids, in_state, item, turn};
use proptest::collection::vec;
use proptest::prelude::*;
use rejoinder::keyring::Keyring;
use rejoinder::store::memory::{MemoryLimits, MemoryStore};
use rejoinder::store::redis::{QueueLimits, RedisStore};
use rejoinder::store::{Chain, Scope, Store, Turn, TurnState};
use rejoinder_core::{Input, Output};

const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A store, a second way to the same records, and its time.
struct Subject {
    store: Arc<dyn Store>,
    other: Arc<dyn Store>,
    time: Time,
}

enum Time {
    Clock(Arc<AtomicU64>),
    Server(Server),
}

impl Subject {
    fn memory() -> Subject {
        let (store, now) = memory(MemoryLimits { ttl: TTL, entries: 1000, bytes: 1 << 20 });
        let store = Arc::new(store);
        Subject { store: store.clone(), other: store, time: Time::Clock(now) }
    }

    fn redis(seal: bool) -> Subject {
        let server = Server::start(&[]);
        let keyring = Arc::new(Keyring::generate().unwrap());
        let replica = || {
            let mut config = config(&server.url(), Duration::from_secs(5));
            config.ttl = TTL;
            config.seal = seal;
            Arc::new(RedisStore::connect(&config, keyring.clone(), QueueLimits::default()).unwrap())
        };
        Subject { store: replica(), other: replica(), time: Time::Server(server) }
    }

    /// Lets time pass: the clock is turned forward, or every record's time to live is shortened.
    fn later(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap();
        match &self.time {
            Time::Clock(now) => drop(now.fetch_add(by.try_into().unwrap(), Ordering::Relaxed)),
            Time::Server(server) => {
                let mut connection = server.connection();
                let keys: Vec<String> =
                    redis::cmd("KEYS").arg("rejoinder:{*").query(&mut connection).unwrap();
                for key in keys {
                    let left: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
                    assert!(left > 0, "{key} would stay for ever");
                    redis::cmd("PEXPIRE").arg(&key).arg(left - by).exec(&mut connection).unwrap();
                }
            }
        }
    }
}

fn memory(bounds: MemoryLimits) -> (MemoryStore, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_700_000_000_000));
    let clock = now.clone();
    (MemoryStore::new(bounds, Arc::new(move || clock.load(Ordering::Relaxed))), now)
}

/// Makes of each function three tests.
macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test] async fn $name() { super::$name(super::Subject::memory()).await; })*
        }
        mod on_redis {
            $(#[tokio::test] #[ignore = "needs redis-server"]
            async fn $name() { super::$name(super::Subject::redis(false)).await; })*
        }
        mod on_sealed_redis {
            $(#[tokio::test] #[ignore = "needs redis-server"]
            async fn $name() { super::$name(super::Subject::redis(true)).await; })*
        }
    };
}

on_each_store![
    a_turn_comes_back_as_it_was_until_it_is_deleted,
    nothing_of_one_scope_is_there_for_another,
    a_chain_is_whole_and_in_order,
    a_chain_with_a_deleted_link_is_broken,
    a_chain_ends_at_its_limit,
    only_what_is_completed_or_incomplete_is_continued_from,
    idle_records_go_and_used_ones_stay,
    a_chains_use_renews_all_of_it,
    an_expired_middle_link_breaks_a_chain,
    a_conversation_keeps_its_items_in_order,
    an_item_is_replaced_in_its_place,
    a_deleted_conversation_takes_its_items_along,
    use_of_a_conversation_renews_it,
    two_that_append_at_once_lose_nothing,
];

async fn a_turn_comes_back_as_it_was_until_it_is_deleted(subject: Subject) {
    let store = &subject.store;
    let states = [
        TurnState::Queued,
        TurnState::InProgress,
        TurnState::Completed(7),
        TurnState::Incomplete("max_output_tokens".into()),
        TurnState::Failed { code: "server_error".into(), message: "it \"broke\"\n".into() },
        TurnState::Cancelled,
    ];
    for (n, state) in states.into_iter().enumerate() {
        let id = format!("resp_{n}");
        let parent = (n % 2 == 1).then_some("resp_parent");
        let put = in_state(&id, parent, state);
        store.put(ALICE, put.clone()).await.unwrap();
        assert_eq!(subject.other.turn(ALICE, &id).await.unwrap(), Some(put));
    }
    // empty texts, no usage, the other flags
    let mut bare = turn("resp_bare", None);
    (bare.input, bare.output, bare.echo, bare.usage) = (Input::default(), Output::default(), "".into(), None);
    bare.background = true;
    let bare = Arc::new(bare);
    store.put(ALICE, bare.clone()).await.unwrap();
    assert_eq!(store.turn(ALICE, "resp_bare").await.unwrap(), Some(bare));
    // of which only the text is kept
    let mut plain = turn("resp_plain", None);
    let said = r#"[{"id":"msg_plain0000","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"b\"é","annotations":[],"logprobs":[]}]}]"#;
    (plain.input, plain.output) = (Input::new(r#""a\n""#), Output::new(said.to_owned(), "resp_plain"));
    assert_eq!((plain.input.bytes(), plain.output.bytes()), (r#""a\n""#.len(), r#""b\"é""#.len()));
    let plain = Arc::new(plain);
    store.put(ALICE, plain.clone()).await.unwrap();
    let read = subject.other.turn(ALICE, "resp_plain").await.unwrap().unwrap();
    assert_eq!(read, plain);
    assert_eq!(read.output.array("resp_plain"), said);
    // an older record gives way
    store.put(ALICE, in_state("resp_0", None, TurnState::InProgress)).await.unwrap();
    let last = completed("resp_0", None);
    store.put(ALICE, last.clone()).await.unwrap();
    assert_eq!(store.turn(ALICE, "resp_0").await.unwrap(), Some(last));

    assert_eq!(store.turn(ALICE, "resp_unknown").await.unwrap(), None);
    assert!(!store.delete(ALICE, "resp_unknown").await.unwrap());
    assert!(store.delete(ALICE, "resp_0").await.unwrap());
    assert!(!subject.other.delete(ALICE, "resp_0").await.unwrap());
    assert_eq!(store.turn(ALICE, "resp_0").await.unwrap(), None);
    assert!(store.turn(ALICE, "resp_1").await.unwrap().is_some(), "the others stay");
}

/// What each call answers about an id, as text; nothing is changed for one's own records.
async fn answers(store: &dyn Store, scope: Scope, response: &str, conv: &str, part: &str) -> Vec<String> {
    let mut answers = vec![
        format!("{:?}", store.turn(scope, response).await.unwrap()),
        format!("{:?}", store.chain(scope, response, 100).await.unwrap()),
        format!("{:?}", store.delete(scope, response).await.unwrap()),
        format!("{:?}", store.conversation(scope, conv).await.unwrap()),
        format!("{:?}", store.items(scope, conv).await.unwrap()),
        format!("{:?}", store.append(scope, conv, vec![item("msg_new", "foreign")]).await.unwrap()),
        format!("{:?}", store.delete_item(scope, conv, part).await.unwrap()),
        format!("{:?}", store.delete_conversation(scope, conv).await.unwrap()),
    ];
    if let Some(runs) = store.runs() {
        let lease = Duration::from_secs(60);
        runs.cancel(scope, response).await.unwrap();
        answers.push(format!("{:?}", runs.leased(scope, response).await.unwrap()));
        answers.push(format!("{:?}", runs.events(scope, response, 0).await.unwrap()));
        answers.push(format!("{:?}", runs.renew(scope, response, lease).await.unwrap()));
        runs.release(scope, response).await.unwrap();
    }
    answers
}

async fn nothing_of_one_scope_is_there_for_another(subject: Subject) {
    let store = &*subject.store;
    store.put(ALICE, completed("resp_1", None)).await.unwrap();
    store.put(ALICE, completed("resp_2", Some("resp_1"))).await.unwrap();
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    assert!(store.append(ALICE, "conv_1", vec![item("msg_1", "hers")]).await.unwrap());
    if let Some(runs) = store.runs() {
        assert!(!runs.renew(ALICE, "resp_2", Duration::from_secs(60)).await.unwrap());
        let batch = rejoinder::store::Batch { events: vec!["hers".into()], ..Default::default() };
        runs.append(ALICE, "resp_2", batch, Duration::from_secs(60)).await.unwrap();
    }
    let foreign = answers(store, BOB, "resp_2", "conv_1", "msg_1").await;
    let unknown = answers(store, BOB, "resp_9", "conv_9", "msg_9").await;
    assert_eq!(foreign, unknown);
    // nor can his response continue hers
    store.put(BOB, completed("resp_3", Some("resp_2"))).await.unwrap();
    assert_eq!(ids(&store.chain(BOB, "resp_3", 100).await.unwrap()), ["broken"]);
    // his records of the same names are his own
    store.put(BOB, in_state("resp_2", None, TurnState::Cancelled)).await.unwrap();
    store.put_conversation(BOB, conversation("conv_1", r#"{"his":"own"}"#)).await.unwrap();
    assert!(store.delete_conversation(BOB, "conv_1").await.unwrap());
    assert!(store.delete(BOB, "resp_2").await.unwrap());
    // and hers are as they were
    assert_eq!(ids(&store.chain(ALICE, "resp_2", 100).await.unwrap()), ["resp_1", "resp_2"]);
    assert_eq!(store.conversation(ALICE, "conv_1").await.unwrap(), Some(conversation("conv_1", "{}")));
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap().unwrap(), [item("msg_1", "hers")]);
    if let Some(runs) = store.runs() {
        assert!(!runs.renew(ALICE, "resp_2", Duration::from_secs(60)).await.unwrap(), "not cancelled");
        assert_eq!(runs.events(ALICE, "resp_2", 0).await.unwrap().unwrap().events, ["hers"]);
    }
}

async fn a_chain_is_whole_and_in_order(subject: Subject) {
    let store = &subject.store;
    for (id, parent) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("d", Some("b")), ("e", Some("d"))]
    {
        store.put(ALICE, completed(id, parent)).await.unwrap();
    }
    assert_eq!(ids(&store.chain(ALICE, "a", 100).await.unwrap()), ["a"]);
    assert_eq!(ids(&store.chain(ALICE, "c", 100).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(ids(&subject.other.chain(ALICE, "e", 100).await.unwrap()), ["a", "b", "d", "e"]);
    assert_eq!(ids(&store.chain(ALICE, "unknown", 100).await.unwrap()), ["broken"]);
    // what is in it is whole, too
    let Chain::Whole(turns) = store.chain(ALICE, "c", 100).await.unwrap() else { panic!("not whole") };
    assert_eq!(*turns[1], turn("b", Some("a")));
}

async fn a_chain_with_a_deleted_link_is_broken(subject: Subject) {
    let store = &subject.store;
    for (id, parent) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("d", Some("a"))] {
        store.put(ALICE, completed(id, parent)).await.unwrap();
    }
    assert!(store.delete(ALICE, "b").await.unwrap());
    assert_eq!(ids(&store.chain(ALICE, "c", 100).await.unwrap()), ["broken"]);
    assert_eq!(ids(&store.chain(ALICE, "d", 100).await.unwrap()), ["a", "d"], "the fork is not concerned");
    assert!(store.turn(ALICE, "c").await.unwrap().is_some(), "it can still be read");
}

async fn a_chain_ends_at_its_limit(subject: Subject) {
    let store = &subject.store;
    let name = |n: u32| format!("resp_{n}");
    for n in 1..=10 {
        let parent = (n > 1).then(|| name(n - 1));
        store.put(ALICE, completed(&name(n), parent.as_deref())).await.unwrap();
    }
    assert_eq!(ids(&store.chain(ALICE, "resp_10", 10).await.unwrap()).len(), 10);
    assert_eq!(ids(&store.chain(ALICE, "resp_10", 9).await.unwrap()), ["too long"]);
    assert_eq!(ids(&store.chain(ALICE, "resp_9", 9).await.unwrap()).len(), 9);
    assert_eq!(ids(&store.chain(ALICE, "resp_10", 1).await.unwrap()), ["too long"]);
    assert_eq!(ids(&store.chain(ALICE, "resp_1", 1).await.unwrap()), ["resp_1"]);
}

async fn only_what_is_completed_or_incomplete_is_continued_from(subject: Subject) {
    let store = &subject.store;
    let failed = TurnState::Failed { code: "x".into(), message: "y".into() };
    let states = [
        (TurnState::Completed(1), true),
        (TurnState::Incomplete("max_output_tokens".into()), true),
        (TurnState::Queued, false),
        (TurnState::InProgress, false),
        (TurnState::Cancelled, false),
        (failed, false),
    ];
    for (n, (state, continuable)) in states.into_iter().enumerate() {
        let (first, second) = (format!("resp_{n}"), format!("resp_{n}_next"));
        store.put(ALICE, in_state(&first, None, state.clone())).await.unwrap();
        store.put(ALICE, completed(&second, Some(&first))).await.unwrap();
        for id in [&first, &second] {
            let chain = store.chain(ALICE, id, 100).await.unwrap();
            assert_eq!(matches!(chain, Chain::Whole(_)), continuable, "{state:?} {chain:?}");
        }
    }
}

async fn idle_records_go_and_used_ones_stay(subject: Subject) {
    let store = &subject.store;
    store.put(ALICE, completed("idle", None)).await.unwrap();
    store.put(ALICE, completed("read", None)).await.unwrap();
    store.put(ALICE, completed("again", None)).await.unwrap();
    for _ in 0..3 {
        subject.later(TTL * 2 / 3);
        assert!(store.turn(ALICE, "read").await.unwrap().is_some());
        store.put(ALICE, completed("again", None)).await.unwrap();
    }
    assert_eq!(store.turn(ALICE, "idle").await.unwrap(), None);
    assert!(!store.delete(ALICE, "idle").await.unwrap());
    assert!(store.turn(ALICE, "again").await.unwrap().is_some());
    subject.later(TTL);
    assert_eq!(store.turn(ALICE, "read").await.unwrap(), None);
    assert_eq!(ids(&store.chain(ALICE, "again", 100).await.unwrap()), ["broken"]);
    store.sweep().await;
}

async fn a_chains_use_renews_all_of_it(subject: Subject) {
    let store = &subject.store;
    for (id, parent) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("fork", Some("a"))] {
        store.put(ALICE, completed(id, parent)).await.unwrap();
    }
    for _ in 0..3 {
        subject.later(TTL * 2 / 3);
        assert_eq!(ids(&store.chain(ALICE, "c", 100).await.unwrap()), ["a", "b", "c"]);
    }
    assert_eq!(store.turn(ALICE, "fork").await.unwrap(), None, "what was not used is gone");
}

async fn an_expired_middle_link_breaks_a_chain(subject: Subject) {
    let store = &subject.store;
    for (id, parent) in [("a", None), ("b", Some("a")), ("c", Some("b"))] {
        store.put(ALICE, completed(id, parent)).await.unwrap();
    }
    subject.later(TTL * 2 / 3);
    for id in ["a", "c"] {
        assert!(store.turn(ALICE, id).await.unwrap().is_some());
    }
    subject.later(TTL * 2 / 3);
    assert_eq!(ids(&store.chain(ALICE, "c", 100).await.unwrap()), ["broken"]);
    assert_eq!(ids(&store.chain(ALICE, "a", 100).await.unwrap()), ["a"]);
}

async fn a_conversation_keeps_its_items_in_order(subject: Subject) {
    let store = &subject.store;
    assert_eq!(store.conversation(ALICE, "conv_1").await.unwrap(), None);
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap(), None);
    assert!(!store.append(ALICE, "conv_1", vec![item("m0", "early")]).await.unwrap());
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap().unwrap(), []);
    // more than nine, so that places do not sort as text
    let all: Vec<_> = (1..=12).map(|n| item(&format!("m{n}"), "text")).collect();
    for items in all.chunks(5) {
        assert!(store.append(ALICE, "conv_1", items.to_vec()).await.unwrap());
    }
    assert_eq!(subject.other.items(ALICE, "conv_1").await.unwrap().unwrap(), all);
    // a new head keeps the items
    let head = conversation("conv_1", r#"{"topic":"\"x\" é"}"#);
    store.put_conversation(ALICE, head.clone()).await.unwrap();
    assert_eq!(store.conversation(ALICE, "conv_1").await.unwrap(), Some(head));
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap().unwrap(), all);
}

async fn an_item_is_replaced_in_its_place(subject: Subject) {
    let store = &subject.store;
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    let items = |texts: [&str; 3]| vec![item("a", texts[0]), item("b", texts[1]), item("c", texts[2])];
    store.append(ALICE, "conv_1", items(["1", "2", "3"])).await.unwrap();
    store.append(ALICE, "conv_1", vec![item("b", "new"), item("d", "4")]).await.unwrap();
    let mut expected = items(["1", "new", "3"]);
    expected.push(item("d", "4"));
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap().unwrap(), expected);
    // the same once more changes nothing
    store.append(ALICE, "conv_1", vec![item("b", "new"), item("d", "4")]).await.unwrap();
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap().unwrap(), expected);
    assert!(store.delete_item(ALICE, "conv_1", "b").await.unwrap());
    assert!(!store.delete_item(ALICE, "conv_1", "b").await.unwrap());
    assert!(!store.delete_item(ALICE, "conv_9", "a").await.unwrap());
    store.append(ALICE, "conv_1", vec![item("b", "back")]).await.unwrap();
    let order: Vec<String> =
        store.items(ALICE, "conv_1").await.unwrap().unwrap().iter().map(|item| item.id.to_string()).collect();
    assert_eq!(order, ["a", "c", "d", "b"], "what was deleted comes back at the end");
}

async fn a_deleted_conversation_takes_its_items_along(subject: Subject) {
    let store = &subject.store;
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    store.append(ALICE, "conv_1", vec![item("a", "1")]).await.unwrap();
    assert!(store.delete_conversation(ALICE, "conv_1").await.unwrap());
    assert!(!store.delete_conversation(ALICE, "conv_1").await.unwrap());
    assert_eq!(store.conversation(ALICE, "conv_1").await.unwrap(), None);
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap(), None);
    assert!(!store.append(ALICE, "conv_1", vec![item("b", "2")]).await.unwrap());
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    assert_eq!(store.items(ALICE, "conv_1").await.unwrap().unwrap(), []);
}

async fn use_of_a_conversation_renews_it(subject: Subject) {
    let store = &subject.store;
    for id in ["head", "items", "append", "idle"] {
        store.put_conversation(ALICE, conversation(id, "{}")).await.unwrap();
        store.append(ALICE, id, vec![item("a", "1")]).await.unwrap();
    }
    for n in 0..3 {
        subject.later(TTL * 2 / 3);
        assert!(store.conversation(ALICE, "head").await.unwrap().is_some());
        assert_eq!(store.items(ALICE, "items").await.unwrap().unwrap().len(), 1);
        assert!(store.append(ALICE, "append", vec![item(&format!("n{n}"), "1")]).await.unwrap());
    }
    assert_eq!(store.items(ALICE, "append").await.unwrap().unwrap().len(), 4);
    assert_eq!(store.items(ALICE, "idle").await.unwrap(), None);
    assert!(!store.append(ALICE, "idle", vec![item("b", "2")]).await.unwrap());
}

async fn two_that_append_at_once_lose_nothing(subject: Subject) {
    const CALLS: usize = 50;
    subject.store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    let writer = |store: Arc<dyn Store>, who: &'static str| {
        tokio::spawn(async move {
            for n in 0..CALLS {
                let pair = vec![item(&format!("{who}{n}_1"), "x"), item(&format!("{who}{n}_2"), "x")];
                assert!(store.append(ALICE, "conv_1", pair).await.unwrap());
            }
        })
    };
    let (a, b) = (writer(subject.store.clone(), "a"), writer(subject.other.clone(), "b"));
    a.await.unwrap();
    b.await.unwrap();
    let items = subject.store.items(ALICE, "conv_1").await.unwrap().unwrap();
    let ids: Vec<&str> = items.iter().map(|item| &*item.id).collect();
    for who in ["a", "b"] {
        let own: Vec<&str> = ids.iter().copied().filter(|id| id.starts_with(who)).collect();
        let expected: Vec<String> =
            (0..CALLS).flat_map(|n| [format!("{who}{n}_1"), format!("{who}{n}_2")]).collect();
        assert_eq!(own, expected, "each one's items are there, in its order");
    }
    for pair in ids.chunks(2) {
        assert_eq!(pair[0].strip_suffix("_1"), pair[1].strip_suffix("_2"), "a call's items stay together");
    }
}

#[tokio::test]
async fn a_hundred_thousand_responses_stay_inside_the_bounds_of_memory() {
    const RESPONSES: usize = 100_000;
    let bytes = 16 << 20;
    let (by_bytes, _) = memory(MemoryLimits { ttl: TTL, entries: 1_000_000, bytes });
    let (by_entries, _) = memory(MemoryLimits { ttl: TTL, entries: 5000, bytes: 1 << 30 });
    for n in 0..RESPONSES {
        let turn = completed(&format!("resp_{n}"), None);
        by_bytes.put(ALICE, turn.clone()).await.unwrap();
        by_entries.put(ALICE, turn).await.unwrap();
        if n % 4999 == 0 {
            assert!(by_bytes.bytes() <= bytes, "{} after {n}", by_bytes.bytes());
            assert!(by_entries.len() <= 5000, "{} after {n}", by_entries.len());
        }
    }
    assert!(by_bytes.bytes() <= bytes);
    assert!(by_bytes.bytes() > bytes / 2, "the room is used: {}", by_bytes.bytes());
    assert!(by_entries.len() <= 5000);
    assert!(by_entries.len() > 2500, "the room is used: {}", by_entries.len());
    let last = format!("resp_{}", RESPONSES - 1);
    assert!(by_bytes.turn(ALICE, &last).await.unwrap().is_some(), "the newest is there");
    assert!(by_bytes.turn(ALICE, "resp_0").await.unwrap().is_none(), "the oldest is not");
}

#[tokio::test]
async fn sweeping_frees_what_has_expired() {
    let (store, now) = memory(MemoryLimits { ttl: TTL, entries: 1000, bytes: 1 << 20 });
    for n in 0..100 {
        store.put(ALICE, completed(&format!("resp_{n}"), None)).await.unwrap();
    }
    now.fetch_add(u64::try_from(TTL.as_millis()).unwrap() / 2, Ordering::Relaxed);
    store.put(ALICE, completed("late", None)).await.unwrap();
    now.fetch_add(u64::try_from(TTL.as_millis()).unwrap() / 2, Ordering::Relaxed);
    assert_eq!(store.len(), 101);
    store.sweep().await;
    assert_eq!(store.len(), 1);
    assert!(store.turn(ALICE, "late").await.unwrap().is_some());
}

/// Responses whose ids end alike are kept together; nothing that is asked of the store tells.
#[derive(Debug, Clone)]
enum Step {
    /// A response, by its number, its group and the number of the one that it goes on from.
    Put(u8, u8, Option<u8>),
    Turn(u8, u8),
    Chain(u8, u8),
    Delete(u8, u8),
    /// So much of the idle time passes, in percent.
    Later(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || (0..12_u8, 0..3_u8);
    prop_oneof![
        6 => (id(), proptest::option::weighted(0.8, 0..12_u8)).prop_map(|((n, group), from)| Step::Put(n, group, from)),
        1 => id().prop_map(|(n, group)| Step::Turn(n, group)),
        3 => id().prop_map(|(n, group)| Step::Chain(n, group)),
        1 => id().prop_map(|(n, group)| Step::Delete(n, group)),
        1 => (0..70_u64).prop_map(Step::Later),
        1 => Just(Step::Sweep),
    ]
}

/// What a plain table of turns would answer.
#[derive(Default)]
struct Table {
    turns: BTreeMap<String, (Turn, u64)>,
    now: u64,
}

impl Table {
    fn turn(&mut self, id: &str) -> Option<Turn> {
        let (turn, used) = self.turns.get_mut(id).filter(|(_, used)| self.now - *used < 100)?;
        *used = self.now;
        Some(turn.clone())
    }

    fn chain(&mut self, id: &str) -> Vec<String> {
        let (mut ids, mut next) = (Vec::new(), Some(id.to_owned()));
        while let Some(id) = next {
            let Some(turn) = self.turn(&id) else { return vec!["broken".to_owned()] };
            if ids.len() == 5 {
                return vec!["too long".to_owned()];
            }
            next = turn.parent.map(|parent| parent.to_string());
            ids.insert(0, id);
        }
        ids
    }
}

proptest! {
    #[test]
    fn those_that_are_kept_together_are_as_if_they_were_not(steps in vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (store, now) = memory(MemoryLimits { ttl: Duration::from_millis(100), entries: 1000, bytes: 1 << 20 });
        let begun = now.load(Ordering::Relaxed);
        let mut table = Table::default();
        let name = |n: u8, group: u8| format!("resp_{n:024x}{group:08x}");
        // the group that a number was last put into
        let mut groups = [0; 12];
        runtime.block_on(async {
            for step in steps {
                match step.clone() {
                    Step::Put(n, group, from) => {
                        let id = name(n, group);
                        let from = from.map(|from| name(from, groups[usize::from(from)]));
                        groups[usize::from(n)] = group;
                        let turn = turn(&id, from.as_deref());
                        table.turns.insert(id, (turn.clone(), table.now));
                        store.put(ALICE, Arc::new(turn)).await.unwrap();
                    }
                    Step::Turn(n, group) => {
                        let found = store.turn(ALICE, &name(n, group)).await.unwrap();
                        assert_eq!(found.as_deref(), table.turn(&name(n, group)).as_ref(), "{step:?}");
                    }
                    Step::Chain(n, group) => {
                        let found = store.chain(ALICE, &name(n, group), 5).await.unwrap();
                        assert_eq!(ids(&found), table.chain(&name(n, group)), "{step:?}");
                    }
                    Step::Delete(n, group) => {
                        let id = name(n, group);
                        let had = table.turn(&id).is_some();
                        table.turns.retain(|other, _| *other != id);
                        assert_eq!(store.delete(ALICE, &id).await.unwrap(), had, "{step:?}");
                    }
                    Step::Later(by) => {
                        table.now += by;
                        now.store(begun + table.now, Ordering::Relaxed);
                    }
                    Step::Sweep => {
                        store.sweep().await;
                        let fresh = table.turns.values().filter(|(_, used)| table.now - *used < 100).count();
                        assert_eq!(store.len(), fresh as u64);
                    }
                }
            }
        });
    }
}

#[tokio::test]
async fn what_is_kept_together_counts_for_each_of_it() {
    let (store, _) = memory(MemoryLimits { ttl: TTL, entries: 100, bytes: 1 << 20 });
    let id = |n: usize, group: usize| format!("resp_{n:024x}{group:08x}");
    for group in 0..50 {
        for n in 0..10 {
            let parent = (n > 0).then(|| id(n - 1, group));
            store.put(ALICE, completed(&id(n, group), parent.as_deref())).await.unwrap();
        }
        assert!(store.len() <= 100, "{} after {group}", store.len());
    }
    assert!(store.len() > 50, "the room is used: {}", store.len());
    assert_eq!(ids(&store.chain(ALICE, &id(9, 49), 100).await.unwrap()).len(), 10);
    assert_eq!(ids(&store.chain(ALICE, &id(9, 0), 100).await.unwrap()), ["broken"]);
}

/// The id of a turn that continues another ends like that one's where it is kept together with it.
#[test]
fn one_turn_that_continues_another_is_kept_with_it_while_there_is_room() {
    let (store, _) = memory(MemoryLimits { ttl: TTL, entries: 1000, bytes: 1 << 20 });
    let named = |n: usize| completed(&format!("resp_{n:024x}abababab"), None);
    let mut turns = vec![named(0)];
    assert_eq!(store.id_ending(&turns), Some([0xab; 4]));
    assert_eq!(store.id_ending(&turns), None, "another that begins alike is given up alone");
    while store.id_ending(&turns[..]).is_some() || turns.len() == 1 {
        turns.push(named(turns.len()));
    }
    assert_eq!(turns.len(), 32);
    let mut long = turn("resp_000000000000000000000000abababab", None);
    long.input = Input::new(&"i".repeat(256 << 10));
    assert_eq!(store.id_ending(&[Arc::new(long)]), None);
    assert_eq!(store.id_ending(&[completed("resp_other", None)]), None);
    assert_eq!(store.id_ending(&[]), None);
}
