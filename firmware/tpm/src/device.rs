//! The conversation with the TPM. Every object and session made here is flushed on every path out.

use std::str::FromStr as _;

use sha2::{Digest as _, Sha256};
use tss_esapi::{
    Context, TctiNameConf,
    abstraction::pcr,
    attributes::{ObjectAttributesBuilder, SessionAttributesBuilder},
    constants::{PropertyTag, SessionType, Tss2ResponseCodeKind},
    handles::{KeyHandle, ObjectHandle, SessionHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::Hierarchy,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        EccPoint, EccScheme, KeyDerivationFunctionScheme, KeyedHashScheme, MaxBuffer, Nonce,
        PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Private, Public, PublicBuilder,
        PublicEccParametersBuilder, PublicKeyRsa, PublicKeyedHashParameters, PublicRsaParametersBuilder,
        RsaExponent, RsaScheme, RsaSignature, SensitiveData, Signature, SymmetricDefinition,
        SymmetricDefinitionObject,
    },
    traits::{Marshall as _, UnMarshall as _},
};
use zeroize::Zeroizing;

use crate::{
    SealedBlob, TpmError,
    error::Doing as _,
    policy::{Approval, ApprovalKey, Digest, Policy, SIGNED_PCR},
};

/// The boot goes through its phases within seconds, each of which extends PCR 11 once.
const USE_ATTEMPTS: u8 = 8;

/// An open conversation with a TPM. Short-lived: open, do one thing, drop.
pub struct Tpm {
    pub(crate) context: Context,
}

/// Describes an object for a policy digest.
type Template = fn(&Digest) -> Result<Public, TpmError>;

/// What the TPM says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmIdentity {
    /// Four letters of the maker.
    pub manufacturer: String,
    /// The maker's own text.
    pub model: String,
    /// Firmware version.
    pub firmware: String,
    /// Whether it is a program and not a chip.
    pub is_software: bool,
}

impl Tpm {
    /// Opens the TPM at `tcti`: `device:/dev/tpmrm0`, or `swtpm:host=127.0.0.1,port=N` for a software one.
    pub fn open(tcti: &str) -> Result<Self, TpmError> {
        let missing = |source| TpmError::Missing { tcti: tcti.to_owned(), source };
        let name = TctiNameConf::from_str(tcti).map_err(missing)?;
        let mut context = Context::new(name).map_err(missing)?;
        // A socket or device that opens is not yet a TPM that answers.
        context.get_tpm_property(PropertyTag::Manufacturer).map_err(missing)?;
        Ok(Self { context })
    }

    /// Who made this TPM.
    pub fn identity(&mut self) -> Result<TpmIdentity, TpmError> {
        let manufacturer = self.property_text(&[PropertyTag::Manufacturer])?;
        let model = self.property_text(&[
            PropertyTag::VendorString1,
            PropertyTag::VendorString2,
            PropertyTag::VendorString3,
            PropertyTag::VendorString4,
        ])?;
        let mut version = [0_u32; 2];
        for (part, tag) in
            version.iter_mut().zip([PropertyTag::FirmwareVersion1, PropertyTag::FirmwareVersion2])
        {
            *part = self.context.get_tpm_property(tag).doing("asking for its version")?.unwrap_or(0);
        }
        let firmware = format!("{}.{}.{:x}", version[0] >> 16, version[0] & 0xffff, version[1]);
        let is_software = model.starts_with("SW");
        Ok(TpmIdentity { manufacturer, model, firmware, is_software })
    }

    fn property_text(&mut self, tags: &[PropertyTag]) -> Result<String, TpmError> {
        let mut text = String::new();
        for tag in tags {
            let word = self.context.get_tpm_property(*tag).doing("asking for its maker")?.unwrap_or(0);
            text.extend(
                word.to_be_bytes()
                    .iter()
                    .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
                    .map(|byte| char::from(*byte)),
            );
        }
        Ok(text.trim().to_owned())
    }

