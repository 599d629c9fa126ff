//! Free loopback ports, so that several chains and boxes can run on one machine at once.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use rand::Rng;

/// Below the range from which Linux takes ports for outgoing connections (`ip_local_port_range`, 32768 up), so that a
/// connection made between our look and the child's `bind` cannot take the port.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 10_000;

/// `count` different ports that were free for TCP and UDP on loopback a moment ago.
///
/// Chosen at random, so that two runs that look at the same moment almost surely differ. A child that finds its port
/// taken nevertheless exits at once, which its owner notices because it watches the child and not only the port.
///
/// # Panics
/// When nearly every port of the range is taken.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..ATTEMPTS {
        if held.len() == count {
            break;
        }
        let port = rand::rng().random_range(RANGE);
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        if let (Ok(tcp), Ok(udp)) = (tcp, udp) {
            held.push((port, tcp, udp));
        }
    }
    assert!(
        held.len() == count,
        "no {count} free ports between {} and {} on loopback",
        RANGE.start,
        RANGE.end
    );
    held.into_iter().map(|(port, _, _)| port).collect()
}

/// One free port; see [`free_ports`].
pub fn free_port() -> u16 {
    free_ports(1)[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let mut ports = free_ports(20);
        for port in &ports {
            // Something else on this machine may have taken it since: no more is promised than that it was free.
            if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
                assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{port}: {error}");
            }
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }
}
