//! Sealing against real software TPMs: what opens, what does not, and what is said.

#![expect(clippy::unwrap_used, reason = "a test may fail this way")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use tpm::{Policy, SealedBlob, Tpm, TpmError, devpolicy, swtpm::Swtpm};

const LABEL: &[u8] = b"a label";

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

    fn use_key(&self, blob: &SealedBlob, policy: &Policy) -> Result<[u8; 32], TpmError> {
        use_key(&mut self.tpm(), blob, policy)
    }

    fn power_cycle(&mut self) {
        self.swtpm = Some(self.swtpm.take().unwrap().power_cycle().unwrap());
    }
}

fn use_key(tpm: &mut Tpm, blob: &SealedBlob, policy: &Policy) -> Result<[u8; 32], TpmError> {
    tpm.derive(blob, policy, [LABEL]).map(|[derived]| *derived)
}

#[test]
fn labels_and_keys_give_different_secrets_and_always_the_same() {
    let world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let mut tpm = world.tpm();
    let (blob, other) = (tpm.make_key(&policy).unwrap(), tpm.make_key(&policy).unwrap());
    let [one, two] = tpm.derive(&blob, &policy, [b"one", b"two"]).unwrap();
    let [again] = tpm.derive(&blob, &policy, [b"one"]).unwrap();
    let [others] = tpm.derive(&other, &policy, [b"one"]).unwrap();
    assert_eq!(*one, *again);
    assert!(*one != *two && *one != *others && *one != [0; 32]);
    assert_eq!(tpm.leftovers().unwrap(), 0);
}

/// Two ports in a row, as the TPM library wants them.
fn two_listeners() -> [TcpListener; 2] {
    loop {
        let first = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let next = first.local_addr().unwrap().port().checked_add(1);
        if let Some(Ok(second)) = next.map(|next| TcpListener::bind(("127.0.0.1", next))) {
            return [first, second];
        }
    }
}

/// Passes everything on until one side hangs up, and keeps it.
fn pass_on(mut from: TcpStream, mut onto: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut part) {
        seen.lock().unwrap().extend_from_slice(&part[..count]);
        if onto.write_all(&part[..count]).is_err() {
            break;
        }
    }
    let _gone_already = onto.shutdown(Shutdown::Both);
}

/// The same TPM behind somebody who listens on its bus, and all that he hears.
fn tapped(tcti: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let tpm: u16 = tcti.rsplit_once("port=").unwrap().1.parse().unwrap();
    let listeners = two_listeners();
    let tcti = format!("swtpm:host=127.0.0.1,port={}", listeners[0].local_addr().unwrap().port());
    let heard = Arc::new(Mutex::new(Vec::new()));
    for (listener, to) in listeners.into_iter().zip([tpm, tpm + 1]) {
        let heard = Arc::clone(&heard);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
                let there = (near.try_clone().unwrap(), far.try_clone().unwrap());
                for (from, onto) in [there, (far, near)] {
                    let heard = Arc::clone(&heard);
                    std::thread::spawn(move || pass_on(from, onto, &heard));
                }
            }
        });
    }
    (tcti, heard)
}

#[test]
fn what_is_derived_never_crosses_the_bus_in_the_clear() {
    let world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let (tcti, heard) = tapped(world.swtpm.as_ref().unwrap().tcti());
    let blob = Tpm::open(&tcti).unwrap().make_key(&policy).unwrap();
    let derived = use_key(&mut Tpm::open(&tcti).unwrap(), &blob, &policy).unwrap();
    let heard = heard.lock().unwrap();
    let is_heard = |bytes: &[u8]| heard.windows(bytes.len()).any(|part| part == bytes);
    assert!(is_heard(&[0, 0, 1, 0x76]), "a session that was begun");
    assert!(!is_heard(&derived));
    // TPM2_StartAuthSession with TPM_RH_NULL where the key belongs that salts it: what it is encrypted with could be worked out.
    assert!(!is_heard(&[0, 0, 1, 0x76, 0x40, 0, 0, 7]));
}

#[test]
fn a_sealed_secret_opens_again_also_after_power_was_off() {
    let mut world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let blob = world.tpm().make_key(&policy).unwrap();
    let secret = world.use_key(&blob, &policy).unwrap();
    let bytes = blob.to_bytes();
    world.power_cycle();
    let blob = SealedBlob::from_bytes(&bytes).unwrap();
    let mut tpm = world.tpm();
    assert_eq!(use_key(&mut tpm, &blob, &policy).unwrap(), secret);
    assert_eq!(tpm.leftovers().unwrap(), 0, "no object or session is left in the TPM");
}

