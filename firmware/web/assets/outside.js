// Who outside the box may ask its signer, and the history that the owner takes along. All of it needs the claim code.
"use strict";
const MAY = { sign: "may ask for signatures", manage_keys: "may manage keys" };

function sayOutside(text) {
  $("no-outside").hidden = false;
  $("no-outside").textContent = text;
}

async function askOutside(path, body) {
  const headers = { authorization: `Bearer ${$("outside-code").value.trim()}` };
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, cache: "no-store",
    body: body && JSON.stringify(body) }).catch(() => null);
  const said = answer ? await answer.json().catch(() => null) : null;
  if (answer && answer.ok && said) return said;
  sayOutside(said && said.message ? `${said.message} ${said.next_step}` : "The box does not answer.");
  return null;
}

function saveAs(name, content) {
  const link = el("a", { href: URL.createObjectURL(new Blob([content], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function showOutside(known) {
  fill("outside", known.clients.map((client) =>
    row("good", client.name, client.may.map((right) => MAY[right] || right).join(", "), short(client.fingerprint))), null);
  if (known.clients.length === 0) sayOutside("Nobody outside this box may ask its signer.");
  else $("no-outside").hidden = true;
}

$("outside-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("outside-name").value.trim();
  const wish = event.submitter ? event.submitter.value : "list";
  if (wish === "let_in") {
    const made = await askOutside("/api/v1/remote/clients",
      { name, may: [$("outside-may").value], addresses: [location.hostname.replace(/^\[|\]$/g, "")],
        code: $("outside-screen").value.trim() || null });
    if (!made) return $("outside-screen").focus();
    $("outside-screen").value = "";
    saveAs(`hearth-client-${name}.json`, JSON.stringify(made, null, 2));
  } else if (wish === "shut_out") {
    if (!(await askOutside("/api/v1/remote/clients/remove", { name }))) return;
  } else if (wish === "history") {
    const history = await askOutside("/api/v1/slashing-protection");
    if (history) saveAs("slashing-protection.json", JSON.stringify(history));
    return;
  }
  const known = await askOutside("/api/v1/remote");
  if (known) showOutside(known);
});
