// What the page does beside its tables, which need none of this: it asks for itself again and puts in what is new, without
// a change to what is open, focused or scrolled; it draws the charts; it keeps the address in step with what is shown.
'use strict';
(() => {
  const body = document.body;
  const news = document.getElementById('news');
  const offset = Number(body.dataset.offset); // of the server's clock face, in seconds
  let seconds = Number(body.dataset.refresh); // 0: off
  let timer = 0;
  let pending = null; // the request that is on its way
  let shown = location.search; // what was asked for last

  // ---- what is new ----

  // morph makes an element like another one. Elements with an id are the same ones as before wherever they are; what a
  // person did (open, typed, selected) stays, and so does what a script drew (data-keep).
  function morph(old, fresh) {
    if (old.isEqualNode(fresh) || old.hasAttribute('data-keep')) return;
    for (const {name} of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === 'open' || name === 'tabindex')) old.removeAttribute(name);
    }
    for (const {name, value} of fresh.attributes) {
      if (name !== 'open' && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const ids = new Set([...fresh.children].map((c) => c.id).filter(Boolean));
    for (const child of [...old.children]) if (child.id && !ids.has(child.id)) child.remove();
    const known = new Map([...old.children].filter((c) => c.id).map((c) => [c.id, c]));
    let at = old.firstChild;
    for (const next of fresh.childNodes) {
      let match = next.id ? known.get(next.id) : null;
      if (!match && at && at.nodeType === next.nodeType && at.nodeName === next.nodeName && !at.id && !next.id) match = at;
      if (!match) {
        old.insertBefore(document.importNode(next, true), at);
        continue;
      }
      if (match === at) at = at.nextSibling; else old.insertBefore(match, at);
      if (match.nodeType === Node.ELEMENT_NODE) morph(match, next);
      else if (match.data !== next.data) match.data = next.data;
    }
    while (at) {
      const rest = at.nextSibling;
      at.remove();
      at = rest;
    }
  }

  const decisions = () => [...document.querySelectorAll('tr[id^="d-"]')];

  function replace(fresh) {
    const before = new Set(decisions().map((d) => d.id));
    const focused = document.activeElement;
    for (const part of ['header', 'main']) morph(document.querySelector(part), fresh.querySelector(part));
    document.title = fresh.title;
    seconds = Number(fresh.body.dataset.refresh);
    if (focused !== document.activeElement && focused.isConnected) focused.focus({preventScroll: true});
    const added = decisions().filter((d) => !before.has(d.id));
    if (before.size && added.length) {
      for (const d of added) d.classList.add('new');
      say(`${added.length} new: ${[...added[0].cells].slice(1, 4).map((c) => c.textContent.trim()).join(', ')}`);
    }
    reachable();
    charts();
    forecast();
  }

  // say tells it to those who do not see it.
  function say(text) {
    if (news && news.textContent !== text) news.textContent = text;
  }

  function failed(why) {
    const at = document.getElementById('updated');
    at.classList.add('bad');
    if (!at.dataset.since) at.dataset.since = at.textContent.trim();
    at.textContent = `${why}; shown as of ${at.dataset.since}`;
    say(why);
  }

  async function refresh() {
    if (pending) pending.abort();
    const mine = pending = new AbortController();
    shown = location.search;
    try {
      const response = await fetch(location.href, {signal: mine.signal, headers: {Accept: 'text/html'}, cache: 'no-store'});
      if (!(response.headers.get('Content-Type') || '').startsWith('text/html')) throw new Error(`flyball answers ${response.status}`);
      const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
      if (mine.signal.aborted) return;
      if (fresh.body.dataset.build !== body.dataset.build) { // another version has come in its place
        location.reload();
        return;
      }
      const at = document.getElementById('updated');
      at.classList.remove('bad');
      delete at.dataset.since;
      replace(fresh);
    } catch (err) {
      if (!mine.signal.aborted) failed(err instanceof TypeError ? 'flyball does not answer' : err.message);
    } finally {
      if (pending === mine) {
        pending = null;
        schedule();
      }
    }
  }

  function schedule() {
    clearTimeout(timer);
    if (seconds > 0) timer = setTimeout(() => document.hidden ? schedule() : refresh(), seconds * 1000);
  }

  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && seconds > 0) refresh();
  });

  // ---- the address ----

  function setParameter(name, value) {
    const url = new URL(location.href);
    if (value) url.searchParams.set(name, value); else url.searchParams.delete(name);
    history.replaceState(null, '', url);
    shown = location.search;
  }

  document.addEventListener('click', (e) => {
    const link = e.target.closest('a');
    if (!link || e.button || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
    if (link.id === 'refresh') {
      e.preventDefault();
      stopOrGo(link);
    } else if (link.hasAttribute('data-soft')) {
      e.preventDefault();
      const url = new URL(link.href);
      if (!seconds) url.searchParams.set('refresh', 'off');
      history.pushState(null, '', url);
      refresh();
    }
  });

  function stopOrGo(link) {
    if (seconds > 0) {
      seconds = 0;
      clearTimeout(timer);
      if (pending) pending.abort();
      pending = null;
      setParameter('refresh', 'off');
      link.textContent = 'refresh every 5 s';
      say('refreshing stopped');
    } else {
      seconds = 5;
      setParameter('refresh', '');
      link.textContent = 'stop refreshing';
      say('refreshing every 5 seconds');
      refresh();
    }
  }

  // Back and forth between addresses shows what they show; a jump to a part of the page changes nothing on it.
  window.addEventListener('popstate', () => {
    if (location.search !== shown) refresh();
  });

  // The freeze form leads back to what is shown when it is sent.
  document.addEventListener('submit', (e) => {
    if (e.target.elements.back) e.target.elements.back.value = location.search.slice(1);
  });

  // An open decision is in the address, so that a copy of it shows the same.
  document.addEventListener('toggle', (e) => {
    const id = e.target.dataset && e.target.dataset.decision;
    if (!id) return;
    const linked = new URL(location.href).searchParams.get('decision');
    if (e.target.open) setParameter('decision', id);
    else if (linked === id) setParameter('decision', '');
    reachable();
  }, true);

  // A box that scrolls can be scrolled by keyboard.
  function reachable() {
    for (const box of document.querySelectorAll('.box, .trace')) {
      if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) {
        box.tabIndex = 0;
        box.setAttribute('role', 'region');
        const caption = box.querySelector('caption');
        if (caption) box.setAttribute('aria-label', caption.textContent);
      } else {
        for (const name of ['tabindex', 'role', 'aria-label']) box.removeAttribute(name);
      }
    }
  }

  // ---- charts ----

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
  const palette = ['#1f5fd0', '#c2410c', '#1a7f4b', '#8b3fc7', '#b0307a', '#0f7c8a', '#8a6d00', '#5b6472'];
  const paletteDark = ['#6ea8ff', '#ffa15c', '#5ccf8f', '#c99bff', '#ff8ec4', '#5fd0de', '#e0c14a', '#b4bdca'];
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const drawn = new Map(); // by container
  const height = (plot) => plot.closest('#graph, #ahead') ? 320 : 170;

  // The clock face of a chart is the server's, as in the tables.
  const face = (ts) => new Date((ts + offset + new Date(ts * 1e3).getTimezoneOffset() * 60) * 1e3);

  function number(v) {
    if (v === null || v === undefined) return '–';
    const a = Math.abs(v);
    if (a >= 1e15 || (a > 0 && a < 1e-3)) return v.toExponential(2);
    return a >= 100 || Number.isInteger(v) ? v.toFixed(0) : v.toPrecision(3);
  }

  async function query(expr, start, end, step) {
    const form = new URLSearchParams({query: expr, start, end, step});
    const response = await fetch('/api/v1/query_range?' + form, {cache: 'no-store'});
    const answer = await response.json();
    if (answer.status !== 'success') throw new Error(answer.error || `flyball answers ${response.status}`);
    return answer.data.result;
  }

  // columns puts series on one time axis; a time without a sample is a gap.
  function columns(all, start, step, n) {
    const times = Array.from({length: n}, (_, i) => start + i * step);
    return [times, ...all.map((series) => {
      const column = new Array(n).fill(null);
      for (const [t, v] of series ? series.values : []) {
        const i = Math.round((t - start) / step);
        const value = Number(v);
        if (i >= 0 && i < n && Number.isFinite(value)) column[i] = value;
      }
      return column;
    })];
  }

  // span is the times that a chart asks for: as many as it has pixels for.
  function span(range, until) {
    const step = Math.max(1, Math.ceil(range / 450));
    const end = Math.floor((until || Date.now() / 1e3) / step) * step;
    const n = Math.floor(range / step) + 1;
    return {start: end - (n - 1) * step, end, step, n};
  }

  // draw makes or updates the chart in a container. Series that changed in number or name make a new one.
  function draw(plot, series, axes, scales, data, label, more = {}) {
    const key = JSON.stringify([label, series.map((s) => s.label), dark.matches]);
    const chart = drawn.get(plot);
    if (chart && chart.key === key) {
      chart.plot.setData(data);
      latest(chart.plot);
      return;
    }
    if (chart) chart.plot.destroy();
    plot.setAttribute('role', 'img');
    plot.setAttribute('aria-label', label);
    const options = {
      width: Math.max(240, plot.clientWidth), height: height(plot), tzDate: face, scales,
      series: [{label: 'at', value: (_, v) => v === null ? '–' : face(v).toTimeString().slice(0, 8)}, ...series],
      axes: axes.map((a) => ({
        stroke: color('dim'), grid: {stroke: color('grid'), width: 1}, ticks: {stroke: color('grid'), width: 1}, font: '11px system-ui, sans-serif', ...a,
      })),
      cursor: {sync: {key: 'time'}, drag: {x: false, y: false}, points: {size: 6}},
      hooks: {setCursor: [latest]}, ...more,
    };
    const made = new uPlot(options, data, plot);
    drawn.set(plot, {key, plot: made});
    latest(made);
    sizes.observe(plot);
  }

  // latest has the legend say the last values while no time is pointed at.
  function latest(u) {
    if (u.cursor.idx === null || u.cursor.idx === undefined) u.setLegend({idx: (u.now || u.data[0].length) - 1}, false);
  }

  // clock writes times as the tables do, with the date where a day begins.
  function clock(_, splits, axis, space, step) {
    return splits.map((t, i) => {
      const at = face(t);
      const time = at.toTimeString().slice(0, step < 60 ? 8 : 5);
      const day = `${at.toLocaleString('en', {month: 'short'})} ${at.getDate()}`;
      return step >= 86400 ? day : time === '00:00' && i > 0 ? day : time;
    });
  }

  const sizes = new ResizeObserver((entries) => {
    for (const {target, contentRect} of entries) {
      const chart = drawn.get(target);
      if (chart && chart.plot.width !== Math.floor(contentRect.width)) {
        chart.plot.setSize({width: Math.max(240, Math.floor(contentRect.width)), height: height(target)});
      }
    }
  });

  const stepped = uPlot.paths.stepped({align: 1});
  const whole = (_, values) => values.map((v) => Number.isInteger(v) ? v : '');
  const fromZero = (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1];

  // past asks for several expressions over a time. Where there are samples for less than half of it, which is so in
  // the first hour of a flyball, it asks for the time that has some. Where there are none, the first ones may have come
  // since the last step, and it asks for what came since.
  const young = new Map(); // the first sample by what was asked, so that a refresh asks once

  async function past(exprs, range, until) {
    const ask = (time) => Promise.all(exprs.map((e) => query(e, time.start, time.end, time.step)));
    const key = JSON.stringify([exprs, range]);
    const since = young.get(key);
    let time = span(since ? Math.min(range, Math.max(60, Date.now() / 1e3 - since)) : range, until);
    let answers = await ask(time);
    const first = Math.min(...answers.flat().map((s) => s.values[0][0]));
    if (!since && first > time.start + range / 2) {
      const from = Math.min(first, time.end + time.step) - time.step; // it may have begun between two steps
      if (!until && Number.isFinite(first)) young.set(key, from);
      time = span(Math.max(60, time.end + time.step - from), until);
      answers = await ask(time);
    }
    return {time, answers};
  }

  // charts draws demand, desired and ready replicas of each rule that has a place for it.
  async function charts() {
    for (const [plot, chart] of drawn) {
      if (!plot.isConnected) {
        chart.plot.destroy();
        sizes.unobserve(plot);
        drawn.delete(plot);
      }
    }
    const box = document.getElementById('charts');
    if (!box) return;
    let time;
    let answers;
    try {
      ({time, answers} = await past([box.dataset.demand, box.dataset.desired, box.dataset.ready], Number(box.dataset.range)));
    } catch (err) {
      say(`the charts have no data: ${err.message}`);
      return;
    }
    const {start, step, n} = time;
    for (const figure of box.querySelectorAll('figure[data-rule]')) {
      const of = (answer) => answer.filter((s) => s.metric.rule === figure.dataset.rule);
      const [demand, [desired], [ready]] = answers.map(of);
      const plot = figure.querySelector('.plot');
      if (!demand.length && !desired && !ready) continue;
      const lines = dark.matches ? paletteDark : palette;
      const value = (_, v) => number(v);
      draw(plot, [
        ...demand.map((s, i) => ({label: s.metric.signal, scale: 'demand', stroke: i ? lines[(i + 2) % lines.length] : color('demand'), width: 1.5, points: {show: false}, value})),
        {label: 'ready', scale: 'replicas', stroke: color('ready'), fill: color('ready') + '22', width: 1.5, paths: stepped, points: {show: false}, value},
        {label: 'desired', scale: 'replicas', stroke: color('desired'), width: 2, dash: [5, 3], paths: stepped, points: {show: false}, value},
      ], [{values: clock, size: 26, space: 75}, {scale: 'demand', size: 50, space: 24}, {scale: 'replicas', side: 1, size: 36, grid: {show: false}, values: whole}],
      {x: {}, demand: {range: fromZero}, replicas: {range: fromZero}},
      columns([...demand, ready, desired], start, step, n),
      `${figure.dataset.rule}: demand, desired and ready replicas over time; the same is in the table below`);
    }
  }

  // forecast draws the value, what was forecast of it a lead before, and what comes.
  async function forecast() {
    const figure = document.getElementById('ahead');
    if (!figure) return;
    const plot = figure.querySelector('.plot');
    const {forecast: name, series: text, query: expr, past: before, range} = figure.dataset;
    try {
      const [{time: {start, step, n}, answers: [values, said]}, standing] = await Promise.all([
        past([expr, before], Number(range)),
        fetch('/api/v1/flyball/forecasts?' + new URLSearchParams({name}), {cache: 'no-store'}).then((r) => r.json()),
      ]);
      const rule = standing.data[0];
      const one = rule && rule.series.find((s) => pairs(s.labels) === text);
      if (!one) return;
      const own = ['__name__', 'quantile', 'horizon', 'forecast'];
      const same = (s) => pairs(Object.fromEntries(Object.entries(s.metric).filter(([k]) => !own.includes(k)))) === text;
      const levels = [...rule.levels].sort((a, b) => a - b);
      const of = (level) => said.find((s) => same(s) && Number(s.metric.quantile) === level);
      const data = columns([values.find(same), ...levels.map(of)], start, step, n);
      const now = data[0][n - 1];
      for (const point of one.points) {
        const at = Date.parse(point.time) / 1e3;
        if (at <= now) continue;
        data[0].push(at);
        data[1].push(null);
        levels.forEach((level, i) => data[i + 2].push(point.quantiles[level] ?? null));
      }
      if (data.slice(1).every((column) => column.every((v) => v === null))) return;
      const value = (_, v) => number(v);
      const edge = Math.floor(levels.length / 2);
      draw(plot, [
        {label: 'value', stroke: color('demand'), width: 1.5, points: {show: false}, value},
        ...levels.map((level, i) => ({
          label: `p${+(100 * level).toFixed(4)}`, stroke: color('desired'), width: i === edge ? 2 : 1, dash: i === edge ? [] : [5, 3], points: {show: false}, value,
        })),
      ], [{values: clock, size: 26, space: 75}, {size: 60, space: 24}], {x: {}, y: {range: fromZero}}, data,
      `${name} ${text} over time: the value, what was forecast for it a lead before, and what comes; the same is in the table below`,
      levels.length > 1 ? {bands: [{series: [levels.length + 1, 2], fill: color('desired') + '22'}]} : {});
      const chart = drawn.get(plot).plot;
      chart.now = n; // what comes is no last value
      latest(chart);
    } catch (err) {
      say(`the chart has no data: ${err.message}`);
    }
  }

  // pairs are labels as the server writes a series.
  function pairs(labels) {
    return `{${Object.keys(labels).sort().map((k) => `${k}=${JSON.stringify(labels[k])}`).join(', ')}}`;
  }

  // graph draws the expression of the page /graph.
  async function graph() {
    const figure = document.getElementById('graph');
    if (!figure) return;
    const plot = figure.querySelector('.plot');
    try {
      const {time: {start, step, n}, answers: [all]} = await past([figure.dataset.expr], Number(figure.dataset.range), Number(figure.dataset.end));
      const drawnSeries = all.slice(0, 20);
      const lines = dark.matches ? paletteDark : palette;
      if (!drawnSeries.length) {
        plot.textContent = 'No samples in this time.';
        return;
      }
      draw(plot, drawnSeries.map((s, i) => ({
        label: name(s.metric), stroke: lines[i % lines.length], width: 1.5, value: (_, v) => number(v),
      })), [{values: clock, size: 26, space: 75}, {size: 60, space: 24}], {x: {}}, columns(drawnSeries, start, step, n), `${figure.dataset.expr} over time`);
      if (all.length > drawnSeries.length) say(`the first ${drawnSeries.length} of ${all.length} series are drawn`);
    } catch (err) {
      plot.textContent = `The chart has no data: ${err.message}`;
    }
  }

  function name(metric) {
    const {__name__, ...rest} = metric;
    const pairs = Object.entries(rest).map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(', ');
    return (__name__ || '') + (pairs || !__name__ ? `{${pairs}}` : '');
  }

  dark.addEventListener('change', () => {
    charts();
    forecast();
    graph();
  });
  window.addEventListener('resize', reachable);

  const linked = document.querySelector('details[data-decision][open]');
  if (linked) linked.closest('tr').scrollIntoView({block: 'center', inline: 'start'});
  reachable();
  charts();
  forecast();
  graph();
  schedule();
})();
