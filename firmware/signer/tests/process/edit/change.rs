//! New shares take the place of old ones: consent, promise, and what ends it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_take_the_old_ones_place_and_a_power_cut_at_any_step_leaves_one_of_them() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    assert_eq!(who_votes(&signer, &world, None).await, (true, false));

    // A power cut while shares are dealt: the old ones are as they were, and it begins again.
    let status: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    assert_eq!(status.stage, EditStage::Allowed);
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    world.reshare(&signer, &begun, 0).await;
    drop(signer); // kill -9
    let signer = machine.start().await;
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!(status.stage, EditStage::None);
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, None).await, (true, false));

    // Sealed: the old shares still sign, the new ones do not.
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let new = lock.validators[0].public_shares[0];
    assert_ne!(new, world.old(0));
    assert_eq!(lock.validators[0].public_key, world.created.lock.validators[0].public_key);
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (true, false));
    drop(signer);
    let signer = machine.start().await;
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!((status.stage, status.lock_hash.as_ref()), (EditStage::Prepared, Some(&prepared.lock_hash)));
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (true, false));

    // The dry run: neither votes.
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, false));
    drop(signer);
    let signer = machine.start().await;
    assert!(signer.problem_codes().await.contains(&"edit_unfinished".to_owned()));
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, false));
    let again: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(ours, again);

    // Every member's new share signed: checked one by one and together.
    let members = everybody(&ours, &others, &lock);
    let check = EditCheck { lock: prepared.lock.clone(), members };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let complete = world.complete(&lock, &checked.signature_aggregate);
    let committed: EditCommitted =
        post(&signer, EDIT_COMMIT_PATH, &EditCommit { lock: json(&complete) }).await.unwrap();
    assert_eq!(committed.shares.len(), VALIDATORS);
    assert_eq!(committed.retired.len(), VALIDATORS);
    let begins = committed.begins_in_epoch.unwrap();
    until_epoch(&world.clock, begins).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, true));
    let gone = signer.attest(&world.old(0), &vote(begins - 1, begins, 1)).await;
    assert_eq!(code(gone), refused(404, "unknown_key"));
    let early = signer.attest(&new, &vote(begins - 2, begins - 1, 2)).await;
    assert_eq!(code(early), refused(412, "slashable"), "what another member's old share may have signed");

    // For good: after a power cut, and when somebody imports the old share again. A lost answer can be asked for again.
    drop(signer);
    let signer = machine.start().await;
    assert!(!signer.problem_codes().await.contains(&"edit_unfinished".to_owned()));
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, true));
    let again: EditCommitted =
        post(&signer, EDIT_COMMIT_PATH, &EditCommit { lock: json(&complete) }).await.unwrap_or_else(|_| {
            panic!("asked again: {}", signer.log_text());
        });
    assert_eq!(again.shares, committed.shares);
    let back = code(signer.import_only(&world.bundle()).await);
    assert_eq!(back, refused(422, "share_retired"));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_deals_only_with_the_owner_s_consent_and_to_keys_that_the_members_signed() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let nothing: Result<EditBegun, _> = post(&signer, EDIT_BEGIN_PATH, &()).await;
    assert_eq!(code(nothing), refused(422, "edit_none"));
    let forbidden: Result<EditStatus, _> = signer.sign.put(EDIT_PATH, &world.consent()).await;
    assert!(forbidden.is_err(), "dv-node's socket takes no consent");
    let mut other = world.consent();
    other.genesis_validators_root = chain::Root([1; 32]).to_string();
    let other: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &other).await;
    assert_eq!(code(other), refused(422, "share_conflict"));

    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let early = step(&signer, 0, EditEvent::Start).await;
    assert_eq!(code(early), refused(422, "edit_out_of_order"));
    // Whoever carries the messages puts its own key in a member's place.
    let mut forged = world.announced(&begun);
    forged.members[2].public_key = EphemeralKey::random(&mut rand::rng()).public_key().to_bytes().to_string();
    let refused_keys: Result<EditStatus, _> = post(&signer, EDIT_KEYS_PATH, &forged).await;
    // Members go by the name that the plan has for them, whatever their place in the messages.
    let message = &problem(&refused_keys).message;
    let named = format!("{} did not", world.plan().name_of(2));
    assert!(message.to_lowercase().starts_with(&named.to_lowercase()), "{message}");
    assert_eq!(code(refused_keys), refused(422, "edit_key_not_signed"));
    let early = step(&signer, 0, EditEvent::Start).await;
    assert_eq!(code(early), refused(422, "edit_out_of_order"), "nothing was dealt");
    // Whoever brings the consent cannot say that nobody needs to vouch, nor bring a lock that no share has signed.
    for (unvouched, lock_is_signed, expected) in [
        (vec![2, 3], true, "edit_too_few_vouch"),
        (vec![2, 3, 4], true, "edit_too_few_vouch"),
        (vec![], false, "edit_invalid"),
    ] {
        let mut lock = world.created.lock.clone();
        if !lock_is_signed {
            lock.signature_aggregate.clear();
        }
        let consent = EditConsent { unvouched, lock: json(&lock), ..world.consent() };
        let outcome: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &consent).await;
        assert_eq!(code(outcome), refused(422, expected));
    }
    // The third deals and leaves, and the second is a Charon, which would not tell it of the new lock.
    let leaves = world.created.view.operators[2].enr.clone();
    let edit = Edit::Remove { operators: vec![leaves.clone()], dealing: vec![leaves], threshold: Some(3) };
    for (unvouched, expected) in [(vec![2], Some("edit_leaving_untold")), (vec![3], None)] {
        let edit = serde_json::to_value(&edit).unwrap();
        let consent = EditConsent { unvouched, edit, ..world.consent() };
        let outcome: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &consent).await;
        match expected {
            Some(expected) => {
                // Not round in a circle: without it too few may be left to vouch.
                assert!(problem(&outcome).next_step.contains("`replace`"), "{outcome:?}");
                assert_eq!(code(outcome), refused(422, expected));
            }
            None => assert!(outcome.is_ok(), "{outcome:?}"),
        }
    }
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    // A hijacked network process has its member's identity and signs whatever key it likes, but not with the old shares.
    let other = EphemeralKey::random(&mut rand::rng()).public_key().to_bytes();
    let others = world.voucher(3, &other);
    // Nor does a sum count of which the parts are not each of their own share.
    let digest = world.plan().digest();
    let mut crossed = world.old_shares(2);
    crossed.reverse();
    let parts = world.created.nodes[2].shares.iter().zip(crossed);
    let parts: Vec<_> =
        parts.map(|(share, public)| share.sign(&voucher_message(&digest, &other, &public))).collect();
    let crossed = threshold::aggregate_signatures(&parts).unwrap().to_bytes();
    let vouchers = [
        None,
        Some(world.announced(&begun).members[2].voucher.clone().unwrap()),
        Some(others.to_string()),
        Some(crossed.to_string()),
    ];
    for voucher in vouchers {
        let mut forged = world.announced(&begun);
        let parsed = voucher.as_deref().map(|voucher| voucher.parse().unwrap());
        let announcement = Announcement { key: other, shares: Some(world.old_shares(2)), voucher: parsed };
        let session = Session {
            version: Profile::of_minor(MINOR).unwrap().broadcast,
            hash: world.created.lock.lock_hash,
        };
        let hash = announcement_hash(&session, &world.created.lock.definition.definition_hash, &announcement);
        forged.members[2] = EditKey {
            public_key: other.to_string(),
            signature: hex::encode(world.created.nodes[2].identity.sign(&hash)),
            voucher,
        };
        let outcome: Result<EditStatus, _> = post(&signer, EDIT_KEYS_PATH, &forged).await;
        assert_eq!(code(outcome), refused(422, "edit_key_not_vouched"));
    }
    let early = step(&signer, 0, EditEvent::Start).await;
    assert_eq!(code(early), refused(422, "edit_out_of_order"), "nothing was dealt");
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    let dealt = step(&signer, 0, EditEvent::Start).await.unwrap();
    assert_eq!(dealt.send.len(), 1);
    assert_eq!(code(step(&signer, 0, EditEvent::Start).await), refused(422, "edit_out_of_order"));
    for event in [
        EditEvent::Received { from: 9, kind: EditBundleKind::Deal, bundle: String::new() },
        EditEvent::Received { from: 1, kind: EditBundleKind::Deal, bundle: "00".to_owned() },
        EditEvent::Received { from: 1, kind: EditBundleKind::Deal, bundle: dealt.send[0].bundle.clone() },
    ] {
        let outcome = step(&signer, 0, event).await;
        assert!(!problem(&outcome).message.contains("member 2:"), "by its name: {outcome:?}");
        assert_eq!(code(outcome), refused(422, "edit_request_invalid"));
    }
    let unknown = EditDryRun { lock_hash: format!("0x{}", "11".repeat(32)) };
    let outcome: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &unknown).await;
    assert_eq!(code(outcome), refused(422, "edit_not_prepared"), "no hash but its own is ever signed");
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_shares_are_not_given_up_for_a_lock_that_not_every_new_share_signed() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };

    let commit = |lock: &Lock| EditCommit { lock: json(lock) };
    let early: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit(&lock)).await;
    assert_eq!(code(early), refused(422, "lock_invalid"));
    assert_eq!(who_votes(&signer, &world, None).await, (true, false));

    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let good = everybody(&ours, &others, &lock);
    let mut table = vec![good[..3].to_vec()];
    let mut wrong = good.clone();
    wrong[2][1].signature = wrong[2][0].signature.clone();
    table.push(wrong);
    let mut missing = good.clone();
    missing[3].pop();
    table.push(missing);
    for members in table {
        let check = EditCheck { lock: prepared.lock.clone(), members };
        let outcome: Result<EditChecked, _> = post(&signer, EDIT_CHECK_PATH, &check).await;
        let (status, code) = code(outcome);
        assert!(
            status == 422 && ["dry_run_failed", "edit_request_invalid"].contains(&code.as_str()),
            "{code}"
        );
    }
    let check = EditCheck { lock: prepared.lock.clone(), members: good };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let complete = world.complete(&lock, &checked.signature_aggregate);
    let mut unsigned = complete.clone();
    unsigned.node_signatures[3][10] ^= 1;
    let mut partly = complete.clone();
    partly.signature_aggregate = world.created.lock.signature_aggregate.clone();
    for lock in [&unsigned, &partly, &lock] {
        let outcome: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit(lock)).await;
        assert_eq!(code(outcome), refused(422, "lock_invalid"));
    }
    let in_force: Result<EditCommitted, _> =
        post(&signer, EDIT_COMMIT_PATH, &commit(&world.created.lock)).await;
    assert!(in_force.unwrap().retired.is_empty(), "the lock in force changes nothing");
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!(status.stage, EditStage::Frozen);

    // With the complete lock it goes through.
    let _: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit(&complete)).await.unwrap();
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_promise_only_all_members_together_make_other_shares_from_the_same_lock() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let enr = |place: usize| world.created.view.operators[place].enr.clone();
    let remove = Edit::Remove { operators: vec![enr(3)], dealing: vec![enr(3)], threshold: None };
    let mut other = world.consent();
    other.edit = serde_json::to_value(&remove).unwrap();
    // Before the promise another edit may take the place of one that is prepared.
    let _ = world.prepare(&signer).await;
    let _: EditStatus = signer.control.put(EDIT_PATH, &other).await.unwrap();
    let undealt: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(undealt), refused(422, "edit_out_of_order"));
    let (prepared, _) = world.prepare(&signer).await;
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let _: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();

    // After it, the complete lock of it may be with others.
    drop(signer); // kill -9
    let signer = machine.start().await;
    let _: EditStatus = signer.control.put(EDIT_PATH, &other).await.unwrap();
    let promised: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(promised), refused(422, "edit_promised"));
    let (newer, _) = world.prepare(&signer).await;
    let dropped: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(dropped), refused(422, "edit_not_prepared"), "the promise of before is void here");
    let dry_run = EditDryRun { lock_hash: newer.lock_hash };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(ours.partials.len(), VALIDATORS);
    assert_eq!(who_votes(&signer, &world, None).await, (false, false));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_whose_change_a_start_has_forgotten_are_shown_and_given_up_by_name() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, _) = world.prepare(&signer).await;
    // What is remembered goes by its own name, not by that of the lock that is to come.
    let whole: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let left: EditStatus = signer.control.delete(&edit_discard_path(&prepared.lock_hash)).await.unwrap();
    assert_eq!(left, whole);
    drop(signer); // kill -9
    let signer = machine.start().await;
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    assert_eq!(
        (shown.stage, shown.open.len(), shown.open[0].validators),
        (EditStage::Prepared, 1, VALIDATORS)
    );
    let another = edit_discard_path(&format!("0x{}", "77".repeat(32)));
    let left: EditStatus = signer.control.delete(&another).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::Prepared, shown.open.clone()));
    let left: EditStatus = signer.control.delete(&edit_discard_path(&shown.open[0].name)).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::None, Vec::new()));
    // What was given up cannot be promised any more.
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    assert!(post::<EditPartials>(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_a_share_of_the_validators_does_not_join_them_as_another_member() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    for validator in 0..VALIDATORS {
        world.reshare(&signer, &begun, validator).await;
    }
    // A share comes in after the owner's word and before the new ones are sealed: that word is good for nothing any more.
    signer.import_only(&world.bundle()).await.unwrap();
    let first: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(first), refused(422, "validator_already_here"));
    let second: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &world.consent()).await;
    assert_eq!(code(second), refused(422, "validator_already_here"));
    // The member that it is may go on as before.
    let recreate = serde_json::to_value(Edit::Recreate { threshold: None }).unwrap();
    let identity = hex::encode(world.identity(0).public_key().as_bytes());
    let own = EditConsent { edit: recreate, identity, ..world.consent() };
    let _: EditStatus = signer.control.put(EDIT_PATH, &own).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_whose_change_left_no_mark_are_given_up_by_the_lock_that_they_wait_for() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let (prepared, _) = world.prepare(&signer).await;
    // Another share of these validators waits for that to be over.
    let other = signer.import_only(&world.bundle()).await;
    assert!(problem(&other).next_step.contains("give it up"), "{other:?}");
    assert_eq!(code(other), refused(422, "validator_already_here"));
    drop(signer); // kill -9
    let signer = machine.start().await;
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let names: Vec<_> = shown.open.iter().map(|open| (open.name.as_str(), open.validators)).collect();
    assert_eq!(names, [(prepared.lock_hash.as_str(), VALIDATORS)]);
    let left: EditStatus = signer.control.delete(&edit_discard_path(&prepared.lock_hash)).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::None, Vec::new()));
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let outcome: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(outcome), refused(422, "edit_not_prepared"));
    signer.import_only(&world.bundle()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_cluster_gets_validators_its_shares_are_in_no_change_and_leave_in_no_file() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let add = async |signer: &Running| -> Result<CeremonyStatus, ClientError> {
        signer.control.put(CEREMONY_PATH, &world.adding()).await
    };
    let change = async |signer: &Running| -> Result<EditStatus, ClientError> {
        signer.control.put(EDIT_PATH, &world.consent()).await
    };
    add(&signer).await.unwrap();
    drop(signer); // kill -9
    let signer = machine.start().await;
    assert_eq!(code(change(&signer).await), refused(422, "ceremony_under_way"));
    let backup = moving::order_backup(&signer, moving::WORDS, None).await;
    assert_eq!(code(backup), refused(422, "ceremony_under_way"));
    let moved = moving::order_move(&signer, &"09".repeat(32), None).await;
    assert_eq!(code(moved), refused(422, "ceremony_under_way"));
    // Given up, and the other way round.
    let _: CeremonyStatus = signer.control.delete(CEREMONY_PATH).await.unwrap();
    let backup = moving::order_backup(&signer, moving::WORDS, None).await;
    assert_eq!(code(backup), refused(422, "confirm_on_screen"));
    change(&signer).await.unwrap();
    assert_eq!(code(add(&signer).await), refused(422, "edit_under_way"));
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let name = &shown.open[0].name;
    let _: EditStatus = signer.control.delete(&edit_discard_path(name)).await.unwrap();
    add(&signer).await.unwrap();
    let _: CeremonyStatus = signer.control.delete(CEREMONY_PATH).await.unwrap();
    // A share that has vouched for all being made anew is on its way out, also when a start has forgotten the change.
    change(&signer).await.unwrap();
    let _: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    drop(signer);
    let signer = machine.start().await;
    assert_eq!(code(add(&signer).await), refused(422, "edit_promised"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_another_box_gives_away_in_between_ends_the_change_before_it_is_promised() {
    let world = World::joining();
    let (machine, other) = (Machine::new(), Machine::new());
    let (signer, giver) = (machine.start().await, other.start().await);
    giver.import_only(&world.bundle()).await.unwrap();
    let (prepared, _) = world.prepare(&signer).await;
    let status = signer.status().await;
    let to = status.import_key.unwrap();
    assert_eq!(code(moving::order_move(&giver, &to, None).await), refused(422, "confirm_on_screen"));
    let certificate = moving::order_move(&giver, &to, Some(giver.code_on_screen())).await.unwrap();
    let release_key = giver.status().await.release_key.unwrap();
    moving::arrive(&signer, &release_key, &certificate).await.unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let promised: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(promised), refused(422, "validator_already_here"));
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    assert_eq!(shown.stage, EditStage::Prepared, "nothing is promised");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_from_before_the_promise_is_too_old() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, _) = world.prepare(&signer).await;
    let before = machine.disk();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let _: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    drop(signer); // kill -9
    for (path, _) in machine.disk() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, content) in before {
        std::fs::write(path, content).unwrap();
    }
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["ledger_rolled_back"]);
    let target = epoch_of(&world.clock);
    let outcome = signer.attest(&world.old(0), &vote(target - 1, target, 1)).await;
    assert_eq!(code(outcome), refused(503, "ledger_rolled_back"));
    signer.stop();
}

