//! Tests of users, roles and rights, on real clusters.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, memory_kib, said, status_when, wait_for};
use kvorum_protocol::authentication::Authentication;
use kvorum_protocol::client::Route;
use kvorum_protocol::frame;
use kvorum_protocol::handshake::ClientHello;
use kvorum_protocol::limits::HANDSHAKE_BYTES_MAX;
use kvorum_protocol::message::{Consistency, Refusal};
use kvorum_protocol::{ClientError, Key, Outcome};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use kvorum_tls::{CA_FILE, CERTIFICATE_FILE, CLIENT_LIFETIME, Identity, KEY_FILE, write_private};

use crate::certificates::{WORD, authority};

/// Makes a certificate of a user, in a folder for `--tls-dir`.
fn certificate_of(user: &str, cluster: &Cluster, folder: &Path) -> PathBuf {
    let by = authority(&cluster.folder);
    let issued = by.issue(&Identity::client(WORD, user), &[], SystemTime::now(), CLIENT_LIFETIME);
    let own = folder.join(user);
    fs::create_dir_all(&own).unwrap();
    let files =
        [(CA_FILE, by.bundle()), (CERTIFICATE_FILE, &issued.certificate), (KEY_FILE, &issued.key)];
    for (file, text) in files {
        write_private(&own.join(file), text, false).unwrap();
    }
    own
}

/// Runs a command that must succeed, as the one who may do everything.
fn done(cluster: &Cluster, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let (code, out, err) = said(&cluster.run(&words));
    assert_eq!(code, 0, "{words:?}: {out}{err}");
    out
}

#[test]
fn a_user_may_do_what_was_granted_and_nothing_else() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let folder = tempfile::tempdir().unwrap();
    let app = certificate_of("app", &cluster, folder.path());
    let run = |words: &str| {
        let mut command = kvorum();
        command.arg("--local").arg(&cluster.folder).arg("--tls-dir").arg(&app);
        said(&command.args(["--timeout", "5s"]).args(words.split(' ')).output().unwrap())
    };
    let (code, _, err) = run("whoami");
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("no user of that name"), "{err}");
    done(&cluster, "put other 1");
    done(&cluster, "grant app readwrite app/ --prefix");
    done(&cluster, "grant app read shared/a --until shared/c");
    let own =
        "app, with the roles user.app\n  may readwrite app/*\n  may read shared/a..shared/c\n";
    assert_eq!(run("whoami").1, own);
    let allowed = [
        "put app/a 1",
        "put app/a 2 --if-revision 0",
        "get app/a",
        "scan app/",
        "scan app/ --from app/b",
        "delete app/a",
        "status",
        "get shared/b",
    ];
    for words in allowed {
        let (code, out, err) = run(words);
        // A condition that fails and a key that is not there are answers too.
        assert!([0, 1, 3].contains(&code), "{words}: {code} {out}{err}");
        assert!(!err.contains("has no right"), "{words}: {err}");
    }
    let file = folder.path().join("backup");
    let backup = format!("backup {}", file.display());
    let refused = [
        ("put other 2", "to write other"),
        ("put shared/b 2", "to write shared/b"),
        ("get other", "to read other"),
        ("get app", "to read app"),
        ("get shared/c", "to read shared/c"),
        ("scan", "to read all keys"),
        ("scan shared/", "to read shared/*"),
        ("watch", "to read all keys"),
        ("log", "to read all keys"),
        ("hand-over", "to operate the cluster"),
        ("user list", "to see or change users"),
        ("user add more", "to see or change users"),
        ("grant app readwrite other", "to see or change users"),
        (&backup, "to see or change users, or copy everything"),
    ];
    for (words, right) in refused {
        let (code, out, err) = run(words);
        assert_eq!(code, 6, "{words}: {out}{err}");
        assert!(err.contains(&format!("app has no right {right}")), "{words}: {err}");
    }
    assert_eq!(done(&cluster, "get other").trim(), "1");
    let users = done(&cluster, "user list");
    assert!(users.lines().any(|line| line.split_whitespace().eq(["app", "user.app"])), "{users}");
    done(&cluster, "revoke app app/ --prefix");
    assert_eq!(run("get app/a").0, 6);
    assert_ne!(run("get shared/b").0, 6);
    done(&cluster, "user grant-role app root");
    assert_eq!(run("put other 3").0, 0);
    done(&cluster, "user remove app");
    let (code, _, err) = run("status");
    assert_eq!(code, 6, "{err}");
}

