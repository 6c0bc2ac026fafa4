//! A small blocking HTTP/1.1 client, with or without TLS, that sends exactly what it is told, also what no decent client would.
//!
//! [`Request`] describes a message, honest or not; [`Connection`] sends bytes at any pace and reads answers one by one, so a
//! test can send half a body and vanish, lie about lengths, pipeline, or hold a connection idle. Every read and every write
//! ends after [`PATIENCE`] at the latest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

#[cfg(feature = "tls")]
use crate::tls::{Client, TlsStream};

/// How long one read or write may take.
pub const PATIENCE: Duration = Duration::from_mins(1);

const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request as bytes, with nothing added that was not asked for except `Host` and, with a body, `Content-Length`.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Length,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    OfBody,
    Claimed(u64),
    Chunked { bytes: usize },
    Unsaid,
}

impl Request {
    /// A request without body; `target` is sent as it is.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            length: Length::Unsaid,
        }
    }

    /// `GET target`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `PUT target` with a body and its true length.
    pub fn put(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("PUT", target).body(body)
    }

    /// A body, with its true `Content-Length` unless something else is said later.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.length = Length::OfBody;
        self
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `Authorization: Bearer token`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Claims this `Content-Length`, whatever the body is.
    #[must_use]
    pub fn claimed_length(mut self, bytes: u64) -> Self {
        self.length = Length::Claimed(bytes);
        self
    }

    /// Sends the body in chunks of `bytes`, with `Transfer-Encoding: chunked`.
    #[must_use]
    pub fn chunked(mut self, bytes: usize) -> Self {
        self.length = Length::Chunked {
            bytes: bytes.max(1),
        };
        self
    }

    /// Says nothing about the length of the body.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.length = Length::Unsaid;
        self
    }

    /// The request line and the headers.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let mut line = |name: &str, value: &str| {
            head.extend([name, ": ", value, "\r\n"]);
        };
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            line("Host", "larder.test");
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        match self.length {
            Length::OfBody => line("Content-Length", &self.body.len().to_string()),
            Length::Claimed(bytes) => line("Content-Length", &bytes.to_string()),
            Length::Chunked { .. } => line("Transfer-Encoding", "chunked"),
            Length::Unsaid => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The whole request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        if let Length::Chunked { bytes: chunk_bytes } = self.length {
            for chunk in self.body.chunks(chunk_bytes) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it came in chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a connection runs over.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(TlsStream),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// One connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Bytes that came after the end of the last answer.
    ahead: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Stream::Plain(stream),
            ahead: Vec::new(),
        })
    }

    /// Connects with TLS.
    #[cfg(feature = "tls")]
    pub fn open_tls(address: SocketAddr, client: &Client) -> Result<Self> {
        Ok(Self {
            stream: Stream::Tls(client.connect(address)?),
            ahead: Vec::new(),
        })
    }

    /// What TLS there is.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsStream> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(stream),
        }
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// Sends these bytes in pieces of `piece_bytes`, with a pause after each.
    pub fn trickle(&mut self, bytes: &[u8], piece_bytes: usize, pause: Duration) -> Result<()> {
        for piece in bytes.chunks(piece_bytes.max(1)) {
            self.send(piece)?;
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Sends a whole request and reads its answer.
    pub fn exchange(&mut self, request: &Request) -> Result<Answer> {
        self.send(&request.bytes())?;
        self.read_answer_to(&request.method)
    }

    /// Reads the next answer, to a request that is not `HEAD`.
    pub fn read_answer(&mut self) -> Result<Answer> {
        self.read_answer_to("GET")
    }

    /// Reads the next answer, to a request of this method. `100 Continue` is skipped.
    pub fn read_answer_to(&mut self, method: &str) -> Result<Answer> {
        loop {
            let (status, headers) = self.read_head()?;
            if status == 100 {
                continue;
            }
            let mut answer = Answer {
                status,
                headers,
                body: Vec::new(),
            };
            if method == "HEAD" || matches!(status, 204 | 304) {
                return Ok(answer);
            }
            answer.body = self.read_body(&answer)?;
            return Ok(answer);
        }
    }

    /// Promises to send no more, but goes on reading.
    pub fn finish_sending(&mut self) -> Result<()> {
        Ok(self.stream.socket().shutdown(Shutdown::Write)?)
    }

    /// Vanishes without a word of farewell: the server sees a reset.
    pub fn reset(self) -> Result<()> {
        Ok(socket2::SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO))?)
    }

    /// True if the server closes the connection within `limit` and sends nothing before it.
    pub fn closes_within(&mut self, limit: Duration) -> Result<bool> {
        self.stream.socket().set_read_timeout(Some(limit))?;
        let read = self.stream.read(&mut [0; 1]);
        self.stream.socket().set_read_timeout(Some(PATIENCE))?;
        match read {
            Ok(0) => Ok(true),
            Ok(_) => bail!("the server sent something instead of closing"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
            // TLS wants to be told of an end, and is not when the server gives up on a client.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads to the end, without making sense of it; false if the server does not close the connection within `limit`.
    pub fn read_to_close(&mut self, bytes: &mut Vec<u8>, limit: Duration) -> Result<bool> {
        self.stream.socket().set_read_timeout(Some(limit))?;
        bytes.append(&mut self.ahead);
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Ok(true);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read_head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            ensure!(
                self.ahead.len() < HEAD_BYTES_MAX,
                "the answer's head has no end"
            );
            ensure!(
                self.read_more()? > 0,
                "the server closed the connection before an answer"
            );
        };
        let rest = self.ahead.split_off(end + 4);
        let head = String::from_utf8(std::mem::replace(&mut self.ahead, rest))?;
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').context("a header without colon")?;
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_>>()?;
        Ok((
            status.with_context(|| format!("no status in {status_line:?}"))?,
            headers,
        ))
    }

    fn read_body(&mut self, answer: &Answer) -> Result<Vec<u8>> {
        if let Some(length) = answer.header("content-length") {
            return self.read_exactly(length.parse()?);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            return self.read_chunks();
        }
        while self.read_more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.read_line()?.trim(), 16).context("chunk size")?;
            if size == 0 {
                while !self.read_line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.read_exactly(size)?);
            ensure!(
                self.read_exactly(2)? == b"\r\n",
                "a chunk longer than it said"
            );
        }
    }

    fn read_line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line = self.read_exactly(at + 2)?;
                return Ok(String::from_utf8(line[..at].to_vec())?);
            }
            ensure!(
                self.read_more()? > 0,
                "the server closed the connection inside a line"
            );
        }
    }

    fn read_exactly(&mut self, bytes: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < bytes {
            let got = self.ahead.len();
            ensure!(
                self.read_more()? > 0,
                "the body ended after {got} of {bytes} bytes"
            );
        }
        let rest = self.ahead.split_off(bytes);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    fn read_more(&mut self) -> Result<usize> {
        let mut piece = vec![0; 64 << 10];
        let read = self.stream.read(&mut piece).context("reading")?;
        self.ahead.extend_from_slice(&piece[..read]);
        Ok(read)
    }
}