    /// Makes a key inside the TPM under a policy. Nobody has ever seen it, and only this TPM can use it, so whatever is
    /// derived from it is known to nobody who did not come through the policy.
    pub fn make_key(&mut self, policy: &Policy) -> Result<SealedBlob, TpmError> {
        self.create(policy, key_template, None)
    }

    fn create(
        &mut self,
        policy: &Policy,
        template: Template,
        content: Option<&[u8]>,
    ) -> Result<SealedBlob, TpmError> {
        let values = self.pcr_values(&policy.literal_pcrs)?;
        let template = template(&policy.digest(&values))?;
        self.with_srk(|tpm, srk, srk_name| {
            let created = tpm.with_session(SessionType::Hmac, srk, |tpm, session| {
                let content =
                    content.map(SensitiveData::try_from).transpose().doing("preparing the content")?;
                tpm.context
                    .execute_with_session(Some(session), |context| {
                        context.create(srk, template, None, content, None, None)
                    })
                    .doing("making a key")
            })?;
            Ok(SealedBlob {
                srk_name,
                key_name: policy.key.name(),
                literal: policy.literal_pcrs.iter().copied().zip(values).collect(),
                public: created.out_public.marshall().doing("reading the new key")?,
                private: created.out_private.value().to_vec(),
            })
        })
    }

    /// HMAC-SHA256 of each label with the blob's key, if this is the TPM that made it, it is a key as [`Self::make_key`]
    /// makes them, and the boot is one that its policy lets in. The same label gives the same 32 bytes each time.
    pub fn derive<const N: usize>(
        &mut self,
        blob: &SealedBlob,
        policy: &Policy,
        labels: [&[u8]; N],
    ) -> Result<[Zeroizing<Digest>; N], TpmError> {
        self.check_genuine(blob, policy)?;
        let mut derived: [Zeroizing<Digest>; N] = std::array::from_fn(|_| Zeroizing::new([0; 32]));
        for (key, label) in derived.iter_mut().zip(labels) {
            *key = self.derive_observed(blob, policy, label, &mut |_| Ok(()))?;
        }
        Ok(derived)
    }

    /// Whether the blob is a key that the TPM itself made, that cannot be used but through the policy, and whose policy is
    /// the current one. Without this, a thief with the board for an hour could put a key there whose content he knows, and
    /// everything sealed under it afterwards would be sealed for him too. The TPM vouches for the public area when it
    /// loads the key.
    fn check_genuine(&mut self, blob: &SealedBlob, policy: &Policy) -> Result<(), TpmError> {
        if blob.key_name != policy.key.name() {
            return Err(TpmError::OtherSigner);
        }
        let srk_name = self.with_srk(|_, _, name| Ok(name))?;
        if srk_name != blob.srk_name {
            return Err(TpmError::OtherTpm);
        }
        // Looked at before the policy only to say in words what is wrong.
        self.check_literal(blob)?;
        let values = self.pcr_values(&policy.literal_pcrs)?;
        let expected = key_template(&policy.digest(&values))?;
        let found = Public::unmarshall(&blob.public).map_err(|_| TpmError::Tampered)?;
        let (
            Public::KeyedHash { object_attributes, name_hashing_algorithm, auth_policy, parameters, .. },
            Public::KeyedHash {
                object_attributes: expected_attributes,
                name_hashing_algorithm: expected_hash,
                auth_policy: expected_policy,
                parameters: expected_parameters,
                ..
            },
        ) = (found, expected)
        else {
            return Err(TpmError::Foreign);
        };
        let genuine = object_attributes == expected_attributes
            && name_hashing_algorithm == expected_hash
            && auth_policy == expected_policy
            && parameters == expected_parameters;
        if genuine { Ok(()) } else { Err(TpmError::Foreign) }
    }

    /// The PCRs whose values are not those that the blob says it was made under.
    fn check_literal(&mut self, blob: &SealedBlob) -> Result<(), TpmError> {
        let pcrs: Vec<u8> = blob.literal.iter().map(|(pcr, _)| *pcr).collect();
        let now = self.pcr_values(&pcrs)?;
        let changed = blob.literal.iter().zip(now).filter(|((_, then), now)| then != now);
        let changed: Vec<u8> = changed.map(|((pcr, _), _)| *pcr).collect();
        if changed.is_empty() { Ok(()) } else { Err(TpmError::PcrMismatch { pcrs: changed }) }
    }

