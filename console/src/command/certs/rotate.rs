//! `certs rotate`: replaces certificates of a running cluster, or its authority.
//!
//! Guarantees that a step is done only when every replica, as seen on its connections, and every
//! certificate that the cluster keeps for clients is ready for it; that each wait is told and has a
//! bound; and that another run goes on where one ended, for whatever reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use kvorum_protocol::connection::ConnectError;
use kvorum_tls::{
    AUTHORITY_SECRET, Authority, CA_FILE, CERTIFICATE_FILE, CLIENT_LIFETIME, Credentials,
    Fingerprint, Identity, KEY_FILE, Peer, Tls, client_secret, signer,
};
use serde_json::json;
use tokio::time::sleep;

use super::look::Lookout;
use super::{Context, print};
use crate::arguments::certs::Rotate;
use crate::credentials::USERS;
use crate::exit::{Exit, Failure};
use crate::rotation::{self, Client, Files, Held, RENEWED_FILE, Replica, Seen, Stage};
use crate::secrets::{Secret, Secrets};

/// The user of the certificates by which replicas are looked at. It asks for nothing.
const LOOKING_USER: &str = "certs";
/// How long such a certificate is valid: as long as clocks may be apart.
const LOOKING_LIFETIME: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// The time between two looks at the replicas.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The end of a replacement, in words.
const ALONE: &str = "signs, and nobody trusts the old one";

/// A replacement under way.
struct Rotation<'a> {
    context: &'a Context,
    secrets: Secrets,
    lookout: Lookout,
    asked: &'a Rotate,
    began: Instant,
}

/// Replaces certificates.
pub(super) async fn rotate(context: &Context, asked: &Rotate) -> Result<(), Failure> {
    let secrets = Secrets::of_platform(&context.platform)?;
    let lookout = Lookout::of(&context.platform);
    let rotation = Rotation { context, secrets, lookout, asked, began: Instant::now() };
    match asked.authority {
        true => rotation.authority().await,
        false => rotation.leaves().await,
    }
}

/// A wait for replicas, which is told when its reasons change, and has a bound.
struct Wait {
    bound: Duration,
    since: Instant,
    told: Vec<String>,
}

impl Wait {
    fn new(bound: Duration) -> Self {
        Self { bound, since: Instant::now(), told: Vec::new() }
    }

    /// Waits a moment for something that is not so yet; fails when that has lasted too long.
    async fn again(&mut self, reasons: Vec<String>, then: &str) -> Result<(), Failure> {
        if self.since.elapsed() > self.bound {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("after {:?}: {}. {then}", self.bound, reasons.join("; ")),
            ));
        }
        if self.told != reasons {
            crate::note::note(format!("waiting: {}", reasons.join("; ")));
            self.told = reasons;
        }
        sleep(LOOK_INTERVAL).await;
        Ok(())
    }
}

