//! Sealing against real software TPMs: what opens, what does not, and what is said.

#![expect(clippy::unwrap_used, reason = "a test may fail this way")]

use tpm::{Policy, SealedBlob, Tpm, TpmError, devpolicy, swtpm::Swtpm};

const SECRET: &[u8] = b"thirty-two bytes of a key share!";

struct World {
    dir: tempfile::TempDir,
    swtpm: Option<Swtpm>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
        Self { dir, swtpm: Some(swtpm) }
    }

    fn tpm(&self) -> Tpm {
        Tpm::open(self.swtpm.as_ref().unwrap().tcti()).unwrap()
    }

    fn approve(&self, pcr11: &[[u8; 32]]) -> Policy {
        self.approve_by("maker", pcr11)
    }

    fn approve_by(&self, maker: &str, pcr11: &[[u8; 32]]) -> Policy {
        let files = devpolicy::make(&self.dir.path().join(maker), pcr11).unwrap();
        Policy::load(&files.public_key, &files.signature, &[7, 12]).unwrap()
    }

    fn power_cycle(&mut self) {
        self.swtpm = Some(self.swtpm.take().unwrap().power_cycle().unwrap());
    }
}

#[test]
fn a_sealed_secret_opens_again_also_after_power_was_off() {
    let mut world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let blob = world.tpm().seal(SECRET, &policy).unwrap();
    let bytes = blob.to_bytes();
    assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET));
    world.power_cycle();
    let blob = SealedBlob::from_bytes(&bytes).unwrap();
    let mut tpm = world.tpm();
    assert_eq!(*tpm.unseal(&blob, &policy).unwrap(), SECRET);
    assert_eq!(tpm.leftovers().unwrap(), 0, "no object or session is left in the TPM");
}

#[test]
fn an_update_needs_a_new_approval_and_no_new_sealing() {
    let mut world = World::new();
    let old_image = world.approve(&[devpolicy::UNMEASURED]);
    let blob = world.tpm().seal(SECRET, &old_image).unwrap();
    world.power_cycle();
    let mut tpm = world.tpm();
    tpm.extend_pcr(11, b"the updated image").unwrap();
    assert!(matches!(tpm.unseal(&blob, &old_image), Err(TpmError::NotApproved)));
    let new_image = world.approve(&[tpm.measured_boot().unwrap()]);
    assert_eq!(*tpm.unseal(&blob, &new_image).unwrap(), SECRET);
    assert_eq!(tpm.leftovers().unwrap(), 0, "also not after a refusal");
}

#[test]
fn changed_literal_pcrs_refuse_and_are_named() {
    for pcr in [7, 12] {
        let mut world = World::new();
        let policy = world.approve(&[devpolicy::UNMEASURED]);
        let blob = world.tpm().seal(SECRET, &policy).unwrap();
        let mut tpm = world.tpm();
        tpm.extend_pcr(pcr, b"secure boot off, or another command line").unwrap();
        match tpm.unseal(&blob, &policy) {
            Err(TpmError::PcrMismatch { pcrs }) => assert_eq!(pcrs, [pcr]),
            other => panic!("{other:?}"),
        }
        drop(tpm);
        world.power_cycle();
        assert_eq!(*world.tpm().unseal(&blob, &policy).unwrap(), SECRET, "undone, it opens again");
    }
}

#[test]
fn the_tpm_itself_refuses_when_the_blob_lies_about_its_pcrs() {
    // The values in the blob are only for words: here they are made to match the changed boot.
    let world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let honest = world.tpm().seal(SECRET, &policy).unwrap().to_bytes();
    let mut tpm = world.tpm();
    tpm.extend_pcr(7, b"secure boot off").unwrap();
    let changed = tpm.seal(SECRET, &policy).unwrap().to_bytes();
    let names_and_values = 8 + 1 + 34 + 34 + 1 + 2 * 33;
    let lying = [&changed[..names_and_values], &honest[names_and_values..]].concat();
    let lying = SealedBlob::from_bytes(&lying).unwrap();
    assert!(matches!(tpm.unseal(&lying, &policy), Err(TpmError::NotApproved)));
    assert_eq!(tpm.leftovers().unwrap(), 0);
}

#[test]
fn an_approval_of_another_maker_opens_nothing() {
    let world = World::new();
    let ours = world.approve(&[devpolicy::UNMEASURED]);
    let theirs = world.approve_by("somebody else", &[devpolicy::UNMEASURED]);
    let blob = world.tpm().seal(SECRET, &ours).unwrap();
    assert!(matches!(world.tpm().unseal(&blob, &theirs), Err(TpmError::OtherSigner)));

    // Their signature under our name: the TPM checks it.
    let files = devpolicy::make(&world.dir.path().join("somebody else"), &[devpolicy::UNMEASURED]).unwrap();
    let our_key = world.dir.path().join("maker/tpm2-pcr-public-key.pem");
    let forged = Policy::load(&our_key, &files.signature, &[7, 12]).unwrap();
    assert!(matches!(world.tpm().unseal(&blob, &forged), Err(TpmError::NotApproved)));
}

#[test]
fn another_tpm_opens_nothing() {
    let (world, other) = (World::new(), World::new());
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let blob = world.tpm().seal(SECRET, &policy).unwrap();
    assert!(matches!(other.tpm().unseal(&blob, &policy), Err(TpmError::OtherTpm)));
}

#[test]
fn a_tampered_blob_opens_nothing() {
    let world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let mut tpm = world.tpm();
    let bytes = tpm.seal(SECRET, &policy).unwrap().to_bytes();
    let areas = 8 + 1 + 34 + 34 + 1 + 2 * 33;
    for position in (areas..bytes.len()).step_by(3) {
        let mut tampered = bytes.clone();
        tampered[position] ^= 1;
        let Ok(blob) = SealedBlob::from_bytes(&tampered) else { continue };
        match tpm.unseal(&blob, &policy) {
            Err(TpmError::Tampered | TpmError::Refused { .. }) => {}
            other => panic!("byte {position}: {other:?}"),
        }
        assert_eq!(tpm.leftovers().unwrap(), 0, "byte {position}");
    }
}

#[test]
fn a_missing_tpm_is_said_to_be_missing() {
    for tcti in ["device:/dev/no-such-tpm", "swtpm:host=127.0.0.1,port=1", "nonsense"] {
        match Tpm::open(tcti) {
            Err(error @ TpmError::Missing { .. }) => assert!(error.to_string().contains(tcti)),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{tcti} opened"),
        }
    }
}

#[test]
fn a_software_tpm_says_that_it_is_one() {
    let world = World::new();
    let identity = world.tpm().identity().unwrap();
    assert!(identity.is_software, "{identity:?}");
    assert!(!identity.firmware.is_empty());
}

#[test]
fn the_counter_only_grows() {
    const INDEX: u32 = 0x0150_0021;
    let mut world = World::new();
    assert_eq!(world.tpm().counter(INDEX).read().unwrap(), None);
    let first = world.tpm().counter(INDEX).increment().unwrap();
    let second = world.tpm().counter(INDEX).increment().unwrap();
    assert_eq!(second, first + 1);
    world.power_cycle();
    let mut tpm = world.tpm();
    assert_eq!(tpm.counter(INDEX).read().unwrap(), Some(second));
    assert_eq!(tpm.leftovers().unwrap(), 0);
}
