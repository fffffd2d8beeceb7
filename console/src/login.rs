//! The user that this program is, when no certificate says so: by a token, or by a password.
//!
//! Guarantees that neither is taken from the command line itself, where every user of the machine
//! could read it.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;

use kvorum_protocol::authentication::{Authentication, PASSWORD_BYTES_MAX};

use crate::arguments::Global;
use crate::credentials::Own;
use crate::exit::Failure;

/// The variable with a token.
const TOKEN_VARIABLE: &str = "KVORUM_TOKEN";
/// The variable with a password.
const PASSWORD_VARIABLE: &str = "KVORUM_PASSWORD";
/// Longest file of a token or a password, in bytes.
const FILE_BYTES_MAX: u64 = 8 * 1024;

/// Returns the user that this program is, by what the command line and the environment name.
///
/// # Errors
/// When a file cannot be read, or does not hold what it should.
pub fn own(global: &Global) -> Result<Own, Failure> {
    let tls_dir = global.tls_dir().map(Path::to_owned);
    Ok(Own { tls_dir, authentication: of(global)?.map(Arc::new) })
}

/// Returns what the command line and the environment say; a token before a password.
///
/// # Errors
/// When a file cannot be read, a token is none, or a password is missing.
fn of(global: &Global) -> Result<Option<Authentication>, Failure> {
    let token = match &global.token_file {
        Some(file) => Some(secret_in(file)?),
        None => variable(TOKEN_VARIABLE),
    };
    if let Some(token) = token {
        if global.user.as_ref().is_some_and(|user| !user.is_empty()) {
            return Err(Failure::usage(
                "a token says which user this is already; leave out --user, or the token \
                 (--token-file, KVORUM_TOKEN)",
            ));
        }
        let token = token.parse().map_err(|error| Failure::usage(format!("{error}")));
        return Ok(Some(Authentication::Token(token?)));
    }
    let Some(user) = global.user.clone().filter(|user| !user.is_empty()) else {
        return match &global.password_file {
            Some(_) => Err(Failure::usage("whose password is it? name the user with --user")),
            None => Ok(None),
        };
    };
    let password = match (&global.password_file, variable(PASSWORD_VARIABLE)) {
        (Some(file), _) => secret_in(file)?,
        (None, Some(password)) => password,
        (None, None) => ask(&format!("Password of {user}: "))?,
    };
    Ok(Some(Authentication::Password { user, password: bounded(password)? }))
}

/// Returns a new password: what is in a file, or what is typed twice.
///
/// # Errors
/// When there is none, or what is typed differs.
pub fn new_password(user: &str, file: Option<&Path>) -> Result<String, Failure> {
    if let Some(file) = file {
        return bounded(secret_in(file)?);
    }
    let password = ask(&format!("New password of {user}: "))?;
    match ask("Once more: ")? == password {
        true => bounded(password),
        false => Err(Failure::usage("the two differ; nothing was changed")),
    }
}

fn bounded(password: String) -> Result<String, Failure> {
    match (1..=PASSWORD_BYTES_MAX).contains(&password.len()) {
        true => Ok(password),
        false => Err(Failure::usage(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes"))),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads a secret: the first line of a file, or of standard input for `-`.
fn secret_in(file: &Path) -> Result<String, Failure> {
    let read = || {
        let mut text = String::new();
        match file == Path::new("-") {
            true => std::io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text)?,
            false => File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?,
        };
        std::io::Result::Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let read = read()
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    match read.is_empty() {
        true => Err(Failure::usage(format!("there is nothing in {}", file.display()))),
        false => Ok(read),
    }
}

/// Asks on the terminal, without showing what is typed.
fn ask(question: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "a password is needed, and there is no terminal to ask for it; name a file with \
             --password-file, or set KVORUM_PASSWORD",
        ));
    }
    Ok(rpassword::prompt_password(question)?)
}
