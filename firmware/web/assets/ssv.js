// What an SSV operator brings along: its private key and key shares, sealed in this browser to the signer's own key.
"use strict";
{
  const { seal, ask, importKey } = window.sealing;
  const textOf = async (id) => { const file = $(id).files[0]; return file ? await file.text() : null; };

  async function filesOf() {
    const key = await textOf("ssv-key"), history = await textOf("ssv-history"), chain = $("ssv-chain").value.trim();
    if (chain && $("ssv-network").value) throw new Error("Either choose a network or describe another chain, not both.");
    return {
      operator_key: { file: key, password: $("ssv-password").value || null },
      key_shares: await textOf("ssv-shares"),
      old_node_stopped: $("ssv-stopped").checked,
      past: history ? { interchange: JSON.parse(history) } : "wait",
      network: $("ssv-network").value || null,
      chain: chain ? JSON.parse(chain) : null,
    };
  }

  $("ssv-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = $("ssv-said"), code = $("ssv-code").value;
    try {
      const sealed = await seal(importKey(), "hearth ssv files v1", JSON.stringify(await filesOf()));
      const done = await ask("/api/v1/ssv", sealed, code, output);
      output.textContent = `Operator ${done.operator.slice(0, 8)}…: ${done.imported.length} new key shares, ${done.already_held.length} already here. `
        + "They rest: each signs nothing until you let it go on.";
      $("ssv-form").reset();
    } catch (error) { output.textContent = error.message; }
  });
}