    /// One label, with a look-in between the policy and the use, where a test may extend a PCR.
    fn derive_observed(
        &mut self,
        blob: &SealedBlob,
        policy: &Policy,
        label: &[u8],
        before_use: &mut dyn FnMut(&mut Self) -> Result<(), TpmError>,
    ) -> Result<Zeroizing<Digest>, TpmError> {
        self.with_srk(|tpm, srk, _| {
            let public = Public::unmarshall(&blob.public).map_err(|_| TpmError::Tampered)?;
            let private = Private::try_from(blob.private.as_slice()).map_err(|_| TpmError::Tampered)?;
            let loaded = tpm
                .context
                .execute_with_session(Some(AuthSession::Password), |context| {
                    context.load(srk, private, public)
                })
                .map_err(|source| match kind(source) {
                    Some(
                        Tss2ResponseCodeKind::Integrity
                        | Tss2ResponseCodeKind::Size
                        | Tss2ResponseCodeKind::Insufficient
                        | Tss2ResponseCodeKind::Binding
                        | Tss2ResponseCodeKind::Attributes
                        | Tss2ResponseCodeKind::Type
                        | Tss2ResponseCodeKind::Value
                        | Tss2ResponseCodeKind::Hash,
                    ) => TpmError::Tampered,
                    _ => TpmError::Refused { doing: "loading the key", source },
                })?;
            let derived = tpm.use_loaded(policy, srk, loaded, label, before_use);
            tpm.flush(loaded.into())?;
            derived
        })
    }

    fn use_loaded(
        &mut self,
        policy: &Policy,
        srk: KeyHandle,
        key: KeyHandle,
        label: &[u8],
        before_use: &mut dyn FnMut(&mut Self) -> Result<(), TpmError>,
    ) -> Result<Zeroizing<Digest>, TpmError> {
        let mut attempt = 1;
        loop {
            let pcr11 = self.pcr_values(&[SIGNED_PCR])?;
            let outcome = self.use_once(policy, srk, key, label, &pcr11, before_use);
            // A phase of the boot may have ended meanwhile (its end extends PCR 11): then the next one is approved. And
            // the TPM counts extensions of all PCRs together: one of any other, such as the kernel's own log of what
            // it loads, also spoils a policy that was half proven.
            let spoiled = matches!(&outcome, Err(TpmError::Refused { source, .. }) if pcr_changed(*source));
            let mut moved = || -> Result<bool, TpmError> { Ok(self.pcr_values(&[SIGNED_PCR])? != pcr11) };
            if outcome.is_ok() || attempt == USE_ATTEMPTS || !(spoiled || moved()?) {
                return outcome;
            }
            attempt += 1;
            tracing::info!(attempt, "the boot went on while a key was being used: trying again");
        }
    }

    fn use_once(
        &mut self,
        policy: &Policy,
        srk: KeyHandle,
        key: KeyHandle,
        label: &[u8],
        pcr11: &[Digest],
        before_use: &mut dyn FnMut(&mut Self) -> Result<(), TpmError>,
    ) -> Result<Zeroizing<Digest>, TpmError> {
        let approval =
            pcr11.first().and_then(|value| policy.approvals_of(value).next()).ok_or(TpmError::NotApproved)?;
        let label = MaxBuffer::try_from(label).doing("preparing a label")?;
        // The answer crosses the bus encrypted: the session is salted to a key that only the TPM has.
        self.with_session(SessionType::Policy, srk, |tpm, session| {
            let policy_session = PolicySession::try_from(session).doing("starting a policy session")?;
            tpm.authorize(policy_session, &policy.key, approval)?;
            if !policy.literal_pcrs.is_empty() {
                tpm.context
                    .policy_pcr(
                        policy_session,
                        tss_esapi::structures::Digest::default(),
                        selection(&policy.literal_pcrs)?,
                    )
                    .doing("proving the literal PCRs")?;
            }
            before_use(tpm)?;
            let derived = tpm
                .context
                .execute_with_session(Some(session), |context| {
                    context.hmac(ObjectHandle::from(key), label, HashingAlgorithm::Sha256)
                })
                .map_err(|source| match kind(source) {
                    Some(Tss2ResponseCodeKind::PolicyFail) => TpmError::NotApproved,
                    Some(Tss2ResponseCodeKind::CommandCode) => TpmError::Unsupported,
                    _ => TpmError::Refused { doing: "using the key", source },
                })?;
            <Digest>::try_from(derived.value()).map(Zeroizing::new).map_err(|_| TpmError::Tampered)
        })
    }

