// The events of the last hour.

import { html, useMemo, useState } from "./vendor/htm-preact.js";
import { ago, clock, short } from "./format.js";

const kinds = [["all", "everything"], ["bad", "failures"], ["health", "health of GPUs"], ["task", "tasks"], ["scaling", "scaling"]];

export function Events({ data, session }) {
  const [only, setOnly] = useState("all");
  const ui = session.nomad_ui;
  const rows = useMemo(() => data.events.filter((e) => only === "all" || (only === "bad" ? e.bad : e.kind === only)), [data, only]);
  return html`<h1>Events of the last hour</h1>
    <div class="filters"><label>Show <select value=${only} onChange=${(e) => setOnly(e.target.value)}>
      ${kinds.map(([k, text]) => html`<option key=${k} value=${k}>${text}</option>`)}</select></label>
      <span class="quiet">Changes of GPU health are known since ${clock(data.began)}.</span></div>
    ${rows.length === 0 ? html`<p class="quiet">None.</p>` : html`<section class="panel"><ol class="decisions">${rows.map((e) => html`
      <li key=${e.at + e.where + e.text} class=${e.bad ? "bad" : ""}><time datetime=${e.at} title=${ago(e.at)}>${clock(e.at)}</time>
        ${e.bad && html`<span class="badge bad">failure</span>`} <b>${e.where}</b>
        ${e.alloc && html` ${ui ? html`<a href=${`${ui}/ui/allocations/${e.alloc}`}>${short(e.alloc)}</a>` : html`<span>${short(e.alloc)}</span>`}`} <span>${e.text}</span>
        ${e.remedy && html`<p class="remedy"><b>What to do:</b> ${e.remedy}</p>`}</li>`)}</ol></section>`}`;
}
