//! What each stock validator client puts on the wire, from its first question to its last signature, against the validator API.
//!
//! Paths, parameters, headers and forms of bodies are those of each client's own HTTP library: Lodestar's as recorded in the
//! vectors, the others' as their published sources had them in 2026. What is signed is signed by this member's share, so a
//! submission that is answered 200 was read, verified and handed to the cluster, and the test looks at what was handed over.
//! Prysm's client itself runs in `./hearth test fast`.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod fake;
mod setting;

use std::sync::Arc;

use beacon::validator_api::{AgreedBlock, Message};
use chain::{
    AggregateAndProof, AttestationData, CommitteeIndex, ContributionAndProof, Epoch, ForkName, Root,
    SignatureBytes, SignedAggregateAndProof, SignedContributionAndProof, SingleAttestation, Slot,
    SyncCommitteeMessage, ValidatorIndex, VoluntaryExit,
};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use setting::Setting;
use ssz::Encode;

const JSON: &str = "application/json";
const SSZ: &str = "application/octet-stream";

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Json,
    Ssz,
}

/// How a client asks which of its keys are validators.
#[derive(Clone, Copy)]
enum Lookup {
    /// `POST` with `ids`, and with `statuses` as it writes them when it wants no certain ones.
    Post(Option<Statuses>),
    /// `GET ?id=a,b`.
    Commas,
    /// `GET ?id=a%2Cb`.
    EscapedCommas,
    /// `GET ?id=a&id=b`.
    Repeated,
    /// `GET …/validators/a`, one after the other.
    OneByOne,
}

/// How it says that any status will do, or which.
#[derive(Clone, Copy)]
enum Statuses {
    Null,
    Empty,
    Active,
}