#[test]
fn a_change_that_makes_no_sense_says_so_and_does_nothing() {
    let cluster = Cluster::start(&["--replicas=1"]);
    done(&cluster, "user add app");
    let before = done(&cluster, "user list -o json");
    let wrong = [
        ("user add app", 1, "the user exists"),
        ("user add a/b", 2, "letters, digits"),
        ("user remove nobody", 3, "there is no such user"),
        ("user remove admin", 1, "stay as they are"),
        ("user grant-role app none", 3, "there is no such role"),
        ("user revoke-role app root", 3, "does not have that role"),
        ("role grant view readwrite a", 1, "stay as they are"),
        ("role revoke none a", 3, "there is no such role"),
        ("revoke app a", 3, "nothing was granted to app"),
        ("role add user.nobody", 3, "there is no such user"),
        ("grant admin read a", 1, "stay as they are"),
        ("--user app --token-file /dev/null whoami", 2, "there is nothing in"),
        ("--password-file /dev/null whoami", 2, "name the user with --user"),
        ("grant app read b --until a", 2, "the range has no keys"),
        ("grant app execute a", 2, "possible values"),
    ];
    for (words, status, text) in wrong {
        let words: Vec<&str> = words.split(' ').collect();
        let (code, out, err) = said(&cluster.run(&words));
        assert_eq!(code, status, "{words:?}: {out}{err}");
        assert!(err.contains(text), "{words:?}: {err}");
    }
    assert_eq!(done(&cluster, "user list -o json"), before);
    let (code, _, err) = said(&cluster.run(&["--readonly", "user", "add", "more"]));
    assert_eq!(code, 6, "{err}");
}

/// Users are part of the state: they are there after a restart, on a replica that copied the state,
/// and in a cluster that was restored from a backup.
#[tokio::test(flavor = "multi_thread")]
async fn users_go_where_the_state_goes() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let folder = tempfile::tempdir().unwrap();
    let app = certificate_of("app", &cluster, folder.path());
    done(&cluster, "grant app write app/ --prefix");
    // So much that a joiner copies the state.
    done(&cluster, "bench --time 3s --value-bytes 100000 --clients 32");
    done(&cluster, "scale 3 --yes");
    for name in cluster.names() {
        cluster.kill(&name);
        let client = cluster.client_by(&app, PATIENCE);
        let through = Route::Through(name.clone());
        status_when(&client, &through, |status| {
            status.is_ready && status.membership.leaving.is_empty()
        })
        .await;
        let put = client.put(Key::from("app/a"), "1".into(), &through).await;
        assert!(matches!(put, Ok(Outcome::Put { .. })), "{name}: {put:?}");
        let refused = client.put(Key::from("b"), "1".into(), &through).await.unwrap_err();
        assert!(refused.to_string().contains("to write b"), "{refused}");
    }
    let (file, new) = (folder.path().join("backup"), folder.path().join("new"));
    done(&cluster, &format!("backup {}", file.display()));
    let mut restore = kvorum();
    restore.arg("restore").arg(&file).arg("--data").arg(&new).args(["--replicas", "1"]);
    let (code, _, err) = said(&restore.output().unwrap());
    assert_eq!(code, 0, "{err}");
    let users = done(&cluster, "user list");
    drop(cluster);
    let restored = Cluster::start_in(&new, &[]);
    assert_eq!(done(&restored, "user list"), users);
}

