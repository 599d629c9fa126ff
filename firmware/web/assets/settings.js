// What the owner sets for one cluster of this box: read from the box, changed here, and sent back with all that stands beside it.
"use strict";
{
  const { ask } = window.sealing;
  let shown = null;
  const lines = (id) => $(id).value.split("\n").map((line) => line.trim()).filter(Boolean);

  async function show(code, output) {
    const clusters = await ask("/api/v1/clusters", null, code, output);
    if (!clusters.length) throw new Error("This box is in no cluster.");
    const number = Math.min(Math.max(Number($("settings-which").value) || 1, 1), clusters.length);
    const { lock_hash, name } = clusters[number - 1];
    const setup = await ask(`/api/v1/clusters/${lock_hash}/setup`, null, code, output);
    const { graffiti = [], builder_api = false, graffiti_alone = false } = setup.proposals || {};
    $("settings-beacons").value = setup.beacon_nodes.join("\n");
    $("settings-fallbacks").value = (setup.fallback_beacon_nodes || []).join("\n");
    $("settings-graffiti").value = graffiti.join("\n");
    $("settings-alone").checked = graffiti_alone;
    $("settings-builders").checked = builder_api;
    $("settings-obol").checked = setup.obol_api === true;
    $("settings-fields").hidden = false;
    shown = { setup, name };
    return `These are the settings of ${name || lock_hash}, cluster ${number} of ${clusters.length}.`;
  }

  async function save(code, output) {
    const { setup, name } = shown;
    await ask("/api/v1/clusters", { ...setup, identity_key: "", beacon_nodes: lines("settings-beacons"),
      fallback_beacon_nodes: lines("settings-fallbacks"), obol_api: $("settings-obol").checked,
      proposals: { builder_api: $("settings-builders").checked, graffiti: lines("settings-graffiti"), graffiti_alone: $("settings-alone").checked } },
      code, output);
    return `${name || "The cluster"} has these settings now.`;
  }

  $("settings-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = $("settings-said"), code = $("settings-code").value;
    try {
      const wants_saving = event.submitter && event.submitter.value === "save" && shown;
      output.textContent = await (wants_saving ? save(code, output) : show(code, output));
    } catch (error) { output.textContent = error.message; }
  });
}
