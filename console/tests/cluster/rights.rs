//! Tests of users, roles and rights, on real clusters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use kvorum::credentials;
use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, said, status_when, wait_for};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::message::{Consistency, Refusal};
use kvorum_protocol::{Client, ClientError, Key, Outcome};
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

fn client_of(cluster: &Cluster, certificate: &Path) -> Client {
    let mut options = Options { deadline: PATIENCE, ..Options::default() };
    options.dial.encryption = credentials::of_folder(certificate).unwrap();
    Client::new(kvorum::local::resolve(&cluster.folder), options)
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
    let own = "app, with the roles app\n  may readwrite app/*\n  may read shared/a..shared/c\n";
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
    let users: Vec<Vec<&str>> =
        users.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(users[1..], [["admin", "root"], ["view", "view"], ["app", "app"]]);
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
        let client = client_of(&cluster, &app);
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
                let client = client_of(&cluster, &app);
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
        let client = client_of(&cluster, &app);
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

/// A user without a certificate says who it is by a password, or by a token that stands for it.
#[test]
fn a_password_and_its_tokens_say_who_one_is() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Only what it takes to know the replicas.
    let trust = path("trust");
    fs::create_dir(&trust).unwrap();
    fs::copy(cluster.tls_dir().join(CA_FILE), trust.join(CA_FILE)).unwrap();
    for (name, text) in [("first", "secret one\n"), ("second", "secret two\n"), ("wrong", "secret")]
    {
        write_private(&path(name), text, false).unwrap();
    }
    let run = |words: &[&str]| {
        let mut command = kvorum();
        command.arg("--local").arg(&cluster.folder).arg("--tls-dir").arg(&trust);
        said(&command.args(["--timeout", "5s"]).args(words).output().unwrap())
    };
    let file = |name: &str| path(name).display().to_string();
    let by = |password: &str, words: &[&str]| {
        let file = file(password);
        run(&[&["--user", "job", "--password-file", &file][..], words].concat())
    };
    let refused = |(code, out, err): (i32, String, String), why: &str| {
        assert_eq!(code, 6, "{why}: {out}{err}");
        assert!(err.contains(why), "{why}: {err}");
    };
    done(&cluster, "grant job readwrite job/ --prefix");
    refused(run(&["whoami"]), "wants to know who this is");
    refused(by("first", &["whoami"]), "the user or the password is wrong");
    done(&cluster, &format!("user passwd job --from {}", file("first")));
    let (code, out, err) = by("first", &["whoami"]);
    assert_eq!((code, out.lines().next()), (0, Some("job, with the roles job")), "{err}");
    refused(by("wrong", &["whoami"]), "the user or the password is wrong");
    refused(by("first", &["put", "other", "1"]), "job has no right to write other");
    let users = done(&cluster, "user list");
    assert!(users.lines().any(|line| line.split_whitespace().eq(["job", "job", "yes"])), "{users}");
    refused(run(&["--user", "nobody", "--password-file", &file("first"), "whoami"]), "is wrong");

    let token_for = |time: &str, name: &str| {
        let (code, token, err) = by("first", &["token", "--time", time]);
        assert_eq!(code, 0, "{err}");
        write_private(&path(name), &token, false).unwrap();
    };
    let with = |name: &str, words: &[&str]| {
        let file = file(name);
        run(&[&["--token-file", &file][..], words].concat())
    };
    token_for("1h", "token");
    // Every replica takes it.
    for node in ["kvorum-0", "kvorum-1", "kvorum-2"] {
        let (code, out, err) = with("token", &["put", "job/a", "1", node]);
        assert_eq!(code, 0, "{node}: {out}{err}");
    }
    token_for("2s", "short");
    assert_eq!(with("short", &["get", "job/a"]).0, 0);
    let (code, _, err) = with("short", &["watch", "job/"]);
    assert_eq!(code, 6, "a watch ends with its token: {err}");
    refused(with("short", &["get", "job/a"]), "the token's time is over");
    done(&cluster, &format!("user passwd job --from {}", file("second")));
    refused(with("token", &["get", "job/a"]), "the token is not valid any more");
    refused(by("first", &["get", "job/a"]), "the user or the password is wrong");
    assert_eq!(by("second", &["get", "job/a"]).0, 0);
    done(&cluster, "user remove job");
    refused(by("second", &["get", "job/a"]), "the user or the password is wrong");
    // An administrator by certificate has no password, and so no token.
    refused(said(&cluster.run(&["token"])), "the user has no password");
    let log = fs::read_to_string(cluster.folder.join("kvorum-0").join("log")).unwrap();
    assert!(!log.contains("secret") && !log.contains("argon2"), "no secret is in a log");
}