/// The first validator's share is given up by the keymanager API.
async fn delete(machine: &Machine, signer: &Running, world: &World) -> Vec<String> {
    let token = keymanager::token(signer).await;
    let body = serde_json::json!({ "pubkeys": [world.old(0).to_string()] }).to_string();
    let (_, answer) = keymanager::ask(machine, Some(&token), "DELETE", keymanager::KEYSTORES, &body).await;
    keymanager::statuses(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_deleted_in_the_middle_of_a_change_is_not_replaced() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    for validator in 0..VALIDATORS {
        world.reshare(&signer, &begun, validator).await;
    }
    assert_eq!(delete(&machine, &signer, &world).await, ["deleted"]);
    let outcome: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(outcome), refused(422, "share_missing"));
    let again: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &world.consent()).await;
    assert_eq!(code(again), refused(422, "share_missing"));
    assert!(signer.problem_codes().await.is_empty(), "the signer goes on as it was");
    signer.stop();

    // Once the new ones are sealed beside them, the old ones are needed until the end.
    let (world, machine) = (World::new(), Machine::new());
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let _ = world.prepare(&signer).await;
    assert_eq!(delete(&machine, &signer, &world).await, ["error"]);
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_seen_elsewhere_is_replaced_only_when_the_owner_has_let_it_go_on() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let seen = |source: u64, target: u64| {
        let data = vote(source, target, 8);
        let request = ipc::SignRequest::attestation(fork_info(), &data).unwrap();
        let domain =
            chain::domain::domain_at(chain::domain::BEACON_ATTESTER, data.target.epoch, &fork_info());
        let signing_root = chain::domain::signing_root(&data, domain);
        let signature = world.created.nodes[0].shares[0].sign(&signing_root.0).to_bytes();
        [ipc::web3signer::SeenSignature { key: world.old(0), request, signature }]
    };
    let goes_on = async || {
        let confirm = ipc::owner::RESUME_CONFIRMATION;
        elsewhere::resume_share(&signer, &world.old(0), confirm).await.unwrap();
    };
    assert_eq!(elsewhere::tell(&signer, &seen(4, 5)).await, [world.old(0)]);
    let early: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &world.consent()).await;
    assert_eq!(code(early), refused(422, "signs_elsewhere"));
    goes_on().await;

    let (prepared, _) = world.prepare(&signer).await;
    assert_eq!(elsewhere::tell(&signer, &seen(6, 7)).await, [world.old(0)]);
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let outcome: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(outcome), refused(422, "signs_elsewhere"));
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!(status.stage, EditStage::Prepared, "nothing is promised");
    goes_on().await;
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(ours.partials.len(), VALIDATORS);
    signer.stop();
}
