// The page: sign-in, the selected view, and the header around it.

import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Cluster } from "./cluster.js";
import { Services } from "./services.js";
import { Service } from "./service.js";
import { Requests } from "./requests.js";
import { Scaling } from "./scaling.js";
import { Events } from "./events.js";
import { ago } from "./format.js";
import { useStream } from "./stream.js";

const views = [
  { name: "cluster", title: "Cluster", show: Cluster },
  { name: "services", title: "Services", show: Services },
  { name: "requests", title: "Requests", show: Requests },
  { name: "scaling", title: "Scaling", show: Scaling },
  { name: "events", title: "Events", show: Events },
];

const live = [300, 900, 3600];
const past = [21600, 86400]; // only with a Prometheus
const rangeText = { 300: "5 min", 900: "15 min", 3600: "1 h", 21600: "6 h", 86400: "24 h" };

// place parses the view and the service in the address: #/cluster, #/services/chat.
function place() {
  const [view, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const known = views.some((v) => v.name === view) ? view : "cluster";
  let service = "";
  try { service = decodeURIComponent(rest.join("/")); } catch { /* an invalid address shows the list */ }
  return { view: known, service };
}

function Page() {
  const [session, setSession] = useState(null);
  const ask = () => fetch("v1/session").then((r) => r.json()).then(setSession).catch(() => setSession((s) => s || { open: false, away: "The server does not answer" }));
  useEffect(() => { ask(); }, []);
  useEffect(() => {
    if (!session?.away) return undefined;
    const again = setInterval(ask, 2000);
    return () => clearInterval(again);
  }, [session?.away]);
  if (!session) return html`<p class="quiet loading">Loading …</p>`;
  if (session.away) return html`<p class="loading" role="status">${session.away}. Trying again …</p>`;
  if (!session.open) return html`<${SignIn} onOpen=${setSession} />`;
  return html`<${Shell} session=${session} onSession=${setSession} ask=${ask} />`;
}

function SignIn({ onOpen }) {
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (e) => {
    e.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      const answer = await fetch("v1/session", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: e.target.elements.token.value.trim() }),
      });
      const said = await answer.json();
      if (answer.ok) return onOpen(said);
      setProblem(said.error);
    } catch {
      setProblem("The server does not answer");
    }
    setBusy(false);
    return undefined;
  };
  return html`<main class="signin">
    <form onSubmit=${submit} class="panel">
      <${Logo} />
      <h1>Sign in with a Nomad token</h1>
      <p class="quiet">The token must be allowed to read nodes and jobs. Nomad checks it. The server keeps it in memory
        while you are signed in; this browser does not store it.</p>
      <label for="token">Token</label>
      <input id="token" name="token" type="password" autocomplete="off" required autofocus spellcheck=${false} />
      <button type="submit" disabled=${busy}>${busy ? "Checking with Nomad …" : "Sign in"}</button>
      <p class="problem" role="alert">${problem}</p>
    </form>
  </main>`;
}

const Logo = () => html`<span class="logo"><img src="icon.svg" alt="" width="24" height="24" />Aliquot</span>`;

