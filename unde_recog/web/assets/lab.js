// The lab: one request as the log tells it, for the data scientist.
import { HUES, Problem, accessKey, brandName, category, getJson, h, headers, keyForm, languageSwitch, locked, moment, number, productPicture, repaint, say, svg, t } from './kit.js';

const $ = (id) => document.getElementById(id);
const FIRST = 10; // rows of a list that are shown at once
const state = { id: '', trail: null, latest: null, problem: null, locked: null, photo: null, all: new Set() };
const hue = (n) => `var(--hue-${n % HUES})`;
const known = (value) => value !== null && value !== undefined;
const score = (value) => (known(value) ? number(value, Math.abs(value) > 1.5 ? 1 : 3) : '–');
const keyOf = (row) => `${row.brand}/${row.external_id}`;

// --- which requests: what is asked for is kept in the address ----------------------------------------------------------
const KINDS = ['exact', 'similar', 'style', 'none'];
const asked = () => new URLSearchParams([...new FormData($('search'))].filter(([, value]) => value));
function paintSearch() { // the choices, in the language of the page
  const form = $('search').elements, keep = { match_type: form.match_type.value, degraded: form.degraded.value };
  const choices = (name, options) => { repaint(form[name], h('option', { value: '' }, t('lab_any')), options.map(([value, text]) => h('option', { value }, text))); form[name].value = options.some(([v]) => v === keep[name]) ? keep[name] : ''; };
  const codes = [...new Set([keep.degraded, ...(state.latest ?? []).flatMap((r) => r.degraded ?? [])])].filter((c) => c && c !== 'any').sort();
  choices('match_type', KINDS.map((kind) => [kind, t(kind)]));
  choices('degraded', [['any', t('lab_anything')], ...codes.map((code) => [code, code])]);
}
async function search() {
  const key = accessKey();
  try { state.latest = (await getJson(`api/v1/requests?limit=50&${asked()}`)).requests ?? []; } catch (e) { state.latest = null; state.locked = locked(e, key); }
  paintSearch();
  paintLatest();
}
async function saveCsv() { // fetched, for an address could not carry the key
  try {
    const response = await fetch(`api/v1/requests.csv?limit=200&${asked()}`, { headers: headers() });
    if (!response.ok) throw await Problem.of(response);
    const url = URL.createObjectURL(await response.blob());
    h('a', { href: url, download: 'requests.csv' }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  } catch (e) { say(e instanceof Problem ? e.kind : t('failed')); }
}
async function putOnList(on) {
  try {
    const response = await fetch(`api/v1/requests/${encodeURIComponent(state.id)}/labelling`, on ? { method: 'PUT', headers: headers({ 'Content-Type': 'application/json' }), body: '{}' } : { method: 'DELETE', headers: headers() });
    if (!response.ok) throw await Problem.of(response);
    for (const r of state.latest ?? []) if (r.request_id === state.id) r.listed = on;
    if (state.trail) state.trail.listed = on;
    say(t(on ? 'lab_onList' : 'lab_offList'));
  } catch (e) { say(e instanceof Problem ? e.kind : t('failed')); }
  paintTrail();
  paintLatest();
}

// --- the latest requests --------------------------------------------------------------------------------------------
function paintLatest() {
  if (state.latest === null) return repaint($('latest-list'), h('p', { class: 'soft' }, t('lab_noList')));
  if (!state.latest.length) return repaint($('latest-list'), h('p', { class: 'soft' }, t('lab_emptyList')));
  const kinds = (r) => [...new Set(r.match_types ?? [])].map((kind) => { const n = r.match_types.filter((k) => k === kind).length; return h('span', { class: `verdict ${kind}` }, `${t(kind)}${n > 1 ? ` ×${n}` : ''}`); });
  const rows = state.latest.map((r) => h('tr', { class: r.request_id === state.id ? 'told' : null }, h('td', {}, h('a', { href: `lab?id=${encodeURIComponent(r.request_id)}`, 'data-key': `open-${r.request_id}`, onclick: (e) => { if (e.ctrlKey || e.metaKey || e.shiftKey) return; e.preventDefault(); open(r.request_id); } }, h('code', {}, r.request_id.slice(0, 8)), '…'), r.listed && h('span', { class: 'verdict' }, t('lab_listed'))),
    h('td', {}, known(r.created_at) ? moment(r.created_at) : '–'), h('td', {}, r.user_mall ?? '–'), h('td', {}, h('span', { class: 'kinds' }, kinds(r))), h('td', { class: 'num' }, score(r.pgvector_top1_score)), h('td', {}, yes(r.used_ximilar_booster) ?? '–'), h('td', { class: 'num' }, r.credits ?? '–'),
    h('td', {}, (r.degraded ?? []).join(', ') || '–'), h('td', { class: 'num' }, known(r.total_time_ms) ? t('lab_ms', { n: number(r.total_time_ms) }) : '–')));
  repaint($('latest-list'), table([['lab_id'], ['lab_when'], ['lab_mall'], ['lab_garments'], ['lab_least', 'num'], ['lab_booster'], ['lab_credits', 'num'], ['lab_degraded'], ['lab_total', 'num']], rows, t('lab_latest')));
}
const table = (columns, rows, name) => h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': name }, h('table', {}, h('thead', {}, h('tr', {}, columns.map(([key, kind]) => h('th', { scope: 'col', class: kind }, t(key))))), h('tbody', {}, rows)));

// --- pictures drawn from numbers ------------------------------------------------------------------------------------
function scene(trail) { // the boxes, over the photo if it is kept
  const items = trail.items.filter((i) => i.box);
  const width = trail.width ?? Math.max(1, ...items.map((i) => i.box[2])), height = trail.height ?? Math.max(1, ...items.map((i) => i.box[3])), unit = Math.max(width, height) / 40;
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, class: 'scene', role: 'img', 'aria-label': t('photoAlt', { n: items.length }) },
    state.photo && trail.width && svg('image', { href: state.photo, width, height, preserveAspectRatio: 'none' }),
    items.map((i) => svg('g', { vars: { '--hue': hue(i.item_index) } }, svg('rect', { x: i.box[0], y: i.box[1], width: i.box[2] - i.box[0], height: i.box[3] - i.box[1], rx: unit / 3 }),
      svg('circle', { cx: i.box[0] + unit * 1.2, cy: i.box[1] + unit * 1.2, r: unit, vars: { fill: hue(i.item_index) } }), svg('text', { x: i.box[0] + unit * 1.2, y: i.box[1] + unit * 1.65, 'text-anchor': 'middle', vars: { 'font-size': `${unit * 1.25}px` } }, i.item_index + 1))));
  const pick = h('input', { type: 'file', accept: 'image/*', hidden: true, onchange: (e) => show(e.target.files[0]) });
  const note = state.photo ? null : trail.photo ? state.photoLost && t('lab_photoLost') : t('lab_photoGone');
  return h('div', {}, h('h2', {}, t('lab_photo')), picture, note && h('p', { class: 'quiet-note' }, note), note && trail.width && h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'data-key': 'pick', onclick: () => pick.click() }, t('lab_photoPick')), pick));
}
function show(file) { // a picture of this device or of the service, under the boxes
  if (state.photo) URL.revokeObjectURL(state.photo);
  state.photo = file ? URL.createObjectURL(file) : null;
  if (state.trail) paintTrail();
}
async function fetchPhoto(trail) { // with the key, which an address could not carry
  try {
    const response = await fetch(trail.photo, { headers: headers() });
    if (!response.ok) throw await Problem.of(response);
    const photo = await response.blob();
    if (state.trail === trail) show(photo);
  } catch { if (state.trail === trail) { state.photoLost = true; paintTrail(); } }
}
const STEPS = [['lab_detect', 'detection_time_ms'], ['lab_search', 'search_time_ms'], ['lab_tag', 'tagging_time_ms'], ['lab_availability', 'availability_time_ms'], ['lab_rerank', 'rerank_time_ms'], ['lab_total', 'total_time_ms']];
function times(trail) {
  const rows = STEPS.map(([name, column]) => [t(name), trail[column]]).filter(([, ms]) => known(ms)), most = Math.max(1, ...rows.map(([, ms]) => ms)), left = 118, long = matchMedia('(max-width: 640px)').matches ? 150 : 400, tall = 34;
  const told = rows.map(([name, ms]) => `${name} ${t('lab_ms', { n: number(ms) })}`).join(', ');
  return h('div', {}, h('h2', {}, t('lab_times')), svg('svg', { viewBox: `0 0 ${left + long + 92} ${rows.length * tall}`, class: 'chart', role: 'img', 'aria-label': `${t('lab_times')}: ${told}` },
    rows.map(([name, ms], k) => svg('g', {}, svg('text', { x: left - 12, y: k * tall + 20, 'text-anchor': 'end' }, name), svg('rect', { class: 'track', x: left, y: k * tall + 7, width: long, height: 18, rx: 5 }),
      svg('rect', { class: 'bar-of', x: left, y: k * tall + 7, width: Math.max(2, ms / most * long), height: 18, rx: 5 }), svg('text', { class: 'value', x: left + long + 10, y: k * tall + 20 }, t('lab_ms', { n: number(ms) }))))), h('p', { class: 'quiet-note' }, t('lab_timesNote')));
}
function against(name, value, threshold, top) { // a value on its scale, with the line it had to pass
  const long = 260, at = (v) => Math.max(0, Math.min(1, v / top)) * long, words = `${name}: ${known(threshold) ? t('lab_rule', { value: score(value), threshold: score(threshold) }) : score(value)}`;
  return [h('p', {}, words), svg('svg', { viewBox: `0 0 ${long} 18`, class: 'chart', role: 'img', 'aria-label': words }, svg('rect', { class: 'track', x: 0, y: 4, width: long, height: 10, rx: 4 }), known(value) && svg('rect', { class: 'bar-of', x: 0, y: 4, width: Math.max(2, at(value)), height: 10, rx: 4 }), known(threshold) && svg('line', { class: 'limit', x1: at(threshold), x2: at(threshold), y1: 0, y2: 18 }))];
}

