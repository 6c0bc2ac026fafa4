//! `larder verify`: reads every entry again, with a progress bar on a terminal.

use bytes::Bytes;
use http::Method;
use larder_protocols::control::VerifyResponse;

use super::control::Control;
use super::lines;
use crate::cli::VerifyArgs;
use crate::config::size_text;
use crate::terminal;

pub(super) async fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let mut control = Control::reach(&args.place).await?;
    let outcome = verify(&mut control).await;
    control.close().await;
    let VerifyResponse {
        entries,
        bytes,
        corrupt,
    } = outcome?;
    terminal::print(&format!("verified {entries} entries, {}", size_text(bytes)))?;
    if corrupt > 0 {
        anyhow::bail!(
            "{corrupt} entries were damaged; they are misses now and will be built again"
        );
    }
    Ok(())
}

async fn verify(control: &mut Control) -> anyhow::Result<VerifyResponse> {
    let answer = control.call(Method::POST, "verify", Bytes::new()).await?;
    lines::result("verifying", answer).await
}
