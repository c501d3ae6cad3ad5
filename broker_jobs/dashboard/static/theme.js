"use strict";
// Before anything is drawn: the theme somebody has chosen here; without a choice the system's holds.
try {
  const chosen = localStorage.getItem("broker_jobs theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // No storage: the system's theme.
}
