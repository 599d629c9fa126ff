// The passphrase of a board that has no TPM. It is sealed here to a key that the signer makes at each start; the page's server and
// the network carry what they cannot open.
"use strict";
{
  const { seal, ask, fingerprintOf } = window.sealing;
  const known = () => (answered && answered.signer && answered.signer.passphrase) || null;
  const WORDS = {
    unset: "Choose the passphrase that you will type after each start of this box. Five or more words that chance has chosen; without it nobody can open the key shares, you neither.",
    locked: "The box has started, and its key shares wait for your passphrase. Until then no duty is done.",
    open: "The passphrase was typed since the last start.",
  };

  async function show() {
    const passphrase = known();
    $("passphrase-card").hidden = !passphrase;
    if (passphrase) {
      $("passphrase-state").textContent = WORDS[passphrase.state];
      $("passphrase-tier").textContent = answered.signer.protection.explanation;
      $("passphrase-key").textContent = await fingerprintOf(passphrase.key);
      $("passphrase-open").hidden = passphrase.state !== "locked";
      $("passphrase-first").hidden = passphrase.state !== "unset";
      $("passphrase-change").hidden = passphrase.state === "unset";
    }
    setTimeout(show, 1000);
  }

  // One spelling of a letter, whatever keyboard it was typed on.
  const typed = (id) => $(id).value.normalize("NFC");
  const chosenWords = (id, again) => {
    if (typed(id) !== typed(again)) throw new Error("The two passphrases differ.");
    return typed(id);
  };

  function onOrder(id, code, order, done) {
    // The key that was on the page when the owner began to type, and may have compared it with the screen.
    let seen = null;
    $(id).addEventListener("input", () => { seen = seen || (known() && known().key); });
    $(id).addEventListener("reset", () => { seen = null; });
    $(id).addEventListener("submit", async (event) => {
      event.preventDefault();
      const output = $("passphrase-said");
      try {
        const passphrase = known();
        if (!passphrase) throw new Error("The signer asks for no passphrase now: see the problems above.");
        if (passphrase.key !== seen) throw new Error("The key has changed since you began to type: the box was started again, or somebody else answers. Nothing was sent. Compare the new key with the one on the box's screen, then type again.");
        const sealed = await seal(seen, "hearth passphrase v1", JSON.stringify(order()));
        await ask("/api/v1/passphrase", sealed, $(code).value, output);
        output.textContent = done;
      } catch (error) { output.textContent = error.message; }
      $(id).reset();
    });
  }
  onOrder("passphrase-open", "passphrase-open-code", () => ({ open: { passphrase: typed("passphrase-words") } }),
    "Right. The key shares wait for three epochs more before they vote.");
  onOrder("passphrase-first", "passphrase-first-code",
    () => ({ first: { passphrase: chosenWords("passphrase-new", "passphrase-again") } }),
    "Kept. You will be asked for it after each start.");
  onOrder("passphrase-change", "passphrase-change-code",
    () => ({ change: { passphrase: typed("passphrase-old"), new: chosenWords("passphrase-next", "passphrase-next-again") } }),
    "Changed. Copies of the disk from before still open with the old one.");
  show();
}
