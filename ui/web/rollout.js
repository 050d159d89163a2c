// The wanted GPU drivers, and the progress of each node.

import { html } from "./vendor/htm-preact.js";
import { ago, plural } from "./format.js";

const tones = { failed: "bad", current: "good", wanted: "info" };

export function Rollout({ rollout }) {
  const { classes, nodes, problems } = rollout;
  return html`<details class="panel before rollout" open=${rollout.open}>
    <summary><h2>GPU drivers</h2> <span class=${"badge " + (rollout.stopped ? "bad" : "info")}>rollout ${rollout.state}</span>
      <span class="quiet">${rollout.taken} of ${plural(rollout.max, "slot")} taken</span></summary>
    ${(problems || []).map((p) => html`<p class="problem" key=${p}>${p}</p>`)}
    ${classes.length > 0 && html`<ul class="legend" aria-label="Wanted drivers">${classes.map((c) => html`<li key=${c.class}>
      <b>${c.class === "*" ? "other classes" : c.class}</b> ${c.version}${c.modules ? ", " + c.modules : ""}: ${c.have} of ${plural(c.nodes, "node")}
      ${c.canary ? html`<span>, canary ${c.canary.join(", ")}</span>` : ""}</li>`)}</ul>`}
    ${nodes.length === 0 ? html`<p class="quiet">No node has an agent: run jobs/node.nomad.hcl.</p>` : html`
    <div class="scroll scrolled" tabindex="0" role="region" aria-label="Nodes and their drivers"><table class="rows"><caption class="hidden">Nodes and their drivers</caption>
      <thead><tr><th scope="col">Node</th><th scope="col">Class</th><th scope="col">Phase</th><th scope="col">Since</th>
        <th scope="col">Loaded</th><th scope="col">Wanted</th><th scope="col">Why</th></tr></thead>
      <tbody>${nodes.map((n) => html`<tr key=${n.id}><th scope="row">${n.node || n.id}</th><td>${n.class || "–"}</td>
        <td><span class=${"badge " + (tones[n.phase] || "warn")}>${n.phase || "unknown"}</span> ${n.slot && html`<span class="quiet">holds a slot</span>`}</td>
        <td class="quiet">${n.since.startsWith("0001") ? "–" : ago(n.since)}</td><td>${n.loaded || "–"}</td><td>${n.wanted || "–"}</td>
        <td>${n.why || "–"}</td></tr>`)}</tbody></table></div>`}
  </details>`;
}
