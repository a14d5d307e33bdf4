(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = id => document.getElementById(id);
  const rows = data.rows, media = matchMedia("(prefers-color-scheme: dark)");
  rows.forEach((row, i) => {
    row.id = i;
    for (const name in row.curves) row.curves[name] = row.curves[name].map(part => part.map(v => v === null ? null : v / 1000));
    row.find = `${row.name} ${row.family || ""}`.toLowerCase();
  });
  const words = text => String(text).replaceAll("_", " ");
  const number = (v, digits = 2) => v === null || v === undefined ? "–" : v.toFixed(digits).replace("-", "−");
  const within = ([v, low, high]) => number(v) + (low === null ? "" : ` [${number(low)}, ${number(high)}]`);
  const millions = v => v === null ? null : v / 1e6;
  const role = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const options = (select, values, label = words) =>
    values.forEach(value => select.append(element("option", label(value), { value })));
  let target = data.targets[0], visible = rows;
  const ticked = new Set();
  const score = row => row.best[target] ? row.best[target][0] : null;
  const rank = row => row.ranks[target] || {};
  const share = (row, source) => (row.share[target] || {})[source] ?? null;

  // families: the largest have colours
  const sizes = new Map();
  rows.forEach(row => row.family && sizes.set(row.family, (sizes.get(row.family) || 0) + 1));
  const families = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a) || a.localeCompare(b));
  const colours = new Map(families.slice(0, 8).map((family, i) => [family, data.palette[i]]));
  const colour = row => colours.get(row.family) || role("strong");
  options($("target"), data.targets);
  options($("family"), [...families].sort((a, b) => a.localeCompare(b)), String);
  options($("source"), data.shares);
  options($("group"), data.groups.map((_, i) => i), i => i ? data.groups[i] : "the largest group");
  $("groups").hidden = data.groups.length < 2;
  $("sources").hidden = !data.shares.length;
  colours.forEach((value, family) => {
    const button = element("button", family, { type: "button", title: `Show ${family} alone, or all again` });
    const dot = element("i");
    dot.style.background = value;
    button.prepend(dot);
    button.addEventListener("click", () => {
      $("family").value = $("family").value === family ? "" : family;
      refresh();
    });
    $("key").append(button);
  });
  if (families.length > colours.size) $("key").append(element("span", `grey: ${families.length - colours.size} smaller families`, { class: "soft" }));

  // tables
  const curve = row => {
    const space = "http://www.w3.org/2000/svg", drawn = document.createElementNS(space, "svg");
    const [depth, values] = row.curves[target] || [[], []];
    drawn.setAttribute("viewBox", "0 0 90 22");
    drawn.setAttribute("width", "90");
    drawn.setAttribute("height", "22");
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", `SPC by depth: ${values.map(v => number(v)).join(", ")}`);
    const place = depth.map((d, i) => [2 + 86 * d, values[i] === null ? null : 20 - 18 * Math.max(0, values[i])]);
    const line = document.createElementNS(space, values.length > 1 ? "polyline" : "circle");
    const points = place.filter(([, y]) => y !== null);
    if (values.length > 1) line.setAttribute("points", points.map(p => p.map(v => v.toFixed(1)).join(",")).join(" "));
    else if (points.length) { line.setAttribute("cx", points[0][0]); line.setAttribute("cy", points[0][1]); line.setAttribute("r", 2); }
    line.setAttribute("fill", values.length > 1 ? "none" : "var(--blue)");
    line.setAttribute("stroke", "var(--blue)");
    line.setAttribute("stroke-width", "1.5");
    const ground = document.createElementNS(space, "path");
    ground.setAttribute("d", "M2 20H88");
    ground.setAttribute("stroke", "var(--line)");
    drawn.append(ground, line);
    return drawn;
  };
  const link = row => row.report ? element("a", row.name, { href: encodeURI(row.report), title: row.name }) : element("span", row.name, { title: row.name });
  const tick = row => {
    const box = element("input", undefined, { type: "checkbox", "aria-label": `Tick ${row.name}` });
    box.checked = ticked.has(row.id);
    box.addEventListener("change", () => { if (box.checked) ticked.add(row.id); else ticked.delete(row.id); overlay(); });
    return box;
  };
  const place = row => {
    const r = rank(row);
    if (!r.rank) return element("span", "–");
    const step = r.step[0] === null ? "" : `; the row above less this one: ${within(r.step)}${r.paired ? ", paired over test images" : ", not paired"}`;
    return element("span", r.rank + (r.tied ? " ≈" : ""), { title: (r.tied ? "tied with the row ranked above" : "") + step });
  };
  const column = (title, value, more = {}) => {
    const { show, hint, numeric = true, ...rest } = { field: title, ...more };
    return {
      title: "", headerSortTristate: false, ...rest,
      titleFormatter: () => element("span", title, { title: hint || title }),
      hozAlign: numeric ? "right" : "left", headerHozAlign: numeric ? "right" : "left",
      headerSortStartingDir: numeric && rest.field !== "rank" ? "desc" : "asc",
      sorter: (a, b, first, second, _, way) => {
        const x = value(first.getData()), y = value(second.getData());
        const none = v => v === null || v === undefined;
        if (none(x) || none(y)) return none(x) && none(y) ? 0 : (none(x) ? 1 : -1) * (way === "asc" ? 1 : -1);
        return numeric ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      },
      formatter: cell => {
        const row = cell.getData();
        return show ? show(row) : element("span", numeric ? number(value(row)) : value(row) || "–");
      },
    };
  };
  const narrow = matchMedia("(max-width: 560px)").matches;
  const certificate = row => row.certified === null || row.certified === undefined ? "–" : row.certified ? "yes" : "no";
  const columns = () => [
    { title: "", field: "tick", width: 34, headerSort: false, hozAlign: "center", formatter: cell => tick(cell.getData()), titleFormatter: () => element("span", "✓", { title: "tick to lay over one another" }), frozen: !narrow },
    column("rank", row => rank(row).rank, { field: "rank", show: place, width: narrow ? 62 : 74, frozen: !narrow, hint: "by best SPC; ≈ is a tie with the row ranked above" }),
    column("network", row => row.name, { field: "name", numeric: false, show: link, width: narrow ? 140 : 250, frozen: true }),
    { ...column("by depth", score, { field: "curve", show: curve, width: 108 }), headerSort: false },
    ...data.targets.map((name, i) => column(`SPC ${words(name)}`, row => row.best[name] && row.best[name][0], {
      field: `spc${i}`, width: 104,
      show: row => {
        const best = row.best[name];
        return element("span", best ? number(best[0]) : "–", {
          class: name === target ? "chosen" : "",
          title: best && best[0] !== null ? `${within(best)} at ${best[3]}` : "no score",
        });
      },
    })),
    column("family", row => row.family, { numeric: false, width: 130 }),
    column("first known", row => row.depth_known, { field: "known", width: 92, hint: "relative depth of the first layer where some target's SPC reaches 0.5" }),
    column("error (px)", row => row.localisation_error, { field: "error", width: 88, hint: "least median distance between read and true place", show: row => element("span", number(row.localisation_error, 1)) }),
    ...data.shares.map((source, i) => column(`from ${words(source)}`, row => share(row, source), {
      field: `share${i}`, width: 100, hint: `share of the SPC at the best layer that goes with ${words(source)}`,
      show: row => element("span", share(row, source) === null ? "–" : `${number(100 * share(row, source), 0)} %`),
    })),
    column("from family", row => rank(row).family, { field: "apart", width: 92, hint: "best SPC less the median of the others of its family" }),
    ...(data.accuracy ? [
      column("from equals", row => rank(row).equals, { field: "equals", width: 92, hint: "best SPC less the median of the networks within one point of its top-1 accuracy" }),
      column("top-1 (%)", row => row.top1, { field: "top1", width: 84, show: row => element("span", number(row.top1, 1)) }),
    ] : []),
    column("certificate", certificate, { field: "certificate", numeric: false, width: 96, hint: "whether the network is certified to be without position once its sources are taken away", show: row => element("span", certificate(row), { class: row.certified ? "pass" : "", title: row.residual === null ? "" : `residual ${row.residual}` }) }),
    column("M param.", row => row.parameters, { field: "parameters", width: 84, show: row => element("span", number(millions(row.parameters))) }),
    column("input", row => parseInt(row.image_size), { field: "input", width: 92, show: row => element("span", String(row.image_size || "–").replace("x", " × ")) }),
    column("time (s)", row => row.seconds, { field: "seconds", width: 80, show: row => element("span", number(row.seconds, 0)) }),
  ];
  const tables = [];
  const build = (group, box) => {
    const members = rows.filter(row => row.group === group);
    const table = new Tabulator(box, {
      data: members, index: "id", columns: columns(), layout: "fitDataStretch",
      height: Math.min(560, 62 + 33 * Math.max(members.length, 2)), placeholder: "No network fits the filters.",
      initialSort: [{ column: "rank", dir: "asc" }], columnHeaderVertAlign: "bottom", movableColumns: false,
    });
    table.on("tableBuilt", () => {
      tables.push(table);
      table.setFilter(fits);
      box.querySelectorAll(".tabulator-sortable").forEach(head => {
        head.tabIndex = 0;
        head.addEventListener("keydown", event => { if (event.key === "Enter") head.click(); });
      });
    });
  };
  data.groups.forEach((difference, group) => {
    const box = element("div");
    if (!group) {
      if (data.groups.length > 1) $("tables").append(element("p", `Ranked together: ${difference}`, { class: "soft" }));
      $("tables").append(box);
      return build(group, box);
    }
    const count = rows.filter(row => row.group === group).length;
    const more = element("details");
    more.append(element("summary", `Not comparable with these, ranked apart: ${count} network${count === 1 ? "" : "s"}, ${difference}`), box);
    more.addEventListener("toggle", () => build(group, box), { once: true });
    $("tables").append(more);
    if (data.groups.length < 5) more.open = true;
  });

  // pictures
  const charts = new Map();
  const open = row => { if (row && row.report) location.assign(encodeURI(row.report)); };
  const axis = (title, more = {}) => ({
    ...more, title: { display: true, text: title, color: role("ink") },
    grid: { color: role("line") }, border: { color: role("strong") }, ticks: { color: role("soft"), ...more.ticks },
  });
  const draw = (id, datasets, x, y) => {
    const box = $(id).closest("figure, section"), empty = !datasets.some(d => (d.rows || []).length);
    if (id !== "ticked") box.hidden = empty;
    if (empty) return;
    const seen = item => item && item.chart.data.datasets[item.datasetIndex].rows?.[item.dataIndex];
    const settings = {
      animation: false, responsive: true, maintainAspectRatio: false, normalized: false,
      interaction: { mode: "nearest", intersect: true },
      scales: { x, y },
      onClick: (_, items, chart) => open(items.length && chart.data.datasets[items[0].datasetIndex].rows?.[items[0].index]),
      onHover: (event, items, chart) => {
        const row = items.length && chart.data.datasets[items[0].datasetIndex].rows?.[items[0].index];
        event.native.target.style.cursor = row && row.report ? "pointer" : "";
      },
      plugins: {
        legend: { display: id === "ticked", labels: { color: role("ink"), filter: item => item.text !== undefined && item.text !== "" } },
        tooltip: {
          filter: seen, displayColors: false,
          callbacks: { title: () => "", label: item => { const row = seen(item); return row ? [row.name, `${number(item.parsed.x)}, ${number(item.parsed.y)}`, `best ${words(target)}: ${row.best[target] ? within(row.best[target]) : "–"}`] : ""; } },
        },
      },
    };
    const chart = charts.get(id);
    if (chart) { chart.data.datasets = datasets; chart.options = settings; chart.update("none"); }
    else charts.set(id, new Chart($(id), { type: "scatter", data: { datasets }, options: settings }));
  };
  const fifths = scale => { scale.ticks = [...Array(16).keys()].map(i => ({ value: (i - 10) / 5 })).filter(t => t.value >= scale.min - 1e-9 && t.value <= scale.max); };
  const unit = (title, more) => axis(title, { suggestedMin: 0, max: 1.03, afterBuildTicks: fifths, ticks: { callback: v => number(v, 1) }, ...more });
  const spcAxis = () => unit(`SPC ${words(target)}`);
  const depthAxis = () => unit("relative depth", { min: 0, max: 1.01 });
  const quantile = (sorted, q) => { const i = q * (sorted.length - 1), k = Math.floor(i); return sorted[k] + (i - k) * ((sorted[k + 1] ?? sorted[k]) - sorted[k]); };
  const at = (depth, values, d) => {
    if (d < depth[0] || !depth.length) return null;
    let k = depth.findIndex(v => v >= d - 1e-9);
    if (k < 0) return null;
    if (k === 0) return values[0];
    const part = (d - depth[k - 1]) / (depth[k] - depth[k - 1]);
    return values[k - 1] + part * (values[k] - values[k - 1]);
  };
  const line = (members, shade, width) => {
    const points = [], keys = [];
    members.forEach(row => {
      const [depth, values] = row.curves[target];
      depth.forEach((d, i) => { if (values[i] !== null) { points.push({ x: d, y: values[i] }); keys.push(row); } });
      points.push({ x: NaN, y: NaN }); keys.push(null);
    });
    return { data: points, rows: keys, showLine: true, borderColor: shade, backgroundColor: shade, borderWidth: width, pointRadius: members.length > 60 ? 0 : 2, pointHitRadius: 6, pointHoverRadius: 5 };
  };
  const band = (members, shade) => {
    const steps = [...Array(21).keys()].map(i => i / 20), middle = [], low = [], high = [];
    steps.forEach(d => {
      const values = members.map(row => at(...row.curves[target].slice(0, 2), d)).filter(v => v !== null).sort((a, b) => a - b);
      if (values.length < Math.max(2, members.length / 2)) return;
      middle.push({ x: d, y: quantile(values, 0.5) });
      low.push({ x: d, y: quantile(values, 0.25) });
      high.push({ x: d, y: quantile(values, 0.75) });
    });
    const shared = { showLine: true, pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0 };
    return [
      { ...shared, data: middle, borderColor: shade, borderWidth: 3 },
      { ...shared, data: low, borderWidth: 0, borderColor: "transparent" },
      { ...shared, data: high, borderWidth: 0, borderColor: "transparent", fill: "-1", backgroundColor: `${shade}33` },
    ];
  };
  const scatter = (members, x, y = score) => {
    const known = members.filter(row => x(row) !== null && x(row) !== undefined && y(row) !== null);
    return [{
      data: known.map(row => ({ x: x(row), y: y(row) })), rows: known, pointRadius: 4, pointHoverRadius: 6, pointHitRadius: 3,
      pointBorderColor: known.map(colour), pointBorderWidth: 1.5,
      pointBackgroundColor: known.map(row => row.random ? "transparent" : colour(row)),
    }];
  };
  const pictures = () => {
    const group = Number($("group").value || 0), members = visible.filter(row => row.group === group);
    const curved = members.filter(row => row.curves[target] && row.curves[target][0].length);
    const large = [...colours].map(([family, shade]) => [curved.filter(row => row.family === family), shade]).filter(([m]) => m.length > 2);
    draw("depth", [
      ...large.flatMap(([m, shade]) => band(m, shade)),
      ...[...colours].map(([family, shade]) => line(curved.filter(row => row.family === family), curved.length > 8 ? `${shade}66` : shade, 1)),
      line(curved.filter(row => !colours.has(row.family)), `${role("strong")}66`, 1),
    ], depthAxis(), spcAxis());
    draw("by-parameters", scatter(members, row => row.parameters ? millions(row.parameters) : null), axis("parameters, millions", { type: "logarithmic" }), spcAxis());
    const depths = new Set(members.map(row => row.layers));
    draw("by-layers", scatter(depths.size > 1 ? members : [], row => row.layers), axis("probed layers", { ticks: { precision: 0 } }), spcAxis());
    draw("by-accuracy", scatter(members, row => row.top1), axis("ImageNet top-1 (%)"), spcAxis());
    const base = row => row.model.split(".")[0], draws = new Map();
    rows.filter(row => row.group === group && row.random && score(row) !== null).forEach(row => draws.set(base(row), [...(draws.get(base(row)) || []), score(row)]));
    const mean = row => { const d = draws.get(base(row)); return d ? d.reduce((a, b) => a + b) / d.length : null; };
    const pairs = scatter(members.filter(row => !row.random), mean);
    if (pairs[0].rows.length) pairs.push({ data: [{ x: 0, y: 0 }, { x: 1, y: 1 }], showLine: true, pointRadius: 0, pointHitRadius: 0, borderColor: role("strong"), borderDash: [4, 4], borderWidth: 1 });
    draw("by-random", pairs, unit("SPC, random weights"), unit("SPC, trained"));
  };
  const overlay = () => {
    const chosen = [...ticked].map(id => rows[id]).filter(row => row.curves[target]);
    $("bar").hidden = !ticked.size;
    $("count").textContent = ticked.size === 1 ? "1 network ticked: tick another to lay them over one another" : `${ticked.size} networks ticked`;
    $("see").hidden = $("overlay").hidden = ticked.size < 2;
    if (ticked.size < 2) return;
    const datasets = chosen.flatMap((row, i) => {
      const [depth, , low, high] = row.curves[target], shade = data.palette[i % data.palette.length];
      const bound = ends => depth.map((x, k) => ({ x, y: ends[k] ?? NaN }));
      const shared = { showLine: true, pointRadius: 0, pointHitRadius: 0, borderWidth: 0, borderColor: "transparent", label: "" };
      return [
        { ...line([row], shade, 2), pointRadius: 3, label: row.name, borderDash: i < data.palette.length ? [] : [5, 3] },
        { ...shared, data: bound(low) },
        { ...shared, data: bound(high), fill: "-1", backgroundColor: `${shade}2e` },
      ];
    });
    draw("ticked", datasets, depthAxis(), spcAxis());
  };

  // filters
  const fits = row => {
    const asked = $("name").value.toLowerCase().split(/\s+/).filter(Boolean), most = parseFloat($("size").value);
    const family = $("family").value, kind = $("weights").value, source = $("source").value;
    return asked.every(w => row.find.includes(w)) && (!family || row.family === family)
      && (!kind || row.random === (kind === "random")) && (!source || (share(row, source) ?? -1) >= 0.5)
      && (Number.isNaN(most) || (row.parameters !== null && millions(row.parameters) <= most));
  };
  let waiting = 0;
  const refresh = () => {
    visible = rows.filter(fits);
    tables.forEach(table => table.setFilter(fits));
    $("shown").textContent = visible.length === rows.length ? "" : `${visible.length} of ${rows.length} networks`;
    clearTimeout(waiting);
    waiting = setTimeout(pictures, 120);
  };
  const say = () => $("findings").replaceChildren(...(data.findings[target] || []).map(sentence => element("li", sentence)));
  ["name", "size"].forEach(id => $(id).addEventListener("input", refresh));
  ["family", "weights", "source"].forEach(id => $(id).addEventListener("change", refresh));
  $("group").addEventListener("change", pictures);
  $("target").addEventListener("change", () => {
    target = $("target").value;
    say();
    refresh();
    tables.forEach(table => { table.getRows("active").forEach(row => row.reformat()); table.setSort("rank", "asc"); });
    overlay();
  });
  $("see").addEventListener("click", () => $("overlay").scrollIntoView());
  $("clear").addEventListener("click", () => {
    ticked.clear();
    document.querySelectorAll("#tables input[type=checkbox]").forEach(box => { box.checked = false; });
    overlay();
  });
  media.addEventListener("change", () => { pictures(); overlay(); });
  say();
  pictures();
})();
