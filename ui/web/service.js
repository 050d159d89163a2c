// One service: its queue, its replicas and its scaling actions.

import { html, useEffect, useMemo, useState } from "./vendor/htm-preact.js";
import { Chart, spanOf } from "./chart.js";
import { Tile } from "./cluster.js";
import { ago, amount, clock, plural, seconds, short } from "./format.js";

export function Service({ data, series, range, service, session }) {
  if (!data.found) {
    return html`<h1>${service}</h1><p class="quiet">No responding gateway serves it. <a href="#/services">All services</a></p>`;
  }
  const classes = useClasses(data, series);
  const b = data.brief;
  return html`
    <p class="path"><a href="#/services">Services</a> /</p>
    <h1>${service}</h1>
    <dl class="tiles">
      <${Tile} name="Waiting" value=${amount(b.queued)} />
      <${Tile} name="Being served" value=${amount(b.active)} more=${`of ${plural(b.slots, "slot")}`} />
      <${Tile} name="Replicas" value=${b.ready} more=${b.starting ? `ready, ${b.starting} starting` : "ready"} />
      ${b.output >= 0 && html`<${Tile} name="Tokens" value=${amount(b.output)} more="per second" />`}
    </dl>
    ${range > 3600 ? html`<${Past} data=${data} range=${range} service=${service} classes=${classes} />`
      : html`<${Charts} data=${data} series=${series} range=${range} classes=${classes} />`}
    <div class="columns">
      <${Decisions} changes=${data.changes} />
      <${Classes} rows=${data.classes} classes=${classes} />
      <${Queue} rows=${data.waits} />
    </div>
    <p class="note"><a href=${"#/requests/" + encodeURIComponent(service)}>Slow and failed requests of ${service}</a></p>
    <${Replicas} rows=${data.replicas} classes=${classes} ui=${session.nomad_ui} />`;
}

// useClasses returns the hardware classes in a stable order, so that each keeps its colour.
function useClasses(data, series) {
  const names = [...new Set([...data.classes.map((c) => c.name), ...Object.keys(series?.active || {}), ...Object.keys(series?.ready || {})])].sort();
  return useMemo(() => names, [names.join()]);
}

// Past shows the history in Prometheus, and reads it again for each new point.
function Past({ data, range, service, classes }) {
  const [state, set] = useState({ series: null, problem: "" });
  useEffect(() => {
    let gone = false;
    const read = async () => {
      try {
        const answer = await fetch(`v1/history?service=${encodeURIComponent(service)}&seconds=${range}`);
        const said = await answer.json();
        if (!gone) set((old) => (answer.ok ? { series: said, problem: "" } : { ...old, problem: said.error }));
      } catch {
        if (!gone) set((old) => ({ ...old, problem: "The server does not answer" }));
      }
    };
    set({ series: null, problem: "" });
    read();
    const again = setInterval(read, (range * 1000) / 720);
    return () => { gone = true; clearInterval(again); };
  }, [service, range]);
  const known = [...new Set([...classes, ...Object.keys(state.series?.active || {}), ...Object.keys(state.series?.ready || {})])].sort();
  return html`${state.problem && html`<p class="problem" role="status">${state.problem}.</p>`}
    ${state.series ? html`<${Charts} data=${data} series=${state.series} range=${range} classes=${known} />` : !state.problem && html`<p class="quiet" role="status">Reading from Prometheus …</p>`}`;
}

const className = (c) => c || "no class";

function Charts({ data, series, range, classes }) {
  const times = series?.t || [];
  const grown = times.at(-1);
  const blank = () => Array(times.length).fill(null);
  const requests = useMemo(() => [
    ...classes.map((c, i) => ({ name: "on " + className(c), values: series?.active?.[c] || blank(), index: i })),
    { name: "waiting", values: series?.queued || blank(), ink: waitingInk() },
  ], [grown, classes, document.documentElement.dataset.theme]);
  const replicas = useMemo(() => classes.flatMap((c, i) => [
    { name: className(c), values: series?.ready?.[c] || blank(), index: i },
    { name: className(c) + " starting", values: series?.starting?.[c] || blank(), index: i, tone: "light" },
  ]).filter((s) => !s.tone || s.values.some((v) => v > 0)), [grown, classes]);
  const marks = useMemo(() => data.changes.map((c) => ({ t: Date.parse(c.at) / 1000, up: c.to > c.from })), [data.changes]);
  const output = useMemo(() => [{ name: "generated", values: series?.output || [], index: 2 }], [grown]);
  const latency = useMemo(() => quantiles(series?.latency), [grown]);
  const ttft = useMemo(() => quantiles(series?.ttft), [grown]);
  const span = spanOf(times, [...requests, ...replicas, ...latency, ...ttft, ...output], range);
  return html`<div class="charts">
    <div class="panel"><${Chart} title="Simultaneous requests" times=${times} series=${requests} stacked span=${span} marks=${marks} /></div>
    <div class="panel"><${Chart} title="Replicas" times=${times} series=${replicas} stacked stepped whole span=${span} marks=${marks}
      note=${range > 3600 ? "Triangles and dashed lines are scaling actions of the last hour." : "Known since this page's server started. Triangles and dashed lines are scaling actions."} /></div>
    <div class="panel"><${Chart} title="Time per request" times=${times} series=${latency} span=${span} marks=${marks} format=${seconds} note=${range > 3600 ? "From Prometheus, over at least 5 minutes per point." : "Served requests only, over the last 15 seconds per point."} /></div>
    ${series?.ttft && html`<div class="panel"><${Chart} title="Time to first token" times=${times} series=${ttft} span=${span} marks=${marks} format=${seconds} note=${range > 3600 ? "From Prometheus, over at least 5 minutes per point." : "Over the last 15 seconds per point."} /></div>`}
    ${series?.output && html`<div class="panel"><${Chart} title="Tokens per second" times=${times} series=${output} span=${span} marks=${marks} /></div>`}
  </div>`;
}