impl Rotation<'_> {
    /// Notes a step, with the time since the beginning.
    fn note(&self, line: impl std::fmt::Display) {
        crate::note::note(format!("{:>6.1} s  {line}", self.began.elapsed().as_secs_f64()));
    }

    /// Reads the authority's secret.
    async fn held(&self) -> Result<(Secret, Held), Failure> {
        let secret = self.secrets.read(AUTHORITY_SECRET).await?;
        let held = Held::read(&secret.files).map_err(|error| {
            Failure::failed(format!(
                "the authority in {} is damaged: {error}; a running replica restores it when it is \
                 emptied",
                secret.place
            ))
        })?;
        let held = held.ok_or_else(|| {
            Failure::failed(format!(
                "{} is empty: replicas with certificates from elsewhere (--tls-dir) get new ones \
                 there; others fill it when they start",
                secret.place
            ))
        })?;
        Ok((secret, held))
    }

    /// Makes credentials by an authority, to look at replicas with.
    fn credentials(&self, by: &Authority, believed: &str) -> Result<Arc<Tls>, Failure> {
        let identity = Identity::client(&self.secrets.cluster_word(), LOOKING_USER);
        let issued = by.issue(&identity, &[], SystemTime::now(), LOOKING_LIFETIME);
        let own = Credentials::from_pem(believed, &issued.certificate, &issued.key);
        own.map(Tls::new).map_err(|error| Failure::failed(error.to_string()))
    }

    /// Looks at every replica, and at the certificates that the cluster keeps for clients.
    async fn look(&self, held: &Held) -> Result<Seen, Failure> {
        let believed = held.believed();
        let new = self.lookout.meet_all(&self.credentials(held.trying(), &believed)?).await;
        let mut replicas: BTreeMap<_, _> = new
            .into_iter()
            .map(|(name, met)| {
                let seen =
                    met.map_or_else(Replica::Silent, |(peer, entered)| seen(&peer, entered, held));
                (name, seen)
            })
            .collect();
        if let (Stage::OnlyNew, Some(previous)) = (held.stage, &held.previous) {
            let old = self.lookout.meet_all(&self.credentials(previous, &believed)?).await;
            for (name, met) in old {
                match (replicas.get_mut(&name), met.map(|(_, entered)| entered)) {
                    (Some(Replica::Answers { .. }), Ok(Err(ConnectError::Distrusted { .. }))) => {}
                    (
                        Some(Replica::Answers { takes_old, .. }),
                        Ok(Ok(()) | Err(ConnectError::Refused { .. })),
                    ) => *takes_old = true,
                    (Some(Replica::Silent(_)) | None, _) => {}
                    (Some(seen), Ok(Err(error))) => *seen = Replica::Silent(error.to_string()),
                    (Some(seen), Err(why)) => *seen = Replica::Silent(why),
                }
            }
        }
        let mut clients = BTreeMap::new();
        for user in USERS {
            let (name, client) = match self.secrets.read(&client_secret(user)).await {
                Ok(secret) => (secret.place, Client::of(&secret.files)),
                Err(failure) if failure.exit == Exit::NotAuthorized => return Err(failure),
                Err(failure) => (client_secret(user), Client::Unusable(failure.message)),
            };
            clients.insert(name, client);
        }
        Ok(Seen { replicas, clients })
    }

    /// Replaces the authority, or goes on with that.
    async fn authority(&self) -> Result<(), Failure> {
        let (_, held) = self.held().await?;
        self.ask(&held)?;
        let mut stage = held.stage;
        let mut wait = Wait::new(self.asked.wait);
        let mut ready: Option<Instant> = None;
        loop {
            let (secret, held) = match self.held().await {
                Err(busy) if busy.exit == Exit::Unavailable => {
                    wait.again(vec![busy.message], &what_then(stage)).await?;
                    continue;
                }
                read => read?,
            };
            if stage != held.stage {
                // This run's last step, whose answer was lost, or another run's.
                if held.stage == Stage::Rest {
                    return self.told_done(&held, ALONE);
                }
                self.note(held.stage);
                (stage, ready) = (held.stage, None);
                wait = Wait::new(self.asked.wait);
            }
            let seen = self.look(&held).await?;
            let reasons = rotation::waits(stage, held.new.fingerprint, &seen);
            if !reasons.is_empty() {
                wait.again(reasons, &what_then(stage)).await?;
                continue;
            }
            wait = Wait::new(self.asked.wait);
            if stage == Stage::BothTrusted && self.asked.prepare {
                return self.told_done(
                    &held,
                    "is trusted beside the old one, and certificates that are made now are good \
                     before and after: replace copies outside the cluster, and go on without \
                     --prepare",
                );
            }
            if stage.has_pause() && !self.has_paused(&mut ready).await {
                continue;
            }
            let fresh = Authority::generate(&self.secrets.cluster_word(), SystemTime::now());
            let (place, after) = (secret.place.clone(), held.after_step(&fresh));
            let is_replaced = match self.secrets.replace(secret, after).await {
                // Whether it was replaced is seen at the next look.
                Err(busy) if busy.exit == Exit::Unavailable => {
                    wait.again(vec![busy.message], &what_then(stage)).await?;
                    continue;
                }
                replaced => replaced?,
            };
            match (is_replaced, stage) {
                (true, Stage::OnlyNew) => {
                    return self.told_done(&held, ALONE);
                }
                (true, _) => {}
                (false, _) => self.note(format!("{place} was changed meanwhile; looking again")),
            }
        }
    }

    /// Asks whether to begin, or to go on.
    fn ask(&self, held: &Held) -> Result<(), Failure> {
        let name = self.context.platform.name();
        let question = match held.stage {
            Stage::Rest => format!("Replace the authority of {name}? [y/N] "),
            stage => {
                crate::note::note(format!("a replacement is under way; {stage}"));
                format!("Go on replacing the authority of {name}? [y/N] ")
            }
        };
        match held.stage {
            stage @ (Stage::NewSigns | Stage::OnlyNew) if self.asked.prepare => {
                return Err(Failure::usage(format!(
                    "it is too late for --prepare ({stage}); go on without it"
                )));
            }
            _ if self.asked.prepare => return Ok(()),
            Stage::OnlyNew => {}
            _ => crate::note::note(
                "copies of certificates outside the cluster are of no use after this, unless they \
                 were made after a run with --prepare",
            ),
        }
        match self.asked.yes || crate::command::admin::ask(&question)? {
            true => Ok(()),
            false => Err(Failure::new(Exit::NeedsYes, "nothing was changed; repeat with --yes")),
        }
    }

    /// Waits for the pause in which programs read their certificates anew; returns whether it was
    /// over before. Looking all the time would take the processor from those who serve.
    async fn has_paused(&self, ready: &mut Option<Instant>) -> bool {
        let pause = self.asked.pause;
        if ready.is_none() && !pause.is_zero() {
            self.note(format!("all are ready; programs have {pause:?} to read theirs anew"));
        }
        let rest = pause.saturating_sub(ready.get_or_insert_with(Instant::now).elapsed());
        sleep(rest).await;
        rest.is_zero()
    }

    /// Prints that the authority was replaced.
    fn told_done(&self, held: &Held, how: &str) -> Result<(), Failure> {
        let seconds = self.began.elapsed().as_secs_f64();
        let new = held.new.fingerprint;
        let old = held.previous.as_ref().and_then(|old| old.description().ok());
        let old = old.map(|old| old.fingerprint.to_string());
        let text = format!("the new authority {new} {how}, after {seconds:.1} s");
        let json = json!({
            "authority": new.to_string(),
            "old": old,
            "is_done": matches!(held.stage, Stage::OnlyNew | Stage::Rest),
            "seconds": seconds,
        });
        print(self.context.global.output, &text, &json)
    }

    /// Replaces the certificates of all replicas, and those that the cluster keeps for clients.
    async fn leaves(&self) -> Result<(), Failure> {
        let (_, held) = self.held().await?;
        let tls = self.credentials(held.trying(), &held.believed())?;
        let mut wait = Wait::new(self.asked.wait);
        let before = loop {
            match all_shown(self.lookout.meet_all(&tls).await) {
                Ok(shown) => break shown,
                Err(silent) => wait.again(silent, "Nothing was changed").await?,
            }
        };
        let mut is_asked = false;
        while !is_asked {
            let (secret, _) = self.held().await?;
            let mut files = secret.files.clone();
            files.insert(RENEWED_FILE.to_owned(), Timestamp::now().to_string());
            is_asked = self.secrets.replace(secret, files).await?;
        }
        self.note("every replica is asked for a new certificate");
        for user in USERS {
            self.renew_client(user, &held).await?;
        }
        let mut wait = Wait::new(self.asked.wait);
        loop {
            let waits = match all_shown(self.lookout.meet_all(&tls).await) {
                Err(silent) => silent,
                Ok(shown) => shown
                    .iter()
                    .filter(|(name, shown)| before.get(*name) == Some(*shown))
                    .map(|(name, _)| format!("{name} shows its earlier certificate yet"))
                    .collect(),
            };
            if waits.is_empty() {
                break;
            }
            let then = "The others have theirs; it gets its own when it runs and reaches the \
                        secrets. Run this again to see that";
            wait.again(waits, then).await?;
        }
        let (count, seconds) = (before.len(), self.began.elapsed().as_secs_f64());
        let text = format!(
            "{count} replicas and {} clients have new certificates after {seconds:.1} s",
            USERS.len()
        );
        print(self.context.global.output, &text, &json!({ "replicas": count, "seconds": seconds }))
    }

    /// Replaces the certificate that the cluster keeps for a client.
    async fn renew_client(&self, user: &str, held: &Held) -> Result<(), Failure> {
        let identity = Identity::client(&self.secrets.cluster_word(), user);
        loop {
            let secret = self.secrets.read(&client_secret(user)).await?;
            let issued = held.current.issue(&identity, &[], SystemTime::now(), CLIENT_LIFETIME);
            let files = Files::from([
                (CA_FILE.to_owned(), held.current.bundle().to_owned()),
                (CERTIFICATE_FILE.to_owned(), issued.certificate),
                (KEY_FILE.to_owned(), issued.key),
            ]);
            if self.secrets.replace(secret, files).await? {
                return Ok(());
            }
        }
    }
}

