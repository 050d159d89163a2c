// Choose the theme before anything is drawn, so that the page does not flash.
(() => {
  const wanted = () => localStorage.getItem("aliquot.theme")
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const apply = () => { document.documentElement.dataset.theme = wanted(); };
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    apply();
    dispatchEvent(new Event("aliquot-theme"));
  });
  globalThis.toggleTheme = () => {
    localStorage.setItem("aliquot.theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
    dispatchEvent(new Event("aliquot-theme"));
  };
})();
