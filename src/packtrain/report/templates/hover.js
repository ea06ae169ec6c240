// The nearest value under the pointer. Without this the page only lacks that.
document.querySelectorAll("svg[data-hover]").forEach(svg => {
  const tip = svg.querySelector(".tip"), mark = svg.querySelector(".mark");
  const lines = [...svg.querySelectorAll("path[data-points]")].map(path =>
    [path.dataset.label, JSON.parse(path.dataset.points)]);
  const all = lines.flatMap(([label, points]) => points.map(point => [label, ...point]));
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const x = (event.clientX - box.left) * view.width / box.width;
    const y = (event.clientY - box.top) * view.height / box.height;
    let best = null, least = Infinity;
    for (const one of all) {
      const far = Math.abs(one[1] - x) * 3 + Math.abs(one[2] - y);
      if (far < least) { least = far; best = one; }
    }
    if (!best) return;
    const [label, px, py, step, value] = best;
    tip.textContent = label + " " + value + (step === null ? "" : ", step " + step);
    tip.setAttribute("x", Math.min(Math.max(px, 90), view.width - 100));
    tip.setAttribute("y", py < 30 ? py + 22 : py - 10);
    mark.setAttribute("cx", px); mark.setAttribute("cy", py);
    tip.style.display = mark.style.display = "";
  });
  svg.addEventListener("pointerleave", () => { tip.style.display = mark.style.display = "none"; });
});
