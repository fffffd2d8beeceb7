//! The proxy on the way to the API server, as `kubectl` chooses it.
//!
//! The kubeconfig's `proxy-url` takes precedence over the environment. Without one, the proxy is
//! the one in `HTTPS_PROXY` (`HTTP_PROXY` for a server without TLS), unless `NO_PROXY` names the
//! server or the server is this machine.

use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;

use crate::exit::Failure;

/// The kinds of proxies.
const SCHEMES: [&str; 4] = ["http://", "https://", "socks5://", "socks5h://"];

/// Sets the proxy of a configuration. Ignores what the library found in the environment: it looks
/// for the proxy, and not for the server, in `NO_PROXY`.
///
/// # Errors
/// When the configured proxy is not a URL.
pub fn set(config: &mut Config, of_cluster: Option<String>) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let host = config.cluster_url.host().unwrap_or_default().to_owned();
    let is_plain = config.cluster_url.scheme_str() == Some("http");
    let port = config.cluster_url.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
    let chosen = choose((&host, port), is_plain, of_cluster, variable);
    if let Some(url) = &chosen
        && !SCHEMES.iter().any(|scheme| url.starts_with(scheme))
    {
        return Err(unusable(url, "it is no proxy of a kind that this program knows"));
    }
    config.proxy_url = match chosen {
        None => None,
        // The name is resolved by the proxy in either case.
        Some(url) => {
            let known = url.replacen("socks5h://", "socks5://", 1);
            Some(known.parse().map_err(|error| unusable(&url, error))?)
        }
    };
    Ok(())
}

fn unusable(url: &str, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!(
        "the proxy '{}' cannot be used: {why}; write it as http://HOST:PORT or \
         socks5://HOST:PORT, in proxy-url of the kubeconfig or in HTTPS_PROXY",
        url.escape_debug()
    ))
}

/// Returns the URL of the proxy for a server, if one is to be used.
fn choose(
    (host, port): (&str, u16),
    is_plain: bool,
    of_cluster: Option<String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let either = |name: &str| set(name).or_else(|| set(&name.to_lowercase()));
    if let Some(url) = of_cluster.filter(|url| !url.is_empty()) {
        return Some(url);
    }
    let bare = host.trim_matches(['[', ']']);
    let is_here = bare == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let url = either(if is_plain { "HTTP_PROXY" } else { "HTTPS_PROXY" }).filter(|_| !is_here)?;
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    // Which proxy does not matter for whether there is to be one: what is not a URL is reported.
    let mut matcher = Matcher::builder().all("http://proxy");
    if let Some(no) = either("NO_PROXY") {
        matcher = matcher.no(entries(&no, port));
    }
    let server = format!("{}://{host}/", if is_plain { "http" } else { "https" }).parse().ok()?;
    matcher.build().intercept(&server).map(|_| url)
}

/// Returns the entries of `NO_PROXY` that apply to a port, in the matcher's syntax: `*.example`
/// becomes `.example`, and an entry for another port is left out.
fn entries(no: &str, port: u16) -> String {
    let entry = |entry: &str| {
        let entry = entry.trim();
        let entry = entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry);
        match entry.rsplit_once(':') {
            // An IPv6 address has more than one colon.
            Some((name, own)) if !name.contains(':') || name.ends_with(']') => {
                (own.parse() == Ok(port)).then(|| name.to_owned())
            }
            _ => Some(entry.to_owned()),
        }
    };
    no.split(',').filter_map(entry).filter(|entry| !entry.is_empty()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_that_which_kubectl_takes() {
        type Case<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a str)], Option<&'a str>);
        let proxy = "http://proxy:3128";
        let cases: [Case; 18] = [
            ("api.example", None, &[], None),
            ("api.example", None, &[("HTTPS_PROXY", proxy)], Some(proxy)),
            ("api.example", None, &[("https_proxy", proxy)], Some(proxy)),
            ("api.example", None, &[("HTTPS_PROXY", "proxy:3128")], Some(proxy)),
            ("api.example", None, &[("HTTPS_PROXY", "")], None),
            ("api.example", None, &[("HTTP_PROXY", proxy)], None),
            ("api.example", None, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "other")], Some(proxy)),
            ("api.example", None, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "api.example")], None),
            ("api.example", None, &[("HTTPS_PROXY", proxy), ("no_proxy", "a, .example")], None),
            ("api.example", None, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "*.example,")], None),
            (
                "api.example",
                None,
                &[("HTTPS_PROXY", proxy), ("NO_PROXY", "api.example:6443")],
                None,
            ),
            (
                "api.example",
                None,
                &[("HTTPS_PROXY", proxy), ("NO_PROXY", "example:1")],
                Some(proxy),
            ),
            ("api.example", None, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "*")], None),
            ("10.1.2.3", None, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "10.0.0.0/8")], None),
            ("11.1.2.3", None, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "10.0.0.0/8")], Some(proxy)),
            ("127.0.0.1", None, &[("HTTPS_PROXY", proxy)], None),
            ("[::1]", None, &[("HTTPS_PROXY", proxy)], None),
            ("api.example", Some("socks5://s:1"), &[("NO_PROXY", "*")], Some("socks5://s:1")),
        ];
        for (host, of_cluster, variables, expected) in cases {
            let variable = |name: &str| {
                let found = variables.iter().find(|(set, _)| *set == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let chosen = choose((host, 6443), false, of_cluster.map(str::to_owned), variable);
            assert_eq!(chosen.as_deref(), expected, "{host} {variables:?}");
        }
    }
}
