"use strict";
// Shows the next times of a cron expression while it is typed. Without it a button of the form does.
for (const form of document.querySelectorAll("form[data-preview]")) {
  const shown = form.querySelector("#preview");
  let waiting = 0;
  let asked = 0;
  const look = async () => {
    const mine = ++asked;
    const typed = new URLSearchParams({ cron: form.elements.cron.value, tz: form.elements.tz.value });
    if (!form.elements.cron.value.trim()) return;
    try {
      const answer = await fetch(`${form.dataset.preview}?${typed}`, { headers: { "X-Live": "1" } });
      if (!answer.ok || answer.redirected || mine !== asked) return;
      const piece = new DOMParser().parseFromString(await answer.text(), "text/html");
      shown.replaceChildren(...piece.body.childNodes);
    } catch {
      // The server is away; the page says so elsewhere.
    }
  };
  for (const name of ["cron", "tz"]) {
    form.elements[name].addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(look, 300);
    });
  }
}
