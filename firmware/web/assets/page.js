// Shows the box's own status once a second. Text from the box only ever becomes text nodes, never markup.
"use strict";
const $ = (id) => document.getElementById(id);
let status = null;
let skewMs = 0; // The box's clock minus this browser's, so that the slot ring follows the box.

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const short = (hex) => (hex && hex.length > 22 ? `${hex.slice(0, 12)}…${hex.slice(-6)}` : hex || "");
// A libp2p address as people write one: /ip4/192.0.2.7/tcp/3610/p2p/16Uiu2… is 192.0.2.7:3610.
const plain = (text) => (text || "")
  .replace(/\/(?:ip4|dns|dns4)\/([^/\s]+)\/tcp\/(\d+)(?:\/p2p\/\w+)?/g, "$1:$2")
  .replace(/\/ip6\/([^/\s]+)\/tcp\/(\d+)(?:\/p2p\/\w+)?/g, "[$1]:$2");
const fill = (id, nodes, emptyId) => {
  $(id).replaceChildren(...nodes);
  if (emptyId) $(emptyId).hidden = nodes.length > 0;
};
const row = (tone, what, detail, value) =>
  el("li", {}, tone === null ? null : el("span", { class: `dot ${tone}` }),
    el("span", { class: "what" }, what, detail ? el("small", {}, detail) : null),
    value ? el("span", { class: "value" }, value) : null);

let chosen = null; // Lock hash of the cluster that is shown, of several.
const nameOf = (node) => (node.cluster && node.cluster.name) || "a cluster";

// One cluster at a time; what is wrong with any of them always shows.
function chooseCluster() {
  status.nodes = [status.node, ...(status.clusters || [])].filter(Boolean);
  const several = status.nodes.length > 1;
  const hash = (node) => node.cluster && node.cluster.lock_hash;
  status.node = status.nodes.find((n) => hash(n) && hash(n) === chosen) || status.nodes[0] || null;
  $("clusters").hidden = !several;
  $("clusters").replaceChildren(...(several ? status.nodes : []).map((n) => {
    const button = el("button", { type: "button", "aria-pressed": String(n === status.node), "data-lock-hash": hash(n) || "" },
      el("span", { class: `dot ${toneOf(n)}` }), nameOf(n));
    button.addEventListener("click", () => { chosen = hash(n); show(); });
    return button;
  }));
}
const toneOf = (node) => node.state === "halted" ? "bad" : node.state === "running" && !node.problems.length ? "good" : "wait";

function showState() {
  const { nodes, signer } = status;
  const ofNode = (n) => n.problems.map((p) => (nodes.length > 1 ? { ...p, message: `${nameOf(n)}: ${p.message}` } : p));
  const problems = [...nodes.flatMap(ofNode), ...((signer && signer.problems) || []), ...status.problems];
  fill("problems", problems.map((p) => el("div", { class: "problem", "data-code": p.code },
    el("strong", {}, plain(p.message)), el("span", {}, p.next_step))));
  $("problems").hidden = problems.length === 0;
  const any = (state) => nodes.some((n) => n.state === state);
  const [tone, text] = !nodes.length ? ["bad", "node not running"]
    : any("halted") ? ["bad", "stopped"]
    : any("waiting_for_cluster") ? ["wait", "waiting for a cluster"]
    : problems.length ? ["wait", "needs attention"]
    : any("starting") ? ["wait", "starting"] : ["good", "running"];
  $("state").className = `badge ${tone}`;
  $("state").textContent = text;
}

function showDuties() {
  const duties = (status.node && status.node.duties) || [];
  const done = duties.filter((d) => d.outcome === "done").length;
  const missed = duties.filter((d) => d.outcome === "missed").length;
  $("duties-done").textContent = done;
  $("duties-missed").textContent = missed;
  $("strip").replaceChildren(...duties.map((d) => el("i", { class: d.outcome, title: `slot ${d.slot} ${d.kind}: ${d.outcome}` })));
  const rows = duties.slice(0, 12).map((d) => {
    const why = d.reason ? el("small", {}, `${d.reason.message} (${d.reason.component})`)
      : d.decided_round > 1 ? el("small", {}, `agreed in round ${d.decided_round}`) : null;
    return el("tr", { "data-slot": d.slot, "data-outcome": d.outcome },
      el("td", {}, String(d.slot)), el("td", {}, d.kind.replaceAll("_", " ") + (d.validators > 1 ? ` × ${d.validators}` : "")),
      el("td", { class: "outcome" }, el("span", { class: d.outcome }, d.outcome), why),
      el("td", {}, memberNames(d.partials_from || [])),
      el("td", { class: "num" }, d.published_ms_into_slot === null || d.published_ms_into_slot === undefined ? ""
        : `${(d.published_ms_into_slot / 1000).toFixed(2)} s`));
  });
  $("duties").tBodies[0].replaceChildren(...rows);
  $("duties").hidden = rows.length === 0;
  $("no-duties").hidden = rows.length > 0;
}

