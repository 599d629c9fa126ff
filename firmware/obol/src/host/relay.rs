//! Relays as an owner names them and as they describe themselves (spec section 4.4).
//!
//! Pure: text and bytes in, addresses or a named refusal out. Whoever speaks HTTP asks for the body; the host is handed
//! what came of it.

use cluster::Enr;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::dials::is_sane;

/// Relays of Obol that clusters on public networks use unless the owner names others.
pub const DEFAULT_RELAYS: [&str; 3] =
    ["https://0.relay.obol.tech", "https://1.relay.obol.tech", "https://2.relay.obol.dev"];
/// Longest description of a relay that is read.
pub const MAX_BODY: usize = 64 << 10;
/// Most relays in use at once.
pub const MAX_RELAYS: usize = 8;
/// Addresses of one relay that are tried.
const MAX_ADDRS: usize = 16;
/// Longest entry an owner may name.
const MAX_ENTRY: usize = 1024;

/// A relay: who it is and where it is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Its identity.
    pub id: PeerId,
    /// TCP addresses, without the identity.
    pub addrs: Vec<Multiaddr>,
}

/// A relay as the owner names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayEntry {
    /// Asked for its description again and again.
    Url(String),
    /// Used as it is.
    Fixed(Relay),
}

/// Why a relay cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Neither a web address nor a multiaddress.
    #[error(
        "'{0}' is no relay: give a web address or a multiaddress that ends with /p2p/ and the relay's peer id"
    )]
    Entry(String),
    /// More than [`MAX_BODY`].
    #[error("the relay's description is longer than 64 KiB")]
    TooLong,
    /// Neither a node record nor a list of addresses.
    #[error("the relay's description is neither a node record nor a list of addresses")]
    Malformed,
    /// A node record that is broken.
    #[error("the relay's node record cannot be used")]
    Enr(#[from] cluster::EnrError),
    /// Addresses of several peers.
    #[error("the relay's description names several peers")]
    SeveralPeers,
    /// Nothing that can be dialled over TCP.
    #[error("the relay's description names no TCP address")]
    NoAddress,
}

impl RelayEntry {
    /// Reads what the owner wrote.
    pub fn parse(text: &str) -> Result<Self, RelayError> {
        let text = text.trim();
        let bad = || RelayError::Entry(text.chars().take(100).collect());
        if text.len() > MAX_ENTRY {
            return Err(bad());
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Url(text.to_owned()));
        }
        let (id, addr) = split(&text.parse().map_err(|_| bad())?).ok_or_else(bad)?;
        if !is_dialled(&addr) {
            return Err(bad());
        }
        Ok(Self::Fixed(Relay { id, addrs: vec![addr] }))
    }
}

/// Reads what a relay's web address answers: a node record, or a JSON list of multiaddresses. Loopback addresses are left
/// out unless the owner named the relay by one (`loopback`).
pub fn read_description(body: &[u8], loopback: bool) -> Result<Relay, RelayError> {
    if body.len() > MAX_BODY {
        return Err(RelayError::TooLong);
    }
    let text = core::str::from_utf8(body).map_err(|_| RelayError::Malformed)?.trim();
    if text.starts_with("enr:") {
        return from_enr(&Enr::parse(text)?, loopback);
    }
    let list: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|_| RelayError::Malformed)?;
    // What cannot be parsed is skipped: a newer relay may have addresses of kinds that we do not know.
    let parsed = list.iter().filter_map(|entry| entry.as_str()?.parse::<Multiaddr>().ok());
    let mut relay: Option<Relay> = None;
    for (id, addr) in parsed.filter_map(|addr| split(&addr)) {
        let relay = relay.get_or_insert_with(|| Relay { id, addrs: Vec::new() });
        if relay.id != id {
            return Err(RelayError::SeveralPeers);
        }
        let usable = is_dialled(&addr) && is_sane(&addr, loopback);
        if usable && !relay.addrs.contains(&addr) && relay.addrs.len() < MAX_ADDRS {
            relay.addrs.push(addr);
        }
    }
    relay.filter(|relay| !relay.addrs.is_empty()).ok_or(RelayError::NoAddress)
}

fn from_enr(enr: &Enr, loopback: bool) -> Result<Relay, RelayError> {
    let id = PeerId::from_bytes(&enr.peer_id().to_bytes()).map_err(|_| RelayError::Malformed)?;
    let endpoint = enr.endpoint();
    let (Some(ip), Some(port)) = (endpoint.ip, endpoint.tcp) else { return Err(RelayError::NoAddress) };
    let addr = Multiaddr::from(ip).with(Protocol::Tcp(port));
    if !is_dialled(&addr) || !is_sane(&addr, loopback) {
        return Err(RelayError::NoAddress);
    }
    Ok(Relay { id, addrs: vec![addr] })
}

/// The identity at the end of an address, and what stands before it.
fn split(addr: &Multiaddr) -> Option<(PeerId, Multiaddr)> {
    let mut addr = addr.clone();
    match addr.pop() {
        Some(Protocol::P2p(id)) => Some((id, addr)),
        _ => None,
    }
}

/// Whether we can dial it: a host and a TCP port, nothing else. QUIC is not spoken.
pub(super) fn is_dialled(addr: &Multiaddr) -> bool {
    let mut parts = addr.iter();
    let host = matches!(
        parts.next(),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
    );
    host && matches!((parts.next(), parts.next()), (Some(Protocol::Tcp(port)), None) if port > 0)
}

