// The list of services.

import { html, useState } from "./vendor/htm-preact.js";
import { amount } from "./format.js";

const columns = [
  { key: "name", text: "Service" },
  { key: "queued", text: "Waiting" },
  { key: "active", text: "Being served" },
  { key: "slots", text: "Slots" },
  { key: "ready", text: "Ready" },
  { key: "starting", text: "Starting" },
  { key: "output", text: "Tokens/s" },
];

export function Services({ data }) {
  const [by, setBy] = useState({ key: "name", up: true });
  const rows = [...data.services].sort((a, b) => {
    const order = by.key === "name" ? a.name.localeCompare(b.name) : a[by.key] - b[by.key];
    return (by.up ? order : -order) || a.name.localeCompare(b.name);
  });
  const most = Math.max(1, ...rows.map((r) => r.queued + r.active));
  return html`<h1>Services</h1>
    ${rows.length === 0 ? html`<p class="quiet">No gateway in Consul serves a service.</p>` : html`
    <div class="panel scroll"><table class="rows"><caption class="hidden">Services</caption>
      <thead><tr>${columns.map((c) => html`<th scope="col" key=${c.key} class=${c.key === "name" ? "" : "n"} aria-sort=${by.key === c.key ? (by.up ? "ascending" : "descending") : "none"}>
        <button type="button" class="sort" onClick=${() => setBy({ key: c.key, up: by.key === c.key ? !by.up : c.key === "name" })}>${c.text}${by.key === c.key ? (by.up ? " ↑" : " ↓") : ""}</button></th>`)}
        <th scope="col">Load</th></tr></thead>
      <tbody>${rows.map((r) => html`<tr key=${r.name}>
        <th scope="row"><a href=${"#/services/" + encodeURIComponent(r.name)}>${r.name}</a></th>
        <td class=${"n" + (r.queued > 0 ? " strong" : "")}>${amount(r.queued)}</td><td class="n">${amount(r.active)}</td><td class="n">${amount(r.slots)}</td>
        <td class="n">${r.ready}</td><td class="n">${r.starting || html`<span class="quiet">0</span>`}</td><td class="n">${r.output >= 0 ? amount(r.output) : html`<span class="quiet">–</span>`}</td>
        <td class="load"><span class="loadbar" role="img" aria-label=${`${r.active} served, ${r.queued} waiting`}>
          <i class="served" style=${{ width: `${(100 * r.active) / most}%` }}></i><i class="waiting" style=${{ width: `${(100 * r.queued) / most}%` }}></i></span></td>
      </tr>`)}</tbody></table></div>`}`;
}
