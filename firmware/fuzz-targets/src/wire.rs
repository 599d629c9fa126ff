//! What other members, relays and peers send while the cluster works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::PeerId;
use obol::consensus::{self, Seal, value_of};
use obol::duty::{Duty, DutyType, Now, SlotLengths};
use obol::host::{RelayEntry, read_description};
use obol::peerinfo::{self, OwnInfo, Version};
use obol::signed::Signed;
use obol::unsigned::{read_set, set_key, write_set};
use obol::wire::{PriorityMsg, PriorityResult, QbftMsg, UnsignedDataSet};
use obol::{outside, parsigex, priority};
use prost::Message as _;
use qbft::{Ballot, Digest, Kind, Member, Message, Vote};

use crate::world::{self, MEMBERS, identities, identity};
use crate::{Target, Verdict, choose, chosen, ssz_forms};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "frame",
        about: "one message on a stream (a peer): read, framed and read the same; memory follows what arrived",
        max_bytes: 4096,
        run: frame,
        seeds: || [0, 1, 127, 300].map(|length| outside::frame(&vec![7; length])).to_vec(),
    },
    Target {
        name: "stream_names",
        about: "the beginning of a stream (a peer): only the one old name is exchanged, however it is cut",
        max_bytes: 1024,
        run: stream_names,
        seeds: stream_seeds,
    },
    Target {
        name: "qbft",
        about: "an agreement message (a peer), also with every vote signed anew: what is taken is sent and taken the same",
        max_bytes: 8192,
        run: qbft_message,
        seeds: qbft_seeds,
    },
    Target {
        name: "parsigex",
        about: "partial signatures (a peer): what is taken is sent and taken the same",
        max_bytes: 8192,
        run: partial_signatures,
        seeds: partial_seeds,
    },
    Target {
        name: "priority",
        about: "a member's wishes (a peer), also signed anew: calculated without a panic, result round-trips",
        max_bytes: 4096,
        run: wishes,
        seeds: wish_seeds,
    },
    Target {
        name: "priority_canonical",
        about: "the encodings that all members hash (a peer): canonical form is its own canonical form",
        max_bytes: 8192,
        run: canonical,
        seeds: canonical_seeds,
    },
    Target {
        name: "peerinfo",
        about: "versions and clocks (a peer): shown texts are short and plain, offsets bounded",
        max_bytes: 1024,
        run: peer_info,
        seeds: peer_info_seeds,
    },
    Target {
        name: "unsigned_set",
        about: "a proposed value of any duty (a peer): written and read the same",
        max_bytes: 16_384,
        run: unsigned_set,
        seeds: unsigned_seeds,
    },
    Target {
        name: "signed_object",
        about: "a signed object of any duty (a peer): written and read the same, with the same root",
        max_bytes: 16_384,
        run: signed_object,
        seeds: || {
            ssz_forms::signed_objects()
                .into_iter()
                .map(|(kind, signed)| chosen(place(kind), signed.encode()))
                .collect()
        },
    },
    Target {
        name: "relay",
        about: "a relay's description and an owner's name of a relay: few addresses, one peer, nothing unusable",
        max_bytes: 4096,
        run: relay,
        seeds: relay_seeds,
    },
];

const SLOT: u64 = 100;
const LENGTHS: SlotLengths = SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 32 };

fn now() -> Now {
    Now { since_genesis_ns: SLOT * LENGTHS.slot_ns, lengths: LENGTHS }
}

fn frame(input: &[u8]) -> Verdict {
    const MAX: usize = 2048;
    let (message, reserved) = outside::read_frame(input, MAX);
    assert!(
        reserved <= (2 * input.len()).max(16 << 10),
        "{reserved} bytes are set aside for {}",
        input.len()
    );
    if let Some(message) = &message {
        assert!(message.len() <= MAX);
        assert_eq!(outside::read_frame(&outside::frame(message), MAX).0.as_ref(), Some(message));
    }
    Verdict::of(message)
}

