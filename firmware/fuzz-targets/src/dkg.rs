//! What other members send while keys are made, or shares made anew.

use std::sync::LazyLock;

use chain::PublicKeyBytes;
use obol::dkg::bcast::Kind;
use obol::dkg::exchange::{self, Exchange};
use obol::dkg::pedersen::{self, Announcement, BundleKind, MAX_BUNDLE_BYTES};
use obol::dkg::sync::{self, MAX_SYNC_BYTES};
use obol::dkg::wire::{BCastMessage, BCastSigRequest, BCastSigResponse, MsgNodeSig, MsgSync};
use obol::dkg::{BroadcastVersion, Broadcasts, Dealer, Profile, Session, Sync, frost};
use obol::wire::Named as _;
use prost::Message as _;
use threshold::ShareIndex;
use threshold::frost::Dealt;
use threshold::pedersen::{
    Bundle, CIPHERTEXT_BYTES, Deal, DealBundle, Justification, JustificationBundle, Response, ResponseBundle,
};
use zeroize::Zeroizing;

use crate::ssz_forms::SIGNATURE;
use crate::world::{MEMBERS, identities, identity, plan, plan_to_add};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "dkg_sync",
        about: "who is there and at which step (a peer): steps never go back, names are short, our answers are readable",
        max_bytes: 1024,
        run: sync_message,
        seeds: sync_seeds,
    },
    Target {
        name: "dkg_broadcast",
        about: "reliable broadcast (a peer), also with every signature made anew: nothing is delivered unsigned or twice different",
        max_bytes: 4096,
        run: broadcast,
        seeds: broadcast_seeds,
    },
    Target {
        name: "dkg_frost",
        about: "casts, shares and results of key generation (a peer): what is taken is written and taken the same",
        max_bytes: 4096,
        run: frost_message,
        seeds: frost_seeds,
    },
    Target {
        name: "dkg_exchange",
        about: "the partial signatures that end a ceremony (a peer): one for each validator, taken the same again",
        max_bytes: 4096,
        run: exchanged,
        seeds: exchange_seeds,
    },
    Target {
        name: "dkg_pedersen",
        about: "bundles, announcements and public shares of resharing (a peer): bounded, taken the same again",
        max_bytes: 8192,
        run: pedersen_message,
        seeds: pedersen_seeds,
    },
];

const HASH: [u8; 32] = [3; 32];

fn profile(minor: u8) -> Profile {
    Profile::of_minor(minor).expect("a known release")
}

fn new_sync(minor: u8, own: usize) -> Sync {
    Sync::new(profile(minor), HASH, identities(), own, &identity(own), "a box")
}

/// The input is a stream of frames that member 1 sends, or one answer of it.
fn sync_message(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 4) else { return Verdict::Refused };
    let minor = if choice & 1 == 0 { 10 } else { 11 };
    let mut sync = new_sync(minor, 0);
    if choice & 2 == 2 {
        let answered = sync.on_response(1, bytes);
        assert_eq!(
            answered.is_ok(),
            !sync.missing().contains(&1) || sync.peer(1).is_some_and(|peer| peer.answered)
        );
        return Verdict::of(answered.ok());
    }
    let mut verdict = Verdict::Refused;
    let mut rest = bytes;
    while let Some((prefix, after)) = rest.split_first_chunk::<{ sync::PREFIX_BYTES }>() {
        let Some(length) = sync::frame_length(*prefix) else { break };
        assert!(length <= MAX_SYNC_BYTES);
        let Some((message, after)) = after.split_at_checked(length) else { break };
        assert_eq!(sync::frame(message), [&prefix[..], message].concat());
        rest = after;
        let before = sync.peer(1).map_or(0, |peer| peer.step);
        let heard = sync.on_message(1, message);
        let peer = sync.peer(1).expect("member 1 is one of four");
        assert!(peer.nickname.chars().count() <= 32 && !peer.nickname.chars().any(char::is_control));
        assert!(peer.step >= before, "a step went back");
        assert_eq!(sync.step(), 0, "another member moved us");
        if heard.refusal.is_some() {
            assert_eq!(peer.step, before, "a refused message counted");
        } else {
            verdict = Verdict::Taken;
            assert!(peer.heard && peer.step <= before.saturating_add(2));
            // A seal key counts with the member's own signature alone.
            let signed = |key: &obol::dkg::SealKey| key.is_of(&identity(1).public_key(), &HASH);
            assert!(peer.seal_key.as_ref().is_none_or(signed));
        }
        if let Some(response) = heard.response {
            let _told = new_sync(minor, 1).on_response(0, &response);
        }
        let _waiting = (sync.missing(), sync.behind(2), sync.all_left());
    }
    verdict
}

