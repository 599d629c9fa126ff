//! The same lock with other shares: vouching, old copies, power cuts.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_disk_from_before_it_vouched_signs_nothing_and_takes_no_lock() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let copy = machine.disk();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert!(begun.voucher.is_some());
    drop(signer); // kill -9
    for (path, content) in &copy {
        std::fs::write(path, content).unwrap();
    }
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["ledger_rolled_back"]);
    signer.stop();
}

/// What becomes of an earlier change's complete lock while all members make their shares anew.
#[tokio::test(flavor = "multi_thread")]
async fn once_it_has_vouched_no_earlier_lock_takes_the_old_share_s_place_until_the_owner_gives_it_up() {
    let (world, other) = (World::new(), World::new());
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    signer.import(&other.bundle()).await.unwrap();
    // A change that was promised, of which another member has the complete lock.
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody(&ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };

    // The owner allows to make all shares anew: nothing is said yet.
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert!(begun.voucher.is_some());
    let brought = async |signer: &Running| post::<EditCommitted>(signer, EDIT_COMMIT_PATH, &commit).await;
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // A network process in foreign hands lets the attempt fail.
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    step(&signer, 0, EditEvent::Start).await.unwrap();
    let mut failed = String::new();
    for _ in 0..4 {
        if let Err(error) = step(&signer, 0, EditEvent::Timeout).await {
            failed = code::<()>(Err(error)).1;
            break;
        }
    }
    assert_eq!(failed, "edit_failed");
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // Or the power fails.
    drop(signer); // kill -9
    let signer = machine.start().await;
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // A change of another cluster that is allowed and given up says nothing about this one.
    let _: EditStatus = signer.control.put(EDIT_PATH, &other.consent()).await.unwrap();
    let _: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // After a start neither is in memory, and which one the owner means is not guessed: both are shown with their names.
    drop(signer); // kill -9
    let signer = machine.start().await;
    let unclear = async |signer: &Running| code(signer.control.delete::<EditStatus>(EDIT_PATH).await);
    assert_eq!(unclear(&signer).await, refused(422, "edit_which"));
    let name = |world: &World| format!("0x{}", hex::encode(world.created.lock.lock_hash));
    let of = |world: &World| edit_discard_path(&name(world));
    let open = async |signer: &Running| {
        let status: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
        let open = status.open.into_iter().map(|open| (open.name, open.validators, open.validator.unwrap()));
        open.collect::<std::collections::BTreeSet<_>>()
    };
    let shown = |world: &World| {
        let validator =
            world.created.lock.validators.iter().map(|validator| validator.public_key.to_string());
        validator.map(|validator| (name(world), VALIDATORS, validator)).collect::<Vec<_>>()
    };
    let both = open(&signer).await;
    assert_eq!(both.len(), 2);
    assert!(both.iter().all(|one| shown(&world).contains(one) || shown(&other).contains(one)), "{both:?}");
    let left: EditStatus = signer.control.delete(&of(&other)).await.unwrap();
    assert_eq!(left.open[0].name, name(&world));
    // Nor when there is only one left: it may be another than the owner thinks.
    assert_eq!(unclear(&signer).await, refused(422, "edit_which"));
    // A change of the other cluster in hand is no more meant than one on the disk.
    let _: EditStatus = signer.control.put(EDIT_PATH, &other.consent()).await.unwrap();
    let _: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert_eq!(unclear(&signer).await, refused(422, "edit_which"));
    assert_eq!(open(&signer).await.len(), 2);
    let left: EditStatus = signer.control.delete(&of(&other)).await.unwrap();
    assert_eq!(left.open.len(), 1);
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    assert_eq!(who_votes(&signer, &world, None).await, (false, false));
    // The owner gives it up.
    let _: EditStatus = signer.control.delete(&of(&world)).await.unwrap();
    assert_eq!(brought(&signer).await.unwrap().retired.len(), VALIDATORS);
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_the_new_making_itself_takes_its_place_also_after_a_power_cut() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody(&ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    drop(signer); // kill -9
    let signer = machine.start().await;
    let before = machine.disk();
    let committed: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit).await.unwrap();
    assert_eq!(committed.retired.len(), VALIDATORS);
    drop(signer);
    machine.put_back(&before);
    let signer = machine.start().await;
    // Beside it stands that the change is unfinished, as the copy has it.
    let problems = signer.problem_codes().await;
    assert!(problems.contains(&"ledger_rolled_back".to_owned()), "no copy takes the step back: {problems:?}");
    signer.stop();
}