function Shell({ session, onSession, ask }) {
  const ranges = session.history ? [...live, ...past] : live;
  const [at, setAt] = useState(place());
  const [range, setRange] = useState(() => { const kept = Number(localStorage.getItem("aliquot.range")); return ranges.includes(kept) ? kept : 900; });
  const [theme, setTheme] = useState(document.documentElement.dataset.theme);
  const [help, setHelp] = useState(false);
  const main = useRef(null);
  const choose = (seconds) => { localStorage.setItem("aliquot.range", seconds); setRange(seconds); };
  useEffect(() => {
    const moved = () => { setAt(place()); main.current?.focus({ preventScroll: true }); scrollTo(0, 0); };
    const themed = () => setTheme(document.documentElement.dataset.theme);
    addEventListener("hashchange", moved);
    addEventListener("aliquot-theme", themed);
    return () => { removeEventListener("hashchange", moved); removeEventListener("aliquot-theme", themed); };
  }, []);
  useEffect(() => {
    const pressed = (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
      const n = Number(e.key);
      if (n >= 1 && n <= views.length) location.hash = "#/" + views[n - 1].name;
      else if (e.key === "t") toggleTheme();
      else if (e.key === "[" || e.key === "]") choose(ranges[Math.min(ranges.length - 1, Math.max(0, ranges.indexOf(range) + (e.key === "]" ? 1 : -1)))]);
      else if (e.key === "?") setHelp((h) => !h);
      else if (e.key === "Escape") setHelp(false);
      else return;
      e.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [range]);
  const leave = async () => { onSession(await (await fetch("v1/session", { method: "DELETE" })).json()); };
  const current = views.find((v) => v.name === at.view);
  const name = current.name === "services" && at.service ? "service" : current.name;
  const stream = useStream(name, at.service, ask);
  const show = name === "service" ? Service : current.show;
  document.title = (at.service || current.title) + " · Aliquot";
  return html`<a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); main.current.focus(); }}>Skip to the content</a>
    <header class="top">
      <${Logo} />
      <nav aria-label="Views">${views.map((v, i) => html`<a key=${v.name} href=${"#/" + v.name}
        aria-current=${v.name === at.view ? "page" : undefined} title=${`${v.title} (key ${i + 1})`}>${v.title}</a>`)}</nav>
      <div class="tools">
        <div class="ranges" role="group" aria-label="Time range">${ranges.map((r) => html`<button type="button" key=${r}
          aria-pressed=${r === range} onClick=${() => choose(r)}>${rangeText[r]}</button>`)}</div>
        <${Live} live=${stream.live} />
        <button type="button" class="plain" onClick=${toggleTheme} aria-label=${theme === "dark" ? "Light theme" : "Dark theme"}
          title="Theme (key t)">${theme === "dark" ? "☀" : "☾"}</button>
        <button type="button" class="plain" onClick=${() => setHelp(!help)} aria-label="Keys" aria-expanded=${help} title="Keys (key ?)">?</button>
        ${session.needed && html`<button type="button" onClick=${leave}>Sign out</button>`}
      </div>
    </header>
    ${help && html`<${Keys} />`}
    <${Problems} sources=${stream.data?.sources} live=${stream.live} known=${stream.data !== null} />
    <main id="main" ref=${main} tabindex="-1">
      ${stream.data === null
        ? html`<p class="quiet loading" role="status">Reading the cluster …</p>`
        : html`<${show} key=${name + "/" + at.service} data=${stream.data} outlook=${stream.outlook} series=${stream.series} range=${range} service=${at.service} session=${session} />`}
    </main>`;
}

const Live = ({ live }) => html`<span class=${"live " + (live ? "on" : "off")} role="status">
  <i aria-hidden="true"></i>${live ? "live" : "not live"}</span>`;

const Keys = () => html`<section class="panel keys" aria-label="Keys"><dl>
  <dt><kbd>1</kbd> … <kbd>${views.length}</kbd></dt><dd>views</dd>
  <dt><kbd>[</kbd> <kbd>]</kbd></dt><dd>shorter and longer time range</dd>
  <dt><kbd>t</kbd></dt><dd>dark or light</dd>
  <dt><kbd>?</kbd></dt><dd>this list</dd></dl></section>`;

// Problems lists the sources that do not answer, so that nobody takes old figures for new ones.
function Problems({ sources, live, known }) {
  const bad = (sources || []).filter((s) => s.problem);
  return html`<div class="problems" role="status">
    ${known && !live && html`<p><b>This page's server</b> does not answer; the page shows old data. Trying again …</p>`}
    ${bad.map((s) => html`<p key=${s.name}><b>${s.name}</b> has not answered for ${ago(s.since).replace(" ago", "")}; the page shows its last data.
      <span class="quiet"> ${s.problem}</span></p>`)}
  </div>`;
}

render(html`<${Page} />`, document.getElementById("page"));
