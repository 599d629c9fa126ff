//! Why the TPM did not do what was asked.

use crate::blob::BlobError;

/// Why sealing, opening or counting failed.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// No TPM answers.
    #[error(
        "no TPM answers at `{tcti}`: the board has none, it is switched off in the firmware settings, or this user may not open it"
    )]
    Missing {
        /// Where it was looked for.
        tcti: String,
        /// What the TPM library said.
        #[source]
        source: tss_esapi::Error,
    },
    /// The blob was sealed by another TPM, or this one was cleared since.
    #[error(
        "this was sealed by another TPM, or this TPM was cleared: put the disk back into its own box, or import the shares anew"
    )]
    OtherTpm,
    /// PCRs that must be as they were differ.
    #[error(
        "this box was started in a different way than when the shares were sealed (PCR {pcrs:?} changed: 7 is Secure Boot and its keys, 12 the command-line extras and add-ons): undo the change and restart"
    )]
    PcrMismatch {
        /// The PCRs whose values changed.
        pcrs: Vec<u8>,
    },
    /// The running system's measurement is not approved by the image's key.
    #[error(
        "this box was started with changed software: no approval signed by the image's maker covers what was measured into PCR 11. Reinstall a genuine image"
    )]
    NotApproved,
    /// The blob was sealed for an image of another maker.
    #[error("this was sealed for an image signed by another maker: install the image it was sealed under")]
    OtherSigner,
    /// The blob is damaged.
    #[error("the sealed data is damaged or was changed: restore it, or import the shares anew")]
    Tampered,
    /// The blob cannot be read at all.
    #[error("the sealed data cannot be read")]
    Blob(#[from] BlobError),
    /// The blob was not made as this software makes its keys: somebody may know what is in it.
    #[error(
        "the sealed key was not made by this TPM under this policy: somebody put another one in its place. Put the genuine one back, or set the box up anew"
    )]
    Foreign,
    /// Some older chips cannot do HMAC by command.
    #[error("this TPM lacks a command that is needed (TPM2_HMAC)")]
    Unsupported,
    /// The anti-rollback counter is not what it should be.
    #[error("the TPM's counter at {index:#x} is not usable: something else uses this place")]
    BadCounter {
        /// NV index.
        index: u32,
    },
    /// The TPM refused a command.
    #[error("the TPM refused while {doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What the TPM library said.
        #[source]
        source: tss_esapi::Error,
    },
}

/// Adds what was being done to an error of the TPM library.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, TpmError>;
}

impl<T> Doing<T> for Result<T, tss_esapi::Error> {
    fn doing(self, doing: &'static str) -> Result<T, TpmError> {
        self.map_err(|source| TpmError::Refused { doing, source })
    }
}
