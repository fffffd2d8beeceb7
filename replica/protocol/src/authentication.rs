//! Pure: how a client says which user it is, when no certificate does.
//!
//! A password is kept as its Argon2id hash (RFC 9106), and never leaves the client that sets it. A
//! token stands for a password that was checked, for some time. Guarantees that a check takes a
//! bounded amount of memory and time, whatever the hash asks for.

use std::fmt;
use std::str::FromStr;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

use crate::limits::ACCESS_NAME_BYTES_MAX;

/// The memory of a hash, in KiB, its passes and its lanes: of those that OWASP's "Password Storage
/// Cheat Sheet" names, the one with least memory.
const COST: (u32, u32, u32) = (7 * 1024, 5, 1);
/// The memory of a check, in bytes.
pub const CHECK_BYTES: usize = 8 << 20;
/// Longest hash of a password, in bytes.
pub const HASH_BYTES_MAX: usize = 256;
/// Longest password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 256;
/// The longest time for which a token is valid, in seconds.
pub const TOKEN_SECONDS_MAX: u32 = 24 * 60 * 60;

/// What a client brings to a handshake.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authentication {
    /// A token.
    Token(Token),
    /// A user's password.
    Password {
        /// The user.
        user: String,
        /// Its password.
        password: String,
    },
}

impl Authentication {
    /// Returns it as a handshake carries it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data serializes into memory")
    }

    /// Reads it from a handshake; `None` when it is not one, or longer than it may be.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (read, []) = postcard::take_from_bytes(bytes).ok()? else { return None };
        let is_bounded = match &read {
            Self::Token(token) => token.0.len() <= TOKEN_BYTES_MAX,
            Self::Password { user, password } => {
                user.len() <= ACCESS_NAME_BYTES_MAX && password.len() <= PASSWORD_BYTES_MAX
            }
        };
        is_bounded.then_some(read)
    }
}

/// Shows nothing that is secret.
impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::Password { user, .. } => write!(f, "Password of {user}"),
        }
    }
}

/// A token: bytes that only the replicas can make and read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token of {} bytes", self.0.len())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is no token: one has hexadecimal digits, as 'kvorum token' printed them")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let digits = text.as_bytes();
        if digits.is_empty()
            || digits.len() > 2 * TOKEN_BYTES_MAX
            || !digits.len().is_multiple_of(2)
        {
            return Err(NoToken);
        }
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok().filter(|text| !text.starts_with('+'))?;
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        bytes.map(Self).ok_or(NoToken)
    }
}

/// The reason why nobody knows who a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Unauthenticated {
    /// It shows no certificate, and brings nothing else.
    #[error(
        "it wants to know who this is, and this program has neither a certificate nor a token nor \
         a password; give it one with --tls-dir, --token-file or --user"
    )]
    Nothing,
    /// What it brings is none of what it may bring.
    #[error("what this program says of its user is nothing that it understands")]
    Malformed,
    /// The user, or the password, is not right.
    #[error("the user or the password is wrong")]
    Password,
    /// The token was not made here, or not for the user's password as it is now.
    #[error("the token is not valid any more, or never was; get a new one by 'kvorum token'")]
    Token,
    /// The token's time is over.
    #[error("the token's time is over; get a new one by 'kvorum token'")]
    TokenOver,
    /// Too many passwords wait to be checked.
    #[error("too many passwords wait to be checked; try again in a moment")]
    Busy,
}

fn argon2() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).expect("the constants are allowed");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Hashes a password with a new salt. Takes some hundredth of a second, and [`CHECK_BYTES`].
///
/// # Errors
/// When it is empty or longer than [`PASSWORD_BYTES_MAX`], in a sentence.
pub fn hash_password(password: &str) -> Result<String, String> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes"));
    }
    let salt = SaltString::generate(&mut OsRng);
    let hashed = argon2().hash_password(password.as_bytes(), &salt);
    hashed.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Whether a password is that of a hash. A hash that would take more than [`CHECK_BYTES`], or much
/// longer than one that [`hash_password`] made, is that of no password.
#[must_use]
pub fn is_password(password: &str, hash: &str) -> bool {
    let (memory, passes, lanes) = COST;
    let Ok(parsed) = PasswordHash::new(hash) else { return false };
    let Ok(params) = Params::try_from(&parsed) else { return false };
    let is_cheap =
        params.m_cost() <= memory && params.t_cost() <= passes && params.p_cost() <= lanes;
    is_cheap && argon2().verify_password(password.as_bytes(), &parsed).is_ok()
}

/// Takes as long as a check of a password: so that nobody learns from the time of an answer whether
/// there is such a user.
pub fn pretend_check(password: &str) {
    let mut into = [0; 32];
    let _ = argon2().hash_password_into(password.as_bytes(), b"no user of that name", &mut into);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_that_of_its_hash_and_of_no_other() {
        let (hash, again) = (hash_password("secret").unwrap(), hash_password("secret").unwrap());
        assert_ne!(hash, again, "each has a salt of its own");
        assert!(hash.len() <= HASH_BYTES_MAX, "{hash}");
        assert!(is_password("secret", &hash) && is_password("secret", &again));
        for wrong in ["", "Secret", "secret ", "secre"] {
            assert!(!is_password(wrong, &hash), "{wrong}");
        }
        assert!(hash_password("").is_err());
        assert!(hash_password(&"x".repeat(PASSWORD_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_hash_that_costs_too_much_is_of_no_password() {
        let expensive = "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHRzYWx0$\
                         CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(!is_password("password", expensive));
        let slow = expensive.replace("m=4194304,t=1", "m=64,t=1000000000");
        assert!(!is_password("password", &slow));
        assert!(!is_password("password", "") && !is_password("", "$argon2id$"));
    }

    #[test]
    fn tokens_are_read_as_they_are_shown() {
        let token = Token(vec![0, 15, 255]);
        assert_eq!(token.to_string(), "000fff");
        assert_eq!("000fff".parse(), Ok(token));
        for wrong in ["", "0", "0g", "+1", "é", &"00".repeat(TOKEN_BYTES_MAX + 1)] {
            assert_eq!(wrong.parse::<Token>(), Err(NoToken), "{wrong}");
        }
    }

    #[test]
    fn what_a_handshake_carries_is_read_whole_or_not_at_all() {
        let (user, password) = ("app".to_owned(), "secret".to_owned());
        let all = [
            Authentication::Token(Token(vec![7; TOKEN_BYTES_MAX])),
            Authentication::Password { user: user.clone(), password },
        ];
        for one in all {
            let bytes = one.to_bytes();
            assert_eq!(Authentication::read(&bytes).as_ref(), Some(&one));
            assert!(!format!("{one:?}").contains("secret"));
            for cut in 0..bytes.len() {
                assert_eq!(Authentication::read(&bytes[..cut]), None);
            }
            assert_eq!(Authentication::read(&[&bytes[..], &[0]].concat()), None);
        }
        let long = Authentication::Token(Token(vec![7; TOKEN_BYTES_MAX + 1]));
        assert_eq!(Authentication::read(&long.to_bytes()), None);
        let password = "x".repeat(PASSWORD_BYTES_MAX + 1);
        let long = Authentication::Password { user, password };
        assert_eq!(Authentication::read(&long.to_bytes()), None);
    }
}
