//! The commands `whoami`, `user`, `role`, `grant` and `revoke`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use kvorum_protocol::access::{
    ADMIN, Access, AccessChange, AccessError, AccessQuery, AccessReport, KeyRange, Right,
    RoleReport, UserReport, VIEW, Whoami, own_role,
};
use kvorum_protocol::authentication::{TOKEN_SECONDS_MAX, hash_password};
use kvorum_protocol::client::Route;
use kvorum_protocol::data::{Operation, Outcome};
use serde_json::{Value as Json, json};

use super::{Context, print, print_list};
use crate::arguments::access::{Grant, Revoke, RoleCommand, UserCommand};
use crate::exit::{Exit, Failure};
use crate::login;

pub async fn whoami(context: &Context) -> Result<(), Failure> {
    let AccessReport::Whoami(own) = ask(context, AccessQuery::Whoami).await? else {
        return Err(nonsense());
    };
    let Whoami { user, roles, is_root, rights } = &own;
    let mut text = match roles.is_empty() {
        true => user.clone(),
        false => format!("{user}, with the roles {}", roles.join(", ")),
    };
    match (is_root, rights.is_empty()) {
        (true, _) => text.push_str("\n  may do everything"),
        (false, true) => text.push_str("\n  may see how the replicas are"),
        (false, false) => rights.iter().for_each(|right| {
            text.push_str("\n  may ");
            text.push_str(&right_line(right));
        }),
    }
    let rights: Vec<Json> = rights.iter().map(right_json).collect();
    let json = json!({ "user": user, "roles": roles, "is_root": is_root, "rights": rights });
    print(context.global.output, &text, &json)
}

pub async fn user(context: &Context, command: UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::List => list_users(context).await,
        UserCommand::Add { user, role: roles } => {
            change(context, AccessChange::AddUser { user: user.clone() }).await?;
            for role in roles {
                let given = AccessChange::GiveRole { user: user.clone(), role: role.clone() };
                attempt(context, given).await?.map_err(|error| {
                    let why =
                        format!("the user {user} was added, without the role {role}: {error}");
                    Failure::new(failure(error).exit, why)
                })?;
            }
            done(context, &format!("added the user {user}"))
        }
        UserCommand::Remove { user } => {
            change(context, AccessChange::RemoveUser { user: user.clone() }).await?;
            done(context, &format!("removed the user {user}"))
        }
        UserCommand::Passwd { user, from, remove } => {
            let hash = match remove {
                true => None,
                false => Some(hash_of(&user, from).await?),
            };
            let text = match remove {
                true => format!("{user} has no password any more"),
                false => format!("{user} has a new password"),
            };
            let secret = rand::random();
            change(context, AccessChange::SetPassword { user, hash, secret }).await?;
            done(context, &text)
        }
        UserCommand::GrantRole { user, role } => {
            let text = format!("{user} has the role {role}");
            change(context, AccessChange::GiveRole { user, role }).await?;
            done(context, &text)
        }
        UserCommand::RevokeRole { user, role } => {
            let text = format!("{user} has the role {role} no more");
            change(context, AccessChange::TakeRole { user, role }).await?;
            done(context, &text)
        }
    }
}

pub async fn role(context: &Context, command: RoleCommand) -> Result<(), Failure> {
    match command {
        RoleCommand::List => list_roles(context).await,
        RoleCommand::Add { role } => {
            change(context, AccessChange::AddRole { role: role.clone() }).await?;
            done(context, &format!("added the role {role}"))
        }
        RoleCommand::Remove { role } => {
            change(context, AccessChange::RemoveRole { role: role.clone() }).await?;
            done(context, &format!("removed the role {role}"))
        }
        RoleCommand::Grant { role, access, keys } => {
            let (range, access) = (keys.range(), Access::from(access));
            let text = format!("{role} may {}", right_text(access, &range));
            change(context, AccessChange::Grant { role, range, access }).await?;
            done(context, &text)
        }
        RoleCommand::Revoke { role, keys } => {
            let range = keys.range();
            let text = format!("{role} has no right to {range} any more");
            change(context, AccessChange::Revoke { role, range }).await?;
            done(context, &text)
        }
    }
}

/// Prints a token for the user of this connection.
pub async fn token(context: &Context, time: Duration) -> Result<(), Failure> {
    let seconds = u32::try_from(time.as_secs()).ok().filter(|seconds| *seconds > 0);
    let seconds = seconds.filter(|seconds| *seconds <= TOKEN_SECONDS_MAX).ok_or_else(|| {
        let most = Duration::from_secs(TOKEN_SECONDS_MAX.into());
        Failure::usage(format!("a token lasts 1s to {}", humantime::format_duration(most)))
    })?;
    match ask(context, AccessQuery::Token { seconds }).await? {
        AccessReport::Token { token, until_us } => {
            let until = SystemTime::UNIX_EPOCH + Duration::from_micros(until_us);
            let until = humantime::format_rfc3339_seconds(until).to_string();
            crate::note::note(format!("it ends at {until}, or when the password changes"));
            let token = token.to_string();
            print(context.global.output, &token, &json!({ "token": token, "until": until }))
        }
        AccessReport::Nothing(error) => Err(failure(error)),
        _ => Err(nonsense()),
    }
}

/// Asks for a password and hashes it, on a thread that may block.
async fn hash_of(user: &str, from: Option<PathBuf>) -> Result<String, Failure> {
    let user = user.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let password = login::new_password(&user, from.as_deref())?;
        hash_password(&password).map_err(Failure::usage)
    });
    hashed.await.unwrap_or_else(|panic| Err(Failure::failed(panic.to_string())))
}

