//! The tests of which port takes whom, and how long a connection is to be believed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kvorum_tls::{
    Authority, CLIENT_LIFETIME, Credentials, Identity, Peer, Port, ReplicaName, Subject, Tls,
    explain,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const HOUR: Duration = Duration::from_secs(60 * 60);
const ALMOST_ALL: Duration = Duration::from_secs(CLIENT_LIFETIME.as_secs() - HOUR.as_secs());
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn given(authority: &Authority, identity: &Identity, now: SystemTime) -> Arc<Tls> {
    Tls::new(credentials(authority, authority.bundle(), identity, now))
}

fn credentials(
    authority: &Authority,
    bundle: &str,
    identity: &Identity,
    now: SystemTime,
) -> Credentials {
    let issued = authority.issue(identity, &[], now, CLIENT_LIFETIME);
    Credentials::from_pem(bundle, &issued.certificate, &issued.key).expect("they fit each other")
}

/// Connects two parties; returns what each says of the other.
async fn meet(
    (connecting, meant): (&Tls, Port),
    (accepting, port): (&Tls, Port),
) -> (io::Result<Peer>, io::Result<Option<Peer>>) {
    let (near, far) = duplex(64 << 10);
    let connected = async {
        let (mut stream, peer) = connecting.connect(meant, near).await?;
        // The other end judges this one's certificate after this end's handshake.
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 5]).await?;
        Ok(peer)
    };
    let accepted = async {
        let (mut stream, peer) = accepting.accept(port, far).await?;
        stream.read_exact(&mut [0; 5]).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        Ok(peer)
    };
    tokio::join!(connected, accepted)
}

#[tokio::test]
async fn each_port_takes_those_that_it_is_for() {
    let now = SystemTime::now();
    let (ours, theirs) = (Authority::generate("c", now), Authority::generate("c", now));
    let shared = Identity { cluster: "c".to_owned(), subject: Subject::Replica(ReplicaName::Any) };
    let replica = given(&ours, &Identity::replica("c", "kvorum-0"), now);
    let client = Identity::client("c", "admin");
    let (peers, clients) = (Port::Peers, Port::Clients);
    let fits = [
        (Identity::replica("c", "kvorum-1"), peers),
        (Identity::replica("c", "kvorum-1"), clients),
        (shared, peers),
        (client.clone(), clients),
    ];
    for (identity, port) in fits {
        let party = given(&ours, &identity, now);
        let (connected, accepted) = meet((&party, port), (&replica, port)).await;
        let server = connected.expect("a replica is believed").identity;
        assert_eq!(server, Identity::replica("c", "kvorum-0"));
        let peer = accepted.expect("it is let in").expect("it shows a certificate");
        assert_eq!(peer.identity, identity);
    }
    let other = Identity::client("d", "admin");
    let strangers = [
        ("a client at the peers' port", &ours, client.clone(), now, peers, peers, "not one that"),
        ("another cluster's", &ours, other, now, clients, clients, "not of this cluster"),
        ("another authority's", &theirs, client.clone(), now, clients, clients, "has signed"),
        ("over", &ours, client.clone(), now - YEAR, clients, clients, "is over"),
        ("not yet valid", &ours, client.clone(), now + YEAR, clients, clients, "not valid yet"),
        ("the wrong port", &ours, client, now, peers, clients, "something else"),
    ];
    for (who, authority, identity, made, meant, port, expected) in strangers {
        let party = given(authority, &identity, made);
        let (connected, accepted) = meet((&party, meant), (&replica, port)).await;
        let error = connected.expect_err(who);
        assert!(explain(&error).contains(expected), "{who}: {}", explain(&error));
        let error = accepted.expect_err(who);
        assert!(!explain(&error).is_empty(), "{who}");
    }
}

/// A client without a certificate gets to say who it is by other means; a replica does not.
#[tokio::test]
async fn one_without_a_certificate_is_a_client_or_nobody() {
    let now = SystemTime::now();
    let (authority, other) = (Authority::generate("c", now), Authority::generate("c", now));
    let replica = given(&authority, &Identity::replica("c", "kvorum-0"), now);
    let party = Tls::trusting(authority.bundle()).expect("it parses");
    let (connected, accepted) = meet((&party, Port::Clients), (&replica, Port::Clients)).await;
    assert!(connected.is_ok() && accepted.expect("it is let in").is_none());
    let (connected, accepted) = meet((&party, Port::Peers), (&replica, Port::Peers)).await;
    let error = connected.expect_err("nobody");
    assert!(explain(&error).contains("wants a certificate"), "{}", explain(&error));
    assert!(accepted.is_err());
    let stranger = Tls::trusting(other.bundle()).expect("it parses");
    let (connected, _) = meet((&stranger, Port::Clients), (&replica, Port::Clients)).await;
    let error = connected.expect_err("not of an authority that it trusts");
    assert!(explain(&error).contains("has signed its certificate"), "{}", explain(&error));
    assert!(Tls::trusting("nothing").is_err());
    let (_, accepted) = meet((&party, Port::Clients), (&party, Port::Clients)).await;
    assert!(accepted.is_err(), "it cannot serve");
}

#[tokio::test]
async fn a_client_does_not_serve() {
    let now = SystemTime::now();
    let authority = Authority::generate("c", now);
    let client = given(&authority, &Identity::client("c", "admin"), now);
    let (connected, _) = meet((&client, Port::Clients), (&client, Port::Clients)).await;
    let error = connected.expect_err("no replica");
    assert!(explain(&error).contains("a client's does not serve"), "{}", explain(&error));
}

