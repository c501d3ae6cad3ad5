"use strict";
// Keeps open pages true, and makes forms kinder. Everything works without it, by links, forms and reloading.

const REFRESH_MS = 1000; // at most so often is a page fetched again
const POLL_MS = 5000; // where no stream is to be had
const SECONDS = 60; // of the live graph

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// --- regions marked data-live are swapped for fresh ones ---

let waiting = 0;
let refreshedAt = 0;
let busy = false;

function refreshSoon() {
  if (waiting || document.hidden || !document.querySelector("[data-live]")) return;
  waiting = setTimeout(refresh, Math.max(0, refreshedAt + REFRESH_MS - Date.now()));
}

async function refresh() {
  waiting = 0;
  if (busy || document.hidden || document.querySelector("dialog[open]")) return;
  busy = true;
  refreshedAt = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { "X-Live": "1" }, redirect: "follow" });
    if (answer.redirected) return location.reload(); // as to the login
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (document.querySelector("dialog[open]")) return; // asked meanwhile: the form that asks must stay to be sent
    for (const region of all("[data-live][id]")) swap(region, fresh.getElementById(region.id));
  } catch {
    // The server is away: the stream says so, and comes back by itself.
  } finally {
    busy = false;
  }
}

const key = (element) => [element.tagName, element.id || element.name, element.value, element.getAttribute("href")].join(" ");

function inUse(region) {
  const focus = document.activeElement;
  if (region.contains(focus) && focus.matches("input:not([type=checkbox]), textarea, select")) return true;
  const selection = getSelection();
  return Boolean(selection && !selection.isCollapsed && region.contains(selection.anchorNode));
}

function swap(old, fresh) {
  if (!fresh || old.innerHTML === fresh.innerHTML || inUse(old)) return;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const twins = focused ? all(focused.tagName, old).filter((each) => key(each) === key(focused)) : [];
  const ticked = new Set(all("input[type=checkbox]:checked", old).map(key));
  const opened = all("details", old).map((each) => each.open);
  const places = all(".scroll, pre, ol, ul", old).map((each) => [each.scrollLeft, each.scrollTop, each.scrollTop > 0 && each.scrollTop + each.clientHeight >= each.scrollHeight - 4]);
  const next = document.importNode(fresh, true);
  old.replaceChildren(...next.childNodes);
  for (const box of all("input[type=checkbox]", old)) if (ticked.has(key(box))) box.checked = true;
  all("details", old).forEach((each, n) => { if (n in opened) each.open = opened[n]; });
  all(".scroll, pre, ol, ul", old).forEach((each, n) => {
    const [left, top, atEnd] = places[n] ?? [0, 0, false];
    if (left) each.scrollLeft = left;
    if (top) each.scrollTop = atEnd ? each.scrollHeight : top;
  });
  if (focused) {
    const same = all(focused.tagName, old).filter((each) => key(each) === key(focused));
    same[twins.indexOf(focused)]?.focus({ preventScroll: true });
  }
  show(old);
}

// --- the stream of pulses; while a page is not seen it has none ---

let stream = null;
let polling = 0;
let serial = Number(document.body.dataset.serial ?? NaN); // of the store, when this page was drawn

function say(state, text) {
  for (const sign of all("[data-pulse]")) {
    sign.hidden = false;
    sign.dataset.state = state;
    sign.textContent = text;
  }
}

function listen() {
  if (stream || polling || document.hidden || !document.body.dataset.liveUrl) return;
  if (!window.EventSource) return poll();
  stream = new EventSource(document.body.dataset.liveUrl);
  stream.addEventListener("open", () => say("live", "● live"));
  stream.addEventListener("pulse", (event) => {
    const pulse = JSON.parse(event.data);
    count(pulse);
    graph?.take(pulse.ended);
    if (serial !== pulse.serial) refreshSoon();
    serial = pulse.serial;
  });
  stream.addEventListener("error", () => {
    if (stream.readyState !== EventSource.CLOSED) return say("away", "○ no connection");
    stream = null;
    poll();
  });
}

