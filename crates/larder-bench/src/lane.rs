//! One request after the other, each timed: a connection of HTTP/1.1, or one stream's place on a connection of gRPC.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::content::{Blob, Content};
use crate::error::BenchError;
use crate::grpc::{Answer, Grpc};
use crate::http1::Http;
use crate::load::{Phase, Shared};
use crate::messages::{self, method};
use crate::tally::Tally;
use crate::target::{Protocol, Target};

/// The connection of a lane.
pub(crate) enum Client {
    Http(Http),
    Grpc(Grpc),
}

impl Client {
    pub(crate) async fn connect(target: &Arc<Target>) -> Result<Self, BenchError> {
        Ok(match target.protocol {
            Protocol::Reapi => Self::Grpc(Grpc::connect(target).await?),
            Protocol::Nx | Protocol::ReapiHttp | Protocol::Files => {
                Self::Http(Http::connect(target).await?)
            }
        })
    }
}

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// Found, or stored; how many bytes went either way.
    Done(u64),
    /// Not there.
    Miss,
    /// The server would not, and said this.
    Refused(String),
}

/// The request failed and was counted; what was to follow on it makes no sense.
#[derive(Debug)]
pub(crate) struct Halt;

/// One lane.
pub(crate) struct Lane {
    pub(crate) target: Arc<Target>,
    pub(crate) content: Arc<Content>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tally: Rc<RefCell<Tally>>,
    /// `None`: to be made again.
    pub(crate) client: Option<Client>,
    /// When the next request was due, if that is not when it begins.
    pub(crate) due: Option<Instant>,
}

impl Lane {
    /// Reads an entry; whatever bytes come are compared.
    pub(crate) async fn read(&mut self, blob: &Blob) -> Result<Got, Halt> {
        let begun = self.begin().await?;
        let content = self.content.clone();
        let got = match self.client.as_mut() {
            Some(Client::Http(http)) => {
                let path = entry_path(self.target.protocol, blob);
                http.get(&path, &content, blob)
                    .await
                    .map(|status| found(status, blob.size))
            }
            Some(Client::Grpc(grpc)) => {
                let answer = grpc.read(&content, blob).await;
                answer.map(|answer| got(answer, |()| blob.size))
            }
            None => return Err(Halt),
        };
        self.end(begun, got)
    }

    /// Reads an entry that the server has; not to find it is a loss.
    pub(crate) async fn read_stored(&mut self, blob: &Blob) -> Result<Got, Halt> {
        let got = self.read(blob).await?;
        if got == Got::Miss {
            self.tally.borrow_mut().lost += 1;
        }
        Ok(got)
    }

    /// Reads an entry that nobody stored; to find it is wrong.
    pub(crate) async fn read_absent(&mut self, blob: &Blob) -> Result<Got, Halt> {
        let got = self.read(blob).await?;
        if matches!(got, Got::Done(_)) {
            let what = format!("{} was found, which nobody has stored", blob.name);
            return Err(self.fail(BenchError::Wrong(what)));
        }
        Ok(got)
    }

    /// Writes an entry.
    pub(crate) async fn write(&mut self, blob: &Blob) -> Result<Got, Halt> {
        let begun = self.begin().await?;
        let content = self.content.clone();
        let got = match self.client.as_mut() {
            Some(Client::Http(http)) => {
                let path = entry_path(self.target.protocol, blob);
                let status = http.put(&path, &content.pieces(blob)).await;
                status.map(|status| taken(status, blob.size))
            }
            Some(Client::Grpc(grpc)) => {
                let answer = grpc.write(&content, blob).await;
                answer.map(|answer| got(answer, |()| blob.size))
            }
            None => return Err(Halt),
        };
        let got = self.end(begun, got)?;
        if matches!(got, Got::Done(_)) {
            self.tally.borrow_mut().wrote(blob);
        }
        Ok(got)
    }

