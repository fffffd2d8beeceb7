//! Pure: the names by which a user refers to a replica.
//!
//! | word | which |
//! |---|---|
//! | `kvorum-0` | the replica of that name |
//! | `n1`, `1` | the first; `n2`, `2` the second |
//! | `8001` | the first, as the seed's network actor spelled it; `8002` the second |
//! | `leader` | the current leader |
//! | `any` | any replica that answers |
//!
//! Guarantees that a word is a node, or an error that says what a node looks like. Does not know
//! which replicas exist; the caller provides their names.

use kvorum_protocol::status::Configuration;

/// The first port of the seed's network actor, minus one.
const SEED_PORT: u32 = 8000;
/// The last port that is accepted as a node.
const SEED_PORT_MAX: u32 = 8999;

/// A replica, as the user named it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// The current leader.
    Leader,
    /// Any replica that answers.
    Any,
    /// The replica at this place: 0 is the first.
    Ordinal(u32),
    /// The replica of this name.
    Name(String),
}

impl std::str::FromStr for Node {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let no_node = || {
            format!(
                "'{word}' is not a node; a node is a name like kvorum-0, n1, 1, 8001 (the first), \
                 leader or any; a value with blanks needs quotes"
            )
        };
        match word {
            "leader" => return Ok(Self::Leader),
            "any" => return Ok(Self::Any),
            _ => {}
        }
        let number = word.strip_prefix('n').unwrap_or(word).parse::<u32>();
        match number {
            Ok(port @ 8001..=SEED_PORT_MAX) if !word.starts_with('n') => {
                Ok(Self::Ordinal(port - SEED_PORT - 1))
            }
            Ok(place @ 1..=SEED_PORT) => Ok(Self::Ordinal(place - 1)),
            Ok(_) => Err(no_node()),
            Err(_) if is_name(word) => Ok(Self::Name(word.to_owned())),
            Err(_) => Err(no_node()),
        }
    }
}

/// Whether a word is a replica's name, which ends with an ordinal.
fn is_name(word: &str) -> bool {
    word.rsplit_once('-').is_some_and(|(base, ordinal)| {
        !base.is_empty() && !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit())
    })
}

impl Node {
    /// Returns the member of a configuration that is meant; `None` for `any`.
    pub fn resolve(
        &self,
        configuration: &Configuration,
        leader: Option<&str>,
    ) -> Result<Option<String>, String> {
        let names: Vec<&str> = configuration.members.iter().map(|m| m.name.as_str()).collect();
        self.resolve_among(&names, leader)
    }

    /// Returns the one of these names that is meant; `None` for `any`.
    pub fn resolve_among(
        &self,
        names: &[&str],
        leader: Option<&str>,
    ) -> Result<Option<String>, String> {
        let found = match self {
            Self::Any => return Ok(None),
            Self::Leader => {
                let leader = leader.map(|name| Some(name.to_owned()));
                return leader.ok_or_else(|| "no leader is known now; try again".to_owned());
            }
            Self::Name(name) => names.iter().find(|member| *member == name),
            Self::Ordinal(ordinal) => {
                let suffix = format!("-{ordinal}");
                names.iter().find(|member| member.ends_with(&suffix))
            }
        };
        let asked = match self {
            Self::Name(name) => name.clone(),
            Self::Ordinal(ordinal) => format!("n{}", ordinal + 1),
            Self::Leader | Self::Any => String::new(),
        };
        let missing = || format!("there is no node {asked}; the nodes are {}", names.join(", "));
        found.map(|name| Some((*name).to_owned())).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId};

    #[test]
    fn words_name_nodes() {
        let ordinal = |n| Some(Node::Ordinal(n));
        let cases = [
            ("leader", Some(Node::Leader)),
            ("any", Some(Node::Any)),
            ("kvorum-0", Some(Node::Name("kvorum-0".into()))),
            ("a-b-12", Some(Node::Name("a-b-12".into()))),
            ("n1", ordinal(0)),
            ("3", ordinal(2)),
            ("8001", ordinal(0)),
            ("8003", ordinal(2)),
            ("0", None),
            ("n0", None),
            ("9000", None),
            ("b", None),
            ("-1", None),
            ("kvorum-", None),
            ("", None),
            ("99999999999", None),
        ];
        for (word, expected) in cases {
            assert_eq!(word.parse::<Node>().ok(), expected, "{word}");
        }
    }

    #[test]
    fn nodes_are_found_among_the_members() {
        let member =
            |id: u64| Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) };
        let configuration =
            Configuration { id: ConfigurationId(1), members: (1..=3).map(member).collect() };
        let resolve = |word: &str, leader| {
            word.parse::<Node>().expect("the word is a node").resolve(&configuration, leader)
        };
        assert_eq!(resolve("any", None), Ok(None));
        assert_eq!(resolve("8002", None), Ok(Some("kvorum-1".into())));
        assert_eq!(resolve("n3", None), Ok(Some("kvorum-2".into())));
        assert_eq!(resolve("leader", Some("kvorum-1")), Ok(Some("kvorum-1".into())));
        assert!(resolve("leader", None).is_err());
        let missing = resolve("n4", None).expect_err("there are three");
        assert_eq!(missing, "there is no node n4; the nodes are kvorum-0, kvorum-1, kvorum-2");
    }
}
