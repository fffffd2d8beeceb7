//! Pure: the users of a cluster, their roles and rights, as replicated state.
//!
//! After etcd's model (users have roles, roles have rights over ranges of keys). Guarantees that
//! all replicas that apply the same changes end with the same accounts, that a change happens whole
//! or not at all, and that their size is bounded. The users and roles of the beginning are not kept
//! here, as they never change. Does not judge requests; [`rights`](crate::state::rights) does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kvorum_protocol::access::{
    ACCESS_BYTES_MAX, ADMIN, Access, AccessChange, AccessError, KeyRange, ROLE_RANGES_MAX,
    ROLES_MAX, ROOT, Right, RoleReport, USER_ROLES_MAX, USERS_MAX, UserReport, VIEW, check_name,
    check_role, own_role, owner_of,
};
use kvorum_protocol::authentication::HASH_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// The length of the secret by which tokens are made, in bytes.
pub const SECRET_BYTES: usize = 32;

/// The secret by which a cluster's tokens are made.
pub type TokenSecret = [u8; SECRET_BYTES];

/// The approximate number of bytes of a user, a role or a right, beside its names and keys.
const OVERHEAD: usize = 16;

/// All users and roles that were added.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounts {
    users: BTreeMap<String, Account>,
    roles: BTreeMap<String, Role>,
    /// The secret by which tokens are made, from the first password on.
    token_secret: Option<TokenSecret>,
}

/// Shows no hash and no secret.
impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: Vec<_> = self.users.keys().collect();
        write!(f, "Accounts of {users:?}, with roles {:?}", self.roles)
    }
}

/// A user.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Account {
    roles: BTreeSet<String>,
    password: Option<Password>,
}

/// A user's password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password {
    /// Its hash.
    pub hash: String,
    /// The index at which it was set: each one is another one, even if it is the same.
    pub since: u64,
}

/// A role: what is allowed, by range.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Role {
    rights: BTreeMap<KeyRange, Access>,
}

