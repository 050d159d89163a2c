// Scaled groups, their policies and the last decisions.

import { html, useEffect, useMemo } from "./vendor/htm-preact.js";
import { ago, amount, clock } from "./format.js";
import { Outlook } from "./outlook.js";

const figure = (v) => (v >= 0 ? amount(v) : "–");

export function Scaling({ data, outlook, service, range }) {
  const services = [...new Set(data.policies.map((p) => p.service))];
  const first = services[0];
  useEffect(() => { if (!service && first) location.replace("#/scaling/" + encodeURIComponent(first)); }, [service, first]);
  const actions = useMemo(() => data.actions.filter((c) => c.service === service), [data.actions, service]);
  const costs = data.policies.filter((p) => p.cost >= 0);
  const cost = costs.reduce((sum, p) => sum + p.cost, 0);
  return html`<h1>Scaling</h1>
    ${data.policies.length === 0 ? html`<p class="quiet">No job has a scaling policy with aliquot-strategy.</p>` : html`
    <section class="panel scroll"><table class="rows"><caption class="hidden">Scaled groups</caption>
      <thead><tr><th scope="col">Service</th><th scope="col">Group</th><th scope="col">Class</th><th scope="col" class="n">Count</th><th scope="col" class="n">Bounds</th>
        <th scope="col" class="n">Cost now</th><th scope="col" class="n">Speed of a slot</th><th scope="col" class="n">Demand then</th><th scope="col" class="n">Last action</th></tr></thead>
      <tbody>${data.policies.map((p) => html`<tr key=${p.job + "/" + p.group}>
        <th scope="row"><a href=${"#/services/" + encodeURIComponent(p.service)}>${p.service}</a></th>
        <td>${p.job}/${p.group} ${!p.enabled && html`<span class="badge warn">off</span>`}</td><td>${p.class || "–"}</td>
        <td class="n strong">${p.count}</td><td class="n">${p.min} to ${p.max}</td><td class="n">${figure(p.cost)}</td>
        <td class="n">${p.speed > 0 ? amount(p.speed) + "/s" : "–"}</td><td class="n">${p.demand >= 0 ? amount(p.demand) + " slots" : "–"}</td>
        <td class="n">${p.at ? html`to ${p.plan} <span class="quiet">${ago(p.at)}</span>` : "–"}</td></tr>`)}</tbody></table>
      ${costs.length > 0 && html`<p class="note">All counts together cost ${amount(cost)}, in the unit of the policies. Demand is the demand at the last action of the last hour.</p>`}
    </section>
    ${service && html`<${Outlook} service=${service} services=${services.includes(service) ? services : [service, ...services]} outlook=${outlook} next=${data.next} range=${range} actions=${actions} />`}`}
    <section class="panel after"><h2>Scaling actions of the last hour</h2>
      ${data.actions.length === 0 ? html`<p class="quiet">None.</p>` : html`<ol class="decisions">${data.actions.map((c) => html`
        <li key=${c.at + c.job + c.group} class=${c.failed ? "bad" : ""}><time datetime=${c.at} title=${ago(c.at)}>${clock(c.at)}</time>
          <b>${c.job}/${c.group} ${c.from} → ${c.to}</b> <span>${c.reason}</span></li>`)}</ol>`}</section>`;
}
