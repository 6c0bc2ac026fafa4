//! `larder policy test`: what the configuration gives a CI job with these claims, and why.
//!
//! For the CI of one's own configuration as well: with `--expect` the exit code says whether it is what was meant.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use larder_auth::ci::{Explanation, Rules};
use larder_auth::{Claims, JWT_BYTES_MAX};

use crate::cli::{Expectation, PolicyCommand, PolicyTestArgs};
use crate::{place, terminal};

/// The exit code for claims that get nothing. 1 is for everything that goes wrong.
const REFUSED: u8 = 2;
/// The most bytes of a file of claims: more than any identity token has.
const CLAIMS_BYTES_MAX: u64 = 64 << 10;

pub(super) fn run(command: &PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Test(args) => test(args),
    }
}

fn test(args: &PolicyTestArgs) -> anyhow::Result<ExitCode> {
    let settings = place::settings(args.config.as_deref(), &[])?;
    let rules = Rules::new(settings.identity.rules)?;
    let text = read(&args.claims)?;
    let is_jwt = !text.trim_ascii_start().starts_with(b"{");
    let claims = if is_jwt {
        terminal::note(
            "note: the token is decoded; its signature, audience and time are not checked",
        );
        decoded_claims(text.trim_ascii())?
    } else {
        Claims::parse(&text).context("the claims cannot be used")?
    };
    let explanation = rules.explain(&claims);
    let shown: String = explanation
        .to_string()
        .split('\n')
        .map(|line| line.chars().map(terminal::escaped).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n");
    terminal::print(&shown)?;
    let outcome = outcome(&explanation);
    let Some(expected) = args.expect else {
        let code = if outcome == Expectation::Refused {
            REFUSED
        } else {
            0
        };
        return Ok(ExitCode::from(code));
    };
    ensure!(
        outcome == expected,
        "expected {}, and it is {}",
        expected.word(),
        outcome.word()
    );
    Ok(ExitCode::SUCCESS)
}

fn outcome(explanation: &Explanation) -> Expectation {
    match explanation.access() {
        Some(access) if access.kind().writes_trusted() => Expectation::Trusted,
        Some(_) => Expectation::Untrusted,
        None => Expectation::Refused,
    }
}

/// Reads a file of claims; `-` is standard input.
fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin()
            .take(CLAIMS_BYTES_MAX + 1)
            .read_to_end(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(CLAIMS_BYTES_MAX + 1).read_to_end(&mut text))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(
        text.len() as u64 <= CLAIMS_BYTES_MAX,
        "{} has more than {CLAIMS_BYTES_MAX} bytes; give the claims, or the token",
        file.display()
    );
    Ok(text)
}

/// The claims of a JWT, taken at their word.
pub(super) fn decoded_claims(jwt: &[u8]) -> anyhow::Result<Claims> {
    ensure!(
        jwt.len() <= JWT_BYTES_MAX,
        "a token has at most {JWT_BYTES_MAX} bytes"
    );
    let mut parts = jwt.split(|byte| *byte == b'.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        anyhow::bail!("this is neither a JSON object nor a token");
    };
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .ok()
        .context("the token cannot be decoded")?;
    Claims::parse(&claims).context("the token's claims cannot be used")
}
