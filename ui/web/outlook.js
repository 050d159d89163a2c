// The decisions of one service's policies, compared with the real counts.

import { html, useMemo } from "./vendor/htm-preact.js";
import { Chart, spanOf } from "./chart.js";
import { clock, seconds } from "./format.js";

const broken = [6, 4];

export function Outlook({ service, services, outlook, next, range, actions }) {
  return html`<section class="after" aria-label="What the policy would do"><div class="filters">
      <h2>What the policy would do</h2>
      ${services.length > 1 && html`<label>Service <select value=${service} onChange=${(e) => { location.hash = "#/scaling/" + encodeURIComponent(e.target.value); }}>
        ${services.map((n) => html`<option key=${n} value=${n}>${n}</option>`)}</select></label>`}</div>
    ${!outlook ? html`<p class="quiet" role="status">Replaying the last hour of ${service} … This needs a gateway that serves it.</p>`
      : outlook.problem ? html`<p class="panel">Unknown for ${service}: ${outlook.problem}.</p>`
      : html`<${Now} next=${next} outlook=${outlook} />
        <${Charts} outlook=${outlook} range=${Math.min(range, 3600)} actions=${actions} />`}
    </section>`;
}

const unitOf = (o) => (o.unit ? "replicas of " + o.unit : o.load ? "slots of the fastest class" : "simultaneous requests");

const coldStart = (o) => seconds(o.ahead) + (o.learned ? ", measured" : o.set ? ", set in the policy" : ", the default: not measured yet");

function Now({ next, outlook }) {
  return html`<div class="panel next">
    ${next.length === 0 ? html`<p>No decision now: the newest demand is unknown.</p>` : html`<ul class="decisions">${next.map((n) => html`<li key=${n.job + "/" + n.group}>
      <b>${n.job}/${n.group} ${n.count === n.set ? html`stays at ${n.set}` : html`${n.set} → ${n.count}`}</b> <span>${n.reason}</span></li>`)}</ul>`}
    <p class="note">This page uses the code of the autoscaler's strategy and the demand stored in the gateways. It changes nothing.
      The decision above starts from the present counts, at ${clock(next[0]?.at || outlook.at)}. The charts have one decision every 5 s. Each starts from the count of the
      previous decision and uses the settings, speeds and cold start (${coldStart(outlook)}) of ${clock(outlook.at)}. The oldest decisions have less history. Cooldowns and
      exhausted devices are ignored.
      ${outlook.curves && html` For the whole hour, the curves of ${clock(outlook.curves)} determine what a replica serves within the objective. The autoscaler keeps its
      curves while they change little, so its counts can differ; after a change of curves it removes no replica for one cold start.`}</p></div>`;
}

function Charts({ outlook, range, actions }) {
  const step = 5;
  const shift = Math.ceil(Math.min(outlook.ahead, range) / step);
  const theme = document.documentElement.dataset.theme;
  const marks = useMemo(() => actions.map((c) => ({ t: Date.parse(c.at) / 1000, up: c.to > c.from })), [actions]);
  const { times, demand, replicas, cost } = useMemo(() => {
    const end = outlook.t.at(-1);
    const more = Array.from({ length: shift }, (_, i) => end + (i + 1) * step);
    const longer = (values) => values.concat(Array(shift).fill(null));
    const later = (values) => Array(Math.min(shift, values.length)).fill(null).concat(values).slice(0, values.length + shift);
    const pair = (name, of, index) => [
      { name: name + " was", values: longer(of.was), index },
      { name: name + " by policy", values: longer(of.would), index, dash: broken },
    ];
    return {
      times: outlook.t.concat(more),
      demand: [
        { name: "demand", values: longer(outlook.demand), index: 0 },
        { name: "planned for", values: longer(outlook.planned), index: 5 },
        { name: "forecast", values: later(outlook.forecast), index: 3, dash: broken },
      ],
      replicas: outlook.classes.flatMap((c, i) => pair(c.name || "replicas", c, i)),
      cost: outlook.cost ? pair("cost", outlook.cost, 2) : null,
    };
  }, [outlook, shift, theme]);
  const span = spanOf(times, [...demand, ...replicas, ...(cost || [])], range, shift * step);
  const all = { times, span, ahead: shift * step, marks };
  return html`<div class="charts">
    <div class="panel"><${Chart} title=${"Demand, in " + unitOf(outlook)} series=${demand} ...${all}
      note=${`A forecast is shown ${seconds(shift * step)} after the time at which it was made. There is none if no rise was certain.`} /></div>
    <div class="panel"><${Chart} title="Replicas" series=${replicas} stepped whole ...${all} note="Solid lines count ready and starting replicas, since this page's server started. Triangles are scaling actions." /></div>
    ${cost && html`<div class="panel"><${Chart} title="Cost" series=${cost} stepped ...${all} note="In the unit of the policy." /></div>`}
  </div>`;
}
