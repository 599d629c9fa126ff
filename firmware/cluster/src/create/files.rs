//! The files each member gets (obol spec 11.10 and 12.1).

use std::collections::BTreeMap;

use chain::{DepositData, Gwei};
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::CreatedCluster;
use crate::deposit;
use crate::keystore::{KdfCost, Keystore};
use crate::lock::LockError;

/// A file to write; the caller does the writing.
pub struct OutputFile {
    /// Path below the output folder, with `/`, such as `node0/validator_keys/keystore-0.json`.
    pub path: String,
    /// Content, wiped on drop.
    pub content: Zeroizing<Vec<u8>>,
    /// Unix permissions.
    pub mode: u32,
}

const READ_ONLY: u32 = 0o444;

impl CreatedCluster {
    /// All files of all members, folder by folder.
    pub fn files<R: RngCore + CryptoRng + ?Sized>(
        &self,
        cost: KdfCost,
        rng: &mut R,
    ) -> Result<Vec<OutputFile>, LockError> {
        let mut files = Vec::new();
        for node in 0..self.nodes.len() {
            files.extend(self.node_files(node, cost, rng)?);
        }
        Ok(files)
    }

    /// The files of the member at this position, below `node<position>/`. Passwords are fresh for every keystore.
    pub fn node_files<R: RngCore + CryptoRng + ?Sized>(
        &self,
        node: usize,
        cost: KdfCost,
        rng: &mut R,
    ) -> Result<Vec<OutputFile>, LockError> {
        let folder = format!("node{node}");
        let mut files = Vec::new();
        let mut add = |path: String, content: Zeroizing<Vec<u8>>, mode: u32| {
            files.push(OutputFile { path: format!("{folder}/{path}"), content, mode });
        };
        let Some(member) = self.nodes.get(node) else { return Ok(files) };
        let key = Zeroizing::new(member.identity.to_file_text().as_bytes().to_vec());
        add("charon-enr-private-key".to_owned(), key, 0o600);
        add("cluster-lock.json".to_owned(), Zeroizing::new(self.lock.to_json()?), READ_ONLY);
        for (amount, deposits) in self.deposits_by_amount() {
            let content = deposit::file_content(&deposits, &self.network);
            add(deposit::file_name(amount), Zeroizing::new(content), READ_ONLY);
        }
        for (index, share) in member.shares.iter().enumerate() {
            let password = random_password(rng);
            let keystore = Keystore::encrypt_share(share.key(), &password, cost, rng);
            let stem = format!("validator_keys/{}", keystore_stem(index, cost));
            add(format!("{stem}.json"), Zeroizing::new(keystore.to_json()), READ_ONLY);
            add(format!("{stem}.txt"), Zeroizing::new(password.as_bytes().to_vec()), 0o400);
        }
        Ok(files)
    }

    fn deposits_by_amount(&self) -> BTreeMap<Gwei, Vec<DepositData>> {
        let mut by_amount: BTreeMap<Gwei, Vec<DepositData>> = BTreeMap::new();
        for deposit in self.deposits() {
            by_amount.entry(deposit.amount).or_default().push(*deposit);
        }
        by_amount
    }
}

/// File name of a keystore without its ending; cheap ones say so in their name.
fn keystore_stem(index: usize, cost: KdfCost) -> String {
    match cost {
        KdfCost::Standard => format!("keystore-{index}"),
        KdfCost::Insecure => format!("keystore-insecure-{index}"),
    }
}

/// 32 hex digits.
fn random_password<R: RngCore + CryptoRng + ?Sized>(rng: &mut R) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0_u8; 16]);
    rng.fill_bytes(bytes.as_mut_slice());
    Zeroizing::new(hex::encode(bytes.as_slice()))
}