/// The habits of one client.
struct Client {
    name: &'static str,
    /// `Accept` of its questions.
    accept: Option<&'static str>,
    /// Which form that asks for, where both exist.
    gets: Form,
    /// `Accept` when it asks for a block, and the form that asks for.
    accept_block: (Option<&'static str>, Form),
    /// How it writes the content type of JSON.
    json: &'static str,
    /// How it writes the name of the fork's header.
    version: &'static str,
    /// Indices of duties as numbers or, as most do, as text.
    bare_indices: bool,
    lookups: &'static [Lookup],
    /// Which proposer duties.
    proposers: &'static str,
    /// The parameters of a block beside `randao_reveal`.
    block_query: &'static str,
    /// Parameters of a block's publication.
    publish_query: &'static str,
    /// The form of what it signed: blocks, and lists.
    block: Form,
    lists: Form,
    registrations: Form,
    /// The topics of its stream of events.
    topics: &'static str,
    /// Other headers that its library sends with everything.
    more: &'static [(&'static str, &'static str)],
}

const LODESTAR: Client = Client {
    name: "Lodestar",
    accept: Some("application/octet-stream;q=1,application/json;q=0.9"),
    gets: Form::Ssz,
    accept_block: (Some("application/octet-stream;q=1,application/json;q=0.9"), Form::Ssz),
    json: JSON,
    version: "Eth-Consensus-Version",
    bare_indices: false,
    lookups: &[Lookup::Post(None), Lookup::Repeated],
    proposers: "/eth/v1/validator/duties/proposer",
    block_query: "&graffiti=0x6c6f64657374617200000000000000000000000000000000000000000000000000\
                  &fee_recipient=0xaAaAaAaaAaAaAaaAaAAAAAAAAaaaAaAaAaaAaaAa&builder_selection=default\
                  &builder_boost_factor=100&strict_fee_recipient_check=false&blinded_local=true",
    publish_query: "?broadcast_validation=gossip",
    block: Form::Ssz,
    lists: Form::Json,
    registrations: Form::Json,
    topics: "head",
    more: &[],
};

const LIGHTHOUSE: Client = Client {
    name: "Lighthouse",
    accept: Some("*/*"),
    gets: Form::Json,
    accept_block: (Some("application/octet-stream;q=1.0,application/json;q=0.9"), Form::Ssz),
    lookups: &[Lookup::OneByOne, Lookup::Post(Some(Statuses::Null))],
    block_query: "&graffiti=0x6c69676874686f75736500000000000000000000000000000000000000000000&builder_boost_factor=90",
    publish_query: "",
    topics: "head",
    more: &[("user-agent", "Lighthouse/v8.0.0")],
    ..LODESTAR
};

const TEKU: Client = Client {
    name: "Teku",
    accept: None,
    gets: Form::Json,
    accept_block: (Some("application/octet-stream;q=0.9, application/json;q=0.4"), Form::Ssz),
    json: "application/json; charset=utf-8",
    lookups: &[Lookup::Post(Some(Statuses::Empty)), Lookup::Commas, Lookup::EscapedCommas],
    block_query: "&builder_boost_factor=90&graffiti=0x74656b7500000000000000000000000000000000000000000000000000000000",
    publish_query: "?broadcast_validation=gossip",
    registrations: Form::Ssz,
    topics: "head,attester_slashing,proposer_slashing",
    more: &[("user-agent", "teku/v25.9.3"), ("accept-encoding", "gzip"), ("connection", "keep-alive")],
    ..LODESTAR
};

const NIMBUS: Client = Client {
    name: "Nimbus",
    accept: Some(JSON),
    gets: Form::Json,
    accept_block: (Some("application/octet-stream,application/json;q=0.9"), Form::Ssz),
    version: "eth-consensus-version",
    lookups: &[Lookup::Repeated, Lookup::Commas, Lookup::Post(Some(Statuses::Active))],
    block_query: "&graffiti=0x6e696d62757300000000000000000000000000000000000000000000000000&builder_boost_factor=100",
    publish_query: "?broadcast_validation=gossip",
    topics: "head,block",
    more: &[("user-agent", "nimbus"), ("accept-encoding", "identity")],
    ..LODESTAR
};

const VOUCH: Client = Client {
    name: "Vouch",
    lookups: &[Lookup::Post(None)],
    block_query: "&graffiti=0x766f7563680000000000000000000000000000000000000000000000000000000000&builder_boost_factor=91",
    publish_query: "",
    topics: "head,block,chain_reorg",
    more: &[("user-agent", "go-eth2-client/0.28.0")],
    ..LODESTAR
};

/// What came back.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// One client in front of one member.
struct Session {
    all: Setting,
    client: Client,
}

impl Session {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = self.all.http.request(method, format!("{}{path}", self.all.url)).body(body);
        for (name, value) in self.client.more.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    async fn get_as(&self, path: &str, accept: Option<&str>) -> Answer {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let answer = self.send(Method::GET, path, &headers, Vec::new()).await;
        assert_eq!(
            answer.status,
            200,
            "{} {path}: {}",
            self.client.name,
            String::from_utf8_lossy(&answer.body)
        );
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.get_as(path, self.client.accept).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let accept = self.client.accept.unwrap_or("*/*");
        let headers =
            [("content-type", self.client.json), ("accept", accept), (self.client.version, "electra")];
        let answer = self.send(Method::POST, path, &headers, body.to_string().into_bytes()).await;
        assert_eq!(
            answer.status,
            200,
            "{} {path}: {}",
            self.client.name,
            String::from_utf8_lossy(&answer.body)
        );
        answer
    }

    /// Submits in a form. A client that is told 415 says the same in JSON and remembers it for the path.
    async fn submit<T: Serialize + Encode>(&self, path: &str, form: Form, value: &T) {
        let headers = |kind| [("content-type", kind), (self.client.version, "electra"), ("accept", "*/*")];
        let answer = match form {
            Form::Ssz => self.send(Method::POST, path, &headers(SSZ), value.as_ssz_bytes()).await,
            Form::Json => {
                let body = serde_json::to_vec(value).unwrap();
                self.send(Method::POST, path, &headers(self.client.json), body).await
            }
        };
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!((answer.status, &*said), (200, ""), "{} {path}", self.client.name);
    }

    /// What was handed to the cluster by the last request.
    fn handed(&self) -> Vec<Message> {
        self.all.taken().last().unwrap().iter().map(|partial| partial.message.clone()).collect()
    }

