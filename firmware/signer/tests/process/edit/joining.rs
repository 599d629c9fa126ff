//! A box that joins a cluster, or has promised to.

use super::*;

/// A box that joins, after its promise.
async fn promised(world: &World, signer: &Running) -> (EditPrepared, EditPartials, Vec<Vec<SecretShare>>) {
    let (prepared, others) = world.prepare(signer).await;
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    (prepared, ours, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_promised_to_join_takes_in_no_other_share_before_its_owner_gives_that_up_for_good() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let (prepared, ours, others) = promised(&world, &signer).await;
    let other = signer.import_only(&world.bundle()).await;
    assert!(problem(&other).next_step.contains("waits for the new cluster lock"), "{other:?}");
    assert_eq!(code(other), refused(422, "validator_already_here"));
    // It is shown with its name, after a start too, and what is at stake has to be said.
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let is_named = |open: &OpenEdit| open.name == prepared.lock_hash && open.promised;
    assert_eq!(shown.open.iter().filter(|open| is_named(open)).count(), 1, "{shown:?}");
    drop(signer); // kill -9
    let signer = machine.start().await;
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    assert_eq!((shown.stage, shown.open.len(), shown.open[0].validators), (EditStage::Frozen, 1, VALIDATORS));
    assert!(is_named(&shown.open[0]), "{shown:?}");
    for path in
        [edit_discard_path(&prepared.lock_hash), edit_discard_path(&prepared.lock_hash) + "&confirm=yes"]
    {
        let outcome: Result<EditStatus, _> = signer.control.delete(&path).await;
        assert_eq!(code(outcome), refused(422, "not_confirmed"));
    }
    let before = machine.disk();
    let left: EditStatus = signer.control.delete(&edit_forgo_path(&prepared.lock_hash)).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::None, Vec::new()));
    // A copy of the disk from before is behind at once, before anything else has stepped the counter.
    signer.stop();
    let after = machine.disk();
    machine.put_back(&before);
    let signer = machine.start().await;
    assert!(signer.problem_codes().await.contains(&"ledger_rolled_back".to_owned()));
    drop(signer);
    machine.put_back(&after);
    let signer = machine.start().await;
    // Whoever brings the complete lock now brings nothing back, and the other share may come in.
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody_but(world.own(), &ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    let late: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit).await;
    assert_eq!(code(late), refused(422, "edit_out_of_order"));
    signer.import_only(&world.bundle()).await.unwrap();
    // Nor does a copy of the disk from before.
    signer.stop();
    machine.put_back(&before);
    let signer = machine.start().await;
    assert!(signer.problem_codes().await.contains(&"ledger_rolled_back".to_owned()));
    let late: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit).await;
    assert_eq!(code(late), refused(503, "ledger_rolled_back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_promised_to_join_does_so_with_the_complete_lock_whenever_it_comes() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let (prepared, ours, others) = promised(&world, &signer).await;
    drop(signer); // kill -9
    let signer = machine.start().await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody_but(world.own(), &ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    let committed: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit).await.unwrap();
    assert_eq!((committed.shares.len(), committed.retired.len()), (VALIDATORS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_of_a_chain_that_may_not_be_served_here_are_kept_and_stay_out_of_service() {
    let world = World::on_hoodi();
    let mut machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let (prepared, others) = world.prepare(&signer).await;
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody(&ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    signer.stop();
    // After the promise comes an image that serves no public chain. What was promised comes to its end all the same.
    machine.release_keys = false;
    let signer = machine.start().await;
    let committed: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit).await.unwrap();
    assert_eq!((committed.shares.len(), committed.retired.len()), (VALIDATORS, VALIDATORS));
    let in_service = async |signer: &Running| {
        signer.sign.get::<Vec<PublicKeyBytes>>(ipc::web3signer::PUBLIC_KEYS_PATH).await.unwrap()
    };
    assert_eq!(in_service(&signer).await, []);
    assert!(signer.problem_codes().await.contains(&"test_keys_real_chain".to_owned()));
    let held = |status: ipc::SignerStatus| status.shares.into_iter().map(|share| share.pubshare).collect();
    let kept: Vec<String> = held(signer.status().await);
    assert!(committed.shares.iter().all(|share| kept.contains(share)), "{kept:?}");
    signer.stop();
    machine.release_keys = true;
    let signer = machine.start().await;
    assert_eq!(in_service(&signer).await.len(), VALIDATORS);
}
