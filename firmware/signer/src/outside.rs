//! The parsers of outside bytes as plain functions: the way in for fuzzing.
//!
//! Not an interface: nothing that runs on the box calls it, and nothing here holds, makes or uses a key share in service.

use chain::{Epoch, ExecutionAddress, ForkVersion, PublicKeyBytes, Root, Slot};
use ipc::SignRequest;
use ipc::dkg::CeremonyConsent;
use ipc::edit::EditConsent;
use ipc::owner::OwnerRules;
use ipc::signer::{ChainClock, ShareBundle};

use crate::message::{Vote, read};
use crate::rules::Rules;

/// What would be signed for a request, if the ledger and the rules allowed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The root that the share would sign.
    pub signing_root: Root,
    /// The epoch of its domain.
    pub epoch: Epoch,
    /// Source and target, of an attestation.
    pub attestation: Option<(Epoch, Epoch)>,
    /// The slot, of a block.
    pub block: Option<Slot>,
}

/// Reads a request to sign.
pub fn sign_request(
    request: &SignRequest,
    genesis_validators_root: Root,
    clock: &ChainClock,
) -> Option<Asked> {
    let rules = Rules {
        genesis_fork_version: ForkVersion([1; 4]),
        capella_fork_version: Some(ForkVersion([3; 4])),
        fee_recipient: ExecutionAddress([9; 20]),
        gas_limit: 36_000_000,
        withdrawal_credentials: None,
    };
    let message = read(request, genesis_validators_root, clock, Some(&rules)).ok()?;
    let (attestation, block) = match message.vote {
        Vote::Attestation { source, target } => (Some((source, target)), None),
        Vote::Block { slot } => (None, Some(slot)),
        Vote::None => (None, None),
    };
    Some(Asked { signing_root: message.signing_root, epoch: message.epoch, attestation, block })
}

/// Unpacks an opened bundle of shares; the public shares in it. Derives a key for each keystore, as costly as it says.
pub fn share_bundle(bundle: ShareBundle) -> Option<Vec<PublicKeyBytes>> {
    crate::import::unpacked_keys(bundle)
}

/// Whether a request to import over the keymanager API can be looked at.
pub fn keymanager_import(body: &[u8]) -> bool {
    crate::keymanager::read_request(body).is_ok()
}

/// Reads and checks the folder of a Charon node; the public shares in it.
pub fn charon_folder(text: &[u8]) -> Option<Vec<PublicKeyBytes>> {
    Some(crate::folder::check(crate::folder::read(text).ok()?).ok()?.public_shares())
}

/// Reads and checks what an SSV operator hands in; the public shares in it.
pub fn ssv_files(text: &[u8]) -> Option<Vec<PublicKeyBytes>> {
    let checked = crate::ssv::check(crate::ssv::read(text).ok()?);
    Some(checked.ok()?.public_shares())
}

/// Opens a backup; the public shares in it. Derives a key as costly as the file says.
pub fn backup(file: &[u8], passphrase: &str) -> Option<Vec<PublicKeyBytes>> {
    let opened = crate::backup::decrypt(file, passphrase).ok()?;
    Some(opened.shares.iter().map(|share| share.row.pubshare).collect())
}

/// Reads what is inside a backup; the public shares in it.
pub fn backup_content(plain: &[u8]) -> Option<Vec<PublicKeyBytes>> {
    let opened = crate::backup::read(plain).ok()?;
    Some(opened.shares.iter().map(|share| share.row.pubshare).collect())
}

/// A backup that is always the same and whose passphrase is tried in no time: something for `backup` to read.
pub fn make_backup(content: &ipc::moving::BackupContent, passphrase: &str) -> Option<String> {
    crate::backup::encrypt(content, passphrase, 64, &[1; 16], &[2; 24])
}

/// Reads the file of a vault under a passphrase, and writes it anew.
pub fn passphrase_vault(file: &[u8]) -> Option<Vec<u8>> {
    Some(crate::no_tpm::Wrapped::read(file)?.to_bytes())
}

/// Whether it opens; nothing where trying would cost more than a moment.
pub fn open_passphrase_vault(file: &[u8], words: &str) -> Option<bool> {
    let wrapped = crate::no_tpm::Wrapped::read(file)?;
    wrapped.is_cheap().then(|| wrapped.open(words).is_some())
}

/// A vault that is always the same and whose passphrase is tried in no time.
pub fn make_passphrase_vault(words: &str) -> Option<Vec<u8>> {
    let fresh = crate::no_tpm::Fresh { salt: [1; 16], nonce: [2; 24] };
    Some(crate::no_tpm::Wrapped::wrap(&[3; crate::no_tpm::ROOT_BYTES], words, 64, &fresh)?.to_bytes())
}

/// Reads what is kept of a cluster's identity key, and writes it anew; none where no key is in it.
pub fn kept_identity(text: &[u8]) -> Option<Vec<u8>> {
    Some(crate::identities::Kept::read(text)?.rewritten()?.to_vec())
}

/// Whether a property of a device tree names a TPM.
pub fn names_a_tpm(property: &[u8]) -> bool {
    crate::no_tpm::names_a_tpm(property)
}

/// Whether a passphrase may be chosen.
pub fn is_strong(words: &str) -> bool {
    crate::no_tpm::weakness(words).is_none()
}

/// What an old box signs of a certificate.
pub fn certificate_digest(certificate: &ipc::moving::MoveCertificate) -> [u8; 32] {
    crate::migrate::digest(certificate)
}

/// A vote that somebody says to have seen: what was signed, and whether it was the share.
pub fn seen_signature(
    seen: &ipc::web3signer::SeenSignature,
    genesis_validators_root: Root,
    clock: &ChainClock,
) -> Option<(Root, bool)> {
    let message = read(&seen.request, genesis_validators_root, clock, None).ok()?;
    let signing_root = message.signing_root;
    (message.vote != Vote::None).then(|| {
        let asked = crate::ledger::Asked { key: seen.key, message };
        (signing_root, crate::elsewhere::is_valid(&asked, seen))
    })
}

/// Reads a request to delete over the keymanager API; the keys that it names, none where it names something else.
pub fn keymanager_delete(body: &[u8]) -> Option<Vec<Option<PublicKeyBytes>>> {
    crate::keymanager::read_deletion(body).ok()
}

/// Whether the owner's word about a client outside the box makes sense.
pub fn remote_client_order(order: &ipc::remote::RemoteClientOrder) -> bool {
    crate::remote::check_order(order).is_ok()
}

/// Reads what a certificate of a move says; how many shares it is about.
pub fn move_certificate(arrival: &ipc::moving::Arrival) -> Option<usize> {
    crate::migrate::read(arrival).ok().map(|body| body.shares.len())
}

/// What the owner allows beside duties; how many validators it is for.
pub fn owner_rules(rules: OwnerRules) -> Option<usize> {
    crate::owner::rules_of(rules, &[]).ok().map(|rules| rules.len())
}

/// Whether the owner's consent to a change of the cluster makes sense.
pub fn edit_consent(consent: EditConsent) -> bool {
    crate::edit::Ceremony::new(consent).is_ok()
}

/// Whether the owner's consent to a key generation makes sense.
pub fn ceremony_consent(consent: CeremonyConsent) -> bool {
    crate::ceremony::is_sound(consent)
}