const OLD_NAME: &[u8] = b"\x16charon/priority/2.0.0\n";
const ALIAS: &[u8] = b"\x1e/legacy/charon/priority/2.0.0\n";

fn stream_names(input: &[u8]) -> Verdict {
    let Some((step, stream)) = input.split_first() else { return Verdict::Refused };
    let read = outside::translated(stream, usize::from(*step));
    assert_eq!(read, outside::translated(stream, 1), "it matters how the stream is cut");
    if read == stream {
        return Verdict::Refused;
    }
    let at = stream.iter().zip(&read).take_while(|(was, is)| was == is).count();
    // The frame's length is what differs first.
    assert_eq!(stream.get(at..at + OLD_NAME.len()), Some(OLD_NAME));
    assert_eq!(read.get(at..at + ALIAS.len()), Some(ALIAS));
    assert_eq!(stream.get(at + OLD_NAME.len()..), read.get(at + ALIAS.len()..));
    Verdict::Taken
}

fn stream_seeds() -> Vec<Vec<u8>> {
    let header = b"\x13/multistream/1.0.0\n";
    let refused = b"\x03na\n";
    [
        [&[9][..], header, OLD_NAME, b"data"].concat(),
        [&[3][..], header, refused, OLD_NAME].concat(),
        [&[200][..], header, b"\x17/charon/priority/2.0.0\n\x04data"].concat(),
        [&[1][..], header, &OLD_NAME[..9]].concat(),
    ]
    .to_vec()
}

fn qbft_context(operators: &[cluster::IdentityPublicKey]) -> consensus::Context<'_> {
    consensus::Context {
        operators,
        validators: 2,
        kinds: &[DutyType::Attester, DutyType::Proposer, DutyType::InfoSync, DutyType::Aggregator],
        now: now(),
    }
}

fn qbft_message(input: &[u8]) -> Verdict {
    let operators = identities();
    let context = qbft_context(&operators);
    let as_it_came = check_qbft(input, &context);
    // Hardly any change of a vote leaves its signature right: sign what was changed, as a lying member would.
    let Ok(mut message) = consensus::decode(input, operators.len()) else {
        assert_eq!(as_it_came, Verdict::Refused);
        return as_it_came;
    };
    message.msg.iter_mut().chain(&mut message.justification).for_each(sign_vote);
    as_it_came.or(check_qbft(&message.encode_to_vec(), &context))
}

fn sign_vote(vote: &mut QbftMsg) {
    vote.signature.clear();
    let author = usize::try_from(vote.peer_idx).unwrap_or(0) % usize::from(MEMBERS);
    if let Some((_, root)) = outside::vote_root(&vote.encode_to_vec()) {
        vote.signature = identity(author).sign(&root).to_vec();
    }
}

fn check_qbft(bytes: &[u8], context: &consensus::Context<'_>) -> Verdict {
    let Ok(received) = consensus::receive(bytes, context) else { return Verdict::Refused };
    assert!(received.message.justification.len() <= 2 * context.operators.len());
    let value = |digest: &Digest| received.values.get(digest).cloned();
    // Whoever passes it on sends each vote as it was signed.
    let author = received.message.vote.ballot.author;
    let key = identity(usize::from(author.0));
    let again =
        consensus::encode(received.duty, &received.message, author, &key, value).expect("all is at hand");
    let again = consensus::receive(&again, context).expect("what is taken is taken again");
    assert_eq!((again.duty, &again.message), (received.duty, &received.message));
    let named = |received: &consensus::Received| {
        let ballots = received.message.justification.iter().chain([&received.message.vote]);
        ballots.flat_map(|vote| [vote.ballot.value, vote.ballot.prepared_value]).collect::<BTreeSet<_>>()
    };
    for digest in named(&received).into_iter().filter(|digest| !digest.is_zero()) {
        assert_eq!(again.values.get(&digest), received.values.get(&digest));
    }
    Verdict::Taken
}