    fn by_group(&self, message: &Message) -> SignatureBytes {
        self.all.keys.groups[1].sign(&message.signing_root(&self.all.chain).0).to_bytes()
    }

    /// What it asks of the beacon node behind us, which answers as if nobody were between.
    async fn asks_the_beacon_node(&self) {
        for path in [
            "/eth/v1/beacon/genesis",
            "/eth/v1/config/spec",
            "/eth/v1/node/syncing",
            "/eth/v1/beacon/blocks/head/root",
        ] {
            let direct = self.all.http.get(format!("{}{path}", self.all.node.url)).send().await.unwrap();
            let direct: Value = serde_json::from_slice(&direct.bytes().await.unwrap()).unwrap();
            assert_eq!(self.get(path).await.json(), direct, "{path}");
        }
        let version = self.get_as("/eth/v1/node/version", Some(JSON)).await.json();
        assert_eq!(version["data"]["version"], "obolnetwork/x");
        let live = self.post("/eth/v1/validator/liveness/2", &json!(["0", "1"])).await.json();
        assert_eq!(live["data"][1], json!({"index": "1", "is_live": false}));
        let path = format!("/eth/v1/events?topics={}", self.client.topics);
        let request =
            self.all.http.get(format!("{}{path}", self.all.url)).header("accept", "text/event-stream");
        let mut stream = request.send().await.unwrap();
        self.all.node.emit("head", &json!({"slot": "5"}));
        assert_eq!(&stream.chunk().await.unwrap().unwrap()[..], b"event: head\ndata: {\"slot\":\"5\"}\n\n");
    }

    /// Each way of finding its validators gives the same two, under the keys that it has.
    async fn finds_its_validators(&self) {
        let states = "/eth/v1/beacon/states/head/validators";
        let own = [self.all.own(0).to_string(), self.all.own(1).to_string()];
        for lookup in self.client.lookups {
            let found = match lookup {
                Lookup::Post(statuses) => {
                    let mut body = json!({"ids": own});
                    if let Some(statuses) = statuses {
                        body["statuses"] = match statuses {
                            Statuses::Null => Value::Null,
                            Statuses::Empty => json!([]),
                            Statuses::Active => json!(["active_ongoing", "active_exiting"]),
                        };
                    }
                    self.post(states, &body).await.json()["data"].clone()
                }
                Lookup::Commas => {
                    self.get(&format!("{states}?id={}", own.join(","))).await.json()["data"].clone()
                }
                Lookup::EscapedCommas => {
                    self.get(&format!("{states}?id={}", own.join("%2C"))).await.json()["data"].clone()
                }
                Lookup::Repeated => {
                    self.get(&format!("{states}?id={}", own.join("&id="))).await.json()["data"].clone()
                }
                Lookup::OneByOne => {
                    let mut found = Vec::new();
                    for key in &own {
                        found.push(self.get(&format!("{states}/{key}")).await.json()["data"].clone());
                    }
                    json!(found)
                }
            };
            let found: Vec<_> =
                found.as_array().unwrap().iter().map(|one| one["validator"]["pubkey"].clone()).collect();
            assert_eq!(found, own, "{}", self.client.name);
        }
    }

