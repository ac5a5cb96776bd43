// Before the first paint, so not a module: the reader's choice of light or dark, where there is one.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem('fathom.theme');
  } catch {
    // Storage is off: the system's choice it is.
  }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
