//! Pure: replicas of two clusters at one place, and the way back to one.
//!
//! A replica that loses its volume while the cluster's marker is lost, and that reaches no peer,
//! begins another cluster. Its name is that of a member of the first one, so it is asked like a
//! member.
//!
//! Guarantees that the cluster named as the one to keep is one that serves; where none serves, none
//! is named.

use std::collections::BTreeMap;
use std::path::Path;

use kvorum_protocol::status::{ClusterId, Status};

use crate::output::{Said, shell_word};

/// The place where the replicas run, as far as the way back depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ground<'a> {
    /// In the pods of a `StatefulSet`.
    Kubernetes {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        set: &'a str,
    },
    /// As processes on a folder.
    Folder(&'a Path),
    /// An unknown place.
    Elsewhere,
}

/// Replicas of several clusters at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// The cluster to keep, if one serves.
    pub kept: Option<ClusterId>,
    /// The replicas' names, by cluster.
    pub clusters: BTreeMap<ClusterId, Vec<String>>,
}

impl Split {
    /// Groups the replicas by the cluster they report; `None` if they are all of one cluster.
    #[must_use]
    pub fn of(said: &[Said]) -> Option<Self> {
        let told: Vec<&Status> = said.iter().filter_map(|(_, told)| told.as_ref().ok()).collect();
        let mut clusters: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for status in &told {
            clusters.entry(status.cluster).or_default().push(status.name.clone());
        }
        if clusters.len() < 2 {
            return None;
        }
        let ready = |cluster: ClusterId| {
            told.iter().filter(|status| status.cluster == cluster && status.is_ready).count()
        };
        let serving = clusters.keys().copied().max_by_key(|cluster| ready(*cluster));
        let kept = serving.filter(|cluster| ready(*cluster) > 0);
        Some(Self { kept, clusters })
    }

    /// Describes the problem.
    #[must_use]
    pub fn what(&self) -> String {
        let of = |(cluster, names): (&ClusterId, &Vec<String>)| {
            let serves = if self.kept == Some(*cluster) { ", which serves" } else { "" };
            format!("{cluster}{serves}: {}", names.join(", "))
        };
        let all: Vec<_> = self.clusters.iter().map(of).collect();
        format!("these replicas are of {} clusters ({})", all.len(), all.join("; "))
    }

    /// Describes the way back to one cluster.
    #[must_use]
    pub fn way_back(&self, ground: Ground<'_>) -> String {
        let Some(kept) = self.kept else {
            return "none of them serves: start the missing replicas of the one that has your data, \
                    and look again"
                .to_owned();
        };
        let others = self.clusters.iter().filter(|(cluster, _)| **cluster != kept);
        let names: Vec<&str> = others.flat_map(|(_, names)| names).map(String::as_str).collect();
        let go = names.join(", ");
        match ground {
            Ground::Kubernetes { namespace, set } => {
                let claims: Vec<_> = names.iter().map(|name| format!("data-{name}")).collect();
                let (claims, pods) = (claims.join(" "), names.join(" "));
                format!(
                    "keep {kept}; what {go} had written in the other one goes: kubectl -n \
                     {namespace} patch configmap {set}-cluster --type merge -p \
                     '{{\"data\":null}}'; kubectl -n {namespace} delete pvc {claims} \
                     --wait=false; kubectl -n {namespace} delete pod {pods}"
                )
            }
            Ground::Folder(folder) => {
                let moves = names.iter().map(|name| {
                    let from = folder.join(name).display().to_string();
                    let from = shell_word(from.as_bytes());
                    format!("mv {from} {from}.other")
                });
                let moves: Vec<_> = moves.collect();
                format!(
                    "keep {kept}: stop 'kvorum local', then {}, and start it again",
                    moves.join(" && ")
                )
            }
            Ground::Elsewhere => format!(
                "keep {kept}: end {go} there, move its data folder away, and start it again; or \
                 leave its address out, if it is another cluster on purpose"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(kept: Option<u128>) -> Split {
        let clusters = [(1, vec!["kvorum-0".to_owned()]), (2, vec!["kvorum-1".to_owned()])];
        let clusters = clusters.map(|(id, names)| (ClusterId(id), names)).into();
        Split { kept: kept.map(ClusterId), clusters }
    }

    #[test]
    fn the_way_back_keeps_what_serves() {
        let told = split(Some(2));
        let what = told.what();
        assert!(what.contains("2 clusters") && what.contains("which serves: kvorum-1"), "{what}");
        let kubernetes = Ground::Kubernetes { namespace: "shop", set: "kvorum" };
        let way = told.way_back(kubernetes);
        let acts = [
            "-n shop patch configmap kvorum-cluster --type merge -p '{\"data\":null}'",
            "-n shop delete pvc data-kvorum-0 --wait=false",
            "-n shop delete pod kvorum-0",
        ];
        assert!(acts.iter().all(|act| way.contains(act)), "{way}");
        assert!(!way.contains("kvorum-1"), "{way}");
        let way = told.way_back(Ground::Folder(Path::new("/a b")));
        assert!(way.contains("mv '/a b/kvorum-0' '/a b/kvorum-0'.other"), "{way}");
        assert!(told.way_back(Ground::Elsewhere).contains("end kvorum-0 there"));
        assert!(split(None).way_back(kubernetes).contains("none of them serves"));
    }
}