function memberNames(indices) {
  const cluster = status.node && status.node.cluster;
  return indices.map((i) => {
    const operator = cluster && cluster.operators.find((o) => o.index === i);
    return operator ? (operator.is_self ? "this box" : operator.name) : `#${i}`;
  }).join(", ");
}

function showCluster() {
  const cluster = status.node && status.node.cluster;
  $("cluster-name").textContent = cluster
    ? `${cluster.name} · ${cluster.threshold} of ${cluster.operators.length} must sign` : "Not in a cluster yet";
  const operators = (cluster && cluster.operators) || [];
  const up = operators.filter((o) => o.is_self || o.connected).length;
  $("members-up").textContent = operators.length ? `${up} / ${operators.length}` : "–";
  fill("members", operators.map((o) => row(o.is_self || o.connected ? "good" : "bad",
    o.is_self ? `${o.name} (this box)` : o.name,
    o.is_self ? "" : o.connected ? [o.version, plain(o.address)].filter(Boolean).join(" · ") : "not connected",
    o.clock_offset_ms === null || o.clock_offset_ms === undefined ? "" : `clock ${o.clock_offset_ms >= 0 ? "+" : ""}${o.clock_offset_ms} ms`)), "no-members");
  fill("validators", ((cluster && cluster.validators) || []).map((v) => row(v.status && v.status.startsWith("active") ? "good" : "wait",
    el("code", { title: v.group_public_key }, short(v.group_public_key)),
    v.index === null || v.index === undefined ? "not on the chain yet" : `validator ${v.index}`, v.status || "")), "no-validators");
}

function showChain() {
  const chain = status.node && status.node.chain;
  fill("chain", chain ? chain.beacon_nodes.map((b) => row(b.state === "ready" ? "good" : b.state === "unknown" || b.state === "syncing" ? "wait" : "bad",
    b.url, [b.version, b.message].filter(Boolean).join(" · "), b.state.replaceAll("_", " ")))
    .concat([row(null, "Network", "", chain.network), row(null, "Slot time", "", `${chain.slot_ms / 1000} s, ${chain.slots_per_epoch} slots an epoch`)])
    : [row("wait", "No beacon node yet", "It is named when the box joins a cluster.")]);
  const clock = status.node && status.node.clock;
  $("clock").textContent = !clock ? "–" : clock.state === "stepped" ? "off" : clock.offset_ms === null || clock.offset_ms === undefined ? clock.state : `${clock.offset_ms >= 0 ? "+" : ""}${clock.offset_ms} ms`;
}

const toldBySigner = (code) => ((status.signer && status.signer.problems) || []).some((p) => p.code === code);

function showBox() {
  // An alarm and a share that merely came in have sentences of their own.
  const seen = toldBySigner("signs_elsewhere"), rests = toldBySigner("shares_rest");
  $("elsewhere-card").hidden = !(seen || rests);
  $("elsewhere-seen").hidden = !seen;
  $("elsewhere-rests").hidden = !rests;
  const box = status.box, boot = box.boot || {};
  const lines = [
    row(boot.state === "verified" ? "good" : "wait", "Start-up", boot.explanation, boot.state),
    row(boot.secure_boot ? "good" : "wait", "Secure Boot", "", boot.secure_boot ? "on" : "off"),
    row(boot.verity ? "good" : "wait", "System disk", "", boot.verity ? "read-only, verified" : "not verified"),
    ...(status.disks || []).map((d) => row(d.passed === null ? "wait" : d.passed && !d.read_only ? "good" : "bad", `Disk ${d.name}`,
      [d.used_percent === null ? "" : `${d.used_percent} % of its life used`, d.celsius === null ? "" : `${d.celsius} °C`].filter(Boolean).join(" · "),
      d.passed === null ? "says nothing" : d.passed && !d.read_only ? "healthy" : "failing")),
  ];
  const signer = status.signer;
  if (signer) {
    const tier = signer.protection.tier;
    lines.push(row(tier === "tpm_measured_boot" ? "good" : tier === "none" ? "bad" : "wait", "Key shares",
      signer.protection.explanation, signer.shares.length === 1 ? "1 held" : `${signer.shares.length} held`));
    if (signer.clock) lines.push(row(signer.clock.trusted ? "good" : "bad", "Signer's clock", signer.clock.explanation, signer.clock.trusted ? "believed" : "not believed"));
    if (signer.tpm) lines.push(row(signer.tpm.is_software ? "wait" : "good", "TPM", signer.tpm.is_software ? "a program, as in tests" : "", `${signer.tpm.manufacturer} ${signer.tpm.model}`));
  } else lines.push(row("bad", "Signer", "It does not answer; nothing is signed.", ""));
  fill("box", lines);
  $("box-name").textContent = box.name;
  $("version").textContent = `Hearth ${box.image_version} (${box.profile})`;
}

const SUBJECTS = { peers: "Member", beacon_node: "Beacon node", relays: "Relays", disk: "Disk", memory: "Memory", internet: "Internet", clock: "Clock" };
const TONES = { pass: "good", average: "wait", poor: "bad", skipped: null };
let checking = null;

