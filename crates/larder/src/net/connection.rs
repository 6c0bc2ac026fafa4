//! One connection: HTTP/1.1 or HTTP/2 on the same port, with or without TLS, one task each.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use larder_protocols::Peer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::gather::GatheringSocket;
use super::handshake::greet;
use super::listener::Listener;
use super::pace::{Ending, InFlight, Pace, PaceLimits, PacedReads, PacedWrites};
use super::seats::{Farewell, Seat};
use super::seldom::seldom;
use super::tls::{self, Tls};
use crate::logging::chain;

/// A request as it comes from the wire.
pub(crate) type Request = http::Request<Incoming>;

/// How long a connection must have been idle to be asked to make room for another: a client that
/// has just been answered is likely to ask again.
pub(super) const SHED_IDLE_MIN: Duration = Duration::from_secs(1);
/// A connection is looked at this often, at least.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// And this often at most.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The bytes of an HTTP/2 client's header list.
const HTTP2_HEADER_BYTES_MAX: u32 = 64 << 10;
/// Requests at a time on one HTTP/2 connection.
const HTTP2_STREAM_COUNT_MAX: u32 = 200;
/// What an HTTP/2 client may send of one body before it is taken: enough for 50 MB/s at a distance of 20 ms.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// And of all bodies of its connection. Bodies that wait for memory are not taken, and must not fill this in front of those that
/// have memory already and free it only when they are complete; so it is many times a stream's.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The bytes of a frame that a client may send. The default of 16 KiB costs twice as much per byte.
const HTTP2_FRAME_BYTES_MAX: u32 = 256 << 10;

/// The headers of a request over HTTP/1.1; more are answered with 431. Clients send about ten.
const HTTP1_HEADER_COUNT_MAX: usize = 100;
/// Streams that an HTTP/2 client has reset before they were looked at. To open streams and reset them at once costs the client
/// nothing (CVE-2023-44487); at this many its connection is ended. Clients that cancel reset what has begun.
const HTTP2_RESET_STREAM_COUNT_MAX: usize = 20;
/// Frames on one connection, in all its life, that the server answers with a reset. Each data frame that is still on its way when a
/// body is no longer wanted is one, if the stream is forgotten already; clients have up to 64 in flight for each stream, and an
/// upload that is answered early must not end the others of its connection. Of a client that reads none of the resets they
/// are all kept, at half a kilobyte each.
const HTTP2_FAULT_FRAME_COUNT_MAX: usize = 8 << 10;
/// What is kept of one HTTP/2 answer until the client's window takes it.
const HTTP2_SEND_BUFFER_BYTES_MAX: usize = 400 << 10;

/// What is spoken on a port.
#[derive(Clone)]
pub(crate) enum Door {
    /// HTTP in the clear.
    Plain,
    /// HTTP in TLS.
    Tls(Arc<Tls>),
}

/// A connection that has been taken.
struct Visit {
    builder: Arc<auto::Builder<TokioExecutor>>,
    seat: Seat,
    pace: Arc<Pace>,
    limits: PaceLimits,
    address: IpAddr,
}