#[test]
fn an_update_needs_a_new_approval_and_no_new_sealing() {
    let mut world = World::new();
    let old_image = world.approve(&[devpolicy::UNMEASURED]);
    let blob = world.tpm().make_key(&old_image).unwrap();
    let secret = world.use_key(&blob, &old_image).unwrap();
    world.power_cycle();
    let mut tpm = world.tpm();
    tpm.extend_pcr(11, b"the updated image").unwrap();
    assert!(matches!(use_key(&mut tpm, &blob, &old_image), Err(TpmError::NotApproved)));
    let new_image = world.approve(&[tpm.measured_boot().unwrap()]);
    assert_eq!(use_key(&mut tpm, &blob, &new_image).unwrap(), secret);
    assert_eq!(tpm.leftovers().unwrap(), 0, "also not after a refusal");
}

#[test]
fn changed_literal_pcrs_refuse_and_are_named() {
    for pcr in [7, 12] {
        let mut world = World::new();
        let policy = world.approve(&[devpolicy::UNMEASURED]);
        let blob = world.tpm().make_key(&policy).unwrap();
        let secret = world.use_key(&blob, &policy).unwrap();
        let mut tpm = world.tpm();
        tpm.extend_pcr(pcr, b"secure boot off, or another command line").unwrap();
        match use_key(&mut tpm, &blob, &policy) {
            Err(TpmError::PcrMismatch { pcrs }) => assert_eq!(pcrs, [pcr]),
            other => panic!("{other:?}"),
        }
        drop(tpm);
        world.power_cycle();
        assert_eq!(world.use_key(&blob, &policy).unwrap(), secret, "undone, it opens again");
    }
}

#[test]
fn a_blob_that_lies_about_its_pcrs_is_refused() {
    // The values in the blob are only for words: here they are made to match the changed boot.
    let world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let honest = world.tpm().make_key(&policy).unwrap().to_bytes();
    let mut tpm = world.tpm();
    tpm.extend_pcr(7, b"secure boot off").unwrap();
    let changed = tpm.make_key(&policy).unwrap().to_bytes();
    let names_and_values = 8 + 1 + 34 + 34 + 1 + 2 * 33;
    let lying = [&changed[..names_and_values], &honest[names_and_values..]].concat();
    let lying = SealedBlob::from_bytes(&lying).unwrap();
    assert!(matches!(use_key(&mut tpm, &lying, &policy), Err(TpmError::Foreign)));
    assert_eq!(tpm.leftovers().unwrap(), 0);
}

#[test]
fn an_approval_of_another_maker_opens_nothing() {
    let world = World::new();
    let ours = world.approve(&[devpolicy::UNMEASURED]);
    let theirs = world.approve_by("somebody else", &[devpolicy::UNMEASURED]);
    let blob = world.tpm().make_key(&ours).unwrap();
    assert!(matches!(world.use_key(&blob, &theirs), Err(TpmError::OtherSigner)));

    // Their signature under our name: the TPM checks it.
    let files = devpolicy::make(&world.dir.path().join("somebody else"), &[devpolicy::UNMEASURED]).unwrap();
    let our_key = world.dir.path().join("maker/tpm2-pcr-public-key.pem");
    let forged = Policy::load(&our_key, &files.signature, &[7, 12]).unwrap();
    assert!(matches!(world.use_key(&blob, &forged), Err(TpmError::NotApproved)));
}

#[test]
fn another_tpm_opens_nothing() {
    let (world, other) = (World::new(), World::new());
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let blob = world.tpm().make_key(&policy).unwrap();
    assert!(matches!(other.use_key(&blob, &policy), Err(TpmError::OtherTpm)));
}

#[test]
fn a_tampered_blob_opens_nothing() {
    let world = World::new();
    let policy = world.approve(&[devpolicy::UNMEASURED]);
    let mut tpm = world.tpm();
    let bytes = tpm.make_key(&policy).unwrap().to_bytes();
    let areas = 8 + 1 + 34 + 34 + 1 + 2 * 33;
    for position in (areas..bytes.len()).step_by(3) {
        let mut tampered = bytes.clone();
        tampered[position] ^= 1;
        let Ok(blob) = SealedBlob::from_bytes(&tampered) else { continue };
        match use_key(&mut tpm, &blob, &policy) {
            Err(TpmError::Tampered | TpmError::Foreign | TpmError::Refused { .. }) => {}
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
