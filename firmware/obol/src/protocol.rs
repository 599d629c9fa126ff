//! The protocols of run mode: their names on the wire and the size a message of each may have.

/// A protocol spoken in run mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Agreement (QBFT), one-way.
    Qbft,
    /// Exchange of partial signatures, one-way.
    ParSigEx,
    /// Who runs what, request and response.
    PeerInfo,
    /// Agreement on priorities, request and response.
    Priority,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::Qbft, Self::ParSigEx, Self::PeerInfo, Self::Priority];

    /// The protocol identifiers, preferred first.
    pub const fn ids(self) -> &'static [&'static str] {
        match self {
            Self::Qbft => &["/charon/consensus/qbft/2.0.0"],
            Self::ParSigEx => &["/charon/parsigex/2.0.0"],
            Self::PeerInfo => &["/charon/peerinfo/2.0.0"],
            // Releases up to v1.10 know only the name without the leading slash.
            Self::Priority => &["/charon/priority/2.0.0", "charon/priority/2.0.0"],
        }
    }

    /// Whether a message is answered on its own stream.
    pub const fn is_request(self) -> bool {
        match self {
            Self::Qbft | Self::ParSigEx => false,
            Self::PeerInfo | Self::Priority => true,
        }
    }

    /// Longest message accepted, in bytes. QBFT and peerinfo as the reference; the others are cut from its 128 MiB to
    /// what a block with its blobs, or a few lists of names, can need.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Qbft | Self::ParSigEx => 32 << 20,
            Self::PeerInfo | Self::Priority => 1 << 20,
        }
    }

    /// Every identifier, in the order info-sync announces them.
    pub fn all_ids() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().flat_map(|protocol| protocol.ids().iter().copied())
    }
}
