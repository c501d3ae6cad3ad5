"use strict";
// Applies the chosen theme before the page is drawn; without a choice the system's theme applies.
try {
  const chosen = localStorage.getItem("broker_jobs theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // No storage: the system's theme.
}
