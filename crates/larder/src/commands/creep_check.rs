//! `larder creep-check`: reads the command line and the credentials, has the cache checked, prints the report.
//!
//! Exit codes are an interface for scripts: 0 safe, 1 vulnerable, 2 a command line that cannot be carried out, 3 inconclusive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use http::Uri;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{CreepCheckArgs, CreepProtocol};
use crate::creep::{self, Plan, Protocol, Token, Tokens, Verdict};
use crate::terminal;

/// The most bytes of a file with a token or certificates.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How often the line of progress moves.
const TICK: std::time::Duration = std::time::Duration::from_millis(100);

/// Of a command line that cannot be carried out, as clap has it.
const USAGE: u8 = 2;

pub(super) async fn run(args: CreepCheckArgs) -> anyhow::Result<ExitCode> {
    let bar = progress_bar();
    let plan = plan(&args, &mut io::stdin());
    let report = match plan {
        Ok(plan) => {
            let progress = |what: &str| bar.set_message(what.to_owned());
            creep::check(plan, &progress).await.map_err(Into::into)
        }
        Err(error) => Err(error),
    };
    bar.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            terminal::note(&format!("larder: {error:#}"));
            return Ok(ExitCode::from(USAGE));
        }
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).expect("a report is text, numbers and lists")
    } else {
        creep::text(&report, args.evidence)
    };
    if let Err(error) = terminal::print(&text) {
        // A verdict that nobody could read is none.
        terminal::note(&format!("larder: cannot print the report: {error}"));
        return Ok(ExitCode::from(Verdict::Inconclusive.exit_code()));
    }
    Ok(ExitCode::from(report.verdict.exit_code()))
}

pub(super) fn progress_bar() -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
    let bar = ProgressBar::with_draw_target(None, target)
        .with_style(style.expect("the template is a constant that a test has read"));
    bar.enable_steady_tick(TICK);
    bar
}

fn plan(args: &CreepCheckArgs, stdin: &mut dyn Read) -> anyhow::Result<Plan> {
    let (url, protocol) = target(&args.url, args.protocol, args.instance.as_deref())?;
    ensure!(
        args.insecure_http || !is_plain_and_remote(&url),
        "{url} is another machine without TLS: trunk's credential, which can write what everybody gets, would cross the \
         network readable; check it with https:// or grpcs://, or allow that with --insecure-http"
    );
    let files = [
        &args.trunk_token_file,
        &args.pr_token_file,
        &args.other_pr_token_file,
        &args.reader_token_file,
    ];
    let from_stdin = files
        .iter()
        .filter(|file| file.as_deref() == Some(Path::new("-")));
    ensure!(
        from_stdin.count() <= 1,
        "only one token can come from standard input"
    );
    let mut token =
        |file: &Option<_>, variable| read_token(file.as_deref(), variable, stdin, Token::parse);
    let trunk = token(&args.trunk_token_file, "LARDER_CREEP_TRUNK_TOKEN")?
        .context("trunk's credential is missing: --trunk-token-file or LARDER_CREEP_TRUNK_TOKEN")?;
    let pull_request = token(&args.pr_token_file, "LARDER_CREEP_PR_TOKEN")?.context(
        "the pull request's credential is missing: --pr-token-file or LARDER_CREEP_PR_TOKEN",
    )?;
    let tokens = Tokens {
        trunk,
        pull_request,
        other_pull_request: token(&args.other_pr_token_file, "LARDER_CREEP_OTHER_PR_TOKEN")?,
        reader: token(&args.reader_token_file, "LARDER_CREEP_READER_TOKEN")?,
        header: args.token_header.clone(),
    };
    let extra_roots_pem = match &args.ca_file {
        Some(file) => vec![read_file(file)?],
        None => Vec::new(),
    };
    Ok(Plan {
        url,
        protocol,
        tokens,
        extra_roots_pem,
        pull_requests_write: !args.pr_cannot_write,
        rounds: args.rounds,
        timeout: args.timeout,
    })
}

/// Where to send requests, and what to speak there.
fn target(
    url: &str,
    protocol: CreepProtocol,
    instance: Option<&str>,
) -> anyhow::Result<(String, Protocol)> {
    let uri: Uri = url.parse().context("this is not a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!("a cache's URL begins with http://, https://, grpc:// or grpcs://, and a host");
    };
    ensure!(
        !authority.as_str().contains('@'),
        "a URL is no place for a credential: it goes into a file or a variable"
    );
    ensure!(uri.query().is_none(), "a cache's URL has no question mark");
    let path = uri.path().trim_end_matches('/');
    let (scheme, speaks_grpc) = match scheme {
        "http" | "https" => (scheme, false),
        "grpc" => ("http", true),
        "grpcs" => ("https", true),
        _ => bail!("a cache's URL begins with http://, https://, grpc:// or grpcs://"),
    };
    let reapi = match protocol {
        CreepProtocol::Auto => speaks_grpc,
        CreepProtocol::Reapi => true,
        CreepProtocol::Nx => {
            ensure!(!speaks_grpc, "a cache of Nx is at http:// or https://");
            false
        }
    };
    if !reapi {
        ensure!(
            instance.is_none(),
            "caches of Nx have no instance names; say `--protocol reapi` or grpc://"
        );
        return Ok((format!("{scheme}://{authority}{path}"), Protocol::Nx));
    }
    let in_url = path.trim_start_matches('/');
    ensure!(
        instance.is_none() || in_url.is_empty(),
        "the instance name is in the URL and in --instance"
    );
    let instance = instance.unwrap_or(in_url).to_owned();
    Ok((
        format!("{scheme}://{authority}"),
        Protocol::Reapi { instance },
    ))
}

