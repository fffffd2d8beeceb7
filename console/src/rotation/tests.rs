//! The tests of the steps in which an authority is replaced.

use std::time::SystemTime;

use kvorum_tls::{CLIENT_LIFETIME, Identity, KEY_FILE};

use super::*;

fn rest(current: &Authority) -> Files {
    Files::from([
        (CA_FILE.to_owned(), current.bundle().to_owned()),
        (AUTHORITY_KEY_FILE.to_owned(), current.key()),
    ])
}

fn read(files: &Files) -> Held {
    Held::read(files).expect("it is whole").expect("it is filled")
}

fn print(authority: &Authority) -> Fingerprint {
    authority.description().expect("it parses").fingerprint
}

/// The stages come one after the other, and each is read from what the secret holds.
#[test]
fn each_step_leads_to_the_next_stage() {
    let now = SystemTime::now();
    let [old, new, third] = [(); 3].map(|()| Authority::generate("c", now));
    let (a, b) = (print(&old), print(&new));
    let expected = [
        (Stage::Rest, vec![a], a, a),
        (Stage::Prepared, vec![a], a, b),
        (Stage::BothTrusted, vec![a, b], a, b),
        (Stage::NewSigns, vec![a, b], b, b),
        (Stage::OnlyNew, vec![b], b, b),
        (Stage::Rest, vec![b], b, b),
    ];
    let mut files = rest(&old);
    for (stage, trusted, signs, tried) in expected {
        let held = read(&files);
        let all: Vec<_> = held.trusted.iter().map(|one| one.fingerprint).collect();
        assert_eq!((held.stage, all, print(&held.current)), (stage, trusted, signs));
        assert_eq!((held.new.fingerprint, print(held.trying())), (tried, tried), "{stage:?}");
        let keeps_old = !matches!(stage, Stage::Rest);
        assert_eq!(held.previous.as_ref().map(print), keeps_old.then_some(a), "{stage:?}");
        files = held.after_step(if tried == b { &third } else { &new });
    }
    assert_eq!(read(&files).stage, Stage::Prepared, "and from the beginning");
}

/// A folder's files are written one after the other, by name, and removed after that. Whatever is
/// read between two of them is an authority, and leads on.
#[test]
fn a_step_that_is_interrupted_goes_on() {
    let now = SystemTime::now();
    let (old, new) = (Authority::generate("c", now), Authority::generate("c", now));
    let mut files = rest(&old);
    for _ in 0..5 {
        let held = read(&files);
        let after = held.after_step(&new);
        let mut partial = files.clone();
        for (file, text) in &after {
            partial.insert(file.clone(), text.clone());
            let between = read(&partial).stage;
            assert!(between == held.stage || between == read(&after).stage, "{file}: {between:?}");
        }
        for file in files.keys().filter(|file| !after.contains_key(*file)) {
            partial.remove(file);
            assert_eq!(read(&partial).stage, Stage::Rest, "{file}");
        }
        assert_eq!(partial, after);
        files = after;
    }
}

/// A second authority was trusted by hand, and its key is not here: all are replaced.
#[test]
fn more_than_one_old_authority_is_replaced() {
    let now = SystemTime::now();
    let [old, other, new] = [(); 3].map(|()| Authority::generate("c", now));
    let mut files = rest(&old);
    // Without the end of the last line, as an editor may leave it.
    let both = format!("{}{}", old.bundle(), other.bundle().trim_end());
    files.insert(CA_FILE.to_owned(), both);
    for (stage, trusted) in [
        (Stage::Rest, 2),
        (Stage::Prepared, 2),
        (Stage::BothTrusted, 3),
        (Stage::NewSigns, 3),
        (Stage::OnlyNew, 1),
    ] {
        let held = read(&files);
        assert_eq!((held.stage, held.trusted.len()), (stage, trusted));
        files = held.after_step(&new);
    }
    assert_eq!(print(&read(&files).current), print(&new));
}

#[test]
fn what_is_no_authority_says_so() {
    let now = SystemTime::now();
    let (old, other) = (Authority::generate("c", now), Authority::generate("c", now));
    assert!(Held::read(&Files::new()).is_ok_and(|held| held.is_none()));
    let mut files = rest(&old);
    files.insert(AUTHORITY_KEY_FILE.to_owned(), other.key());
    assert_eq!(Held::read(&files).err(), Some(CredentialsError::NoAuthority));
    files.remove(AUTHORITY_KEY_FILE);
    assert!(matches!(Held::read(&files).err(), Some(CredentialsError::Key(_))));
}

