//! A share that signs elsewhere too, with a real signer: what proves it, what does not, and what the owner can do.

use chain::{PublicKeyBytes, SignatureBytes};
use ipc::owner::{RESUME_CONFIRMATION, RESUME_PATH, ResumeShare, ShareResumed};
use ipc::signer::History;
use ipc::web3signer::{REMEMBERED_PATH, SEEN_PATH, SeenAnswer, SeenSignature};
use ipc::{ClientError, SignRequest};

use crate::harness::*;

/// A vote of a share, signed by whoever has that secret.
pub(crate) fn signed_elsewhere(number: u8, by: u8, source: u64, target: u64, root: u8) -> SeenSignature {
    let data = vote(source, target, root);
    let request = SignRequest::attestation(fork_info(), &data).unwrap();
    let domain = chain::domain::domain_at(chain::domain::BEACON_ATTESTER, data.target.epoch, &fork_info());
    let signing_root = chain::domain::signing_root(&data, domain);
    SeenSignature { key: pubshare(number), request, signature: secret(by).sign(&signing_root.0).to_bytes() }
}

pub(crate) async fn tell(signer: &Running, seen: &[SeenSignature]) -> Vec<PublicKeyBytes> {
    signer.sign.post::<SeenAnswer>(SEEN_PATH, &seen).await.unwrap().stopped
}

pub(crate) async fn remember(signer: &Running, seen: &[SeenSignature]) -> Vec<PublicKeyBytes> {
    signer.sign.post::<SeenAnswer>(REMEMBERED_PATH, &seen).await.unwrap().stopped
}

async fn resume(signer: &Running, confirm: &str) -> Result<ShareResumed, ClientError> {
    resume_share(signer, &pubshare(1), confirm).await
}

pub(crate) async fn resume_share(
    signer: &Running,
    share: &PublicKeyBytes,
    confirm: &str,
) -> Result<ShareResumed, ClientError> {
    let stopped_at_ms = stopped_at(signer, share).await.unwrap_or(1);
    let wish = ResumeShare { share: share.to_string(), stopped_at_ms, confirm: confirm.to_owned() };
    signer.control.post(RESUME_PATH, &wish).await
}

/// Since when the status says that a share is stopped.
pub(crate) async fn stopped_at(signer: &Running, share: &PublicKeyBytes) -> Option<u64> {
    let held = signer.status().await.shares;
    held.iter().find(|held| held.pubshare == share.to_string()).unwrap().stopped_at_ms
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_signs_elsewhere_is_stopped_over_restarts_until_the_owner_lets_it_go_on() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let bundle = bundle(&[1, 2], History::NeverSigned);
    signer.import(&bundle).await.unwrap();
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();

    // Heard again, signed by another secret, with a wrong signature, of a share that is not here: nothing.
    let mut wrong = signed_elsewhere(1, 1, 3, 4, 8);
    wrong.signature = SignatureBytes([7; 96]);
    let nothing = [
        signed_elsewhere(1, 1, 2, 3, 1),
        signed_elsewhere(1, 2, 3, 4, 8),
        wrong,
        signed_elsewhere(9, 9, 3, 4, 8),
    ];
    assert_eq!(tell(&signer, &nothing).await, []);
    signer.attest(&pubshare(1), &vote(3, 4, 1)).await.unwrap();

    // A valid signature under a vote that this signer has not made.
    assert_eq!(tell(&signer, &[signed_elsewhere(1, 1, 4, 5, 8)]).await, [pubshare(1)]);
    assert_eq!(code(signer.attest(&pubshare(1), &vote(5, 6, 1)).await), refused(412, "signs_elsewhere"));
    signer.attest(&pubshare(2), &vote(5, 6, 1)).await.unwrap();
    assert_eq!(signer.problem_codes().await, ["signs_elsewhere"]);
    signer.stop();
    let signer = machine.start().await;
    assert_eq!(code(signer.attest(&pubshare(1), &vote(5, 6, 1)).await), refused(412, "signs_elsewhere"));
    assert_eq!(code(signer.attest(&pubshare(1), &vote(3, 4, 1)).await), refused(412, "signs_elsewhere"));

    // Who may ask for signatures cannot let it go on, and the owner only by saying so.
    let stopped_at_ms = stopped_at(&signer, &pubshare(1)).await.unwrap();
    assert!(stopped_at_ms > 0 && stopped_at(&signer, &pubshare(2)).await.is_none());
    let confirm = RESUME_CONFIRMATION.to_owned();
    let wish = ResumeShare { share: pubshare(1).to_string(), stopped_at_ms, confirm };
    let hijacked = signer.sign.post::<ShareResumed>(RESUME_PATH, &wish).await;
    assert!(matches!(hijacked, Err(ClientError::Refused { status: 404, .. })), "{hijacked:?}");
    assert_eq!(code(resume(&signer, "yes").await).1, "not_confirmed");
    let first = resume(&signer, RESUME_CONFIRMATION).await.unwrap().votes_from_epoch.unwrap();
    assert_eq!(code(resume(&signer, RESUME_CONFIRMATION).await).1, "share_not_stopped");
    until_epoch(&bundle.chain, first).await;
    assert_eq!(code(signer.attest(&pubshare(1), &vote(4, 5, 1)).await), refused(412, "slashable"));
    signer.attest(&pubshare(1), &vote(first - 1, first, 1)).await.unwrap();
    assert_eq!(signer.problem_codes().await, [""; 0]);
}
