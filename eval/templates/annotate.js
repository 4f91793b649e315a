"use strict";
const $ = (id) => document.getElementById(id);
const LAST_WORD = "adjudicated";
let start, rater, cards = [], place = 0, marks = [], row = 0, busy = false, isSeen = false;

async function ask(name, query = {}) {
  const answer = await fetch(`${name}?${new URLSearchParams(query)}`);
  return read(answer);
}

async function read(answer) {
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

async function begin(name) {
  rater = name;
  cards = name === LAST_WORD ? await ask("disputes") : await ask("queue", { rater });
  if (!cards.length) throw new Error("No two people disagree about a picture.");
  const open = cards.findIndex((card) => !card.marks);
  $("who").hidden = true;
  $("desk").hidden = false;
  show(open < 0 ? 0 : open);
}

function show(index) {
  place = Math.min(Math.max(index, 0), cards.length - 1);
  const card = cards[place];
  marks = card.marks ? [...card.marks] : card.lines.map(() => null);
  row = 0;
  $("references").replaceChildren(...Array.from({ length: card.references }, (_, index) => reference(card, index)));
  isSeen = false; // nobody shall vote on the picture before
  $("picture").classList.add("coming");
  $("picture").src = `picture?${new URLSearchParams({ key: card.key })}`;
  $("prompt").textContent = card.prompt;
  $("note").textContent = card.note;
  $("checklist").replaceChildren(...card.checklist.map((line) => element("li", line)));
  $("said").textContent = card.said ? `They said: ${card.said.map(words).join(" and ")}` : "";
  $("error").textContent = "";
  tally();
  draw();
  const following = cards[place + 1];
  if (following) new Image().src = `picture?${new URLSearchParams({ key: following.key })}`;
}

function tally() {
  const done = cards.filter((one) => one.marks).length;
  $("progress").max = cards.length;
  $("progress").value = done;
  const all = done === cards.length ? "; all done, thank you" : "";
  $("count").textContent = `${done} of ${cards.length} judged, picture ${place + 1}${all}`;
}

function words(said) {
  if (!start.has_lines) return said[0] ? "right" : "wrong";
  if (start.most > 1) return said.join("/");
  const no = said.flatMap((mark, index) => (mark ? [] : [index + 1]));
  return no.length ? `no to ${no.join(", ")}` : "yes to all";
}

function reference(card, index) {
  const figure = element("figure", ""), image = new Image();
  image.src = `reference?${new URLSearchParams({ key: card.key, place: index })}`;
  image.alt = `reference ${index + 1}`;
  figure.append(image, element("figcaption", `image ${index + 1}`));
  return figure;
}

function element(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

function draw() {
  const answers = start.has_lines ? cards[place].lines.map(scale) : [choice(1, "Right", "y"), choice(0, "Wrong", "n")];
  $("answers").replaceChildren(...answers);
  document.querySelector(".scale.active")?.scrollIntoView({ block: "nearest" });
}

const marksOf = () => (start.most > 1 ? Array.from({ length: start.most + 1 }, (_, mark) => mark) : [1, 0]);
const wordOf = (mark) => (start.most > 1 ? String(mark) : mark ? "yes" : "no");

function choice(mark, name, key) {
  const button = element("button", `${name} (${key})`, marks[0] === mark ? "chosen" : "");
  button.type = "button";
  button.addEventListener("click", () => save([mark]));
  return button;
}

function scale(name, index) {
  const kind = start.most > 1 ? "scale" : "scale pair";
  const line = element("div", "", index === row ? `${kind} active` : kind);
  line.append(element("span", start.most > 1 ? name : `${index + 1}. ${name}`));
  for (const mark of marksOf()) {
    const button = element("button", wordOf(mark), marks[index] === mark ? "chosen" : "");
    button.type = "button";
    button.setAttribute("aria-label", `${name}: ${wordOf(mark)}`);
    button.addEventListener("click", () => set(index, mark));
    line.append(button);
  }
  return line;
}

function set(index, mark) {
  if (!isSeen) return;
  marks[index] = mark;
  row = Math.min(index + 1, marks.length - 1);
  if (index === marks.length - 1 && marks.every((one) => one !== null)) save(marks);
  else draw();
}

async function save(given) {
  if (busy || !isSeen) return;
  busy = true;
  const card = cards[place]; // by the time of the answer another one may be shown
  try {
    const body = JSON.stringify({ rater, key: card.key, marks: given });
    const headers = { "Content-Type": "application/json" };
    const kept = await read(await fetch("vote", { method: "POST", headers, body }));
    card.marks = kept.marks;
    if (cards[place] === card) show(place + 1);
    else tally();
  } catch (error) {
    $("error").textContent = `The vote was not kept: ${error.message}`;
  } finally {
    busy = false;
  }
}

document.addEventListener("keydown", (event) => {
  if ($("desk").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (event.repeat && !key.startsWith("arrow")) return; // a key held down is one vote
  if (key === "arrowleft") show(place - 1);
  else if (key === "arrowright") show(place + 1);
  else if (start.most === 1 && (key === "y" || key === "n")) {
    const mark = key === "y" ? 1 : 0;
    if (start.has_lines) set(row, mark);
    else save([mark]);
  } else if (start.most > 1 && /^[0-9x]$/.test(key)) set(row, key === "x" ? 10 : Number(key));
  else if (start.has_lines && (key === "arrowup" || key === "arrowdown")) {
    row = Math.min(Math.max(row + (key === "arrowup" ? -1 : 1), 0), marks.length - 1);
    draw();
  } else return;
  event.preventDefault();
});

$("picture").addEventListener("load", (event) => {
  isSeen = true;
  event.target.classList.remove("coming");
  event.target.classList.toggle("tiny", event.target.naturalWidth < 129);
});
$("picture").addEventListener("error", () => {
  $("error").textContent = "This picture cannot be shown; go on with the next one.";
});
$("back").addEventListener("click", () => show(place - 1));
$("next").addEventListener("click", () => show(place + 1));
$("leave").addEventListener("click", () => {
  $("desk").hidden = true;
  $("who").hidden = false;
});
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  begin($("name").value).catch((error) => ($("trouble").textContent = error.message));
});
$("settle").addEventListener("click", () => {
  begin(LAST_WORD).catch((error) => ($("trouble").textContent = error.message));
});

ask("start").then((value) => {
  start = value;
  $("title").textContent = value.title;
  $("about").textContent = `${value.pictures} pictures.`;
  const answers = value.most > 1 ? "0 to 9 and x for 10" : value.has_lines ? "y yes, n no" : "y right, n wrong";
  const rows = value.has_lines ? "arrows up and down choose the row, left and right the picture" : "arrows left and right choose the picture";
  $("keys").textContent = `Keys: ${answers}, ${rows}.`;
}).catch((error) => ($("trouble").textContent = error.message));
