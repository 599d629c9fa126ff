//! How whole members come to be in a cluster without any chain.

use chain::Root;
use cluster::IdentityKey;
use cluster::create::CreatedCluster;
use cluster::keystore::{KdfCost, Keystore};
use hw_tests::member::Member;
use ipc::signer::{
    ChainClock, History, SHARES_PATH, STATUS_PATH, ShareBundle, ShareEntry, ShareImported, SignerStatus,
};
use ipc::{Client, Sensitive};

/// The identities of a cluster's members, and of so many more.
pub(crate) fn identities(created: &CreatedCluster, more: usize) -> Vec<IdentityKey> {
    let known = created.nodes.iter();
    let known = known.map(|node| IdentityKey::from_bytes(node.identity.secret_bytes().clone()).unwrap());
    known.chain((0..more).map(|_| IdentityKey::generate(&mut rand::rng()))).collect()
}

pub(crate) fn lock_json(created: &CreatedCluster) -> serde_json::Value {
    serde_json::from_slice(&created.lock.to_json().unwrap()).unwrap()
}

/// Gives a member's signer its shares, which never signed.
pub(crate) async fn import(
    signer: &Client,
    created: &CreatedCluster,
    place: usize,
    root: Root,
    chain: ChainClock,
) {
    let entry = |(position, validator): (usize, &cluster::DistributedValidator)| {
        let share = &created.nodes[place].shares[position];
        let keystore = Keystore::encrypt_share(share.key(), "password", KdfCost::Insecure, &mut rand::rng());
        ShareEntry {
            keystore: serde_json::from_slice(&keystore.to_json()).unwrap(),
            password: Sensitive::new("password".to_owned()),
            public_key: validator.public_shares[place].to_string(),
            group_public_key: validator.public_key.to_string(),
            share_index: u8::try_from(place + 1).unwrap(),
        }
    };
    let bundle = ShareBundle {
        validators: created.lock.validators.iter().enumerate().map(entry).collect(),
        history: History::NeverSigned,
        genesis_validators_root: root.to_string(),
        chain,
    };
    let status: SignerStatus = signer.get(STATUS_PATH).await.unwrap();
    let sealed = ipc::envelope::seal(&status.import_key.unwrap(), &bundle).unwrap();
    let _: ShareImported = signer.post(SHARES_PATH, &sealed).await.unwrap();
}

/// The box as it was left by joining the cluster: joining itself would ask a beacon node, and none is here.
pub(crate) fn join(member: &mut Member, identity: &IdentityKey, created: &CreatedCluster, peers: &[String]) {
    let cluster = serde_json::json!({
        "lock": lock_json(created),
        "beacon_nodes": ["http://127.0.0.1:9"],
        "peers": peers,
        "relays": [],
        "signing": "built_in",
    });
    member.power_cut().unwrap();
    let dir = member.dir().join("dv-node");
    std::fs::write(dir.join("identity.key"), identity.to_file_text().as_str()).unwrap();
    std::fs::write(dir.join("cluster.json"), cluster.to_string()).unwrap();
    member.power_on().unwrap();
}