/// What `dv-node` says of identity keys is worth less than what a lock shows that the shares held here have signed.
#[tokio::test(flavor = "multi_thread")]
async fn identity_keys_that_a_lock_proves_are_never_dropped_for_what_the_node_says_or_another_box_carries() {
    use ipc::folder::{IdentityAnswer, IdentityGiven, identity_path};
    let (world, other) = (World::new(), World::new());
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let text = |world: &World, place: usize| world.created.nodes[place].identity.to_file_text().to_string();
    let put = async |path: &str, key: String, lock: Option<&Lock>| {
        let given = IdentityGiven { identity_key: Sensitive::new(key), lock: lock.map(json) };
        signer.sign.put::<serde_json::Value>(path, &given).await
    };
    let path = |hash: &[u8; 32]| identity_path(&hex::encode(hash));
    let get = async |hash: &[u8; 32]| {
        let answer = signer.sign.get::<IdentityAnswer>(&path(hash)).await;
        answer.ok().map(|answer| answer.identity_key.expose_secret().to_owned())
    };
    let garbage = async || {
        let mut kept = 0;
        for number in 1..=70_u8 {
            let key = hex::encode([number; 32]);
            kept += u8::from(put(&path(&[number; 32]), key, None).await.is_ok());
        }
        kept
    };
    let hash = world.created.lock.lock_hash;
    // Another one's key under the hash of our cluster, and all places full: before the cluster is joined.
    put(&path(&hash), hex::encode([9; 32]), None).await.unwrap();
    assert_eq!(garbage().await, 63);
    let conflict = put(&path(&hash), text(&world, 0), None).await;
    assert_eq!(code(conflict), refused(422, "identity_conflict"));
    // The lock shows which key is this box's: not another member's, nor that of a cluster whose shares are not here.
    let conflict = put(&path(&hash), text(&world, 1), Some(&world.created.lock)).await;
    assert_eq!(code(conflict), refused(422, "identity_conflict"));
    put(&path(&hash), text(&world, 0), Some(&world.created.lock)).await.unwrap();
    let no_share =
        put(&path(&other.created.lock.lock_hash), text(&other, 0), Some(&other.created.lock)).await;
    assert_eq!(code(no_share), refused(422, "too_many_identities"));
    assert_eq!(get(&hash).await, Some(text(&world, 0)));
    // A second cluster finds a place, and the youngest garbage makes room.
    signer.import_only(&other.bundle()).await.unwrap();
    let other_hash = other.created.lock.lock_hash;
    put(&path(&other_hash), text(&other, 0), Some(&other.created.lock)).await.unwrap();
    assert_eq!((get(&hash).await, get(&other_hash).await), (Some(text(&world, 0)), Some(text(&other, 0))));
    assert_eq!((get(&[1; 32]).await.is_some(), get(&[63; 32]).await), (true, None));
    let conflict = put(&path(&hash), hex::encode([9; 32]), None).await;
    assert_eq!(code(conflict), refused(422, "identity_conflict"));

    // Another box brings 64 keys along, ours among them with another secret.
    let from_machine = Machine::new();
    let from = from_machine.start().await;
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    for (hash, number) in [(hash, 9), (other_hash, 9)].into_iter().chain((101..=162).map(|n| ([n; 32], n))) {
        let given = IdentityGiven { identity_key: Sensitive::new(hex::encode([number; 32])), lock: None };
        from.sign.put::<serde_json::Value>(&path(&hash), &given).await.unwrap();
    }
    let (certificate, release_key) = crate::carried::move_to(&from, &signer).await;
    crate::moving::arrive(&signer, &release_key, &certificate).await.unwrap();
    assert_eq!((get(&hash).await, get(&other_hash).await), (Some(text(&world, 0)), Some(text(&other, 0))));
    assert_eq!(
        (get(&[101; 32]).await.is_some(), get(&[1; 32]).await),
        (true, None),
        "worth more than the node's"
    );
    signer.stop();
}
