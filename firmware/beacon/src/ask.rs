//! What all questions share.

use crate::error::{BeaconError, Cause, RequestError};
use crate::nodes::{BeaconNodes, Node};

/// Room for an answer that is not a list.
pub(crate) const SMALL: usize = 64 * 1024;
/// Room for one answer entry, generously.
pub(crate) const BYTES_PER_VALIDATOR: usize = 2 * 1024;

impl BeaconNodes {
    /// The answer to a question whose answer may be that there is nothing.
    pub(crate) async fn read_if_there<'a, T, F, Fut>(
        &'a self,
        doing: &'static str,
        ask: F,
    ) -> Result<Option<T>, BeaconError>
    where
        F: Fn(&'a Node) -> Fut,
        Fut: Future<Output = Result<T, RequestError>> + 'a,
    {
        let ask = &ask;
        self.read(doing, |node| {
            let asked = ask(node);
            async move {
                match asked.await {
                    Ok(value) => Ok(Some(value)),
                    Err(RequestError { cause: Cause::Refused { status: 404, .. }, .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }
}

pub(crate) fn unless(fits: bool, node: &Node, doing: &'static str, what: &str) -> Result<(), RequestError> {
    if fits { Ok(()) } else { Err(node.endpoint.fail(doing, Cause::Unfitting(what.to_owned()))) }
}

pub(crate) fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structures of strings always encode")
}
