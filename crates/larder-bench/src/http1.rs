//! HTTP/1.1 as cheap as it can be: one connection, requests rendered by hand, bodies compared where they arrive.
//!
//! It takes answers with a `content-length`; an answer in chunks is an error of the run, because no cache measured so far has any
//! for the requests that are sent here.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::content::{Blob, Content};
use crate::error::BenchError;
use crate::socket::Socket;
use crate::target::Target;

/// The head of an answer; more is none of a cache.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What is read at once: enough that the calls to the kernel do not count, and no more than an answer has, because there can be
/// thousands of connections.
const READ_BYTES_MIN: usize = HEAD_BYTES_MAX + (1 << 10);
const READ_BYTES_MAX: usize = 256 << 10;

/// Bodies up to here are sent in one piece with their head.
const COPY_BYTES_MAX: u64 = 64 << 10;

/// The largest body that is taken without being compared as it comes: an action result, an error.
const WHOLE_BYTES_MAX: u64 = 64 << 20;

/// One connection, made again when the server closed it.
pub(crate) struct Http {
    target: Arc<Target>,
    /// The headers of every request, and the end of the head.
    headers: String,
    socket: Option<Socket>,
    buffer: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
    closes: bool,
}

impl Http {
    pub(crate) async fn connect(target: &Arc<Target>) -> Result<Self, BenchError> {
        let token = target.token.as_ref();
        let authorization = token.map(|token| format!("authorization: {}\r\n", token.header()));
        let headers = format!(
            "host: {}\r\n{}",
            target.authority(),
            authorization.unwrap_or_default()
        );
        Ok(Self {
            target: target.clone(),
            headers,
            socket: Some(Socket::connect(target).await?),
            buffer: Vec::new(),
        })
    }

