//! What the blocks that this member proposes say in their graffiti field (obol.md 8.4).
//!
//! Only a leader's block carries its words, so the members of a cluster may differ. Nothing here decides what is signed.

use chain::Bytes32;

/// Bytes of the field.
const FIELD: usize = 32;
/// Added to the owner's words: two letters for a distributed validator and two for the beacon node that made the block.
const MARK: &str = "OB";
/// Bytes of both.
const MARKED: usize = 4;

/// The owner's words for each validator of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graffiti {
    /// None: the beacon node's own. One: for all. Otherwise one for each validator, in the lock's order.
    texts: Vec<String>,
    /// Without the mark.
    alone: bool,
}

/// The owner's words cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraffitiError {
    /// Neither one for all nor one for each.
    #[error(
        "{texts} graffiti are given for {validators} validators; give one for all, or one for each in the lock's order"
    )]
    Count {
        /// How many there are.
        texts: usize,
        /// How many there should be.
        validators: usize,
    },
    /// One does not fit.
    #[error(
        "the graffiti {text:?} has {bytes} bytes; at most {limit} fit, and 32 without the mark of the client"
    )]
    TooLong {
        /// Its beginning.
        text: String,
        /// Its length.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
}

impl Graffiti {
    /// Checks number and lengths.
    pub fn new(texts: &[String], alone: bool, validators: usize) -> Result<Self, GraffitiError> {
        if texts.len() > 1 && texts.len() != validators {
            return Err(GraffitiError::Count { texts: texts.len(), validators });
        }
        let limit = if alone { FIELD } else { FIELD - MARKED };
        if let Some(long) = texts.iter().find(|text| text.len() > limit) {
            let text = long.chars().take(FIELD).collect();
            return Err(GraffitiError::TooLong { text, bytes: long.len(), limit });
        }
        Ok(Self { texts: texts.to_vec(), alone })
    }

    /// The field of a block of the validator at this position of the lock, made by a beacon node that calls itself `client`.
    /// `None` leaves it to the beacon node.
    pub fn of(&self, position: usize, client: Option<&str>) -> Option<Bytes32> {
        let text = if self.texts.len() == 1 { self.texts.first() } else { self.texts.get(position) }?;
        let mut words = text.clone();
        if !self.alone {
            words.push_str(MARK);
            words.push_str(token(client.unwrap_or_default()));
        }
        let mut field = [0; FIELD];
        // Whatever is too long was refused before.
        field.get_mut(..words.len())?.copy_from_slice(words.as_bytes());
        Some(Bytes32(field))
    }
}

/// The two letters of a beacon node, by what its version begins with; none for one that is not known.
fn token(version: &str) -> &'static str {
    match version.split('/').next().unwrap_or_default() {
        "teku" => "TK",
        "Lighthouse" => "LH",
        "Lodestar" => "LS",
        "Prysm" => "PY",
        "Nimbus" => "NB",
        "Grandine" => "GD",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn field(given: &[&str], alone: bool, position: usize, client: &str) -> Option<String> {
        let graffiti = Graffiti::new(&texts(given), alone, 3).unwrap();
        let field = graffiti.of(position, Some(client))?.0;
        let words = String::from_utf8(field.to_vec()).unwrap();
        Some(words.trim_end_matches('\0').to_owned())
    }

    #[test]
    fn graffiti_are_the_owners_words_and_the_mark_of_the_client() {
        type Case = (&'static [&'static str], bool, usize, &'static str, Option<&'static str>);
        let table: [Case; 9] = [
            (&[], false, 0, "Prysm/v7.1.2", None),
            (&["us"], false, 2, "Prysm/v7.1.2 (linux amd64)", Some("usOBPY")),
            (&["us"], true, 2, "Prysm/v7.1.2", Some("us")),
            (&["a", "b", "c"], false, 1, "Lighthouse/v8.0.0", Some("bOBLH")),
            (&["a", "b", "c"], false, 2, "teku/v25.9.3/linux", Some("cOBTK")),
            (&["a", "b", "c"], false, 3, "teku/v25", None),
            (&["us"], false, 0, "Teku/v25", Some("usOB")),
            (&[""], false, 0, "Nimbus/v25", Some("OBNB")),
            (&["ü"], false, 0, "Grandine/2", Some("üOBGD")),
        ];
        for (given, alone, position, client, expected) in table {
            assert_eq!(field(given, alone, position, client).as_deref(), expected, "{given:?} {client}");
        }
        assert_eq!(field(&["us"], false, 0, "Lodestar/v1").as_deref(), Some("usOBLS"));
        let unknown = Graffiti::new(&texts(&["us"]), false, 3).unwrap().of(0, None).unwrap();
        assert_eq!(&unknown.0[..5], b"usOB\0", "before any beacon node has said who it is");
    }

    #[test]
    fn graffiti_that_do_not_fit_are_refused_before_any_block() {
        let new = |given: &[&str], alone| Graffiti::new(&texts(given), alone, 3).map(|_| ());
        let long = |bytes: usize| "x".repeat(bytes);
        assert_eq!(new(&[&long(28)], false), Ok(()));
        assert_eq!(new(&[&long(32)], true), Ok(()));
        assert!(matches!(new(&[&long(29)], false), Err(GraffitiError::TooLong { limit: 28, bytes: 29, .. })));
        assert!(matches!(new(&[&long(33)], true), Err(GraffitiError::TooLong { limit: 32, .. })));
        assert!(matches!(
            new(&["ü".repeat(15).as_str()], false),
            Err(GraffitiError::TooLong { bytes: 30, .. })
        ));
        assert!(matches!(new(&["a", "b"], false), Err(GraffitiError::Count { texts: 2, validators: 3 })));
        assert!(matches!(new(&["a", &long(29), "c"], false), Err(GraffitiError::TooLong { .. })));
        // What fits fills the whole field.
        assert_eq!(field(&[&long(28)], false, 0, "Prysm/v7"), Some(format!("{}OBPY", long(28))));
        assert_eq!(field(&[&long(32)], true, 0, "Prysm/v7"), Some(long(32)));
    }
}
