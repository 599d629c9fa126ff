// The recovery key of the box's disk: what became of it, and the key itself as long as it waits to be written down. Without the claim code
// this card is the same on every box.
"use strict";
{
  const { ask } = window.sealing;
  const said = $("recovery-said");
  const SHOWN_FOR_MS = 10 * 60 * 1000;
  const when = (ms) => new Date(ms).toLocaleString();
  const WORDS = {
    none: () => "This box keeps no recovery key to be shown, and makes none: its board had a signer before. Nothing is lost as long as this board and its TPM work; a key that you have on paper may still open the disk.",
    noted: ({ noted_ms }) => `Written down${noted_ms ? ` on ${when(noted_ms)}` : ""}. This box no longer has the key and shows it to nobody. If that was not you, somebody else has the key: write the disk anew before you trust this box with a share.`,
    lapsed: () => "There is no recovery key any more: it was not written down before the box was started again, or could not be kept. Nothing is lost as long as this board and its TPM work.",
    failed: () => "The recovery key could not be made, or what is known of it cannot be read, or the box could not see to it in this start. One that you have on paper still opens the disk. Look at the disks on this page.",
  };
  let group = 0;
  let shownSince = null;
  let opened = false;

  function forget() {
    $("recovery-key").replaceChildren();
    $("recovery-noted").hidden = true;
    for (const form of ["recovery-ask", "recovery-noted"]) $(form).reset();
    shownSince = null;
  }
  window.addEventListener("pagehide", forget);

  function watch() {
    const signer = answered && answered.signer;
    // A board without a TPM has its owner's passphrase.
    $("recovery-card").hidden = Boolean(signer && signer.passphrase);
    // Whoever sets a box up is to see it; whether a key waits is told with the claim code alone.
    if (signer && !opened) {
      opened = true;
      $("recovery-more").open = !signer.shares.length;
    }
    if (shownSince && Date.now() - shownSince > SHOWN_FOR_MS) {
      forget();
      said.textContent = "The key is not shown any longer. Look again to go on.";
    }
    setTimeout(watch, 1000);
  }

  $("recovery-ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const code = $("recovery-code").value;
    try {
      const before = await ask("/api/v1/recovery-key", null, code, said);
      if (before.state !== "waiting") {
        forget();
        said.textContent = WORDS[before.state](before);
        return;
      }
      const { groups } = await ask("/api/v1/recovery-key/show", {}, code, said);
      said.textContent = before.shown
        ? `In this start it was shown before: ${before.shown} times, last on ${when(before.last_shown_ms)}. If that was not you, somebody else has it: write the disk anew.`
        : "Nobody was shown it before.";
      $("recovery-key").replaceChildren(...groups.map((letters) => el("li", {}, el("code", {}, letters))));
      // One of them, so that it is the paper that is read.
      group = 1 + crypto.getRandomValues(new Uint8Array(1))[0] % groups.length;
      $("recovery-which").textContent = group;
      $("recovery-noted").hidden = false;
      shownSince = Date.now();
    } catch (error) { said.textContent = error.message; }
  });
  $("recovery-noted").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const noted = await ask("/api/v1/recovery-key/noted", { group, letters: $("recovery-letters").value }, $("recovery-code").value, said);
      forget();
      said.textContent = WORDS[noted.state](noted);
    } catch (error) { said.textContent = error.message; }
  });
  watch();
}
