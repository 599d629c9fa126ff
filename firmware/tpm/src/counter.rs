//! A number in the TPM that only grows, to notice when a disk was put back to an earlier day.

use tss_esapi::{
    attributes::NvIndexAttributesBuilder,
    constants::{CapabilityType, NvIndexType, Tss2ResponseCodeKind},
    handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        resource_handles::{NvAuth, Provision},
        session_handles::AuthSession,
    },
    structures::{CapabilityData, NvPublicBuilder},
};

use crate::{Tpm, TpmError, device::kind, error::Doing as _};

const COUNTER_BYTES: u16 = 8;

/// A monotonic counter in the TPM's non-volatile memory.
///
/// A TPM never lets a counter go back, not even by deleting and defining it anew: the new one starts above every
/// counter there ever was. Each step wears the memory (makers promise about 100,000), so it is stepped at start and
/// at import, never per signature.
pub struct Counter<'a> {
    tpm: &'a mut Tpm,
    index: u32,
}

impl Tpm {
    /// The counter at an NV index of the owner.
    pub fn counter(&mut self, index: u32) -> Counter<'_> {
        Counter { tpm: self, index }
    }
}

impl Counter<'_> {
    /// The counter's value; none when it was never stepped.
    pub fn read(&mut self) -> Result<Option<u64>, TpmError> {
        if !self.exists()? {
            return Ok(None);
        }
        let handle = self.handle()?;
        let (public, _) = self.tpm.context.nv_read_public(handle).doing("describing the counter")?;
        let attributes = public.attributes();
        if attributes.index_type().ok() != Some(NvIndexType::Counter)
            || public.data_size() != usize::from(COUNTER_BYTES)
        {
            return Err(TpmError::BadCounter { index: self.index });
        }
        let read = self.tpm.context.execute_with_session(Some(AuthSession::Password), |context| {
            context.nv_read(NvAuth::Owner, handle, COUNTER_BYTES, 0)
        });
        let bytes = match read {
            // Between its definition and its first step a counter has no value.
            Err(error) if kind(error) == Some(Tss2ResponseCodeKind::NvUninitialized) => return Ok(None),
            other => other.doing("reading the counter")?,
        };
        let bytes = bytes.value().try_into().map_err(|_| TpmError::BadCounter { index: self.index })?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Steps the counter, making it first when it does not exist, and reads it back.
    pub fn increment(&mut self) -> Result<u64, TpmError> {
        if !self.exists()? {
            self.define()?;
        }
        let handle = self.handle()?;
        self.tpm
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_increment(NvAuth::Owner, handle)
            })
            .doing("stepping the counter")?;
        self.read()?.ok_or(TpmError::BadCounter { index: self.index })
    }

    /// Whether the TPM has anything at this index, stepped or not.
    pub fn exists(&mut self) -> Result<bool, TpmError> {
        let (found, _) = self
            .tpm
            .context
            .get_capability(CapabilityType::Handles, self.index, 1)
            .doing("looking for the counter")?;
        Ok(matches!(found, CapabilityData::Handles(handles)
            if handles.iter().any(|handle| u32::from(*handle) == self.index)))
    }

    fn define(&mut self) -> Result<(), TpmError> {
        let doing = "making the counter";
        let attributes = NvIndexAttributesBuilder::new()
            .with_nv_index_type(NvIndexType::Counter)
            .with_owner_write(true)
            .with_owner_read(true)
            .with_no_da(true)
            .build()
            .doing(doing)?;
        let public = NvPublicBuilder::new()
            .with_nv_index(NvIndexTpmHandle::new(self.index).doing(doing)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(usize::from(COUNTER_BYTES))
            .build()
            .doing(doing)?;
        self.tpm
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_define_space(Provision::Owner, None, public)
            })
            .doing(doing)?;
        Ok(())
    }

    fn handle(&mut self) -> Result<NvIndexHandle, TpmError> {
        let index = NvIndexTpmHandle::new(self.index).doing("naming the counter")?;
        self.tpm
            .context
            .tr_from_tpm_public(TpmHandle::from(index))
            .map(NvIndexHandle::from)
            .doing("finding the counter")
    }
}

#[cfg(all(test, feature = "dev"))]
mod tests {
    use tss_esapi::structures::MaxNvBuffer;

    use super::*;
    use crate::swtpm::Swtpm;

    /// Whoever owns the board can do away with the counter; what is made anew in its place is no lower.
    #[test]
    fn a_counter_that_was_done_away_with_begins_above_what_it_was() {
        const INDEX: u32 = 0x0150_0021;
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
        let mut tpm = Tpm::open(swtpm.tcti()).unwrap();
        let last = (0..5).map(|_| tpm.counter(INDEX).increment().unwrap()).last().unwrap();
        for _ in 0..2 {
            let handle = tpm.counter(INDEX).handle().unwrap();
            tpm.context
                .execute_with_session(Some(AuthSession::Password), |context| {
                    context.nv_undefine_space(Provision::Owner, handle)
                })
                .unwrap();
            assert_eq!(tpm.counter(INDEX).read().unwrap(), None);
            assert!(!tpm.counter(INDEX).exists().unwrap());
            tpm.counter(INDEX).define().unwrap();
            assert_eq!(tpm.counter(INDEX).read().unwrap(), None, "it has no value before its first step");
            assert!(tpm.counter(INDEX).exists().unwrap());
        }
        let first = tpm.counter(INDEX).increment().unwrap();
        assert!(first > last, "{first} after {last}");
    }

    /// Whoever owns the board can undefine the counter and put an index in its place that holds any number.
    #[test]
    fn an_index_that_can_be_written_is_no_counter() {
        const INDEX: u32 = 0x0150_0021;
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
        let mut tpm = Tpm::open(swtpm.tcti()).unwrap();
        let attributes = NvIndexAttributesBuilder::new()
            .with_nv_index_type(NvIndexType::Ordinary)
            .with_owner_write(true)
            .with_owner_read(true)
            .with_no_da(true)
            .build()
            .unwrap();
        let public = NvPublicBuilder::new()
            .with_nv_index(NvIndexTpmHandle::new(INDEX).unwrap())
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(usize::from(COUNTER_BYTES))
            .build()
            .unwrap();
        let old = MaxNvBuffer::try_from(5_u64.to_be_bytes().to_vec()).unwrap();
        tpm.context.execute_with_session(Some(AuthSession::Password), |context| {
            let handle = context.nv_define_space(Provision::Owner, None, public).unwrap();
            context.nv_write(NvAuth::Owner, handle, old, 0).unwrap();
        });
        assert!(matches!(tpm.counter(INDEX).read(), Err(TpmError::BadCounter { index: INDEX })));
        assert!(tpm.counter(INDEX).increment().is_err());
    }
}