    /// Asks for an action's result, which must be one with these outputs.
    pub(crate) async fn get_result(
        &mut self,
        action: &Blob,
        outputs: &[Blob],
    ) -> Result<Got, Halt> {
        let begun = self.begin().await?;
        let answer = match self.client.as_mut() {
            Some(Client::Http(http)) => {
                let answer = http.get_whole(&format!("/ac/{}", action.name)).await;
                answer.map(|(status, body)| match found(status, 0) {
                    Got::Done(_) => Answer::Ok(body),
                    Got::Miss => Answer::NotFound,
                    Got::Refused(why) => Answer::Refused(why),
                })
            }
            Some(Client::Grpc(grpc)) => {
                let request = messages::get_result(grpc.instance(), action);
                grpc.unary(method::GET_RESULT, request).await
            }
            None => return Err(Halt),
        };
        let got = answer.and_then(|answer| match answer {
            Answer::Ok(result) => {
                let bytes = result.len() as u64;
                if messages::has_outputs(result, outputs)? {
                    return Ok(Got::Done(bytes));
                }
                let action = &action.name;
                let what = format!("the result of action {action} is not the one that was stored");
                Err(BenchError::Wrong(what))
            }
            Answer::NotFound => Ok(Got::Miss),
            Answer::Refused(why) => Ok(Got::Refused(why)),
        });
        self.end(begun, got)
    }

    /// Stores an action's result.
    pub(crate) async fn put_result(
        &mut self,
        action: &Blob,
        outputs: &[Blob],
    ) -> Result<Got, Halt> {
        let result = messages::action_result(outputs);
        let size = result.len() as u64;
        let begun = self.begin().await?;
        let got = match self.client.as_mut() {
            Some(Client::Http(http)) => {
                let path = format!("/ac/{}", action.name);
                let status = http.put(&path, &[Bytes::from(result)]).await;
                status.map(|status| taken(status, size))
            }
            Some(Client::Grpc(grpc)) => {
                let request = messages::update_result(grpc.instance(), action, &result);
                let answer = grpc.unary(method::UPDATE_RESULT, request).await;
                answer.map(|answer| got(answer, |_| size))
            }
            None => return Err(Halt),
        };
        self.end(begun, got)
    }

    /// Asks which of the blobs in `request` are missing; it must be exactly these.
    pub(crate) async fn find_missing(
        &mut self,
        request: Bytes,
        missing: &[Blob],
    ) -> Result<Got, Halt> {
        let size = request.len() as u64;
        let answer = self.call(method::FIND_MISSING, request, |answer| {
            if messages::names_missing(answer, missing)? {
                return Ok(size);
            }
            let what = "FindMissingBlobs does not name what is missing";
            Err(BenchError::Wrong(what.to_owned()))
        });
        answer.await
    }

    /// Stores blobs in one call.
    pub(crate) async fn batch_update(&mut self, blobs: &[Blob]) -> Result<Got, Halt> {
        let instance = &self.target.instance;
        let request = messages::batch_update(instance, &self.content, blobs);
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        let mut refused = 0;
        let got = self.call(method::BATCH_UPDATE, request, |answer| {
            let stored = messages::stored(answer)?;
            refused = blobs.len() - stored.min(blobs.len());
            Ok(bytes)
        });
        let got = got.await?;
        if refused > 0 {
            let why = format!("{refused} of {} blobs of a batch", blobs.len());
            self.tally.borrow_mut().trouble.get_or_insert(why.clone());
            self.tally.borrow_mut().refused += 1;
            return Ok(Got::Refused(why));
        }
        if matches!(got, Got::Done(_)) {
            for blob in blobs {
                self.tally.borrow_mut().wrote(blob);
            }
        }
        Ok(got)
    }

    /// Reads blobs that the server has in one call.
    pub(crate) async fn batch_read(&mut self, request: Bytes, blobs: &[Blob]) -> Result<Got, Halt> {
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        let content = self.content.clone();
        let mut gone = 0;
        let got = self.call(method::BATCH_READ, request, |answer| {
            gone = messages::read_back(answer, &content, blobs)?;
            Ok(bytes)
        });
        let got = got.await?;
        self.tally.borrow_mut().lost += gone as u64;
        Ok(got)
    }

