// Light or dark, before anything is drawn: not a module, which would come too late.
(() => {
  const KEY = "ussfast-theme";
  const page = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem(KEY);
  const apply = () => {
    page.dataset.theme = chosen() ?? (dark.matches ? "dark" : "light");
    const button = document.getElementById("theme");
    if (button) button.ariaPressed = String(page.dataset.theme === "dark");
    dispatchEvent(new Event("theme"));
  };
  dark.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").onclick = () => {
      localStorage.setItem(KEY, page.dataset.theme === "dark" ? "light" : "dark");
      apply();
    };
    apply();
  });
  apply();
})();