/// Takes connections and answers their requests by `answer`, which is told who is at the other end, until `stop` says so.
/// Connections that are open then go on; [`super::Seats::drain`] ends them.
pub(crate) async fn serve<A, F, B>(
    listener: Listener,
    door: Door,
    limits: PaceLimits,
    mut stop: watch::Receiver<bool>,
    answer: A,
) where
    A: Fn(Request, &Arc<Peer>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Unpin + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let builder = Arc::new(builder());
    loop {
        let (stream, address, seat) = tokio::select! {
            next = listener.next() => next,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let visit = Visit {
            builder: Arc::clone(&builder),
            seat,
            pace: Pace::new(),
            limits,
            // An IPv4 client of a socket for both is an IPv4 client.
            address: address.ip().to_canonical(),
        };
        let answer = answer.clone();
        match &door {
            Door::Plain => tokio::spawn(visit.in_the_clear(stream, answer)),
            Door::Tls(tls) => tokio::spawn(visit.encrypted(stream, Arc::clone(tls), answer)),
        };
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // See the module `pace`. And no `pipeline_flush`: with it hyper collects as much of a body
        // as there is before it writes any.
        .header_read_timeout(None)
        .max_headers(HTTP1_HEADER_COUNT_MAX)
        .http2()
        .timer(TokioTimer::new())
        // The kernel asks after silent machines, and idle connections end after their time: no pings.
        .keep_alive_interval(None)
        .max_concurrent_streams(HTTP2_STREAM_COUNT_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESET_STREAM_COUNT_MAX)
        .max_local_error_reset_streams(HTTP2_FAULT_FRAME_COUNT_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX);
    builder
}

impl Visit {
    async fn in_the_clear<A, F, B>(self, stream: TcpStream, answer: A)
    where
        A: Fn(Request, &Arc<Peer>) -> F,
        F: Future<Output = Response<B>> + Unpin + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = Peer {
            address: self.address,
            encrypted: false,
            certificate: None,
        };
        let socket = PacedWrites {
            socket: stream,
            pace: Arc::clone(&self.pace),
        };
        self.converse(socket, Arc::new(peer), answer).await;
    }

    async fn encrypted<A, F, B>(mut self, stream: TcpStream, tls: Arc<Tls>, answer: A)
    where
        A: Fn(Request, &Arc<Peer>) -> F,
        F: Future<Output = Response<B>> + Unpin + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let greeted = greet(stream, &tls, &self.pace, &self.limits, &mut self.seat).await;
        let Some(socket) = greeted else { return };
        drop(tls);
        let chain = socket.get_ref().1.peer_certificates();
        let own = chain.and_then(<[_]>::first);
        let peer = Peer {
            address: self.address,
            encrypted: true,
            certificate: own.and_then(tls::names),
        };
        self.converse(socket, Arc::new(peer), answer).await;
    }

    async fn converse<S, A, F, B>(self, socket: S, peer: Arc<Peer>, answer: A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn(Request, &Arc<Peer>) -> F,
        F: Future<Output = Response<B>> + Unpin + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self {
            builder,
            mut seat,
            pace,
            limits,
            ..
        } = self;
        let requests = Arc::clone(&pace);
        let service = service_fn(move |request| {
            let in_flight = requests.request();
            Answering {
                answer: answer(request, &peer),
                in_flight: Some(in_flight),
            }
        });
        let socket = PacedReads {
            socket,
            pace: Arc::clone(&pace),
            limits,
        };
        let http2 = Arc::clone(&pace);
        let socket = GatheringSocket::new(socket, move || http2.is_http2());
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        let mut connection = pin!(connection);
        let interval = look_interval(&limits);
        let mut look = pin!(tokio::time::sleep(interval));
        let mut going = false;
        loop {
            let event = async {
                tokio::select! {
                    () = look.as_mut() => Event::Look,
                    farewell = seat.asked_to_go(), if !going => Event::Farewell(farewell),
                }
            };
            let event = tokio::select! {
                // In this order: the connection is what is ready nearly always.
                biased;
                ended = connection.as_mut() => Event::Ended(ended),
                event = seldom(event) => event,
            };
            match event {
                Event::Ended(ended) => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %chain(&*error), "a connection broke");
                    }
                    return;
                }
                Event::Look => {
                    look.as_mut().reset(Instant::now() + interval);
                    match pace.verdict(&limits) {
                        None => continue,
                        Some(Ending::Idle) if !going => {}
                        Some(ending) => {
                            tracing::debug!(?ending, "a connection was closed");
                            return;
                        }
                    }
                }
                Event::Farewell(farewell) => {
                    let spared = |idle| idle < SHED_IDLE_MIN;
                    if farewell == Farewell::Shedding && pace.idle().is_none_or(spared) {
                        continue;
                    }
                }
            }
            going = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// What happens to a connection.
enum Event<E> {
    Ended(Result<(), E>),
    /// It is time to look how it does.
    Look,
    Farewell(Farewell),
}

/// Often enough to notice a timeout soon after it, seldom enough to cost nothing.
fn look_interval(limits: &PaceLimits) -> Duration {
    let shortest = limits
        .header_timeout
        .min(limits.stall_timeout)
        .min(limits.idle_timeout);
    (shortest / 4).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX)
}

/// An answer to come; the request is in flight already.
struct Answering<F> {
    answer: F,
    in_flight: Option<InFlight>,
}

impl<F, B> Future for Answering<F>
where
    F: Future<Output = Response<B>> + Unpin,
{
    type Output = Result<Response<WatchedBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.answer).poll(cx));
        let mut in_flight = self.in_flight.take();
        if let Some(in_flight) = &mut in_flight {
            in_flight.answered();
        }
        Poll::Ready(Ok(response.map(|body| WatchedBody { body, in_flight })))
    }
}

/// An answer's body; the request is in flight as long as it exists.
struct WatchedBody<B> {
    body: B,
    in_flight: Option<InFlight>,
}

impl<B: Body + Unpin> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let (true, Some(in_flight)) = (frame.is_ready(), &self.in_flight) {
            in_flight.moved();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