    /// A gRPC call with one message each way.
    async fn call(
        &mut self,
        method: &'static str,
        request: Bytes,
        check: impl FnOnce(Bytes) -> Result<u64, BenchError>,
    ) -> Result<Got, Halt> {
        let begun = self.begin().await?;
        let Some(Client::Grpc(grpc)) = self.client.as_mut() else {
            let what = format!("{method} is not spoken over HTTP/1.1");
            return Err(self.fail(BenchError::Usage(what)));
        };
        let answer = grpc.unary(method, request).await;
        let got = answer.and_then(|answer| match answer {
            Answer::Ok(message) => check(message).map(Got::Done),
            Answer::NotFound => Ok(Got::Miss),
            Answer::Refused(why) => Ok(Got::Refused(why)),
        });
        self.end(begun, got)
    }

    /// From when the next request counts. A lost connection is made again before that.
    async fn begin(&mut self) -> Result<Instant, Halt> {
        let is_open = match &self.client {
            Some(Client::Http(_)) => true,
            Some(Client::Grpc(grpc)) => grpc.is_open(),
            None => false,
        };
        if !is_open {
            match Client::connect(&self.target).await {
                Ok(client) => self.client = Some(client),
                Err(error) => return Err(self.count_error(&error)),
            }
        }
        Ok(self.due.take().unwrap_or_else(Instant::now))
    }

    fn end(&mut self, begun: Instant, got: Result<Got, BenchError>) -> Result<Got, Halt> {
        let taken = begun.elapsed();
        self.shared.answered();
        let got = match got {
            Ok(got) => got,
            Err(error @ (BenchError::Connection(_) | BenchError::Refused(_))) => {
                self.client = None;
                return Err(self.count_error(&error));
            }
            Err(error) => return Err(self.fail(error)),
        };
        if self.shared.phase() == Phase::Measuring {
            let mut tally = self.tally.borrow_mut();
            tally.latency.record(nanos(taken));
            match &got {
                Got::Done(bytes) => tally.bytes += bytes,
                Got::Miss => tally.misses += 1,
                Got::Refused(_) => tally.refused += 1,
            }
        }
        if let Got::Refused(why) = &got {
            let mut tally = self.tally.borrow_mut();
            tally.trouble.get_or_insert_with(|| why.clone());
        }
        Ok(got)
    }

    fn count_error(&self, error: &BenchError) -> Halt {
        let mut tally = self.tally.borrow_mut();
        tally.errors += 1;
        tally.trouble.get_or_insert_with(|| error.to_string());
        self.shared.broken(error);
        Halt
    }

    fn fail(&self, error: BenchError) -> Halt {
        self.shared.fail(error);
        Halt
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn entry_path(protocol: Protocol, blob: &Blob) -> String {
    match protocol {
        Protocol::Nx => format!("/v1/cache/{}", blob.name),
        Protocol::ReapiHttp => format!("/cas/{}", blob.name),
        Protocol::Files | Protocol::Reapi => format!("/{}", blob.name),
    }
}

/// What an answer to `GET` means.
fn found(status: u16, bytes: u64) -> Got {
    match status {
        200 => Got::Done(bytes),
        404 => Got::Miss,
        status => Got::Refused(format!("status {status}")),
    }
}

/// What an answer to `PUT` means.
fn taken(status: u16, bytes: u64) -> Got {
    match status {
        200..=204 => Got::Done(bytes),
        status => Got::Refused(format!("status {status}")),
    }
}

fn got<T>(answer: Answer<T>, bytes: impl FnOnce(T) -> u64) -> Got {
    match answer {
        Answer::Ok(value) => Got::Done(bytes(value)),
        Answer::NotFound => Got::Miss,
        Answer::Refused(why) => Got::Refused(why),
    }
}
