// Files that hold keys never leave this browser in the clear: they are sealed here to the signer's own key (HPKE, RFC 9180:
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM), and neither the page's server nor the network can open them.
"use strict";
{ // Names of its own: other scripts of the page have theirs.

  const utf8 = new TextEncoder();
  const joined = (...parts) => new Uint8Array(parts.flatMap((part) => [...part]));
  const twoBytes = (n) => new Uint8Array([n >> 8, n & 255]);
  const toHex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const fromHex = (text) => new Uint8Array((text.match(/../g) || []).map((pair) => parseInt(pair, 16)));
  const KEM = joined(utf8.encode("KEM"), twoBytes(0x20));
  const SUITE = joined(utf8.encode("HPKE"), twoBytes(0x20), twoBytes(1), twoBytes(2));
  const EMPTY = new Uint8Array(0);

  async function hmac(key, data) {
    // HKDF's empty salt is a block of zeros.
    const raw = key.length ? key : new Uint8Array(32);
    const imported = await crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
    return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
  }
  const extract = (suite, salt, label, text) => hmac(salt, joined(utf8.encode("HPKE-v1"), suite, utf8.encode(label), text));
  // One block of HKDF-Expand: nothing here is longer than a hash.
  const expand = async (suite, key, label, info, length) =>
    (await hmac(key, joined(twoBytes(length), utf8.encode("HPKE-v1"), suite, utf8.encode(label), info, [1]))).slice(0, length);

  // Seals text to a public key for one purpose. `pair` is made here; it is an argument so that known answers can be tried.
  async function seal(publicKeyHex, purpose, text, pair) {
    const receiver = fromHex(publicKeyHex);
    const own = pair || await crypto.subtle.generateKey({ name: "X25519" }, true, ["deriveBits"]).catch(() => {
      throw new Error("This browser is too old to seal anything: it does not know X25519. Use a current one.");
    });
    const enc = new Uint8Array(await crypto.subtle.exportKey("raw", own.publicKey));
    const theirs = await crypto.subtle.importKey("raw", receiver, { name: "X25519" }, false, []);
    const dh = new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: theirs }, own.privateKey, 256));
    const shared = await expand(KEM, await extract(KEM, EMPTY, "eae_prk", dh), "shared_secret", joined(enc, receiver), 32);
    const context = joined([0], await extract(SUITE, EMPTY, "psk_id_hash", EMPTY),
      await extract(SUITE, EMPTY, "info_hash", utf8.encode(purpose)));
    const secret = await extract(SUITE, shared, "secret", EMPTY);
    const key = await crypto.subtle.importKey("raw", await expand(SUITE, secret, "key", context, 32), "AES-GCM", false, ["encrypt"]);
    const iv = await expand(SUITE, secret, "base_nonce", context, 12);
    const ciphertext = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, utf8.encode(text)));
    return { enc: toHex(enc), ciphertext: toHex(ciphertext) };
  }

  // The key as the box's own screen shows it: 80 bits of its hash.
  async function fingerprintOf(publicKeyHex) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", fromHex(publicKeyHex))).slice(0, 10);
    const bits = [...digest].map((byte) => byte.toString(2).padStart(8, "0")).join("");
    return bits.match(/.{5}/g).map((five) => "0123456789ABCDEFGHJKMNPQRSTVWXYZ"[parseInt(five, 2)]).join("").match(/.{4}/g).join("-");
  }

  // What was done, or why not: the box's own words.
  async function ask(path, body, code, output, screen) {
    output.textContent = "Working. Many keys take minutes.";
    const headers = { authorization: `Bearer ${code.trim()}` };
    if (body) headers["content-type"] = "application/json";
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, cache: "no-store",
      body: body && JSON.stringify(body) }).catch(() => null);
    const said = answer ? await answer.json().catch(() => null) : null;
    if (answer && answer.ok) return said;
    if (said && said.code === "confirm_on_screen" && screen) screen.focus();
    const why = new Error(said ? `${said.message} ${said.next_step}` : "The box does not answer.");
    why.status = answer ? answer.status : 0;
    throw why;
  }

  const importKey = () => {
    const key = answered && answered.signer && answered.signer.import_key;
    if (!key) throw new Error("The signer cannot take anything now: see the problems above.");
    return key;
  };

  // The files of a .charon folder, by name.
  async function readFolder(files) {
    const named = (name) => files.find((file) => file.name === name);
    const lock = named("cluster-lock.json"), identity = named("charon-enr-private-key");
    if (!lock || !identity) throw new Error("Choose the whole .charon folder: cluster-lock.json or charon-enr-private-key is missing in it.");
    const keystores = [];
    for (const file of files.filter((f) => /^keystore-.*\.json$/.test(f.name))) {
      const password = named(file.name.replace(/\.json$/, ".txt"));
      if (!password) throw new Error(`The password of ${file.name} is missing: it is in the .txt file of the same name.`);
      keystores.push({ name: file.name, keystore: JSON.parse(await file.text()), password: (await password.text()).trim() });
    }
    return { lock: JSON.parse(await lock.text()), identity_key: (await identity.text()).trim(), keystores };
  }

  $("folder-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = $("folder-said");
    try {
      const folder = await readFolder([...$("folder-files").files]);
      const history = $("folder-history").files[0], chain = $("folder-chain").value.trim();
      folder.old_node_stopped = $("folder-stopped").checked;
      folder.past = history ? { interchange: JSON.parse(await history.text()) } : "wait";
      folder.chain = chain ? JSON.parse(chain) : null;
      const words = (id) => $(id).value.split(/\s+/).filter(Boolean);
      const sealed = await seal(importKey(), "hearth charon folder v1", JSON.stringify(folder));
      const done = await ask("/api/v1/folders", { sealed, lock: folder.lock, beacon_nodes: words("folder-beacons"), peers: words("folder-peers") },
        $("folder-code").value, output);
      $("folder-form").reset();
      output.textContent = `Member ${done.share_index} of ${done.cluster}: ${done.imported.length} new key shares, ${done.already_held.length} already here. `
        + (done.votes_from_epoch ? `They vote from epoch ${done.votes_from_epoch} on.` : "");
    } catch (error) { output.textContent = error.message; }
  });

  // A file for the owner to keep.
  function keep(name, text) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // How this box is in its clusters, which the one that gets its shares joins with. Nothing in it is secret but the addresses.
  // What cannot be saved is said once for each piece of work that the owner does, and again at its end.
  const toldOf = new Set();
  async function clustersOf(code, output) {
    const setups = [], left_out = [];
    for (const { lock_hash, name } of await ask("/api/v1/clusters", null, code, output)) {
      try {
        const setup = await ask(`/api/v1/clusters/${lock_hash}/setup`, null, code, output);
        // Shares that a validator client holds do not go along.
        if (setup.signing === "built_in") setups.push(setup);
      } catch (error) {
        if (error.status === 401 || error.status === 429) throw error;
        if (toldOf.has(lock_hash)) { left_out.push(name || lock_hash); continue; }
        toldOf.add(lock_hash);
        throw new Error(`How to join ${name || lock_hash} cannot be saved: ${error.message} Have that cluster's lock file ready, then press again to go on without.`);
      }
    }
    return { setups, left_out };
  }
  const without = (left_out) => {
    toldOf.clear();
    return left_out.length ? ` The file does not say how to join ${left_out.join(" and ")}: keep its lock file.` : "";
  };
  const fromJson = (text) => { try { return JSON.parse(text); } catch { return null; } };
  async function savedFile(id) {
    const file = fromJson(await $(id).files[0].text());
    if (!file) throw new Error("This is not a file that a box or a member of the cluster has saved.");
    return file;
  }

  // The peer id in a member's record (ENR): the hash in it that is its public key itself, in base58.
  function peerOf(enr) {
    const text = (enr || "").replace(/^enr:/, "").replace(/-/g, "+").replace(/_/g, "/");
    let bytes;
    try { bytes = [...atob(text)].map((letter) => letter.charCodeAt(0)); } catch { return null; }
    const name = [0x89, ...utf8.encode("secp256k1"), 0xa1];
    const at = bytes.findIndex((_, start) => name.every((byte, i) => bytes[start + i] === byte));
    const key = bytes.slice(at + name.length, at + name.length + 33);
    if (at < 0 || key.length < 33) return null;
    const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let number = BigInt(`0x${toHex([0x25, 8, 2, 0x12, 0x21, ...key])}`), peer = "";
    for (; number > 0n; number /= 58n) peer = alphabet[Number(number % 58n)] + peer;
    return `1${peer}`;
  }

  // New addresses of members in place of old ones; of several clusters, each has its own members.
  const memberOf = (address) => address.split("/p2p/").pop();
  const membersOf = (lock) => ((lock && lock.cluster_definition && lock.cluster_definition.operators) || []).map(({ enr }) => peerOf(enr));
  function placesOf(lock, old, given) {
    const known = new Set(membersOf(lock)), anew = given.filter((address) => known.has(memberOf(address)));
    const moved = new Set(anew.map(memberOf));
    return [...anew, ...old.filter((address) => !moved.has(memberOf(address)))];
  }

  // Joins each of these clusters with the shares and the identity key that are in the signer. The file is believed in what a
  // cluster's members must agree on, and in addresses.
  async function join(setups, beacons, peers, code, output) {
    const joined = [], failed = [], all = new Set(setups.flatMap(({ lock }) => membersOf(lock)));
    const nobodys = peers.filter((address) => !all.has(memberOf(address)));
    if (nobodys.length) throw new Error(`No member of ${setups.length === 1 ? "this cluster" : "these clusters"} has this address: ${nobodys.join(" ")}. Correct it or leave it out.`);
    for (const { lock, beacon_nodes = [], peers: old = [], relays, fallback_beacon_nodes, proposals, obol_api } of setups) {
      const name = (lock && lock.cluster_definition && lock.cluster_definition.name) || "a cluster";
      const wanted = { lock, identity_key: "", beacon_nodes: beacons.length ? beacons : beacon_nodes,
        peers: placesOf(lock, old, peers), relays, fallback_beacon_nodes, proposals, obol_api };
      try {
        if (!wanted.beacon_nodes.length) throw new Error("A cluster lock names no beacon node: fill one in.");
        await ask("/api/v1/clusters", wanted, code, output);
        joined.push(name);
      } catch (error) {
        if (error.status === 401 || error.status === 429) throw error;
        failed.push(`This box is not in ${name} yet: ${error.message}`);
      }
    }
    const said = joined.length ? `This box is in ${joined.join(" and ")} now.` : "";
    if (failed.length) throw new Error([said, ...failed, "Then join with the same file once more, under \u201cJoin the cluster of shares that have come in\u201d."].join(" ").trim());
    return said || "Join their cluster below; until then they do no duty.";
  }

  // What a file would have this box connect to, before it does: the shares and the certificate in it are proved, this is not.
  function showWhere(id, setups) {
    const place = $(id);
    place.textContent = "";
    for (const { lock, beacon_nodes = [], fallback_beacon_nodes = [], relays = [], peers = [], proposals = {}, obol_api } of setups || []) {
      const name = (lock && lock.cluster_definition && lock.cluster_definition.name) || "a cluster";
      const says = (list, of) => (list && list.length ? [`${of}: ${list.join(" ")}`] : []);
      const lines = [...says(beacon_nodes, "Beacon nodes"), ...says(fallback_beacon_nodes, "Fallback beacon nodes"), ...says(relays, "Relays"),
        ...says(peers, "Members"), ...says((proposals || {}).graffiti, "Graffiti"), ...((proposals || {}).builder_api ? ["Builders are used"] : []),
        ...(obol_api ? ["Obol's service (API) is used"] : [])];
      place.append(el("b", {}, `The file has this box join ${name} with`), el("ul", {}, ...lines.map((line) => el("li", {}, line))));
    }
    if (place.childNodes.length) place.append(el("p", {}, "Go on only if these are yours."));
  }
  function showsWhere(file, place) {
    $(file).addEventListener("change", async () => {
      const chosen = $(file).files[0], read = chosen && fromJson(await chosen.text());
      showWhere(place, read && Array.isArray(read.clusters) ? read.clusters : []);
    });
  }
  for (const name of ["restore", "arrive", "rejoin"]) showsWhere(`${name}-file`, `${name}-where`);

  // What came in, and the clusters at once when the file says how to join them.
  async function cameAndJoin(done, clusters, code, output) {
    const said = came(done);
    try { return `${said} ${await join(clusters || [], [], [], code, output)}`; } catch (error) {
      throw new Error(`${said} ${error.message}`);
    }
  }

  // A form whose answer, or why there is none, is said below.
  function onSubmit(id, work) {
    $(id).addEventListener("submit", async (event) => {
      event.preventDefault();
      const output = $("moving-said");
      try {
        output.textContent = await work(output);
        $(id).reset();
        for (const shown of $(id).querySelectorAll(".where")) shown.textContent = "";
      } catch (error) { output.textContent = error.message; }
    });
  }
  const sealedOrder = (purpose, order) => seal(importKey(), purpose, JSON.stringify(order));
  const came = (done) => `${done.imported.length} key shares have come in, ${done.already_held.length} were here already. They vote after some epochs; see above.`
    + (done.left_out ? ` ${done.left_out.length} were left out: they were given up on this box for good.` : "")
    + (done.second ? ` ${done.second.length} were left out since this box has another share of their validator: ${pairs(done.second)}. The cluster's lock says which of the two it uses. If it is the one of the backup: ${steps(done.second)} Then restore the backup here once more; the page seals it anew.` : "");
  const steps = (second) => [...new Set(second.map((one) => one.next_step))].join(" Or, for others of them: ");
  const MOST_PAIRS = 8;
  const pairs = (second) => second.slice(0, MOST_PAIRS).map((one) => `${one.share} (here: ${one.other})`).join(", ") + (second.length > MOST_PAIRS ? ", and more" : "");

  onSubmit("backup-form", async (output) => {
    if ($("backup-words").value !== $("backup-again").value) throw new Error("The two passphrases differ.");
    const { setups: clusters, left_out } = await clustersOf($("backup-code").value, output);
    const order = { passphrase: $("backup-words").value, code: $("backup-screen").value.trim() || null };
    const done = await ask("/api/v1/backups", await sealedOrder("hearth backup order v1", order), $("backup-code").value, output, $("backup-screen"));
    keep("hearth-backup.json", JSON.stringify({ backup: done.file, clusters }));
    return `A backup of ${done.shares} key shares was made. Keep the file and the passphrase apart.${without(left_out)}`;
  });
  onSubmit("restore-form", async (output) => {
    const text = await $("restore-file").files[0].text(), { backup, clusters } = fromJson(text) || {}, code = $("restore-code").value;
    const order = { file: backup || text, passphrase: $("restore-words").value, old_box_gone: $("restore-gone").checked };
    return cameAndJoin(await ask("/api/v1/restores", await sealedOrder("hearth restore order v1", order), code, output), clusters, code, output);
  });
  onSubmit("move-form", async (output) => {
    // Before the shares go: with them, this box leaves its clusters.
    const { setups: clusters, left_out } = await clustersOf($("move-code").value, output);
    const order = { to: $("move-to").value.trim(), code: $("move-screen").value.trim() || null };
    const certificate = await ask("/api/v1/moves", order, $("move-code").value, output, $("move-screen"));
    keep("hearth-move.json", JSON.stringify({ certificates: [certificate], clusters }));
    return `The shares are gone from this box. Hand the certificate to the other one, on its page.${without(left_out)}`;
  });
  $("move-again").addEventListener("click", async () => {
    const output = $("moving-said");
    try {
      const moves = [];
      for (let after = 0; typeof after === "number";) {
        const given = await ask(`/api/v1/moves?after=${after}`, null, $("move-code").value, output);
        moves.push(...given.moves);
        after = given.next;
      }
      if (moves.length) keep("hearth-move.json", JSON.stringify({ certificates: moves }));
      output.textContent = moves.length ? `${moves.length} certificates were saved in one file.` : "This box has given no shares away.";
    } catch (error) { output.textContent = error.message; }
  });
  onSubmit("arrive-form", async (output) => {
    const file = await savedFile("arrive-file"), code = $("arrive-code").value;
    // Of several, the last one for this box: the signer takes no other.
    const certificates = file.certificates || [file], keys = [importKey(), answered.signer.arrival_key || ""].map((key) => key.slice(0, 64));
    const ours = certificates.filter(({ body }) => keys.includes(JSON.parse(body).to)).pop();
    const arrival = { from: $("arrive-from").value.trim(), certificate: ours || certificates[certificates.length - 1] };
    return cameAndJoin(await ask("/api/v1/arrivals", arrival, code, output), file.clusters, code, output);
  });
  onSubmit("rejoin-form", async (output) => {
    const file = await savedFile("rejoin-file");
    const words = (id) => $(id).value.split(/\s+/).filter(Boolean);
    // A lock alone, or what an old box has saved about each of its clusters.
    return join(file.clusters || [{ lock: file }], words("rejoin-beacons"), words("rejoin-peers"), $("rejoin-code").value, output);
  });
  $("move-to").addEventListener("input", async () => {
    const key = $("move-to").value.trim();
    $("move-seen").textContent = /^[0-9a-f]{64}(-test)?$/i.test(key) ? await fingerprintOf(key.slice(0, 64)) : "…";
  });

  async function showFingerprint() {
    const signer = (answered && answered.signer) || {};
    // What another box is told to move shares here. Without a TPM it is a key of its own, which outlives a restart.
    const arrival = signer.arrival_key || signer.import_key;
    $("own-key").textContent = arrival || "none now";
    $("arrival-key").textContent = arrival ? await fingerprintOf(arrival.slice(0, 64)) : "…";
    $("own-release").textContent = signer.release_key || "none now";
    const shown = signer.import_key ? await fingerprintOf(signer.import_key) : "…";
    for (const place of document.querySelectorAll(".signer-key")) place.textContent = shown;
    $("release-key").textContent = signer.release_key ? await fingerprintOf(signer.release_key) : "…";
    setTimeout(showFingerprint, 2000);
  }
  showFingerprint();

  // For the page's other scripts.
  window.sealing = { seal, ask, fingerprintOf, importKey };
}