function rest() {
  stream?.close();
  stream = null;
  clearInterval(polling);
  polling = 0;
  graph?.pause();
}

function poll() {
  say("polling", "○ every 5 s");
  polling = setInterval(refreshSoon, POLL_MS);
}

function count(pulse) {
  const numbers = { ...pulse.counts, alerts: pulse.alerts };
  for (const place of all("[data-count]")) {
    const n = numbers[place.dataset.count] ?? 0;
    place.textContent = n < 10000 ? n : n < 1e6 ? `${Math.floor(n / 1000)}k` : `${(n / 1e6).toFixed(1)}M`;
    const badge = place.closest("[data-badge]");
    if (badge) badge.hidden = !n;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return rest();
  listen();
  refreshSoon();
});
addEventListener("pagehide", rest);
addEventListener("pageshow", (event) => { if (event.persisted) listen(); });

// --- the live graph: what ended in each of the last 60 seconds ---

class LiveGraph {
  constructor(place) {
    this.place = place;
    this.bars = []; // [second, succeeded, failed, deleted]
    this.last = null;
    this.draw();
    setInterval(() => { if (!document.hidden) this.draw(); }, 1000);
  }

  take(ended) {
    const now = [ended.succeeded ?? 0, ended.failed ?? 0, ended.deleted ?? 0];
    if (this.last) {
      const more = now.map((n, i) => Math.max(0, n - this.last[i]));
      if (more.some(Boolean)) this.bars.push([Math.floor(Date.now() / 1000), ...more]);
    }
    this.last = now;
    this.draw();
  }

  pause() {
    this.last = null; // what ends unseen would look like one burst
  }

  draw() {
    const now = Math.floor(Date.now() / 1000);
    this.bars = this.bars.filter(([second]) => second > now - SECONDS);
    const sums = [0, 0, 0];
    const columns = Array.from({ length: SECONDS }, () => [0, 0, 0]);
    for (const [second, ...ended] of this.bars) {
      ended.forEach((n, i) => { sums[i] += n; columns[SECONDS - 1 - (now - second)][i] += n; });
    }
    const most = Math.max(1, ...columns.map((one) => one[0] + one[1] + one[2]));
    const svg = make("svg", { viewBox: "0 0 600 120", preserveAspectRatio: "none", role: "img",
      "aria-label": `last 60 seconds: ${sums[0]} succeeded, ${sums[1]} failed, ${sums[2]} deleted` });
    columns.forEach((ended, n) => {
      let up = 116;
      ended.forEach((each, i) => {
        const tall = (each / most) * 108;
        up -= tall;
        if (each) svg.append(make("rect", { x: n * 10 + 1, y: up, width: 8, height: tall, class: `series-${["succeeded", "failed", "deleted"][i]}`, fill: ["currentColor", "url(#hatched)", "url(#dotted)"][i] }));
      });
    });
    const words = document.createElement("p");
    words.className = "quiet num";
    words.textContent = `✓ ${sums[0]} succeeded · ✕ ${sums[1]} failed · ⊘ ${sums[2]} deleted${sums.some(Boolean) ? ` · at most ${most} in a second` : ""}`;
    this.place.replaceChildren(svg, words);
  }
}

