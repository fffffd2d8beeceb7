//! Pure: the members of the cluster and the desired replica count, as the console knows them.
//!
//! Guarantees that a replica that no longer runs stays listed as long as it is a member. Does not
//! know what is drawn.

use std::collections::BTreeSet;

use kvorum_protocol::Status;
use kvorum_protocol::status::{Configuration, Membership, Role};

use super::cluster::{Cluster, ClusterEvent, Kind, happening, short};

impl Cluster {
    /// Removes the replicas that no longer run and are not members.
    pub(super) fn remove_gone(&mut self) {
        let members = self.configuration.iter().flat_map(|c| &c.members);
        let members: BTreeSet<_> = members.map(|member| member.name.clone()).collect();
        let is_over = |name: &String| self.gone.contains(name) && !members.contains(name);
        self.nodes.retain(|(_, name), _| !is_over(name));
    }

    /// Whether a replica votes, as far as the console knows.
    #[must_use]
    pub fn is_member(&self, name: &str) -> bool {
        let has = |c: &Configuration| c.members.iter().any(|member| member.name == name);
        self.configuration.as_ref().is_none_or(has)
    }

    /// Returns the desired number of replicas; if none is reported, the number of known replicas.
    #[must_use]
    pub fn wanted(&self) -> usize {
        let wanted = self.membership.wanted.and_then(|wanted| usize::try_from(wanted).ok());
        wanted.unwrap_or_else(|| self.count())
    }

    /// Returns the membership that the leader last reported.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Takes in the configuration and the membership that a status reports.
    pub(super) fn reconfigured(&mut self, status: &Status) -> Vec<ClusterEvent> {
        let (name, wall_us) = (&status.name, status.wall_us);
        let now = &status.configuration;
        let mut happened = Vec::new();
        if let Some(before) = self.configuration.as_ref().filter(|before| before.id < now.id) {
            let text = format!("configuration {}: {}", now.id.0, change_of(before, now));
            happened.push(happening(wall_us, Kind::Members, name, text));
        }
        if self.configuration.as_ref() != Some(now) {
            self.configuration = Some(now.clone());
            self.remove_gone();
        }
        let waited = self.membership.waits.clone();
        if status.role == Role::Leader || self.membership.wanted.is_none() {
            self.membership = status.membership.clone();
        }
        if let Some(why) = self.membership.waits.clone().filter(|why| Some(why) != waited.as_ref())
        {
            let text = format!("the members stay as they are: {why}");
            happened.push(happening(wall_us, Kind::Members, name, text));
        }
        happened
    }
}

/// Describes which members joined and which left.
fn change_of(before: &Configuration, now: &Configuration) -> String {
    let names = |of: &Configuration, without: &Configuration| {
        let new = of.members.iter().filter(|m| without.name_of(m.replica).is_none());
        new.map(|member| short(&member.name)).collect::<Vec<_>>().join(", ")
    };
    let parts = [("joined", names(now, before)), ("left", names(before, now))];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    let parts: Vec<_> = parts.map(|(what, names)| format!("{names} {what}")).collect();
    match parts.is_empty() {
        true => "the members are the same".to_owned(),
        false => parts.join(", "),
    }
}
