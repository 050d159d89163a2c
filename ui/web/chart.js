// Charts over time. Their vertical axes begin at zero, and gaps in the data stay gaps.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { amount, clock } from "./format.js";

const styles = () => getComputedStyle(document.documentElement);

// colour returns the colour of a series. A hardware class has the same colour in all charts.
export function colour(index) {
  return styles().getPropertyValue(`--series-${index % 8}`).trim();
}

// steps are the distances of grid lines at whole numbers.
const steps = [1, 2, 5].flatMap((n) => [n, n * 10, n * 100, n * 1000]).sort((a, b) => a - b);

const known = (v) => v !== null && v !== undefined;

// stack adds columns up for a stacked chart. All columns come from one source: in a second with any
// value, a missing value is zero; a second without values is a gap.
function stack(columns) {
  const gap = (columns[0] || []).map((_, at) => !columns.some((c) => known(c[at])));
  let below = null;
  return columns.map((column) => {
    below = column.map((v, at) => (gap[at] ? null : (below ? below[at] : 0) + (v || 0)));
    return below;
  });
}

// spanOf returns the number of seconds that the charts of a page show: the range, or the part of it
// with data if that is shorter, but at least a minute.
export function spanOf(times, series, range, ahead = 0) {
  const step = times.length > 1 ? times[1] - times[0] : 1;
  const first = times.findIndex((_, at) => series.some((s) => known(s.values[at])));
  if (first < 0) return range + ahead;
  return Math.min(range, Math.max(60, 1.05 * (times.length - first) * step - ahead)) + ahead;
}

