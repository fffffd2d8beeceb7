//! Pure: the formats of certificates, as a table and as JSON: whether they are valid, and what for.
//!
//! Guarantees that names which others put into a certificate reach no screen unescaped. Does not
//! know where certificates are found.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use jiff::{SignedDuration, Timestamp};
use kvorum_tls::{Description, Fingerprint, Owner, Subject};
use serde_json::{Value as Json, json};

use crate::output::line;

/// The part of a certificate's life that is left when it ends soon: renewed in time, it never gets
/// there.
const SOON_PART: i32 = 6;
/// The longest time before its end at which a certificate ends soon.
const SOON_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Whether a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not before its beginning.
    NotYet,
    /// Now, and for some time.
    Valid,
    /// For this long, which is little.
    EndsSoon(SignedDuration),
    /// Not any more.
    Over,
}

impl State {
    /// Judges the time from which and until which a certificate is valid.
    #[must_use]
    pub fn of(from: Timestamp, until: Timestamp, now: Timestamp) -> Self {
        let (life, rest) = (until.duration_since(from), until.duration_since(now));
        match () {
            () if now < from => Self::NotYet,
            () if rest.is_negative() => Self::Over,
            () if rest < (life / SOON_PART).min(SOON_MAX) => Self::EndsSoon(rest),
            () => Self::Valid,
        }
    }

    /// Whether a certificate can be used now.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Valid | Self::EndsSoon(_))
    }

    fn word(self) -> &'static str {
        match self {
            Self::NotYet => "not-yet",
            Self::Valid => "valid",
            Self::EndsSoon(_) => "ends-soon",
            Self::Over => "over",
        }
    }

    fn text(self) -> String {
        match self {
            Self::NotYet => "not valid yet: compare the clocks".to_owned(),
            Self::Valid => "valid".to_owned(),
            Self::EndsSoon(rest) if rest.as_hours() < 48 => {
                format!("ends in {} hours", rest.as_hours())
            }
            Self::EndsSoon(rest) => format!("ends in {} days", rest.as_hours() / 24),
            Self::Over => "over".to_owned(),
        }
    }
}

/// One certificate that was found, or the reason why none was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The place where it was found.
    pub place: String,
    /// Its content; `None` when it cannot be read.
    pub says: Option<Description>,
    /// The authority that signed it, if that is known here.
    pub by: Option<Fingerprint>,
    /// Its part in the cluster, where it says more than the certificate.
    pub part: Option<&'static str>,
    /// The reason why it is of no use, whatever it says: with a remedy.
    pub problem: Option<String>,
}

impl Row {
    /// Creates the row of a place where no certificate can be read.
    #[must_use]
    pub fn unreadable(place: String, problem: String) -> Self {
        Self { place, says: None, by: None, part: None, problem: Some(problem) }
    }

    /// Whether the certificate can be used now.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        let state = self.says.as_ref().and_then(|says| state(says, now));
        self.problem.is_none() && state.is_some_and(State::is_usable)
    }

    fn json(&self, now: Timestamp) -> Json {
        let says = self.says.as_ref();
        let state = says.and_then(|says| state(says, now));
        json!({
            "place": self.place,
            "owner": says.map(|says| owner(&says.owner)),
            "for": says.map(|says| self.part.map_or_else(|| uses(says), str::to_owned)),
            "not_before": says.and_then(|says| time(says.not_before)).map(|at| at.to_string()),
            "not_after": says.and_then(|says| time(says.not_after)).map(|at| at.to_string()),
            "fingerprint": says.map(|says| says.fingerprint.to_string()),
            "authority": self.by.map(|by| by.to_string()),
            "state": state.map_or("unknown", State::word),
            "problem": self.problem,
        })
    }

    fn cells(&self, now: Timestamp) -> [String; 6] {
        let place = line(self.place.as_bytes());
        let state_text = match (&self.problem, &self.says) {
            (Some(_), _) => "OF NO USE".to_owned(),
            (None, Some(says)) => state(says, now).map_or_else(String::new, State::text),
            (None, None) => String::new(),
        };
        let Some(says) = &self.says else {
            let [who, uses, until, by] = [(); 4].map(|()| "?".to_owned());
            return [place, who, uses, until, by, state_text];
        };
        let until = time(says.not_after);
        let until = until.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%MZ").to_string());
        let uses = self.part.map_or_else(|| uses(says), str::to_owned);
        let by = self.by.map_or_else(|| "?".to_owned(), |by| by.to_string());
        [place, line(owner(&says.owner).as_bytes()), uses, until, by, state_text]
    }
}

/// Converts a time of a certificate.
fn time(at: impl TryInto<Timestamp>) -> Option<Timestamp> {
    at.try_into().ok()
}