fn sync_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, minor) in [(0, 10), (1, 11)] {
        let mut other = new_sync(minor, 1);
        let mut stream = Vec::new();
        for step in 0..3 {
            other.advance(step);
            stream.extend(sync::frame(&other.message(1_700_000_000_123)));
        }
        other.leave();
        stream.extend(sync::frame(&other.message(1_700_000_000_223)));
        seeds.push(chosen(choice, stream));
        let first = new_sync(minor, 1).message(1_000);
        if let Some(response) = new_sync(minor, 0).on_message(1, &first).response {
            seeds.push(chosen(choice | 2, response));
        }
    }
    let key = [9; sync::SEAL_KEY_BYTES];
    let mut sealing = new_sync(10, 1);
    let signature = identity(1).sign(&sync::seal_key_digest(&HASH, &key)).to_vec();
    sealing.announce(obol::dkg::SealKey { key, signature });
    seeds.push(chosen(0, sync::frame(&sealing.message(5_000))));
    let refused = MsgSync { version: "v1.7".to_owned(), ..MsgSync::default() }.encode_to_vec();
    if let Some(response) = new_sync(10, 0).on_message(1, &refused).response {
        seeds.push(chosen(2, response));
    }
    seeds
}

fn kinds() -> Vec<Kind> {
    let mut kinds = frost::kinds(&plan(0));
    kinds.push(pedersen::announcement_kind(2));
    kinds
}

fn broadcasts(version: BroadcastVersion, own: usize) -> Broadcasts {
    Broadcasts::new(Session { version, hash: HASH }, identities(), own, identity(own), kinds())
}

fn version(choice: u8) -> BroadcastVersion {
    if choice & 1 == 0 { BroadcastVersion::V1 } else { BroadcastVersion::V2 }
}

fn broadcast(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 6) else { return Verdict::Refused };
    let version = version(choice);
    let mut ours = broadcasts(version, 0);
    match choice / 2 {
        0 => {
            let Ok(request) = ours.on_request(1, bytes) else { return Verdict::Refused };
            let answer = ours.sign(1, &request).expect("what was looked at may be signed");
            // The same again is signed again; anything else under that name never.
            assert!(ours.on_request(1, bytes).is_ok());
            let mut other = request.message.clone();
            other.value.push(0);
            let other = BCastSigRequest { id: request.id.to_owned(), message: Some(other) }.encode_to_vec();
            assert!(ours.on_request(1, &other).is_err(), "two different messages under one name");
            // Member 1 takes the answer if it asked for just this.
            let mut asking = broadcasts(version, 1);
            asking.begin(request.id, request.message).expect("it passed the same checks");
            assert_eq!(asking.on_response(0, &answer), Ok(request.id));
            Verdict::Taken
        }
        1 => {
            ours.begin(frost::ROUND_2, round_2()).expect("our own message");
            let answered = ours.on_response(1, bytes);
            assert_eq!(answered.is_ok(), !ours.unsigned(frost::ROUND_2).contains(&1));
            assert!(ours.complete(frost::ROUND_2).is_none(), "complete without everybody");
            Verdict::of(answered.ok())
        }
        _ => {
            let as_it_came = check_delivered(&mut ours, version, bytes);
            let Ok(mut message) = BCastMessage::decode(bytes) else { return as_it_came };
            let any = message.message.clone().unwrap_or_default();
            let hash = Session { version, hash: HASH }.hash_of(&message.id, &any);
            message.signatures =
                (0..usize::from(MEMBERS)).map(|member| identity(member).sign(&hash).to_vec()).collect();
            as_it_came.or(check_delivered(&mut broadcasts(version, 0), version, &message.encode_to_vec()))
        }
    }
}

