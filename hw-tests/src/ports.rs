//! Free loopback ports, so that several chains and boxes can run on one machine at once.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::{LazyLock, Mutex, PoisonError},
};

use rand::Rng;

/// Below the range from which Linux takes ports for outgoing connections (`ip_local_port_range`, 32768 up), so that a
/// connection made between our look and the child's `bind` cannot take the port.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 10_000;

/// The ports that this process has given out, each as a socket whose name nobody else can take.
static TAKEN: LazyLock<Mutex<Vec<UnixDatagram>>> = LazyLock::new(Mutex::default);

/// `count` different ports that are free for TCP and UDP on loopback, and that nobody else who asks here gets while this
/// process lives.
///
/// To look whether a port is free is not enough: a member opens its port for peers when it joins a cluster, often long after
/// it was given, and until then the port looks free to everybody. So each is marked as given, by a name that the kernel
/// takes back when the process ends however it ends (`unix(7)`, abstract names; not inherited by children).
///
/// # Panics
/// When nearly every port of the range is taken.
pub fn free_ports(count: usize) -> Vec<u16> {
    (0..count).map(|_| free_in_a_row(1)).collect()
}

/// One free port; see [`free_ports`].
pub fn free_port() -> u16 {
    free_in_a_row(1)
}

/// The first of two free ports next to each other; see [`free_ports`].
pub(crate) fn free_pair() -> u16 {
    free_in_a_row(2)
}

fn free_in_a_row(length: u16) -> u16 {
    for _ in 0..ATTEMPTS {
        let first = rand::rng().random_range(RANGE.start..=RANGE.end - length);
        let marks: Option<Vec<_>> = (first..first + length).map(take).collect();
        if let Some(marks) = marks {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).extend(marks);
            return first;
        }
    }
    panic!("no {length} free ports in a row between {} and {} on loopback", RANGE.start, RANGE.end);
}

/// The mark that a port is given, or nothing when somebody has it.
fn take(port: u16) -> Option<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(format!("hearth-port-{port}")).ok()?;
    let mark = UnixDatagram::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(mark)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_port_that_was_given_is_given_to_nobody_else_though_nobody_listens_there() {
        let ports: BTreeSet<u16> = (0..4)
            .map(|_| std::thread::spawn(|| free_ports(50)))
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|asked| asked.join().unwrap())
            .collect();
        assert_eq!(ports.len(), 200);
        for port in ports {
            assert!(take(port).is_none(), "{port} is to be had twice");
        }
    }

    #[test]
    fn of_two_in_a_row_both_are_taken() {
        let first = free_pair();
        assert!(take(first).is_none() && take(first + 1).is_none());
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_given() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(take(held.local_addr().unwrap().port()).is_none());
    }
}