fn state(says: &Description, now: Timestamp) -> Option<State> {
    Some(State::of(time(says.not_before)?, time(says.not_after)?, now))
}

/// Describes the owner of a certificate.
fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Party(identity) => identity.to_string(),
        Owner::Authority(name) | Owner::Other(name) => name.clone(),
    }
}

/// Describes what a certificate is for.
fn uses(says: &Description) -> String {
    let Owner::Party(identity) = &says.owner else {
        let is_authority = matches!(says.owner, Owner::Authority(_));
        return if is_authority { "an authority" } else { "nothing here" }.to_owned();
    };
    match (&identity.subject, says.serves, says.connects) {
        (Subject::Replica(_), true, true) => "both ports, to serve and to connect",
        (Subject::Replica(_), true, false) => "the clients' port, to serve",
        (Subject::Replica(_) | Subject::Client(_), _, true) => "the clients' port, to connect",
        (_, _, false) => "nothing here",
    }
    .to_owned()
}

/// Formats certificates as JSON.
#[must_use]
pub fn to_json(rows: &[Row], now: Timestamp) -> Vec<Json> {
    rows.iter().map(|row| row.json(now)).collect()
}

/// Formats certificates as a table, and below it the problems.
#[must_use]
pub fn to_table(rows: &[Row], now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["WHERE", "WHO", "FOR", "UNTIL", "AUTHORITY", "STATE"]);
    for row in rows {
        table.add_row(row.cells(now));
    }
    let mut text = table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    for row in rows {
        if let Some(problem) = &row.problem {
            let (place, problem) = (line(row.place.as_bytes()), line(problem.as_bytes()));
            text.extend(["\n", &place, ": ", &problem]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use kvorum_tls::{Authority, CLIENT_LIFETIME, Identity, signer};

    use super::*;

    #[test]
    fn a_certificate_ends_soon_before_it_is_over() {
        let at = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let day = 24;
        for (life, now, expected) in [
            (9 * day, -1, State::NotYet),
            (9 * day, 0, State::Valid),
            (9 * day, 7 * day, State::Valid),
            (9 * day, 8 * day, State::EndsSoon(SignedDuration::from_hours(day))),
            (9 * day, 9 * day + 1, State::Over),
            (92 * day, 62 * day, State::Valid),
            (92 * day, 80 * day, State::EndsSoon(SignedDuration::from_hours(12 * day))),
            (3652 * day, 3600 * day, State::Valid),
            (3652 * day, 3640 * day, State::EndsSoon(SignedDuration::from_hours(12 * day))),
        ] {
            assert_eq!(State::of(at(0), at(life), at(now)), expected, "{life} {now}");
        }
        let soon = |hours| State::EndsSoon(SignedDuration::from_hours(hours)).text();
        assert_eq!([soon(5), soon(49)], ["ends in 5 hours", "ends in 2 days"]);
    }

    #[test]
    fn a_table_says_who_until_when_and_for_what() {
        let made = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let authority = Authority::generate("c", made);
        let authorities = Description::read_all(authority.bundle()).unwrap();
        let row = |identity: &Identity| {
            let issued = authority.issue(identity, &[], made, CLIENT_LIFETIME);
            let chain = Description::read_all(&issued.certificate).unwrap();
            let by = signer(&chain, &authorities).map(|one| one.fingerprint);
            let says = chain.into_iter().next();
            Row { place: "d".to_owned(), says, by, part: None, problem: None }
        };
        let mut wrong = row(&Identity::client("c", "app"));
        wrong.problem = Some("run: \u{1b}[31m".to_owned());
        let nothing = Row::unreadable("e".to_owned(), "it is not there".to_owned());
        let rows = [row(&Identity::replica("c", "kvorum-0")), wrong, nothing];
        let usable: Vec<_> = rows.iter().map(|row| row.is_usable(now)).collect();
        assert_eq!(usable, [true, false, false]);
        let table = to_table(&rows, now);
        let by = authorities[0].fingerprint.to_string();
        for part in [
            "kvorum://c/replica/kvorum-0",
            "both ports, to serve and to connect",
            "the clients' port, to connect",
            "2027-04-15 08:00Z",
            &by,
            "valid",
            "OF NO USE",
            "\ne: it is not there",
        ] {
            assert!(table.contains(part), "{part} in {table}");
        }
        assert!(!table.contains('\u{1b}'), "{table}");
        let json = to_json(&rows, now);
        assert_eq!(json[0]["state"], "valid");
        assert_eq!(json[0]["not_after"], "2027-04-15T08:00:00Z");
        assert_eq!(json[1]["owner"], "kvorum://c/client/app");
        assert_eq!(json[2]["state"], "unknown");
    }
}
