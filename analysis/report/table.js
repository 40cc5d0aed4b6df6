// A click, Enter or Space on a heading sorts by its column; once more turns it round.
// Numbers sort by their value, not as text; what is not known stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const isText = heading.classList.contains("text");
    const first = isText ? "ascending" : "descending";
    const second = isText ? "descending" : "ascending";
    const key = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (isText) return key(a).localeCompare(key(b), undefined, { numeric: true });
      return Number(key(a)) === Number(key(b)) ? 0 : Number(key(a)) - Number(key(b));
    };
    const unknown = (row) => !isText && Number.isNaN(Number(key(row)));
    heading.querySelector("button").addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) =>
        unknown(a) || unknown(b) ? unknown(a) - unknown(b) : sign * compare(a, b),
      );
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      body.append(...rows);
    });
  });
}
