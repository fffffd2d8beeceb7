//! Tests of strangers, floods and damage: a replica rejects them, stays in bounds and goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::wire::{PLAIN, addresses, connect, receive, resident_mib, send};
use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, said};
use kvorum_protocol::WIRE_VERSION;
use kvorum_protocol::frame;
use kvorum_protocol::handshake::{ClientHello, HandshakeRefusal, ServerHello};
use kvorum_protocol::message::{ClientFrame, Consistency, Request, ServerFrame};
use kvorum_replica::state::start::{Challenge, Proof, Secret};
use kvorum_replica::state::version::Version;
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use rustix::process::Signal;

/// Returns meaningless bytes, the same for the same seed.
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn random_bytes_and_huge_claims_on_every_port_change_nothing() {
    let cluster = Cluster::start(&[PLAIN]);
    let at = addresses(&cluster, "kvorum-0");
    for port in [&at.peers, &at.clients, &at.http] {
        for seed in 0..50 {
            // The replica may close the connection before everything was sent.
            let _ = connect(port).write_all(&noise(seed, 4096));
        }
        let mut claim = connect(port);
        let _ = claim.write_all(&[0xff; 4]).and_then(|()| claim.write_all(&[0; 64]));
        let mut answer = Vec::new();
        let _ = claim.read_to_end(&mut answer);
        assert!(answer.len() < 4096, "it is told nothing much and let go");
    }
    // A valid handshake, then noise.
    for seed in 0..20 {
        let mut client = connect(&at.clients);
        send(&mut client, &ClientHello::new(None)).unwrap();
        assert!(receive::<ServerHello>(&mut client).unwrap().verdict.is_ok());
        let _ = client.write_all(&noise(seed, 4096));
    }
    let (code, _, err) = said(&cluster.run(&["put", "a", "1", "n1"]));
    assert_eq!(code, 0, "{err}");
    let status = said(&cluster.run(&["status", "-o", "json"])).1;
    assert_eq!(status.matches("\"incarnation\": 1").count(), 3, "nobody died: {status}");
}

#[test]
fn a_wire_version_that_is_too_new_is_told_what_to_do() {
    let cluster = Cluster::start(&["--replicas=2", PLAIN]);
    let mut client = connect(&addresses(&cluster, "kvorum-0").clients);
    let hello = ClientHello { version_min: 7, version_max: 9, ..ClientHello::new(None) };
    send(&mut client, &hello).unwrap();
    let refusal = receive::<ServerHello>(&mut client).unwrap().verdict.unwrap_err();
    assert!(matches!(refusal, HandshakeRefusal::Version { server: WIRE_VERSION, .. }));
    assert!(refusal.to_string().contains("install matching versions"), "{refusal}");
}