const quantiles = (columns) => [["median", "p50", 4], ["90%", "p90", 0], ["99%", "p99", 5]].map(([name, of, index]) => ({ name, values: columns?.[of] || [], index }));

const waitingInk = () => getComputedStyle(document.documentElement).getPropertyValue("--waiting").trim();

function Decisions({ changes }) {
  return html`<section class="panel"><h2>Scaling actions of the last hour</h2>
    ${changes.length === 0 ? html`<p class="quiet">None.</p>` : html`<ol class="decisions scrolled" tabindex="0" aria-label="Scaling actions">${changes.map((c) => html`
      <li key=${c.at + c.group} class=${c.failed ? "bad" : ""}><time datetime=${c.at} title=${ago(c.at)}>${clock(c.at)}</time>
        <b>${c.job}/${c.group} ${c.from} → ${c.to}</b> <span>${c.reason}</span></li>`)}</ol>`}
  </section>`;
}

function Queue({ rows }) {
  const most = Math.max(0, ...rows.map((r) => r.requests));
  return html`<section class="panel"><h2>Waiting requests</h2>
    ${rows.length === 0 ? html`<p class="quiet">None.</p>` : html`<div class="scroll"><table class="rows"><caption class="hidden">Waiting requests</caption>
    <thead><tr><th scope="col">Priority</th><th scope="col">Tenant</th><th scope="col" class="n">Requests</th><th scope="col"><span class="hidden">Part</span></th></tr></thead>
    <tbody>${rows.map((r) => html`<tr key=${r.priority + "/" + r.tenant}><th scope="row">${r.priority || "–"}</th><td>${r.tenant === "other" ? "others" : r.tenant}</td>
      <td class="n">${r.requests}</td><td class="load"><span class="loadbar"><i class="waiting" style=${{ width: `${(100 * r.requests) / most}%` }}></i></span></td></tr>`)}</tbody></table></div>`}
  </section>`;
}

function Classes({ rows, classes }) {
  return html`<section class="panel"><h2>By hardware class</h2>
    ${rows.length === 0 ? html`<p class="quiet">No replicas.</p>` : html`<div class="scroll"><table class="rows"><caption class="hidden">Classes</caption>
    <thead><tr><th scope="col">Class</th><th scope="col" class="n">Ready</th><th scope="col" class="n">Starting</th><th scope="col" class="n">Busy slots</th><th scope="col" class="n">Speed of a slot</th><th scope="col" class="n">Routed</th><th scope="col" class="n">Served</th></tr></thead>
    <tbody>${rows.map((c) => html`<tr key=${c.name}><th scope="row"><i class=${"swatch fill-" + (classes.indexOf(c.name) % 8)}></i>${className(c.name)}</th>
      <td class="n">${c.ready}${c.asleep ? `, ${c.asleep} asleep` : ""}</td><td class="n">${c.starting}</td><td class="n">${c.active} of ${c.slots}</td>
      <td class="n">${c.rate > 0 ? amount(c.rate) + "/s" : "–"}</td><td class="n">${c.routed === undefined ? "–" : Math.round(c.routed) + "%"}</td>
      <td class="n">${c.served === undefined ? "–" : Math.round(c.served) + "%"}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}

function Replicas({ rows, classes, ui }) {
  return html`<section class="panel"><h2>Replicas</h2>
    ${rows.length === 0 ? html`<p class="quiet">None. If the service has a wake block, the next request starts one.</p>` : html`<div class="scroll"><table class="rows"><caption class="hidden">Replicas</caption>
    <thead><tr><th scope="col">Allocation</th><th scope="col">State</th><th scope="col">Class</th><th scope="col">Node</th><th scope="col" class="n">Slices</th><th scope="col" class="n">Busy slots</th><th scope="col" class="n">Speed of a slot</th><th scope="col" class="n">Cache</th></tr></thead>
    <tbody>${rows.map((r) => html`<tr key=${r.id}>
      <th scope="row" title=${r.id}>${r.alloc && ui ? html`<a href=${`${ui}/ui/allocations/${r.alloc}`}>${short(r.alloc)}</a>` : short(r.alloc || r.id)}</th>
      <td><span class=${"badge " + tone(r.state)}>${r.state}</span> ${r.state === "starting" && html`<span class="quiet">${ago(r.since)}${r.text ? ": " + r.text : ""}</span>`}</td>
      <td><i class=${"swatch fill-" + (classes.indexOf(r.class) % 8)}></i>${className(r.class)}</td><td>${r.node || "–"}</td><td class="n">${r.slices || "–"}</td>
      <td class="n">${r.slots ? `${r.active} of ${r.slots}` : "–"}</td><td class="n">${r.rate > 0 ? amount(r.rate) + "/s" : "–"}</td>
      <td class="n">${r.kv_tokens ? `${amount(r.inflight_tokens || 0)} of ${amount(r.kv_tokens)} tokens` : "–"}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}

const tone = (state) => ({ ready: "good", starting: "info", waking: "info", asleep: "calm", drowsy: "calm", leaving: "calm" }[state] || "warn");
