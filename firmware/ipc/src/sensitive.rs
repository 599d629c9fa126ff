//! Text that must not be shown or outlive its use.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret text inside a message: wiped on drop, never printed.
///
/// It can be serialised because it has to cross one border (an identity key to `dv-node`, a keystore password inside
/// the sealed envelope); nothing that logs or stores a message may hold one.
pub struct Sensitive(Zeroizing<String>);

impl Sensitive {
    /// Takes over the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. The name is long so that each use stands out in review.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl Serialize for Sensitive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl std::fmt::Debug for Sensitive {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sensitive(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensitive_text_is_not_printed() {
        let shown = format!("{:?}", Sensitive::new("correct horse".to_owned()));
        assert!(!shown.contains("horse"), "{shown}");
    }
}
