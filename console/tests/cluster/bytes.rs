//! Tests of arbitrary bytes as keys and values, through every way in and out.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::sync::Arc;

use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, number, said, scan_all};
use kvorum_protocol::client::Route;
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::{Client, Key};

/// Returns strings that other programs mishandled, and random ones.
fn strings(random: u64) -> Vec<Vec<u8>> {
    let known: [&[u8]; 12] = [
        b"line1\r\nline2\r\n",
        b"a\nb",
        br"a\nb",
        b"\xff\xfe",
        b"\xc3",
        b"\t",
        b" ",
        b"'\"$`\\",
        "👨\u{200d}👩\u{200d}👧".as_bytes(),
        "می\u{200c}خواهم".as_bytes(),
        b"-5",
        b"\x1b[31m",
    ];
    let mut all: Vec<_> = known.iter().map(|bytes| bytes.to_vec()).collect();
    all.extend((1..=255).map(|byte| vec![byte]));
    all.extend((0..random).map(|_| {
        let mut bytes = vec![0; rand::random_range(1..40)];
        rand::fill(&mut bytes[..]);
        // An argument of a program cannot contain a zero byte.
        bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 1);
        bytes
    }));
    all
}

async fn is_there(client: &Arc<Client>, bytes: &[u8]) -> bool {
    let key = Key::from(bytes.to_vec());
    let pair = client.get(key, Consistency::Linearizable, &Route::Any).await.unwrap();
    pair.is_some_and(|pair| pair.value.0 == bytes)
}

/// As arguments, and into a pipe. `KVORUM_STRINGS` sets the number of random strings.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_and_pipes_keep_bytes() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let client = cluster.client(PATIENCE);
    let run = |words: &[&OsStr]| {
        let output = kvorum().arg("--local").arg(&cluster.folder).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output).2);
        output.stdout
    };
    for bytes in strings(number("KVORUM_STRINGS", 50)) {
        // An @ in front would name a file.
        if bytes[0] == b'@' {
            continue;
        }
        let (word, rest) = (OsStr::from_bytes(&bytes), OsStr::new("--"));
        run(&[OsStr::new("put"), rest, word, word]);
        assert!(is_there(&client, &bytes).await, "{bytes:?}");
        assert_eq!(run(&[OsStr::new("get"), rest, word]), bytes);
    }
}

/// As lines of a batch, written with escapes, and as JSON Lines; with many random strings, also
/// every string of two bytes.
#[tokio::test(flavor = "multi_thread")]
async fn batches_and_lists_keep_bytes() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let client = cluster.client(PATIENCE);
    let mut all = strings(number("KVORUM_STRINGS", 50));
    all.push(vec![0]);
    if all.len() > 1000 {
        all.extend((0..=u16::MAX).map(|two| two.to_be_bytes().to_vec()));
    }
    all.sort();
    all.dedup();
    let mut lines = String::new();
    for bytes in &all {
        let word: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        // A value that begins with a single @ names a file.
        let at = if bytes[0] == b'@' { "@" } else { "" };
        writeln!(lines, "put -- \"{word}\" \"{at}{word}\"").unwrap();
    }
    let mut command = kvorum();
    command.arg("--local").arg(&cluster.folder).arg("--plain");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let (status, out, err) = said(&running.wait_with_output().unwrap());
    writer.join().unwrap().unwrap();
    assert_eq!(status, 0, "{out}{err}");
    let scan = Scan {
        prefix: Vec::new(),
        from: Vec::new(),
        until: Vec::new(),
        limit: 0,
        keys_only: false,
        consistency: Consistency::Linearizable,
    };
    let pairs = scan_all(&client, scan, &Route::Any).await;
    let kept: Vec<Vec<u8>> = pairs.iter().map(|pair| pair.key.0.to_vec()).collect();
    assert_eq!(kept, all);
    assert!(pairs.iter().all(|pair| pair.key.0 == pair.value.0));

    let listed = said(&cluster.run(&["scan", "-o", "jsonl", "--limit", "0"])).1;
    let bytes_of = |object: &serde_json::Value, name: &str| match object[name].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let hex = object[format!("{name}_hex")].as_str().unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(byte).collect()
        }
    };
    let objects: Vec<serde_json::Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["key", "value"] {
        let told: Vec<_> = objects.iter().map(|object| bytes_of(object, name)).collect();
        assert_eq!(told, all, "{name}");
    }
    let shown = said(&cluster.run(&["scan", "--limit", "0", "--keys-only"])).1;
    let mut shown: Vec<_> = shown.lines().collect();
    assert_eq!(shown.len(), all.len(), "a line each");
    shown.sort_unstable();
    shown.dedup();
    assert_eq!(shown.len(), all.len(), "no two look alike");
    let (status, _, err) = said(&cluster.run(&["scan", "-o", "raw", "--limit", "0"]));
    assert!(status == 1 && err.contains("use -o jsonl"), "{err}");
}
