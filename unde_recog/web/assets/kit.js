// What both pages share: language, numbers, building the document by text (never by markup), and asking the service.
import { LANGUAGES, TERMS_RU, WORDS } from './words.js';

export const HUES = 7; // --hue-0 … --hue-6 in style.css

function recalled(name, otherwise = null, place = () => localStorage) {
  try { return place().getItem(name) ?? otherwise; } catch { return otherwise; } // storage may be forbidden
}
export function recall(name, otherwise) {
  try { return JSON.parse(recalled(`unde.${name}`)) ?? otherwise; } catch { return otherwise; }
}
export function remember(name, value) {
  try { if (value == null) localStorage.removeItem(`unde.${name}`); else localStorage.setItem(`unde.${name}`, JSON.stringify(value)); } catch { /* then not */ }
}

// --- language -------------------------------------------------------------------------------------------------------
const spoken = (navigator.languages ?? [navigator.language]).map((l) => l.slice(0, 2).toLowerCase()).find((l) => l in WORDS);
export let lang = [recall('lang'), spoken, 'en'].find((l) => l in WORDS);

export function t(key, values = {}) {
  let said = WORDS[lang][key] ?? WORDS.en[key];
  if (said === undefined) return key;
  if (typeof said === 'object') said = said[new Intl.PluralRules(lang).select(values.n)] ?? said.other;
  return said.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
export const knows = (key) => key in WORDS.en;

export function translate(root = document) {
  for (const el of root.querySelectorAll('[data-t]')) el.textContent = t(el.dataset.t);
  for (const el of root.querySelectorAll('[data-t-label]')) el.setAttribute('aria-label', t(el.dataset.tLabel));
  for (const el of root.querySelectorAll('[data-t-placeholder]')) el.placeholder = t(el.dataset.tPlaceholder);
}

export function languageSwitch(place, changed) {
  const set = (choice) => { lang = choice; document.documentElement.lang = lang; paint(); translate(); changed(); };
  const paint = () => place.replaceChildren(...Object.entries(LANGUAGES).map(([code, name]) => h('button', {
    type: 'button', class: 'quiet', lang: code, 'aria-pressed': String(code === lang), 'data-key': `lang-${code}`,
    onclick: () => { remember('lang', code); set(code); place.querySelector(`[lang=${code}]`).focus(); },
  }, name)));
  set(lang);
}

// --- numbers, money, time -------------------------------------------------------------------------------------------
export const number = (value, digits = 0) => new Intl.NumberFormat(lang, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
export const listed = (names) => new Intl.ListFormat(lang, { type: 'conjunction' }).format(names);

export function money(price, currency) {
  if (price == null) return '';
  const whole = Number.isInteger(price) ? { maximumFractionDigits: 0 } : { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  try { return new Intl.NumberFormat(lang, { style: 'currency', currency, ...whole }).format(price); } catch { return `${number(price, 2)} ${currency ?? ''}`.trim(); } // a currency that is none
}

export function ago(when, now = Date.now()) {
  const seconds = (now - new Date(when).getTime()) / 1000;
  if (!Number.isFinite(seconds)) return '';
  if (seconds < 90) return t('justNow');
  const [unit, size] = seconds < 3570 ? ['minute', 60] : seconds < 129600 ? ['hour', 3600] : ['day', 86400];
  return new Intl.RelativeTimeFormat(lang, { numeric: 'auto' }).format(-Math.round(seconds / size), unit);
}
export const moment = (when) => new Intl.DateTimeFormat(lang, { dateStyle: 'medium', timeStyle: 'medium' }).format(new Date(when));

// --- names ----------------------------------------------------------------------------------------------------------
export const category = (name) => t(knows(`c_${name}`) ? `c_${name}` : 'c_other');
const BRANDS = { c_a: 'C&A', hm: 'H&M', pull_bear: 'Pull&Bear' }; // as contracts.brand_name has them
export const brandName = (brand) => BRANDS[brand] ?? brand.split('_').map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join(' ');
export const term = (name) => { // a colour, fabric or pattern
  if (!name || lang !== 'ru') return name ?? '';
  const low = name.toLowerCase();
  return TERMS_RU[low] ?? TERMS_RU[low.split(' ').at(-1)] ?? name;
};

// --- the document ---------------------------------------------------------------------------------------------------
function built(el, properties, kids) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value == null || value === false) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'vars') for (const [property, to] of Object.entries(value)) el.style.setProperty(property, to);
    else el.setAttribute(name, value === true ? '' : value);
  }
  el.append(...kids.flat(9).filter((kid) => kid != null && kid !== false && kid !== ''));
  return el;
}
export const h = (tag, properties, ...kids) => built(document.createElement(tag), properties, kids);
export const svg = (tag, properties, ...kids) => built(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, kids);

