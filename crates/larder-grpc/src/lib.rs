//! The wire layer of a gRPC server, without I/O.
//!
//! gRPC is HTTP/2 with a few rules: each message stands behind five bytes, the outcome of a call is in the trailers, a
//! deadline and binary values are in headers. This crate has those rules and nothing else. HTTP/2 is hyper's (or anyone's:
//! the crate only knows [`http`]'s heads and [`bytes::Bytes`]), messages are prost's (or anyone's: here they are bytes), and
//! routing is a `match` on the path. What that buys: a message may be read while it arrives and without a copy, a stored
//! message may be sent as it is, and a server decides itself how patient it is with whom.
//!
//! | on the way in | |
//! |---|---|
//! | [`is_grpc`], [`timeout`], [`binary_metadata`] | what a call's headers say |
//! | [`Unary`] | the one message of a unary call |
//! | [`Messages`] | the messages of a stream, each whole |
//! | [`Deframer`] | the messages of a stream, each as it arrives |
//!
//! | on the way out | |
//! |---|---|
//! | [`response`] | the head of an answer |
//! | [`frame`], [`prefix`] | its messages |
//! | [`Status::trailers`] | its end |
//! | [`Status::response`] | an answer that is only a status |
//!
//! A unary call from its bytes to its answer:
//!
//! ```
//! use bytes::Bytes;
//! use http::{HeaderMap, Response};
//! use larder_grpc::{Code, Status, Unary, frame, response};
//!
//! /// What the body is made of: framed messages, then trailers.
//! type Reply = (Bytes, HeaderMap);
//!
//! fn shout(pieces: &[&'static [u8]]) -> Result<Response<Reply>, Status> {
//!     let mut request = Unary::new(1024);
//!     for piece in pieces {
//!         request.push(Bytes::from_static(piece))?;
//!     }
//!     let message = request.finish()?;
//!     if message.is_empty() {
//!         return Err(Status::new(Code::InvalidArgument, "nothing to shout"));
//!     }
//!     let answer = frame(&message.to_ascii_uppercase());
//!     Ok(response((answer, Status::OK.trailers())))
//! }
//!
//! // HTTP/2 may cut the request anywhere, inside the prefix too.
//! let reply = shout(&[b"\0\0\0", b"\0\x05he", b"llo"])?;
//! assert_eq!(reply.headers()["content-type"], "application/grpc");
//! assert_eq!(reply.body().0, &b"\0\0\0\0\x05HELLO"[..]);
//! assert_eq!(reply.body().1["grpc-status"], "0");
//!
//! // A status without messages goes into the head, and the body is empty.
//! let status = shout(&[b"\0\0\0\0\0"]).unwrap_err();
//! let reply = status.response(());
//! assert_eq!(reply.headers()["grpc-status"], "3");
//! assert_eq!(reply.headers()["grpc-message"], "nothing to shout");
//! # Ok::<(), Status>(())
//! ```
//!
//! # What is not supported
//!
//! - Compressed messages: they are refused with `UNIMPLEMENTED` and the encodings that are accepted, which is none.
//! - Clients, `grpc-web`, message formats other than protobuf.
//! - Deadlines are read, not enforced: only the server knows what it can break off.

#![forbid(unsafe_code)]

mod base64;
mod code;
mod deframe;
mod frame;
mod message;
mod metadata;
mod status;

pub use code::Code;
pub use deframe::{Deframer, Event};
pub use frame::{PREFIX_BYTES, frame, prefix};
pub use message::{Messages, Unary};
pub use metadata::{binary_metadata, is_grpc, timeout};
pub use status::{DETAILS_CHARACTERS_MAX, MESSAGE_CHARACTERS_MAX, Status, response};
