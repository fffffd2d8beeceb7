//! Pure: the steps in which the authority of a running cluster is replaced.
//!
//! | stage | trusted | signs | goes on when |
//! |---|---|---|---|
//! | at rest | the old one | the old one | every replica answers |
//! | prepared | the old one | the old one | at once: the new one is kept, and can be tried with |
//! | both trusted | both | the old one | every replica and client trusts the new one |
//! | new signs | both | the new one | every replica and client shows a certificate by the new one |
//! | only new | the new one | the new one | every replica refuses the old one |
//!
//! Guarantees that the stage follows from what the authority's secret holds, so that another run
//! goes on where one was interrupted, and that no certificate is shown to anybody who does not
//! trust it yet. Does not know where the secret is, nor how replicas are looked at.

use std::collections::BTreeMap;
use std::fmt;

use kvorum_tls::{
    AUTHORITY_KEY_FILE, Authority, CA_FILE, CERTIFICATE_FILE, CredentialsError, Description,
    Fingerprint, signer,
};

/// The part with the authority that is to be.
const NEXT_FILE: &str = "next.crt";
/// The part with its key.
const NEXT_KEY_FILE: &str = "next.key";
/// The part with the authority that was: with it, it is tried whether replicas refuse it.
const PREVIOUS_FILE: &str = "previous.crt";
/// The part with its key.
const PREVIOUS_KEY_FILE: &str = "previous.key";
/// The part that says when all certificates were last asked for anew: its change is the request.
pub const RENEWED_FILE: &str = "renewed";

/// The parts of a secret, by file name.
pub type Files = BTreeMap<String, String>;

/// How far the replacement of an authority is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing is under way.
    Rest,
    /// The new authority is there, and nobody uses it.
    Prepared,
    /// Replicas and clients are to trust the old and the new one; the old one signs.
    BothTrusted,
    /// The new one signs; both are trusted.
    NewSigns,
    /// Replicas are to trust the new one only.
    OnlyNew,
}

impl Stage {
    /// Determines the stage from the authorities that are trusted, the one that signs, and the one
    /// that is to be.
    fn of(trusted: &[Fingerprint], signs: Fingerprint, next: Option<Fingerprint>) -> Self {
        match next {
            None => Self::Rest,
            Some(next) if !trusted.contains(&next) => Self::Prepared,
            Some(next) if signs != next => Self::BothTrusted,
            Some(_) if trusted.len() > 1 => Self::NewSigns,
            Some(_) => Self::OnlyNew,
        }
    }

    /// Whether programs that read their certificates now and then are given time to do so before
    /// the next step.
    #[must_use]
    pub fn has_pause(self) -> bool {
        matches!(self, Self::BothTrusted | Self::NewSigns)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rest => "at rest: one authority, which signs",
            Self::Prepared => "the new authority is made",
            Self::BothTrusted => {
                "step 1 of 3: the old and the new one are trusted, the old one signs"
            }
            Self::NewSigns => "step 2 of 3: the new one signs, both are trusted",
            Self::OnlyNew => "step 3 of 3: only the new one is trusted",
        })
    }
}

/// The content of the authority's secret.
pub struct Held {
    /// All its parts.
    files: Files,
    /// The authority that signs, with all that are trusted.
    pub current: Authority,
    /// The certificates that are trusted.
    pub trusted: Vec<Description>,
    /// The authority that is to be, if a replacement is under way.
    next: Option<Authority>,
    /// The authority that was, if a replacement is under way.
    pub previous: Option<Authority>,
    /// How far it is.
    pub stage: Stage,
    /// The certificate of the authority that is to be; of that which signs where none is.
    pub new: Description,
}

impl Held {
    /// Reads the secret's parts; `None` when nobody has filled it.
    ///
    /// # Errors
    /// When the authority in it does not parse, or its key is not that of a trusted one.
    pub fn read(files: &Files) -> Result<Option<Self>, CredentialsError> {
        let part = |file: &str| files.get(file).map_or("", String::as_str);
        let (bundle, key) = (part(CA_FILE), part(AUTHORITY_KEY_FILE));
        if bundle.is_empty() && key.is_empty() {
            return Ok(None);
        }
        let current = Authority::from_pem(bundle, key)?;
        let trusted = Description::read_all(bundle)?;
        let previous = Authority::from_pem(part(PREVIOUS_FILE), part(PREVIOUS_KEY_FILE)).ok();
        // An authority that was written in part only, before anybody used it, is made anew.
        let next = Authority::from_pem(part(NEXT_FILE), part(NEXT_KEY_FILE)).ok();
        let next = next.filter(|_| previous.is_some());
        let signs = current.description()?;
        let new = next.as_ref().map(Authority::description).transpose()?;
        let all: Vec<_> = trusted.iter().map(|one| one.fingerprint).collect();
        let stage = Stage::of(&all, signs.fingerprint, new.as_ref().map(|new| new.fingerprint));
        let (files, new) = (files.clone(), new.unwrap_or(signs));
        Ok(Some(Self { files, current, trusted, next, previous, stage, new }))
    }

    /// Returns the authority by which replicas are looked at: the new one.
    #[must_use]
    pub fn trying(&self) -> &Authority {
        self.next.as_ref().unwrap_or(&self.current)
    }

    /// Returns the authority by which certificates are made for others, and the ones that they are
    /// to trust: as soon as both are trusted, the new one, so that they are good before and after.
    #[must_use]
    pub fn giving(&self) -> (&Authority, &str) {
        let giving = match self.stage {
            Stage::BothTrusted => self.trying(),
            _ => &self.current,
        };
        (giving, self.current.bundle())
    }

