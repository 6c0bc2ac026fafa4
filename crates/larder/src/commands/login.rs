//! `larder login`: a session for this CI job, and what each tool has to be told of it.
//!
//! A job that gets no session goes on without the cache: the tools are told so, a warning is printed, and the exit code is 0.
//! With `--strict` it is not.
//!
//! Always true: a token goes to standard output, or to the file that `GITHUB_ENV` names, and is masked in GitHub's log before. So is the
//! identity token that it was exchanged for.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, ensure};
use larder_client::{Client, ClientOptions};

use crate::cli::{LoginArgs, LoginFormat, Tool};
use crate::config::duration_text;
use crate::identity::{Job, Secret, ServerUrl, session};
use crate::terminal;

use super::whoami::note_if_readable;

pub(super) async fn run(args: LoginArgs) -> anyhow::Result<()> {
    let done = match open_session(&args).await {
        Ok(session) => hand_over(&args, &session),
        Err(error) => hand_over_nothing(&args).and(Err(error)),
    };
    let Err(error) = done else { return Ok(()) };
    if args.strict {
        return Err(error);
    }
    let mark = if std::env::var_os("GITHUB_ACTIONS").is_some() {
        "::warning title=Larder::"
    } else {
        "larder: "
    };
    terminal::note(&format!(
        "{mark}no session, so this build goes on without the remote cache: {error:#}"
    ));
    Ok(())
}

/// A session of this job.
struct Opened {
    server: ServerUrl,
    token: Secret,
    summary: String,
}

fn hand_over(args: &LoginArgs, session: &Opened) -> anyhow::Result<()> {
    let variables = exports(args.tool, Some((&session.server, &session.token)));
    mask(&session.token);
    terminal::note(&session.summary);
    write(args, &variables)
}

/// Keeps a secret out of GitHub's log, whoever prints it later.
fn mask(secret: &Secret) {
    // GitHub reads commands from both outputs; standard output belongs to whoever reads the result.
    if std::env::var_os("GITHUB_ACTIONS").is_some() {
        terminal::note(&format!("::add-mask::{}", secret.expose()));
    }
}

fn hand_over_nothing(args: &LoginArgs) -> anyhow::Result<()> {
    write(args, &exports(args.tool, None))
}