    /// Gets a body and compares it with the entry it must be. The status; with one that is not 200 nothing was compared.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        content: &Content,
        blob: &Blob,
    ) -> Result<u16, BenchError> {
        let mut is_right = true;
        let compare = |at: u64, chunk: &[u8]| is_right &= content.is_right(blob, at, chunk);
        let request = self.request("GET", path, None);
        self.make_room(blob.size);
        let head = self.exchange(request, &[], compare).await?;
        if head.status == 200 && (head.length != blob.size || !is_right) {
            let what = format!(
                "{path} has {} bytes that are not the {} that were stored",
                head.length, blob.size
            );
            return Err(BenchError::Wrong(what));
        }
        Ok(head.status)
    }

    /// Gets a small body as it is.
    pub(crate) async fn get_whole(&mut self, path: &str) -> Result<(u16, Bytes), BenchError> {
        let mut body = Vec::new();
        let request = self.request("GET", path, None);
        let head = self.exchange(request, &[], |_, chunk| body.extend_from_slice(chunk));
        let head = head.await?;
        Ok((head.status, body.into()))
    }

    /// Puts a body. The status.
    pub(crate) async fn put(&mut self, path: &str, pieces: &[Bytes]) -> Result<u16, BenchError> {
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut request = self.request("PUT", path, Some(size));
        let mut rest = pieces;
        if size <= COPY_BYTES_MAX {
            for piece in pieces {
                request.extend_from_slice(piece);
            }
            rest = &[];
        }
        Ok(self.exchange(request, rest, |_, _| ()).await?.status)
    }

    fn make_room(&mut self, body_bytes: u64) {
        let wanted = READ_BYTES_MIN.saturating_add(body_bytes as usize);
        if self.buffer.len() < wanted.min(READ_BYTES_MAX) {
            self.buffer.resize(wanted.min(READ_BYTES_MAX), 0);
        }
    }

    fn request(&self, method: &str, path: &str, length: Option<u64>) -> Vec<u8> {
        let mut head = String::with_capacity(self.headers.len() + path.len() + 128);
        let prefix = &self.target.prefix;
        let written = write!(head, "{method} {prefix}{path} HTTP/1.1\r\n{}", self.headers);
        let written = written.and_then(|()| match length {
            None => write!(head, "accept: application/octet-stream\r\n\r\n"),
            Some(length) => write!(
                head,
                "content-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
            ),
        });
        written.expect("a string takes any text");
        head.into_bytes()
    }

    /// Sends and takes the answer. The connection stays only if all of it went well.
    async fn exchange(
        &mut self,
        request: Vec<u8>,
        rest: &[Bytes],
        mut sink: impl FnMut(u64, &[u8]),
    ) -> Result<Head, BenchError> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::connect(&self.target).await?,
        };
        let broken = BenchError::connection;
        socket.write_all(&request).await.map_err(broken)?;
        for piece in rest {
            socket.write_all(piece).await.map_err(broken)?;
        }
        socket.flush().await.map_err(broken)?;

        self.make_room(0);
        let mut filled = 0;
        let (head, mut start) = loop {
            let count = socket
                .read(&mut self.buffer[filled..])
                .await
                .map_err(broken)?;
            if count == 0 {
                return Err(BenchError::connection("it was closed before the answer"));
            }
            filled += count;
            if let Some(end) = end_of_head(&self.buffer[..filled]) {
                break (parse_head(&self.buffer[..end])?, end);
            }
            if filled > HEAD_BYTES_MAX {
                return Err(BenchError::Refused("an endless head".to_owned()));
            }
        };
        if head.status != 200 && head.length > WHOLE_BYTES_MAX {
            return Err(BenchError::Refused(format!(
                "{} with a huge body",
                head.status
            )));
        }
        let mut taken = 0;
        loop {
            let chunk = &self.buffer[start..filled];
            if chunk.len() as u64 > head.length - taken {
                return Err(BenchError::Wrong(
                    "bytes behind the end of an answer".to_owned(),
                ));
            }
            sink(taken, chunk);
            taken += chunk.len() as u64;
            if taken == head.length {
                break;
            }
            filled = socket.read(&mut self.buffer).await.map_err(broken)?;
            start = 0;
            if filled == 0 {
                return Err(BenchError::connection("it was closed within an answer"));
            }
        }
        if !head.closes {
            self.socket = Some(socket);
        }
        Ok(head)
    }
}

/// Where the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let searched = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let end = searched.windows(4).position(|four| four == b"\r\n\r\n");
    end.map(|end| end + 4)
}

fn parse_head(head: &[u8]) -> Result<Head, BenchError> {
    let refused = |why: &str| BenchError::Refused(format!("an answer {why}"));
    let text = std::str::from_utf8(head).map_err(|_| refused("that is not text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse::<u16>().ok())
        .ok_or_else(|| refused("that is not HTTP/1.1"))?;
    let (mut length, mut closes) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| refused("with a broken length"))?);
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(refused("in chunks"));
        } else if name.eq_ignore_ascii_case("content-encoding") {
            return Err(refused("that is encoded, which was not asked for"));
        }
    }
    let has_body = status != 204 && status != 304;
    let length = match length {
        Some(length) => length,
        None if has_body => return Err(refused("without a length")),
        None => 0,
    };
    Ok(Head {
        status,
        length,
        closes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_whatever_its_letters() {
        let head = b"HTTP/1.1 404 Not Found\r\nContent-LENGTH:  7\r\nConnection: Close\r\n\r\n";
        assert_eq!(end_of_head(head), Some(head.len()));
        assert_eq!(end_of_head(&head[..head.len() - 1]), None);
        let expected = Head {
            status: 404,
            length: 7,
            closes: true,
        };
        assert_eq!(parse_head(head).unwrap(), expected);
        assert_eq!(
            parse_head(b"HTTP/1.1 204 No Content\r\n\r\n")
                .unwrap()
                .length,
            0
        );
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        for head in [
            "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0\r\n\r\n",
        ] {
            assert!(parse_head(head.as_bytes()).is_err(), "{head}");
        }
    }
}