    /// Returns every certificate that a replica may show by, in PEM form.
    #[must_use]
    pub fn believed(&self) -> String {
        let texts = [Some(&self.current), self.next.as_ref(), self.previous.as_ref()];
        texts.into_iter().flatten().map(|one| lined(one.bundle())).collect()
    }

    /// Returns the secret's parts after the next step; `fresh` becomes the new authority where
    /// there is none.
    #[must_use]
    pub fn after_step(&self, fresh: &Authority) -> Files {
        let mut files = self.files.clone();
        let mut put = |file: &str, text: String| files.insert(file.to_owned(), text);
        let next = self.next.as_ref().unwrap_or(fresh);
        match self.stage {
            Stage::Rest => {
                put(NEXT_FILE, fresh.bundle().to_owned());
                put(NEXT_KEY_FILE, fresh.key());
                put(PREVIOUS_FILE, self.current.bundle().to_owned());
                put(PREVIOUS_KEY_FILE, self.current.key());
            }
            Stage::Prepared => {
                put(CA_FILE, lined(self.current.bundle()) + next.bundle());
            }
            Stage::BothTrusted => {
                put(AUTHORITY_KEY_FILE, next.key());
            }
            Stage::NewSigns => {
                put(CA_FILE, next.bundle().to_owned());
            }
            Stage::OnlyNew => {
                for file in [NEXT_FILE, NEXT_KEY_FILE, PREVIOUS_FILE, PREVIOUS_KEY_FILE] {
                    files.remove(file);
                }
            }
        }
        files
    }
}

/// Returns a text that ends with its last line's end, so that another may follow.
fn lined(text: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}

/// The sight of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replica {
    /// It does not answer, for this reason.
    Silent(String),
    /// It answers.
    Answers {
        /// Whether the new authority has signed its certificate.
        shows_new: bool,
        /// Whether it lets in somebody by the new authority; the reason if it does not.
        takes_new: Result<(), String>,
        /// Whether it lets in somebody by the old authority; asked in the last stage only.
        takes_old: bool,
    },
}

/// The sight of a certificate that the cluster keeps for a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Client {
    /// It cannot be used, for this reason.
    Unusable(String),
    /// It can be used.
    Holds {
        /// The authorities with it.
        trusted: Vec<Fingerprint>,
        /// The authority that signed it.
        by: Option<Fingerprint>,
    },
}

impl Client {
    /// Reads the parts of a client's secret.
    #[must_use]
    pub fn of(files: &Files) -> Self {
        let read = |file: &str| match files.get(file) {
            None => Err(format!("it has no {file}")),
            Some(text) => Description::read_all(text).map_err(|error| format!("{file}: {error}")),
        };
        let both = read(CA_FILE).and_then(|trusted| Ok((trusted, read(CERTIFICATE_FILE)?)));
        match both {
            Err(why) => Self::Unusable(why),
            Ok((trusted, chain)) => Self::Holds {
                by: signer(&chain, &trusted).map(|one| one.fingerprint),
                trusted: trusted.iter().map(|one| one.fingerprint).collect(),
            },
        }
    }
}

/// The sight of a cluster: its replicas and certificates, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Its replicas: those that are wanted, and those that run.
    pub replicas: BTreeMap<String, Replica>,
    /// The certificates that it keeps for clients.
    pub clients: BTreeMap<String, Client>,
}

/// Returns what the next step has to wait for, in clauses; nothing when it may be done.
#[must_use]
pub fn waits(stage: Stage, new: Fingerprint, seen: &Seen) -> Vec<String> {
    if stage == Stage::Prepared {
        return Vec::new();
    }
    if seen.replicas.is_empty() {
        return vec!["no replica is wanted".to_owned()];
    }
    let replicas = seen.replicas.iter();
    let replicas = replicas.filter_map(|(name, replica)| {
        wait_for_replica(stage, replica).map(|why| format!("{name} {why}"))
    });
    let clients = seen.clients.iter();
    let clients = clients.filter_map(|(name, client)| {
        wait_for_client(stage, new, client).map(|why| format!("{name} {why}"))
    });
    replicas.chain(clients).collect()
}

fn wait_for_replica(stage: Stage, replica: &Replica) -> Option<String> {
    let (shows_new, takes_new, takes_old) = match replica {
        Replica::Silent(why) => return Some(format!("does not answer ({why})")),
        Replica::Answers { shows_new, takes_new, takes_old } => (shows_new, takes_new, takes_old),
    };
    if let Err(why) = takes_new {
        return Some(match stage {
            Stage::Rest => format!("does not take the authority that signs ({why})"),
            _ => format!("does not trust the new authority yet ({why})"),
        });
    }
    match stage {
        Stage::NewSigns if !shows_new => Some("shows a certificate by the old one yet".to_owned()),
        Stage::OnlyNew if *takes_old => Some("trusts the old authority yet".to_owned()),
        _ => None,
    }
}

fn wait_for_client(stage: Stage, new: Fingerprint, client: &Client) -> Option<String> {
    let (trusted, by) = match client {
        _ if stage == Stage::Rest => return None,
        Client::Unusable(why) => return Some(format!("is of no use: {why}")),
        Client::Holds { trusted, by } => (trusted, by),
    };
    match stage {
        Stage::BothTrusted if !trusted.contains(&new) => {
            Some("does not have the new authority yet".to_owned())
        }
        Stage::NewSigns if *by != Some(new) => Some("is signed by the old one yet".to_owned()),
        Stage::OnlyNew if *trusted != [new] => Some("has the old authority yet".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
