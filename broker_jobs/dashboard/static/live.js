"use strict";
// Refreshes open pages and improves forms. Every function also works without JavaScript, by links, forms and reloading.

const REFRESH_MS = 1000; // shortest interval between two refreshes of a page
const POLL_MS = 5000; // interval of refreshes without an event stream
const GRAPH_SECONDS = 60;

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// --- regions with data-live are replaced by fresh ones ---

let timer = 0;
let refreshedAt = 0;
let busy = false;

function refreshSoon() {
  if (timer || document.hidden || !document.querySelector("[data-live]")) return;
  timer = setTimeout(refresh, Math.max(0, refreshedAt + REFRESH_MS - Date.now()));
}

async function refresh() {
  timer = 0;
  if (busy || document.hidden || document.querySelector("dialog[open]")) return;
  busy = true;
  refreshedAt = Date.now();
  try {
    const response = await fetch(location.href, { headers: { "X-Live": "1" }, redirect: "follow" });
    if (response.redirected) return location.reload(); // for example to the login
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (document.querySelector("dialog[open]")) return; // a dialog was opened meanwhile, and its form must not be replaced
    for (const region of all("[data-live][id]")) swap(region, fresh.getElementById(region.id));
  } catch {
    // The server is not reachable. The event stream shows that and reconnects.
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
  const before = focused ? all(focused.tagName, old).filter((each) => key(each) === key(focused)) : [];
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
    const after = all(focused.tagName, old).filter((each) => key(each) === key(focused));
    after[before.indexOf(focused)]?.focus({ preventScroll: true });
  }
  enhance(old);
}

// --- the event stream; a hidden page has none ---

let stream = null;
let polling = 0;
let serial = Number(document.body.dataset.serial ?? NaN); // of the store, when this page was rendered

function showConnection(state, text) {
  for (const element of all("[data-connection]")) {
    element.hidden = false;
    element.dataset.state = state;
    element.textContent = text;
  }
}

function connect() {
  if (stream || polling || document.hidden || !document.body.dataset.streamUrl) return;
  if (!window.EventSource) return poll();
  stream = new EventSource(document.body.dataset.streamUrl);
  stream.addEventListener("open", () => showConnection("live", "● live"));
  stream.addEventListener("counts", (event) => {
    const live = JSON.parse(event.data);
    showCounts(live);
    graph?.add(live.ended);
    if (serial !== live.serial) refreshSoon();
    serial = live.serial;
  });
  stream.addEventListener("error", () => {
    if (stream.readyState !== EventSource.CLOSED) return showConnection("away", "○ no connection");
    stream = null;
    poll();
  });
}

function disconnect() {
  stream?.close();
  stream = null;
  clearInterval(polling);
  polling = 0;
  graph?.pause();
}

function poll() {
  showConnection("polling", "○ every 5 s");
  polling = setInterval(refreshSoon, POLL_MS);
}

function showCounts(live) {
  const numbers = { ...live.counts, alerts: live.alerts };
  for (const element of all("[data-count]")) {
    const n = numbers[element.dataset.count] ?? 0;
    element.textContent = n < 10000 ? n : n < 1e6 ? `${Math.floor(n / 1000)}k` : `${(n / 1e6).toFixed(1)}M`;
    const badge = element.closest("[data-badge]");
    if (badge) badge.hidden = !n;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return disconnect();
  connect();
  refreshSoon();
});
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => { if (event.persisted) connect(); });

// --- the live graph: jobs ended in each of the last 60 seconds ---

class LiveGraph {
  constructor(element) {
    this.element = element;
    this.bars = []; // [second, succeeded, failed, deleted]
    this.last = null;
    this.draw();
    setInterval(() => { if (!document.hidden) this.draw(); }, 1000);
  }

  add(ended) {
    const now = [ended.succeeded ?? 0, ended.failed ?? 0, ended.deleted ?? 0];
    if (this.last) {
      const more = now.map((n, i) => Math.max(0, n - this.last[i]));
      if (more.some(Boolean)) this.bars.push([Math.floor(Date.now() / 1000), ...more]);
    }
    this.last = now;
    this.draw();
  }

  pause() {
    this.last = null; // jobs that end while the page is hidden would look like one burst
  }