#[cfg(test)]
mod tests {
    use cluster::{EnrEndpoint, IdentityKey};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn id(seed: u8) -> PeerId {
        let key = IdentityKey::from_bytes(Zeroizing::new([seed; 32])).unwrap();
        PeerId::from_bytes(&cluster::PeerId::from_public_key(&key.public_key()).to_bytes()).unwrap()
    }

    #[test]
    fn a_node_record_and_a_list_of_addresses_are_read() {
        let key = IdentityKey::from_bytes(Zeroizing::new([5; 32])).unwrap();
        let endpoint = EnrEndpoint { ip: Some([192, 0, 2, 9].into()), tcp: Some(3610), udp: Some(3630) };
        let enr = Enr::build_with(&key, endpoint);
        let expected = Relay { id: id(5), addrs: vec!["/ip4/192.0.2.9/tcp/3610".parse().unwrap()] };
        assert_eq!(read_description(enr.as_str().as_bytes(), false), Ok(expected.clone()));
        let list = format!(
            r#"["/ip4/192.0.2.9/udp/3630/quic-v1/p2p/{0}", "/ip4/192.0.2.9/tcp/3610/p2p/{0}", "/nonsense", 7]"#,
            id(5)
        );
        assert_eq!(read_description(list.as_bytes(), false), Ok(expected));
        let without_tcp = Enr::build_with(&key, EnrEndpoint { tcp: None, ..endpoint });
        assert_eq!(read_description(without_tcp.as_str().as_bytes(), false), Err(RelayError::NoAddress));
    }

    #[test]
    fn a_relay_elsewhere_cannot_send_us_to_ourselves() {
        let list = |addrs: &[&str]| {
            let full: Vec<String> =
                addrs.iter().map(|addr| format!("{addr}/tcp/3610/p2p/{}", id(5))).collect();
            serde_json::to_vec(&full).unwrap()
        };
        let body = list(&["/ip4/127.0.0.1", "/ip6/::1", "/ip4/0.0.0.0", "/ip4/224.0.0.1", "/ip4/10.0.0.7"]);
        let hosts = |loopback| {
            let relay = read_description(&body, loopback).unwrap();
            relay.addrs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(hosts(false), ["/ip4/10.0.0.7/tcp/3610"]);
        assert_eq!(hosts(true), ["/ip4/127.0.0.1/tcp/3610", "/ip6/::1/tcp/3610", "/ip4/10.0.0.7/tcp/3610"]);
        let only = list(&["/ip4/127.0.0.1"]);
        assert_eq!(read_description(&only, false), Err(RelayError::NoAddress));
        let key = IdentityKey::from_bytes(Zeroizing::new([5; 32])).unwrap();
        let endpoint = EnrEndpoint { ip: Some([127, 0, 0, 1].into()), tcp: Some(3610), udp: None };
        let enr = Enr::build_with(&key, endpoint);
        assert_eq!(read_description(enr.as_str().as_bytes(), false), Err(RelayError::NoAddress));
        assert!(read_description(enr.as_str().as_bytes(), true).is_ok());
    }

    #[test]
    fn descriptions_that_cannot_be_used_are_named() {
        let two = format!(r#"["/ip4/192.0.2.9/tcp/1/p2p/{}","/ip4/192.0.2.9/tcp/1/p2p/{}"]"#, id(1), id(2));
        for (body, error) in [
            (two.as_str(), RelayError::SeveralPeers),
            ("[]", RelayError::NoAddress),
            ("<html>", RelayError::Malformed),
            ("", RelayError::Malformed),
            (r#"["/ip4/192.0.2.9/tcp/3610"]"#, RelayError::NoAddress),
        ] {
            assert_eq!(read_description(body.as_bytes(), false), Err(error), "{body}");
        }
        assert!(matches!(read_description(b"enr:-xx", false), Err(RelayError::Enr(_))));
        assert_eq!(read_description(&vec![b' '; MAX_BODY + 1], false), Err(RelayError::TooLong));
        let many: Vec<String> =
            (1..500).map(|port| format!("\"/ip4/192.0.2.9/tcp/{port}/p2p/{}\"", id(1))).collect();
        let relay = read_description(format!("[{}]", many.join(",")).as_bytes(), false).unwrap();
        assert_eq!(relay.addrs.len(), MAX_ADDRS);
    }

    #[test]
    fn an_owner_names_a_web_address_or_a_multiaddress() {
        assert_eq!(
            RelayEntry::parse(" https://0.relay.obol.tech\n"),
            Ok(RelayEntry::Url("https://0.relay.obol.tech".into()))
        );
        let fixed = format!("/dns/relay.example/tcp/3610/p2p/{}", id(3));
        assert!(matches!(RelayEntry::parse(&fixed), Ok(RelayEntry::Fixed(relay)) if relay.id == id(3)));
        for bad in ["", "relay.example", "/ip4/192.0.2.9/tcp/3610", "ftp://x", "/ip4/192.0.2.9/udp/1/quic-v1"]
        {
            assert!(matches!(RelayEntry::parse(bad), Err(RelayError::Entry(_))), "{bad}");
        }
        assert!(DEFAULT_RELAYS.iter().all(|text| matches!(RelayEntry::parse(text), Ok(RelayEntry::Url(_)))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read_description(&bytes, false);
            let _ = RelayEntry::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
