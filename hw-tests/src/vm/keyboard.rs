//! What a person types at the guest's serial port, which QEMU offers as a socket.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An open line to the port. What the guest says is in QEMU's log too; here it is only taken off the line, because QEMU waits with the
/// guest while nobody does.
#[derive(Debug)]
pub(crate) struct Keyboard(UnixStream);

impl Keyboard {
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut said = stream.try_clone()?;
        // Ends with the line.
        std::thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        Ok(Self(stream))
    }

    pub(crate) fn press(&self, text: &str) -> io::Result<()> {
        (&self.0).write_all(text.as_bytes())
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}
