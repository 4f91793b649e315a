"use strict";
const cards = [...document.querySelectorAll(".card")];
const tag = document.getElementById("tag");
const outcome = document.getElementById("outcome");
const words = document.getElementById("words");
const count = document.getElementById("count");
const empty = document.getElementById("empty");

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const prompt = card.dataset.prompt;
    const fits =
      (!tag.value || card.dataset.tag === tag.value) &&
      (!outcome.value || card.dataset.outcome.split(" ").includes(outcome.value)) &&
      wanted.every((word) => prompt.includes(word));
    card.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${cards.length}`;
  empty.hidden = shown > 0;
}

for (const control of [tag, outcome]) control.addEventListener("change", filter);
words.addEventListener("input", filter);
document.getElementById("reasons").addEventListener("change", (event) => {
  for (const box of document.querySelectorAll(".card details")) box.open = event.target.checked;
});
filter();