    /// Brings a policy session to "PCR 11 has a value that the image's key approved".
    fn authorize(
        &mut self,
        session: PolicySession,
        key: &ApprovalKey,
        approval: &Approval,
    ) -> Result<(), TpmError> {
        let none = tss_esapi::structures::Digest::default;
        self.context
            .policy_pcr(session, none(), selection(&[SIGNED_PCR])?)
            .doing("proving the measured boot")?;
        let handle = self
            .context
            .load_external_public(approval_key_template(key)?, Hierarchy::Owner)
            .doing("loading the image's key")?;
        let authorized = self.authorize_with(session, handle, approval);
        self.flush(handle.into())?;
        authorized
    }

    fn authorize_with(
        &mut self,
        session: PolicySession,
        key: KeyHandle,
        approval: &Approval,
    ) -> Result<(), TpmError> {
        let bytes =
            PublicKeyRsa::try_from(approval.signature.as_slice()).map_err(|_| TpmError::NotApproved)?;
        let signature =
            RsaSignature::create(HashingAlgorithm::Sha256, bytes).map_err(|_| TpmError::NotApproved)?;
        let signed = tss_esapi::structures::Digest::try_from(Sha256::digest(approval.policy).as_slice())
            .doing("reading an approval")?;
        let ticket = self
            .context
            .verify_signature(key, signed, Signature::RsaSsa(signature))
            .map_err(|_| TpmError::NotApproved)?;
        let approved = tss_esapi::structures::Digest::try_from(approval.policy.as_slice())
            .doing("reading an approval")?;
        let name = self.context.tr_get_name(key.into()).doing("naming the image's key")?;
        self.context
            .policy_authorize(session, approved, Nonce::default(), &name, ticket)
            .map_err(|_| TpmError::NotApproved)
    }