// Chart draws series, [{name, values, index or ink, tone, dash}], stacked or as lines. marks are
// scaling actions, [{t, up}]. whole is set if values are whole numbers. span is the number of seconds
// shown, of which the last `ahead` seconds are in the future.
export function Chart({ title, times, series, stacked = false, stepped = false, span, ahead = 0, marks = [], format = amount, whole = false, height = 190, note }) {
  const root = useRef(null);
  const plot = useRef(null);
  const [at, setAt] = useState(null);
  const [theme, setTheme] = useState(0);
  const state = useRef({});
  const step = times.length > 1 ? times[1] - times[0] : 1;
  const from = times.length ? Math.max(0, times.length - Math.ceil(span / step)) : 0;
  const t = times.slice(from);
  const values = series.map((s) => s.values.slice(from));
  state.current = { marks, values };
  const shape = series.map((s) => s.name).join("|") + stacked + stepped + theme;

  useEffect(() => {
    const on = () => setTheme((n) => n + 1);
    addEventListener("aliquot-theme", on);
    return () => removeEventListener("aliquot-theme", on);
  }, []);

  useEffect(() => {
    const css = styles();
    const ink = css.getPropertyValue("--quiet").trim();
    const grid = css.getPropertyValue("--line").trim();
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px " + css.getPropertyValue("--font") };
    const order = series.map((_, i) => (stacked ? series.length - 1 - i : i));
    const options = {
      width: root.current.clientWidth || 300,
      height,
      legend: { show: false },
      cursor: { sync: { key: "time" }, points: { show: false }, y: false, drag: { x: false, y: false } },
      scales: {
        x: { time: true, range: (u, min, max) => (max === null ? [0, 1] : [max - u.span, max]) },
        y: { range: (_, min, max) => [0, Math.max(1e-9, (max || 1) * 1.08)] },
      },
      axes: [
        { ...axis, size: 30, space: 80, values: (_, splits) => splits.map((s) => clock(s * 1000).slice(0, (splits[1] - splits[0]) % 60 ? 8 : 5)) },
        { ...axis, size: 52, values: (_, splits) => splits.map(format), ...(whole ? { incrs: steps } : {}) },
      ],
      series: [{}, ...order.map((i) => line(series[i], stacked, stepped))],
      hooks: {
        setCursor: [(u) => setAt(u.cursor.idx === null || u.cursor.idx === undefined ? null : u.cursor.idx)],
        draw: [(u) => drawMarks(u, state.current.marks, css.getPropertyValue("--mark").trim())],
      },
    };
    plot.current = new uPlot({ ...options }, [[], ...series.map(() => [])], root.current);
    plot.current.span = span;
    const seen = new ResizeObserver(() => {
      plot.current?.setSize({ width: root.current.clientWidth, height });
    });
    seen.observe(root.current);
    return () => {
      seen.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [shape, height]);

  useEffect(() => {
    const drawn = stacked ? stack(values).reverse() : values;
    plot.current.span = span;
    plot.current.setData([t, ...drawn]);
  }, [times, series, span, shape, marks.length]);

  const last = at !== null && at < t.length ? at : lastKnown(values, t.length - Math.round(ahead / step));
  const told = values.some((v) => known(v[last]));
  const figure = (i) => format(values[i][last] ?? (stacked && told ? 0 : null));
  const said = series.map((s, i) => `${s.name} ${figure(i)}`).join(", ");
  return html`<figure class="chart">
    <figcaption>
      <span class="chart-title">${title}</span>
      <span class="legend">${series.map((s, i) => html`<span class="key" key=${s.name}>
        <${Swatch} s=${s} />
        ${s.name} <b>${figure(i)}</b></span>`)}
        <span class="quiet">${at !== null && t[at] ? clock(t[at] * 1000) : ""}</span>
      </span>
    </figcaption>
    <div class="plot" ref=${root} role="img" aria-label=${`${title}: ${said || "no data yet"}`}></div>
    ${note && html`<p class="note">${note}</p>`}
  </figure>`;
}

// Swatch shows the colour of a series in the legend, as a square or a broken line.
function Swatch({ s }) {
  const ink = s.ink || colour(s.index);
  return html`<svg class=${`swatch tone-${s.tone || "full"} ${s.dash ? "broken" : ""}`} width=${s.dash ? 16 : 10} height="10" aria-hidden="true">${s.dash
    ? html`<rect y="4" width="6" height="2.5" fill=${ink} /><rect x="9" y="4" width="6" height="2.5" fill=${ink} />`
    : html`<rect width="10" height="10" rx="2" fill=${ink} />`}</svg>`;
}

function lastKnown(values, n) {
  for (let i = n - 1; i >= Math.max(0, n - 5); i--) {
    if (values.some((v) => known(v[i]))) return i;
  }
  return n - 1;
}

function line(s, stacked, stepped) {
  const ink = s.ink || colour(s.index);
  const out = { label: s.name, stroke: ink, width: stacked ? 1 : 1.75, points: { show: false }, spanGaps: false };
  if (s.dash) out.dash = s.dash;
  if (stacked) out.fill = s.tone === "light" ? faint(ink, 0.28) : faint(ink, 0.78);
  if (stepped) out.paths = uPlot.paths.stepped({ align: 1 });
  return out;
}

// faint mixes a colour with the background, so that an area hides the ones below it.
function faint(ink, part) {
  const parse = (c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));
  const ground = parse(styles().getPropertyValue("--panel").trim());
  const mixed = parse(ink).map((v, i) => Math.round(v * part + ground[i] * (1 - part)));
  return `rgb(${mixed.join(", ")})`;
}

function drawMarks(u, marks, ink) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = ink;
  ctx.fillStyle = ink;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const m of marks) {
    const x = Math.round(u.valToPos(m.t, "x", true)) + 0.5;
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const size = 4 * devicePixelRatio;
    ctx.beginPath();
    if (m.up) {
      ctx.moveTo(x - size, bbox.top + size * 1.6); ctx.lineTo(x + size, bbox.top + size * 1.6); ctx.lineTo(x, bbox.top);
    } else {
      ctx.moveTo(x - size, bbox.top); ctx.lineTo(x + size, bbox.top); ctx.lineTo(x, bbox.top + size * 1.6);
    }
    ctx.fill();
  }
  ctx.restore();
}