const ICONS = {
  pin: 'M12 21s-6.5-6-6.5-11a6.5 6.5 0 0 1 13 0c0 5-6.5 11-6.5 11Zm0-8.4a2.6 2.6 0 1 0 0-5.2 2.6 2.6 0 0 0 0 5.2Z', check: 'm5 12.5 4.5 4.5L19 7.5', cross: 'M6.5 6.5l11 11m0-11-11 11', out: 'M9 5H5v14h14v-4M13 4h7v7m0-7-9 9', frame: 'M4 8V4h4m8 0h4v4m0 8v4h-4m-8 0H4v-4',
  hanger: 'M12 9.5V8.3a2 2 0 1 0-2-2M12 9.5l8.6 6.2c.9.7.4 2.1-.7 2.1H4.1c-1.1 0-1.6-1.4-.7-2.1Z', note: 'M12 8v.01M12 11v5M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z', spark: 'M12 4v4m0 8v4m8-8h-4M8 12H4m13.6-5.6-2.8 2.8m-5.6 5.6-2.8 2.8m11.2 0-2.8-2.8M9.2 9.2 6.4 6.4',
};
export const icon = (name) => svg('svg', { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true', focusable: 'false' }, svg('path', { d: ICONS[name] }));

const held = new Map(); // address → promise of an object URL, where a key must be shown for a picture
export function productPicture(brand, id, properties, otherwise, size = 480) {
  const address = `api/v1/photos/${encodeURIComponent(brand)}/${encodeURIComponent(id)}${size === 480 ? '' : `?size=${size}`}`;
  const img = h('img', { loading: 'lazy', decoding: 'async', ...properties });
  const fail = () => img.replaceWith(otherwise());
  img.addEventListener('error', fail);
  if (!accessKey()) { img.src = address; return img; }
  if (!held.has(address)) held.set(address, fetch(address, { headers: headers() }).then((r) => (r.ok ? r.blob() : Promise.reject(new Error(r.status)))).then((b) => URL.createObjectURL(b)));
  held.get(address).then((url) => { img.src = url; }, () => { held.delete(address); fail(); });
  return img;
}

export function repaint(place, ...kids) {
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  place.replaceChildren(...kids.flat(9).filter(Boolean));
  if (key) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

let saying;
export function say(text) { // for screen readers; emptied first, or the same sentence twice would not be read
  const place = document.getElementById('live');
  place.textContent = '';
  clearTimeout(saying);
  saying = setTimeout(() => { place.textContent = text; }, 60);
}

// --- asking the service ---------------------------------------------------------------------------------------------
export function accessKey(value) { // kept until the tab is closed; '' forgets it
  if (value !== undefined) try { if (value) sessionStorage.setItem('unde.key', value); else sessionStorage.removeItem('unde.key'); } catch { /* then for this page only */ }
  accessKey.now = value ?? accessKey.now ?? recalled('unde.key', null, () => sessionStorage);
  return accessKey.now;
}
export function locked(problem, key) { // what a refusal says of the `key` that was shown: null if it is about something else
  if (problem?.status !== 401 && !(problem?.status === 403 && key)) return null;
  if (key && accessKey() === key) accessKey('');
  return problem.status === 403 ? 'e403' : key ? 'keyWrong' : 'e401';
}
export function keyForm(why, given) { // asks for the key; `why` is the word that says what is the matter
  const told = h('p', { class: 'key-why', role: 'alert' }, h('b', {}, t(why)));
  const submit = (e) => {
    e.preventDefault();
    const key = e.target.elements.key.value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) { told.replaceChildren(h('b', {}, t('keyWrong'))); return; } // such a thing cannot even be sent
    accessKey(key);
    given();
  };
  return h('form', { class: 'key-form', onsubmit: submit }, told, h('div', { class: 'row' },
    h('label', { class: 'stack' }, h('span', {}, t('key')), h('input', { type: 'password', name: 'key', required: true, autocomplete: 'off', spellcheck: 'false', 'data-key': 'key' })), h('button', { type: 'submit', class: 'main' }, t('keySend'))), h('small', {}, t('keyNote')));
}
export const headers = (more = {}) => (accessKey() ? { Authorization: `Bearer ${accessKey()}`, ...more } : more);

export class Problem extends Error { // what RFC 9457 says, or what can be made of it
  constructor(status, body = {}, retryAfter = null) {
    super(body.title ?? `HTTP ${status}`);
    Object.assign(this, { status, type: body.type ?? '', detail: body.detail ?? '', requestId: body.request_id ?? null, retryAfter });
  }
  static async of(response) {
    const text = await response.text().catch(() => '');
    let body = {};
    try { body = JSON.parse(text) ?? {}; } catch { body = {}; }
    const wait = Number(response.headers.get('retry-after') ?? NaN);
    return new Problem(response.status, { ...body, detail: typeof body.detail === 'string' ? body.detail : '' }, Number.isFinite(wait) ? wait : null);
  }
  get kind() {
    if (this.status === 403 && !accessKey()) return t('e403none');
    return t(knows(`e${this.status}`) ? `e${this.status}` : this.status >= 500 ? 'e500' : 'failed');
  }
}

export async function getJson(path) {
  const response = await fetch(path, { headers: headers({ Accept: 'application/json' }) });
  if (!response.ok) throw await Problem.of(response);
  return response.json();
}

export async function* serverEvents(response, patience = 30000) { // {event, data} of a text/event-stream body; throws when nothing at all comes for `patience` ms
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '', event = 'message', data = [];
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('silence')), patience); });
      const { done, value } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      rest += decoder.decode(value ?? new Uint8Array(), { stream: !done });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === '') {
          if (data.length) yield { event, data: JSON.parse(data.join('\n')) };
          event = 'message'; data = [];
          continue;
        }
        const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === 'event') event = text;
        else if (field === 'data') data.push(text); // id, retry and comments (heartbeats) only show that the line lives
      }
      if (done) return;
    }
  } finally { reader.cancel().catch(() => {}); }
}