    /// Runs `work` with the storage root key, made anew from its template (the same key each time) and flushed after.
    fn with_srk<T>(
        &mut self,
        work: impl FnOnce(&mut Self, KeyHandle, Vec<u8>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let template = srk_template()?;
        let srk = self
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.create_primary(Hierarchy::Owner, template, None, None, None, None)
            })
            .doing("making the storage root key")?
            .key_handle;
        let done = self
            .context
            .tr_get_name(srk.into())
            .doing("naming the storage root key")
            .and_then(|name| work(self, srk, name.value().to_vec()));
        self.flush(srk.into())?;
        done
    }

    /// Runs `work` with a session salted to `salt_key`, whose parameters and answers are encrypted on the bus.
    fn with_session<T>(
        &mut self,
        session_type: SessionType,
        salt_key: KeyHandle,
        work: impl FnOnce(&mut Self, AuthSession) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let session = self
            .context
            .start_auth_session(
                Some(salt_key),
                None,
                None,
                session_type,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .doing("starting a session")?
            .ok_or(TpmError::NotApproved)?;
        let (attributes, mask) =
            SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
        let done = self
            .context
            .tr_sess_set_attributes(session, attributes, mask)
            .doing("setting up a session")
            .and_then(|()| work(self, session));
        self.flush(SessionHandle::from(session).into())?;
        done
    }

    fn flush(&mut self, handle: ObjectHandle) -> Result<(), TpmError> {
        self.context.flush_context(handle).doing("clearing up")
    }

    /// The SHA-256 values of some PCRs, in the order asked (ascending).
    pub(crate) fn pcr_values(&mut self, pcrs: &[u8]) -> Result<Vec<Digest>, TpmError> {
        if pcrs.is_empty() {
            return Ok(Vec::new());
        }
        let read = pcr::read_all(&mut self.context, selection(pcrs)?).doing("reading PCRs")?;
        pcrs.iter()
            .map(|pcr| {
                let value = read.pcr_bank(HashingAlgorithm::Sha256)?.get_digest(slot(*pcr)?)?;
                value.value().try_into().ok()
            })
            .collect::<Option<_>>()
            .ok_or(TpmError::PcrMismatch { pcrs: pcrs.to_vec() })
    }

    /// Extends a PCR, as the firmware and systemd do at boot. For tests on software TPMs.
    #[cfg(feature = "dev")]
    pub fn extend_pcr(&mut self, pcr: u8, event: &[u8]) -> Result<(), TpmError> {
        use tss_esapi::{handles::PcrHandle, structures::DigestValues};
        let bad = || TpmError::PcrMismatch { pcrs: vec![pcr] };
        let mut values = DigestValues::new();
        let digest =
            tss_esapi::structures::Digest::try_from(Sha256::digest(event).as_slice()).map_err(|_| bad())?;
        values.set(HashingAlgorithm::Sha256, digest);
        let handle = match pcr {
            7 => PcrHandle::Pcr7,
            10 => PcrHandle::Pcr10,
            11 => PcrHandle::Pcr11,
            12 => PcrHandle::Pcr12,
            _ => return Err(bad()),
        };
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(handle, values))
            .doing("extending a PCR")
    }

    /// Clears it, as the firmware's menu does: every key and counter of its owner is gone. For tests on software TPMs.
    #[cfg(feature = "dev")]
    pub fn clear(&mut self) -> Result<(), TpmError> {
        use tss_esapi::handles::AuthHandle;
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.clear(AuthHandle::Platform))
            .doing("clearing the TPM")
    }

    /// What PCR 11 holds now, for making an approval of it.
    #[cfg(feature = "dev")]
    pub fn measured_boot(&mut self) -> Result<Digest, TpmError> {
        self.pcr_values(&[SIGNED_PCR])?.first().copied().ok_or(TpmError::NotApproved)
    }

    /// How many transient objects and sessions are in the TPM.
    #[cfg(feature = "dev")]
    pub fn leftovers(&mut self) -> Result<usize, TpmError> {
        use tss_esapi::{constants::CapabilityType, structures::CapabilityData};
        let mut count = 0;
        for first in [0x8000_0000, 0x0200_0000, 0x0300_0000] {
            let (found, _) =
                self.context.get_capability(CapabilityType::Handles, first, 16).doing("listing handles")?;
            if let CapabilityData::Handles(handles) = found {
                count += handles.len();
            }
        }
        Ok(count)
    }
}

pub(crate) fn kind(error: tss_esapi::Error) -> Option<Tss2ResponseCodeKind> {
    match error {
        tss_esapi::Error::Tss2Error(code) => code.kind(),
        tss_esapi::Error::WrapperError(_) => None,
    }
}

/// Whether the TPM says that some PCR was extended since the policy session looked (TPM_RC_PCR_CHANGED).
fn pcr_changed(error: tss_esapi::Error) -> bool {
    kind(error) == Some(Tss2ResponseCodeKind::PcrChanged)
}

fn slot(pcr: u8) -> Option<PcrSlot> {
    PcrSlot::try_from(1_u32.checked_shl(u32::from(pcr))?).ok()
}

fn selection(pcrs: &[u8]) -> Result<PcrSelectionList, TpmError> {
    let slots: Option<Vec<PcrSlot>> = pcrs.iter().map(|pcr| slot(*pcr)).collect();
    let slots = slots.ok_or_else(|| TpmError::PcrMismatch { pcrs: pcrs.to_vec() })?;
    PcrSelectionListBuilder::new()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
        .doing("choosing PCRs")
}