fn check_delivered(ours: &mut Broadcasts, version: BroadcastVersion, bytes: &[u8]) -> Verdict {
    assert!(ours.on_message(1, bytes).is_err(), "delivered what we never signed");
    // We sign it only when it could be signed.
    let Ok(message) = BCastMessage::decode(bytes) else { return Verdict::Refused };
    let request = BCastSigRequest { id: message.id, message: message.message }.encode_to_vec();
    let Ok(request) = ours.on_request(1, &request) else { return Verdict::Refused };
    ours.sign(1, &request).expect("what was looked at may be signed");
    let Ok(delivered) = ours.on_message(1, bytes) else { return Verdict::Refused };
    let session = Session { version, hash: HASH };
    assert_eq!(session.hash_of(delivered.id, &delivered.message), delivered.hash);
    assert_eq!(delivered.signatures.len(), usize::from(MEMBERS));
    assert!(ours.on_message(2, bytes).is_err(), "one member's message delivered as another's");
    Verdict::Taken
}

fn round_2() -> obol::wire::Any {
    let arrived =
        vec![frost::Arrived { group_key: PublicKeyBytes([1; 48]), public_share: PublicKeyBytes([2; 48]) }; 2];
    frost::write_round_2(0, &arrived).to_any()
}

fn broadcast_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, version) in [(0, BroadcastVersion::V1), (1, BroadcastVersion::V2)] {
        let mut sender = broadcasts(version, 1);
        let node_signature = MsgNodeSig { signature: vec![7; 65], peer_index: 1 }.to_any();
        let request = sender.begin(frost::NODE_SIGNATURE, node_signature).expect("our own message");
        seeds.push(chosen(choice, &request));
        for member in [0, 2, 3] {
            let mut signer = broadcasts(version, member);
            let read = signer.on_request(1, &request).expect("our own message");
            let answer = signer.sign(1, &read).expect("our own message");
            sender.on_response(member, &answer).expect("our own message");
        }
        let (message, _) = sender.complete(frost::NODE_SIGNATURE).expect("everybody signed");
        seeds.push(chosen(choice | 4, message));
        let hash = Session { version, hash: HASH }.hash_of(frost::ROUND_2, &round_2());
        let answer =
            BCastSigResponse { id: frost::ROUND_2.to_owned(), signature: identity(1).sign(&hash).to_vec() };
        seeds.push(chosen(choice | 2, answer.encode_to_vec()));
    }
    seeds
}

/// A dealer's broadcast, and its message to one member.
type DealtBy = (Vec<frost::Cast>, Vec<Zeroizing<[u8; 32]>>);

/// What member 2 deals in the ceremony, from member 1's seat: its broadcast and its message to us.
fn dealt() -> &'static DealtBy {
    static DEALT: LazyLock<DealtBy> = LazyLock::new(|| {
        let dealer = Dealer::new(plan(1), Zeroizing::new([8; 32]));
        let bytes = dealer.shares_for(0).expect("a share for us");
        let shares = frost::read_shares(&plan(0), 1, &bytes).expect("our own message");
        (dealer.casts().expect("casts"), shares)
    });
    &DEALT
}

