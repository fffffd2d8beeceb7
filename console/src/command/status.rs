//! `status`: prints what each replica reports about itself.
//!
//! Guarantees that every replica that answers is shown, even when some belong to another cluster.

use kvorum_protocol::status::{Configuration, Status};

use super::{Context, print_list};
use crate::app::cluster::Cluster;
use crate::app::quorum::Electorate;
use crate::clusters::Split;
use crate::exit::{Exit, Failure};
use crate::output::{self, Said};
use crate::statuses::ask_everybody;

pub async fn status(context: &Context) -> Result<(), Failure> {
    let said = ask_everybody(&context.client).await?;
    let split = Split::of(&said).map(|split| {
        let way_back = context.platform.with_ground(|ground| split.way_back(ground));
        format!("{}. The way back: {way_back}", split.what())
    });
    let json = said.iter().map(|(name, s)| output::status_json(name, s.as_ref().map_err(|w| &**w)));
    print_list(context.global.output, &output::status_table(&said), json.collect())?;
    if let Some(split) = split {
        return Err(Failure::failed(split));
    }
    verdict(&said)
}

/// Checks whether the cluster serves, by the same judgement as before a kill.
fn verdict(said: &[Said]) -> Result<(), Failure> {
    let (ready, members) = majority(said);
    let can_decide = Electorate::of(&Cluster::of(said)).can_decide(None);
    let why = match (can_decide, ready > members / 2) {
        (true, true) => return Ok(()),
        (true, false) => "and a majority is there: it may take a moment",
        (false, _) => "no majority that is linked",
    };
    let message = format!("{ready} of {members} replicas are ready, {why}");
    Err(Failure::new(Exit::Unavailable, message))
}

/// Returns how many members of the newest configuration are ready, and how many there are.
fn majority(said: &[Said]) -> (usize, usize) {
    let statuses = || said.iter().filter_map(|(_, told)| told.as_ref().ok());
    let Some(newest) = statuses().max_by_key(|status| status.configuration.id) else {
        return (0, said.len());
    };
    let Configuration { members, .. } = &newest.configuration;
    let is_member = |status: &&Status| members.iter().any(|member| member.name == status.name);
    let ready = statuses().filter(is_member).filter(|status| status.is_ready).count();
    (ready, members.len())
}