/// The storage root key: ECC P-256, AES-128-CFB, as in the TCG provisioning guidance. Frozen, for another template is
/// another key and no blob would open.
fn srk_template() -> Result<Public, TpmError> {
    let doing = "describing the storage root key";
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()
        .doing(doing)?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
        .with_ecc_scheme(EccScheme::Null)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(false)
        .with_is_decryption_key(true)
        .with_restricted(true)
        .build()
        .doing(doing)?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
        .doing(doing)
}

/// A key for HMAC that the TPM makes itself, usable by its policy alone (no password), on this TPM and under this parent
/// only. `sensitiveDataOrigin` is the TPM's own word that nobody gave it the content.
fn key_template(policy: &Digest) -> Result<Public, TpmError> {
    keyed_hash(policy, true, KeyedHashScheme::HMAC_SHA_256)
}

fn keyed_hash(policy: &Digest, made_by_tpm: bool, scheme: KeyedHashScheme) -> Result<Public, TpmError> {
    let doing = "describing the key";
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(made_by_tpm)
        .with_admin_with_policy(true)
        .with_no_da(true)
        .with_sign_encrypt(scheme != KeyedHashScheme::Null)
        .build()
        .doing(doing)?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(tss_esapi::structures::Digest::try_from(policy.as_slice()).doing(doing)?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(scheme))
        .with_keyed_hash_unique_identifier(tss_esapi::structures::Digest::default())
        .build()
        .doing(doing)
}

