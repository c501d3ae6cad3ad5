"use strict";
// Previews the next times of a cron expression while it is typed. Without JavaScript, a button of the form does.
for (const form of document.querySelectorAll("form[data-preview]")) {
  const target = form.querySelector("#preview");
  let timer = 0;
  let requests = 0;
  const update = async () => {
    const request = ++requests;
    const typed = new URLSearchParams({ cron: form.elements.cron.value, tz: form.elements.tz.value });
    if (!form.elements.cron.value.trim()) return;
    try {
      const response = await fetch(`${form.dataset.preview}?${typed}`, { headers: { "X-Live": "1" } });
      if (!response.ok || response.redirected || request !== requests) return;
      const fragment = new DOMParser().parseFromString(await response.text(), "text/html");
      target.replaceChildren(...fragment.body.childNodes);
    } catch {
      // The server is not reachable; the page shows that elsewhere.
    }
  };
  for (const name of ["cron", "tz"]) {
    form.elements[name].addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(update, 300);
    });
  }
}