  draw() {
    const now = Math.floor(Date.now() / 1000);
    this.bars = this.bars.filter(([second]) => second > now - GRAPH_SECONDS);
    const sums = [0, 0, 0];
    const columns = Array.from({ length: GRAPH_SECONDS }, () => [0, 0, 0]);
    for (const [second, ...ended] of this.bars) {
      ended.forEach((n, i) => { sums[i] += n; columns[GRAPH_SECONDS - 1 - (now - second)][i] += n; });
    }
    const most = Math.max(1, ...columns.map((one) => one[0] + one[1] + one[2]));
    const svg = createSvg("svg", { viewBox: "0 0 600 120", preserveAspectRatio: "none", role: "img",
      "aria-label": `last 60 seconds: ${sums[0]} succeeded, ${sums[1]} failed, ${sums[2]} deleted` });
    columns.forEach((ended, n) => {
      let up = 116;
      ended.forEach((each, i) => {
        const tall = (each / most) * 108;
        up -= tall;
        if (each) svg.append(createSvg("rect", { x: n * 10 + 1, y: up, width: 8, height: tall, class: `series-${["succeeded", "failed", "deleted"][i]}`, fill: ["currentColor", "url(#hatched)", "url(#dotted)"][i] }));
      });
    });
    const legend = document.createElement("p");
    legend.className = "quiet num";
    legend.textContent = `✓ ${sums[0]} succeeded · ✕ ${sums[1]} failed · ⊘ ${sums[2]} deleted${sums.some(Boolean) ? ` · at most ${most} per second` : ""}`;
    this.element.replaceChildren(svg, legend);
  }
}

function createSvg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// --- relative times ---

function updateTimes() {
  for (const time of all("time[datetime]")) {
    if (!/( ago|^in .+|now)$/.test(time.textContent)) continue;
    const seconds = (new Date(time.dateTime) - Date.now()) / 1000;
    const far = Math.abs(seconds);
    const text = far < 60 ? `${Math.floor(far)} s` : far < 3600 ? `${Math.floor(far / 60)} min` : far < 172800 ? `${Math.floor(far / 3600)} h` : `${Math.floor(far / 86400)} d`;
    time.textContent = far < 1 ? "just now" : seconds > 0 ? `in ${text}` : `${text} ago`;
  }
}
setInterval(() => { if (!document.hidden && !getSelection()?.toString()) updateTimes(); }, 10000);

// --- forms: check boxes, confirmation dialogs, copying, keys ---

function enhance(within) {
  for (const button of all("[data-copy], [data-pick-all], [data-theme-switch]", within)) button.hidden = false;
  for (const form of all("form", within.closest("form") ? document : within)) showSelection(form);
}

function showSelection(form) {
  const boxes = all("input[name=ids]", form);
  if (!boxes.length) return;
  const n = boxes.filter((box) => box.checked).length;
  for (const head of all("[data-pick-all]", form)) {
    head.checked = n === boxes.length;
    head.indeterminate = n > 0 && n < boxes.length;
  }
  for (const element of all("[data-selection]", form)) element.textContent = n ? `${n} selected:` : "Selected jobs:";
}

let lastBox = null;
document.addEventListener("click", (event) => {
  const box = event.target;
  if (box.matches?.("input[name=ids]")) {
    const boxes = all("input[name=ids]", box.form);
    const [from, to] = [boxes.findIndex((each) => lastBox && key(each) === lastBox), boxes.indexOf(box)].sort((a, b) => a - b);
    if (event.shiftKey && from >= 0) boxes.slice(from, to + 1).forEach((each) => { each.checked = box.checked; });
    lastBox = key(box);
    showSelection(box.form);
  } else if (box.matches?.("[data-pick-all]")) {
    all("input[name=ids]", box.form).forEach((each) => { each.checked = box.checked; });
    showSelection(box.form);
  }
  const copy = event.target.closest?.("[data-copy]");
  if (copy) copyText(copy);
  if (event.target.closest?.("[data-theme-switch]")) switchTheme();
});

async function copyText(button) {
  const label = button.textContent;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent.trim());
    button.textContent = "✓ Copied";
  } catch {
    getSelection().selectAllChildren(source); // if the browser forbids copying, the visitor can copy the selection
    button.textContent = "Selected. Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = label; }, 2000);
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("broker_jobs theme", root.dataset.theme);
  } catch {
    // Without storage the theme applies to this page only.
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  const button = event.submitter;
  const question = button?.dataset.confirm ?? form.dataset.confirm;
  if (question && !form.dataset.confirmed) {
    event.preventDefault();
    confirmDialog(question, button?.textContent ?? "Yes", () => {
      form.dataset.confirmed = "yes";
      form.requestSubmit(button);
    });
    return;
  }
  delete form.dataset.confirmed;
  if (form.method === "post" && button) setTimeout(() => { button.disabled = true; }); // prevents a second submit
});
addEventListener("pageshow", (event) => {
  if (event.persisted) all("form button:disabled").forEach((each) => { each.disabled = false; });
});

function confirmDialog(question, yes, then) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  text.id = "question";
  text.textContent = question;
  const buttons = document.createElement("div");
  buttons.className = "acts";
  for (const [label, kind, confirmed] of [[yes, "danger", true], ["Keep", "", false]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.className = kind;
    button.addEventListener("click", () => {
      dialog.close();
      if (confirmed) then();
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

const graphElement = document.querySelector("[data-graph]");
const graph = graphElement ? new LiveGraph(graphElement) : null;
for (const filters of all("details[data-set]")) filters.open = true;
enhance(document.body);
connect();
