//! Pure: the one rule for the names of replicas.
//!
//! A name is part of host names, paths, log lines and screens. Guarantees that a name which passes
//! needs no escaping in any of them. Does not know which names a cluster has.

/// Longest name of a replica, in bytes: the limit of one label of a host name.
pub const NAME_BYTES_MAX: usize = 63;

/// The error for a text that is not a name of a replica.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no name for a replica; use 1 to {NAME_BYTES_MAX} lower-case letters, digits and \
     hyphens"
)]
pub struct NoName(
    /// The beginning of the text.
    pub String,
);

/// Checks a name.
///
/// # Errors
/// What is wrong with it, in a sentence that is safe to show.
pub fn check(name: &str) -> Result<(), NoName> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(NoName(name.chars().take(NAME_BYTES_MAX).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_needs_no_escaping_anywhere() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for good in ["a", "kvorum-0", "7", &longest] {
            assert_eq!(check(good), Ok(()));
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "A", "a b", "a/b", "..", "a\n", "\u{1b}]0;x\u{7}evil-1", "é", &long] {
            let told = check(bad).unwrap_err().to_string();
            assert!(told.chars().all(|c| !c.is_control()), "{told:?}");
        }
    }
}
