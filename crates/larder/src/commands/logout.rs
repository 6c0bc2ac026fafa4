//! `larder logout`: ends the session of this job.

use larder_client::{Client, ClientOptions};

use crate::cli::LogoutArgs;
use crate::identity::session;
use crate::terminal;

use super::whoami::{asked, note_if_readable};

/// Ends the session, if there is one. That it could not be ended fails no job: it ends by itself.
pub(super) async fn run(args: LogoutArgs) -> anyhow::Result<()> {
    match end(args).await {
        Ok(true) => terminal::note("larder: the session is over"),
        Ok(false) => terminal::note("larder: there is no session to end"),
        Err(error) => terminal::note(&format!("larder: the session was not ended: {error:#}")),
    }
    Ok(())
}

/// False if there is none.
async fn end(args: LogoutArgs) -> anyhow::Result<bool> {
    let (server, Some(token)) = asked(args.asked, |name| std::env::var(name).ok())? else {
        return Ok(false);
    };
    note_if_readable(&server);
    let client = Client::new(ClientOptions::default())?;
    session::revoke(&client, &server, &token).await?;
    Ok(true)
}
