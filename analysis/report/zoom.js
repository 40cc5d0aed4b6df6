// A figure in a dialog: larger, smaller, fitted to the window, moved about, the next.
const dialog = document.querySelector("dialog.zoomed");
if (dialog) {
  const openers = [...document.querySelectorAll("button.zoom")];
  const stage = dialog.querySelector(".stage");
  const size = dialog.querySelector("output");
  const image = stage.appendChild(document.createElement("img"));
  const STEP = 1.25;
  let current = 0;
  let scale = 1;
  let fitted = true;

  const setScale = (wanted) => {
    const [x, y] = [stage.clientWidth / 2, stage.clientHeight / 2];
    const before = scale;
    scale = Math.min(6, Math.max(0.1, wanted));
    image.style.width = `${Math.round(image.naturalWidth * scale)}px`;
    size.textContent = `${Math.round(100 * scale)}%`;
    // what was in the middle stays there
    stage.scrollLeft = ((stage.scrollLeft + x) * scale) / before - x;
    stage.scrollTop = ((stage.scrollTop + y) * scale) / before - y;
  };
  const fit = () => {
    fitted = true;
    const across = stage.clientWidth / image.naturalWidth;
    setScale(Math.min(across, stage.clientHeight / image.naturalHeight));
  };
  const show = (number) => {
    current = (number + openers.length) % openers.length;
    const shown = openers[current].querySelector("img");
    dialog.querySelector("h3").textContent = openers[current]
      .getAttribute("aria-label")
      .replace(/^Enlarge: /, "");
    image.alt = shown.alt;
    image.src = shown.src;
    image.decode().then(fit, () => {});
  };
  const actions = {
    previous: () => show(current - 1),
    next: () => show(current + 1),
    smaller: () => ((fitted = false), setScale(scale / STEP)),
    larger: () => ((fitted = false), setScale(scale * STEP)),
    fit,
    close: () => dialog.close(),
  };
  const keys = { "+": "larger", "=": "larger", "-": "smaller", 0: "fit", n: "next", p: "previous" };

  openers.forEach((opener, number) =>
    opener.addEventListener("click", () => {
      dialog.showModal();
      stage.focus();
      show(number);
    }),
  );
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) actions[button.dataset.do]();
    else if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[action]();
  });
  dialog.addEventListener("close", () => openers[current].focus());
  addEventListener("resize", () => {
    if (dialog.open && fitted) fit();
  });

  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return; // touch scrolls itself
    held = [event.clientX + stage.scrollLeft, event.clientY + stage.scrollTop];
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (held) stage.scrollTo(held[0] - event.clientX, held[1] - event.clientY);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => (held = null));
  }
  stage.addEventListener("dragstart", (event) => event.preventDefault());
}
