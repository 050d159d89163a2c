// Nodes, their GPUs, and the allocations that hold their slices.

import { Component, html, useMemo, useState } from "./vendor/htm-preact.js";
import { Rollout } from "./rollout.js";
import { ago, amount, gib, plural, short } from "./format.js";

export function Cluster({ data, session }) {
  const [text, setText] = useState("");
  const [only, setOnly] = useState("all");
  const { totals } = data;
  const nodes = useMemo(() => data.nodes
    .map((n) => ({ ...n, gpus: n.gpus.filter((g) => wanted(n, g, text.toLowerCase(), only)) }))
    .filter((n) => n.gpus.length || (!text && only === "all")), [data, text, only]);
  return html`
    <h1>Cluster</h1>
    <dl class="tiles">
      <${Tile} name="Nodes" value=${totals.nodes} />
      <${Tile} name="GPUs" value=${totals.gpus} more=${totals.unhealthy ? `${totals.unhealthy} unhealthy` : "all healthy"} bad=${totals.unhealthy > 0} />
      <${Tile} name="Held" value=${percent(totals.capacity - totals.free, totals.capacity)} more=${`${amount(totals.capacity - totals.free)} of ${plural(Number(amount(totals.capacity)) || totals.capacity, "GPU")}`} />
      <${Tile} name="Free" value=${amount(totals.free)} more="GPUs" />
      <${Tile} name="Stranded" value=${amount(totals.stranded)} more="GPUs free, but usable for no typical task" bad=${totals.stranded > 0.005} />
    </dl>
    ${(data.notes || []).map((n) => html`<p class="note">${n}</p>`)}
    ${data.rollout && html`<${Rollout} rollout=${data.rollout} />`}
    <div class="filters">
      <label>Find <input type="search" value=${text} onInput=${(e) => setText(e.target.value)} placeholder="node, GPU, class or job" /></label>
      <label>Show <select value=${only} onChange=${(e) => setOnly(e.target.value)}>
        <option value="all">all GPUs</option><option value="held">GPUs in use</option>
        <option value="free">GPUs with free slices</option><option value="bad">unhealthy GPUs</option></select></label>
      <ul class="legend jobs" aria-label="Jobs">${data.jobs.slice(0, 16).map((j, i) => html`<li key=${j}><i class=${"swatch fill-" + (i % 8) + (i >= 8 ? " again" : "")}></i>${j}</li>`)}
        ${data.jobs.length > 16 && html`<li class="quiet">and ${data.jobs.length - 16} more</li>`}
        <li><i class="swatch free"></i>free</li></ul>
    </div>
    ${nodes.length === 0 && html`<p class="quiet">${data.nodes.length ? "No GPU matches." : "No node offers GPUs."}</p>`}
    <div class="nodes">${nodes.map((n) => html`<${Node} key=${n.id} node=${n} ui=${session.nomad_ui} />`)}</div>`;
}

export const Tile = ({ name, value, more, bad }) => html`<div class=${"tile" + (bad ? " bad" : "")}><dt>${name}</dt><dd>${value}${more && html`<small>${more}</small>`}</dd></div>`;

const percent = (part, whole) => (whole > 0 ? Math.round((100 * part) / whole) + "%" : "–");

function wanted(node, g, text, only) {
  if (only === "held" && !g.used) return false;
  if (only === "free" && g.used >= g.slices) return false;
  if (only === "bad" && !g.health) return false;
  return !text || [node.name, g.name, g.class, g.model, g.id, ...g.bar.map((p) => p.job || "")].some((s) => s.toLowerCase().includes(text));
}

// A node is drawn again only if its data has changed: there may be hundreds of nodes.
class Node extends Component {
  shouldComponentUpdate(next) {
    return JSON.stringify(next.node) !== JSON.stringify(this.props.node);
  }

  render({ node, ui }) {
    return html`<section class="panel node" aria-label=${"Node " + node.name}>
      <header><h2>${ui ? html`<a href=${`${ui}/ui/clients/${node.id}`}>${node.name}</a>` : node.name}</h2>
        <span class=${"badge " + (node.status === "ready" ? "good" : "warn")}>${node.status}</span>
        <span class="quiet">${amount(node.free)} free${node.stranded > 0.005 ? `, ${amount(node.stranded)} stranded` : ""}</span></header>
      ${node.problem && html`<p class="problem">${node.problem}</p>`}
      <ul class="gpus">${node.gpus.map((g) => html`<${GPU} key=${g.id} gpu=${g} ui=${ui} />`)}</ul>
    </section>`;
  }
}

function GPU({ gpu, ui }) {
  const held = holders(gpu);
  return html`<li class=${"gpu" + (gpu.health ? " bad" : "")}>
    <div class="gpu-head"><b>${gpu.name}</b> <span class="quiet model" title=${gpu.model}>${gpu.model}</span>
      <span class="figures">${gpu.used}/${gpu.slices}${gpu.use_percent >= 0 && html`<span>${Math.round(gpu.use_percent)}% busy</span>`}
        ${gpu.used_mib >= 0 && html`<span>${gib(gpu.used_mib)} of ${gib(gpu.memory_mib)}</span>`}</span></div>
    <div class="bar" role="img" aria-label=${`${gpu.used} of ${gpu.slices} slices held` + (held.length ? ": " + held.map((h) => `${h.job} ${h.n}`).join(", ") : "")}>
      ${gpu.bar.map((p, i) => html`<${Part} key=${i} part=${p} of=${gpu.slices} ui=${ui} />`)}</div>
    <div class="gpu-foot"><span class=${"level level-" + (gpu.level || "none")}>${gpu.enforcement || gpu.sharing || "whole"}${gpu.level ? ", " + gpu.level : ""}</span>
      <span>${held.map((h) => html`<span class="holder" key=${h.alloc}><i class=${`swatch fill-${h.colour % 8}${h.colour >= 8 ? " again" : ""}`}></i>${ui
        ? html`<a href=${`${ui}/ui/allocations/${h.alloc}`} title=${"Allocation " + h.alloc}>${h.job} ${short(h.alloc)}</a>`
        : html`<span title=${"Allocation " + h.alloc}>${h.job} ${short(h.alloc)}</span>`} ${h.n}</span>`)}</span></div>
    ${gpu.health && html`<p class="problem"><b>Unhealthy</b> ${gpu.since ? (gpu.since.seen ? "since " : "for longer than ") + ago(gpu.since.at).replace(" ago", "") : ""}: ${gpu.health}</p>`}
  </li>`;
}

function holders(gpu) {
  const found = new Map();
  for (const p of gpu.bar) {
    if (!p.alloc) continue;
    const h = found.get(p.alloc) || { alloc: p.alloc, job: p.job, colour: p.colour, n: 0 };
    h.n += p.n;
    found.set(p.alloc, h);
  }
  return [...found.values()];
}

const Part = ({ part, of }) => html`<span class=${"part " + (part.alloc ? `fill-${part.colour % 8}${part.colour >= 8 ? " again" : ""}` : "free") + (part.bad ? " bad" : "")}
  style=${{ flexGrow: part.n }} title=${part.alloc ? `${part.job}, ${plural(part.n, "slice")} of ${of}, allocation ${short(part.alloc)}` : `${plural(part.n, "slice")} free`}>
  ${part.alloc && part.n / of >= 0.12 ? html`<span class="part-name">${part.job}</span>` : ""}</span>`;