    async fn learns_its_duties(&self) {
        let indices = if self.client.bare_indices { json!([0, 1]) } else { json!(["0", "1"]) };
        let attesters = self.post("/eth/v1/validator/duties/attester/3", &indices).await.json();
        let syncs = self.post("/eth/v1/validator/duties/sync/3", &indices).await.json();
        let proposers = self.get(&format!("{}/3", self.client.proposers)).await.json();
        for duties in [&attesters, &syncs, &proposers] {
            assert_eq!(duties["data"][1]["pubkey"], self.all.own(1).to_string(), "{}", self.client.name);
        }
        for duties in [&attesters, &proposers] {
            assert!(duties["dependent_root"].is_string());
        }
        // What it subscribes to reaches the beacon node as it was; what the cluster settles does not.
        let committees = json!([{"validator_index": "1", "committee_index": "3", "committees_at_slot": "4",
            "slot": self.all.slot, "is_aggregator": false}]);
        let subcommittees =
            json!([{"validator_index": "1", "sync_committee_indices": ["5"], "until_epoch": "9"}]);
        let before = self.all.node.submitted().len();
        let paths = [
            "/eth/v1/validator/beacon_committee_subscriptions",
            "/eth/v1/validator/sync_committee_subscriptions",
        ];
        // Its library sets the fork's header for lists that need it only; these go without one, in plain JSON.
        for (path, body) in paths.iter().zip([&committees, &subcommittees]) {
            let answer =
                self.send(Method::POST, path, &[("content-type", JSON)], body.to_string().into_bytes()).await;
            assert_eq!((answer.status, answer.body.len()), (200, 0));
        }
        let passed =
            paths.map(str::to_owned).into_iter().zip([committees, subcommittees]).collect::<Vec<_>>();
        assert_eq!(self.all.node.submitted()[before..], passed);
        self.post(
            "/eth/v1/validator/prepare_beacon_proposer",
            &json!([{"validator_index": "1", "fee_recipient": "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"}]),
        )
        .await;
        let (kind, body) = match self.client.registrations {
            Form::Ssz => (SSZ, vec![7; 180]),
            Form::Json => (self.client.json, b"[{\"message\":{},\"signature\":\"0x\"}]".to_vec()),
        };
        let path = "/eth/v1/validator/register_validator";
        let answer = self.send(Method::POST, path, &[("content-type", kind)], body).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(self.all.node.submitted().len(), before + 2, "fee recipients are the cluster's");
    }

    async fn is_selected(&self) {
        let slot = Slot(self.all.slot.0 / 2 * 2);
        let group = SignatureBytes([0x55; 96]);
        self.all.member.0.lock().unwrap().selection = Some(group);
        let own = |message| self.all.sign(1, &message);
        let committee = json!({"validator_index": "1", "slot": slot,
            "selection_proof": own(Message::CommitteeSelection { slot })});
        let sync = |subcommittee: u64| {
            json!({"validator_index": "1", "slot": slot, "subcommittee_index": subcommittee.to_string(),
                "selection_proof": own(Message::SyncSelection { slot, subcommittee })})
        };
        for (path, asked) in [
            ("/eth/v1/validator/beacon_committee_selections", json!([committee])),
            ("/eth/v1/validator/sync_committee_selections", json!([sync(1), sync(3)])),
        ] {
            let mut expected = asked.clone();
            for entry in expected.as_array_mut().unwrap() {
                entry["selection_proof"] = json!(group);
            }
            assert_eq!(self.post(path, &asked).await.json(), json!({"data": expected}), "{path}");
            assert_eq!(
                self.post(path, &json!([])).await.json(),
                json!({"data": []}),
                "nothing is no mistake"
            );
        }
    }

    fn is_in_form<T: Encode>(&self, answer: &Answer, form: Form, json: &Value, ssz: &T) {
        match form {
            Form::Json => {
                assert_eq!(answer.header("content-type"), Some(JSON));
                assert_eq!(answer.json(), *json);
            }
            Form::Ssz => {
                assert_eq!(answer.header("content-type"), Some(SSZ));
                assert_eq!(answer.header("eth-consensus-version"), Some("electra"));
                assert_eq!(answer.body, ssz.as_ssz_bytes());
            }
        }
    }