fn qbft_value(byte: u8) -> (Digest, Arc<[u8]>) {
    let set = BTreeMap::from([(set_key(&PublicKeyBytes([byte; 48])), vec![byte; 232])]);
    value_of(&UnsignedDataSet { set })
}

fn qbft_seeds() -> Vec<Vec<u8>> {
    let duty = Duty::new(SLOT, DutyType::Attester);
    let operators = identities();
    let lookup =
        |digest: &Digest| (0..8).map(qbft_value).find(|(known, _)| known == digest).map(|(_, bytes)| bytes);
    let encode = |message: &Message<Seal>| {
        let author = message.vote.ballot.author;
        let key = identity(usize::from(author.0));
        consensus::encode(duty, message, author, &key, lookup).expect("our own message")
    };
    let alone = |ballot| Message { vote: Vote { ballot, seal: None }, justification: Vec::new() };
    let sealed = |ballot| {
        let bytes = encode(&alone(ballot));
        consensus::receive(&bytes, &qbft_context(&operators)).expect("our own message").message.vote
    };
    let value = qbft_value(1).0;
    let mut justification = Vec::new();
    justification
        .extend((0..3).map(|author| sealed(Ballot::round_change(Member(author), 2, Some((1, value))))));
    justification
        .extend((1..4).map(|author| sealed(Ballot::for_value(Kind::Prepare, Member(author), 1, value))));
    let vote = Vote { ballot: Ballot::for_value(Kind::PrePrepare, Member(0), 2, value), seal: None };
    vec![
        encode(&alone(Ballot::for_value(Kind::PrePrepare, Member(3), 1, value))),
        encode(&alone(Ballot::for_value(Kind::Commit, Member(2), 1, value))),
        encode(&alone(Ballot::round_change(Member(1), 2, None))),
        encode(&Message { vote, justification }),
    ]
}

fn partial_context(validators: &BTreeSet<PublicKeyBytes>, sender: u8) -> parsigex::Context<'_> {
    parsigex::Context { validators, members: MEMBERS, kinds: &DutyType::ALL, now: now(), sender }
}

fn partial_signatures(input: &[u8]) -> Verdict {
    let Some((sender, bytes)) = choose(input, MEMBERS) else { return Verdict::Refused };
    let validators: BTreeSet<_> = world::validators().into_iter().collect();
    let context = partial_context(&validators, sender + 1);
    let Ok(received) = parsigex::receive(bytes, &context) else { return Verdict::Refused };
    assert!(received.share_index == sender + 1 && received.partials.len() <= validators.len());
    let signed = received.partials.iter().map(|(validator, partial)| (validator, &partial.signed));
    let again = parsigex::encode(received.duty, received.share_index, signed);
    assert_eq!(parsigex::receive_remembered(&again, &context).as_ref(), Ok(&received));
    assert_eq!(parsigex::receive(&again, &context), Ok(received));
    Verdict::Taken
}

fn partial_seeds() -> Vec<Vec<u8>> {
    let validators = world::validators();
    let seed = |(kind, signed): (DutyType, Signed)| {
        let entries = [(&validators[0], &signed), (&validators[1], &signed)];
        chosen(1, parsigex::encode(Duty::new(SLOT, kind), 2, entries))
    };
    ssz_forms::signed_objects()
        .into_iter()
        .filter(|(kind, _)| *kind != DutyType::Signature)
        .map(seed)
        .collect()
}

const WISH: Duty = Duty::new(127, DutyType::InfoSync);

