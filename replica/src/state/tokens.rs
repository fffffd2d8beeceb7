//! Pure: tokens, by which a user is known for some time without its password.
//!
//! A token names its user, the index at which that user's password was set, and the time at which
//! it ends, under an HMAC-SHA-256 (RFC 2104) by a secret of the cluster. Guarantees that nobody but
//! a replica can make one, that every replica can check one, and that a token ends with its time,
//! with its user, and with the password.

use kvorum_protocol::authentication::{Token, Unauthenticated};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::state::accounts::{Accounts, TokenSecret};

/// The length of a tag, in bytes.
const TAG_BYTES: usize = 32;

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub user: String,
    /// The index at which the user's password was set.
    pub since: u64,
    /// The time at which the token ends, in microseconds since 1970.
    pub until_us: u64,
}

/// Makes a token.
#[must_use]
pub fn issue(secret: &TokenSecret, claims: &Claims) -> Token {
    let mut bytes = postcard::to_stdvec(claims).expect("plain data serializes into memory");
    let tag = hmac::sign(&key(secret), &bytes);
    bytes.extend_from_slice(tag.as_ref());
    Token(bytes)
}

/// Checks a token, by the accounts and the time of now.
///
/// # Errors
/// When it is not valid, or not any more.
pub fn check(accounts: &Accounts, token: &Token, now_us: u64) -> Result<Claims, Unauthenticated> {
    let read = || {
        let secret = accounts.token_secret()?;
        let (claims, tag) = token.0.split_at_checked(token.0.len().checked_sub(TAG_BYTES)?)?;
        hmac::verify(&key(secret), claims, tag).ok()?;
        postcard::from_bytes::<Claims>(claims).ok()
    };
    let claims = read().ok_or(Unauthenticated::Token)?;
    let password = accounts.password_of(&claims.user).ok_or(Unauthenticated::Token)?;
    match (password.since == claims.since, now_us < claims.until_us) {
        (false, _) => Err(Unauthenticated::Token),
        (true, false) => Err(Unauthenticated::TokenOver),
        (true, true) => Ok(claims),
    }
}

fn key(secret: &TokenSecret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::accounts::SECRET_BYTES;
    use kvorum_protocol::access::AccessChange;

    const NOW: u64 = 1_000;
    const SECRET: TokenSecret = [7; SECRET_BYTES];

    fn accounts(changes: &[(u64, AccessChange)]) -> Accounts {
        let apply = |accounts: Accounts, (index, change): &(u64, AccessChange)| {
            accounts.after(*index, change).expect("it can be done")
        };
        changes.iter().fold(Accounts::default(), apply)
    }

    fn add() -> AccessChange {
        AccessChange::AddUser { user: "app".to_owned() }
    }

    fn set(secret: TokenSecret) -> AccessChange {
        let hash = Some("hash".to_owned());
        AccessChange::SetPassword { user: "app".to_owned(), hash, secret }
    }

    #[test]
    fn a_token_ends_with_its_time_its_password_and_its_user() {
        let begun = accounts(&[(1, add()), (2, set(SECRET))]);
        let claims = Claims { user: "app".to_owned(), since: 2, until_us: NOW };
        let token = issue(&SECRET, &claims);
        assert_eq!(check(&begun, &token, NOW - 1), Ok(claims.clone()));
        assert_eq!(check(&begun, &token, NOW), Err(Unauthenticated::TokenOver));
        let changed = begun.after(3, &set([8; SECRET_BYTES])).expect("it can be done");
        assert_eq!(changed.token_secret(), Some(&SECRET), "the first one stays");
        let removed = AccessChange::RemoveUser { user: "app".to_owned() };
        let gone = begun.after(3, &removed).expect("it can be done");
        let again = gone.after(4, &add()).expect("it can be done");
        let anew = again.after(5, &set(SECRET)).expect("it can be done");
        for later in [changed, gone, again, anew, Accounts::default()] {
            assert_eq!(check(&later, &token, 0), Err(Unauthenticated::Token));
        }
        let others = issue(&[8; SECRET_BYTES], &claims);
        assert_eq!(check(&begun, &others, 0), Err(Unauthenticated::Token));
    }

    #[test]
    fn no_bit_of_a_token_may_change() {
        let begun = accounts(&[(1, add()), (2, set(SECRET))]);
        let token = issue(&SECRET, &Claims { user: "app".to_owned(), since: 2, until_us: NOW });
        for bit in 0..token.0.len() * 8 {
            let mut changed = token.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&begun, &changed, 0), Err(Unauthenticated::Token), "bit {bit}");
        }
        for length in 0..token.0.len() {
            let cut = Token(token.0[..length].to_vec());
            assert_eq!(check(&begun, &cut, 0), Err(Unauthenticated::Token), "{length}");
        }
    }
}
