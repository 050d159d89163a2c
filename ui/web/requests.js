// Slow and failed requests, and the parts of their time.

import { html, useMemo, useState } from "./vendor/htm-preact.js";
import { ago, clock, plural, seconds, short } from "./format.js";

const parts = [
  ["received", "receiving the body"], ["waited", "waiting for a slot"], ["retried", "failed attempts"],
  ["upstream", "until the answer began"], ["answer", "until the answer's end"],
];

export function Requests({ data, service, session }) {
  const [chosen, setKind] = useState("");
  const kind = chosen || (data.failed.length > 0 ? "failed" : "slow");
  const rows = useMemo(() => (kind === "failed" ? data.failed : [...data.slow].sort((a, b) => b.total - a.total)), [data, kind]);
  const longest = Math.max(0, ...rows.map((r) => r.total));
  const names = [...new Set([...data.services, ...(service ? [service] : [])])];
  return html`<h1>Requests</h1>
    <div class="filters">
      <div class="ranges" role="group" aria-label="Kind">
        ${[["failed", `Failed (${data.failed.length})`], ["slow", `Slowest (${data.slow.length})`]].map(([k, text]) => html`<button type="button" key=${k}
          aria-pressed=${k === kind} onClick=${() => setKind(k)}>${text}</button>`)}</div>
      <label>Service <select value=${service} onChange=${(e) => { location.hash = "#/requests" + (e.target.value ? "/" + encodeURIComponent(e.target.value) : ""); }}>
        <option value="">all</option>${names.map((n) => html`<option key=${n} value=${n}>${n}</option>`)}</select></label>
      <ul class="legend" aria-label="Parts of the time">${parts.map(([name, text]) => html`<li key=${name}><i class=${"swatch time-" + name}></i>${text}</li>`)}</ul>
    </div>
    <p class="note">${kind === "failed" ? "The last failures of each kind." : "The slowest requests of each of the last 20 minutes, the slowest first."}</p>
    ${!data.known ? html`<p class="quiet" role="status">Reading from the gateways …</p>`
      : rows.length === 0 ? html`<p class="quiet">None${service ? ` of ${service}` : ""}.</p>` : html`<section class="panel"><ol class="requests">${rows.map((r) => html`
      <${Row} key=${r.at + r.replica + r.total} r=${r} longest=${longest} ui=${session.nomad_ui} />`)}</ol></section>`}`;
}

function Row({ r, longest, ui }) {
  const where = [r.class, r.node].filter(Boolean).join(" on ");
  const told = parts.map(([name, text]) => [text, r.parts.find((p) => p.name === name)?.seconds || 0]).filter(([, s]) => s >= 0.0005);
  return html`<li>
    <div class="request-head"><time datetime=${r.at} title=${ago(r.at)}>${clock(r.at)}</time>
      <span class=${"badge " + (r.text ? "bad" : "calm")}>${r.text && r.status ? r.status : ""} ${r.outcome}</span>
      <a href=${"#/services/" + encodeURIComponent(r.service)}>${r.service}</a>
      <span>${where} ${r.alloc && (ui ? html`<a href=${`${ui}/ui/allocations/${r.alloc}`}>${short(r.alloc)}</a>` : short(r.alloc))}</span>
      <span class="quiet">${[r.priority, r.tenant !== "other" && r.tenant, r.attempts > 1 && plural(r.attempts, "attempt"), r.prompt > 0 && `${r.prompt} + ${r.output} tokens`].filter(Boolean).join(", ")}</span>
      <b class="took">${seconds(r.total)}</b></div>
    <div class="timebar" role="img" aria-label=${told.map(([text, s]) => `${seconds(s)} ${text}`).join(", ") || "no time"}>${r.parts.map((p) => p.seconds > 0 && html`
      <i key=${p.name} class=${"time-" + p.name} style=${{ width: (longest > 0 ? (100 * p.seconds) / longest : 0) + "%" }} title=${seconds(p.seconds)}></i>`)}</div>
    <p class="note">${r.text ? r.text + " " : ""}${told.map(([text, s]) => `${seconds(s)} ${text}`).join(", ")}</p></li>`;
}
