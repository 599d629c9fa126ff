//! The sockets a daemon listens on: handed over by systemd, or made from configured paths when run by hand.

use std::{
    collections::BTreeMap,
    os::unix::{fs::FileTypeExt as _, fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
};

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Neither systemd nor the configuration names it.
    #[error("no socket named `{name}`: systemd passed none and the configuration has no path for it")]
    Missing {
        /// The socket's name.
        name: String,
    },
    /// The path is taken by something that is not a socket, or by a running daemon.
    #[error("{} is in use: stop the other process, or remove the file if it is not a socket", .path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot open the socket {}", .path.display())]
    Io {
        /// The path, or the name systemd gave.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The sockets systemd passed, by the `FileDescriptorName=` of their unit.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: BTreeMap<String, UnixListener>,
}

impl Inherited {
    /// Takes the sockets out of the environment. Called once, at the start.
    pub fn from_environment() -> Result<Self, ListenError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = BTreeMap::new();
        for (position, name) in names.split(':').enumerate().take(passed.len()) {
            let listener = passed
                .take_unix_listener(position)
                .map_err(|source| ListenError::Io { path: PathBuf::from(name), source })?;
            if let Some(listener) = listener {
                sockets.insert(name.to_owned(), listener);
            }
        }
        Ok(Self { sockets })
    }

    /// The socket of that name: systemd's if it passed one, else a new one at `path`.
    pub fn take(&mut self, name: &str, path: Option<&Path>) -> Result<tokio::net::UnixListener, ListenError> {
        let io = |source| ListenError::Io { path: path.unwrap_or(Path::new(name)).to_owned(), source };
        let listener = match (self.sockets.remove(name), path) {
            (Some(listener), _) => listener,
            (None, Some(path)) => bind(path)?,
            (None, None) => return Err(ListenError::Missing { name: name.to_owned() }),
        };
        listener.set_nonblocking(true).map_err(io)?;
        tokio::net::UnixListener::from_std(listener).map_err(io)
    }
}

impl Inherited {
    /// The same for a socket that a daemon can do without: none when nobody names it.
    pub fn take_optional(
        &mut self,
        name: &str,
        path: Option<&Path>,
    ) -> Result<Option<tokio::net::UnixListener>, ListenError> {
        match self.take(name, path) {
            Ok(listener) => Ok(Some(listener)),
            Err(ListenError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Makes a socket of mode 0660, replacing one that a dead process left behind.
fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let io = |source| ListenError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        Ok(_) => std::fs::remove_file(path).map_err(io)?,
        Err(_) => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(io)?;
            }
        }
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/control.sock");
        let first = Inherited::default().take("control", Some(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let second = Inherited::default().take("control", Some(&path));
        assert!(matches!(second, Err(ListenError::InUse { .. })));
        drop(first);
        assert!(path.exists(), "closing a socket leaves its file");
        Inherited::default().take("control", Some(&path)).unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        std::fs::write(&path, "precious").unwrap();
        let refused = Inherited::default().take("control", Some(&path));
        assert!(matches!(refused, Err(ListenError::InUse { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
