//! Tests that a replica which stops releases its disk, so that the same process can open it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use kvorum_replica::node::replica::Replica;
use kvorum_replica::node::settings::Settings;

const STARTS: usize = 20;
/// Threads that keep the processors busy, so that stopping takes a while.
const BUSY: usize = 8;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_closed_when_its_replica_stopped() {
    let data = tempfile::tempdir().unwrap();
    let Program { settings } = Program::parse_from([
        "kvorum-replica",
        "--name=kvorum-0",
        "--members=kvorum-0,kvorum-1,kvorum-2",
        "--cluster=00000000000000000000000000000001",
        "--disk-reserve=0",
        "--tls=off",
        "--listen-peers=127.0.0.1:0",
        "--listen-clients=127.0.0.1:0",
        "--listen-http=127.0.0.1:0",
        &format!("--peers-from={}", data.path().display()),
        &format!("--data={}/kvorum-0", data.path().display()),
    ]);
    let ended = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..BUSY)
        .map(|_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || while !ended.load(Ordering::Relaxed) {})
        })
        .collect();
    let fatal = Arc::new(AtomicBool::new(false));
    let mut failed = None;
    for start in 0..STARTS {
        let fatal = Arc::clone(&fatal);
        let on_fatal = move |what: &str| {
            fatal.store(true, Ordering::Relaxed);
            panic!("{what}");
        };
        match Replica::start(&settings, None, Arc::new(on_fatal)).await {
            Ok(replica) => replica.stop(false).await,
            Err(error) => {
                failed = Some(format!("start {start}: {error}"));
                break;
            }
        }
    }
    ended.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
    assert_eq!((failed, fatal.load(Ordering::Relaxed)), (None, false));
}