function make(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// --- times that say how long ago ---

function tellTimes() {
  for (const time of all("time[datetime]")) {
    if (!/( ago|^in .+|now)$/.test(time.textContent)) continue;
    const seconds = (new Date(time.dateTime) - Date.now()) / 1000;
    const far = Math.abs(seconds);
    const words = far < 60 ? `${Math.floor(far)} s` : far < 3600 ? `${Math.floor(far / 60)} min` : far < 172800 ? `${Math.floor(far / 3600)} h` : `${Math.floor(far / 86400)} d`;
    time.textContent = far < 1 ? "just now" : seconds > 0 ? `in ${words}` : `${words} ago`;
  }
}
setInterval(() => { if (!document.hidden && !getSelection()?.toString()) tellTimes(); }, 10000);

// --- forms: boxes to tick, questions before what destroys, copying, keys ---

function show(within) {
  for (const button of all("[data-copy], [data-pick-all], [data-theme-switch]", within)) button.hidden = false;
  for (const form of all("form", within.closest("form") ? document : within)) picked(form);
}

function picked(form) {
  const boxes = all("input[name=ids]", form);
  if (!boxes.length) return;
  const n = boxes.filter((box) => box.checked).length;
  for (const head of all("[data-pick-all]", form)) {
    head.checked = n === boxes.length;
    head.indeterminate = n > 0 && n < boxes.length;
  }
  for (const place of all("[data-picked]", form)) place.textContent = n ? `${n} selected:` : "Selected jobs:";
}

let lastBox = null;
document.addEventListener("click", (event) => {
  const box = event.target;
  if (box.matches?.("input[name=ids]")) {
    const boxes = all("input[name=ids]", box.form);
    const [from, to] = [boxes.findIndex((each) => lastBox && key(each) === lastBox), boxes.indexOf(box)].sort((a, b) => a - b);
    if (event.shiftKey && from >= 0) boxes.slice(from, to + 1).forEach((each) => { each.checked = box.checked; });
    lastBox = key(box);
    picked(box.form);
  } else if (box.matches?.("[data-pick-all]")) {
    all("input[name=ids]", box.form).forEach((each) => { each.checked = box.checked; });
    picked(box.form);
  }
  const copy = event.target.closest?.("[data-copy]");
  if (copy) copyText(copy);
  if (event.target.closest?.("[data-theme-switch]")) switchTheme();
});

async function copyText(button) {
  const said = button.textContent;
  const place = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(place.textContent.trim());
    button.textContent = "✓ Copied";
  } catch {
    getSelection().selectAllChildren(place); // where the browser allows no copying the person can
    button.textContent = "Selected: now copy";
  }
  setTimeout(() => { button.textContent = said; }, 2000);
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("broker_jobs theme", root.dataset.theme);
  } catch {
    // It holds for this page.
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  const button = event.submitter;
  const question = button?.dataset.confirm ?? form.dataset.confirm;
  if (question && !form.dataset.sure) {
    event.preventDefault();
    ask(question, button?.textContent ?? "Yes", () => {
      form.dataset.sure = "yes";
      form.requestSubmit(button);
    });
    return;
  }
  delete form.dataset.sure;
  if (form.method === "post" && button) setTimeout(() => { button.disabled = true; }); // a second click is no second deed
});
addEventListener("pageshow", (event) => {
  if (event.persisted) all("form button:disabled").forEach((each) => { each.disabled = false; });
});

function ask(question, yes, then) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  text.id = "question";
  text.textContent = question;
  const buttons = document.createElement("div");
  buttons.className = "acts";
  for (const [label, kind, sure] of [[yes, "danger", true], ["Leave it", "", false]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.className = kind;
    button.addEventListener("click", () => {
      dialog.close();
      if (sure) then();
    });
    buttons.append(button);
  }
  dialog.setAttribute("aria-labelledby", text.id);
  dialog.append(text, buttons);
  dialog.addEventListener("close", () => {
    dialog.remove();
    refreshSoon();
  });
  document.body.append(dialog);
  dialog.showModal();
  buttons.lastElementChild.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input:not([type=checkbox], [type=radio]), textarea, select")) return;
  const search = document.querySelector("main input[type=search]");
  if (search) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

const place = document.querySelector("[data-graph]");
const graph = place ? new LiveGraph(place) : null;
for (const filters of all("details[data-set]")) filters.open = true;
show(document.body);
listen();
