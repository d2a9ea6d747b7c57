"use strict";
(() => {
  const tip = document.getElementById("tip");
  const tell = (dot, x, y) => {
    tip.textContent = dot.getAttribute("aria-label");
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
  };
  const hush = () => { tip.hidden = true; };
  const open = (dot) => {
    const row = document.getElementById(dot.dataset.target);
    if (!row) return;
    row.closest("details").open = true;
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  };
  for (const plot of document.querySelectorAll("svg.scatter")) {
    const dots = [...plot.querySelectorAll(".dot")];
    plot.addEventListener("mouseover", (event) => {
      if (event.target.classList.contains("dot")) tell(event.target, event.clientX, event.clientY);
    });
    plot.addEventListener("mouseout", hush);
    plot.addEventListener("focusin", (event) => {
      const box = event.target.getBoundingClientRect();
      tell(event.target, box.right, box.bottom);
    });
    plot.addEventListener("focusout", hush);
    plot.addEventListener("click", (event) => { if (event.target.classList.contains("dot")) open(event.target); });
    plot.addEventListener("keydown", (event) => {
      const place = dots.indexOf(event.target);
      if (place < 0) return;
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) { dots[(place + step + dots.length) % dots.length].focus(); event.preventDefault(); }
      if (event.key === "Enter" || event.key === " ") { open(event.target); event.preventDefault(); }
      if (event.key === "Escape") hush();
    });
  }
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const curves = [];
  const draw = (box) => {
    const data = JSON.parse(box.querySelector("script").textContent);
    const stroke = [colour("--accent"), colour("--blue")];
    const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const options = {
      width: Math.max(260, box.clientWidth),
      height: 280,
      scales: { x: { time: false } },
      axes: [{ ...axis, label: "step" }, { ...axis, label: "loss", size: 58 }],
      series: [{ label: "step" }, ...data.names.map((label, n) => ({
        label, stroke: stroke[n], width: 2, spanGaps: true, points: { show: n > 0 || data.x.length < 3 },
        value: (plot, value) => value == null ? "—" : value.toPrecision(4),
      }))],
    };
    box.plot = new uPlot(options, [data.x, ...data.series], box);
    const canvas = box.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Loss of " + box.dataset.name + " by step; the numbers follow below");
  };
  const again = () => curves.forEach((box) => { if (box.plot) box.plot.destroy(); draw(box); });
  if (typeof uPlot !== "undefined") {
    curves.push(...document.querySelectorAll(".curve"));
    again();
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; again(); } });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  }
  const closed = [];
  addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((one) => { one.open = true; closed.push(one); }));
  addEventListener("afterprint", () => { while (closed.length) closed.pop().open = false; });
})();