impl Accounts {
    /// Whether nobody was ever added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.roles.is_empty()
    }

    /// Returns the roles of a user; `None` if there is no such user.
    #[must_use]
    pub fn roles_of(&self, user: &str) -> Option<Vec<&str>> {
        match user {
            ADMIN => Some(vec![ROOT]),
            VIEW => Some(vec![VIEW]),
            user => {
                let account = self.users.get(user)?;
                Some(account.roles.iter().map(String::as_str).collect())
            }
        }
    }

    /// Returns what a role allows, by range. The role that has every right has none of its own.
    pub fn rights_of(&self, role: &str) -> impl Iterator<Item = Right> {
        let view = (role == VIEW).then(|| Right { range: KeyRange::all(), access: Access::Read });
        let own = self.roles.get(role).into_iter().flat_map(|role| &role.rights);
        let own = own.map(|(range, access)| Right { range: range.clone(), access: *access });
        view.into_iter().chain(own)
    }

    /// Returns all users, for a client.
    #[must_use]
    pub fn users(&self) -> Vec<UserReport> {
        let names = [ADMIN, VIEW].into_iter().chain(self.users.keys().map(String::as_str));
        let report = |user: &str| {
            let roles = self.roles_of(user).unwrap_or_default();
            let roles = roles.into_iter().map(str::to_owned).collect();
            let has_password = self.password_of(user).is_some();
            UserReport { user: user.to_owned(), roles, has_password }
        };
        names.map(report).collect()
    }

    /// Returns all roles, for a client.
    #[must_use]
    pub fn roles(&self) -> Vec<RoleReport> {
        let names = [ROOT, VIEW].into_iter().chain(self.roles.keys().map(String::as_str));
        let report = |role: &str| RoleReport {
            role: role.to_owned(),
            is_root: role == ROOT,
            rights: self.rights_of(role).collect(),
        };
        names.map(report).collect()
    }

    /// Returns a user's password, if it has one.
    #[must_use]
    pub fn password_of(&self, user: &str) -> Option<&Password> {
        self.users.get(user)?.password.as_ref()
    }

    /// Returns the secret by which tokens are made.
    #[must_use]
    pub fn token_secret(&self) -> Option<&TokenSecret> {
        self.token_secret.as_ref()
    }

    /// Returns the accounts after a change, which is the entry of an index.
    ///
    /// # Errors
    /// The reason why the change does nothing.
    pub fn after(&self, index: u64, change: &AccessChange) -> Result<Self, AccessError> {
        let mut next = self.clone();
        next.change(index, change)?;
        match next.is_bounded() {
            true => Ok(next),
            // What takes something away is never too much.
            false if next.bytes() <= self.bytes() => Ok(next),
            false => Err(AccessError::TooMany),
        }
    }

    fn change(&mut self, index: u64, change: &AccessChange) -> Result<(), AccessError> {
        change.validate()?;
        match change {
            AccessChange::AddUser { user } => {
                // The cluster's own names are taken.
                let is_new = ![ADMIN, VIEW, ROOT].contains(&user.as_str());
                add(&mut self.users, user, is_new, AccessError::UserExists)
            }
            AccessChange::AddRole { role } => {
                if let Some(owner) = owner_of(role) {
                    self.user(owner)?;
                }
                let is_new = ![ROOT, VIEW].contains(&role.as_str());
                add(&mut self.roles, role, is_new, AccessError::RoleExists)
            }
            AccessChange::RemoveUser { user } => {
                self.user(user)?;
                self.users.remove(user);
                // Or a user of that name, added later, would begin with it.
                self.roles.remove(&own_role(user));
                Ok(())
            }
            AccessChange::RemoveRole { role } => {
                self.role(role)?;
                self.roles.remove(role);
                for account in self.users.values_mut() {
                    account.roles.remove(role);
                }
                Ok(())
            }
            AccessChange::GiveRole { user, role } => {
                if owner_of(role).is_some_and(|owner| owner != user) {
                    return Err(AccessError::OwnRole);
                }
                if ![ROOT, VIEW].contains(&role.as_str()) {
                    self.role(role)?;
                }
                self.user(user)?.roles.insert(role.clone());
                Ok(())
            }
            AccessChange::TakeRole { user, role } => match self.user(user)?.roles.remove(role) {
                true => Ok(()),
                false => Err(AccessError::RoleNotGiven),
            },
            AccessChange::SetPassword { user, hash, secret } => {
                let password = hash.clone().map(|hash| Password { hash, since: index });
                self.user(user)?.password = password;
                self.token_secret.get_or_insert(*secret);
                Ok(())
            }
            AccessChange::Grant { role, range, access } => {
                self.role(role)?.rights.insert(range.clone(), *access);
                Ok(())
            }
            AccessChange::Revoke { role, range } => {
                let revoked = self.role(role)?.rights.remove(range);
                revoked.map(drop).ok_or(AccessError::NotGranted)
            }
        }
    }

    fn user(&mut self, user: &str) -> Result<&mut Account, AccessError> {
        match user {
            ADMIN | VIEW => Err(AccessError::BuiltIn),
            user => self.users.get_mut(user).ok_or(AccessError::NoSuchUser),
        }
    }

    fn role(&mut self, role: &str) -> Result<&mut Role, AccessError> {
        match role {
            ROOT | VIEW => Err(AccessError::BuiltIn),
            role => self.roles.get_mut(role).ok_or(AccessError::NoSuchRole),
        }
    }

    /// Returns the approximate number of bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let account = |(name, account): (&String, &Account)| {
            let roles = account.roles.iter().map(|role| OVERHEAD + role.len()).sum::<usize>();
            let password = account.password.as_ref().map_or(0, |own| OVERHEAD + own.hash.len());
            OVERHEAD + name.len() + roles + password
        };
        let role = |(name, role): (&String, &Role)| {
            let rights = role.rights.keys().map(|range| OVERHEAD + range.bytes()).sum::<usize>();
            OVERHEAD + name.len() + rights
        };
        self.users.iter().map(account).sum::<usize>() + self.roles.iter().map(role).sum::<usize>()
    }

    fn is_bounded(&self) -> bool {
        self.users.len() <= USERS_MAX
            && self.roles.len() <= ROLES_MAX
            && self.users.values().all(|account| account.roles.len() <= USER_ROLES_MAX)
            && self.roles.values().all(|role| role.rights.len() <= ROLE_RANGES_MAX)
            && self.bytes() <= ACCESS_BYTES_MAX
    }

    /// Whether accounts that a peer sent could have come about by changes.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let is_name = |name: &String| check_name(name).is_ok();
        let are_roles = |account: &Account| {
            let is_role = |role: &String| {
                [ROOT, VIEW].contains(&role.as_str()) || self.roles.contains_key(role)
            };
            account.roles.iter().all(is_role)
        };
        let are_ranges = |role: &Role| role.rights.keys().all(|range| range.validate().is_ok());
        let is_hash = |account: &Account| {
            account.password.as_ref().is_none_or(|own| own.hash.len() <= HASH_BYTES_MAX)
        };
        self.is_bounded()
            && self.users.values().all(is_hash)
            && self.users.keys().all(is_name)
            && self.roles.keys().all(|role| check_role(role).is_ok())
            && self.users.values().all(are_roles)
            && self.roles.values().all(are_ranges)
    }
}