fn write(args: &LoginArgs, variables: &[(&'static str, String)]) -> anyhow::Result<()> {
    if args.github_env {
        append_to_github_env(variables)
    } else {
        Ok(terminal::print(&text(variables, args.tool, args.format)?)?)
    }
}

async fn open_session(args: &LoginArgs) -> anyhow::Result<Opened> {
    ensure!(
        !args.server.trim().is_empty(),
        "which server? pass --server URL, or set LARDER_SERVER"
    );
    let server = ServerUrl::parse(&args.server).map_err(anyhow::Error::msg)?;
    note_if_readable(&server);
    let job = Job::find(|name| std::env::var_os(name)).context(
        "this is no CI job that can say who it is; on GitHub it needs `permissions: id-token: write` (forks have none), \
         elsewhere an identity token in LARDER_ID_TOKEN",
    )?;
    let client = Client::new(ClientOptions::default())?;
    let audience = args.audience.clone().unwrap_or_else(|| server.to_string());
    let identity_token = job.identity_token(&client, &audience).await?;
    mask(&identity_token);
    let scope = args.read_only.then_some("cache:read");
    let given = session::exchange(&client, &server, &identity_token, scope).await?;
    let writes = given.rights.write_scope.as_deref().unwrap_or("nothing");
    let lasts = duration_text(std::time::Duration::from_secs(given.expires_in_secs));
    let summary = format!(
        "larder: a session in the workspace {} for {lasts}: it writes {writes}",
        given.rights.workspace
    );
    Ok(Opened {
        server,
        token: given.token,
        summary,
    })
}

/// A tool's variables. Without a session those that make it do without the cache.
fn exports(tool: Tool, session: Option<(&ServerUrl, &Secret)>) -> Vec<(&'static str, String)> {
    let secret = session.map(|(_, token)| token.expose().to_owned());
    let secret = secret.unwrap_or_default();
    let address = |written: fn(&ServerUrl) -> String| {
        session
            .map(|(server, _)| written(server))
            .unwrap_or_default()
    };
    match tool {
        Tool::Nx => vec![
            (
                "NX_SELF_HOSTED_REMOTE_CACHE_SERVER",
                address(ServerUrl::for_nx),
            ),
            ("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", secret),
        ],
        Tool::Moon => vec![
            ("MOON_REMOTE_HOST", address(ServerUrl::for_grpc)),
            ("LARDER_TOKEN", secret),
        ],
        Tool::Bazel | Tool::Env => vec![
            ("LARDER_SERVER", address(ServerUrl::to_string)),
            ("LARDER_TOKEN", secret),
        ],
    }
}

fn text(
    variables: &[(&'static str, String)],
    tool: Tool,
    format: LoginFormat,
) -> anyhow::Result<String> {
    match format {
        LoginFormat::Sh => {
            let lines = variables.iter().map(|(name, value)| {
                // Nothing that is exported has a quote in it; if ever it had, the shell must not see it.
                format!("export {name}='{}'", value.replace('\'', r"'\''"))
            });
            Ok(lines.collect::<Vec<_>>().join("\n"))
        }
        LoginFormat::Json => {
            let object: serde_json::Map<String, serde_json::Value> = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                .collect();
            Ok(serde_json::to_string_pretty(&object)?)
        }
        LoginFormat::Bazelrc => {
            anyhow::ensure!(
                tool == Tool::Bazel,
                "--format bazelrc goes with --for bazel alone"
            );
            Ok(bazelrc(variables))
        }
    }
}

/// Lines for a `.bazelrc` that is its owner's alone.
fn bazelrc(variables: &[(&'static str, String)]) -> String {
    let value = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let server = ServerUrl::parse(value("LARDER_SERVER"));
    let mut lines = format!(
        "build --remote_cache={}",
        server.map(|server| server.for_grpc()).unwrap_or_default()
    );
    if !value("LARDER_TOKEN").is_empty() {
        write!(
            lines,
            "\nbuild --remote_header=authorization=\"Bearer {}\"",
            value("LARDER_TOKEN")
        )
        .expect("a string takes every write");
    }
    lines
}

/// Sets variables for the later steps of a job on GitHub.
fn append_to_github_env(variables: &[(&'static str, String)]) -> anyhow::Result<()> {
    let file = std::env::var_os("GITHUB_ENV").context(
        "--github-env: there is no GITHUB_ENV here, the file for the variables of later steps",
    )?;
    let lines = variables
        .iter()
        .fold(String::new(), |lines, (name, value)| {
            lines + name + "=" + value + "\n"
        });
    let opened = OpenOptions::new().append(true).create(true).open(&file);
    opened
        .and_then(|mut opened| opened.write_all(lines.as_bytes()))
        .context("cannot write the file that GITHUB_ENV names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tool: Tool, format: LoginFormat, token: Option<&str>, expected: &str) {
        let server = ServerUrl::parse("https://c.example/w/acme").unwrap();
        let token = token.map(|token| Secret::read(token).unwrap());
        let variables = exports(tool, token.as_ref().map(|token| (&server, token)));
        assert_eq!(text(&variables, tool, format).unwrap(), expected);
    }

    #[test]
    fn each_tool_is_told_of_the_session_in_its_own_words() {
        let token = Some("lrd_s_x");
        check(
            Tool::Nx,
            LoginFormat::Sh,
            token,
            "export NX_SELF_HOSTED_REMOTE_CACHE_SERVER='https://c.example/w/acme'\n\
             export NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN='lrd_s_x'",
        );
        check(
            Tool::Moon,
            LoginFormat::Sh,
            token,
            "export MOON_REMOTE_HOST='grpcs://c.example'\nexport LARDER_TOKEN='lrd_s_x'",
        );
        check(
            Tool::Env,
            LoginFormat::Json,
            token,
            "{\n  \"LARDER_SERVER\": \"https://c.example\",\n  \"LARDER_TOKEN\": \"lrd_s_x\"\n}",
        );
        check(
            Tool::Bazel,
            LoginFormat::Bazelrc,
            token,
            "build --remote_cache=grpcs://c.example\n\
             build --remote_header=authorization=\"Bearer lrd_s_x\"",
        );
    }

    #[test]
    fn without_a_session_each_tool_does_without_the_cache() {
        check(
            Tool::Nx,
            LoginFormat::Sh,
            None,
            "export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=''\nexport NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=''",
        );
        check(
            Tool::Moon,
            LoginFormat::Sh,
            None,
            "export MOON_REMOTE_HOST=''\nexport LARDER_TOKEN=''",
        );
        check(
            Tool::Bazel,
            LoginFormat::Bazelrc,
            None,
            "build --remote_cache=",
        );
    }
}