function showPreflight(report) {
  fill("preflight", report.findings.map((f) => row(TONES[f.verdict],
    [SUBJECTS[f.subject], f.of, f.code.replaceAll("_", " ")].filter(Boolean).join(" · "), plain(f.sentence), plain(f.measured))), "no-preflight");
  const button = $("preflight-form").querySelector("button");
  button.disabled = report.state === "running";
  button.textContent = report.state === "running" ? `Checking, ${report.done} of ${report.of}` : "Check this box";
  if (report.state === "running") checking = setTimeout(askPreflight, 1000);
}

async function askPreflight() {
  clearTimeout(checking);
  const answer = await fetch("/api/v1/preflight", { cache: "no-store" }).catch(() => null);
  if (answer && answer.ok) showPreflight(await answer.json());
}

$("preflight-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/api/v1/preflight", { method: "POST", body: "{}",
    headers: { "content-type": "application/json", authorization: `Bearer ${$("preflight-code").value.trim()}` } }).catch(() => null);
  if (answer && answer.ok) { $("preflight-code").value = ""; showPreflight(await answer.json()); return; }
  const problem = answer ? await answer.json().catch(() => null) : null;
  $("no-preflight").hidden = false;
  $("no-preflight").textContent = problem ? `${problem.message} ${problem.next_step}` : "The box does not answer.";
});

// What was shown of each stopped share when its owner began to type: the word is about that, and about nothing that came since.
let stoppedShown = null;
const stoppedNow = () => new Map((status?.signer?.shares || []).map((held) => [held.pubshare, held.stopped_at_ms]));
$("elsewhere-form").addEventListener("input", () => { stoppedShown ??= stoppedNow(); });
$("elsewhere-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const share = $("elsewhere-share").value.trim().toLowerCase(), shown = (stoppedShown || stoppedNow()).get(share);
  if (shown === undefined) {
    $("elsewhere-answer").textContent = "The box has told of no such share that is stopped. Look at the public key, and wait until the page shows the share.";
    return;
  }
  const wish = { share, stopped_at_ms: shown, confirm: $("elsewhere-confirm").value.trim() };
  const answer = await fetch("/api/v1/shares/resume", { method: "POST", body: JSON.stringify(wish),
    headers: { "content-type": "application/json", authorization: `Bearer ${$("elsewhere-code").value.trim()}` } }).catch(() => null);
  const said = answer ? await answer.json().catch(() => null) : null;
  // A word that was mistyped is still about what was shown then; after any other answer the sentence is typed anew.
  if (answer?.ok || said?.code === "share_stopped_anew") {
    stoppedShown = null;
    $("elsewhere-confirm").value = "";
  }
  $("elsewhere-answer").textContent = !said ? "The box does not answer."
    : answer.ok ? `It votes again from epoch ${said.votes_from_epoch ?? "now"} on.` : `${said.message} ${said.next_step}`;
});

const EXITS = { waiting: "can still be cancelled", asking: "being signed", asked_by_others: "other members want it",
  signed: "signed here, waiting for more members", whole: "on its way to the chain", published: "the chain has it" };
function showExits() {
  const exits = (status.node && status.node.exits) || [];
  $("exits-card").hidden = exits.length === 0;
  fill("exits", exits.map((e) => row(e.state === "published" ? "good" : "wait", el("code", { title: e.validator }, short(e.validator)),
    [EXITS[e.state], e.message].filter(Boolean).join(" · "), `${e.partials_from.length} of ${e.needed}`)));
}

function tick() {
  const chain = status && status.node && status.node.chain;
  if (chain) {
    const intoMs = Date.now() + skewMs - chain.genesis_time * 1000;
    const slot = Math.floor(intoMs / chain.slot_ms);
    const share = ((intoMs % chain.slot_ms) + chain.slot_ms) % chain.slot_ms / chain.slot_ms;
    document.querySelector(".ring .mark").setAttribute("stroke-dasharray", `${slot < 0 ? 0 : share * 100} 100`);
    $("slot").textContent = slot < 0 ? `in ${Math.ceil(-intoMs / 1000)} s` : slot.toLocaleString("en");
    $("epoch").textContent = slot < 0 ? "until the chain starts"
      : `epoch ${Math.floor(slot / chain.slots_per_epoch).toLocaleString("en")}, ${slot % chain.slots_per_epoch + 1} of ${chain.slots_per_epoch}`;
  }
  requestAnimationFrame(() => setTimeout(tick, 100));
}

let answered = null;
function show() {
  status = { ...answered };
  chooseCluster(); showState(); showDuties(); showCluster(); showChain(); showBox(); showExits();
}

async function refresh() {
  try {
    const answer = await fetch("/api/v1/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    answered = await answer.json();
    skewMs = answered.now_ms - Date.now();
    show();
    document.body.dataset.ready = "true";
  } catch (error) {
    $("state").className = "badge bad";
    $("state").textContent = "box not reachable";
  }
  setTimeout(refresh, 1000);
}
refresh();
tick();
askPreflight();
