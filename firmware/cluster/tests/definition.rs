//! What a definition must satisfy.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod sample;

use cluster::definition::Signer;
use cluster::{Definition, DefinitionError, FieldError, FieldProblem, SchemaVersion};
use sample::{created, in_version, sign_definition};
use serde_json::{Value, json};

fn signed(version: SchemaVersion) -> Definition {
    let created = created();
    let mut lock = in_version(&created, version);
    sign_definition(&created, &mut lock);
    lock.definition
}

fn verdict(definition: &mut Definition) -> Result<(), DefinitionError> {
    definition.set_hashes().unwrap();
    definition.verify(&[])
}

#[test]
fn signatures_follow_the_rules_of_the_version() {
    let operator = Signer::Operator;
    let version = SchemaVersion::V1_10;
    type Tamper = fn(&mut Definition);
    let cases: [(Tamper, DefinitionError); 6] = [
        (
            |definition| {
                let operator = &mut definition.operators[2];
                operator.address.clear();
                operator.config_signature = None;
                operator.enr_signature = None;
            },
            DefinitionError::PartlySigned(2),
        ),
        (
            |definition| definition.operators[1].enr_signature = Some(Vec::new()),
            DefinitionError::SignatureMissing { signer: operator(1), field: "enr_signature" },
        ),
        (
            |definition| definition.operators[1].config_signature.as_mut().unwrap().truncate(64),
            DefinitionError::SignatureLength { signer: operator(1), field: "config_signature", found: 64 },
        ),
        (
            |definition| definition.creator.config_signature.clear(),
            DefinitionError::SignatureMissing { signer: Signer::Creator, field: "config_signature" },
        ),
        (
            |definition| definition.creator.config_signature[64] = 9,
            DefinitionError::InvalidSignature {
                signer: Signer::Creator,
                field: "config_signature",
                address: sample::address(&sample::wallets(4)[4]),
                contract: false,
            },
        ),
        (
            |definition| {
                definition.operators[0].enr_signature = definition.operators[1].enr_signature.clone()
            },
            DefinitionError::InvalidSignature {
                signer: operator(0),
                field: "enr_signature",
                address: sample::address(&sample::wallets(4)[0]),
                contract: false,
            },
        ),
    ];
    for (tamper, expected) in cases {
        let mut definition = signed(version);
        assert_eq!(verdict(&mut definition), Ok(()));
        tamper(&mut definition);
        assert_eq!(verdict(&mut definition), Err(expected));
    }
}

#[test]
fn wallets_of_several_owners_are_told_apart_from_forgeries() {
    let mut definition = signed(SchemaVersion::V1_11);
    let one = definition.operators[3].config_signature.clone().unwrap();
    definition.operators[3].config_signature = Some([one.clone(), one].concat());
    let error = verdict(&mut definition).unwrap_err();
    assert!(matches!(error, DefinitionError::ContractWallet { owners: 2, .. }), "{error}");
    // A contract's only owner signs in the form of an ordinary wallet, so this may be one too.
    let mut forged = signed(SchemaVersion::V1_11);
    forged.operators[3].config_signature = forged.operators[2].config_signature.clone();
    let forged = verdict(&mut forged).unwrap_err();
    assert!(matches!(forged, DefinitionError::InvalidSignature { contract: true, .. }), "{forged}");
    for said in [&error, &forged] {
        assert!(said.to_string().contains("have that member sign with an ordinary wallet"), "{said}");
    }
    // Before 1.11 there are none.
    let mut earlier = signed(SchemaVersion::V1_10);
    earlier.operators[3].config_signature = earlier.operators[2].config_signature.clone();
    let earlier = verdict(&mut earlier).unwrap_err();
    assert!(!earlier.to_string().contains("contract"), "{earlier}");
}

#[test]
fn the_first_versions_have_no_signatures() {
    let created = created();
    for version in [SchemaVersion::V1_0, SchemaVersion::V1_1, SchemaVersion::V1_2] {
        let mut definition = in_version(&created, version).definition;
        assert_eq!(verdict(&mut definition), Ok(()));
        definition.operators[1].enr_signature = Some(vec![1; 65]);
        let signer = Signer::Operator(1);
        assert_eq!(verdict(&mut definition), Err(DefinitionError::SignatureNotAllowed { signer, version }));
    }
    let mut definition = signed(SchemaVersion::V1_3);
    definition.creator.address = sample::address(&sample::wallets(4)[4]);
    let expected =
        DefinitionError::SignatureNotAllowed { signer: Signer::Creator, version: SchemaVersion::V1_3 };
    assert_eq!(verdict(&mut definition), Err(expected));
}