/// Says what is so when a wait took too long, and what to do.
fn what_then(stage: Stage) -> String {
    let again = "see why by 'kvorum status' and its log, or scale it away, and run this again: it \
                 goes on from here";
    match stage {
        Stage::Rest | Stage::Prepared => format!("Nothing was changed: {again}"),
        stage => format!("The cluster serves, and stays where it is ({stage}): {again}"),
    }
}

/// Returns what was seen of a replica that answers.
fn seen(peer: &Peer, entered: Result<(), ConnectError>, held: &Held) -> Replica {
    let takes_new = match entered {
        Ok(()) => Ok(()),
        Err(ConnectError::Distrusted { reason, .. }) => Err(reason),
        // It has judged the certificate before it refuses for another reason.
        Err(ConnectError::Refused { .. }) => Ok(()),
        Err(error) => return Replica::Silent(error.to_string()),
    };
    let by_new = signer(&peer.descriptions(), std::slice::from_ref(&held.new));
    Replica::Answers { shows_new: by_new.is_some(), takes_new, takes_old: false }
}

/// Returns the certificates that replicas show, by name, if all of them do.
fn all_shown(
    met: BTreeMap<String, super::look::Met>,
) -> Result<BTreeMap<String, Fingerprint>, Vec<String>> {
    let (mut shown, mut silent) = (BTreeMap::new(), Vec::new());
    for (name, met) in met {
        match met.map(|(peer, _)| peer.descriptions()) {
            Ok(chain) => shown.extend(chain.first().map(|own| (name, own.fingerprint))),
            Err(why) => silent.push(format!("{name} does not answer ({why})")),
        }
    }
    if shown.is_empty() && silent.is_empty() {
        silent.push("no replica is wanted".to_owned());
    }
    if silent.is_empty() { Ok(shown) } else { Err(silent) }
}