fn frost_message(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 5) else { return Verdict::Refused };
    let plan = plan(0);
    match choice {
        0 => {
            let Ok(casts) = frost::read_round_1(&plan, 1, bytes) else { return Verdict::Refused };
            let again = frost::write_round_1(1, &casts).encode_to_vec();
            assert_eq!(frost::read_round_1(&plan, 1, &again).as_ref(), Ok(&casts));
            let dealer = ShareIndex::new(2).expect("an index");
            for cast in &casts {
                let verified = Dealt::verify(dealer, plan.threshold(), &cast.commitments, &cast.proof);
                // Who does not know the secret makes no proof: only those of the honest dealing are taken.
                let same = |honest: &frost::Cast| {
                    honest.proof == cast.proof && honest.commitments.first() == cast.commitments.first()
                };
                assert!(verified.is_err() || dealt().0.iter().any(same), "a proof without a secret");
            }
        }
        1 => {
            let Ok(shares) = frost::read_shares(&plan, 1, bytes) else { return Verdict::Refused };
            let again = frost::write_shares(1, 0, &shares);
            let read = frost::read_shares(&plan, 1, &again).expect("what is read is written readable");
            assert!(read.iter().zip(&shares).all(|(one, other)| **one == **other));
            let (own, dealer) =
                (ShareIndex::new(1).expect("an index"), ShareIndex::new(2).expect("an index"));
            let (casts, honest) = dealt();
            for ((share, honest), cast) in shares.iter().zip(honest).zip(casts) {
                let verified = Dealt::verify(dealer, plan.threshold(), &cast.commitments, &cast.proof);
                let checked = verified.expect("an honest dealing").check_share(own, share.as_slice());
                assert_eq!(checked.is_ok(), **share == **honest, "a share that does not fit its commitments");
            }
        }
        2 => {
            let Ok(arrived) = frost::read_round_2(&plan, 1, bytes) else { return Verdict::Refused };
            let again = frost::write_round_2(1, &arrived).encode_to_vec();
            assert_eq!(frost::read_round_2(&plan, 1, &again), Ok(arrived));
        }
        3 => {
            let Ok(signature) = frost::read_node_signature(1, bytes) else { return Verdict::Refused };
            let again = MsgNodeSig { signature: signature.clone(), peer_index: 1 }.encode_to_vec();
            assert_eq!(frost::read_node_signature(1, &again), Ok(signature));
        }
        _ => {
            let Some((enc, sealed)) = frost::read_sealed(bytes) else { return Verdict::Refused };
            assert_eq!(
                frost::read_sealed(&frost::write_sealed(enc.clone(), sealed.clone())),
                Some((enc, sealed))
            );
            assert!(frost::read_shares(&plan, 1, bytes).is_err(), "sealed and in the clear at once");
        }
    }
    Verdict::Taken
}

fn frost_seeds() -> Vec<Vec<u8>> {
    let (casts, shares) = dealt();
    let arrived =
        vec![frost::Arrived { group_key: PublicKeyBytes([1; 48]), public_share: PublicKeyBytes([2; 48]) }; 2];
    vec![
        chosen(0, frost::write_round_1(1, casts).encode_to_vec()),
        chosen(1, frost::write_shares(1, 0, shares).as_slice()),
        chosen(2, frost::write_round_2(1, &arrived).encode_to_vec()),
        chosen(3, MsgNodeSig { signature: vec![7; 65], peer_index: 1 }.encode_to_vec()),
        chosen(4, frost::write_sealed(vec![1; 32], vec![2; 90])),
    ]
}

/// As a part of a key generation, and of one that adds to a cluster, where all shares sign the lock.
fn exchanged(input: &[u8]) -> Verdict {
    let mut verdict = Verdict::Refused;
    for plan in [&*plan(0), plan_to_add()] {
        let Ok((what, partials)) = exchange::read(plan, 1, input) else { continue };
        let present = if what == Exchange::Lock { plan.present().len() } else { 0 };
        assert_eq!(partials.len(), present + plan.validators());
        let again = exchange::write(1, what, &partials);
        assert_eq!(exchange::read(plan, 1, &again), Ok((what, partials)));
        verdict = Verdict::Taken;
    }
    verdict
}

