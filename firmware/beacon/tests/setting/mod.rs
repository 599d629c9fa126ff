//! A member that is told what to say, a beacon node made of nothing behind it, and the validator API between them and a client.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "two test files include this, each uses its own part, and both fail loudly"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use beacon::validator_api::{
    AgreedBlock, Cluster, KeyMap, Limits, Message, PartialSignature, Patience, Unavailable, ValidatorApi,
    serve,
};
use beacon::{BeaconNodes, ChainInfo, ExpectedChain, Timeouts};
use chain::{
    AttestationData, CommitteeIndex, PublicKeyBytes, Root, SignatureBytes, Slot, SyncCommitteeContribution,
    ValidatorIndex,
};
use serde_json::Value;
use threshold::{PublicKey, SecretKey, ShareIndex};

use crate::fake::{FakeChain, FakeNode};

/// Two validators; the member is the second of three.
pub struct Keys {
    pub groups: Vec<SecretKey>,
    pub own: Vec<SecretKey>,
    pub foreign: PublicKeyBytes,
    pub map: Arc<KeyMap>,
}

pub fn keys() -> Keys {
    let mut rng: rand_chacha::ChaCha20Rng = rand::SeedableRng::seed_from_u64(3);
    let (mut groups, mut own, mut listed, mut foreign) = (Vec::new(), Vec::new(), Vec::new(), None);
    for _ in 0..2 {
        let (group, ours) = (SecretKey::random(&mut rng), SecretKey::random(&mut rng));
        let other = SecretKey::random(&mut rng).public_key();
        foreign = Some(other.to_bytes());
        let shares: BTreeMap<ShareIndex, PublicKey> =
            [(1, other), (2, ours.public_key())].map(|(i, key)| (ShareIndex::new(i).unwrap(), key)).into();
        listed.push((group.public_key().to_bytes(), group.public_key(), shares));
        groups.push(group);
        own.push(ours);
    }
    let listed = listed.iter().map(|(bytes, group, shares)| (*bytes, *group, shares));
    let map = Arc::new(KeyMap::new(ShareIndex::new(2).unwrap(), listed));
    Keys { groups, own, foreign: foreign.unwrap(), map }
}

#[derive(Default)]
pub struct Told {
    pub validators: Vec<PublicKeyBytes>,
    pub data: Option<Result<AttestationData, Unavailable>>,
    pub block: Option<Arc<AgreedBlock>>,
    pub aggregate: Option<chain::Attestation>,
    pub contribution: Option<SyncCommitteeContribution>,
    pub selection: Option<SignatureBytes>,
    pub taken: Vec<Vec<PartialSignature>>,
    pub asked_selections: usize,
}

#[derive(Clone, Default)]
pub struct Member(pub Arc<Mutex<Told>>);

impl Cluster for Member {
    fn validator(&self, index: ValidatorIndex) -> Option<PublicKeyBytes> {
        self.0.lock().unwrap().validators.get(usize::try_from(index.0).unwrap()).copied()
    }

    async fn proposer(&self, slot: Slot) -> Result<(ValidatorIndex, PublicKeyBytes), Unavailable> {
        let index = ValidatorIndex(slot.0 % 4);
        self.validator(index)
            .map(|key| (index, key))
            .ok_or_else(|| Unavailable::NoSuchDuty("another validator proposes".to_owned()))
    }

    async fn attestation_data(&self, _: Slot) -> Result<AttestationData, Unavailable> {
        let told = self.0.lock().unwrap().data.clone();
        match told {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }

    async fn block(&self, _: Slot) -> Result<Arc<AgreedBlock>, Unavailable> {
        self.0.lock().unwrap().block.clone().ok_or_else(|| Unavailable::TooLate("slot/3".to_owned()))
    }

    async fn aggregate(
        &self,
        _: Slot,
        _: Root,
        _: CommitteeIndex,
    ) -> Result<chain::Attestation, Unavailable> {
        let told = self.0.lock().unwrap().aggregate.clone();
        told.ok_or_else(|| Unavailable::NoSuchDuty("nobody aggregates".to_owned()))
    }

    async fn contribution(&self, _: Slot, _: u64, _: Root) -> Result<SyncCommitteeContribution, Unavailable> {
        let told = self.0.lock().unwrap().contribution.clone();
        told.ok_or_else(|| Unavailable::Failed("no agreement".to_owned()))
    }

    async fn selection(&self, _: PublicKeyBytes, message: &Message) -> Result<SignatureBytes, Unavailable> {
        let told = {
            let mut told = self.0.lock().unwrap();
            told.asked_selections += 1;
            told.selection
        };
        // Slots whose proofs never come.
        let never = message.slot(8).0 % 2 == 1;
        match told {
            Some(proof) if !never => Ok(proof),
            Some(_) | None => std::future::pending().await,
        }
    }

    async fn take(&self, partials: Vec<PartialSignature>) -> Vec<Result<(), Unavailable>> {
        let results = partials.iter().map(|_| Ok(())).collect();
        self.0.lock().unwrap().taken.push(partials);
        results
    }
}

pub struct Setting {
    pub node: FakeNode,
    pub keys: Keys,
    pub member: Member,
    pub url: String,
    pub chain: Arc<ChainInfo>,
    pub slot: Slot,
    pub http: reqwest::Client,
}

impl Setting {
    pub async fn new() -> Self {
        let keys = keys();
        let groups: Vec<PublicKeyBytes> = keys.groups.iter().map(|key| key.public_key().to_bytes()).collect();
        let strangers = [PublicKeyBytes([0xee; 48]), PublicKeyBytes([0xef; 48])];
        let node = FakeNode::start(FakeChain::new([&groups[..], &strangers].concat())).await;
        let timeouts = Timeouts { read_ms: 1_000, submit_ms: 1_000, hedge_ms: 100, ..Timeouts::default() };
        let nodes =
            BeaconNodes::new(std::slice::from_ref(&node.url), timeouts, ExpectedChain::default()).unwrap();
        nodes.refresh().await;
        let chain = nodes.chain().unwrap();
        let slot = Slot(node.inner.lock().unwrap().chain.slot_now());
        let member = Member::default();
        member.0.lock().unwrap().validators = groups;
        let patience = Patience { whole: Duration::from_secs(3), selections: Duration::from_millis(150) };
        let api = ValidatorApi::new(
            nodes,
            Arc::clone(&keys.map),
            member.clone(),
            "obolnetwork/x".to_owned(),
            patience,
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, Arc::new(api), Limits::default()));
        Self { node, keys, member, url, chain, slot, http: reqwest::Client::new() }
    }

    pub fn own(&self, validator: usize) -> PublicKeyBytes {
        self.keys.own[validator].public_key().to_bytes()
    }

    pub fn sign(&self, validator: usize, message: &Message) -> SignatureBytes {
        self.keys.own[validator].sign(&message.signing_root(&self.chain).0).to_bytes()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request =
            self.http.post(format!("{}{path}", self.url)).header("Eth-Consensus-Version", "electra");
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    pub fn taken(&self) -> Vec<Vec<PartialSignature>> {
        self.member.0.lock().unwrap().taken.clone()
    }
}