    async fn attests_and_aggregates(&self) {
        let data = AttestationData { slot: self.all.slot, ..AttestationData::default() };
        self.all.member.0.lock().unwrap().data = Some(Ok(data));
        for committee in [0, 1] {
            let path =
                format!("/eth/v1/validator/attestation_data?slot={}&committee_index={committee}", data.slot);
            self.is_in_form(&self.get(&path).await, self.client.gets, &json!({ "data": data }), &data);
        }
        let committee_index = CommitteeIndex(1);
        let message = Message::Attestation { committee: committee_index, data };
        let signature = self.all.sign(1, &message);
        let vote = SingleAttestation { committee_index, attester_index: ValidatorIndex(1), data, signature };
        self.submit("/eth/v2/beacon/pool/attestations", self.client.lists, &vec![vote]).await;
        assert_eq!(self.handed(), [message]);

        let aggregate: chain::Attestation = serde_json::from_value(json!({"aggregation_bits": "0x13",
            "committee_bits": "0x0200000000000000", "signature": SignatureBytes([5; 96]), "data": data}))
        .unwrap();
        self.all.member.0.lock().unwrap().aggregate = Some(aggregate.clone());
        let path = format!(
            "/eth/v2/validator/aggregate_attestation?attestation_data_root={}&slot={}&committee_index=1",
            Root([1; 32]),
            data.slot
        );
        let answer = self.get(&path).await;
        assert_eq!(answer.header("eth-consensus-version"), Some("electra"));
        let expected = json!({"version": "electra", "data": aggregate});
        self.is_in_form(&answer, self.client.gets, &expected, &aggregate);
        let selection_proof = self.by_group(&Message::CommitteeSelection { slot: data.slot });
        let message = AggregateAndProof { aggregator_index: ValidatorIndex(1), aggregate, selection_proof };
        let signed = Message::Aggregate { fork: ForkName::Electra, aggregate: Box::new(message.clone()) };
        let list = vec![SignedAggregateAndProof { message, signature: self.all.sign(1, &signed) }];
        self.submit("/eth/v2/validator/aggregate_and_proofs", self.client.lists, &list).await;
        assert_eq!(self.handed(), [signed]);
    }

    async fn proposes(&self) {
        let slot = Slot(self.all.slot.0 / 4 * 4 + 1);
        let reveal = self.all.sign(1, &Message::Randao { slot, epoch: Epoch(slot.0 / 8) });
        let (accept, form) = self.client.accept_block;
        for blinded in [false, true] {
            let block = fake::members::block(slot, 1, reveal, blinded);
            let agreed = AgreedBlock { fork: ForkName::Electra, block: block.clone() };
            self.all.member.0.lock().unwrap().block = Some(Arc::new(agreed));
            let path =
                format!("/eth/v3/validator/blocks/{slot}?randao_reveal={reveal}{}", self.client.block_query);
            let answer = self.get_as(&path, accept).await;
            for (name, value) in [
                ("eth-consensus-version", "electra"),
                ("eth-execution-payload-blinded", if blinded { "true" } else { "false" }),
                ("eth-execution-payload-value", "1"),
                ("eth-consensus-block-value", "1"),
            ] {
                assert_eq!(answer.header(name), Some(value), "{}", self.client.name);
            }
            assert!(form == Form::Ssz && answer.body == block.to_ssz(), "{}", self.client.name);
            // A client that failed to read SSZ asks again for JSON.
            let again = self.get_as(&path, Some(JSON)).await.json();
            assert_eq!((&again["data"], &again["version"]), (&json!(block), &json!("electra")));

            let unsigned = Arc::new(block.clone().signed(SignatureBytes([0; 96])));
            let message = Message::Block { fork: ForkName::Electra, block: unsigned };
            let signed = block.signed(self.all.sign(1, &message));
            let kind = if blinded { "blinded_blocks" } else { "blocks" };
            let path = format!("/eth/v2/beacon/{kind}{}", self.client.publish_query);
            let in_ssz = (SSZ, signed.to_ssz());
            let in_json = (self.client.json, serde_json::to_vec(&signed).unwrap());
            let first = if self.client.block == Form::Ssz { &in_ssz } else { &in_json };
            for (kind, body) in [first, &in_json] {
                let headers = [("content-type", *kind), (self.client.version, "electra")];
                let answer = self.send(Method::POST, &path, &headers, body.clone()).await;
                let said = String::from_utf8_lossy(&answer.body);
                assert_eq!((answer.status, &*said), (200, ""), "{} {path} {kind}", self.client.name);
                let handed = self.handed();
                let Message::Block { block, .. } = &handed[0] else { panic!("{handed:?}") };
                assert_eq!(**block, signed);
            }
        }
    }

