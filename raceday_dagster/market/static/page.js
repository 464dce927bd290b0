// Keeps a page true: its clocks go on, and it reads itself anew when a poll is committed.
"use strict";

const BETWEEN_READS_MS = 1000;
const LONGEST_READ_MS = 30000;
let ahead = 0; // of this browser's clock, seconds by which the database's is ahead
let stream = null;
let reading = false;
let readAt = 0;
let again = null;

const main = () => document.getElementById("main");
const now = () => Date.now() / 1000 + ahead;

function span(seconds) {
  const left = Math.abs(Math.round(seconds));
  const two = number => String(number).padStart(2, "0");
  if (left < 60) return `${left} s`;
  if (left < 600) return `${Math.floor(left / 60)} min ${two(left % 60)} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min`;
  if (left < 86400) return `${Math.floor(left / 3600)} h ${two(Math.floor((left % 3600) / 60))} min`;
  return `${Math.floor(left / 86400)} days`;
}

function tick() {
  for (const shown of document.querySelectorAll("[data-start]")) {
    const left = Number(shown.dataset.start) - now();
    shown.textContent = left >= -0.5 ? `in ${span(left)}` : `${span(left)} past`;
  }
  for (const shown of document.querySelectorAll("[data-since]")) {
    shown.textContent = span(Math.max(0, now() - Number(shown.dataset.since)));
  }
  document.getElementById("wall").textContent = new Intl.DateTimeFormat("en-GB", {
    timeZone: "Pacific/Auckland", hour: "2-digit", minute: "2-digit", second: "2-digit",
  }).format(new Date(now() * 1000));
}

function say(text) {
  document.getElementById("link").textContent = text;
}

function setClock(page) {
  ahead = Number(page.dataset.now) - Date.now() / 1000;
  tick();
}

// The page that is shown gives way to the one just read, but keeps what the reader did: focus, scrolling, selection.
function show(fresh) {
  const old = main();
  const focused = document.activeElement;
  const path = old.contains(focused) ? [focused.id && `#${CSS.escape(focused.id)}`,
    focused.getAttribute("href") && `a[href="${CSS.escape(focused.getAttribute("href"))}"]`].find(Boolean) : null;
  const scrolled = [...old.querySelectorAll(".scroll")].map(box => box.scrollLeft);
  const before = new Map([...old.querySelectorAll("[data-key]")].map(cell => [cell.dataset.key, cell.textContent]));
  for (const cell of fresh.querySelectorAll("[data-key]")) {
    if (before.has(cell.dataset.key) && before.get(cell.dataset.key) !== cell.textContent) cell.classList.add("changed");
  }
  old.replaceWith(fresh);
  [...fresh.querySelectorAll(".scroll")].forEach((box, index) => { box.scrollLeft = scrolled[index] || 0; });
  if (path) fresh.querySelector(path)?.focus({ preventScroll: true });
}

async function read() {
  clearTimeout(again);
  again = reading ? setTimeout(read, BETWEEN_READS_MS) : null;
  if (reading) return;
  reading = true;
  readAt = Date.now();
  try {
    const signal = AbortSignal.timeout(LONGEST_READ_MS);
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    if (getSelection().isCollapsed) show(document.adoptNode(fresh));
    setClock(fresh);
    say("live,");
    if (!main().dataset.events) close();
  } catch (error) {
    say("not reachable, trying again;");
    again = again || setTimeout(read, 2000);
  } finally {
    reading = false;
  }
}

// Before it reads, a page waits a moment (the day a longer one) until the races that are polled together are all stored,
// and leaves them the machine until then.
function hear() {
  const wait = Math.max(readAt + BETWEEN_READS_MS - Date.now(), Number(main().dataset.wait || 0));
  if (wait <= 0) read();
  else again = again || setTimeout(read, wait);
}

function open() {
  if (stream || !main().dataset.events) return;
  stream = new EventSource(main().dataset.events);
  stream.addEventListener("poll", hear);
  stream.addEventListener("resync", hear);
  stream.addEventListener("open", () => say("live,"));
  stream.addEventListener("error", () => say("not reachable, trying again;"));
}

function close() {
  stream?.close();
  stream = null;
}

// On a narrow screen the newest interval is what the reader came for.
function showLatest() {
  const box = document.getElementById("scroll-grid");
  const latest = box?.querySelector("th.latest");
  if (latest) box.scrollLeft = Math.max(0, latest.offsetLeft + latest.offsetWidth * 2 - box.clientWidth);
  for (const chart of document.querySelectorAll("figure .scroll")) chart.scrollLeft = chart.scrollWidth;
}

setClock(main());
setInterval(tick, 1000);
showLatest();
open();
// A page that nobody sees needs no connection: a browser has only six for a server.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else { open(); hear(); }
});
addEventListener("pagehide", close);
