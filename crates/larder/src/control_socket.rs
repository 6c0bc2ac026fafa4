//! The socket in the data directory through which the operator's commands reach a running
//! server. Whoever may open it is the operator: it has mode 0600.
//!
//! A Unix socket's path has at most 107 bytes. A longer one is bound and connected through the
//! data directory's descriptor in `/proc`.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

const FILE_NAME: &str = "control.sock";
/// What `sockaddr_un` holds, without the closing zero.
const PATH_BYTES_MAX: usize = 107;
/// Commands that wait to be taken.
const BACKLOG: i32 = 64;

/// Binds the socket in `data_dir`, whose lock the caller holds: a file that is there already is
/// a dead server's.
pub(crate) fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let path = data_dir.join(FILE_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    with_short_path(data_dir, |short| socket.bind(&SockAddr::unix(short)?))?;
    // Nobody can connect before the socket listens, so there is no moment of wider access.
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Connects to the server that has `data_dir` open. `None`: there is none. Call in a runtime.
pub(crate) fn connect(data_dir: &Path) -> io::Result<Option<UnixStream>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match with_short_path(data_dir, |short| socket.connect(&SockAddr::unix(short)?)) {
        Ok(()) => {}
        Err(error) => {
            let none = matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            );
            return if none { Ok(None) } else { Err(error) };
        }
    }
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket.into()).map(Some)
}

/// Removes the socket of a server that stops.
pub(crate) fn remove(data_dir: &Path) {
    if let Err(error) = std::fs::remove_file(data_dir.join(FILE_NAME)) {
        tracing::debug!(%error, "the control socket was not removed");
    }
}

fn with_short_path<T>(data_dir: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = data_dir.join(FILE_NAME);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return act(&path);
    }
    let directory = File::open(data_dir)?;
    act(&PathBuf::from(format!(
        "/proc/self/fd/{}/{FILE_NAME}",
        directory.as_raw_fd()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check_meeting(data_dir: &Path) {
        std::fs::create_dir_all(data_dir).unwrap();
        assert!(connect(data_dir).unwrap().is_none(), "nobody listens yet");
        let listener = bind(data_dir).unwrap();
        let mode = std::fs::metadata(data_dir.join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let connected = connect(data_dir).unwrap();
        assert!(connected.is_some() && listener.accept().await.is_ok());
        drop(listener);
        assert!(
            connect(data_dir).unwrap().is_none(),
            "a dead server's socket is nobody's"
        );
        bind(data_dir).expect("a dead server's socket is replaced");
    }

    #[tokio::test]
    async fn commands_find_the_server_and_nobody_else_may() {
        let home = tempfile::tempdir().unwrap();
        check_meeting(home.path()).await;
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let home = tempfile::tempdir().unwrap();
        check_meeting(&home.path().join("d".repeat(200))).await;
    }
}
