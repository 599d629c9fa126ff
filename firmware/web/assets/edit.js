// Changing who is in a cluster: what the owner fills in becomes the signer's consent and the node's request. The lock file comes
// from the owner, so that the node cannot put another one in its place.
"use strict";
// Of public networks, by genesis fork version: genesis validators root and genesis time. The signer compares them with its own.
const NETWORKS = {
  "0x00000000": ["0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95", 1606824023],
  "0x90000069": ["0xd8ea171f3c94aea21ebc42a1ed61052acf3f9209c00e4efbaaddac09ed9b8078", 1655733600],
  "0x10000910": ["0x212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f", 1742213400],
};
const EDIT_PATH = "/api/v1/cluster-edit";
const PHASES = { connecting: "waiting until every member is there", dealing: "new shares are dealt; the old ones sign on",
  prepared: "the new shares are sealed; waiting for everybody's", dry_run: "the old shares are silent; the new ones are tried",
  changing: "the old shares are given up", leaving: "done here; others are helped to finish", done: "done",
  lock_handed_in: "the signer looks at the lock that was handed in", failed: "it does not go on", interrupted: "it goes on as soon as it can" };
let lock = null;
let beginsWith = null; // What the owner was shown, exactly as it will be sent.
let seenPhase = null;

const lines = (id) => $(id).value.split(/\s+/).filter(Boolean);
const textOf = (id) => ($(id).files[0] ? $(id).files[0].text() : Promise.resolve(""));
const say = (text) => { $("edit-said").textContent = text; $("edit-said").hidden = !text; };
const operators = () => lock.cluster_definition.operators.map((operator) => operator.enr);

