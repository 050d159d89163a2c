// How numbers, times and places are written.

// amount writes a number with at most three significant digits.
export function amount(n) {
  if (n === null || n === undefined || Number.isNaN(n)) return "–";
  if (n === 0) return "0";
  const size = Math.abs(n);
  if (size >= 1e6) return trim((n / 1e6).toPrecision(3)) + "M";
  if (size >= 1e4) return trim((n / 1e3).toPrecision(3)) + "k";
  if (size >= 100) return Math.round(n).toString();
  return trim(n.toPrecision(size < 1 ? 2 : 3));
}

function trim(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

export function gib(mib) {
  if (mib < 0) return "–";
  return mib >= 1024 ? amount(mib / 1024) + " GiB" : mib + " MiB";
}

// seconds writes a length of time.
export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s === 0) return "0";
  if (s < 0.001) return amount(s * 1e6) + " µs";
  if (s < 1) return amount(s * 1000) + " ms";
  if (s < 90) return amount(s) + " s";
  if (s < 5400) return Math.round(s / 60) + " min";
  if (s < 129600) return amount(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

// clock writes a moment as a time of this browser's day.
export function clock(when) {
  const d = new Date(when);
  return [d.getHours(), d.getMinutes(), d.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}

export function ago(when) {
  return seconds(Math.max(0, Math.round((Date.now() - new Date(when)) / 1000))) + " ago";
}

export const short = (id) => (id || "").slice(0, 8);

export const plural = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;