/// Changes the JSON of a good definition and expects it not to load.
fn not_loaded(version: SchemaVersion, change: impl FnOnce(&mut Value), expected: DefinitionError) {
    let definition = in_version(&created(), version).definition;
    let mut value: Value = serde_json::from_slice(&definition.to_json().unwrap()).unwrap();
    change(&mut value);
    assert_eq!(Definition::from_json(value.to_string().as_bytes()), Err(expected));
}

fn field(field: &str, problem: FieldProblem) -> DefinitionError {
    FieldError { field: field.to_owned(), problem }.into()
}

#[test]
fn malformed_definitions_do_not_load_and_the_member_is_named() {
    let v1_10 = SchemaVersion::V1_10;
    not_loaded(
        v1_10,
        |value| value["version"] = json!("v2.0.0"),
        DefinitionError::UnsupportedVersion("v2.0.0".to_owned()),
    );
    not_loaded(
        v1_10,
        |value| value["num_validators"] = json!(3),
        DefinitionError::ValidatorCount { num_validators: 3, found: 2 },
    );
    not_loaded(
        v1_10,
        |value| value["num_validators"] = json!(0),
        field("num_validators", FieldProblem::MustBe("between 1 and 65536")),
    );
    not_loaded(
        v1_10,
        |value| value["operators"][1]["enr_signature"] = json!("0xzz"),
        field("operators[1].enr_signature", FieldProblem::NotHex),
    );
    not_loaded(
        v1_10,
        |value| value["operators"][1]["enr_signature"] = json!("00".repeat(66)),
        field("operators.enr_signature", FieldProblem::TooLong { limit: 65, found: 66 }),
    );
    not_loaded(
        v1_10,
        |value| value["validators"][0]["withdrawal_address"] = json!("0x00"),
        field("validators.withdrawal_address", FieldProblem::Length { expected: 20, found: 1 }),
    );
    not_loaded(
        v1_10,
        |value| value["fork_version"] = json!("0x000000"),
        field("fork_version", FieldProblem::Length { expected: 4, found: 3 }),
    );
    not_loaded(
        v1_10,
        |value| value["name"] = json!("n".repeat(257)),
        field("name", FieldProblem::TooLong { limit: 256, found: 257 }),
    );
    not_loaded(v1_10, |value| value["operators"] = json!([]), field("operators", FieldProblem::Missing));
    not_loaded(
        SchemaVersion::V1_1,
        |value| value["operators"][0]["nonce"] = json!(1),
        field("operators[0].nonce", FieldProblem::MustBe("0")),
    );
    not_loaded(
        SchemaVersion::V1_1,
        |value| value["config_hash"] = json!("not base64"),
        field("config_hash", FieldProblem::NotBase64),
    );
}

#[test]
fn endless_lists_are_cut_short() {
    let definition = created().lock.definition;
    let mut value: Value = serde_json::from_slice(&definition.to_json().unwrap()).unwrap();
    value["operators"] = Value::Array(vec![value["operators"][0].clone(); 257]);
    let error = Definition::from_json(value.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("more than 256 elements"), "{error}");
    let large = vec![b' '; cluster::MAX_FILE_BYTES + 1];
    assert!(matches!(Definition::from_json(&large), Err(DefinitionError::FileTooLarge { .. })));
}

#[test]
fn deposit_amounts_are_checked_on_load() {
    let cases = [
        (json!(["999999999", "32000000000"]), "below the minimum"),
        (json!(["33000000000"]), "above the maximum"),
        (json!(["16000000000"]), "less than the 32 ETH"),
        (json!(["thirty-two"]), "whole number"),
    ];
    for (amounts, reason) in cases {
        let definition = created().lock.definition;
        let mut value: Value = serde_json::from_slice(&definition.to_json().unwrap()).unwrap();
        value["deposit_amounts"] = amounts;
        let error = Definition::from_json(value.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
