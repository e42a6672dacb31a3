// Runs before the first paint, so that a chosen theme does not flash: the only script that is no module.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("ggufpy.theme");
  } catch {
    // Storage is closed to this page: the system's theme it is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