fn exchange_seeds() -> Vec<Vec<u8>> {
    let partials = vec![(PublicKeyBytes([1; 48]), SIGNATURE), (PublicKeyBytes([2; 48]), SIGNATURE)];
    let plain = [Exchange::Lock, Exchange::Registration, Exchange::Deposit(0)]
        .map(|what| exchange::write(1, what, &partials));
    // One that is added to two, and the lock that all three sign.
    let all = [partials, vec![(PublicKeyBytes([3; 48]), SIGNATURE)]].concat();
    let added = [(Exchange::Lock, &all[..]), (Exchange::Deposit(0), &all[2..])]
        .map(|(what, partials)| exchange::write(1, what, &partials.to_vec()));
    plain.into_iter().chain(added).collect()
}

const BUNDLES: [BundleKind; 3] = [BundleKind::Deal, BundleKind::Response, BundleKind::Justification];

fn pedersen_message(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 5) else { return Verdict::Refused };
    match choice {
        3 => {
            let Ok(read) = pedersen::read_announcement(&HASH, 2, bytes) else { return Verdict::Refused };
            let again = pedersen::write_announcement(&HASH, &read).encode_to_vec();
            assert_eq!(pedersen::read_announcement(&HASH, 2, &again), Ok(read));
        }
        4 => {
            let Ok(read) = pedersen::read_public_share(&HASH, bytes) else { return Verdict::Refused };
            let again = pedersen::write_public_share(&HASH, read);
            assert_eq!(pedersen::read_public_share(&HASH, &again), Ok(read));
        }
        kind => {
            let kind = BUNDLES[usize::from(kind)];
            let Ok(bundle) = pedersen::read_bundle(kind, 2, bytes) else { return Verdict::Refused };
            assert!(bytes.len() <= MAX_BUNDLE_BYTES && BundleKind::of(&bundle) == kind);
            let again = pedersen::write_bundle(&bundle);
            let hash = |bundle: &Bundle| match bundle {
                Bundle::Deal(bundle) => bundle.hash(),
                Bundle::Response(bundle) => bundle.hash(),
                Bundle::Justification(bundle) => bundle.hash(),
            };
            let read = pedersen::read_bundle(kind, 2, &again).expect("what is read is written readable");
            assert_eq!(hash(&read), hash(&bundle));
            assert!(read == bundle);
        }
    }
    Verdict::Taken
}

fn pedersen_seeds() -> Vec<Vec<u8>> {
    let deal = |share_index| Deal { share_index, encrypted_share: vec![7; CIPHERTEXT_BYTES] };
    let deals = Bundle::Deal(DealBundle {
        dealer_index: 2,
        deals: vec![deal(0), deal(1), deal(3)],
        public: vec![PublicKeyBytes([8; 48]); 3],
        session: HASH,
        signature: vec![9; 96],
    });
    let response = |dealer_index, is_good| Response { dealer_index, is_good };
    let responses = Bundle::Response(ResponseBundle {
        share_index: 2,
        responses: vec![response(0, true), response(1, false)],
        session: HASH,
        signature: vec![9; 96],
    });
    let justifications = Bundle::Justification(JustificationBundle {
        dealer_index: 2,
        justifications: vec![Justification { share_index: 1, share: [5; 32] }],
        session: HASH,
        signature: vec![9; 96],
    });
    let announcement = Announcement {
        key: PublicKeyBytes([1; 48]),
        shares: Some(vec![PublicKeyBytes([2; 48]); 2]),
        voucher: None,
    };
    let joining = Announcement { shares: None, ..announcement.clone() };
    let mut seeds: Vec<_> = (0..)
        .zip([deals, responses, justifications])
        .map(|(choice, bundle)| chosen(choice, pedersen::write_bundle(&bundle)))
        .collect();
    seeds.push(chosen(3, pedersen::write_announcement(&HASH, &announcement).encode_to_vec()));
    seeds.push(chosen(3, pedersen::write_announcement(&HASH, &joining).encode_to_vec()));
    seeds.push(chosen(4, pedersen::write_public_share(&HASH, Some(PublicKeyBytes([2; 48])))));
    seeds.push(chosen(4, pedersen::write_public_share(&HASH, None)));
    seeds
}