// --- one garment ----------------------------------------------------------------------------------------------------
const verdict = (sure) => h('span', { class: `verdict ${sure === true ? 'exact' : sure === false ? 'similar' : ''}` }, t(sure === true ? 'lab_confident' : sure === false ? 'lab_notConfident' : 'lab_unknown'));
function gates(item) {
  const booster = item.settings ?? {}, asked = item.used_ximilar_booster, tops = [item.pgvector_margin, item.margin_threshold, item.pgvector_style_margin].filter(known), span = Math.max(0.2, ...tops) * 1.15;
  const passed = !asked || !known(item.ximilar_top1_score) ? null : item.ximilar_top1_score >= (booster.XIMILAR_CONFIDENCE_THRESHOLD ?? 80) && (item.ximilar_margin ?? 0) >= (booster.XIMILAR_MARGIN ?? 10);
  return h('div', { class: 'gates' }, h('div', { class: 'gate' }, h('h3', {}, `${t('lab_gate')} · ${t('lab_primary')} `, verdict(item.gate_confident)), against(t('lab_top1'), item.pgvector_top1_score, item.confidence_threshold, 1), against(t('lab_margin'), item.pgvector_margin, item.margin_threshold, span), known(item.pgvector_style_margin) && against(t('lab_styleMargin'), item.pgvector_style_margin, null, span)),
    h('div', { class: 'gate' }, h('h3', {}, `${t('lab_gate')} · ${t('lab_booster')} `, asked ? verdict(passed) : h('span', { class: 'verdict' }, t('lab_notAsked'))), asked && [against(t('lab_top1'), item.ximilar_top1_score, booster.XIMILAR_CONFIDENCE_THRESHOLD, 100), against(t('lab_margin'), item.ximilar_margin, booster.XIMILAR_MARGIN, 50)]));
}
function rows(list, shown, name, index) {
  if (!list?.length) return h('div', {}, h('h3', {}, name), h('p', { class: 'soft' }, t('lab_empty')));
  const key = `${index}-${name}`, part = state.all.has(key) ? list : list.slice(0, FIRST), judged = part.some((c) => known(c.visual)), agreed = part.some((c) => known(c.semantic));
  const line = (c, k) => h('tr', { class: shown.has(keyOf(c)) ? 'told' : null }, h('td', { class: 'num' }, k + 1), h('td', {}, h('span', { class: 'of-product' }, thumb(c), h('span', {}, brandName(c.brand ?? ''), h('code', {}, c.external_id)))), h('td', { class: 'num' }, score(c.score), c.imputed?.length > 0 && h('small', {}, ` ${t('lab_imputed')}`)), judged && h('td', { class: 'num' }, score(c.visual)), agreed && h('td', { class: 'num' }, score(c.semantic)));
  return h('div', {}, h('h3', {}, `${name} · ${list.length}`), table([['lab_rank', 'num'], ['lab_product'], ['lab_score', 'num'], ...(judged ? [['lab_judge', 'num']] : []), ...(agreed ? [['lab_semantic', 'num']] : [])], part.map(line), `${name}, ${index + 1}`),
    part.length < list.length && h('button', { type: 'button', class: 'quiet', 'data-key': `more-${key}`, onclick: () => { state.all.add(key); paintTrail(); } }, t('lab_more', { n: list.length - part.length })));
}
function thumb(c) {
  return productPicture(c.brand, c.external_id, { class: 'thumb', alt: '', width: 34, height: 45 }, () => h('span', { class: 'thumb' }));
}
const facts = (pairs) => h('dl', { class: 'fact-row' }, pairs.filter(([, value]) => known(value) && value !== '').map(([name, value]) => h('div', { class: String(value).length > 60 ? 'wide' : null }, h('dt', {}, name), h('dd', {}, value))));
const tokens = (of) => Object.entries(of ?? {}).map(([name, n]) => `${name} ${number(n)}`).join(', ');
const yes = (value) => (known(value) ? t(value ? 'lab_yes' : 'lab_no') : null);
function garment(item) {
  const shown = new Set((item.final_matches ?? []).map(keyOf)), n = item.item_index;
  const list = (name, column) => (item[column]?.length || (column === 'ximilar_list' ? item.used_ximilar_booster : column !== 'explored_list')) && rows(item[column], shown, t(name), n);
  return h('section', { class: 'lab-item', 'aria-labelledby': `lab-item-${n}` }, h('h2', { id: `lab-item-${n}` }, h('span', { class: 'dot', vars: { '--hue': hue(n) } }, n + 1), category(item.category), h('span', { class: `verdict ${item.match_type}` }, t(item.match_type ?? 'none'))),
    facts([[t('lab_afterStock'), item.candidates_after_availability], [t('lab_credits'), item.credits], [t('lab_tokens'), tokens(item.tokens) || null], [t('lab_tagsPaid'), yes(item.used_ximilar_tagging)], [t('lab_reranked'), yes(item.reranked)], [t('lab_propensity'), known(item.propensity) ? score(item.propensity) : null],
      [t('tags'), Object.entries(item.tags ?? {}).map(([k, v]) => `${k}: ${v}`).join(', ')], [t('lab_degraded'), (item.degraded ?? []).join(', ') || t('lab_nothing')]]), gates(item),
    h('div', { class: 'lists' }, list('lab_final', 'final_matches'), list('lab_merged', 'merged_list'), list('lab_primary', 'pgvector_list'), list('lab_booster', 'ximilar_list'), list('lab_explored', 'explored_list')),
    h('details', {}, h('summary', { 'data-key': `settings-${n}` }, t('lab_settings')), h('pre', { tabindex: '0' }, JSON.stringify(item.settings ?? {}, null, 2))));
}