#[tokio::test]
async fn who_does_not_encrypt_is_told_apart() {
    let now = SystemTime::now();
    let authority = Authority::generate("c", now);
    let client = given(&authority, &Identity::client("c", "admin"), now);
    let (near, mut far) = duplex(64 << 10);
    let connected = client.connect(Port::Clients, near);
    let plain = async {
        far.write_all(&[0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o']).await?;
        far.read_exact(&mut [0; 5]).await
    };
    let (connected, _) = tokio::join!(connected, plain);
    let error = connected.map(|_| ()).expect_err("plain text");
    assert_eq!(explain(&error), "it does not encrypt");
}

/// A connection outlives new credentials, and ends with its certificate or with its authority.
#[tokio::test]
async fn a_connection_is_believed_as_long_as_its_certificate_and_its_authority() {
    let now = SystemTime::now();
    let (old, new) = (Authority::generate("c", now), Authority::generate("c", now));
    let both = format!("{}{}", old.bundle(), new.bundle());
    let (server, client) = (Identity::replica("c", "kvorum-0"), Identity::client("c", "admin"));
    let replica = Tls::new(credentials(&old, &both, &server, now));
    let party = Tls::new(credentials(&old, &both, &client, now));
    let (_, accepted) = meet((&party, Port::Clients), (&replica, Port::Clients)).await;
    let peer = accepted.expect("it is let in").expect("it shows a certificate");
    let early = ALMOST_ALL;
    let soon = Duration::from_millis(50);
    let waits = |early| tokio::time::timeout(soon, replica.doubted(&peer, early));
    assert!(waits(early).await.is_err(), "an hour is left");
    assert!(waits(CLIENT_LIFETIME).await.is_ok(), "nothing is left");
    replica.replace(credentials(&new, &both, &server, now));
    assert!(waits(early).await.is_err(), "its authority is still trusted");
    let (connected, _) = meet((&party, Port::Clients), (&replica, Port::Clients)).await;
    assert!(connected.is_ok(), "each trusts both authorities");
    let doubted = replica.doubted(&peer, early);
    replica.replace(credentials(&new, new.bundle(), &server, now));
    assert!(tokio::time::timeout(HOUR, doubted).await.is_ok(), "its authority is gone");
    let (connected, accepted) = meet((&party, Port::Clients), (&replica, Port::Clients)).await;
    assert!(connected.is_err() && accepted.is_err());
}

#[test]
fn an_authority_outlives_its_process() {
    let now = SystemTime::now();
    let (first, second) = (Authority::generate("c", now), Authority::generate("c", now));
    let both = format!("{}{}", second.bundle(), first.bundle());
    let again = Authority::from_pem(&both, &first.key()).expect("its key is among them");
    let issued = again.issue(&Identity::client("c", "a"), &[], now, CLIENT_LIFETIME);
    let read = |bundle: &str| {
        Credentials::from_pem(bundle, &issued.certificate, &issued.key).map(|read| read.certificate)
    };
    assert_eq!(read(&both).expect("signed").identity, Identity::client("c", "a"));
    assert!(read(first.bundle()).is_ok());
    let error = read(second.bundle()).expect_err("another one signed").to_string();
    assert!(error.contains("has signed the certificate"), "{error}");
    assert!(Authority::from_pem(second.bundle(), &first.key()).is_err());
    assert!(again.read_signed(&issued.certificate, &issued.key).is_ok());
    assert!(second.read_signed(&issued.certificate, &issued.key).is_err());
}

#[test]
fn credentials_that_are_of_no_use_are_said_to_be() {
    let now = SystemTime::now();
    let authority = Authority::generate("c", now);
    let one = authority.issue(&Identity::client("c", "a"), &[], now, CLIENT_LIFETIME);
    let two = authority.issue(&Identity::client("c", "b"), &[], now, CLIENT_LIFETIME);
    let bundle = authority.bundle();
    let cases = [
        ("", &*one.certificate, &*one.key, "no certificate in it"),
        (bundle, "", &one.key, "no certificate in it"),
        (bundle, &one.certificate, "", "no key in it"),
        (bundle, &one.certificate, &two.key, "does not fit"),
        (bundle, &one.certificate[..100], &one.key, "does not parse"),
        (bundle, bundle, &authority.key(), "does not name one replica or client"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &one.certificate,
            &one.key,
            "does not parse",
        ),
    ];
    for (bundle, certificate, key, expected) in cases {
        let error = Credentials::from_pem(bundle, certificate, key).expect_err(expected);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    let many = bundle.repeat(20);
    assert!(Credentials::from_pem(&many, &one.certificate, &one.key).is_err());
}

#[test]
fn a_key_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now();
    let authority = Authority::generate("c", now);
    let issued = authority.issue(&Identity::client("c", "a"), &[], now, CLIENT_LIFETIME);
    let file = |name| folder.path().join(name);
    for (name, text) in [
        (kvorum_tls::CA_FILE, authority.bundle()),
        (kvorum_tls::CERTIFICATE_FILE, &issued.certificate),
        (kvorum_tls::KEY_FILE, &issued.key),
    ] {
        kvorum_tls::write_private(&file(name), text, true).expect("it is new");
        let again = kvorum_tls::write_private(&file(name), "", true);
        assert!(again.is_err(), "{name} is there already");
    }
    let read = kvorum_tls::read_folder(folder.path()).expect("all is there");
    assert_eq!(read.certificate.identity, Identity::client("c", "a"));
    let key = file(kvorum_tls::KEY_FILE);
    for (mode, fits) in
        [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false)]
    {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).expect("its owner may");
        let read = kvorum_tls::read_folder(folder.path());
        assert_eq!(read.is_ok(), fits, "{mode:o}: {read:?}");
    }
    std::fs::remove_file(&key).expect("it is there");
    let error = kvorum_tls::read_folder(folder.path()).expect_err("no key");
    assert!(error.contains("tls.key"), "{error}");
}