/// Gives a user a right by a role of its own. Makes what is missing.
pub async fn grant(context: &Context, grant: Grant) -> Result<(), Failure> {
    let Grant { user, access, keys } = grant;
    if [ADMIN, VIEW].contains(&user.as_str()) {
        return Err(failure(AccessError::BuiltIn));
    }
    let (range, access, role) = (keys.range(), Access::from(access), own_role(&user));
    let right = AccessChange::Grant { role: role.clone(), range: range.clone(), access };
    right.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let steps = [
        (AccessChange::AddUser { user: user.clone() }, Some(AccessError::UserExists)),
        (AccessChange::AddRole { role: role.clone() }, Some(AccessError::RoleExists)),
        (right, None),
        (AccessChange::GiveRole { user: user.clone(), role }, None),
    ];
    for (step, is_there) in steps {
        match attempt(context, step).await? {
            Err(error) if Some(error) != is_there => return Err(failure(error)),
            _ => {}
        }
    }
    done(context, &format!("{user} may {}", right_text(access, &range)))
}

/// Takes a right from a user's own role.
pub async fn revoke(context: &Context, revoke: Revoke) -> Result<(), Failure> {
    let Revoke { user, keys } = revoke;
    let range = keys.range();
    let text = format!("{user} has no right of its own to {range} any more");
    let revoked = attempt(context, AccessChange::Revoke { role: own_role(&user), range }).await?;
    revoked.map_err(|error| match error {
        AccessError::NoSuchRole => {
            let why = format!("not done: nothing was granted to {user} by 'kvorum grant'");
            Failure::new(Exit::NotFound, why)
        }
        error => failure(error),
    })?;
    done(context, &text)
}

async fn list_users(context: &Context) -> Result<(), Failure> {
    let AccessReport::Users(users) = ask(context, AccessQuery::Users).await? else {
        return Err(nonsense());
    };
    let mut table = table(["USER", "ROLES", "PASSWORD"]);
    for UserReport { user, roles, has_password } in &users {
        let password = if *has_password { "yes" } else { "" };
        table.add_row([user, &roles.join(", "), password]);
    }
    let json: Vec<Json> = users
        .iter()
        .map(|UserReport { user, roles, has_password }| {
            json!({ "user": user, "roles": roles, "has_password": has_password })
        })
        .collect();
    list(context, &table, json)
}

async fn list_roles(context: &Context) -> Result<(), Failure> {
    let AccessReport::Roles(roles) = ask(context, AccessQuery::Roles).await? else {
        return Err(nonsense());
    };
    let mut table = table(["ROLE", "MAY"]);
    for RoleReport { role, is_root, rights } in &roles {
        let may = match is_root {
            true => "everything".to_owned(),
            false => rights.iter().map(right_line).collect::<Vec<_>>().join("\n"),
        };
        table.add_row([role, &may]);
    }
    let json = roles.iter().map(|RoleReport { role, is_root, rights }| {
        let rights: Vec<Json> = rights.iter().map(right_json).collect();
        json!({ "role": role, "is_root": is_root, "rights": rights })
    });
    list(context, &table, json.collect())
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    table
}

fn list(context: &Context, table: &Table, json: Vec<Json>) -> Result<(), Failure> {
    let text = table.lines().map(|line| line.trim_end().to_owned());
    print_list(context.global.output, &text.collect::<Vec<_>>().join("\n"), json)
}

fn right_line(right: &Right) -> String {
    right_text(right.access, &right.range)
}

fn right_text(access: Access, range: &KeyRange) -> String {
    format!("{access} {range}")
}

fn right_json(right: &Right) -> Json {
    let Right { range, access } = right;
    let mut object = json!({ "access": access.to_string(), "keys": range.to_string() });
    crate::output::put_bytes(&mut object, "from", &range.from);
    if let Some(until) = &range.until {
        crate::output::put_bytes(&mut object, "until", until);
    }
    object
}

async fn ask(context: &Context, query: AccessQuery) -> Result<AccessReport, Failure> {
    Ok(context.client.access(query, &Route::Any).await?)
}

async fn change(context: &Context, change: AccessChange) -> Result<(), Failure> {
    attempt(context, change).await?.map_err(failure)
}

/// Makes a change; returns the reason if it did nothing.
async fn attempt(
    context: &Context,
    change: AccessChange,
) -> Result<Result<(), AccessError>, Failure> {
    change.validate().map_err(|error| Failure::usage(error.to_string()))?;
    match context.client.write(Operation::Access(change), &Route::Any).await? {
        Outcome::AccessChanged => Ok(Ok(())),
        Outcome::AccessUnchanged(error) => Ok(Err(error)),
        _ => Err(nonsense()),
    }
}

fn failure(error: AccessError) -> Failure {
    let exit = match error {
        AccessError::NoName | AccessError::NoRange | AccessError::NoHash => Exit::Usage,
        AccessError::NoPassword => Exit::NotAuthorized,
        AccessError::NoSuchUser
        | AccessError::NoSuchRole
        | AccessError::RoleNotGiven
        | AccessError::NotGranted => Exit::NotFound,
        AccessError::UserExists
        | AccessError::RoleExists
        | AccessError::OwnRole
        | AccessError::BuiltIn
        | AccessError::TooMany => Exit::Failed,
    };
    Failure::new(exit, format!("not done: {error}"))
}

fn nonsense() -> Failure {
    Failure::failed("the answer makes no sense for the request")
}

fn done(context: &Context, text: &str) -> Result<(), Failure> {
    print(context.global.output, text, &json!({ "done": text }))
}
