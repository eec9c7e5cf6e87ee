"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // A page that was opened as a file may have no storage.
  const remembered = {
    get: () => { try { return localStorage.getItem("skillpack-theme"); } catch { return null; } },
    set: (theme) => { try { localStorage.setItem("skillpack-theme", theme); } catch { /* it is only a preference */ } },
  };
  const choose = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    for (const button of all("button[data-theme]")) {
      button.setAttribute("aria-pressed", String(button.dataset.theme === theme));
    }
  };
  choose(["light", "dark"].includes(remembered.get()) ? remembered.get() : "auto");
  for (const button of all("button[data-theme]")) {
    button.addEventListener("click", () => { choose(button.dataset.theme); remembered.set(button.dataset.theme); });
  }

  const table = document.getElementById("skills");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const numbers = head.classList.contains("n");
        rows.sort((one, other) => {
          const [first, second] = [value(one, column), value(other, column)];
          return (down ? -1 : 1) * (numbers ? Number(first) - Number(second) : compare(first, second));
        });
        body.append(...rows);
      });
    });

    const filter = document.getElementById("filter");
    filter.closest("[hidden]").hidden = false;
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        if (!row.hidden) shown += 1;
      }
      document.getElementById("shown").textContent = wanted ? `${shown} of ${rows.length}` : "";
    });
  }

  const skills = all("details.skill");
  for (const button of all("button[data-all]")) {
    button.closest("[hidden]")?.removeAttribute("hidden");
    button.addEventListener("click", () => {
      for (const skill of skills) skill.open = button.dataset.all === "open";
    });
  }
  const show = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.firstElementChild.focus();
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", show);
  show();

  // What is folded on the screen is not on paper.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of closed) details.open = false; });

  // What does not scroll need not be reached with the keyboard.
  const settle = () => {
    for (const region of all(".scroll")) region.tabIndex = region.scrollWidth > region.clientWidth ? 0 : -1;
  };
  settle();
  addEventListener("resize", settle);
  for (const details of all("details")) details.addEventListener("toggle", settle);
})();
