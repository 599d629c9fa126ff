//! `builder-specs-examples`: the builder API's objects as JSON and as SSZ, of the forks that the box proposes in.

use std::fmt::Debug;
use std::path::Path;

use chain::{SignedBlindedBeaconBlock, SignedValidatorRegistration};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ssz::{Decode, Encode};

use super::report::{Report, files, label, read, read_json};
use crate::devnet::builder::SignedBuilderBid;

/// Each pair decodes to the same object and encodes to the same bytes.
pub(super) fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let check = match name.trim_end_matches(".json") {
            "electra/signed_builder_bid" | "fulu/signed_builder_bid" => pair::<SignedBuilderBid>,
            "electra/signed_blinded_beacon_block" | "fulu/signed_blinded_beacon_block" => {
                pair::<SignedBlindedBeaconBlock>
            }
            "bellatrix/signed_validator_registrations" => pair::<Vec<SignedValidatorRegistration>>,
            other => {
                report.skip(1, &format!("{other}: nobody builds or reads it here"));
                continue;
            }
        };
        report.case(&name, check(&file));
    }
    report
}

fn pair<T>(file: &Path) -> Result<(), String>
where
    T: Encode + Decode + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let example = read_json(file)?;
    let value = &example["value"];
    let value = value.get("data").unwrap_or(value);
    let from_json: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let bytes = read(&file.with_extension("ssz"))?;
    let from_ssz = T::from_ssz_bytes(&bytes).map_err(|error| format!("does not decode: {error:?}"))?;
    if from_json != from_ssz {
        return Err("JSON and SSZ read as different objects".to_owned());
    }
    if from_json.as_ssz_bytes() != bytes {
        return Err("encodes to other bytes".to_owned());
    }
    let written = serde_json::to_value(&from_json).map_err(|error| error.to_string())?;
    if written == *value { Ok(()) } else { Err("is written as other JSON".to_owned()) }
}
