//! The protocols of run mode and of key generation: their names on the wire and the size a message of each may have.

use crate::dkg::pedersen;

/// A protocol between members.
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
    /// Key generation: who is how far. Long-lived streams with a framing of their own.
    DkgSync,
    /// Key generation: please sign my broadcast (v1.0 to v1.10), request and response.
    DkgSignV1,
    /// Key generation: a broadcast that everybody signed (v1.0 to v1.10), one-way.
    DkgBroadcastV1,
    /// The same from v1.11 on.
    DkgSignV2,
    /// The same from v1.11 on.
    DkgBroadcastV2,
    /// Key generation: shares for one member, one-way.
    DkgShare,
    /// Resharing: encrypted shares for all members, one-way.
    DkgDeal,
    /// Resharing: what a member says of what was dealt to it, one-way.
    DkgResponse,
    /// Resharing: answers to complaints, one-way.
    DkgJustification,
    /// Resharing: a member's new public share, one-way.
    DkgPublicShare,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 14] = [
        Self::Qbft,
        Self::ParSigEx,
        Self::PeerInfo,
        Self::Priority,
        Self::DkgSync,
        Self::DkgSignV1,
        Self::DkgBroadcastV1,
        Self::DkgSignV2,
        Self::DkgBroadcastV2,
        Self::DkgShare,
        Self::DkgDeal,
        Self::DkgResponse,
        Self::DkgJustification,
        Self::DkgPublicShare,
    ];
    /// Those of run mode.
    pub const RUN: [Self; 4] = [Self::Qbft, Self::ParSigEx, Self::PeerInfo, Self::Priority];

    /// The protocol identifiers, preferred first.
    pub const fn ids(self) -> &'static [&'static str] {
        match self {
            Self::Qbft => &["/charon/consensus/qbft/2.0.0"],
            Self::ParSigEx => &["/charon/parsigex/2.0.0"],
            Self::PeerInfo => &["/charon/peerinfo/2.0.0"],
            // Releases up to v1.10 know only the name without the leading slash.
            Self::Priority => &["/charon/priority/2.0.0", "charon/priority/2.0.0"],
            Self::DkgSync => &["/charon/dkg/sync/1.0.0/"],
            Self::DkgSignV1 => &["/charon/dkg/bcast/1.0.0/sig"],
            Self::DkgBroadcastV1 => &["/charon/dkg/bcast/1.0.0/msg"],
            Self::DkgSignV2 => &["/charon/dkg/bcast/2.0.0/sig"],
            Self::DkgBroadcastV2 => &["/charon/dkg/bcast/2.0.0/msg"],
            Self::DkgShare => &["/charon/dkg/frost/2.0.0/round1/p2p"],
            Self::DkgDeal => &[pedersen::DEAL_BUNDLE],
            Self::DkgResponse => &[pedersen::RESPONSE_BUNDLE],
            Self::DkgJustification => &[pedersen::JUSTIFICATION_BUNDLE],
            Self::DkgPublicShare => &[pedersen::PUBLIC_SHARE],
        }
    }

    /// Whether a message is answered on its own stream.
    pub const fn is_request(self) -> bool {
        match self {
            Self::Qbft
            | Self::ParSigEx
            | Self::DkgBroadcastV1
            | Self::DkgBroadcastV2
            | Self::DkgShare
            | Self::DkgDeal
            | Self::DkgResponse
            | Self::DkgJustification
            | Self::DkgPublicShare => false,
            Self::PeerInfo | Self::Priority | Self::DkgSync | Self::DkgSignV1 | Self::DkgSignV2 => true,
        }
    }

    /// Longest message accepted, in bytes. QBFT and peerinfo as the reference; the others are cut from its 128 MiB to
    /// what a block with its blobs, or a few lists of names, can need.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Qbft | Self::ParSigEx => 32 << 20,
            Self::PeerInfo | Self::Priority | Self::DkgShare => 1 << 20,
            Self::DkgDeal | Self::DkgResponse | Self::DkgJustification => pedersen::MAX_BUNDLE_BYTES,
            Self::DkgPublicShare => 256,
            Self::DkgSync => crate::dkg::sync::MAX_SYNC_BYTES,
            // A thousand validators with a threshold of 21, and everybody's signatures.
            Self::DkgSignV1 | Self::DkgBroadcastV1 | Self::DkgSignV2 | Self::DkgBroadcastV2 => 2 << 20,
        }
    }

    /// Every identifier, in the order info-sync announces them.
    pub fn all_ids() -> impl Iterator<Item = &'static str> {
        Self::RUN.into_iter().flat_map(|protocol| protocol.ids().iter().copied())
    }
}