#[test]
fn no_step_is_done_before_everybody_is_ready_for_it() {
    let now = SystemTime::now();
    let (old, new) = (Authority::generate("c", now), Authority::generate("c", now));
    let (a, b) = (print(&old), print(&new));
    let answers = |shows_new, takes_new: bool, takes_old| Replica::Answers {
        shows_new,
        takes_new: takes_new.then_some(()).ok_or_else(|| "no".to_owned()),
        takes_old,
    };
    let silent = Replica::Silent("no".to_owned());
    let holds = |trusted: &[Fingerprint], by| Client::Holds { trusted: trusted.to_vec(), by };
    let (first, last) = (holds(&[a], Some(a)), holds(&[b], Some(b)));
    let (both, signed) = (holds(&[a, b], Some(a)), holds(&[a, b], Some(b)));
    let unusable = Client::Unusable("no".to_owned());
    let cases = [
        (Stage::Rest, silent.clone(), &first, Some("answer")),
        (Stage::Rest, answers(false, false, true), &first, Some("authority that signs")),
        (Stage::Rest, answers(true, true, true), &first, None),
        (Stage::Prepared, silent.clone(), &first, None),
        (Stage::BothTrusted, silent.clone(), &both, Some("answer")),
        (Stage::BothTrusted, answers(false, false, true), &both, Some("not trust the new")),
        (Stage::BothTrusted, answers(false, true, true), &first, Some("not have the new")),
        (Stage::BothTrusted, answers(false, true, true), &unusable, Some("of no use")),
        (Stage::BothTrusted, answers(false, true, true), &both, None),
        (Stage::NewSigns, silent.clone(), &signed, Some("answer")),
        (Stage::NewSigns, answers(false, true, true), &signed, Some("by the old one")),
        (Stage::NewSigns, answers(true, true, true), &both, Some("by the old one")),
        (Stage::NewSigns, answers(true, true, true), &signed, None),
        (Stage::OnlyNew, silent, &last, Some("answer")),
        (Stage::OnlyNew, answers(true, true, true), &last, Some("trusts the old")),
        (Stage::OnlyNew, answers(true, true, false), &signed, Some("has the old")),
        (Stage::OnlyNew, answers(true, true, false), &last, None),
    ];
    for (stage, replica, client, expected) in cases {
        let one = Replica::Answers { shows_new: true, takes_new: Ok(()), takes_old: false };
        let replicas = [("kvorum-0".to_owned(), one), ("kvorum-1".to_owned(), replica)];
        let clients = [("the Secret".to_owned(), client.clone())];
        let seen = Seen { replicas: replicas.into(), clients: clients.into() };
        let told = waits(stage, b, &seen);
        assert_eq!(told.len(), usize::from(expected.is_some()), "{stage:?}: {told:?}");
        assert!(told.iter().all(|why| expected.is_some_and(|part| why.contains(part))), "{told:?}");
        assert!(told.iter().all(|why| !why.starts_with("kvorum-0")), "{told:?}");
    }
    let nobody = waits(Stage::Rest, a, &Seen::default());
    assert_eq!(nobody, ["no replica is wanted"]);
}

#[test]
fn a_clients_secret_is_judged_by_its_certificates() {
    let now = SystemTime::now();
    let (old, new) = (Authority::generate("c", now), Authority::generate("c", now));
    let issued = new.issue(&Identity::client("c", "admin"), &[], now, CLIENT_LIFETIME);
    let both = format!("{}{}", old.bundle(), new.bundle());
    let mut files = Files::from([
        (CA_FILE.to_owned(), both),
        (CERTIFICATE_FILE.to_owned(), issued.certificate),
        (KEY_FILE.to_owned(), issued.key),
    ]);
    let (a, b) = (print(&old), print(&new));
    assert_eq!(Client::of(&files), Client::Holds { trusted: vec![a, b], by: Some(b) });
    files.insert(CA_FILE.to_owned(), old.bundle().to_owned());
    assert_eq!(Client::of(&files), Client::Holds { trusted: vec![a], by: None });
    files.remove(CERTIFICATE_FILE);
    assert_eq!(Client::of(&files), Client::Unusable("it has no tls.crt".to_owned()));
}