/// Whether what is sent to `url` crosses a network that is not this machine, and can be read there.
pub(super) fn is_plain_and_remote(url: &str) -> bool {
    let uri: Uri = url.parse().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    uri.scheme_str() != Some("https")
        && !host.eq_ignore_ascii_case("localhost")
        && !address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The token in `file`, or in the environment, as the caller's client reads one.
pub(super) fn read_token<T, E: std::error::Error + Send + Sync + 'static>(
    file: Option<&Path>,
    variable: &str,
    stdin: &mut dyn Read,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> anyhow::Result<Option<T>> {
    let (text, place) = match file {
        Some(file) if file.as_os_str() == OsStr::new("-") => {
            (read_limited(stdin)?, "standard input".to_owned())
        }
        Some(file) => (read_file(file)?, file.display().to_string()),
        None => match std::env::var_os(variable) {
            Some(value) => (value.into_encoded_bytes(), variable.to_owned()),
            None => return Ok(None),
        },
    };
    let text = String::from_utf8_lossy(&text);
    Ok(Some(parse(&text).with_context(|| place)?))
}

pub(super) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let place = || path.display().to_string();
    read_limited(&mut File::open(path).with_context(place)?).with_context(place)
}

pub(super) fn read_limited(source: &mut dyn Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= FILE_BYTES_MAX,
        "more than {FILE_BYTES_MAX} bytes"
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, protocol: CreepProtocol, expected: &str) {
        let found = target(url, protocol, None);
        let found = found.map(|(url, protocol)| match protocol {
            Protocol::Nx => format!("nx {url}"),
            Protocol::Reapi { instance } => format!("reapi {url} {instance:?}"),
        });
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn a_url_says_where_and_what() {
        use CreepProtocol::{Auto, Nx, Reapi};
        check("https://cache.example/", Auto, "nx https://cache.example");
        check("http://h:1/w/acme/", Nx, "nx http://h:1/w/acme");
        check("grpc://h:1", Auto, "reapi http://h:1 \"\"");
        check("grpcs://h/main/x/", Auto, "reapi https://h \"main/x\"");
        check("https://h:443", Reapi, "reapi https://h:443 \"\"");
    }

    #[test]
    fn what_cannot_be_asked_is_refused_and_a_credential_in_it_not_repeated() {
        for url in [
            "cache.example",
            "ftp://h/",
            "/v1",
            "http://u:secret@h/",
            "http://h/?a",
        ] {
            let error = target(url, CreepProtocol::Auto, None).unwrap_err();
            assert!(!format!("{error:#}").contains("secret"), "{error:#}");
        }
        assert!(target("grpc://h", CreepProtocol::Nx, None).is_err());
        assert!(target("http://h", CreepProtocol::Auto, Some("main")).is_err());
        assert!(target("grpc://h/a", CreepProtocol::Auto, Some("b")).is_err());
    }

    #[test]
    fn only_this_machine_may_be_asked_without_tls() {
        for (url, expected) in [
            ("http://cache.example", true),
            ("http://10.0.0.1:9092", true),
            ("http://[2001:db8::1]:9092", true),
            ("http://127.0.0.1.example", true),
            ("https://cache.example", false),
            ("http://127.0.0.1:9092", false),
            ("http://[::1]:9092", false),
            ("http://[::ffff:127.0.0.1]", false),
            ("http://LOCALHOST", false),
        ] {
            assert_eq!(is_plain_and_remote(url), expected, "{url}");
        }
    }

    #[test]
    fn a_token_comes_from_a_file_or_standard_input() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "in-a-file\n").unwrap();
        let mut stdin = &b"from-stdin\n"[..];
        let token = read_token(
            Some(file.path()),
            "LARDER_CREEP_UNSET",
            &mut stdin,
            Token::parse,
        );
        assert_eq!(token.unwrap(), Some(Token::parse("in-a-file").unwrap()));
        let token = read_token(
            Some(Path::new("-")),
            "LARDER_CREEP_UNSET",
            &mut stdin,
            Token::parse,
        );
        assert_eq!(token.unwrap(), Some(Token::parse("from-stdin").unwrap()));
        let token = read_token(None, "LARDER_CREEP_UNSET", &mut stdin, Token::parse);
        assert_eq!(token.unwrap(), None);
        let long = vec![b'a'; 2 * FILE_BYTES_MAX as usize];
        let token = read_token(
            Some(Path::new("-")),
            "LARDER_CREEP_UNSET",
            &mut &*long,
            Token::parse,
        );
        assert!(token.is_err());
    }

    #[test]
    fn the_line_of_progress_can_be_drawn() {
        progress_bar().finish_and_clear();
    }
}