/// Whatever begins after a right was taken away is refused, at each replica; and what has begun
/// before happens at most before.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_taken_away_does_not_act_late() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let folder = tempfile::tempdir().unwrap();
    let app = certificate_of("app", &cluster, folder.path());
    for round in 0..5 {
        done(&cluster, "grant app readwrite app/ --prefix");
        let writers: Vec<_> = (cluster.names().into_iter().enumerate())
            .map(|(number, name)| {
                let client = cluster.client_by(&app, PATIENCE);
                tokio::spawn(async move {
                    let (key, through) = (format!("app/{number}"), Route::Through(name));
                    let mut last = Instant::now();
                    loop {
                        let began = Instant::now();
                        match client.put(Key::from(key.clone()), "1".into(), &through).await {
                            Ok(_) => last = began,
                            Err(ClientError::Refused {
                                refusal: Refusal::Forbidden { .. },
                                ..
                            }) => {
                                return last;
                            }
                            // The leader changed meanwhile, as it may on a busy machine.
                            Err(ClientError::Unknown { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        done(&cluster, "revoke app app/ --prefix");
        let gone = Instant::now();
        for writer in writers {
            let last = writer.await.unwrap();
            assert!(
                last < gone,
                "round {round}: a write began after the right was gone, and happened"
            );
        }
        let client = cluster.client_by(&app, PATIENCE);
        for name in cluster.names() {
            let (key, route) = (Key::from("app/1"), Route::Through(name));
            let refused = client.get(key, Consistency::Linearizable, &route).await.unwrap_err();
            assert!(refused.to_string().contains("has no right"), "{refused}");
        }
    }
}

/// A watch ends when the right to it is taken away, and tells nothing of what comes later.
#[test]
fn a_watch_ends_with_the_right_to_it() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let folder = tempfile::tempdir().unwrap();
    let app = certificate_of("app", &cluster, folder.path());
    done(&cluster, "grant app read app/ --prefix");
    let out = folder.path().join("watched");
    let mut watch = kvorum();
    watch.arg("--local").arg(&cluster.folder).arg("--tls-dir").arg(&app).args(["watch", "app/"]);
    let mut watch =
        watch.stdout(fs::File::create(&out).unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    let watched = || fs::read_to_string(&out).unwrap();
    wait_for("a watch that tells", || {
        done(&cluster, "put app/before 1");
        watched().contains("app/before")
    });
    done(&cluster, "revoke app app/ --prefix");
    done(&cluster, "put app/after 1");
    wait_for("a watch that ends", || watch.try_wait().unwrap().is_some());
    let (code, _, err) = said(&watch.wait_with_output().unwrap());
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("app has no right to read app/*"), "{err}");
    assert!(!watched().contains("app/after"), "{}", watched());
}

/// A place with the authorities of a cluster, and no certificate.
struct Desk<'a> {
    cluster: &'a Cluster,
    folder: tempfile::TempDir,
}

impl<'a> Desk<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(cluster.tls_dir().join(CA_FILE), folder.path().join(CA_FILE)).unwrap();
        Self { cluster, folder }
    }

    fn keep(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        write_private(&path, text, false).unwrap();
        path.display().to_string()
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = kvorum();
        command.arg("--local").arg(&self.cluster.folder).arg("--tls-dir").arg(self.folder.path());
        said(&command.args(["--timeout", "5s"]).args(words).output().unwrap())
    }

    /// Runs a command as the user `job`, with the password in a file.
    fn by(&self, password: &str, words: &[&str]) -> (i32, String, String) {
        self.run(&[&["--user", "job", "--password-file", password][..], words].concat())
    }

    /// Runs a command with the token in a file.
    fn with(&self, token: &str, words: &[&str]) -> (i32, String, String) {
        self.run(&[&["--token-file", token][..], words].concat())
    }
}

fn refused((code, out, err): (i32, String, String), why: &str) {
    assert_eq!(code, 6, "{why}: {out}{err}");
    assert!(err.contains(why), "{why}: {err}");
}

/// A user without a certificate says who it is by a password.
#[test]
fn a_password_says_who_one_is() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let desk = Desk::new(&cluster);
    let (first, second) = (desk.keep("first", "secret one\n"), desk.keep("second", "secret two"));
    done(&cluster, "grant job readwrite job/ --prefix");
    refused(desk.run(&["whoami"]), "wants to know who this is");
    refused(desk.by(&first, &["whoami"]), "the user or the password is wrong");
    done(&cluster, &format!("user passwd job --from {first}"));
    let (code, out, err) = desk.by(&first, &["whoami"]);
    assert_eq!((code, out.lines().next()), (0, Some("job, with the roles user.job")), "{err}");
    refused(desk.by(&second, &["whoami"]), "the user or the password is wrong");
    refused(desk.by(&first, &["put", "other", "1"]), "job has no right to write other");
    let nobody = ["--user", "nobody", "--password-file", &first, "whoami"];
    refused(desk.run(&nobody), "the user or the password is wrong");
    let users = done(&cluster, "user list");
    let is_job = |line: &str| line.split_whitespace().eq(["job", "user.job", "yes"]);
    assert!(users.lines().any(is_job), "{users}");
    done(&cluster, &format!("user passwd job --from {second}"));
    refused(desk.by(&first, &["get", "job/a"]), "the user or the password is wrong");
    assert_eq!(desk.by(&second, &["put", "job/a", "1"]).0, 0);
    done(&cluster, "user remove job");
    refused(desk.by(&second, &["get", "job/a"]), "the user or the password is wrong");
    let log = fs::read_to_string(cluster.folder.join("kvorum-0").join("log")).unwrap();
    assert!(!log.contains("secret") && !log.contains("argon2"), "no secret is in a log");
}

/// A token stands for a password, at every replica, and ends with its time and with the password.
#[test]
fn a_token_stands_for_a_password_for_some_time() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let desk = Desk::new(&cluster);
    let password = desk.keep("password", "secret");
    done(&cluster, "grant job readwrite job/ --prefix");
    done(&cluster, &format!("user passwd job --from {password}"));
    let token_by = |told: (i32, String, String), name: &str| {
        assert_eq!(told.0, 0, "{}", told.2);
        desk.keep(name, &told.1)
    };
    let long = token_by(desk.by(&password, &["token", "--time", "1h"]), "long");
    for node in ["kvorum-0", "kvorum-1", "kvorum-2"] {
        let (code, out, err) = desk.with(&long, &["put", "job/a", "1", node]);
        assert_eq!(code, 0, "{node}: {out}{err}");
    }
    let short = token_by(desk.by(&password, &["token", "--time", "5s"]), "short");
    // A token gets no other one that lasts longer.
    let longer = token_by(desk.with(&short, &["token", "--time", "1h"]), "longer");
    let (code, _, err) = desk.with(&short, &["watch", "job/"]);
    assert_eq!(code, 6, "a watch ends with its token: {err}");
    for over in [&short, &longer] {
        refused(desk.with(over, &["get", "job/a"]), "the token's time is over");
    }
    done(&cluster, &format!("user passwd job --from {password}"));
    refused(desk.with(&long, &["get", "job/a"]), "the token is not valid any more");
    // An administrator by certificate has no password, and so no token.
    refused(said(&cluster.run(&["token"])), "the user has no password");
}

/// A flood of wrong passwords takes a bounded amount of memory, and keeps nobody else out.
#[test]
fn a_flood_of_wrong_passwords_harms_nobody() {
    let cluster = Cluster::start(&["--replicas=1", "--tls=accept"]);
    let desk = Desk::new(&cluster);
    let password = desk.keep("password", "secret");
    done(&cluster, "grant job readwrite job/ --prefix");
    done(&cluster, &format!("user passwd job --from {password}"));
    let at = Addresses::read(&cluster.folder.join("kvorum-0").join(FILE_NAME)).unwrap().clients;
    let stop = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..60)
        .map(|_| {
            let (stop, at) = (Arc::clone(&stop), at.clone());
            std::thread::spawn(move || {
                let (user, password) = ("job".to_owned(), "wrong".to_owned());
                let wrong = Authentication::Password { user, password };
                let hello = ClientHello::new(None).of(Some(&wrong));
                let hello = frame::encode(&hello, HANDSHAKE_BYTES_MAX).unwrap();
                let hello = [&frame::length_of(&hello)[..], &hello].concat();
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(&at) else { continue };
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                    let _ = stream.write_all(&hello).and_then(|()| stream.read_exact(&mut [0; 4]));
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(said(&cluster.run(&["put", "job/a", "1"])).0, 0, "by a certificate");
    stop.store(true, Ordering::Relaxed);
    for one in flood {
        one.join().unwrap();
    }
    let process = cluster.process("kvorum-0").unwrap();
    let most = usize::try_from(memory_kib(process, "VmHWM").unwrap()).unwrap();
    assert!(most << 10 < kvorum_replica::limits::POD_BYTES / 2, "it took {most} KiB");
    wait_for("its password lets it in again", || desk.by(&password, &["get", "job/a"]).0 == 0);
}