fn wishes(input: &[u8]) -> Verdict {
    let at = Now { since_genesis_ns: 127 * LENGTHS.slot_ns, lengths: LENGTHS };
    let peer = |member| PeerId::from_public_key(&identity(member).public_key());
    let as_it_came = priority::receive(input, &peer(0), at);
    let mut messages: Vec<PriorityMsg> = as_it_came.iter().map(|(_, message)| message.clone()).collect();
    for member in 0..2 {
        // Signed anew, by two members, so that wishes meet wishes.
        let Ok(mut message) = PriorityMsg::decode(input) else { continue };
        message.peer_id = peer(member).to_string();
        message.signature.clear();
        let Some(part) = outside::signed_part(&message.encode_to_vec()) else { continue };
        message.signature = identity(member).sign(&obol::root::bytes_root(&part)).to_vec();
        let Ok((_, taken)) = priority::receive(&message.encode_to_vec(), &peer(member), at) else { continue };
        messages.retain(|known| known.peer_id != taken.peer_id);
        messages.push(taken);
    }
    if let Ok(result) = priority::calculate(&messages, 2) {
        assert_eq!(PriorityResult::decode(result.encode_to_vec().as_slice()).as_ref(), Ok(&result));
        // What one member calculates, all take as it is.
        assert_eq!(outside::priority_result(&result.encode_to_vec()), Some(result.encode_to_vec()));
        let mut agreed = obol::infosync::InfoSync::default();
        agreed.add(127, &result);
        let _versions = agreed.plural_contributions(130);
    }
    Verdict::of(messages.first())
}

fn wish_seeds() -> Vec<Vec<u8>> {
    let short = [("version", vec!["v1.11".to_owned(), "v1.10".to_owned()])];
    let usual: Vec<_> = obol::infosync::own_topics(true);
    [priority::sign(WISH, &short, &identity(0)), priority::sign(WISH, &usual, &identity(0))]
        .map(|message| message.encode_to_vec())
        .to_vec()
}

fn canonical(input: &[u8]) -> Verdict {
    let result = outside::priority_result(input);
    if let Some(canonical) = &result {
        assert_eq!(outside::priority_result(canonical).as_ref(), Some(canonical), "not canonical yet");
        let plain = |bytes: &[u8]| PriorityResult::decode(bytes).expect("a canonical form is readable");
        assert_eq!(plain(canonical), plain(input), "the canonical form says something else");
    }
    let part = outside::signed_part(input);
    if let Some(part) = &part {
        assert_eq!(outside::signed_part(part).as_ref(), Some(part), "not canonical yet");
    }
    Verdict::of(result).or(Verdict::of(part))
}

fn canonical_seeds() -> Vec<Vec<u8>> {
    let usual = obol::infosync::own_topics(false);
    let messages: Vec<PriorityMsg> =
        (0..3).map(|member| priority::sign(WISH, &usual, &identity(member))).collect();
    let result = priority::calculate(&messages, 3).expect("our own messages");
    // A field that no release of today has.
    let newer = [&messages[0].encode_to_vec()[..], &[0xfa, 0x01, 0x02, 0x08, 0x01]].concat();
    vec![messages[0].encode_to_vec(), result.encode_to_vec(), newer]
}

fn peer_info(input: &[u8]) -> Verdict {
    let read = peerinfo::check(input, &[7; 32], 1_000_300, 200);
    if let Ok(report) = &read {
        for text in [&report.charon_version, &report.dv_client, &report.nickname, &report.git_hash] {
            assert!(text.chars().count() <= 64 && !text.chars().any(char::is_control), "{text:?}");
        }
        assert!(report.clock_offset_ms.abs() <= 3_600_000);
    }
    if let Some(version) = std::str::from_utf8(input).ok().and_then(Version::parse) {
        let again = Version::parse(&version.to_string()).expect("a version is written as it is read");
        assert_eq!(again.is_supported(), version.is_supported());
    }
    let _ = std::str::from_utf8(input).ok().and_then(outside::major_minor);
    Verdict::of(read.ok())
}