fn approval_key_template(key: &ApprovalKey) -> Result<Public, TpmError> {
    let doing = "describing the image's key";
    // The same attributes as `policy::KEY_ATTRIBUTES`.
    let attributes = ObjectAttributesBuilder::new()
        .with_user_with_auth(true)
        .with_decrypt(true)
        .with_sign_encrypt(true)
        .build()
        .doing(doing)?;
    let parameters = PublicRsaParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_scheme(RsaScheme::Null)
        .with_key_bits(RsaKeyBits::try_from(key.bits()).doing(doing)?)
        .with_exponent(RsaExponent::default())
        .with_is_signing_key(true)
        .with_is_decryption_key(true)
        .with_restricted(false)
        .build()
        .doing(doing)?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::try_from(key.modulus.as_slice()).doing(doing)?)
        .build()
        .doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{devpolicy, swtpm::Swtpm};

    struct World {
        _swtpm: Swtpm,
        dir: tempfile::TempDir,
        tpm: Tpm,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
        let tpm = Tpm::open(swtpm.tcti()).unwrap();
        World { _swtpm: swtpm, dir, tpm }
    }

    impl World {
        fn policy(&self, approved: &[Digest]) -> Policy {
            let files = devpolicy::make(&self.dir.path().join("policy"), approved).unwrap();
            Policy::load(&files.public_key, &files.signature, &[7, 12]).unwrap()
        }
    }

    #[test]
    fn a_boot_phase_that_ends_while_a_key_is_used_does_not_matter() {
        let mut world = world();
        let first = world.tpm.measured_boot().unwrap();
        let second = devpolicy::extended(&first, b"next phase");
        let third = devpolicy::extended(&second, b"last phase");
        let policy = world.policy(&[first, second, third]);
        let blob = world.tpm.make_key(&policy).unwrap();
        let [expected] = world.tpm.derive(&blob, &policy, [b"label"]).unwrap();

        let mut phases = vec![&b"last phase"[..], b"next phase"];
        let derived = world
            .tpm
            .derive_observed(&blob, &policy, b"label", &mut |tpm| match phases.pop() {
                Some(phase) => tpm.extend_pcr(SIGNED_PCR, phase),
                None => Ok(()),
            })
            .unwrap();
        assert_eq!(*derived, *expected);
        assert!(phases.is_empty(), "both phases ended while it was used");
    }

    #[test]
    fn measurements_that_the_policy_does_not_name_do_not_matter() {
        let mut world = world();
        let policy = world.policy(&[devpolicy::UNMEASURED]);
        let blob = world.tpm.make_key(&policy).unwrap();
        // PCR 10 is the kernel's own log (IMA), which may grow at any moment.
        let mut measurements = vec![&b"a library"[..], b"a program"];
        let derived =
            world.tpm.derive_observed(&blob, &policy, b"label", &mut |tpm| match measurements.pop() {
                Some(event) => tpm.extend_pcr(10, event),
                None => Ok(()),
            });
        assert!(derived.is_ok());
        assert!(measurements.is_empty(), "both measurements fell into a use");
    }

    #[test]
    fn a_key_of_known_content_under_our_own_policy_is_refused() {
        // Whoever has the board may make objects under our policy, which is public, but not have the TPM say that it made
        // their content itself.
        const KNOWN: &[u8] = b"thirty-two bytes the thief knows";
        let mut world = world();
        let policy = world.policy(&[devpolicy::UNMEASURED]);
        let makers: [Template; 2] = [
            |policy| keyed_hash(policy, false, KeyedHashScheme::HMAC_SHA_256),
            |policy| keyed_hash(policy, false, KeyedHashScheme::Null), // A sealed data object.
        ];
        for maker in makers {
            let foreign = world.tpm.create(&policy, maker, Some(KNOWN)).unwrap();
            assert!(matches!(world.tpm.derive(&foreign, &policy, [b"label"]), Err(TpmError::Foreign)));
            // Their content under the public area of a genuine key: the TPM finds out.
            let genuine = world.tpm.make_key(&policy).unwrap();
            let mixed = SealedBlob { public: genuine.public, ..foreign };
            assert!(matches!(world.tpm.derive(&mixed, &policy, [b"label"]), Err(TpmError::Tampered)));
        }
        let given = world.tpm.create(&policy, key_template, Some(KNOWN));
        assert!(given.is_err(), "no TPM takes content and calls it its own");
        assert_eq!(world.tpm.leftovers().unwrap(), 0);
    }

    #[test]
    fn a_key_with_another_way_in_is_refused() {
        let mut world = world();
        let policy = world.policy(&[devpolicy::UNMEASURED]);
        // Made by the TPM, but under the policy of other PCR values, under none, or usable with an empty password.
        let makers: [Template; 3] = [
            |_| key_template(&[7; 32]),
            |_| key_template(&[0; 32]),
            |policy| {
                let Public::KeyedHash { name_hashing_algorithm, auth_policy, parameters, unique, .. } =
                    key_template(policy)?
                else {
                    return Err(TpmError::Foreign);
                };
                let object_attributes = ObjectAttributesBuilder::new()
                    .with_fixed_tpm(true)
                    .with_fixed_parent(true)
                    .with_sensitive_data_origin(true)
                    .with_user_with_auth(true)
                    .with_admin_with_policy(true)
                    .with_no_da(true)
                    .with_sign_encrypt(true)
                    .build()
                    .doing("")?;
                Ok(Public::KeyedHash {
                    object_attributes,
                    name_hashing_algorithm,
                    auth_policy,
                    parameters,
                    unique,
                })
            },
        ];
        for maker in makers {
            let foreign = world.tpm.create(&policy, maker, None).unwrap();
            assert!(matches!(world.tpm.derive(&foreign, &policy, [b"label"]), Err(TpmError::Foreign)));
        }
    }

    #[test]
    fn the_tpm_itself_refuses_a_changed_boot() {
        // Without any of our own checks before it.
        let mut world = world();
        let policy = world.policy(&[devpolicy::UNMEASURED]);
        let blob = world.tpm.make_key(&policy).unwrap();
        let use_it = |tpm: &mut Tpm| tpm.derive_observed(&blob, &policy, b"label", &mut |_| Ok(()));
        assert!(use_it(&mut world.tpm).is_ok());
        world.tpm.extend_pcr(7, b"secure boot off").unwrap();
        assert!(matches!(use_it(&mut world.tpm), Err(TpmError::NotApproved)));
        assert_eq!(world.tpm.leftovers().unwrap(), 0);
    }
}
