//! What the seal protects: other machines, changed files, old copies, and curious readers.

use crate::folder::{Charon, hand_in};
use crate::harness::*;
use crate::keymanager::{KEYSTORES, ask, token};
use crate::moving::{WORDS, arrive, restore};
use ipc::dkg::{CEREMONY_PATH, CeremonyStatus};
use ipc::edit::{EDIT_PATH, EditStatus};
use ipc::folder::{IdentityAnswer, IdentityToSeal, OPEN_IDENTITY_PATH, SEAL_IDENTITY_PATH, SealedIdentity};
use ipc::moving::MoveCertificate;
use ipc::signer::{History, ProtectionTier};
use tpm::{Tpm, swtpm::Swtpm};

async fn machine_with_a_share() -> Machine {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
    signer.stop();
    machine
}

async fn is_locked(machine: &Machine, why: &str, status: u16) {
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [why]);
    let shown = signer.status().await;
    assert_eq!((shown.protection.tier, shown.import_key), (ProtectionTier::None, None));
    assert_eq!(code(signer.attest(&pubshare(1), &vote(2, 3, 1)).await), refused(status, why));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tpm_it_says_so_and_does_nothing() {
    let mut machine = Machine::new();
    machine.tcti = "device:/dev/no-such-tpm".to_owned();
    is_locked(&machine, "tpm_missing", 503).await;
    let signer = machine.start().await;
    let sealed = ipc::envelope::seal(&"09".repeat(32), &bundle(&[1], History::NeverSigned)).unwrap();
    assert_eq!(code(signer.control.post::<()>("/v1/shares", &sealed).await), refused(503, "tpm_missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_in_another_machine_does_not_open() {
    let mut machine = machine_with_a_share().await;
    machine.swtpm = Some(Swtpm::start(&machine.dir.path().join("another tpm")).unwrap());
    machine.tcti = machine.swtpm.as_ref().unwrap().tcti().to_owned();
    is_locked(&machine, "other_tpm", 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_with_changed_settings_or_software_does_not_open() {
    for (pcr, why) in [(7, "boot_changed"), (12, "boot_changed"), (11, "software_changed")] {
        let mut machine = machine_with_a_share().await;
        Tpm::open(&machine.tcti).unwrap().extend_pcr(pcr, b"something else").unwrap();
        is_locked(&machine, why, 503).await;
        machine.swtpm = Some(machine.swtpm.take().unwrap().power_cycle().unwrap());
        machine.tcti = machine.swtpm.as_ref().unwrap().tcti().to_owned();
        let signer = machine.start().await;
        signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_vault_is_not_replaced() {
    let machine = machine_with_a_share().await;
    let path = machine.state().join("vault.tpm");
    let good = std::fs::read(&path).unwrap();
    let mut tampered = good.clone();
    *tampered.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &tampered).unwrap();
    is_locked(&machine, "vault_damaged", 503).await;
    std::fs::write(&path, &good[..100]).unwrap();
    is_locked(&machine, "vault_damaged", 503).await;
    std::fs::remove_file(&path).unwrap();
    is_locked(&machine, "vault_missing", 503).await;
    assert!(!path.exists(), "no new vault is made over shares of an old one");
    std::fs::write(&path, &good).unwrap();
    machine.start().await.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_whose_facts_were_changed_does_not_open() {
    let machine = machine_with_a_share().await;
    for change in [
        "UPDATE shares SET share_index = 3",
        "UPDATE shares SET share_index = 2, genesis_time = genesis_time - 1000000",
        "UPDATE shares SET genesis_time = genesis_time + 1000000, sealed = zeroblob(72)",
    ] {
        let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
        assert_eq!(database.execute(change, []).unwrap(), 1);
        drop(database);
        let signer = machine.start().await;
        assert_eq!(signer.problem_codes().await, ["share_damaged"], "{change}");
        assert_eq!(code(signer.attest(&pubshare(1), &vote(2, 3, 1)).await), refused(404, "unknown_key"));
        signer.stop();
    }
    // The owner's own copy puts it right, and what was signed is still known.
    let signer = machine.start().await;
    let mut again = bundle(&[1], History::NeverSigned);
    again.chain.genesis_time -= 300;
    let imported = signer.import_only(&again).await.unwrap();
    assert_eq!(imported.imported.len(), 1);
    assert_eq!(code(signer.attest(&pubshare(1), &vote(1, 2, 2)).await), refused(412, "slashable"));
    let next = epoch_of(&again.chain) + 3;
    until_epoch(&again.chain, next).await;
    signer.attest(&pubshare(1), &vote(next - 1, next, 1)).await.unwrap();
    assert_eq!(signer.problem_codes().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_signed_with_everybodys_keys_neither_takes_in_nor_serves_a_share_of_a_public_chain() {
    let real = of_mainnet(bundle(&[2], History::NeverSigned));
    let mut machine = machine_with_a_share().await;
    let signer = machine.start().await;
    signer.import_only(&real).await.unwrap();
    signer.stop();

    // The same disk under a system of other keys, which the TPM of this test cannot tell apart.
    machine.release_keys = false;
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["test_keys_real_chain"]);
    assert_eq!(code(signer.attest(&pubshare(2), &vote(2, 3, 1)).await), refused(412, "test_keys_real_chain"));
    let another = of_mainnet(bundle(&[3], History::NeverSigned));
    for bundle in [&another, &real] {
        assert_eq!(code(signer.import_only(bundle).await).1, "test_keys_real_chain");
    }
    // What is no public chain's goes on.
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    assert_eq!(signer.status().await.shares.len(), 2, "nothing was taken in, and nothing is lost");
    signer.stop();

    machine.release_keys = true;
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    assert_eq!(code(signer.attest(&pubshare(2), &vote(2, 3, 1)).await), refused(412, "wrong_chain"));
    signer.stop();

    // Nor is it served by another clock than its chain has, as one could be kept before this was asked.
    let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
    let change = "UPDATE shares SET genesis_time = genesis_time + 1000 WHERE slot_ms = 12000";
    assert_eq!(database.execute(change, []).unwrap(), 1);
    drop(database);
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["chain_clock_wrong"]);
    assert_eq!(code(signer.attest(&pubshare(2), &vote(2, 3, 1)).await), refused(404, "unknown_key"));
    // With its own, it comes in again.
    assert_eq!(signer.import_only(&real).await.unwrap().imported.len(), 1);
    assert!(signer.problem_codes().await.iter().all(|code| code == "waiting_after_import"));
    assert_eq!(code(signer.attest(&pubshare(2), &vote(2, 3, 1)).await), refused(412, "wrong_chain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_stops_everything() {
    let machine = machine_with_a_share().await;
    let path = machine.state().join("ledger.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[4096..middle].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let signer = machine.start().await;
    let problems = signer.problem_codes().await;
    assert!(problems == ["ledger_damaged"] || problems == ["ledger_unavailable"], "{problems:?}");
    assert_eq!(code(signer.attest(&pubshare(1), &vote(2, 3, 1)).await).0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_ledger_is_noticed() {
    let machine = machine_with_a_share().await;
    let path = machine.state().join("ledger.db");
    let old = std::fs::read(&path).unwrap();
    let signer = machine.start().await;
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    signer.stop();
    let new = std::fs::read(&path).unwrap();
    std::fs::write(&path, &old).unwrap();
    is_locked(&machine, "ledger_rolled_back", 503).await;
    std::fs::write(&path, &new).unwrap();
    let signer = machine.start().await;
    assert_eq!(code(signer.attest(&pubshare(1), &vote(2, 3, 2)).await), refused(412, "slashable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_ledger_beside_a_new_log_is_noticed() {
    let machine = machine_with_a_share().await;
    let path = machine.state().join("ledger.db");
    let old = std::fs::read(&path).unwrap();
    let signer = machine.start().await;
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    signer.stop();
    drop(machine.start().await); // kill -9: the log with the newest counter stays beside the ledger.
    assert!(machine.state().join("ledger.db-wal").metadata().unwrap().len() > 0);
    std::fs::write(&path, &old).unwrap();
    is_locked(&machine, "ledger_damaged", 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_on_the_disk_in_the_log_or_in_an_answer() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let numbers: Vec<u8> = (1..=5).collect();
    signer.import(&bundle(&numbers, History::NeverSigned)).await.unwrap();
    let mut wrong = bundle(&[6], History::NeverSigned);
    wrong.validators[0].public_key = pubshare(7).to_string();
    let refusal = format!("{:?}", signer.import(&wrong).await);
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
    let status = serde_json::to_string(&signer.status().await).unwrap();
    let metrics = signer.control.get_text("/metrics").await.unwrap();
    let running = machine.disk();
    let log = signer.log_text();
    signer.stop();
    let places = running
        .into_iter()
        .chain(machine.disk())
        .map(|(path, bytes)| (path.display().to_string(), bytes))
        .chain(
            [("log", log), ("status", status), ("metrics", metrics), ("refusal", refusal)]
                .map(|(name, text)| (name.to_owned(), text.into_bytes())),
        );
    for (place, bytes) in places {
        for number in 1..=7 {
            let secret = secret(number).expose_bytes();
            let hex = hex::encode(secret.as_slice());
            for needle in [secret.as_slice(), hex.as_bytes(), &hex.as_bytes()[..24], PASSWORD.as_bytes()] {
                let found = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "a secret is in {place}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_secret_in_the_wrong_place_is_never_repeated() {
    let machine = Machine::new();
    let signer = machine.start().await;
    // The signing socket looks into a request only for a share that is held.
    signer.import_only(&bundle(&[2], History::NeverSigned)).await.unwrap();
    let hex = hex::encode(secret(1).expose_bytes());
    let mut shown = Vec::new();
    for form in [hex.clone(), format!("0x{hex}")] {
        let text = || serde_json::json!(form);
        let changes: [&dyn Fn(&mut ipc::signer::ShareBundle); 12] = [
            &|b| b.validators[0].keystore = text(),
            &|b| b.validators[0].keystore = serde_json::json!({ "secret": form }),
            &|b| b.validators[0].keystore = serde_json::json!({ &form: 1 }),
            &|b| b.validators[0].keystore["version"] = text(),
            &|b| b.validators[0].keystore["pubkey"] = text(),
            &|b| b.validators[0].keystore["crypto"]["kdf"]["function"] = text(),
            &|b| b.validators[0].keystore["crypto"]["cipher"]["message"] = serde_json::json!(["", form]),
            &|b| b.validators[0].public_key.clone_from(&form),
            &|b| b.validators[0].group_public_key.clone_from(&form),
            &|b| b.validators[0].password = ipc::Sensitive::new(form.clone()),
            &|b| b.history = History::Interchange(text()),
            &|b| {
                let metadata = serde_json::json!({
                    "interchange_format_version": "5",
                    "genesis_validators_root": format!("0x{hex}"),
                });
                b.history = History::Interchange(serde_json::json!({ "metadata": metadata, "data": [] }));
            },
        ];
        for change in changes {
            let mut wrong = bundle(&[1], History::NeverSigned);
            change(&mut wrong);
            let refusal = signer.import_only(&wrong).await.unwrap_err();
            shown.push(format!("{refusal} {refusal:?}"));
        }
        for path in ["/v1/shares", &format!("/api/v1/eth2/sign/{}", pubshare(1))] {
            for body in [
                text(),
                serde_json::json!({ &form: 1 }),
                serde_json::json!({ "enc": [form], "type": [form] }),
            ] {
                let client = if path.starts_with("/v1") { &signer.control } else { &*signer.sign };
                let refusal = client.post::<()>(path, &body).await.unwrap_err();
                shown.push(format!("{refusal} {refusal:?}"));
            }
        }
        let held = format!("/api/v1/eth2/sign/{}", pubshare(2));
        let with = |kind: &str, field: &str, value: serde_json::Value| serde_json::json!({ "type": kind, "fork_info": fork_info(), field: value });
        let inside = serde_json::json!({ "slot": form, "index": form });
        for (path, body) in [
            (&held, with(&form, "attestation", text())),
            (&held, with("ATTESTATION", "attestation", text())),
            (&held, with("ATTESTATION", "attestation", inside)),
            (&held, with("ATTESTATION", &form, text())),
            (&held, with("RANDAO_REVEAL", "randao_reveal", serde_json::json!({ "epoch": form }))),
            (&held, with("DEPOSIT", "deposit", serde_json::json!({ "pubkey": form }))),
            (&format!("/api/v1/eth2/sign/{form}"), with("ATTESTATION", "attestation", text())),
        ] {
            let refusal = signer.sign.post::<()>(path, &body).await.unwrap_err();
            shown.push(format!("{refusal} {refusal:?}"));
            let mut group = body;
            group["keys"] = serde_json::json!([pubshare(2)]);
            let groups = serde_json::json!([group]);
            let many = signer.sign.post::<serde_json::Value>(ipc::web3signer::SIGN_MANY_PATH, &groups).await;
            shown.push(format!("{many:?}"));
        }
    }
    shown.push(signer.log_text());
    for text in shown {
        let found = hex.as_bytes().windows(12).any(|part| text.contains(std::str::from_utf8(part).unwrap()));
        assert!(!found, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secure_boot_nothing_is_sealed_and_nothing_taken_in() {
    let mut machine = Machine::new();
    machine.secure_boot = true;
    is_locked(&machine, "secure_boot_off", 503).await; // The firmware says nothing.
    for (secure_boot, setup_mode) in [(0, 0), (1, 1), (0, 1)] {
        machine.set_secure_boot(secure_boot, setup_mode);
        is_locked(&machine, "secure_boot_off", 503).await;
    }
    assert!(!machine.state().join("vault.tpm").exists());
    machine.set_secure_boot(1, 0);
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    machine.set_secure_boot(0, 0);
    let off = refused(503, "secure_boot_off");
    assert_eq!(code(signer.import_only(&bundle(&[2], History::NeverSigned)).await), off);
    // Nor through any other door.
    assert_eq!(code(hand_in(&signer, &Charon::new(clock()).folder(0)).await), off);
    assert_eq!(code(restore(&signer, "{}", WORDS).await), off);
    let (body, empty) = ("{}".to_owned(), String::new);
    let nothing = MoveCertificate { body, enc: empty(), ciphertext: empty(), signature: empty() };
    assert_eq!(code(arrive(&signer, "", &nothing).await), off);
    let change = signer.control.put::<EditStatus>(EDIT_PATH, &crate::edit::World::new().consent()).await;
    assert_eq!(code(change), off);
    let consent = crate::ceremony::Ceremony::new().consent(vec![]);
    assert_eq!(code(signer.control.put::<CeremonyStatus>(CEREMONY_PATH, &consent).await), off);
    let token = token(&signer).await;
    let (status, answer) = ask(&machine, Some(&token), "POST", KEYSTORES, "{}").await;
    assert_eq!((status, answer["code"].as_str()), (503, Some("secure_boot_off")), "{answer}");
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_was_not_made_by_the_tpm_for_us_is_not_used() {
    // A genuine key of this TPM, but made under another boot, put in place before the first start.
    let machine = Machine::new();
    let boot = machine.dir.path().join("boot");
    let policy = tpm::Policy::load(
        &boot.join("tpm2-pcr-public-key.pem"),
        &boot.join("tpm2-pcr-signature.json"),
        &[12],
    );
    let blob = Tpm::open(&machine.tcti).unwrap().make_key(&policy.unwrap()).unwrap();
    std::fs::create_dir_all(machine.state()).unwrap();
    std::fs::write(machine.state().join("vault.tpm"), blob.to_bytes()).unwrap();
    is_locked(&machine, "vault_damaged", 503).await;
}

async fn seal_identity(signer: &Running, key: &str) -> String {
    let wanted = IdentityToSeal { identity_key: ipc::Sensitive::new(key.to_owned()) };
    signer.sign.post::<SealedIdentity>(SEAL_IDENTITY_PATH, &wanted).await.unwrap().sealed
}

async fn open_identity(signer: &Running, sealed: &str) -> Result<String, ipc::ClientError> {
    let kept = SealedIdentity { sealed: sealed.to_owned() };
    let answer = signer.sign.post::<IdentityAnswer>(OPEN_IDENTITY_PATH, &kept).await?;
    Ok(answer.identity_key.expose_secret().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_s_identity_key_opens_where_it_was_sealed_and_nowhere_else() {
    let key = "3d".repeat(32);
    let mut machine = machine_with_a_share().await;
    let signer = machine.start().await;
    let sealed = seal_identity(&signer, &key).await;
    assert_ne!(seal_identity(&signer, &key).await, sealed, "each time by another nonce");
    assert!(!sealed.contains(&key[..16]) && !sealed.contains(&hex::encode(&key[..8])));
    assert_eq!(open_identity(&signer, &sealed).await.unwrap(), key);
    // Nothing of it stays in this process's files or words.
    for (path, content) in machine.disk() {
        for part in [&key.as_bytes()[..16], &[0x3d; 16][..]] {
            assert!(!content.windows(16).any(|window| window == part), "{}", path.display());
        }
    }
    assert!(!signer.log_text().contains(&key[..16]));
    // Changed, cut off, too long, or sealed for another purpose.
    let elsewhere = refused(422, "identity_sealed_elsewhere");
    let other_digit = if sealed.ends_with('0') { "1" } else { "0" };
    let changed = format!("{}{other_digit}", &sealed[..sealed.len() - 1]);
    let charon = Charon::new(clock());
    hand_in(&signer, &charon.folder(2)).await.unwrap();
    let for_backups =
        machine.disk().into_iter().find(|(path, _)| path.to_string_lossy().contains("identity-"));
    let for_backups = hex::encode(for_backups.unwrap().1);
    let too_long = sealed.repeat(9);
    for text in [changed.as_str(), &sealed[..40], "", "zz", too_long.as_str(), for_backups.as_str()] {
        assert_eq!(code(open_identity(&signer, text).await), elsewhere, "{text}");
    }
    let no_key = IdentityToSeal { identity_key: ipc::Sensitive::new("00".repeat(32)) };
    let refusal = signer.sign.post::<SealedIdentity>(SEAL_IDENTITY_PATH, &no_key).await;
    assert_eq!(code(refusal), refused(422, "identity_key_invalid"));
    // The owner's socket, and so the page, has no such door.
    let wish = SealedIdentity { sealed: sealed.clone() };
    let through_the_page = signer.control.post::<IdentityAnswer>(OPEN_IDENTITY_PATH, &wish).await;
    assert!(through_the_page.is_err());
    signer.stop();

    // Another box's vault, and this one's disk under another system or in another machine.
    let another = Machine::new();
    let there = another.start().await;
    assert_eq!(code(open_identity(&there, &sealed).await), elsewhere);
    there.stop();
    for (pcr, why) in [(7, "boot_changed"), (11, "software_changed")] {
        Tpm::open(&machine.tcti).unwrap().extend_pcr(pcr, b"something else").unwrap();
        let signer = machine.start().await;
        assert_eq!(code(open_identity(&signer, &sealed).await), refused(503, why));
        signer.stop();
        machine.swtpm = Some(machine.swtpm.take().unwrap().power_cycle().unwrap());
        machine.tcti = machine.swtpm.as_ref().unwrap().tcti().to_owned();
        let signer = machine.start().await;
        assert_eq!(open_identity(&signer, &sealed).await.unwrap(), key);
        signer.stop();
    }
    machine.swtpm = Some(Swtpm::start(&machine.dir.path().join("another tpm")).unwrap());
    machine.tcti = machine.swtpm.as_ref().unwrap().tcti().to_owned();
    let signer = machine.start().await;
    assert_eq!(code(open_identity(&signer, &sealed).await), refused(503, "other_tpm"));
}