fn peer_info_seeds() -> Vec<Vec<u8>> {
    let own = OwnInfo {
        charon_version: "v1.10.3".to_owned(),
        lock_hash: [7; 32],
        git_hash: "9ff5308".to_owned(),
        nickname: "a box".to_owned(),
        builder_api_enabled: true,
    };
    let other = OwnInfo { git_hash: "unknown".to_owned(), lock_hash: [8; 32], ..own.clone() };
    vec![
        peerinfo::encode(&own, 1_000_000, 900_000),
        peerinfo::encode(&other, 5_000, 1_000),
        b"v1.11-dev".to_vec(),
        b"v1.10.3".to_vec(),
    ]
}

fn place(kind: DutyType) -> u8 {
    u8::try_from(DutyType::ALL.iter().position(|known| *known == kind).unwrap_or(0)).unwrap_or(0)
}

fn kind_of(choice: u8) -> DutyType {
    DutyType::ALL[usize::from(choice) % DutyType::ALL.len()]
}

fn unsigned_set(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 13) else { return Verdict::Refused };
    let kind = kind_of(choice);
    let Ok(set) = read_set(kind, bytes) else { return Verdict::Refused };
    let (digest, value) = value_of(&write_set(&set));
    assert_eq!(read_set(kind, &value).as_ref(), Ok(&set));
    assert_eq!(value_of(&write_set(&set)).0, digest);
    Verdict::Taken
}

fn unsigned_seeds() -> Vec<Vec<u8>> {
    let validators = world::validators();
    let seed = |(kind, unsigned)| {
        let value = value_of(&write_set([(&validators[0], &unsigned), (&validators[1], &unsigned)])).1;
        chosen(place(kind), value)
    };
    ssz_forms::unsigned_objects().into_iter().map(seed).collect()
}

fn signed_object(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 13) else { return Verdict::Refused };
    let kind = kind_of(choice);
    let Ok(signed) = Signed::decode(kind, bytes) else { return Verdict::Refused };
    let again = Signed::decode(kind, &signed.encode()).expect("what is read is written readable");
    assert_eq!(again, signed);
    assert_eq!(again.message_root(), signed.message_root());
    // The signature is apart from what is signed.
    if signed.signature().is_some() {
        let other = signed.clone().with_signature(SignatureBytes([0xc1; 96]));
        assert_eq!(
            (other.message_root(), other.subcommittee()),
            (signed.message_root(), signed.subcommittee())
        );
        assert_eq!(other.signature(), Some(SignatureBytes([0xc1; 96])));
    }
    Verdict::Taken
}

fn relay(input: &[u8]) -> Verdict {
    let mut verdict = Verdict::Refused;
    for loopback in [true, false] {
        if let Ok(relay) = read_description(input, loopback) {
            assert!((1..=16).contains(&relay.addrs.len()));
            verdict = Verdict::Taken;
        }
    }
    let entry = std::str::from_utf8(input).ok().and_then(|text| RelayEntry::parse(text).ok());
    if let Some(RelayEntry::Fixed(relay)) = &entry {
        let text = format!("{}/p2p/{}", relay.addrs[0], relay.id);
        assert_eq!(RelayEntry::parse(&text).as_ref(), Ok(&RelayEntry::Fixed(relay.clone())));
    }
    verdict.or(Verdict::of(entry))
}

fn relay_seeds() -> Vec<Vec<u8>> {
    use cluster::{Enr, EnrEndpoint};
    let key = identity(0);
    let id = PeerId::from_public_key(&key.public_key());
    let endpoint = EnrEndpoint { ip: Some([192, 0, 2, 7].into()), tcp: Some(3610), udp: None };
    let list = format!("[\"/ip4/192.0.2.7/tcp/3610/p2p/{id}\",\"/dns4/relay.example/tcp/443/p2p/{id}\"]");
    vec![
        Enr::build_with(&key, endpoint).as_str().as_bytes().to_vec(),
        list.into_bytes(),
        format!("/ip6/2001:db8::1/tcp/3610/p2p/{id}").into_bytes(),
        b"https://0.relay.example".to_vec(),
    ]
}
