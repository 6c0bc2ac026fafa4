//! Running other programs, and telling the person who waits for them.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Tells the user something, on standard error and at once.
#[expect(clippy::print_stderr, reason = "the chores' one way to speak")]
pub(crate) fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// Tells what begins, does it, and tells how long it took.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("{what} …"));
    let start = Instant::now();
    let done = work().with_context(|| what.to_owned())?;
    say(&format!(
        "{what}: done in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(done)
}

/// Runs a command that speaks to the user itself.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output; its output appears only in the error when it fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        bail!("{command:?}: {}\n{stdout}{stderr}", output.status);
    }
    Ok(stdout.into_owned())
}

/// The cargo that runs this chore.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where `program` is on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// True where a part that is missing must fail the chore instead of being left out.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Something that could not be installed: an error in CI, elsewhere one line.
pub(crate) fn leave_out(part: &str, how_to_get_it: &str, error: &dyn Display) -> Result<()> {
    if is_ci() {
        bail!("{part} cannot be left out with CI=true: {error}");
    }
    say(&format!(
        "LEFT OUT: {part} ({error}). To have it: {how_to_get_it}"
    ));
    Ok(())
}