#[test]
fn two_thousand_connections_leave_room_for_those_that_were_there() {
    let cluster = Cluster::start(&[PLAIN]);
    let at = addresses(&cluster, "kvorum-0").clients;
    let one = || {
        let mut stream = connect(&at);
        let answer =
            send(&mut stream, &ClientHello::new(None)).ok().and_then(|()| receive(&mut stream));
        (stream, answer.map(|hello: ServerHello| hello.verdict))
    };
    // Sixteen threads hold 125 connections each.
    let flood: Vec<_> = std::thread::scope(|scope| {
        let many = || (0..125).map(|_| one()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(many)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (mut welcome, mut refused, mut closed) = (0, 0, 0);
    for (_, verdict) in &flood {
        match verdict {
            Some(Ok(_)) => welcome += 1,
            Some(Err(HandshakeRefusal::TooManyConnections { .. })) => refused += 1,
            Some(Err(other)) => panic!("{other}"),
            None => closed += 1,
        }
    }
    println!("{welcome} welcome, {refused} refused, {closed} closed");
    assert!(welcome <= 1000 && refused > 0 && welcome + refused + closed == 2000);
    drop(flood);
    let began = Instant::now();
    while said(&cluster.run(&["put", "a", "1", "n1"])).0 != 0 {
        assert!(began.elapsed() < PATIENCE, "the replica takes clients again");
    }
    let status = said(&cluster.run(&["status", "-o", "json"])).1;
    assert_eq!(status.matches("\"incarnation\": 1").count(), 3, "nobody died: {status}");
}

/// Idle connections must not keep probes, peers or clients out.
#[test]
fn idle_connections_on_every_port_keep_nobody_out() {
    let cluster = Cluster::start(&[PLAIN]);
    let at = addresses(&cluster, "kvorum-0");
    let idle: Vec<TcpStream> =
        [&at.http, &at.peers].iter().flat_map(|port| (0..300).map(|_| connect(port))).collect();
    let began = Instant::now();
    let mut probe = connect(&at.http);
    probe.write_all(b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    println!("a probe was answered after {:?} beside {} idle ones", began.elapsed(), idle.len());
    // A restarted peer gets in.
    cluster.kill("kvorum-2");
    loop {
        let (_, out, err) = said(&cluster.run(&["status"]));
        if out.matches("2 of 2").count() == 3 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{out}{err}");
    }
}

/// A client that is never idle learns the applied index of the log, or its writes would expire.
#[test]
fn a_client_that_asks_without_a_pause_is_told_how_far_the_log_is() {
    let cluster = Cluster::start(&["--replicas=2", PLAIN]);
    let at = addresses(&cluster, "kvorum-0").clients;
    let mut client = connect(&at);
    send(&mut client, &ClientHello::new(None)).unwrap();
    assert!(receive::<ServerHello>(&mut client).unwrap().verdict.is_ok());
    let ask = |client: &mut TcpStream, call| {
        send(client, &ClientFrame::Call { call, request: Request::Status }).unwrap();
    };
    // Two calls are always in flight, so there is always an answer to write.
    ask(&mut client, 0);
    ask(&mut client, 1);
    let (began, mut call) = (Instant::now(), 1);
    let mut pings = 0;
    while pings < 3 || call <= 100 {
        match receive(&mut client).unwrap() {
            ServerFrame::Ping { applied } => pings += u32::from(applied > 0),
            ServerFrame::Answer { .. } => {
                call += 1;
                ask(&mut client, call);
            }
            _ => {}
        }
        assert!(began.elapsed() < PATIENCE, "{pings} pings beside {call} answers");
    }
}

/// A stranger that speaks the protocol between replicas learns nothing and is not believed.
#[test]
fn a_stranger_at_the_peers_port_takes_no_vote_away() {
    let cluster = Cluster::start(&["--replicas=2", PLAIN]);
    let at = addresses(&cluster, "kvorum-0").peers;
    let introduction = kvorum_replica::engine::Introduction {
        cluster: kvorum_protocol::status::ClusterId(5),
        replica: kvorum_protocol::status::ReplicaId(77),
        name: "x".to_owned(),
        incarnation: 1,
        key: Secret::of_nonce(1).key(),
        last_saw: 1,
        versions: (Version::OLDEST, Version::NEWEST),
    };
    let rejection = kvorum_replica::engine::Rejection::OtherDisk { name: "y".into(), seen: 9 };
    let mut stranger = connect(&at);
    // A hello as it is on the wire: magic, introduction, challenge.
    send(&mut stranger, &(*b"kvorum/q", introduction, Challenge([0; 32]))).unwrap();
    let _ = send(&mut stranger, &(None::<Proof>, Err::<(), _>(rejection)));
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    let id = cluster_id(&cluster.folder);
    assert!(!answer.is_empty() && answer.len() < 100, "only that it is turned away");
    let id: u128 = u128::from_str_radix(&id, 16).unwrap();
    let id = frame::encode(&id, 100).unwrap();
    let id = &id[..id.len() - 4];
    assert!(!answer.windows(id.len()).any(|part| part == id), "the cluster's id is no stranger's");
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    assert!(!said(&cluster.run(&["status"])).1.contains("outside"));
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    let cluster = Cluster::start(&[PLAIN]);
    let at = addresses(&cluster, "kvorum-0").clients;
    let folder = tempfile::tempdir().unwrap();
    let value = folder.path().join("value");
    fs::write(&value, noise(1, 1 << 20)).unwrap();
    let put = ["put", "big", &format!("@{}", value.display())];
    assert_eq!(said(&cluster.run(&put)).0, 0);
    let mut client = connect(&at);
    send(&mut client, &ClientHello::new(None)).unwrap();
    assert!(receive::<ServerHello>(&mut client).is_some());
    client.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let began = Instant::now();
    // Requests a mebibyte again and again, and reads nothing.
    let ended = (1..).find_map(|call| {
        let request = Request::Get { key: "big".into(), consistency: Consistency::Local };
        send(&mut client, &ClientFrame::Call { call, request }).err()
    });
    println!("let go after {:?}: {ended:?}", began.elapsed());
    let memory = resident_mib(cluster.process("kvorum-0").unwrap()).unwrap();
    assert!(memory < 300, "the answers that nobody reads took {memory} MiB");
    assert_eq!(said(&cluster.run(&["get", "big", "n1", "-o", "raw"])).0, 0);
}

/// The exit status of a replica that was stopped by SIGTERM: it had started.
const STARTED: i32 = 143;

/// Starts one replica of a stopped cluster by itself, and stops it again if it starts. Returns its
/// exit status and its output.
fn start_replica(folder: &Path, name: &str, cluster: &str) -> (i32, String) {
    let data = folder.join("kvorum-0");
    let (listening, said) = (data.join(FILE_NAME), folder.join("said"));
    if kvorum::local::folder::process_of(&data).is_none() {
        let _ = fs::remove_file(&listening);
    }
    let mut command = kvorum();
    command.args(["replica", "--members=kvorum-0,kvorum-1,kvorum-2", "--disk-reserve=0", PLAIN]);
    command.arg(format!("--name={name}")).arg(format!("--cluster={cluster}"));
    command.arg(format!("--peers-from={}", folder.display()));
    command.arg(format!("--data={}", data.display()));
    for port in ["peers", "clients", "http"] {
        command.arg(format!("--listen-{port}=127.0.0.1:0"));
    }
    let mut child = command.stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    let process = i32::try_from(child.id()).unwrap();
    let process = rustix::process::Pid::from_raw(process).unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Addresses::read(&listening).is_ok_and(|addresses| addresses.process == child.id()) {
            rustix::process::kill_process(process, Signal::TERM).unwrap();
            break child.wait().unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "it starts or ends");
        std::thread::sleep(Duration::from_millis(5));
    };
    (status.code().unwrap_or(-1), fs::read_to_string(said).unwrap())
}

fn cluster_id(folder: &Path) -> String {
    kvorum::local::folder::StatefulSet::read(folder).unwrap().cluster.to_string()
}

fn files(folder: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn a_folder_that_is_damaged_or_anothers_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_in(folder.path(), &[]);
    for number in 0..20 {
        assert_eq!(said(&cluster.run(&["put", &format!("key-{number}"), "value"])).0, 0);
    }
    let folder = folder.path();
    let id = cluster_id(folder);
    let while_running = start_replica(folder, "kvorum-0", &id);
    assert!(while_running.1.contains("is in use by another process (process"), "{while_running:?}");
    cluster.stop(Signal::TERM);

    let data = folder.join("kvorum-0");
    let logs = files(&data.join("journal"), "log").into_iter();
    let log = logs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let side = data.join("durable");
    let (whole_log, whole_side) = (fs::read(&log).unwrap(), fs::read(&side).unwrap());
    let mut flipped = whole_log.clone();
    flipped[whole_log.len() / 3] ^= 0x40;
    let damages: [(&str, &Path, Vec<u8>); 4] = [
        ("half of the journal", &log, whole_log[..whole_log.len() / 2].to_vec()),
        ("nothing of the journal", &log, Vec::new()),
        ("a flipped bit in the journal", &log, flipped),
        ("an empty side file", &side, vec![0; whole_side.len()]),
    ];
    let refused = |what: &str| {
        let (code, err) = start_replica(folder, "kvorum-0", &id);
        assert_eq!(code, 1, "{what}: {err}");
        let says = err.contains("is damaged") && err.contains("To get the replica back");
        assert!(says, "{what}: {err}");
    };
    for (what, file, bytes) in damages {
        let aside = copy(&data);
        fs::write(file, bytes).unwrap();
        refused(what);
        fs::remove_dir_all(&data).unwrap();
        fs::rename(aside, &data).unwrap();
    }
    for part in ["db", "journal"] {
        let (part, aside) = (data.join(part), data.join("aside"));
        fs::rename(&part, &aside).unwrap();
        refused("a part is not there");
        fs::remove_dir_all(&part).ok();
        fs::rename(aside, part).unwrap();
    }
    let (code, err) = start_replica(folder, "kvorum-0", &id);
    assert_eq!(code, STARTED, "whole again: {err}");

    let foreign = "00000000000000000000000000000001";
    for (name, cluster) in [("kvorum-1", id.as_str()), ("kvorum-0", foreign)] {
        let (code, err) = start_replica(folder, name, cluster);
        assert_eq!(code, 1, "{err}");
        assert!(
            err.contains("belongs to kvorum-0 of cluster") && err.contains("of its own"),
            "{err}"
        );
    }
}

/// Copies a folder to a place beside it.
fn copy(folder: &Path) -> std::path::PathBuf {
    let aside = folder.with_extension("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([folder, &aside]).status();
    assert!(copied.unwrap().success());
    aside
}

#[test]
fn a_disk_without_room_is_waited_for_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor = kvorum()
        .args(["local", "--no-console", "--disk-reserve=1000000GiB", "--data"])
        .arg(folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = folder.path().join("kvorum-0").join("log");
    let began = Instant::now();
    while !fs::read_to_string(&log).is_ok_and(|log| log.contains("is full")) {
        assert!(began.elapsed() < PATIENCE, "it says that the disk is full");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(kvorum::local::folder::process_of(&folder.path().join("kvorum-0")).is_some());
    assert!(!folder.path().join("kvorum-0").join("db").exists(), "the full disk is left alone");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
}
