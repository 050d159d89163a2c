// The stream of events from the server.

import { useEffect, useRef, useState } from "./vendor/htm-preact.js";

// useStream follows a view. live is false while the server does not answer; the hook then reconnects.
export function useStream(view, service = "", onClosed = () => {}) {
  const [state, set] = useState({ key: "", data: null, outlook: null, live: false });
  const series = useRef(null);
  const key = view + "/" + service;
  useEffect(() => {
    let source = null;
    let again = 0;
    let frame = 0;
    let next = null;
    series.current = null;
    const publish = (change) => {
      next = { ...(next || {}), ...change };
      if (!frame) {
        frame = requestAnimationFrame(() => {
          frame = 0;
          const change = next;
          next = null;
          set((old) => ({ key, data: old.key === key ? old.data : null, outlook: old.key === key ? old.outlook : null, ...change }));
        });
      }
    };
    const open = () => {
      const last = series.current?.t.at(-1) || 0;
      source = new EventSource(`v1/stream?view=${view}&service=${encodeURIComponent(service)}&after=${last}`);
      source.addEventListener("view", (e) => publish({ data: JSON.parse(e.data), live: true }));
      source.addEventListener("series", (e) => {
        series.current = extend(series.current, JSON.parse(e.data));
        publish({ live: true, grown: series.current.t.at(-1) });
      });
      source.addEventListener("outlook", (e) => publish({ outlook: JSON.parse(e.data), live: true }));
      source.onerror = () => {
        publish({ live: false });
        source.close();
        onClosed();
        again = setTimeout(open, 1000);
      };
    };
    open();
    return () => {
      clearTimeout(again);
      cancelAnimationFrame(frame);
      source.close();
    };
  }, [key]);
  const own = state.key === key;
  return { data: own ? state.data : null, outlook: own ? state.outlook : null, live: own && state.live, series: series.current, grown: state.grown };
}

// kept is the number of seconds kept for charts.
const kept = 3600;

// extend appends new seconds to columns. It matches columns of classes by name; a new class has gaps
// before.
export function extend(old, more) {
  if (!old || more.t[0] > old.t.at(-1) + 1) old = empty();
  const had = old.t.length;
  const out = { t: old.t.concat(more.t) };
  const cut = Math.max(0, out.t.length - kept);
  const gaps = (n) => Array(n).fill(null);
  for (const name of new Set([...Object.keys(old), ...Object.keys(more)])) {
    if (name === "t") continue;
    const a = old[name];
    const b = more[name];
    if (Array.isArray(a ?? b)) {
      out[name] = (a || gaps(had)).concat(b || gaps(more.t.length)).slice(cut);
      continue;
    }
    out[name] = {};
    for (const part of new Set([...Object.keys(a || {}), ...Object.keys(b || {})])) {
      out[name][part] = (a?.[part] || gaps(had)).concat(b?.[part] || gaps(more.t.length)).slice(cut);
    }
  }
  out.t = out.t.slice(cut);
  return out;
}

const empty = () => ({ t: [] });
