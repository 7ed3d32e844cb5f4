//! What only a shared store has: time-outs, outages, sealing, replicas. Against a real redis-server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::redis::Server;
use crate::support::store::{
    ALICE, BOB, PATIENCE, completed, config, conversation, ids, in_state, item, keyring, turn, until, up,
};
use bytes::Bytes;
use rejoinder::config::StoreConfig;
use rejoinder::keyring::Keyring;
use rejoinder::store::redis::{QueueLimits, RedisStore};
use rejoinder::store::{Batch, Chain, SharedRuns, Store, StoreError, TurnState};
use rejoinder_core::{Input, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_millis(300);
/// What a busy machine may add to a time-out.
const MARGIN: Duration = Duration::from_millis(500);
const KEEP: Duration = Duration::from_secs(60);

fn replica(server: &Server, timeout: Duration) -> RedisStore {
    RedisStore::connect(&config(&server.url(), timeout), keyring(), QueueLimits::default()).unwrap()
}

/// The answer, which must come in time.
async fn timed<T>(limit: Duration, call: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let answer = call.await;
    assert!(begun.elapsed() <= limit, "took {:?}", begun.elapsed());
    answer
}

fn is_kept(answer: &Result<impl std::fmt::Debug, StoreError>) -> bool {
    matches!(answer, Err(error) if error.0.starts_with("kept in memory until the store is back"))
}

fn frames(from: usize, to: usize) -> Batch {
    let events = (from..to).map(|n| Bytes::from(format!("event: x\ndata: {n}\n\n"))).collect();
    Batch { events, ..Batch::default() }
}

async fn log(runs: &dyn SharedRuns, id: &str, from: u64) -> (Vec<Bytes>, bool) {
    let batch = runs.events(ALICE, id, from).await.unwrap().expect("a log");
    (batch.events, batch.ended)
}

/// Calls of each command so far, but for those that the test and the link's own watch make.
fn calls(server: &Server) -> BTreeMap<String, u64> {
    let text: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connection()).unwrap();
    let count = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let own = ["info", "ping", "client|setinfo", "select"].contains(&name);
        (!own).then(|| (name.to_owned(), rest.split(',').next().unwrap().parse().unwrap()))
    };
    text.lines().filter_map(count).collect()
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_chain_is_one_round_trip_however_long_it_is() {
    let server = Server::start(&[]);
    let store = replica(&server, PATIENCE);
    let text = "x".repeat(1024);
    for n in 1..=1000 {
        let parent = (n > 1).then(|| format!("resp_{}", n - 1));
        let mut turn = turn(&format!("resp_{n}"), parent.as_deref());
        (turn.input, turn.output) = (Input::new(&text), Output::new(text.clone(), "resp_"));
        store.put(ALICE, Arc::new(turn)).await.unwrap();
    }
    // the first one may have to load the script
    store.chain(ALICE, "resp_1", 10_000).await.unwrap();
    let mut took = Vec::new();
    for length in [1_usize, 50, 1000] {
        let id = format!("resp_{length}");
        let mut expected = calls(&server);
        let begun = Instant::now();
        let Chain::Whole(turns) = store.chain(ALICE, &id, 10_000).await.unwrap() else { panic!("{length}") };
        took.push((length, begun.elapsed()));
        assert_eq!(turns.len(), length);
        // one command from outside; the others are the script's own
        *expected.get_mut("evalsha").unwrap() += 1;
        *expected.get_mut("getex").unwrap() += length as u64;
        assert_eq!(calls(&server), expected);
    }
    println!("time to load a chain of turns of 2 KB: {took:?}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_server_itself_forgets_what_is_idle() {
    let server = Server::start(&[]);
    let mut short = config(&server.url(), PATIENCE);
    short.ttl = Duration::from_millis(200);
    let store = RedisStore::connect(&short, keyring(), QueueLimits::default()).unwrap();
    store.put(ALICE, completed("resp_1", None)).await.unwrap();
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    assert!(store.turn(ALICE, "resp_1").await.unwrap().is_some());
    // no read through the store, which would renew them
    let mut connection = server.connection();
    until("all of it is gone", async || {
        redis::cmd("KEYS").arg("rejoinder:{*").query::<Vec<String>>(&mut connection).unwrap().is_empty()
    })
    .await;
    assert_eq!(store.turn(ALICE, "resp_1").await.unwrap(), None);
    assert_eq!(store.conversation(ALICE, "conv_1").await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_late_failure_does_not_undo_a_completed_response() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, PATIENCE), replica(&server, PATIENCE));
    a.put(ALICE, in_state("resp_1", None, TurnState::InProgress)).await.unwrap();
    a.put(ALICE, completed("resp_1", None)).await.unwrap();
    let dead = TurnState::Failed { code: "server_error".into(), message: "its replica died".into() };
    b.put(ALICE, in_state("resp_1", None, dead)).await.unwrap();
    assert_eq!(b.turn(ALICE, "resp_1").await.unwrap(), Some(completed("resp_1", None)));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_run_is_watched_and_cancelled_from_another_replica() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, PATIENCE), replica(&server, PATIENCE));
    let (here, there) = (a.runs().unwrap(), b.runs().unwrap());
    assert!(!there.leased(ALICE, "resp_1").await.unwrap());
    assert!(there.events(ALICE, "resp_1", 0).await.unwrap().is_none());
    assert!(!here.renew(ALICE, "resp_1", KEEP).await.unwrap());
    assert!(there.leased(ALICE, "resp_1").await.unwrap());

    here.append(ALICE, "resp_1", frames(0, 3), KEEP).await.unwrap();
    assert_eq!(log(there, "resp_1", 0).await, (frames(0, 3).events, false));
    assert_eq!(log(there, "resp_1", 2).await, (frames(2, 3).events, false));
    assert_eq!(log(there, "resp_1", 3).await, (vec![], false));
    here.append(ALICE, "resp_1", frames(3, 5), KEEP).await.unwrap();
    assert_eq!(log(there, "resp_1", 1).await, (frames(1, 5).events, false));

    there.cancel(ALICE, "resp_1").await.unwrap();
    assert!(here.renew(ALICE, "resp_1", KEEP).await.unwrap());
    here.append(ALICE, "resp_1", Batch { ended: true, ..frames(5, 6) }, KEEP).await.unwrap();
    here.release(ALICE, "resp_1").await.unwrap();
    assert!(!there.leased(ALICE, "resp_1").await.unwrap());
    for from in 0..9 {
        let left = frames((from as usize).min(6), 6).events;
        assert_eq!(log(there, "resp_1", from).await, (left, true), "from {from}");
    }
    // an end without events
    here.append(ALICE, "resp_2", frames(0, 2), KEEP).await.unwrap();
    here.append(ALICE, "resp_2", Batch { ended: true, ..Batch::default() }, KEEP).await.unwrap();
    assert_eq!(log(there, "resp_2", 2).await, (vec![], true));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_log_is_bounded_by_bytes_and_says_what_is_gone() {
    let server = Server::start(&[]);
    let bounded = |most| {
        let config = StoreConfig { replay_max_bytes: most, ..config(&server.url(), PATIENCE) };
        RedisStore::connect(&config, keyring(), QueueLimits::default()).unwrap()
    };
    let entry = frames(100, 101).events[0].len() + 3;
    let (a, b) = (bounded(20 * entry), bounded(20 * entry));
    let (here, there) = (a.runs().unwrap(), b.runs().unwrap());
    for at in (100..200).step_by(5) {
        let batch = Batch { gone: 100, ..frames(at, at + 5) };
        here.append(ALICE, "resp_1", batch, KEEP).await.unwrap();
    }
    for from in [0, 99, 150, 185, 190, 200, 300] {
        let batch = there.events(ALICE, "resp_1", from).await.unwrap().unwrap();
        assert_eq!(batch.gone, 180);
        let first = (from.max(batch.gone) as usize).min(200);
        assert_eq!(batch.events, frames(first, 200).events, "from {from}");
    }
    assert_eq!(there.count(ALICE, "resp_1").await.unwrap(), 200);
    let length: u64 = redis::cmd("LLEN")
        .arg(format!("rejoinder:{{{}}}:e:resp_1", ALICE.hex()))
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(length, 20);
    // an end, and an event longer than all may be
    here.append(ALICE, "resp_1", Batch { ended: true, ..frames(200, 201) }, KEEP).await.unwrap();
    let ended = there.events(ALICE, "resp_1", 200).await.unwrap().unwrap();
    assert_eq!((ended.events, ended.ended), (frames(200, 201).events, true));
    let long = Batch { events: vec![vec![b'x'; 40 * entry].into()], ..Batch::default() };
    here.append(ALICE, "resp_2", long.clone(), KEEP).await.unwrap();
    assert_eq!(log(there, "resp_2", 0).await, (long.events, false));
    // what our own log has lost leaves a gap that is told of
    here.append(ALICE, "resp_2", Batch { gone: 7, ..frames(7, 9) }, KEEP).await.unwrap();
    let batch = there.events(ALICE, "resp_2", 1).await.unwrap().unwrap();
    assert_eq!((batch.gone, batch.events), (7, frames(7, 9).events));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_lease_ends_by_itself_and_so_does_a_log() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, PATIENCE), replica(&server, PATIENCE));
    let (here, there) = (a.runs().unwrap(), b.runs().unwrap());
    here.renew(ALICE, "short", Duration::from_millis(200)).await.unwrap();
    here.renew(ALICE, "long", KEEP).await.unwrap();
    here.append(ALICE, "short", frames(0, 1), Duration::from_millis(200)).await.unwrap();
    here.append(ALICE, "long", frames(0, 1), KEEP).await.unwrap();
    until("the lease has ended", async || !there.leased(ALICE, "short").await.unwrap()).await;
    until("the log is gone", async || there.events(ALICE, "short", 0).await.unwrap().is_none()).await;
    assert!(there.leased(ALICE, "long").await.unwrap());
    assert_eq!(log(there, "long", 0).await.0.len(), 1);
    // what is added to a log that is gone would be its middle
    assert!(here.append(ALICE, "short", frames(1, 2), KEEP).await.is_err());
    assert!(there.events(ALICE, "short", 0).await.unwrap().is_none());
    // a silent run keeps its log for as long as it renews its lease
    let mut connection = server.connection();
    let name = format!("rejoinder:{{{}}}:e:long", ALICE.hex());
    redis::cmd("PEXPIRE").arg(&name).arg(10_000).exec(&mut connection).unwrap();
    here.renew(ALICE, "long", KEEP).await.unwrap();
    let left: u64 = redis::cmd("PTTL").arg(&name).query(&mut connection).unwrap();
    assert!(left > 30_000, "{left}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_server_that_is_not_there_delays_nobody() {
    let mut server = Server::start(&[]);
    server.kill();
    let store = timed(MARGIN, async { replica(&server, TIMEOUT) }).await;
    assert!(timed(TIMEOUT + MARGIN, store.turn(ALICE, "resp_1")).await.is_err());
    until("it is known to be away", async || {
        timed(TIMEOUT + MARGIN, store.chain(ALICE, "resp_1", 10)).await.is_err() && !store.health().up
    })
    .await;
    let put = timed(TIMEOUT + MARGIN, store.put(ALICE, completed("resp_1", None))).await;
    assert!(is_kept(&put), "{put:?}");
    assert_eq!(store.turn(ALICE, "resp_1").await.unwrap(), Some(completed("resp_1", None)));
    server.start_again();
    up(&store).await;
    let other = replica(&server, PATIENCE);
    assert_eq!(other.turn(ALICE, "resp_1").await.unwrap(), Some(completed("resp_1", None)));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn while_the_server_hangs_calls_end_in_time_and_writes_are_kept() {
    let server = Server::start(&[]);
    let store = replica(&server, TIMEOUT);
    store.put(ALICE, completed("resp_1", None)).await.unwrap();
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    server.stop();
    // several at once wait for the same time, none of them longer
    let first = timed(TIMEOUT + MARGIN, async {
        tokio::join!(
            store.put(ALICE, completed("resp_2", Some("resp_1"))),
            store.turn(ALICE, "resp_1"),
            Store::append(&store, ALICE, "conv_1", vec![item("m1", "kept")]),
        )
    })
    .await;
    assert!(is_kept(&first.0) && first.1.is_err() && is_kept(&first.2), "{first:?}");
    // from now on nobody waits at all
    let begun = Instant::now();
    for n in 3..=20 {
        let put = store.put(ALICE, completed(&format!("resp_{n}"), Some(&format!("resp_{}", n - 1)))).await;
        assert!(is_kept(&put), "{put:?}");
    }
    assert!(store.chain(ALICE, "resp_20", 100).await.is_err(), "its beginning is on the server");
    assert!(store.delete(ALICE, "resp_1").await.is_err());
    assert!(store.items(ALICE, "conv_1").await.is_err());
    assert!(store.runs().unwrap().renew(ALICE, "resp_1", KEEP).await.is_err());
    store.put(ALICE, completed("alone", None)).await.unwrap_err();
    store.put(ALICE, completed("next", Some("alone"))).await.unwrap_err();
    assert!(begun.elapsed() < TIMEOUT, "they waited: {:?}", begun.elapsed());
    // what is kept can be read here
    assert!(store.turn(ALICE, "resp_20").await.unwrap().is_some());
    assert_eq!(ids(&store.chain(ALICE, "next", 100).await.unwrap()), ["alone", "next"]);

    server.go_on();
    up(&store).await;
    let other = replica(&server, PATIENCE);
    assert_eq!(ids(&other.chain(ALICE, "resp_20", 100).await.unwrap()).len(), 20);
    assert_eq!(other.items(ALICE, "conv_1").await.unwrap().unwrap(), [item("m1", "kept")]);
    assert_eq!(store.health().lost, 0);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_timed_out_is_done_once_and_never_after_what_came_later() {
    let server = Server::start(&[]);
    let store = replica(&server, Duration::from_millis(100));
    let runs = store.runs().unwrap();
    let other = replica(&server, PATIENCE);
    for round in 0..5 {
        let (run, id) = (format!("run_{round}"), format!("resp_{round}"));
        runs.append(ALICE, &run, frames(0, 2), KEEP).await.unwrap();
        server.stop();
        // both lie in the server's socket by now, as far as can be known
        let (append, put) = tokio::join!(
            runs.append(ALICE, &run, frames(2, 4), KEEP),
            store.put(ALICE, in_state(&id, None, TurnState::Queued)),
        );
        assert!(is_kept(&append) && is_kept(&put), "{append:?} {put:?}");
        assert!(is_kept(&store.put(ALICE, in_state(&id, None, TurnState::InProgress)).await));
        // tried again, with what has come meanwhile
        let last = Batch { ended: true, ..frames(2, 5) };
        assert!(is_kept(&runs.append(ALICE, &run, last.clone(), KEEP).await));
        // this replica reads what it has kept
        assert_eq!(log(runs, &run, 3).await, (frames(3, 5).events, true));
        server.go_on();
        up(&store).await;
        if round % 2 == 0 {
            runs.append(ALICE, &run, last, KEEP).await.unwrap();
        }
        let cancelled = in_state(&id, None, TurnState::Cancelled);
        store.put(ALICE, cancelled.clone()).await.unwrap();
        assert_eq!(log(other.runs().unwrap(), &run, 0).await, (frames(0, 5).events, true));
        assert_eq!(other.turn(ALICE, &id).await.unwrap(), Some(cancelled));
    }
    assert_eq!(store.health().lost, 0);
}

/// A way to the server that can hold back what the first connection sends, and deliver it when that has ended long ago.
async fn slow_way(to: u16) -> (u16, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (held, state) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        for number in 0.. {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (mut requests, mut replies) = client.into_split();
            let (mut answers, mut asked) = server.into_split();
            let mut state = state.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                // to the end: the server must not learn that the client has left
                while let Ok(length @ 1..) = requests.read(&mut bytes).await {
                    if number == 0 {
                        state.wait_for(|held| !held).await.unwrap();
                    }
                    let _ = asked.write_all(&bytes[..length]).await;
                }
                state.wait_for(|held| !held).await.unwrap();
            });
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut replies).await });
        }
    });
    (port, held)
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_is_under_way_on_an_old_connection_is_never_done() {
    let server = Server::start(&[]);
    let (port, held) = slow_way(server.port).await;
    let url = format!("redis://127.0.0.1:{port}/0");
    let store = RedisStore::connect(&config(&url, TIMEOUT), keyring(), QueueLimits::default()).unwrap();
    up(&store).await;
    store.put(ALICE, in_state("resp_1", None, TurnState::Queued)).await.unwrap();
    held.send_replace(true);
    let put = store.put(ALICE, in_state("resp_1", None, TurnState::InProgress)).await;
    assert!(is_kept(&put), "{put:?}");
    // by another connection, which is not held
    up(&store).await;
    let last = in_state("resp_1", None, TurnState::Cancelled);
    store.put(ALICE, last.clone()).await.unwrap();
    held.send_replace(false);
    let mut connection = server.connection();
    until("the old connection is gone", async || {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
        clients.lines().count() == 2
    })
    .await;
    assert_eq!(store.turn(ALICE, "resp_1").await.unwrap(), Some(last));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_server_killed_mid_traffic_loses_nothing() {
    const TURNS: usize = 400;
    // with "everysec" a server answers before it has written, while an earlier fsync still runs
    let mut server = Server::start(&["--appendfsync", "always"]);
    let store = Arc::new(replica(&server, TIMEOUT));
    store.put_conversation(ALICE, conversation("conv_1", "{}")).await.unwrap();
    let done = Arc::new(tokio::sync::watch::Sender::new(0_usize));
    let traffic = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let (mut failed, mut from) = (0, 0);
            for n in 0..TURNS {
                let parent = (n > 0).then(|| format!("resp_{}", n - 1));
                let limit = TIMEOUT + MARGIN;
                let put =
                    timed(limit, store.put(ALICE, completed(&format!("resp_{n}"), parent.as_deref()))).await;
                let items = vec![item(&format!("m{n}"), "x")];
                let append = timed(limit, Store::append(&*store, ALICE, "conv_1", items)).await;
                let (events, next) = (frames(from, 2 * n + 2), 2 * n + 2);
                let event = timed(limit, store.runs().unwrap().append(ALICE, "run", events, KEEP)).await;
                assert!(put.is_ok() || is_kept(&put), "{put:?}");
                assert!(matches!(append, Ok(true)) || is_kept(&append), "{append:?}");
                assert!(event.is_ok() || is_kept(&event), "{event:?}");
                if event.is_ok() {
                    from = next;
                }
                // what was said to be stored or kept can be read at once
                if put.is_err() {
                    failed += 1;
                    assert!(timed(limit, store.turn(ALICE, &format!("resp_{n}"))).await.unwrap().is_some());
                }
                done.send_replace(n + 1);
            }
            failed
        }
    });
    let mut progress = done.subscribe();
    progress.wait_for(|done| *done >= TURNS / 4).await.unwrap();
    server.kill();
    progress.wait_for(|done| *done >= TURNS / 2).await.unwrap();
    // elsewhere, so that the traffic goes on meanwhile
    let server = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    })
    .await
    .unwrap();
    let failed = traffic.await.unwrap();
    assert!(failed > 0, "the outage was seen");
    up(&*store).await;
    let other = replica(&server, PATIENCE);
    assert_eq!(ids(&other.chain(ALICE, &format!("resp_{}", TURNS - 1), TURNS).await.unwrap()).len(), TURNS);
    let items: Vec<_> = (0..TURNS).map(|n| item(&format!("m{n}"), "x")).collect();
    assert_eq!(other.items(ALICE, "conv_1").await.unwrap().unwrap(), items, "each once, in order");
    assert_eq!(log(other.runs().unwrap(), "run", 0).await, (frames(0, 2 * TURNS).events, false));
    assert_eq!(store.health().lost, 0);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_idle_connection_that_the_server_closed_costs_no_request() {
    let server = Server::start(&[]);
    let store = replica(&server, PATIENCE);
    for n in 0..20 {
        store.put(ALICE, completed(&format!("resp_{n}"), None)).await.unwrap();
        let _: u64 = redis::cmd("CLIENT")
            .arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .query(&mut server.connection())
            .unwrap();
        assert!(store.turn(ALICE, &format!("resp_{n}")).await.unwrap().is_some());
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_waits_is_bounded_and_the_oldest_gives_way() {
    let mut server = Server::start(&[]);
    let connect = |room| RedisStore::connect(&config(&server.url(), TIMEOUT), keyring(), room).unwrap();
    let by_count = connect(QueueLimits { writes: 10, bytes: 1 << 20 });
    let by_bytes = connect(QueueLimits { writes: 1000, bytes: 20_000 });
    up(&by_count).await;
    up(&by_bytes).await;
    server.kill();
    for n in 0..25 {
        let mut turn = turn(&format!("resp_{n}"), None);
        turn.input = Input::new(&"x".repeat(1000));
        for (store, scope) in [(&by_count, ALICE), (&by_bytes, BOB)] {
            let put = store.put(scope, Arc::new(turn.clone())).await;
            assert!(is_kept(&put), "{put:?}");
        }
    }
    // what is too large for it by itself is not said to be kept
    let mut huge = turn("huge", None);
    huge.input = Input::new(&"x".repeat(30_000));
    let put = by_bytes.put(BOB, Arc::new(huge)).await;
    assert!(put.is_err() && !is_kept(&put), "{put:?}");
    // a newer record of the same id takes no more room
    by_count.put(ALICE, completed("resp_24", None)).await.unwrap_err();
    let (count, bytes) = (by_count.health(), by_bytes.health());
    assert_eq!((count.waiting, count.lost), (10, 15));
    assert!(bytes.waiting * 1000 < 20_000 && bytes.waiting > 10, "{bytes:?}");
    assert_eq!(bytes.waiting + bytes.lost as usize, 26);
    assert!(by_count.turn(ALICE, "resp_14").await.is_err());
    server.start_again();
    up(&by_count).await;
    let other = replica(&server, PATIENCE);
    assert_eq!(other.turn(ALICE, "resp_24").await.unwrap(), Some(completed("resp_24", None)));
    assert!(other.turn(ALICE, "resp_15").await.unwrap().is_some());
}

/// All that the server holds, in memory and in its files.
fn everything(server: &Server) -> Vec<u8> {
    let mut connection = server.connection();
    let mut all = Vec::new();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    for key in keys {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut connection).unwrap();
        all.extend_from_slice(&key);
        all.extend_from_slice(&dump);
    }
    let mut folders = vec![server.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => all.extend(std::fs::read(path).unwrap()),
            }
        }
    }
    all
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn sealed_records_show_nothing_and_open_only_where_they_belong() {
    let server = Server::start(&[]);
    let sealing = |seal, keyring: Arc<Keyring>| {
        let mut config = config(&server.url(), PATIENCE);
        config.seal = seal;
        RedisStore::connect(&config, keyring, QueueLimits::default()).unwrap()
    };
    let keys = keyring();
    let store = sealing(true, keys.clone());
    let secret = |id: &str, parent: Option<&str>| {
        let mut turn = turn(id, parent);
        let item = r#"[{"content":"plaintext"}]"#;
        (turn.input, turn.output) = (Input::new(item), Output::new(item.to_owned(), id));
        turn.echo = r#""instructions":"plaintext""#.into();
        Arc::new(turn)
    };
    let fill = async |store: &RedisStore, id: &str| {
        store.put(ALICE, secret(id, None)).await.unwrap();
        store.put(ALICE, secret(&format!("{id}_2"), Some(id))).await.unwrap();
        let conv = format!("conv_{id}");
        store.put_conversation(ALICE, conversation(&conv, r#"{"k":"plaintext"}"#)).await.unwrap();
        Store::append(store, ALICE, &conv, vec![item("m1", "plaintext"), item("m2", "plaintext")])
            .await
            .unwrap();
        let batch = Batch { events: vec!["plaintext".into(), "plaintext".into()], ended: true, gone: 0 };
        store.runs().unwrap().append(ALICE, id, batch, KEEP).await.unwrap();
    };
    let plain_text = |server: &Server| memchr::memmem::find(&everything(server), b"plaintext").is_some();
    fill(&store, "sealed").await;
    assert!(!plain_text(&server));
    // the search would have found it
    let plain = sealing(false, keys.clone());
    fill(&plain, "plain").await;
    assert!(plain_text(&server));

    // a store that does not seal still reads what is sealed; one that seals believes nothing else
    assert_eq!(plain.turn(ALICE, "sealed").await.unwrap(), Some(secret("sealed", None)));
    assert_eq!(store.turn(ALICE, "plain").await.unwrap(), None);
    assert_eq!(store.conversation(ALICE, "conv_plain").await.unwrap(), None);
    assert_eq!(store.items(ALICE, "conv_plain").await.unwrap(), None);
    assert!(store.runs().unwrap().events(ALICE, "plain", 0).await.unwrap().is_none());
    // and nobody without the key
    assert_eq!(sealing(true, keyring()).turn(ALICE, "sealed").await.unwrap(), None);

    let mut connection = server.connection();
    let key = |kind: char, id: &str| format!("rejoinder:{{{}}}:{kind}:{id}", ALICE.hex());
    // moved to another name
    redis::cmd("COPY").arg(key('t', "sealed")).arg(key('t', "moved")).exec(&mut connection).unwrap();
    redis::cmd("COPY").arg(key('c', "conv_sealed")).arg(key('c', "moved")).exec(&mut connection).unwrap();
    redis::cmd("COPY").arg(key('e', "sealed")).arg(key('e', "moved")).exec(&mut connection).unwrap();
    assert_eq!(store.turn(ALICE, "moved").await.unwrap(), None);
    assert_eq!(ids(&store.chain(ALICE, "moved", 10).await.unwrap()), ["broken"]);
    assert_eq!(store.items(ALICE, "moved").await.unwrap(), None);
    assert!(store.runs().unwrap().events(ALICE, "moved", 0).await.unwrap().is_none());
    // an item in another's place, two events that changed places
    let conv = key('c', "conv_sealed");
    let first: Vec<u8> = redis::cmd("HGET").arg(&conv).arg("i:m1").query(&mut connection).unwrap();
    redis::cmd("HSET").arg(&conv).arg("i:m2").arg(first).exec(&mut connection).unwrap();
    let left = store.items(ALICE, "conv_sealed").await.unwrap().unwrap();
    assert_eq!(left, [item("m1", "plaintext")]);
    let log = key('e', "sealed");
    let first: Vec<u8> = redis::cmd("LINDEX").arg(&log).arg(0).query(&mut connection).unwrap();
    redis::cmd("LSET").arg(&log).arg(1).arg(first).exec(&mut connection).unwrap();
    assert!(store.runs().unwrap().events(ALICE, "sealed", 0).await.unwrap().is_none());

    // one bit of any byte of a record; the byte that says what is final is for the script alone
    let name = key('t', "sealed_2");
    let record: Vec<u8> = redis::cmd("GET").arg(&name).query(&mut connection).unwrap();
    for at in (0..record.len()).filter(|at| *at != 2) {
        let mut record = record.clone();
        record[at] ^= 1;
        redis::cmd("SET").arg(&name).arg(record).exec(&mut connection).unwrap();
        assert_eq!(store.turn(ALICE, "sealed_2").await.unwrap(), None, "byte {at}");
        assert_eq!(ids(&store.chain(ALICE, "sealed_2", 10).await.unwrap()), ["broken"], "byte {at}");
    }
    redis::cmd("SET").arg(&name).arg(&record).exec(&mut connection).unwrap();
    assert_eq!(ids(&store.chain(ALICE, "sealed_2", 10).await.unwrap()), ["sealed", "sealed_2"]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_record_of_another_version_is_absent() {
    let server = Server::start(&[]);
    let store = replica(&server, PATIENCE);
    store.put(ALICE, completed("resp_1", None)).await.unwrap();
    store.put(ALICE, completed("resp_2", Some("resp_1"))).await.unwrap();
    let mut connection = server.connection();
    let name = format!("rejoinder:{{{}}}:t:resp_1", ALICE.hex());
    let mut record: Vec<u8> = redis::cmd("GET").arg(&name).query(&mut connection).unwrap();
    record[0] += 1;
    for odd in [record.as_slice(), b"", b"\x01", b"\x01\x00\x01\xff", b"\x01\x00\x01\x00\xff\xff\xff\xff"] {
        redis::cmd("SET").arg(&name).arg(odd).exec(&mut connection).unwrap();
        assert_eq!(store.turn(ALICE, "resp_1").await.unwrap(), None);
        assert_eq!(ids(&store.chain(ALICE, "resp_2", 10).await.unwrap()), ["broken"]);
    }
}