// --- the whole trail ------------------------------------------------------------------------------------------------
function paintTrail() {
  const p = state.problem, trail = state.trail;
  repaint($('trouble'), state.locked ? h('div', { class: state.locked === 'e401' ? 'key-ask' : 'problem' }, keyForm(state.locked, start)) : p && h('div', { class: 'problem' }, h('p', {}, h('b', {}, p.status === 404 ? t('lab_missing') : [400, 422].includes(p.status) ? t('lab_bad') : p.kind))));
  if (!trail) return repaint($('trail'));
  const sum = (column) => trail.items.reduce((all, i) => all + (i[column] ?? 0), 0), spent = {};
  for (const i of trail.items) for (const [name, n] of Object.entries(i.tokens ?? {})) spent[name] = (spent[name] ?? 0) + n;
  const left = trail.degraded ?? [...new Set(trail.items.flatMap((i) => i.degraded ?? []))];
  const listed = trail.listed ?? (state.latest ?? []).find((r) => r.request_id === state.id)?.listed ?? false;
  repaint($('trail'), h('section', { 'aria-labelledby': 'trail-name' }, h('h2', { id: 'trail-name', tabindex: '-1' }, `${t('request')} `, h('code', {}, state.id)),
    h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'aria-pressed': String(listed), 'data-key': 'listed', onclick: () => putOnList(!listed) }, t(listed ? 'lab_unlist' : 'lab_list'))),
    facts([[t('lab_when'), known(trail.created_at) ? moment(trail.created_at) : null], [t('lab_mall'), trail.user_mall], [t('lab_garments'), trail.items_detected ?? trail.items.length], [t('lab_matched'), trail.items_matched], [t('lab_total'), known(trail.total_time_ms) ? t('lab_ms', { n: number(trail.total_time_ms) }) : null],
      [t('lab_model'), [...new Set(trail.items.map((i) => i.model_version).filter(Boolean))].join(', ')], [t('lab_credits'), sum('credits')], [t('lab_tokens'), tokens(spent) || '0'], [t('lab_degraded'), left.join(', ') || t('lab_nothing')], [t('lab_feedback'), trail.user_feedback ? JSON.stringify(trail.user_feedback) : null]])),
  h('section', { class: 'lab-top' }, scene(trail), times(trail)), trail.items.map(garment), h('details', {}, h('summary', { 'data-key': 'raw' }, t('lab_raw')), h('pre', { tabindex: '0' }, JSON.stringify(trail, null, 2))));
}
async function open(id) {
  const key = accessKey();
  Object.assign(state, { id: id.trim(), trail: null, problem: null, photoLost: false, all: new Set() });
  show(null);
  $('id').value = state.id;
  history.replaceState(null, '', state.id ? `lab?id=${encodeURIComponent(state.id)}` : 'lab');
  if (state.id && !state.locked) try {
    const told = await getJson(`api/v1/requests/${encodeURIComponent(state.id)}`);
    state.trail = { ...told.request, ...told, items: [...(told.items ?? [])].sort((a, b) => a.item_index - b.item_index) };
    if (state.trail.photo) fetchPhoto(state.trail);
  } catch (e) { state.problem = e instanceof Problem ? e : new Problem(0); state.locked = locked(e, key); }
  paintTrail();
  paintLatest();
  if (state.trail) $('trail-name').focus(); else if (state.locked) say(t(state.locked)); else if (state.problem) say(state.problem.status === 404 ? t('lab_missing') : state.problem.kind);
}
async function start() {
  state.locked = null;
  await search();
  await open(new URLSearchParams(location.search).get('id') ?? '');
}
$('ask').addEventListener('submit', (e) => { e.preventDefault(); open($('id').value); });
$('search').addEventListener('submit', (e) => { e.preventDefault(); search(); });
$('search').addEventListener('reset', () => setTimeout(search));
$('search').addEventListener('change', search);
$('csv').addEventListener('click', saveCsv);
languageSwitch($('languages'), () => { paintSearch(); paintTrail(); paintLatest(); });
start();
