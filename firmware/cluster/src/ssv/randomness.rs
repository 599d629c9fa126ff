//! Our source of randomness as `rsa` wants it: it asks for the traits of a newer version.

use core::convert::Infallible;

use rand::{CryptoRng, RngCore};
use rsa::rand_core::{TryCryptoRng, TryRng};

pub(super) struct Randomness<'a, R: ?Sized>(pub(super) &'a mut R);

impl<R: RngCore + ?Sized> TryRng for Randomness<'_, R> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl<R: CryptoRng + ?Sized> TryCryptoRng for Randomness<'_, R> {}