fn add<V: Default>(
    to: &mut BTreeMap<String, V>,
    name: &str,
    is_free: bool,
    otherwise: AccessError,
) -> Result<(), AccessError> {
    if !is_free || to.contains_key(name) {
        return Err(otherwise);
    }
    to.insert(name.to_owned(), V::default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> AccessChange {
        AccessChange::AddUser { user: name.to_owned() }
    }

    fn role(name: &str) -> AccessChange {
        AccessChange::AddRole { role: name.to_owned() }
    }

    fn give(user: &str, role: &str) -> AccessChange {
        AccessChange::GiveRole { user: user.to_owned(), role: role.to_owned() }
    }

    fn grant(role: &str, number: usize) -> AccessChange {
        let range = KeyRange::prefix(format!("{number}").as_bytes());
        AccessChange::Grant { role: role.to_owned(), range, access: Access::Read }
    }

    fn after(changes: &[AccessChange]) -> Accounts {
        let apply = |accounts: Accounts, change| accounts.after(1, change).expect("it can be done");
        changes.iter().fold(Accounts::default(), apply)
    }

    #[test]
    fn each_change_does_what_it_says_or_nothing() {
        let begun = after(&[user("app"), role("apps"), give("app", "apps"), grant("apps", 1)]);
        let named = |name: &str| name.to_owned();
        let revoke = |number: usize| AccessChange::Revoke {
            role: named("apps"),
            range: KeyRange::prefix(format!("{number}").as_bytes()),
        };
        let table = [
            (user("app"), Err(AccessError::UserExists)),
            (user(ADMIN), Err(AccessError::UserExists)),
            (user(ROOT), Err(AccessError::UserExists)),
            (role("apps"), Err(AccessError::RoleExists)),
            (role(VIEW), Err(AccessError::RoleExists)),
            (user("a b"), Err(AccessError::NoName)),
            (give("app", "none"), Err(AccessError::NoSuchRole)),
            (give("none", "apps"), Err(AccessError::NoSuchUser)),
            (give(VIEW, ROOT), Err(AccessError::BuiltIn)),
            (give("app", ROOT), Ok(())),
            (grant(ROOT, 1), Err(AccessError::BuiltIn)),
            (grant("none", 1), Err(AccessError::NoSuchRole)),
            (revoke(1), Ok(())),
            (revoke(2), Err(AccessError::NotGranted)),
            (AccessChange::RemoveUser { user: named(ADMIN) }, Err(AccessError::BuiltIn)),
            (AccessChange::RemoveUser { user: named("app") }, Ok(())),
            (AccessChange::RemoveRole { role: named(VIEW) }, Err(AccessError::BuiltIn)),
            (
                AccessChange::TakeRole { user: named("app"), role: named(ROOT) },
                Err(AccessError::RoleNotGiven),
            ),
            (AccessChange::TakeRole { user: named("app"), role: named("apps") }, Ok(())),
        ];
        for (change, expected) in table {
            let changed = begun.after(1, &change);
            assert_eq!(
                changed.as_ref().map(|_| ()).map_err(|error| *error),
                expected,
                "{change:?}"
            );
            assert!(
                changed.is_ok_and(|next| next.is_valid() && next != begun) || expected.is_err()
            );
        }
    }

    #[test]
    fn a_role_that_is_removed_is_taken_from_its_users() {
        let begun = after(&[user("app"), role("apps"), give("app", "apps"), grant("apps", 1)]);
        let removed = begun.after(1, &AccessChange::RemoveRole { role: "apps".to_owned() });
        let again = removed.and_then(|next| next.after(1, &role("apps"))).expect("it can be done");
        assert_eq!(again.roles_of("app"), Some(vec![]), "a role of that name is another one");
        assert_eq!(again.rights_of("apps").count(), 0);
    }

    #[test]
    fn a_users_own_role_is_of_nobody_else_and_goes_with_it() {
        let own = own_role("app");
        let begun = after(&[user("app"), user("other"), role(&own), give("app", &own)]);
        let begun = begun.after(1, &grant(&own, 1)).expect("it can be done");
        let taken = begun.after(1, &give("other", &own));
        assert_eq!(taken.map(drop), Err(AccessError::OwnRole));
        let nobodys = begun.after(1, &role(&own_role("nobody")));
        assert_eq!(nobodys.map(drop), Err(AccessError::NoSuchUser));
        let gone = begun.after(1, &AccessChange::RemoveUser { user: "app".to_owned() });
        let again = gone.and_then(|gone| gone.after(1, &user("app"))).expect("it can be done");
        let anew = again.after(1, &role(&own)).and_then(|next| next.after(1, &give("app", &own)));
        assert_eq!(anew.expect("it can be done").rights_of(&own).count(), 0);
    }

    #[test]
    fn their_size_is_bounded() {
        type Change = fn(usize) -> AccessChange;
        let table: [(Change, usize); 4] = [
            (|number| user(&format!("u{number}")), USERS_MAX - 1),
            (|number| role(&format!("r{number}")), ROLES_MAX - 1),
            (|number| grant("apps", number), ROLE_RANGES_MAX),
            (
                |number| AccessChange::Grant {
                    role: "apps".to_owned(),
                    range: KeyRange::one(format!("{number:04096}").as_bytes()),
                    access: Access::Write,
                },
                ACCESS_BYTES_MAX / (2 * 4096 + 1 + OVERHEAD),
            ),
        ];
        for (change, most) in table {
            let mut accounts = after(&[user("app"), role("apps"), give("app", "apps")]);
            let mut taken = 0;
            let refused = loop {
                match accounts.after(1, &change(taken)) {
                    Ok(next) => (accounts, taken) = (next, taken + 1),
                    Err(error) => break error,
                }
            };
            assert_eq!((refused, taken), (AccessError::TooMany, most));
            assert!(accounts.is_valid());
        }
    }
}
