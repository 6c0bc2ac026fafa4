//! `larder whoami`: what the credential of this environment may do.

use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use larder_client::{Client, ClientOptions};

use crate::cli::{AskedArgs, WhoamiArgs};
use crate::identity::{Secret, ServerUrl, session};
use crate::terminal;

/// The variables of the tools: where one finds its server, and its token. A token is for the server beside it and for no other.
const PAIRS: [(&str, &str); 3] = [
    ("LARDER_SERVER", "LARDER_TOKEN"),
    ("MOON_REMOTE_HOST", "LARDER_TOKEN"),
    (
        "NX_SELF_HOSTED_REMOTE_CACHE_SERVER",
        "NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN",
    ),
];
/// What `-` may bring: the longest identity token, and white space.
const STDIN_BYTES_MAX: u64 = 20 << 10;

pub(super) async fn run(args: WhoamiArgs) -> anyhow::Result<()> {
    let (server, token) = asked(args.asked, |name| std::env::var(name).ok())?;
    note_if_readable(&server);
    let client = Client::new(ClientOptions::default())?;
    let who = session::whoami(&client, &server, token.as_ref()).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&who)?
    } else {
        who.text.chars().map(terminal::escaped).collect()
    };
    Ok(terminal::print(&text)?)
}

/// Says so if whoever is between can read the token.
pub(super) fn note_if_readable(server: &ServerUrl) {
    if server.is_plain_and_remote() {
        terminal::note(
            "larder: note: tokens cross the network unencrypted; give the server's https address",
        );
    }
}

/// The server and the token of a question: those that were given, or a pair of variables that belong together.
pub(super) fn asked(
    args: AskedArgs,
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<(ServerUrl, Option<Secret>)> {
    let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let of_pairs = || {
        PAIRS
            .into_iter()
            .filter(|(server, _)| set(server).is_some())
    };
    let read = |name: &str| {
        let text = set(name).unwrap_or_default();
        ServerUrl::parse(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))
    };
    let token = args.token.as_deref();
    let Some(server) = args.server else {
        let chosen = match token {
            Some(token) => of_pairs().find(|(_, of_pair)| *of_pair == token),
            None => of_pairs().find(|(_, of_pair)| set(of_pair).is_some()),
        };
        let (name, of_pair) = chosen.or_else(|| of_pairs().next()).with_context(|| {
            let names = PAIRS.map(|(server, _)| server).join(" or ");
            format!("which server? pass --server URL, or set {names}")
        })?;
        let server = read(name)?;
        for (other, its) in of_pairs() {
            ensure!(
                its != of_pair || read(other)? == server,
                "{name} and {other} name different servers; pass --server and --token"
            );
        }
        let token = match token {
            Some(given) => Some(given_token(given, set)?),
            None => set(of_pair).as_deref().map(secret).transpose()?,
        };
        return Ok((server, token));
    };
    if let Some(given) = token {
        return Ok((server, Some(given_token(given, set)?)));
    }
    // A token in a variable is for the server of the variable beside it.
    for (name, of_pair) in of_pairs() {
        if let Some(text) = set(of_pair)
            && read(name)? == server
        {
            return Ok((server, Some(secret(&text)?)));
        }
    }
    let stray = PAIRS
        .into_iter()
        .find(|(_, of_pair)| set(of_pair).is_some());
    if let Some((_, stray)) = stray {
        bail!(
            "{stray} is set, and nothing says that it is for {server}; pass --token {stray} if it is"
        );
    }
    Ok((server, None))
}

/// The token from standard input for `-`, or from the variable of a name.
fn given_token(given: &str, set: impl Fn(&str) -> Option<String>) -> anyhow::Result<Secret> {
    if given != "-" {
        let text = set(given).context(
            "--token takes - (standard input) or the name of a variable that is set, never the token itself: \
             every user of this machine could read it in the list of processes",
        )?;
        return secret(&text);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(STDIN_BYTES_MAX)
        .read_to_string(&mut text)
        .context("cannot read the token from standard input")?;
    secret(&text)
}

fn secret(text: &str) -> anyhow::Result<Secret> {
    Secret::read(text).context("the token is empty, or has characters that no token has")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NX: [&str; 2] = [
        "NX_SELF_HOSTED_REMOTE_CACHE_SERVER",
        "NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN",
    ];

    /// Which token goes to which server.
    fn check(given: [Option<&str>; 2], variables: &[(&str, &str)], expected: Option<(&str, &str)>) {
        let args = AskedArgs {
            server: given[0].map(|server| ServerUrl::parse(server).unwrap()),
            token: given[1].map(str::to_owned),
        };
        let asked = asked(args, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let asked = asked.ok().map(|(server, token)| {
            let token = token.map(|token| token.expose().to_owned());
            (server.to_string(), token.unwrap_or_default())
        });
        let expected = expected.map(|(server, token)| (server.to_owned(), token.to_owned()));
        assert_eq!(asked, expected, "{given:?} {variables:?}");
    }

    #[test]
    fn a_token_goes_to_the_server_beside_it_and_to_no_other() {
        let (a, b) = ("https://a.example", "https://b.example");
        let none = [None, None];
        let larder = [("LARDER_SERVER", a), ("LARDER_TOKEN", "t")];
        let moon = [
            ("MOON_REMOTE_HOST", "grpcs://a.example"),
            ("LARDER_TOKEN", "t"),
        ];
        let nx = [(NX[0], b), (NX[1], "n")];
        check(none, &larder, Some((a, "t")));
        check(none, &moon, Some((a, "t")));
        check(none, &nx, Some((b, "n")));
        check(none, &[moon[0], moon[1], nx[0]], Some((a, "t")));
        check(none, &[moon[1], nx[0]], Some((b, "")));
        check(none, &[moon[0], nx[1]], Some((a, "")));
        check(none, &[larder[0], nx[0], nx[1]], Some((b, "n")));
        check(none, &[("LARDER_SERVER", b), moon[0], moon[1]], None);
        check(none, &[larder[1]], None);
        // A server that was typed gets no token that is not for it.
        check([Some(a), None], &larder, Some((a, "t")));
        check([Some(b), None], &larder, None);
        check([Some(a), None], &[larder[1]], None);
        check([Some(a), None], &[], Some((a, "")));
        // Unless that was typed as well.
        check([Some(b), Some("LARDER_TOKEN")], &larder, Some((b, "t")));
        check(
            [None, Some(NX[1])],
            &[larder[0], larder[1], nx[0], nx[1]],
            Some((b, "n")),
        );
        check(
            [None, Some("OTHER")],
            &[larder[0], ("OTHER", "o")],
            Some((a, "o")),
        );
        check([None, Some("OTHER")], &larder, None);
        check([None, Some("lrd_x")], &larder, None);
    }
}