/// One request on a connection of its own, with TLS.
#[cfg(feature = "tls")]
pub fn exchange_tls(address: SocketAddr, client: &Client, request: &Request) -> Result<Answer> {
    Connection::open_tls(address, client)?.exchange(request)
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, request: &Request) -> Result<Answer> {
    Connection::open(address)?.exchange(request)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What the client makes of `sent`, which a server sends as it is before it closes.
    fn check(sent: &'static [u8], reads: usize) -> Vec<Result<Answer>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(sent).unwrap();
        });
        let mut connection = Connection::open(address).unwrap();
        let answers = (0..reads).map(|_| connection.read_answer()).collect();
        server.join().unwrap();
        answers
    }

    #[test]
    fn pipelined_answers_are_told_apart() {
        let answers = check(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi\
              HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
              HTTP/1.1 404 Not Found\r\nX-Y:  z \r\n\r\nrest",
            3,
        );
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!((answers[0].status, answers[0].text().as_str()), (200, "hi"));
        assert_eq!(
            (answers[1].status, answers[1].text().as_str()),
            (200, "abcde")
        );
        assert_eq!(
            (answers[2].status, answers[2].text().as_str()),
            (404, "rest")
        );
        assert_eq!(answers[2].header("x-y"), Some("z"));
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        for sent in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi".as_slice(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-",
            b"",
        ] {
            assert!(
                check(sent, 1)[0].is_err(),
                "{}",
                String::from_utf8_lossy(sent)
            );
        }
    }

    #[test]
    fn a_request_says_what_it_is_told_and_no_more() {
        let honest = Request::put("//v1/cache/1", "abc").bearer("t");
        assert_eq!(
            String::from_utf8(honest.bytes()).unwrap(),
            "PUT //v1/cache/1 HTTP/1.1\r\nHost: larder.test\r\nAuthorization: Bearer t\r\n\
             Content-Length: 3\r\n\r\nabc"
        );
        let liar = honest.clone().claimed_length(9);
        assert!(
            String::from_utf8(liar.bytes())
                .unwrap()
                .ends_with("Content-Length: 9\r\n\r\nabc")
        );
        let chunked = honest.chunked(2);
        assert!(
            String::from_utf8(chunked.bytes())
                .unwrap()
                .ends_with("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        );
        let silent = Request::get("/").bytes();
        assert_eq!(
            String::from_utf8(silent).unwrap(),
            "GET / HTTP/1.1\r\nHost: larder.test\r\n\r\n"
        );
    }
}