// The compressed public key inside an ENR, hex: after its name come one byte of length and 33 bytes.
function keyOf(enr) {
  const bytes = atob(enr.replace(/^enr:/, "").replaceAll("-", "+").replaceAll("_", "/"));
  const at = bytes.indexOf("secp256k1\xa1");
  if (at < 0) throw new Error("An operator record has no key.");
  return [...bytes.slice(at + 10, at + 43)].map((c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}

function wanted() {
  const all = operators();
  const leaves = lines("edit-leave").map((number) => {
    const enr = all[Number(number) - 1];
    if (!enr) throw new Error(`There is no member ${number}; the cluster has ${all.length}.`);
    return enr;
  });
  const joins = lines("edit-join");
  const threshold = $("edit-threshold").value ? { threshold: Number($("edit-threshold").value) } : {};
  switch ($("edit-kind").value) {
    case "replace":
      if (leaves.length !== 1 || joins.length !== 1) throw new Error("Name one member that leaves and one record that comes.");
      return { replace: { old: leaves[0], new: joins[0] } };
    case "add": return { add: { operators: joins, ...threshold } };
    case "remove": return { remove: { operators: leaves, dealing: $("edit-dealing").checked ? leaves : [], ...threshold } };
    default: return { recreate: threshold };
  }
}

async function prepare() {
  const read = JSON.parse(await textOf("edit-lock") || "null");
  lock = (read && read.lock) || read; // As another member's page gives it, or as a file.
  if (!lock || !lock.cluster_definition) throw new Error("Choose the cluster lock that is in force.");
  const edit = wanted();
  const known = NETWORKS[lock.cluster_definition.fork_version];
  if (!known) throw new Error("This page knows public networks only; use the API for another chain.");
  const held = answered && [answered.node, ...(answered.clusters || [])].filter(Boolean)
    .find((node) => node.cluster && node.cluster.lock_hash === lock.lock_hash);
  const self = held && held.cluster.operators.find((operator) => operator.is_self);
  const identityKey = (await textOf("edit-identity")).trim();
  if (!self && !identityKey) throw new Error("This box is not in that cluster. To join it, choose the identity key of the record that comes.");
  const own = self ? operators()[self.index - 1] : lines("edit-join")[Number($("edit-which").value || 1) - 1];
  if (!own) throw new Error("Name the record with which this box joins.");
  const leaves = (edit.remove && edit.remove.operators) || (edit.replace && [edit.replace.old]) || [];
  const joins = (edit.add && edit.add.operators) || (edit.replace && [edit.replace.new]) || [];
  fill("edit-shown", [...operators().map((enr, at) => row(leaves.includes(enr) ? "bad" : "good", `Member ${at + 1}${enr === own ? " (this box)" : ""}`,
    short(enr), leaves.includes(enr) ? "leaves" : "stays")),
  ...joins.map((enr) => row("wait", `New member${enr === own ? " (this box)" : ""}`, short(enr), "joins"))]);
  const chain = { genesis_time: known[1], slot_ms: 12000, slots_per_epoch: 32 };
  beginsWith = {
    consent: { lock, edit, identity: keyOf(own), minor: 10, genesis_validators_root: known[0], chain },
    edit: { lock, edit, minor: 10, peers: lines("edit-peers"), ...(self ? {} : { identity_key: identityKey, beacon_nodes: lines("edit-beacon") }) },
  };
  $("edit-begin").disabled = false;
  say("All owners fill in the same and begin within a quarter of an hour. Until it is over the boxes do no duties; the validators keep their keys. Afterwards the old shares are worth nothing.");
}

async function send(path, method, codeId, body) {
  const answer = await fetch(path, { method, ...(body ? { body: JSON.stringify(body) } : {}),
    headers: { "content-type": "application/json", authorization: `Bearer ${$(codeId).value.trim()}` } }).catch(() => null);
  const said = answer ? await answer.json().catch(() => null) : null;
  if (answer && answer.ok) { say(""); showEdit(said); return; }
  say(said && said.message ? `${said.message} ${said.next_step}` : "The box does not answer.");
}

// What can be given up, by the names that the signer has for it. Only what the owner has chosen and sees is sent: when it is not
// there any more, nothing is chosen.
let openEdits = [], openShown = "";
function showOpen(open) {
  openEdits = open;
  const clusters = answered ? [answered.node, ...(answered.clusters || [])].filter((node) => node && node.cluster) : [];
  const textFor = (one) => {
    const known = clusters.find((node) => node.cluster.lock_hash === one.name);
    if (one.name === "unreadable") return "One that the node cannot read any more";
    return `${known ? `${nameOf(known)}, ` : ""}${short(one.name)}`;
  };
  const select = $("edit-open"), before = select.value, texts = open.map(textFor);
  if (openShown !== JSON.stringify([open, texts])) { // A list that is open closes when it is made anew.
    openShown = JSON.stringify([open, texts]);
    select.replaceChildren(el("option", { value: "" }, "choose"), ...open.map((one, at) => el("option", { value: one.name }, texts[at])));
    select.value = open.some((one) => one.name === before) ? before : "";
  }
  const chosen = open.find((one) => one.name === select.value);
  const validators = chosen && chosen.validators ? ` of a cluster of ${chosen.validators} validator${chosen.validators > 1 ? "s" : ""}` : "";
  $("edit-open-shown").textContent = chosen ? `${chosen.name}${validators}${chosen.validator ? `, among them ${chosen.validator}` : ""}` : "";
  $("edit-give-up").hidden = open.length === 0;
  $("edit-forgo-row").hidden = !(chosen && chosen.promised);
}

function showEdit(said) {
  const edit = said && said.edit;
  showOpen((said && said.open) || []);
  $("edit-progress").hidden = !edit;
  if (!edit) return;
  seenPhase = edit.phase;
  const many = edit.validators ? ` · ${edit.dealt} of ${edit.validators} validators dealt` : "";
  fill("edit-members", [row(edit.phase === "failed" ? "bad" : edit.new_lock_hash ? "good" : "wait", edit.name || "Change", (PHASES[edit.phase] || edit.phase) + many, `step ${edit.step} of 6`),
    ...edit.members.map((m) => row(m.is_self || m.connected ? (m.waited_for ? "wait" : "good") : "bad",
      m.is_self ? `${m.name} (this box)` : m.name, m.waited_for ? "waited for" : m.nickname, `step ${m.step}`)),
    ...edit.problems.map((p) => row("bad", plain(p.message), plain(p.next_step)))]);
  $("edit-done").hidden = !edit.new_lock_hash;
  $("edit-go-on").hidden = Boolean(edit.new_lock_hash);
}

async function askEdit() {
  const answer = await fetch(EDIT_PATH, { cache: "no-store" }).catch(() => null);
  if (answer && answer.ok) showEdit(await answer.json());
  setTimeout(askEdit, seenPhase && seenPhase !== "done" && seenPhase !== "failed" ? 1000 : 5000);
}

const guarded = (work) => async (event) => {
  event.preventDefault();
  try { await work(); } catch (error) {
    beginsWith = null;
    $("edit-begin").disabled = true;
    say(error instanceof SyntaxError ? "That file is no cluster lock." : error.message);
  }
};
const needs = { replace: ["join", "leave"], add: ["join", "threshold"], remove: ["leave", "dealing", "threshold"], recreate: ["threshold"] };
function showFields() {
  for (const field of ["join", "leave", "dealing", "threshold"]) $(`edit-${field}-row`).hidden = !needs[$("edit-kind").value].includes(field);
}
$("edit-form").addEventListener("input", (event) => {
  if (event.target.id !== "edit-code") { beginsWith = null; $("edit-begin").disabled = true; }
  showFields();
});
$("edit-form").addEventListener("submit", guarded(prepare));
$("edit-begin").addEventListener("click", guarded(() => beginsWith && send(EDIT_PATH, "PUT", "edit-code", beginsWith)));
$("edit-open").addEventListener("change", () => {
  $("edit-forgo").value = ""; // What was typed was read about another one.
  showOpen(openEdits);
});
$("edit-give-up").addEventListener("submit", guarded(async () => {
  const name = $("edit-open").value; // As it stands there now.
  const typed = $("edit-forgo-row").hidden ? "" : `&confirm=${encodeURIComponent($("edit-forgo").value)}`;
  if (name) await send(`${EDIT_PATH}?lock_hash=${encodeURIComponent(name)}${typed}`, "DELETE", "edit-give-up-code");
  $("edit-forgo").value = "";
}));
$("edit-go-on").addEventListener("submit", guarded(async () => {
  const other = JSON.parse(await textOf("edit-new-lock") || "null");
  if (!other) throw new Error("Choose the new cluster lock of a member that is done.");
  await send(`${EDIT_PATH}/lock`, "PUT", "edit-go-on-code", { lock: other.lock || other });
}));
showFields();
askEdit();