    async fn serves_in_the_sync_committee(&self) {
        let (slot, root) = (self.all.slot, Root([9; 32]));
        let vote = Message::SyncVote { slot, block: root };
        let message = SyncCommitteeMessage {
            slot,
            beacon_block_root: root,
            validator_index: ValidatorIndex(1),
            signature: self.all.sign(1, &vote),
        };
        self.submit("/eth/v1/beacon/pool/sync_committees", self.client.lists, &vec![message]).await;
        assert_eq!(self.handed(), [vote]);

        let contribution: chain::SyncCommitteeContribution = serde_json::from_value(json!({"slot": slot,
            "beacon_block_root": root, "subcommittee_index": "2", "aggregation_bits": format!("0x01{}", "00".repeat(15)),
            "signature": SignatureBytes([6; 96])}))
        .unwrap();
        self.all.member.0.lock().unwrap().contribution = Some(contribution.clone());
        let path = format!(
            "/eth/v1/validator/sync_committee_contribution?slot={slot}&beacon_block_root={root}&subcommittee_index=2"
        );
        let expected = json!({ "data": contribution });
        self.is_in_form(&self.get(&path).await, self.client.gets, &expected, &contribution);
        let selection_proof = self.by_group(&Message::SyncSelection { slot, subcommittee: 2 });
        let message =
            ContributionAndProof { aggregator_index: ValidatorIndex(1), contribution, selection_proof };
        let signed = Message::Contribution(Box::new(message.clone()));
        let list = vec![SignedContributionAndProof { message, signature: self.all.sign(1, &signed) }];
        self.submit("/eth/v1/validator/contribution_and_proofs", self.client.lists, &list).await;
        assert_eq!(self.handed(), [signed]);
    }

    async fn exits(&self) {
        let exit = VoluntaryExit { epoch: Epoch(300), validator_index: ValidatorIndex(1) };
        let signed = json!({"message": exit, "signature": self.all.sign(1, &Message::Exit(exit))});
        assert!(self.post("/eth/v1/beacon/pool/voluntary_exits", &signed).await.body.is_empty());
        assert_eq!(self.handed(), [Message::Exit(exit)]);
    }
}

/// The whole life of a client's validators.
async fn lives(client: Client) {
    let session = Session { all: Setting::new().await, client };
    session.asks_the_beacon_node().await;
    session.finds_its_validators().await;
    session.learns_its_duties().await;
    session.is_selected().await;
    session.attests_and_aggregates().await;
    session.proposes().await;
    session.serves_in_the_sync_committee().await;
    session.exits().await;
}

#[tokio::test]
async fn lodestar_is_served_from_its_first_question_to_its_exit() {
    lives(LODESTAR).await;
    // Its newer library also sends SSZ wherever the API has a form for it, and asks for the newer proposer duties.
    let proposers = "/eth/v2/validator/duties/proposer";
    lives(Client { lists: Form::Ssz, registrations: Form::Ssz, proposers, ..LODESTAR }).await;
}

#[tokio::test]
async fn lodestar_says_in_json_what_was_refused_as_ssz() {
    let session = Session { all: Setting::new().await, client: LODESTAR };
    for (path, body) in [
        ("/eth/v1/validator/duties/attester/3", vec![0; 16]),
        ("/eth/v1/validator/duties/sync/3", vec![0; 8]),
        ("/eth/v1/validator/beacon_committee_selections", vec![0; 112]),
        ("/eth/v1/validator/sync_committee_selections", vec![0; 120]),
    ] {
        let answer = session.send(Method::POST, path, &[("content-type", SSZ)], body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (415, &json!(415)), "{path}");
    }
}

#[tokio::test]
async fn lighthouse_is_served_from_its_first_question_to_its_exit() {
    lives(LIGHTHOUSE).await;
}

#[tokio::test]
async fn teku_is_served_from_its_first_question_to_its_exit() {
    lives(TEKU).await;
}

#[tokio::test]
async fn nimbus_is_served_from_its_first_question_to_its_exit() {
    lives(NIMBUS).await;
    lives(Client { bare_indices: true, block: Form::Json, ..NIMBUS }).await;
}

#[tokio::test]
async fn vouch_is_served_from_its_first_question_to_its_exit() {
    lives(VOUCH).await;
    lives(Client { block: Form::Json, ..VOUCH }).await;
}
