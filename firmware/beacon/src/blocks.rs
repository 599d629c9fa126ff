//! What is on the chain.

use chain::{Root, Slot};

use crate::ask::{SMALL, unless};
use crate::error::{BeaconError, RequestError};
use crate::nodes::{BeaconNodes, Node};
use crate::wire::{Data, HeadRootWire, HeaderWire};

/// A block that an endpoint knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBlock {
    /// Its root.
    pub root: Root,
    /// Its slot.
    pub slot: Slot,
    /// It is an ancestor of the head, or the head.
    pub canonical: bool,
}

/// The newest block of the chain that an endpoint follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRoot {
    /// Its root.
    pub root: Root,
    /// The execution client has not verified it yet: nothing may be signed about it.
    pub optimistic: bool,
}

impl BeaconNodes {
    /// Looks a block up; `None` when the endpoint has never seen it.
    pub async fn block(&self, root: Root) -> Result<Option<KnownBlock>, BeaconError> {
        let doing = "looking a block up";
        self.read_if_there(doing, |node| async move {
            let known = self.header(node, doing, &root.to_string()).await?;
            unless(known.root == root, node, doing, "another block")?;
            Ok(known)
        })
        .await
    }

    /// The block of a slot in the chain that the endpoint follows; `None` when that slot has none.
    pub async fn block_at(&self, slot: Slot) -> Result<Option<KnownBlock>, BeaconError> {
        let doing = "looking up the block of a slot";
        self.read_if_there(doing, |node| async move {
            let known = self.header(node, doing, &slot.to_string()).await?;
            unless(known.slot == slot, node, doing, "the block of another slot")?;
            Ok(known)
        })
        .await
    }

    /// The root of the head block: what a sync-committee member votes for.
    pub async fn head_block_root(&self) -> Result<HeadRoot, BeaconError> {
        let doing = "asking for the head";
        let limits = self.read_limits(SMALL);
        let path = "/eth/v1/beacon/blocks/head/root";
        self.read(doing, |node| async move {
            let (answer, _) = node.endpoint.get::<HeadRootWire>(doing, path, limits).await?;
            Ok(HeadRoot { root: answer.data.root, optimistic: answer.execution_optimistic })
        })
        .await
    }

    async fn header(
        &self,
        node: &Node,
        doing: &'static str,
        block: &str,
    ) -> Result<KnownBlock, RequestError> {
        let path = format!("/eth/v1/beacon/headers/{block}");
        let (answer, _) =
            node.endpoint.get::<Data<HeaderWire>>(doing, &path, self.read_limits(SMALL)).await?;
        let HeaderWire { root, canonical, header } = answer.data;
        Ok(KnownBlock { root, slot: header.message.slot, canonical })
    }
}
