// Clicks on links of a stage go to the server, and the address follows what the stage shows.
const canon = (link) => {
  const parts = new URLSearchParams(link);
  parts.delete("__theme");
  return parts.toString();
};
const scrolls = (window.echo4oScrolls ||= new Map());
let shown = null;

const go = (link) => trigger("select", { link });
const isVisible = () => element.offsetParent !== null;

// The server takes what comes last for the newest; the address knows better.
function askAgain(wanted) {
  const now = element.querySelector(".stage")?.dataset.link;
  if (!isVisible() || window.echo4oBackTo !== wanted || now === undefined) return;
  if (canon(now) !== wanted) go(`?${wanted}`);
}

function follow() {
  const stage = element.querySelector(".stage");
  if (stage?.dataset.link === undefined || !isVisible()) return;
  const link = canon(stage.dataset.link);
  // Two steps at once: what the first one asked for may come when the address is further on.
  const wanted = window.echo4oBackTo ?? link;
  if (link !== wanted) {
    clearTimeout(window.echo4oAgain);
    window.echo4oAgain = setTimeout(() => askAgain(wanted), 1000);
    return;
  }
  const isHere = link === canon(location.search);
  if (link === shown && isHere) return;
  const isOld = shown === null || link === shown;
  const isFirst = window.echo4oShown === undefined;
  shown = window.echo4oShown = link;
  if (!isHere) {
    const theme = new URLSearchParams(location.search).get("__theme");
    const query = [link, theme ? `__theme=${theme}` : ""].filter(Boolean).join("&");
    const address = location.pathname + (query ? `?${query}` : "");
    history[isFirst ? "replaceState" : "pushState"](null, "", address);
    // A Space runs in a frame of the Hub's page, whose address people copy.
    if (parent !== window) parent.postMessage({ queryString: query }, "https://huggingface.co");
  }
  if (isOld) return;
  element.querySelector("[data-focus]")?.focus({ preventScroll: true });
  const top = element.getBoundingClientRect().top + scrollY - 12;
  scrollTo({ top: scrolls.get(link) ?? Math.min(scrollY, top), behavior: "instant" });
}

element.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    navigator.clipboard?.writeText(location.href).then(() => {
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy link"), 1500);
    });
    return;
  }
  const link = event.target.closest("a[data-go]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  scrolls.set(canon(location.search), scrollY);
  scrolls.delete(canon(link.getAttribute("href")) === shown ? shown : "");
  go(link.getAttribute("href"));
});

document.addEventListener("keydown", (event) => {
  const key = { ArrowLeft: "before", ArrowRight: "after", Escape: "up" }[event.key];
  const isTyping = event.target.closest?.("input, textarea, select, pre, [role=listbox], [role=tab]");
  if (!key || isTyping || !isVisible() || event.ctrlKey || event.metaKey || event.altKey) return;
  element.querySelector(`[data-key=${key}]`)?.click();
});

if (!window.echo4oBack) {
  window.echo4oBack = true;
  window.addEventListener("popstate", () => {
    window.echo4oBackTo = canon(location.search);
    go(location.search);
  });
  for (const begun of ["pointerdown", "keydown"])
    document.addEventListener(begun, () => (window.echo4oBackTo = null), true);
}
watch("value", () => requestAnimationFrame(follow));
new IntersectionObserver(follow).observe(element);
follow();
