//! Reaching the store: through the running server, or by opening it here when none runs.
//!
//! Both ways speak the same control API, so a command does not notice the difference.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use larder_model::WorkspaceName;
use larder_protocols::Origin;
use larder_protocols::control::ErrorResponse;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::PlaceArgs;
use crate::config::LogFormat;
use crate::front::{POOLS, REREAD_TOKENS};
use crate::pools::Purpose;
use crate::start::{self, Engine};
use crate::{control_socket, logging, place, pools};

/// The most bytes of an answer that is held in memory: ten thousand scopes with long names.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long a command waits for a server to follow. It follows within a second by itself.
const TOLD_WAIT_MAX: Duration = Duration::from_secs(1);

/// The body of an answer, wherever it comes from.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Who answers the control API.
pub(super) enum Control {
    /// The server that has the data directory.
    Server {
        sender: SendRequest<Full<Bytes>>,
        data_dir: PathBuf,
    },
    /// This process.
    Here(Box<Engine>),
}

impl Control {
    /// Reaches the store of a data directory.
    pub(super) async fn reach(args: &PlaceArgs) -> anyhow::Result<Self> {
        let settings = place::existing(args)?;
        let data_dir = &settings.store.data_dir;
        if let Some(server) = Self::server(data_dir).await? {
            return Ok(server);
        }
        let advice = "it is another command at work, or a server that starts or stops; try again when it is done";
        let lock = start::lock(data_dir, advice)?;
        logging::start(LogFormat::Human, tracing::Level::WARN)?;
        let ledger = place::ledger(data_dir).await?;
        let engine = Engine::open(lock, ledger, &settings, Purpose::Command).await?;
        engine.pools.loaded().await;
        Ok(Self::Here(Box::new(engine)))
    }

    /// The server that has a data directory; `None`: there is none.
    pub(super) async fn server(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let stream = control_socket::connect(data_dir)
            .context("cannot reach the running server; only the user it runs as may")?;
        let Some(stream) = stream else {
            return Ok(None);
        };
        Ok(Some(Self::Server {
            sender: speak(stream).await?,
            data_dir: data_dir.to_owned(),
        }))
    }

    /// Asks for an operation of the control API, and hands back an answer that is a success.
    pub(super) async fn call(
        &mut self,
        method: Method,
        operation: &str,
        message: Bytes,
    ) -> anyhow::Result<Response<AnswerBody>> {
        let path = format!("/v1/control/{operation}");
        self.ask(method, &path, message).await
    }

    /// The same for any path.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        message: Bytes,
    ) -> anyhow::Result<Response<AnswerBody>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "larder")
            .body(Full::new(message))?;
        let response = match self {
            Self::Server { sender, .. } => {
                sender.ready().await.context("the server broke off")?;
                let response = sender.send_request(request).await;
                response
                    .context("the server broke off")?
                    .map(|body| body.map_err(Into::into).boxed_unsync())
            }
            Self::Here(engine) => {
                let response = engine.gateway.handle(request, Origin::ControlSocket).await;
                response.map(|body| body.map_err(Into::into).boxed_unsync())
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let refusal: Result<ErrorResponse, _> = read(response).await;
        anyhow::bail!(
            "{}",
            refusal.map_or_else(|_| format!("the server answered {status}"), |r| r.error)
        )
    }

    /// The pools on disk, of `workspace` or all, that whoever answers does not have open.
    pub(super) async fn unreached(
        &mut self,
        workspace: Option<&str>,
    ) -> anyhow::Result<Vec<String>> {
        let Self::Server { sender, data_dir } = self else {
            return Ok(Vec::new());
        };
        let request = Request::get(POOLS).header(http::header::HOST, "larder");
        let answer = sender.send_request(request.body(Full::new(Bytes::new()))?);
        let answer = answer.await.context("the server broke off")?;
        let open: Vec<String> =
            read(answer.map(|body| body.map_err(Into::into).boxed_unsync())).await?;
        let concerned = pools::on_disk(data_dir).into_keys().filter(|pool| {
            let owner = pool.workspace.as_ref().map(WorkspaceName::as_str);
            owner.is_none() || workspace.is_none() || owner == workspace
        });
        let names = concerned.map(|pool| pool.to_string());
        Ok(names.filter(|name| !open.contains(name)).collect())
    }

    /// Closes what this process opened.
    pub(super) async fn close(self) {
        if let Self::Here(engine) = self {
            let pools = Arc::clone(&engine.pools);
            // A panic in there was printed; there is nothing more to close.
            let _ = tokio::task::spawn_blocking(move || pools.close()).await;
        }
    }
}

/// Tells a running server that tokens have changed, so that the change is in force when the
/// command ends. Without a server there is nobody to tell, and a server that does not answer
/// notices by itself.
pub(super) async fn tokens_changed(data_dir: &Path) {
    let told = async {
        let Some(stream) = control_socket::connect(data_dir)? else {
            return Ok(());
        };
        let request = Request::post(REREAD_TOKENS).header(http::header::HOST, "larder");
        speak(stream)
            .await?
            .send_request(request.body(Full::new(Bytes::new()))?)
            .await?;
        anyhow::Ok(())
    };
    let _ = tokio::time::timeout(TOLD_WAIT_MAX, told).await;
}

async fn speak(stream: UnixStream) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the command; what goes wrong is seen where the answer is read.
    tokio::spawn(connection);
    Ok(sender)
}

/// The whole answer as a message.
pub(super) async fn read<T: DeserializeOwned>(answer: Response<AnswerBody>) -> anyhow::Result<T> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    serde_json::from_slice(&body.to_bytes()).context("the answer is not understood")
}
